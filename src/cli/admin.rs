//! Owns the subcommands that ask a running daemon something, or for something. Must not know where the admin endpoint and its
//! token usually are, which are arguments, nor how answers look.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::client::admin::LeaseFilter;
use crate::client::{AdminClient, ClientError, causes, with_causes};
use crate::clock::rest;
use crate::wire::admin::{ClaimPage, Done, LeasePage};

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

/// How a daemon is asked and how its answer is shown.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The daemon's admin endpoint, http://ADDRESS:PORT or unix:PATH [server.admin_listen].
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// File with the admin token [admin.token in server.data_dir].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

impl Options {
    /// The client for these, and the address that it asks; what they do not name is given.
    pub(super) async fn client(
        &self,
        url: &str,
        token_file: &Path,
    ) -> Result<(AdminClient, String), AskError> {
        let url = self.admin.as_deref().unwrap_or(url);
        let token_file = self.token_file.as_deref().unwrap_or(token_file);
        let token = std::fs::read_to_string(token_file)
            .map_err(|source| AskError::Token { path: token_file.to_owned(), source });
        // Without a daemon there may be no token either, and that there is none is the better thing to say.
        let client = AdminClient::new(url, token.as_deref().unwrap_or_default()).map_err(at(url))?;
        if token.is_err() {
            client.live().await.map_err(at(url))?;
        }
        token?;
        Ok((client, url.to_owned()))
    }
}

/// Why there is nothing to show. The text holds the cause, too.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no daemon answers at {0}")]
    NoDaemon(String),
    #[error("the daemon at {0} takes no writes: its storage is unavailable")]
    NotReady(String),
    #[error("cannot read the admin token {}: {source}; give it with --token-file", path.display())]
    Token { path: PathBuf, source: io::Error },
    /// The daemon said no, or something else than JSON of its kind.
    #[error("{url}: {}", with_causes(source))]
    Client { url: String, source: ClientError },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
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

pub(super) fn at(url: &str) -> impl Fn(ClientError) -> AskError {
    move |error| match error {
        ClientError::Unreachable(cause) if is_refused(&*cause) => AskError::NoDaemon(url.to_owned()),
        source => AskError::Client { url: url.to_owned(), source },
    }
}

/// Whether nobody listened, or there was no such socket. What cannot be reached for another reason is told with that reason.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
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

fn shown<T: Serialize>(options: &Options, answer: &T, text: impl Fn(&T) -> String) -> String {
    if options.json {
        serde_json::to_string_pretty(answer).expect("it came as JSON") + "\n"
    } else {
        text(answer)
    }
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
