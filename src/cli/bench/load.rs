//! Owns the driving: it connects the sockets, keeps their requests under way, and counts those that are answered
//! between the end of the warm-up and the end of the measurement. Must not know what is asked, or how it is shown.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: it measures real time")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::process::{cpu_micros, resident_bytes};
use super::scenarios::{Peer, tokens};
use super::{Bench, BenchError, Scenario};
use crate::client::{AdminClient, ClientBuilder};
use crate::wire::admin::Status;

/// Sockets per source address: the daemon's limit is 50.
const SOCKETS_PER_ADDRESS: usize = 40;
/// Latencies are counted up to a minute, in microseconds, with 3 digits.
const LONGEST_MICROS: u64 = 60_000_000;
const DIGITS: u8 = 3;

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// What one scenario came to.
pub struct Measured {
    pub scenario: Scenario,
    pub seconds: f64,
    /// Microseconds from a request to its answer.
    pub latency: Histogram<u64>,
    /// CPU time of the bench itself, in microseconds.
    pub own_cpu: u64,
    pub server: Option<ServerProcess>,
    /// The daemon's counters before and after.
    pub daemon: Option<(Status, Status)>,
}

/// The server's process over the time measured.
pub struct ServerProcess {
    /// In microseconds.
    pub cpu: u64,
    /// Resident bytes at the end.
    pub resident: u64,
}

/// Connects all sockets, one after the other, and runs each scenario on them.
pub async fn run(bench: &Bench, admin: Option<&AdminClient>) -> Result<Vec<Measured>, BenchError> {
    let progress = ProgressBar::no_length();
    let peers = connect(bench, &progress).await?;
    let mut all = Vec::new();
    for scenario in &bench.scenario {
        all.push(measure(bench, *scenario, &peers, admin, &progress).await?);
    }
    progress.finish_and_clear();
    let mut closing = JoinSet::new();
    for peer in peers.into_iter().filter_map(Arc::into_inner) {
        closing.spawn(peer.close());
    }
    closing.join_all().await;
    Ok(all)
}

async fn connect(bench: &Bench, progress: &ProgressBar) -> Result<Vec<Arc<Peer>>, BenchError> {
    start(progress, "connecting", bench.sockets as u64);
    let run = &tokens(1)[0][..8];
    let mut shared = Vec::new();
    let mut peers = Vec::with_capacity(bench.sockets);
    for number in 0..bench.sockets {
        if number % 2 == 0 {
            shared = tokens(bench.ring);
        }
        let mut socket = ClientBuilder::new(&bench.url).reconnect(false);
        if is_loopback(&bench.url) {
            socket = socket.local_address(source(number));
        }
        peers.push(Arc::new(Peer::connect(bench, socket, format!("bench-{run}-{number}"), &shared).await?));
        progress.inc(1);
    }
    Ok(peers)
}

async fn measure(
    bench: &Bench,
    scenario: Scenario,
    peers: &[Arc<Peer>],
    admin: Option<&AdminClient>,
    progress: &ProgressBar,
) -> Result<Measured, BenchError> {
    start(progress, scenario.name(), bench.warmup + bench.seconds);
    let mut preparing = JoinSet::new();
    for peer in peers {
        let peer = Arc::clone(peer);
        preparing.spawn(async move { peer.prepare(scenario).await });
    }
    while let Some(prepared) = preparing.join_next().await {
        prepared
            .map_err(|error| panicked(&error))?
            .map_err(|error| BenchError::of(scenario.name(), error))?;
    }

    let phase = Arc::new(AtomicU8::new(WARMING));
    let mut workers = JoinSet::new();
    let mut histograms = Vec::with_capacity(peers.len());
    for peer in peers {
        let latency = Arc::new(Mutex::new(new_histogram()));
        for _ in 0..bench.in_flight {
            workers.spawn(work(Arc::clone(peer), scenario, Arc::clone(&phase), Arc::clone(&latency)));
        }
        histograms.push(latency);
    }

    wait(bench.warmup, &mut workers, progress).await?;
    let before = status(admin).await?;
    let own_before = cpu(std::process::id())?;
    let server_before = bench.pid.map(cpu).transpose()?;
    let began = Instant::now();
    phase.store(MEASURING, Ordering::Relaxed);
    wait(bench.seconds, &mut workers, progress).await?;
    phase.store(OVER, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let own_cpu = cpu(std::process::id())? - own_before;
    let server = match (bench.pid, server_before) {
        (Some(pid), Some(before)) => {
            let resident = resident_bytes(pid).map_err(|source| unreadable(pid, source))?;
            Some(ServerProcess { cpu: cpu(pid)? - before, resident })
        }
        _ => None,
    };
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| panicked(&error))??;
    }
    let daemon = before.zip(status(admin).await?);

    let mut latency = new_histogram();
    for histogram in &histograms {
        let part = histogram.lock().unwrap_or_else(PoisonError::into_inner);
        latency.add(&*part).expect("all histograms have the same bounds");
    }
    Ok(Measured { scenario, seconds, latency, own_cpu, server, daemon })
}

/// One request after the other until it is over.
async fn work(
    peer: Arc<Peer>,
    scenario: Scenario,
    phase: Arc<AtomicU8>,
    latency: Arc<Mutex<Histogram<u64>>>,
) -> Result<(), BenchError> {
    while phase.load(Ordering::Relaxed) != OVER {
        let asked = Instant::now();
        peer.ask(scenario).await.map_err(|error| BenchError::of(scenario.name(), error))?;
        if phase.load(Ordering::Relaxed) == MEASURING {
            let micros = asked.elapsed().as_micros() as u64;
            latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        }
    }
    Ok(())
}

/// Lets time pass; the first worker that fails ends it.
async fn wait(
    seconds: u64,
    workers: &mut JoinSet<Result<(), BenchError>>,
    progress: &ProgressBar,
) -> Result<(), BenchError> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    for _ in 0..seconds {
        tokio::select! {
            _ = ticks.tick() => progress.inc(1),
            Some(ended) = workers.join_next() => ended.map_err(|error| panicked(&error))??,
        }
    }
    Ok(())
}

fn panicked(error: &tokio::task::JoinError) -> BenchError {
    BenchError::File {
        what: "a part of the bench broke".to_owned(),
        source: std::io::Error::other(error.to_string()),
    }
}

async fn status(admin: Option<&AdminClient>) -> Result<Option<Status>, BenchError> {
    let Some(admin) = admin else { return Ok(None) };
    let status = admin.status().await;
    status.map(Some).map_err(|error| BenchError::of("asking the admin endpoint", error))
}

fn cpu(pid: u32) -> Result<u64, BenchError> {
    cpu_micros(pid).map_err(|source| unreadable(pid, source))
}

fn unreadable(pid: u32, source: std::io::Error) -> BenchError {
    BenchError::File { what: format!("cannot look at process {pid}"), source }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)
        .expect("the bounds are constants that fit each other")
}

fn start(progress: &ProgressBar, what: &'static str, length: u64) {
    let style = ProgressStyle::with_template("{msg:>10} {bar:40} {pos}/{len}");
    progress.set_style(style.expect("the template is a constant"));
    progress.set_length(length);
    progress.set_position(0);
    progress.set_message(what);
}

fn is_loopback(url: &str) -> bool {
    let rest = url.strip_prefix("ws://").unwrap_or(url);
    rest.starts_with("127.") || rest.starts_with("localhost")
}

/// The loopback address of the socket with this number: 127.0.0.1 and on.
fn source(number: usize) -> IpAddr {
    let address = u32::from(Ipv4Addr::LOCALHOST) + (number / SOCKETS_PER_ADDRESS) as u32;
    IpAddr::V4(address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_spread_over_addresses() {
        assert_eq!(source(0), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(source(39), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(source(40), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(source(40 * 256), IpAddr::from([127, 0, 1, 1]));
    }
}
