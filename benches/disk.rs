//! What the store takes on the disk while registrations come and go: the size of its file over time, what a start costs
//! afterwards, and what `waypost compact` gives back.
//!
//! Owns an engine whose wall clock it steps, so that registrations end and are swept, and child processes that open the
//! store or compact it. Run it with `cargo bench --bench disk`; `-- --help` tells the options. The store is made in the
//! temporary directory (`TMPDIR`).

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
use waypost::clock::{Clock, Millis};
use waypost::daemon::STORE;
use waypost::engine::{Engine, Joined, Options};
use waypost::id::PeerId;
use waypost::limits::Limits;
use waypost::logging::Blur;
use waypost::metrics::Metrics;
use waypost::store::{Faults, Store, compact};
use waypost::wire::signalling::{Point, RegisterRendezvous, ServerMessage};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the wall clock shows at first, in milliseconds since the Unix epoch.
const BEGINNING: Millis = 1_800_000_000_000;
/// The living end in so many groups, one after the other.
const GROUPS: usize = 20;
const SECOND: Duration = Duration::from_secs(1);
const POINTS_EACH: usize = 3;
/// Living registrations of a peer: their points are fewer than one may hold.
const OF_A_PEER: usize = 100;
/// Registrations under way at once.
const IN_FLIGHT: usize = 2048;
/// How often the engine is asked whether its sweep is over.
const LOOK: Duration = Duration::from_millis(5);
/// How often the size is noted.
const NOTES: usize = 10;

/// Measure what the store takes on the disk while registrations come and go.
#[derive(Parser, Serialize)]
struct Arguments {
    /// Registrations in all: 3 points, 1 token and a dead drop of 256 bytes each.
    #[arg(long, default_value_t = 5_000_000)]
    registrations: usize,
    /// Registrations that are alive at any time.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(GROUPS as u64..))]
    alive: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// For a child: what to do with the store of --data.
    #[arg(long, hide = true, requires = "data")]
    #[serde(skip)]
    child: Option<Child>,
    #[arg(long, hide = true)]
    #[serde(skip)]
    data: Option<PathBuf>,
    /// For a child: what the wall clock shows.
    #[arg(long, hide = true, default_value_t = BEGINNING)]
    #[serde(skip)]
    now: Millis,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Child {
    /// Open the store, read every row and keep nothing.
    Read,
    /// Start the engine.
    Start,
    /// Compact the store.
    Compact,
}

/// What a child measured.
#[derive(Serialize, Deserialize)]
struct Done {
    /// Registrations that are there; not counted by a compaction.
    registrations: usize,
    seconds: f64,
    /// Bytes that the process had of memory when it was done, and at most.
    resident: u64,
    resident_peak: u64,
}

/// The size of the store at one moment.
#[derive(Serialize)]
struct Note {
    registrations: usize,
    alive: usize,
    bytes_on_disk: u64,
    /// Since the beginning.
    seconds: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let (Some(child), Some(data)) = (arguments.child, &arguments.data) {
        let done = runtime.block_on(run_child(child, data, arguments.now));
        println!("{}", serde_json::to_string(&done).expect("numbers"));
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = folder.path();
    let (notes, now) = runtime.block_on(churn(data, &arguments));
    let alive = notes.last().map_or(0, |note| note.alive);
    let openings = |when| {
        let opened = [("store alone", Child::Read), ("engine, ready", Child::Start)]
            .map(|(name, child)| (format!("{name}, {when}"), in_child(child, data, now)));
        assert!(opened.iter().all(|(_, done)| done.registrations == alive), "all living ones are there");
        opened
    };
    let before = openings("before");
    let bytes_before = size_of(data);
    let compaction = in_child(Child::Compact, data, now);
    let bytes_after = size_of(data);
    let opened = before.into_iter().chain(openings("after")).collect();
    let report = Report { settings: arguments, notes, bytes_before, bytes_after, compaction, opened };
    if report.settings.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
    } else {
        report.print();
    }
}

/// Nothing waits for a grace: the running time stands still here.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.relays.restart_grace = Duration::ZERO;
    limits
}

fn engine(data: &Path, clock: Clock) -> Engine {
    let started = Engine::start(Options {
        store: data.join(STORE),
        limits: limits(),
        clock,
        metrics: Arc::new(Metrics::default()),
        rng: StdRng::seed_from_u64(7),
        faults: Faults::default(),
        server_id: "bench".to_owned(),
        blur: Blur::new(false),
    });
    started.expect("the engine starts")
}

/// Registers group by group; each time the oldest living group ends first, and is swept. Tells what the clock shows then.
async fn churn(data: &Path, arguments: &Arguments) -> (Vec<Note>, Millis) {
    let (clock, real) = (Clock::manual(BEGINNING), Clock::system());
    let engine = engine(data, clock.clone());
    let alive = arguments.alive as usize;
    let peers = alive.div_ceil(OF_A_PEER);
    let peers: Vec<_> = (0..peers).map(|_| engine.join(IpAddr::from(Ipv4Addr::LOCALHOST))).collect();
    let group = alive / GROUPS;
    let step = limits().rendezvous.daily_ttl / GROUPS as u32 + SECOND;
    let mut rng = StdRng::seed_from_u64(7);
    let (mut made, mut notes, mut last) = (0, Vec::new(), clock.now());
    while made < arguments.registrations {
        clock.step_wall(step);
        let ended = (made + group).saturating_sub(GROUPS * group);
        while swept(&engine).await < ended {
            real.sleep(LOOK).await;
        }
        let next = (made + group).min(arguments.registrations);
        register(&engine, &peers, made..next, &mut rng).await;
        let noted = |made: usize| made * NOTES / arguments.registrations;
        if noted(next) > noted(made) {
            notes.push(Note {
                registrations: next,
                alive: engine.status(0).await.expect("the engine answers").leases.registration,
                bytes_on_disk: size_of(data),
                seconds: real.running().as_secs_f64(),
            });
        }
        (made, last) = (next, clock.now());
    }
    engine.drain().await;
    engine.stop().await;
    (notes, last)
}

async fn swept(engine: &Engine) -> usize {
    engine.status(0).await.expect("the engine answers").engine.swept as usize
}

async fn register(engine: &Engine, peers: &[Joined], numbers: std::ops::Range<usize>, rng: &mut StdRng) {
    let mut name = move || format!("{:032x}", rng.random::<u128>());
    let requests = numbers.map(|number| {
        let peer = number % peers.len();
        let point = |name| Point { name, payload: Some(0) };
        let request = RegisterRendezvous {
            peer_id: PeerId::parse(&format!("peer-{peer}")).expect("a peer id"),
            relay_id: String::new(),
            points: std::iter::repeat_with(&mut name).take(POINTS_EACH).map(point).collect(),
            tokens: vec![name()],
            payloads: vec![name().repeat(8)],
            resume_token: None,
        };
        engine.register_rendezvous(peers[peer].outbox.socket, request)
    });
    let mut answers = futures_util::stream::iter(requests).buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        assert!(matches!(answer, ServerMessage::RendezvousResult { .. }), "{answer:?}");
    }
}

/// Bytes of the files in the store's folder.
fn size_of(data: &Path) -> u64 {
    let files = std::fs::read_dir(data.join(STORE)).expect("the store's folder");
    let sizes = files.map(|file| file.and_then(|file| file.metadata()));
    sizes.flatten().filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

/// Runs this program again, so that memory is measured in a process that has done nothing else.
fn in_child(what: Child, data: &Path, now: Millis) -> Done {
    let what = what.to_possible_value().expect("none is hidden");
    let mut child = Command::new(std::env::current_exe().expect("this program's path"));
    child.args(["--child", what.get_name(), "--now", &now.to_string(), "--data"]).arg(data);
    let output = child.stderr(Stdio::inherit()).output().expect("the child runs");
    assert!(output.status.success(), "the child failed");
    serde_json::from_slice(&output.stdout).expect("the child tells its numbers")
}

async fn run_child(child: Child, data: &Path, now: Millis) -> Done {
    let real = Clock::system();
    let path = data.join(STORE);
    let mut registrations = 0;
    match child {
        Child::Read => {
            let store = Store::open(&path, Faults::default()).expect("the store opens");
            store.fold(|_| registrations += 1).expect("the store is read");
            measured(&real, registrations)
        }
        Child::Start => {
            let engine = engine(data, Clock::manual(now));
            let done = measured(&real, 0);
            registrations = engine.status(0).await.expect("the engine answers").leases.registration;
            engine.stop().await;
            Done { registrations, ..done }
        }
        Child::Compact => {
            compact(&path, &Faults::default(), &mut |_| {}).expect("the store is compacted");
            measured(&real, 0)
        }
    }
}

fn measured(real: &Clock, registrations: usize) -> Done {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let bytes = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    let (resident, resident_peak) = (bytes("VmRSS:"), bytes("VmHWM:"));
    Done { registrations, seconds: real.running().as_secs_f64(), resident, resident_peak }
}

#[derive(Serialize)]
struct Report {
    settings: Arguments,
    notes: Vec<Note>,
    bytes_before: u64,
    bytes_after: u64,
    compaction: Done,
    opened: Vec<(String, Done)>,
}

impl Report {
    fn print(&self) {
        let Report { settings, notes, bytes_before, bytes_after, compaction, opened } = self;
        println!(
            "{} registrations of {POINTS_EACH} points, 1 token and a dead drop of 256 bytes, {} alive at any time\n",
            settings.registrations, settings.alive
        );
        let rows = notes.iter().map(|note| {
            let seconds = format!("{:.1}", note.seconds);
            [note.registrations.to_string(), note.alive.to_string(), mebibytes(note.bytes_on_disk), seconds]
        });
        print_table(["registrations", "alive", "on the disk", "seconds"], rows);
        println!(
            "compacted in {:.2} s, with {} of memory at most: {} before, {} after, {:.0} bytes a registration\n",
            compaction.seconds,
            mebibytes(compaction.resident_peak),
            mebibytes(*bytes_before),
            mebibytes(*bytes_after),
            *bytes_after as f64 / opened.last().map_or(1, |(_, done)| done.registrations.max(1)) as f64,
        );
        let rows = opened.iter().map(|(name, done)| {
            let registrations = done.registrations.to_string();
            [name.clone(), registrations, format!("{:.2}", done.seconds), mebibytes(done.resident)]
        });
        print_table(["a start", "registrations", "seconds", "resident"], rows);
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn print_table(header: [&str; 4], rows: impl Iterator<Item = [String; 4]>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{}\n", table.trim_fmt());
}
