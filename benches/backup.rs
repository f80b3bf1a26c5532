//! What a backup costs those who are being served meanwhile: the latency of rendezvous registrations and of heartbeats over
//! WebSocket while a full store is backed up, and just before and after that. And how long the backup takes, and a restore.
//!
//! Owns a daemon in this process, and the clients that load it. Run it with `cargo bench --bench backup`; `-- --help` tells
//! the options. The store and the file are made in the temporary directory (`TMPDIR`), and the disk under it is part of what
//! is measured.

#[path = "common/crowds.rs"]
mod crowds;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use waypost::client::{AdminClient, Client};
use waypost::clock::Clock;
use waypost::config::Settings;
use waypost::daemon::{ADMIN_TOKEN, Daemon, STORE};
use waypost::store::{Faults, Replace, restore, verify};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Load before anything is measured.
const SETTLING: Duration = Duration::from_secs(2);

/// Measure what a backup costs the requests beside it.
#[derive(Parser, Serialize)]
struct Arguments {
    /// Registrations in the store.
    #[arg(long, default_value_t = 1_000_000)]
    leases: usize,
    /// Backups, pooled.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Clients, each with one request under way: half of them register, half of them send heartbeats.
    #[arg(long, default_value_t = 64)]
    sockets: usize,
    /// Seconds measured before each backup and after it.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

/// What the clients' answers are counted for. `Idle` is not counted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Idle,
    Before,
    During,
    After,
    Over,
}

const MEASURED: [(Phase, &str); 3] =
    [(Phase::Before, "before"), (Phase::During, "during"), (Phase::After, "after")];
const ASKED: [&str; 2] = ["rendezvous", "heartbeat"];

/// Microseconds from a request to its answer, by the position of the phase in `MEASURED`.
type Latencies = [Histogram<u64>; 3];

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (data, file) = (folder.path().join("data"), folder.path().join("backup"));
    let real = Clock::system();
    let daemon = start(&data).await;
    crowds::register(daemon.engine(), 0, arguments.leases, 3, true).await;
    let phase = Arc::new(AtomicU8::new(Phase::Idle as u8));
    let mut clients = JoinSet::new();
    for number in 0..arguments.sockets {
        let url = format!("ws://{}/ws", daemon.addresses().public);
        let client = Client::connect(url).await.expect("a connection");
        clients.spawn(ask_on_and_on(client, number, phase.clone(), real.clone()));
    }
    let token = std::fs::read_to_string(data.join(ADMIN_TOKEN)).expect("the daemon's token");
    let admin = AdminClient::new(format!("http://{}", daemon.addresses().admin), token).expect("a client");
    let enter = |next: Phase| phase.store(next as u8, Ordering::SeqCst);
    let calm = Duration::from_secs(arguments.seconds);
    let (mut backups, mut seconds) = (Vec::new(), [0.0; 3]);
    for _ in 0..arguments.rounds {
        real.sleep(SETTLING).await;
        enter(Phase::Before);
        real.sleep(calm).await;
        enter(Phase::During);
        let backup = back_up(&admin, &file, &real).await;
        enter(Phase::After);
        real.sleep(calm).await;
        enter(Phase::Idle);
        for (sum, one) in seconds.iter_mut().zip([calm.as_secs_f64(), backup.seconds, calm.as_secs_f64()]) {
            *sum += one;
        }
        backups.push(backup);
    }
    enter(Phase::Over);
    let mut latencies = [histograms(), histograms()];
    for (which, one) in clients.join_all().await {
        for (all, one) in latencies[which].iter_mut().zip(one) {
            all.add(one).expect("histograms of one kind");
        }
    }
    daemon.shutdown().await;
    let restored = restore_into(&folder.path().join("restored"), &file);
    report(&arguments, &latencies, seconds, &backups, restored);
}

async fn start(data: &Path) -> Daemon {
    let mut settings = Settings::default();
    settings.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
    settings.server.admin_listen = (Ipv4Addr::LOCALHOST, 0).into();
    settings.server.data_dir = data.to_owned();
    settings.connections.messages_per_minute = 0;
    settings.connections.upgrades_per_minute = 0;
    settings.connections.max_connections_per_address = settings.connections.max_connections;
    Daemon::bind(settings).await.expect("the daemon starts")
}

/// One backup or restore.
#[derive(Serialize)]
struct Took {
    seconds: f64,
    bytes: u64,
}

async fn back_up(admin: &AdminClient, file: &Path, real: &Clock) -> Took {
    let (started, mut bytes) = (real.running(), 0);
    let mut file = std::fs::File::create(file).expect("a file");
    let mut pieces = admin.backup().await.expect("a backup");
    while let Some(piece) = pieces.next().await.expect("a whole backup") {
        file.write_all(piece.as_ref()).expect("room");
        bytes += piece.as_ref().len() as u64;
    }
    file.sync_all().expect("it is written");
    Took { seconds: (real.running() - started).as_secs_f64(), bytes }
}

fn restore_into(data: &Path, file: &Path) -> Took {
    let real = Clock::system();
    let store = data.join(STORE);
    let replace = Replace { path: &store, existing: false, now: real.now() };
    let backup = verify(file, &mut |_| {}).expect("it is whole");
    restore((file, &backup), &replace, &Faults::default(), &mut |_| {}, || Ok(())).expect("it is restored");
    let files = std::fs::read_dir(&store).expect("the store's folder");
    let bytes = files.map(|file| file.and_then(|file| file.metadata()).map_or(0, |meta| meta.len())).sum();
    Took { seconds: real.running().as_secs_f64(), bytes }
}

/// One client, again and again, until all is over; tells which of `ASKED` it did.
async fn ask_on_and_on(
    client: Client,
    number: usize,
    phase: Arc<AtomicU8>,
    real: Clock,
) -> (usize, Latencies) {
    let which = number % 2;
    let ring = crowds::ring(number);
    // Whoever sends heartbeats is registered, too.
    client.register_rendezvous(&ring[0]).await.expect("an answer");
    let mut latencies = histograms();
    for request in ring.iter().cycle() {
        let before = phase.load(Ordering::SeqCst);
        if before == Phase::Over as u8 {
            break;
        }
        let asked = real.running();
        match which {
            0 => drop(client.register_rendezvous(request).await.expect("an answer")),
            _ => drop(client.heartbeat(&ring[0].peer_id).await.expect("an answer")),
        }
        let took = (real.running() - asked).as_micros() as u64;
        let after = phase.load(Ordering::SeqCst);
        // A request that saw any of the backup counts for it.
        let seen = MEASURED.iter().position(|(phase, _)| match phase {
            Phase::During => [before, after].contains(&(*phase as u8)),
            calm => before == *calm as u8 && after == *calm as u8,
        });
        if let Some(seen) = seen {
            latencies[seen].saturating_record(took);
        }
    }
    client.close().await;
    (which, latencies)
}

fn histograms() -> Latencies {
    std::array::from_fn(|_| Histogram::new_with_max(60_000_000, 3).expect("3 digits up to a minute"))
}

#[derive(Serialize)]
struct Row {
    asked: &'static str,
    phase: &'static str,
    answers: u64,
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    settings: &'a Arguments,
    answers: Vec<Row>,
    backups: &'a [Took],
    restore: Took,
    /// During the backups against before and after together, as `ASKED`.
    p99_ratios: [f64; 2],
}

fn report(
    arguments: &Arguments,
    latencies: &[Latencies; 2],
    seconds: [f64; 3],
    backups: &[Took],
    restore: Took,
) {
    let mut answers = Vec::new();
    let mut p99_ratios = [0.0; 2];
    for ((asked, latencies), ratio) in ASKED.iter().zip(latencies).zip(&mut p99_ratios) {
        for (((_, phase), latency), seconds) in MEASURED.iter().zip(latencies).zip(seconds) {
            answers.push(Row {
                asked,
                phase,
                answers: latency.len(),
                per_second: latency.len() as f64 / seconds,
                p50_us: latency.value_at_quantile(0.5),
                p99_us: latency.value_at_quantile(0.99),
                max_us: latency.max(),
            });
        }
        let [before, during, after] = latencies;
        let mut without = before.clone();
        without.add(after).expect("histograms of one kind");
        let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99) as f64;
        *ratio = p99(during) / p99(&without);
    }
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { version, settings: arguments, answers, backups, restore, p99_ratios };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
        return;
    }
    println!(
        "{} backups of {} registrations beside {} sockets; times in microseconds\n",
        arguments.rounds, arguments.leases, arguments.sockets
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["asked", "a backup", "answers", "answers/s", "p50", "p99", "max"]);
    table.add_rows(report.answers.iter().map(|row| {
        let numbers = [row.answers, row.per_second as u64, row.p50_us, row.p99_us, row.max_us];
        [row.asked, row.phase].map(str::to_owned).into_iter().chain(numbers.map(|number| number.to_string()))
    }));
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{}\n", table.trim_fmt());
    let told = |what: &str, took: &Took| {
        println!("{what} in {:.2} s, {} MiB", took.seconds, took.bytes >> 20);
    };
    backups.iter().for_each(|took| told("backed up", took));
    told("restored", &report.restore);
    for (asked, ratio) in ASKED.iter().zip(p99_ratios) {
        println!("p99 of {asked} during a backup against without: {ratio:.2} times");
    }
}
