//! Owns the subcommands that ask a running daemon something, or for something. Must not know where the admin endpoint and its
//! token usually are, which are arguments, nor how answers look.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::client::admin::LeaseFilter;
use crate::client::{AdminClient, ClientError};
use crate::clock::rest;
use crate::wire::admin::{ClaimPage, Done, LeasePage};

use super::asking::{AskError, Options, at, shown};
use super::{status, tables, watch};

/// Leases asked for at once.
const PAGE: usize = 500;

/// How often it is looked whether the daemon has ended.
const AGAIN: Duration = Duration::from_millis(100);

/// What a running daemon is asked.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Show how the daemon is: what it holds, its store, its writer, its sockets.
    Status {
        /// Show it anew every so many seconds, with rates, until Ctrl-C.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
            value_parser = clap::value_parser!(u64).range(1..))]
        watch: Option<u64>,
        #[command(flatten)]
        options: Options,
    },
    /// List leases; --json shows their records, with a dead drop's or chunk's size and digest, never its content.
    Leases {
        /// Only this kind: relay, registration, peer, turn_session, server, claim or chunk.
        #[arg(long)]
        kind: Option<String>,
        /// Only keys that begin so.
        #[arg(long)]
        prefix: Option<String>,
        /// Leases at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        options: Options,
    },
    /// List link's claims: who holds a server-id or is in its grace, and how many phones are attached.
    Claims {
        /// Only server-ids that begin so.
        #[arg(long)]
        prefix: Option<String>,
        /// Claims at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        options: Options,
    },
    /// End what has ended, now, rather than when the sweeper comes to it.
    Sweep {
        #[command(flatten)]
        options: Options,
    },
    /// Tell the log's level, or set it until the daemon ends.
    LogLevel {
        /// As log.level: debug, or "info,waypost::store=debug".
        level: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// List the open sockets.
    Connections {
        #[command(flatten)]
        options: Options,
    },
    /// Close a socket; its client will most likely connect again.
    Close {
        /// Its number, as `connections` shows it.
        socket: u64,
        #[command(flatten)]
        options: Options,
    },
    /// End a lease before its time, with all that it holds.
    End {
        /// Its kind, as `leases` shows it.
        kind: String,
        /// Its key, as `leases` shows it.
        key: String,
        #[command(flatten)]
        options: Options,
    },
    /// Let the daemon answer what is in flight, close all sockets, flush and end, as SIGTERM does; waits for its end.
    Drain {
        #[command(flatten)]
        options: Options,
    },
    /// Whether the daemon takes requests: exit code 0 if so, 1 otherwise; needs no token.
    Healthcheck {
        #[command(flatten)]
        options: Options,
    },
}

impl Command {
    /// Asks the daemon at `url` (such as `http://127.0.0.1:9001`) with the token in `token_file`, unless the options
    /// name others, and prints the answer to stdout.
    pub async fn run(&self, url: &str, token_file: &Path) -> Result<(), AskError> {
        let options = self.options();
        if let Command::Healthcheck { .. } = self {
            return healthcheck(options.admin.as_deref().unwrap_or(url), options).await;
        }
        let (client, url) = options.client(url, token_file).await?;
        let url = url.as_str();
        let text = match self {
            Command::Status { watch: Some(seconds), .. } => {
                return watch::watch(&client, Duration::from_secs(*seconds), options.json).await;
            }
            Command::Status { .. } => {
                shown(options, &client.status().await.map_err(at(url))?, status::status)
            }
            Command::Sweep { .. } => shown(options, &client.sweep().await.map_err(at(url))?, tables::swept),
            Command::Connections { .. } => {
                shown(options, &client.connections().await.map_err(at(url))?, tables::connections)
            }
            Command::LogLevel { level, .. } => {
                let answer = match level {
                    Some(level) => client.set_log_level(level).await,
                    None => client.log_level().await,
                };
                shown(options, &answer.map_err(at(url))?, |answer| format!("{}\n", answer.level))
            }
            Command::Close { socket, .. } => {
                let done = client.close(*socket).await.map_err(at(url))?;
                shown(options, &done, |_| format!("closed socket {socket}\n"))
            }
            Command::End { kind, key, .. } => {
                let done = client.end_lease(kind, key).await.map_err(at(url))?;
                shown(options, &done, |_| format!("ended {kind} {key}\n"))
            }
            Command::Drain { .. } => {
                let done = client.drain().await.map_err(at(url))?;
                while client.live().await.is_ok() {
                    rest(AGAIN).await;
                }
                shown(options, &done, |_| "the daemon has ended\n".to_owned())
            }
            Command::Healthcheck { .. } => unreachable!("answered above"),
            Command::Leases { kind, prefix, limit, .. } => {
                let filter =
                    LeaseFilter { kind: kind.clone(), prefix: prefix.clone(), ..LeaseFilter::default() };
                let page = all_leases(&client, filter, *limit).await.map_err(at(url))?;
                let now = client.status().await.map_err(at(url))?.now;
                shown(options, &page, |page| tables::leases(page, now))
            }
            Command::Claims { prefix, limit, .. } => {
                let page = all_claims(&client, prefix.as_deref(), *limit).await.map_err(at(url))?;
                shown(options, &page, tables::claims)
            }
        };
        Ok(io::stdout().write_all(text.as_bytes())?)
    }

    fn options(&self) -> &Options {
        match self {
            Command::Status { options, .. }
            | Command::Close { options, .. }
            | Command::End { options, .. }
            | Command::Drain { options }
            | Command::Healthcheck { options }
            | Command::Leases { options, .. }
            | Command::Claims { options, .. }
            | Command::LogLevel { options, .. }
            | Command::Sweep { options }
            | Command::Connections { options } => options,
        }
    }
}

/// Says whether the daemon takes requests.
async fn healthcheck(url: &str, options: &Options) -> Result<(), AskError> {
    let client = AdminClient::new(url, "").map_err(at(url))?;
    if !client.ready().await.map_err(at(url))? {
        return Err(AskError::NotReady(url.to_owned()));
    }
    let text = shown(options, &Done { done: true }, |_| "ready\n".to_owned());
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// As many pages as `limit` takes, as one.
async fn all_leases(
    client: &AdminClient,
    mut filter: LeaseFilter,
    limit: usize,
) -> Result<LeasePage, ClientError> {
    let mut all = LeasePage { leases: Vec::new(), cursor: None };
    while all.leases.len() < limit {
        filter.limit = Some((limit - all.leases.len()).min(PAGE));
        let page = client.leases(&filter).await?;
        all.leases.extend(page.leases);
        all.cursor.clone_from(&page.cursor);
        filter.cursor = page.cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

async fn all_claims(
    client: &AdminClient,
    prefix: Option<&str>,
    limit: usize,
) -> Result<ClaimPage, ClientError> {
    let mut all = ClaimPage { claims: Vec::new(), cursor: None };
    while all.claims.len() < limit {
        let most = (limit - all.claims.len()).min(PAGE);
        let page = client.claims(prefix, all.cursor.as_deref(), Some(most)).await?;
        all.claims.extend(page.claims);
        all.cursor = page.cursor;
        if all.cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_no_daemon() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{closed}");
        let options = Options { admin: None, token_file: None, json: false };
        let failed = Command::Status { watch: None, options }.run(&url, Path::new("/nowhere")).await;
        assert_eq!(failed.unwrap_err().to_string(), format!("no daemon answers at {url}"));
    }
}
