//! Owns the subcommands that ask a running daemon: `status`, `leases`, `claims`, `sweep`, `connections`; tables for
//! people, JSON for programs. Must not know where the admin endpoint and its token usually are: both are arguments.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::client::admin::LeaseFilter;
use crate::client::{AdminClient, ClientError, causes, with_causes};
use crate::wire::admin::{ClaimPage, Connections, Lease, LeasePage, Swept};

/// Leases asked for at once.
const PAGE: usize = 500;

/// What a running daemon is asked.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Show how the daemon is: what it holds, its store, its writer, its sockets.
    Status {
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
    /// List the open sockets.
    Connections {
        #[command(flatten)]
        options: Options,
    },
}

/// How a daemon is asked and how its answer is shown.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The daemon's admin endpoint [http:// and server.admin_listen].
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
        let (client, url) = options.client(url, token_file).await?;
        let url = url.as_str();
        let text = match self {
            Command::Status { .. } => {
                shown(options, &client.status().await.map_err(at(url))?, super::status::status)
            }
            Command::Sweep { .. } => shown(options, &client.sweep().await.map_err(at(url))?, swept),
            Command::Connections { .. } => {
                shown(options, &client.connections().await.map_err(at(url))?, connections)
            }
            Command::Leases { kind, prefix, limit, .. } => {
                let filter =
                    LeaseFilter { kind: kind.clone(), prefix: prefix.clone(), ..LeaseFilter::default() };
                let page = all_leases(&client, filter, *limit).await.map_err(at(url))?;
                let now = client.status().await.map_err(at(url))?.now;
                shown(options, &page, |page| leases(page, now))
            }
            Command::Claims { prefix, limit, .. } => {
                let page = all_claims(&client, prefix.as_deref(), *limit).await.map_err(at(url))?;
                shown(options, &page, claims)
            }
        };
        Ok(io::stdout().write_all(text.as_bytes())?)
    }

    fn options(&self) -> &Options {
        match self {
            Command::Status { options }
            | Command::Leases { options, .. }
            | Command::Claims { options, .. }
            | Command::Sweep { options }
            | Command::Connections { options } => options,
        }
    }
}

pub(super) fn at(url: &str) -> impl Fn(ClientError) -> AskError {
    move |error| match error {
        ClientError::Unreachable(cause) if is_refused(&*cause) => AskError::NoDaemon(url.to_owned()),
        source => AskError::Client { url: url.to_owned(), source },
    }
}

/// Whether nobody listened. What cannot be reached for another reason is told with that reason.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
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

fn swept(swept: &Swept) -> String {
    let Swept { relay, registration, peer, turn_session, server, claim, chunk } = swept;
    format!(
        "swept {relay} relays, {registration} registrations, {peer} peers, {turn_session} TURN sessions, \
         {server} servers, {claim} claims and {chunk} chunks\n"
    )
}

fn connections(connections: &Connections) -> String {
    if connections.connections.is_empty() {
        return "no sockets\n".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["socket", "address", "role", "id", "age", "unsent"]);
    table.add_rows(connections.connections.iter().map(|connection| {
        [
            connection.socket.to_string(),
            connection.address.clone(),
            connection.role.clone(),
            connection.id.clone().unwrap_or_else(|| "–".to_owned()),
            duration(connection.age_seconds),
            size(connection.unsent_bytes as u64),
        ]
    }));
    right(&mut table, &[0, 4, 5]);
    table.trim_fmt() + "\n"
}

fn leases(page: &LeasePage, now: u64) -> String {
    if page.leases.is_empty() {
        return "no leases\n".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["kind", "key", "peer", "ends in", "holds"]);
    table.add_rows(page.leases.iter().map(|lease| {
        let Lease { kind, key, peer_id, ends, record, .. } = lease;
        let ends = ends.map_or("with its holder".to_owned(), |end| until(end, now));
        [kind.clone(), key.clone(), peer_id.clone(), ends, summary(record)]
    }));
    right(&mut table, &[3]);
    let more = if page.cursor.is_some() { "there are more: raise --limit\n" } else { "" };
    format!("{}\n{more}", table.trim_fmt())
}

fn claims(page: &ClaimPage) -> String {
    if page.claims.is_empty() {
        return "no claims\n".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["server-id", "state", "generation", "left", "phones", "waiting"]);
    table.add_rows(page.claims.iter().map(|claim| {
        let left = claim.left_ms.map_or("–".to_owned(), |left| duration(left.div_ceil(1000)));
        let (generation, phones) = (claim.generation.to_string(), claim.phones.to_string());
        let waiting = size(claim.waiting_bytes as u64);
        [claim.server_id.clone(), claim.state.clone(), generation, left, phones, waiting]
    }));
    right(&mut table, &[2, 3, 4, 5]);
    let more = if page.cursor.is_some() { "there are more: raise --limit\n" } else { "" };
    format!("{}\n{more}", table.trim_fmt())
}

/// A record's fields in one line: lists by their length; what is empty, and when and in which run things were, left out.
fn summary(record: &Value) -> String {
    let Value::Object(fields) = record else { return record.to_string() };
    let fields = fields.iter().filter_map(|(name, value)| match value {
        _ if name == "boot" || name.ends_with("At") || name.ends_with("End") => None,
        Value::Null => None,
        Value::Array(list) => (!list.is_empty()).then(|| format!("{name}[{}]", list.len())),
        Value::Object(map) => (!map.is_empty()).then(|| format!("{name}[{}]", map.len())),
        Value::String(text) => (!text.is_empty()).then(|| format!("{name}={text}")),
        Value::Number(number) => Some(format!("{name}={}", number.as_f64().unwrap_or_default())),
        Value::Bool(yes) => Some(format!("{name}={yes}")),
    });
    fields.collect::<Vec<_>>().join(" ")
}

pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for number in columns {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

pub(super) fn until(end: u64, now: u64) -> String {
    if end <= now { "ended".to_owned() } else { duration((end - now).div_ceil(1000)) }
}

/// The two largest units of a time in seconds; hours go on counting past a day.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

pub(super) fn size(bytes: u64) -> String {
    let bytes_in = |unit: u32| bytes as f64 / f64::from(1_u32 << unit);
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes_in(10)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes_in(20)),
        _ => format!("{:.1} GiB", bytes_in(30)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(725), "12m 5s");
        assert_eq!(duration(48 * 3600 - 30), "47h 59m");
        assert_eq!((until(5_001, 5_000), until(5_000, 5_000)), ("1s".to_owned(), "ended".to_owned()));
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }

    #[test]
    fn records_are_told_in_a_line() {
        let record = json!({"boot": 1, "points": ["a", "b"], "pointsEnd": 9, "tokens": [], "relayId": "",
            "connectedCount": 3.0, "publicKey": null});
        assert_eq!(summary(&record), "connectedCount=3 points[2]");
    }

    #[tokio::test]
    async fn a_refused_connection_is_no_daemon() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{closed}");
        let options = Options { admin: None, token_file: None, json: false };
        let failed = Command::Status { options }.run(&url, Path::new("/nowhere")).await;
        assert_eq!(failed.unwrap_err().to_string(), format!("no daemon answers at {url}"));
    }
}
