//! What a sweep costs those who are being served meanwhile: the latency of rendezvous registrations over WebSocket
//! while a crowd of registrations ends, just before and after that, and before the crowd is there.
//!
//! Owns a daemon in this process whose wall clock it steps, and the clients that load it; latencies are real time. Run
//! it with `cargo bench --bench sweep`; `-- --help` tells the options. The store is made in the temporary directory
//! (`TMPDIR`), and the disk under it is part of what is measured.

#[path = "common/crowds.rs"]
mod crowds;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::task::JoinSet;
use waypost::client::{AdminClient, Client};
use waypost::clock::Clock;
use waypost::config::Settings;
use waypost::daemon::{ADMIN_TOKEN, Daemon, Surroundings};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const HOUR: Duration = Duration::from_secs(3600);
/// What the wall clock shows at first, in milliseconds since the Unix epoch.
const BEGINNING: u64 = 1_800_000_000_000;
/// Load before anything is measured.
const SETTLING: Duration = Duration::from_secs(2);
/// How often the daemon is asked whether its sweep is over.
const LOOK: Duration = Duration::from_millis(10);

/// Measure what a sweep costs the requests beside it.
#[derive(Parser, Serialize)]
struct Arguments {
    /// Registrations that end in one sweep.
    #[arg(long, default_value_t = 100_000)]
    crowd: usize,
    /// Points of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    points: u8,
    /// Sweeps, pooled.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Clients, each with one request under way.
    #[arg(long, default_value_t = 64)]
    sockets: usize,
    /// Seconds measured before the crowd is there, before each sweep, and after it.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The setting sweep.max_batch.
    #[arg(long, default_value_t = Settings::default().sweep.max_batch)]
    max_batch: usize,
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
    Empty,
    Before,
    During,
    After,
    Over,
}

const MEASURED: [(Phase, &str); 4] = [
    (Phase::Empty, "no crowd"),
    (Phase::Before, "before"),
    (Phase::During, "during"),
    (Phase::After, "after"),
];

/// Microseconds from a request to its answer, by the position of the phase in `MEASURED`.
type Latencies = [Histogram<u64>; 4];

struct Bench {
    arguments: Arguments,
    daemon: Daemon,
    /// The daemon's, stepped by hand.
    clock: Clock,
    real: Clock,
    admin: AdminClient,
    phase: Arc<AtomicU8>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let bench = Bench::start(arguments, folder.path()).await;
    let mut clients = JoinSet::new();
    for number in 0..bench.arguments.sockets {
        let url = format!("ws://{}/ws", bench.daemon.addresses().public);
        let client = Client::connect(url).await.expect("a connection");
        clients.spawn(register_on_and_on(client, number, bench.phase.clone(), bench.real.clone()));
    }
    let mut sweeps = Vec::new();
    let mut seconds = [0.0; 4];
    for round in 0..bench.arguments.rounds {
        sweeps.push(bench.round(round, &mut seconds).await);
    }
    bench.enter(Phase::Over);
    let mut latencies = histograms();
    for client in clients.join_all().await {
        for (all, one) in latencies.iter_mut().zip(client) {
            all.add(one).expect("histograms of one kind");
        }
    }
    bench.daemon.shutdown().await;
    report(&bench.arguments, &latencies, seconds, &sweeps);
}

/// How long one sweep took, and in how many batches.
#[derive(Serialize)]
struct Sweep {
    seconds: f64,
    batches: u64,
}

impl Bench {
    async fn start(arguments: Arguments, folder: &std::path::Path) -> Bench {
        let mut settings = Settings::default();
        settings.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
        settings.server.admin_listen = (Ipv4Addr::LOCALHOST, 0).into();
        settings.server.data_dir = folder.to_owned();
        settings.connections.messages_per_minute = 0;
        settings.connections.upgrades_per_minute = 0;
        settings.connections.max_connections_per_address = settings.connections.max_connections;
        // A leap of the wall clock delays sweeping by one grace of running time, and that stands still here.
        settings.relays.restart_grace = Duration::ZERO;
        settings.sweep.max_batch = arguments.max_batch;
        let clock = Clock::manual(BEGINNING);
        let rng = StdRng::seed_from_u64(7);
        let surroundings = Surroundings { clock: clock.clone(), rng, ..Surroundings::default() };
        let daemon = Daemon::bind_in(settings, surroundings).await.expect("the daemon starts");
        let token = std::fs::read_to_string(folder.join(ADMIN_TOKEN)).expect("the daemon's token");
        let admin = format!("http://{}", daemon.addresses().admin);
        let admin = AdminClient::new(admin, token).expect("an HTTP client");
        let phase = Arc::new(AtomicU8::new(Phase::Idle as u8));
        Bench { arguments, daemon, clock, real: Clock::system(), admin, phase }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// The crowd's points have 48 hours. After 47 of them the clients have registered all of theirs again, so that 2
    /// hours later it is the crowd that ends, and nothing else.
    async fn round(&self, round: usize, seconds: &mut [f64; 4]) -> Sweep {
        let calm = Duration::from_secs(self.arguments.seconds);
        self.real.sleep(SETTLING).await;
        self.enter(Phase::Empty);
        self.real.sleep(calm).await;
        self.enter(Phase::Idle);
        let (crowd, points) = (self.arguments.crowd, usize::from(self.arguments.points));
        crowds::register(self.daemon.engine(), round, crowd, points, false).await;
        self.clock.step_wall(47 * HOUR);
        self.real.sleep(SETTLING).await;

        self.enter(Phase::Before);
        self.real.sleep(calm).await;
        let (swept, batches) = (self.swept().await, self.batches().await);
        self.enter(Phase::During);
        let started = self.real.running();
        self.clock.step_wall(2 * HOUR);
        while self.swept().await < swept + self.arguments.crowd as u64 {
            self.real.sleep(LOOK).await;
        }
        let took = (self.real.running() - started).as_secs_f64();
        self.enter(Phase::After);
        self.real.sleep(calm).await;
        self.enter(Phase::Idle);
        for (sum, one) in
            seconds.iter_mut().zip([calm.as_secs_f64(), calm.as_secs_f64(), took, calm.as_secs_f64()])
        {
            *sum += one;
        }
        Sweep { seconds: took, batches: self.batches().await - batches }
    }

    async fn swept(&self) -> u64 {
        self.daemon.engine().status(0).await.expect("the engine answers").engine.swept
    }

    async fn batches(&self) -> u64 {
        let metrics = self.admin.metrics().await.expect("the daemon's metrics");
        let value =
            metrics.lines().find_map(|line| line.strip_prefix("waypost_sweep_batches_total ")?.parse().ok());
        value.expect("the metric is there")
    }
}

/// One client: 3 points, 1 token and a dead drop of 256 bytes, again and again, until all is over.
async fn register_on_and_on(client: Client, number: usize, phase: Arc<AtomicU8>, real: Clock) -> Latencies {
    let ring = crowds::ring(number);
    let mut latencies = histograms();
    for request in ring.iter().cycle() {
        let before = phase.load(Ordering::SeqCst);
        if before == Phase::Over as u8 {
            break;
        }
        let asked = real.running();
        client.register_rendezvous(request).await.expect("an answer");
        let took = (real.running() - asked).as_micros() as u64;
        let after = phase.load(Ordering::SeqCst);
        // A request that saw any of the sweep counts for it.
        let seen = MEASURED.iter().position(|(phase, _)| match phase {
            Phase::During => [before, after].contains(&(*phase as u8)),
            calm => before == *calm as u8 && after == *calm as u8,
        });
        if let Some(seen) = seen {
            latencies[seen].saturating_record(took);
        }
    }
    client.close().await;
    latencies
}

fn histograms() -> Latencies {
    std::array::from_fn(|_| Histogram::new_with_max(60_000_000, 3).expect("3 digits up to a minute"))
}

#[derive(Serialize)]
struct Row {
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
    sweeps: &'a [Sweep],
    /// Answers a second with the crowd stored against those without.
    stored_ratio: f64,
    /// During the sweeps against before and after together.
    p99_ratio: f64,
}

fn report(arguments: &Arguments, latencies: &Latencies, seconds: [f64; 4], sweeps: &[Sweep]) {
    let rows: Vec<Row> = MEASURED
        .iter()
        .zip(latencies)
        .zip(seconds)
        .map(|(((_, phase), latency), seconds)| Row {
            phase,
            answers: latency.len(),
            per_second: latency.len() as f64 / seconds,
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            max_us: latency.max(),
        })
        .collect();
    let [_, before, during, after] = latencies;
    let mut without = before.clone();
    without.add(after).expect("histograms of one kind");
    let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99) as f64;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        settings: arguments,
        stored_ratio: rows[1].per_second / rows[0].per_second,
        answers: rows,
        sweeps,
        p99_ratio: p99(during) / p99(&without),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
        return;
    }
    println!(
        "{} sweeps of {} registrations of {} points, max_batch {}; {} sockets; times in microseconds\n",
        arguments.rounds, arguments.crowd, arguments.points, arguments.max_batch, arguments.sockets
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["a sweep", "answers", "answers/s", "p50", "p99", "max"]);
    table.add_rows(report.answers.iter().map(|row| {
        let numbers = [row.answers, row.per_second as u64, row.p50_us, row.p99_us, row.max_us];
        std::iter::once(row.phase.to_owned()).chain(numbers.map(|number| number.to_string()))
    }));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{}\n", table.trim_fmt());
    for sweep in sweeps {
        println!("swept in {:.2} s, {} batches", sweep.seconds, sweep.batches);
    }
    println!("answers/s with the crowd stored against without: {:.2} times", report.stored_ratio);
    println!("p99 during a sweep against without: {:.2} times", report.p99_ratio);
}
