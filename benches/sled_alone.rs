//! What sled alone does: the rows, batches and flushes of the rendezvous scenario, without anything else of the daemon.
//!
//! Owns a store of sled's that it fills as the engine would: one thread commits transactions of so many registrations, one
//! flushes for all that wait, as `src/engine/writer.rs` and `flusher.rs` do. At first it holds its rows against those that
//! the registries and the store really write. Run it with `cargo bench --bench sled_alone`; `-- --help` tells the options.
//! The store is made in the temporary directory (`TMPDIR`), and the disk under it is part of what is measured: to compare,
//! run `waypost bench --scenario rendezvous` just before, against a daemon with its data on the same disk, and give as `--batch`
//! what its metrics tell: `waypost_engine_requests_total` by `waypost_store_commit_seconds_count`.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use bincode::Options;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sled::{Batch, Db, IVec, Transactional, Tree};
use waypost::cli::bench::process;
use waypost::clock::{Clock, Millis};
use waypost::id::{Kind, PeerId};
use waypost::limits::{Limits, RendezvousRules, STORE_CACHE_BYTES};
use waypost::registry::{Boot, Registries};
use waypost::store::{Changes, Faults, PointRecord, RegistrationRecord, Store};
use waypost::wire::signalling::{Point, RegisterRendezvous};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// When the registrations that are only compared are made.
const BEGINNING: Millis = 1_800_000_000_000;
/// The layout of a row that begins with this is what the proof at the start holds against the store's.
const RECORD_VERSION: u8 = 2;

/// Measure what sled alone does with the rows of registrations.
#[derive(Clone, Parser, Serialize)]
struct Arguments {
    /// Registrations in one transaction, on average.
    #[arg(long, default_value_t = 32.0, value_parser = one_or_more)]
    batch: f64,
    /// Registrations committed and not flushed at most: the bench's sockets. As many as --batch at least.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    in_flight: usize,
    /// Registrations that stand in the store: the bench's sockets times its --ring.
    #[arg(long, default_value_t = 2560, value_parser = at_least_one)]
    live: usize,
    /// Rows per registration: 1 where each replaces a former one, as in the bench; 2 where none does.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    rows: u8,
    /// Replace those that stand in scattered order instead of one after the other.
    #[arg(long)]
    scattered: bool,
    /// MiB of sled's page cache, as it is asked for.
    #[arg(long, default_value_t = STORE_CACHE_BYTES >> 20)]
    cache: u64,
    /// KiB of a segment of its file: a power of two.
    #[arg(long, default_value_t = 512)]
    segment: usize,
    /// sled's mode that is for throughput, at the cost of space.
    #[arg(long)]
    high_throughput: bool,
    /// Points of a registration.
    #[arg(long, default_value_t = 3)]
    points: usize,
    /// Tokens of a registration.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    tokens: usize,
    /// Bytes of its dead drop, which lies at all of its points.
    #[arg(long, default_value_t = 256)]
    payload_bytes: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// Only see quickly that everything runs.
    #[arg(long)]
    #[serde(skip)]
    test: bool,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a whole number from 1".to_owned())
}

fn one_or_more(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number >= 1.0 && number.is_finite());
    number.ok_or_else(|| "expected a number from 1".to_owned())
}

fn main() {
    let mut arguments = Arguments::parse();
    arguments.in_flight = arguments.in_flight.max(arguments.batch.ceil() as usize);
    if arguments.test {
        (arguments.seconds, arguments.warmup) = (1, 0);
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    prove_rows(&arguments, &folder.path().join("proof"));
    let report = measure(&arguments, &folder.path().join("store"));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
    } else {
        report.print();
    }
}

/// The trees of a registration's record and of its row in the index.
struct Trees {
    db: Db,
    record: Tree,
    index: Tree,
}

impl Trees {
    /// sled, set up as the store does it where the arguments do not say otherwise.
    fn open(arguments: &Arguments, path: &Path) -> Trees {
        let mode = if arguments.high_throughput { sled::Mode::HighThroughput } else { sled::Mode::LowSpace };
        let config = sled::Config::new().path(path).cache_capacity(arguments.cache << 20);
        let config = config.segment_size(arguments.segment << 10).mode(mode).flush_every_ms(None);
        let db = config.open().expect("sled opens");
        let tree = |name| db.open_tree(name).expect("a tree");
        Trees { record: tree("lease.registration"), index: tree("index.expiry"), db }
    }

    fn commit(&self, record: &Batch, index: &Batch) {
        let done = (&self.record, &self.index).transaction(|(records, indexes)| {
            records.apply_batch(record)?;
            indexes.apply_batch(index)?;
            Ok::<(), sled::transaction::ConflictableTransactionError<()>>(())
        });
        done.expect("the disk takes it");
    }
}

/// Builds the rows of registrations.
struct Rows {
    /// Records of those that stand, byte for byte as the store has them but for their times and order.
    records: Vec<Vec<u8>>,
    standing: u64,
    made: u64,
    replacing: bool,
    scattered: bool,
}

/// More different ones than that are not made.
const RECORDS: usize = 4096;
/// Coprime to what stands, so that each comes up in turn.
const SCATTER: u64 = 2_654_435_761;
/// Rows of one transaction while the store is filled.
const FILLED_AT_ONCE: usize = 1024;

impl Rows {
    fn new(arguments: &Arguments) -> Rows {
        // An order of as many bytes as it has in the bench.
        let order = 1 << 20;
        let records = 0..arguments.live.min(RECORDS);
        let records = records.map(|number| record(&request(arguments, number), BEGINNING, order));
        Rows {
            records: records.collect(),
            standing: arguments.live as u64,
            made: 0,
            replacing: arguments.rows == 1,
            scattered: arguments.scattered,
        }
    }

    /// Those of so many registrations at `now`.
    fn of(&mut self, count: usize, now: Millis) -> (Batch, Batch) {
        let (mut record, mut index) = (Batch::default(), Batch::default());
        let end = first_end(now);
        for _ in 0..count {
            let overwrites = self.replacing && self.made >= self.standing;
            let scatter = if overwrites && self.scattered { SCATTER } else { 1 };
            let key = if overwrites { self.made * scatter % self.standing } else { self.made } + 1;
            let value = &self.records[(self.made % self.records.len() as u64) as usize];
            record.insert(&key.to_be_bytes(), value.clone());
            if !overwrites {
                index.insert(index_key(key, end), IVec::default());
            }
            self.made += 1;
        }
        (record, index)
    }
}

fn index_key(sequence: u64, end: Millis) -> IVec {
    [&end.to_be_bytes()[..], &[Kind::Registration.number()], &sequence.to_be_bytes()].concat().into()
}

fn rules() -> RendezvousRules {
    Limits::default().rendezvous
}

fn millis(time: Duration) -> Millis {
    time.as_millis() as Millis
}

/// When a registration with a token first loses something: where the index has it.
fn first_end(now: Millis) -> Millis {
    now + millis(rules().hourly_ttl.min(rules().daily_ttl))
}

fn request(arguments: &Arguments, number: usize) -> RegisterRendezvous {
    let name = |kind: usize, which: usize| format!("{number:016x}{kind:04x}{which:012x}");
    let has_drop = arguments.points > 0 && arguments.payload_bytes > 0;
    let point = |which| Point { name: name(1, which), payload: has_drop.then_some(0) };
    RegisterRendezvous {
        peer_id: PeerId::parse(&name(0, 0)).expect("a peer id"),
        relay_id: String::new(),
        points: (0..arguments.points).map(point).collect(),
        tokens: (0..arguments.tokens).map(|which| name(2, which)).collect(),
        payloads: if has_drop { vec!["x".repeat(arguments.payload_bytes)] } else { Vec::new() },
        resume_token: None,
    }
}

/// The row of a registration that was made at `now` in the first boot.
fn record(request: &RegisterRendezvous, now: Millis, order: u64) -> Vec<u8> {
    let point = |point: &Point| PointRecord { name: point.name.clone().into(), payload: point.payload };
    let record = RegistrationRecord {
        boot: 1,
        peer: request.peer_id.as_str().into(),
        relay_id: "".into(),
        registered_at: now,
        points_end: now + millis(rules().daily_ttl),
        tokens_end: now + millis(rules().hourly_ttl),
        points: request.points.iter().map(point).collect(),
        tokens: request.tokens.iter().map(|token| token.as_str().into()).collect(),
        payloads: request.payloads.iter().map(|payload| payload.as_str().into()).collect(),
        order,
    };
    let head = [&[RECORD_VERSION][..], &first_end(now).to_be_bytes()].concat();
    let body = bincode::DefaultOptions::new().serialize(&record).expect("strings and numbers");
    [head, body].concat()
}

/// Holds what is written here against what the registries and the store write for the same registration, made twice.
fn prove_rows(arguments: &Arguments, path: &Path) {
    let request = request(arguments, 0);
    let store = Store::open(path, Faults::default()).expect("the store opens");
    let boot = Boot { number: store.boot(), live_since: 0, grace_end: BEGINNING };
    let mut registries = Registries::new(boot, &Limits::default());
    let mut changes = Changes::default();
    for rows in [2, 1] {
        changes = Changes::default();
        registries.rendezvous.register(BEGINNING, &request, &mut changes).expect("within the limits");
        assert_eq!(changes.rows(), rows, "what this registration writes is not what is measured here");
        store.commit(&changes).expect("the disk takes it");
    }
    drop((changes, store));
    let as_the_store = Arguments { segment: 512, ..arguments.clone() };
    let trees = Trees::open(&as_the_store, path);
    let rows = |tree: &Tree| -> Vec<(IVec, IVec)> { tree.iter().map(|row| row.expect("a row")).collect() };
    // The second one has overwritten the first.
    let (sequence, order) = (1, 2);
    let record = record(&request, BEGINNING, order);
    let expected = (IVec::from(&u64::to_be_bytes(sequence)), IVec::from(record));
    assert_eq!(rows(&trees.record), [expected], "the record");
    let expected = (index_key(sequence, first_end(BEGINNING)), IVec::default());
    assert_eq!(rows(&trees.index), [expected], "its row in the index");
}

/// What the threads have done so far.
#[derive(Default)]
struct Done {
    /// Registrations that are on the disk.
    registrations: AtomicU64,
    transactions: AtomicU64,
    flushes: AtomicU64,
    stop: AtomicBool,
}

impl Done {
    fn counts(&self) -> [u64; 4] {
        let cpu = process::cpu_micros(std::process::id()).expect("Linux");
        let [registrations, transactions, flushes] =
            [&self.registrations, &self.transactions, &self.flushes].map(|it| it.load(Ordering::Relaxed));
        [registrations, transactions, flushes, cpu]
    }
}

fn measure(arguments: &Arguments, path: &Path) -> Report {
    let trees = Trees::open(arguments, path);
    let log = File::open(path.join("db")).expect("sled's file");
    let flush = || {
        trees.db.flush().expect("the disk takes it");
        log.sync_data().expect("the disk takes it");
    };
    let clock = Clock::system();
    let mut rows = Rows::new(arguments);
    let record_bytes = rows.records[0].len();
    for first in (0..arguments.live).step_by(FILLED_AT_ONCE) {
        let (record, index) = rows.of(FILLED_AT_ONCE.min(arguments.live - first), clock.now());
        trees.commit(&record, &index);
    }
    flush();

    let done = Done::default();
    let (to_flusher, batches) = channel();
    let (to_writer, flushed) = channel();
    thread::scope(|scope| {
        let (trees, flush, clock, done) = (&trees, &flush, &clock, &done);
        scope.spawn(move || write(arguments, trees, rows, clock, done, to_flusher, &flushed));
        scope.spawn(move || flush_on_and_on(flush, done, &batches, &to_writer));
        thread::sleep(Duration::from_secs(arguments.warmup));
        let (before, started) = (done.counts(), clock.running());
        thread::sleep(Duration::from_secs(arguments.seconds));
        let (after, took) = (done.counts(), clock.running() - started);
        done.stop.store(true, Ordering::Relaxed);
        let [registrations, transactions, flushes, cpu_micros] =
            std::array::from_fn(|at| (after[at] - before[at]) as f64);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            arguments: arguments.clone(),
            record_bytes,
            registrations_per_second: registrations / took.as_secs_f64(),
            cpu_micros_per_registration: cpu_micros / registrations,
            transactions_per_second: transactions / took.as_secs_f64(),
            flushes_per_second: flushes / took.as_secs_f64(),
            registrations_per_flush: registrations / flushes,
            resident_bytes: process::resident_bytes(std::process::id()).expect("Linux"),
            bytes_on_disk: log.metadata().expect("sled's file").len(),
        }
    })
}

/// The writer: commits as long as there are not too many unflushed.
fn write(
    arguments: &Arguments,
    trees: &Trees,
    mut rows: Rows,
    clock: &Clock,
    done: &Done,
    to_flusher: Sender<usize>,
    flushed: &Receiver<usize>,
) {
    let mut unflushed = 0;
    // What the batches so far are short of their average.
    let mut short = 0.0;
    while !done.stop.load(Ordering::Relaxed) {
        let count = (arguments.batch + short).floor();
        short += arguments.batch - count;
        let count = count as usize;
        while unflushed + count > arguments.in_flight {
            unflushed -= flushed.recv().expect("the flusher lives as long as this sends");
        }
        let (record, index) = rows.of(count, clock.now());
        trees.commit(&record, &index);
        done.transactions.fetch_add(1, Ordering::Relaxed);
        unflushed += count;
        to_flusher.send(count).expect("the flusher lives as long as this sends");
        unflushed -= flushed.try_iter().sum::<usize>();
    }
}

/// The flusher: one flush for all that wait, until nobody commits any more.
fn flush_on_and_on(flush: &impl Fn(), done: &Done, batches: &Receiver<usize>, to_writer: &Sender<usize>) {
    while let Ok(first) = batches.recv() {
        let count = first + batches.try_iter().sum::<usize>();
        flush();
        done.flushes.fetch_add(1, Ordering::Relaxed);
        done.registrations.fetch_add(count as u64, Ordering::Relaxed);
        // The writer may have stopped.
        let _ = to_writer.send(count);
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    arguments: Arguments,
    record_bytes: usize,
    registrations_per_second: f64,
    cpu_micros_per_registration: f64,
    transactions_per_second: f64,
    flushes_per_second: f64,
    registrations_per_flush: f64,
    resident_bytes: u64,
    bytes_on_disk: u64,
}

impl Report {
    fn print(&self) {
        let Arguments { batch, in_flight, live, rows, seconds, .. } = &self.arguments;
        println!(
            "sled alone, {seconds} s: {rows} rows per registration, its record of {} bytes; {batch} registrations per \
             transaction, at most {in_flight} unflushed, {live} standing\n",
            self.record_bytes
        );
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in [
            ("registrations/s", format!("{:.0}", self.registrations_per_second)),
            ("CPU per registration", format!("{:.1} µs", self.cpu_micros_per_registration)),
            ("transactions/s", format!("{:.0}", self.transactions_per_second)),
            ("flushes/s", format!("{:.0}", self.flushes_per_second)),
            ("registrations per flush", format!("{:.1}", self.registrations_per_flush)),
            ("resident", format!("{} MiB", self.resident_bytes >> 20)),
            ("on disk", format!("{} MiB", self.bytes_on_disk >> 20)),
        ] {
            table.add_row([name.to_owned(), value]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{}", table.trim_fmt());
    }
}
