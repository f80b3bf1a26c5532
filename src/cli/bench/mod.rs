//! Owns `waypost bench`: a load generator for any server that speaks the dialects. Its parts are the requests
//! (`scenarios`), the connections (`connect`, `socket`, `http`), when a request is due (`pace`), what asks (`lanes`), the
//! driving and measuring (`load`), the server's process (`process`), an earlier run (`compare`) and what is printed
//! (`report`). Must not know the daemon but over the wire.

mod compare;
mod connect;
mod http;
mod lanes;
mod load;
mod pace;
pub mod process;
mod report;
mod scenarios;
mod socket;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Serialize, Serializer};
use url::Url;

use super::{Exit, block_on};
use crate::client::{AdminClient, ClientError, with_causes};
use compare::Earlier;
pub use scenarios::Scenario;

/// Load a server and measure it. A socket sends its next request when an answer has come, or with --rate when its time has
/// come. When the server is on this machine, each 40 sockets have a loopback address of their own. Set
/// limits.messages_per_minute = 0 on the server, and for bootstrap limits.http_requests_per_minute = 0; points that were
/// registered stay there until their TTL.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct Bench {
    /// Where the server's sockets are; its other paths are at the same address.
    #[arg(long, default_value = "ws://127.0.0.1:9000/ws", value_parser = websocket_url)]
    #[serde(serialize_with = "as_text")]
    url: Url,
    /// What to measure, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ping", "rendezvous"])]
    scenario: Vec<Scenario>,
    /// Sockets, each with a peer id of its own; of link the phones, of bootstrap the connections.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    sockets: usize,
    /// Further registered sockets that are held and ask nothing, so that there are more relays than sockets that measure.
    #[arg(long, default_value_t = 0)]
    hold: usize,
    /// Seconds measured for each scenario; of idle, seconds for which the sockets are held.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Requests under way per socket; always 1 in bootstrap and meet.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    in_flight: u8,
    /// Requests a second over all sockets, evenly spaced whatever the server does; a latency counts from the time when its
    /// request was due. Without it, a request follows an answer.
    #[arg(long, value_name = "REQUESTS_PER_SECOND", value_parser = positive, conflicts_with = "in_flight")]
    rate: Option<f64>,
    /// New connections a second; 0 = as many as the server takes, 64 at once.
    #[arg(long, default_value_t = 0, value_name = "CONNECTIONS_PER_SECOND")]
    ramp: u32,
    /// Different registrations per socket, made before the warm-up; from then on each replaces its former self.
    #[arg(long, default_value_t = 40, value_parser = at_least_one)]
    ring: usize,
    /// Bytes of a dead drop, and of a frame of link.
    #[arg(long, default_value_t = 256)]
    payload_bytes: usize,
    /// Threads of the bench itself. One costs the least, and the server the most of what it could do.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    threads: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// What an earlier run printed with --json: ratios to it stand beside the figures.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    compare: Option<PathBuf>,
    /// The daemon's admin endpoint, to tell what a request costs in its store and its writer.
    #[arg(long, value_name = "URL", requires = "token_file")]
    admin: Option<String>,
    /// File with the admin token.
    #[arg(long, value_name = "FILE", requires = "admin")]
    #[serde(skip)]
    token_file: Option<PathBuf>,
    /// The server's process on this machine, to tell its CPU time per request and its memory.
    #[arg(long)]
    pid: Option<u32>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a whole number from 1".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn websocket_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "ws" && url.has_host());
    url.ok_or_else(|| "expected an address such as ws://127.0.0.1:9000/ws".to_owned())
}

fn as_text<S: Serializer>(url: &Url, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(url.as_str())
}

impl Bench {
    /// What is wrong with the arguments together.
    fn refused(&self) -> Option<String> {
        if self.scenario.contains(&Scenario::Meet) && self.sockets < 2 {
            return Some("meet needs two --sockets".to_owned());
        }
        if self.rate.is_some() && self.scenario == [Scenario::Idle] {
            return Some("--rate has no effect on idle, which asks nothing; see --ramp".to_owned());
        }
        None
    }

    fn most_descriptors(&self) -> usize {
        self.hold + self.sockets + self.sockets.div_ceil(connect::PHONES)
    }
}

/// Why a bench came to no result. The text holds the cause, too.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server limits messages per socket, or requests per address.
    #[error(
        "the server limits requests; for a bench, set limits.messages_per_minute = 0 there, and for bootstrap \
         limits.http_requests_per_minute = 0"
    )]
    RateLimited,
    /// A peer may not hold as many points or tokens as the ring has.
    #[error(
        "the server refuses more points or tokens for one peer; raise rendezvous.max_points_per_peer and \
         rendezvous.max_tokens_per_peer there, or give a smaller --ring; meet needs a new token each time"
    )]
    Quota,
    /// The server takes no more sockets, or no more from one address.
    #[error(
        "the server refuses connections with status {0}; raise limits.max_connections there, for many sockets from one \
         address limits.max_connections_per_address and limits.upgrades_per_minute, for link limits.link_upgrade_burst"
    )]
    Full(String),
    /// This process may not open as many sockets.
    #[error("this process may open {most} files only; raise the limit (ulimit -Hn), or give fewer --sockets")]
    Descriptors { most: u64 },
    /// A request or a connection failed.
    #[error("{doing}: {}", with_causes(source))]
    Client { doing: &'static str, source: ClientError },
    /// A file could not be read, or the result could not be printed.
    #[error("{what}: {source}")]
    File { what: String, source: io::Error },
}

impl BenchError {
    fn of(doing: &'static str, source: ClientError) -> BenchError {
        match &source {
            // Servers of the dialect that send no code word it like this.
            ClientError::Refused { code, message }
                if code == "rate_limited" || message.starts_with("Rate limit exceeded") =>
            {
                BenchError::RateLimited
            }
            ClientError::Refused { code, .. } if code == "peer_quota" => BenchError::Quota,
            // The status of a refused upgrade.
            ClientError::Refused { code, .. } if code == "429" || code == "503" => {
                BenchError::Full(code.clone())
            }
            _ => BenchError::Client { doing, source },
        }
    }
}

/// Runs the scenarios and prints their results; until then only progress, on a terminal's stderr.
pub fn main(bench: Bench) -> Result<ExitCode, Exit> {
    if let Some(why) = bench.refused() {
        eprintln!("{why}");
        return Err(Exit::Usage);
    }
    let mut runtime = match bench.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if bench.threads > 1 {
        runtime.worker_threads(bench.threads);
    }
    block_on(runtime, run(&bench))
}

async fn run(bench: &Bench) -> Result<(), BenchError> {
    let admin = match (&bench.admin, &bench.token_file) {
        (Some(url), Some(path)) => {
            let token = read("the admin token", path)?;
            let client = AdminClient::new(url, token);
            Some(client.map_err(|source| BenchError::of("asking the admin endpoint", source))?)
        }
        _ => None,
    };
    let earlier = bench.compare.as_deref().map(|path| {
        let invalid =
            |source| BenchError::File { what: format!("no earlier run in {}", path.display()), source };
        Earlier::parse(&read("the earlier run", path)?).map_err(|error| invalid(error.into()))
    });
    let earlier = earlier.transpose()?;
    connect::raise_descriptor_limit(bench.most_descriptors())
        .map_err(|most| BenchError::Descriptors { most })?;
    let measured = load::Run::new(bench, admin.as_ref()).all().await?;
    let report = report::Report::new(bench, &measured, earlier.as_ref());
    let text = if bench.json { report.json() } else { report.text() };
    let what = || "cannot print the result".to_owned();
    io::stdout().write_all(text.as_bytes()).map_err(|source| BenchError::File { what: what(), source })
}

fn read(what: &str, path: &Path) -> Result<String, BenchError> {
    std::fs::read_to_string(path)
        .map_err(|source| BenchError::File { what: format!("cannot read {what} {}", path.display()), source })
}
