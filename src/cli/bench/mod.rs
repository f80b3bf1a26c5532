//! Owns `waypost bench`: a closed-loop load generator for any server that speaks the signalling dialect. Its parts are
//! the requests (`scenarios`), the driving and measuring (`load`), the server's process (`process`) and what is
//! printed (`report`). Must not know the daemon but over the wire.

mod load;
pub mod process;
mod report;
mod scenarios;

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::client::{AdminClient, ClientError, with_causes};
pub use scenarios::Scenario;

/// Load a server and measure it. Each socket sends its next request when an answer has come, from an address of its
/// own 40 sockets at a time when the server is on this machine. Set limits.messages_per_minute = 0 on the server;
/// points that were registered stay there until their TTL.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct Bench {
    /// Where the server's sockets are.
    #[arg(long, default_value = "ws://127.0.0.1:9000/ws")]
    url: String,
    /// What to measure, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ping", "rendezvous"])]
    scenario: Vec<Scenario>,
    /// Sockets, each with a peer id of its own.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    sockets: usize,
    /// Seconds measured for each scenario.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Requests under way per socket.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    in_flight: u8,
    /// Different registrations per socket, made before the warm-up; from then on each replaces its former self.
    #[arg(long, default_value_t = 40, value_parser = at_least_one)]
    ring: usize,
    /// Bytes of a dead drop.
    #[arg(long, default_value_t = 256)]
    payload_bytes: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
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

/// Why a bench came to no result. The text holds the cause, too.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server limits messages per socket.
    #[error("the server limits messages per socket; for a bench, set limits.messages_per_minute = 0 there")]
    RateLimited,
    /// A peer may not hold as many points or tokens as the ring has.
    #[error(
        "the server refuses more points or tokens for one peer; raise rendezvous.max_points_per_peer and \
         rendezvous.max_tokens_per_peer there, or give a smaller --ring"
    )]
    Quota,
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
            _ => BenchError::Client { doing, source },
        }
    }
}

/// Runs the scenarios and prints their results; until then only progress, on a terminal's stderr.
pub async fn run(bench: Bench) -> Result<(), BenchError> {
    let admin = match (&bench.admin, &bench.token_file) {
        (Some(url), Some(path)) => {
            let what = || format!("cannot read the admin token {}", path.display());
            let token =
                std::fs::read_to_string(path).map_err(|source| BenchError::File { what: what(), source })?;
            Some(
                AdminClient::new(url, token)
                    .map_err(|source| BenchError::of("asking the admin endpoint", source))?,
            )
        }
        _ => None,
    };
    let measured = load::run(&bench, admin.as_ref()).await?;
    let text = if bench.json { report::json(&bench, &measured) } else { report::text(&bench, &measured) };
    let what = || "cannot print the result".to_owned();
    io::stdout().write_all(text.as_bytes()).map_err(|source| BenchError::File { what: what(), source })
}
