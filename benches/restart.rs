//! What a restart costs: how long opening and folding a full store takes, and how much memory a point takes.
//!
//! Owns a store that it fills, and two child processes that open it: one reads it all and keeps nothing, which is what
//! sled takes; one starts the engine. Run it with `cargo bench --bench restart`; `-- --help` tells the options. The
//! store is made in the temporary directory (`TMPDIR`), and is still in the page cache when it is opened.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use waypost::clock::Clock;
use waypost::daemon::STORE;
use waypost::engine::{Engine, Options};
use waypost::id::PeerId;
use waypost::limits::Limits;
use waypost::logging::Blur;
use waypost::metrics::Metrics;
use waypost::store::{Faults, Store};
use waypost::wire::signalling::{Point, RegisterRendezvous, ServerMessage};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Registrations under way at once while the store is filled.
const IN_FLIGHT: usize = 4096;
const POINTS_EACH: usize = 3;
/// In that time the allocator gives back what is free: ten seconds by its settings, and some.
const SETTLING: Duration = Duration::from_secs(15);

/// Measure what a restart costs.
#[derive(Parser)]
struct Arguments {
    /// Points, 3 to a registration with 1 token and a dead drop of 256 bytes; each registration has a peer of its own.
    #[arg(long, default_value_t = 1_000_000)]
    points: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// For a child: what to do with the store of --data.
    #[arg(long, hide = true, requires = "data")]
    child: Option<Child>,
    #[arg(long, hide = true)]
    data: Option<PathBuf>,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Child {
    /// Open the store, read every row and keep nothing.
    Read,
    /// Start the engine.
    Start,
}

/// What a child measured.
#[derive(Serialize, Deserialize)]
struct Opened {
    registrations: usize,
    seconds: f64,
    resident_before: u64,
    /// Just then, and when the allocator has given back what the start needed no longer.
    resident_after: u64,
    resident_later: u64,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let (Some(child), Some(data)) = (arguments.child, &arguments.data) {
        let opened = runtime.block_on(open(child, data));
        println!("{}", serde_json::to_string(&opened).expect("numbers"));
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = folder.path();
    let registrations = arguments.points.div_ceil(POINTS_EACH);
    let load_seconds = runtime.block_on(fill(data, registrations));
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        points: registrations * POINTS_EACH,
        registrations,
        load_seconds,
        bytes_on_disk: size_of(&data.join(STORE)),
        read: in_child("read", data),
        start: in_child("start", data),
    };
    assert_eq!((report.read.registrations, report.start.registrations), (registrations, registrations));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
    } else {
        report.print();
    }
}

fn engine(data: &Path) -> Engine {
    let started = Engine::start(Options {
        store: data.join(STORE),
        limits: Limits::default(),
        clock: Clock::system(),
        metrics: Arc::new(Metrics::default()),
        rng: StdRng::seed_from_u64(7),
        faults: Faults::default(),
        server_id: "bench".to_owned(),
        blur: Blur::new(false),
    });
    started.expect("the engine starts")
}

/// Fills the store and tells how many seconds that took, the orderly stop included.
async fn fill(data: &Path, registrations: usize) -> f64 {
    let clock = Clock::system();
    let engine = engine(data);
    let mut rng = StdRng::seed_from_u64(7);
    let mut name = move || format!("{:032x}", rng.random::<u128>());
    let requests = (0..registrations).map(|_| {
        let point = |name| Point { name, payload: Some(0) };
        let request = RegisterRendezvous {
            peer_id: PeerId::parse(&name()).expect("a peer id"),
            relay_id: String::new(),
            points: std::iter::repeat_with(&mut name).take(POINTS_EACH).map(point).collect(),
            tokens: vec![name()],
            payloads: vec![name().repeat(8)],
            resume_token: None,
        };
        let (engine, peer) = (engine.clone(), engine.join(IpAddr::from(Ipv4Addr::LOCALHOST)));
        async move { (engine.register_rendezvous(peer.outbox.socket, request).await, peer) }
    });
    let mut answers = futures_util::stream::iter(requests).buffer_unordered(IN_FLIGHT);
    let mut peers = Vec::with_capacity(registrations);
    while let Some((answer, peer)) = answers.next().await {
        assert!(matches!(answer, ServerMessage::RendezvousResult { .. }), "{answer:?}");
        // Still here when the engine stops: a peer that leaves would take its token along.
        peers.push(peer);
    }
    engine.drain().await;
    engine.stop().await;
    clock.running().as_secs_f64()
}

/// Bytes of the files in a folder.
fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("the store's folder");
    files.map(|file| file.and_then(|file| file.metadata()).map_or(0, |meta| meta.len())).sum()
}

/// Runs this program again, so that memory is measured in a process that has done nothing else.
fn in_child(what: &str, data: &Path) -> Opened {
    let mut child = Command::new(std::env::current_exe().expect("this program's path"));
    child.args(["--child", what, "--data"]).arg(data).stderr(Stdio::inherit());
    let output = child.output().expect("the child runs");
    assert!(output.status.success(), "the child failed");
    serde_json::from_slice(&output.stdout).expect("the child tells its numbers")
}

async fn open(child: Child, data: &Path) -> Opened {
    let resident_before = resident_bytes();
    let clock = Clock::system();
    let mut registrations = 0;
    let (seconds, resident_after, resident_later);
    match child {
        Child::Read => {
            let store = Store::open(&data.join(STORE), Faults::default()).expect("the store opens");
            store.fold(|_| registrations += 1).expect("the store is read");
            (seconds, resident_after) = (clock.running(), resident_bytes());
            clock.sleep(SETTLING).await;
            resident_later = resident_bytes();
        }
        Child::Start => {
            let engine = engine(data);
            (seconds, resident_after) = (clock.running(), resident_bytes());
            clock.sleep(SETTLING).await;
            resident_later = resident_bytes();
            registrations = engine.status(0).await.expect("the engine answers").leases.registration;
            engine.stop().await;
        }
    }
    Opened {
        registrations,
        seconds: Duration::as_secs_f64(&seconds),
        resident_before,
        resident_after,
        resident_later,
    }
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    points: usize,
    registrations: usize,
    load_seconds: f64,
    bytes_on_disk: u64,
    read: Opened,
    start: Opened,
}

impl Report {
    fn print(&self) {
        let mebibytes = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        println!(
            "{} points in {} registrations of {POINTS_EACH} points, 1 token and a dead drop of 256 bytes\n\
             filled in {:.1} s: {:.0} registrations/s\n\
             on disk {}: {:.0} bytes per point\n",
            self.points,
            self.registrations,
            self.load_seconds,
            self.registrations as f64 / self.load_seconds,
            mebibytes(self.bytes_on_disk),
            self.bytes_on_disk as f64 / self.points as f64,
        );
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "seconds", "registrations/s", "resident", "later", "of that new", "per point"]);
        for (name, opened) in [("store alone", &self.read), ("engine, ready", &self.start)] {
            let new = opened.resident_later.saturating_sub(opened.resident_before);
            table.add_row([
                name.to_owned(),
                format!("{:.2}", opened.seconds),
                format!("{:.0}", opened.registrations as f64 / opened.seconds),
                mebibytes(opened.resident_after),
                mebibytes(opened.resident_later),
                mebibytes(new),
                format!("{:.0} B", new as f64 / self.points as f64),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{}", table.trim_fmt());
    }
}
