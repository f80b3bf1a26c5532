//! What a crowd of the expired costs those who are being served: heartbeats while 20,000 of 50,000 peers are cleaned
//! away, listings of a directory half of which is stale, and why stale entries go in one batch.
//!
//! Owns a daemon in this process whose wall clock it steps, the HTTP connections that load it, and a store of its own for
//! the batches; latencies are real time. Run it with `cargo bench --bench crowd`; `-- --help` tells the options. The
//! stores are made in the temporary directory (`TMPDIR`), and the disk under it is part of what is measured.

mod http;
mod report;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use http::{Http, get, heartbeat};
use rand::SeedableRng;
use rand::rngs::StdRng;
use report::{Heartbeats, Listings, Removals, Report, Row};
use serde::Serialize;
use tokio::task::JoinSet;
use waypost::client::AdminClient;
use waypost::clock::{Clock, Millis};
use waypost::config::Settings;
use waypost::daemon::{ADMIN_TOKEN, Daemon, Surroundings};
use waypost::engine::{Claimant, Proof};
use waypost::id::ServerId;
use waypost::limits::DirectoryRules;
use waypost::registry::Expired;
use waypost::registry::directory::Directory;
use waypost::store::{Changes, Faults, Store};
use waypost::wire::bootstrap::Register;
use waypost::wire::directory::{Counters, RegisterServer, Server};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const MINUTE: Duration = Duration::from_secs(60);
/// What the wall clock shows at first, in milliseconds since the Unix epoch.
const BEGINNING: Millis = 1_800_000_000_000;
/// Registrations under way at once; not measured.
const IN_FLIGHT: usize = 2048;
/// While heartbeats are measured the wall clock goes on in steps of this, as it does outside.
const TICK: Duration = Duration::from_millis(10);
const WARM_UP: Duration = Duration::from_secs(1);
const FEW_PEERS: usize = 100;
const LISTINGS: usize = 300;
/// Servers that are stale in a listing; as many are fresh.
const STALE: usize = 500;
/// Listings without anything stale, in each round.
const CALM_LISTINGS: usize = 20;
/// Entries removed in one batch or one by one.
const REMOVED: usize = 100;

/// Measure what a crowd of the expired costs.
#[derive(Parser, Serialize)]
struct Arguments {
    /// Connections, each with one heartbeat under way; the daemon takes 64 from one address.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=60))]
    connections: u8,
    /// Peers that expire together; more than 100.
    #[arg(long, default_value_t = 20_000)]
    expired: usize,
    /// Peers that stay.
    #[arg(long, default_value_t = 30_000)]
    live: usize,
    /// Seconds of heartbeats measured in each calm phase.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Rounds of directory listings.
    #[arg(long, default_value_t = 20)]
    listing_rounds: usize,
    /// Rounds of removals.
    #[arg(long, default_value_t = 30)]
    removal_rounds: usize,
    /// Print JSON instead of tables.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    assert!(
        arguments.expired > FEW_PEERS && arguments.live > 0,
        "the crowd is larger than the few before it"
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (heartbeats, listings) = runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let bench = Bench::start(&arguments, folder.path()).await;
        let measured = (bench.heartbeats().await, bench.listings().await);
        bench.daemon.shutdown().await;
        measured
    });
    let removals = removals(arguments.removal_rounds);
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { version, settings: &arguments, heartbeats, listings, removals };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
    } else {
        report.print();
    }
}

/// What a heartbeat says that it has removed.
fn cleaned(answer: &[u8]) -> usize {
    let text = std::str::from_utf8(answer).expect("JSON");
    let (_, rest) = text.split_once(r#""cleanedExpiredPeers":"#).expect("a heartbeat's answer");
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).expect("a number")
}

#[derive(Clone, Copy)]
enum Until {
    Passed(Duration),
    Cleaned(usize),
}

struct Load {
    latencies: Histogram<u64>,
    took: Duration,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    daemon: Daemon,
    /// The daemon's, stepped by hand.
    clock: Clock,
    real: Clock,
    admin: AdminClient,
}

impl Bench<'_> {
    async fn start<'a>(arguments: &'a Arguments, folder: &Path) -> Bench<'a> {
        let mut settings = Settings::default();
        settings.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
        settings.server.admin_listen = (Ipv4Addr::LOCALHOST, 0).into();
        settings.server.data_dir = folder.to_owned();
        settings.connections.http_requests_per_minute = 0;
        // Requests alone remove what has expired. And running time stands still here: nothing may wait for it.
        settings.peers.backup_sweep = 100_000 * MINUTE;
        settings.relays.restart_grace = Duration::ZERO;
        let clock = Clock::manual(BEGINNING);
        let rng = StdRng::seed_from_u64(7);
        let surroundings = Surroundings { clock: clock.clone(), rng, ..Surroundings::default() };
        let daemon = Daemon::bind_in(settings, surroundings).await.expect("the daemon starts");
        let token = std::fs::read_to_string(folder.join(ADMIN_TOKEN)).expect("the daemon's token");
        let admin = AdminClient::new(format!("http://{}", daemon.addresses().admin), token);
        let admin = admin.expect("an HTTP client");
        Bench { arguments, daemon, clock, real: Clock::system(), admin }
    }

    async fn connect(&self) -> Http {
        Http::connect(self.daemon.addresses().public.tcp().expect("a TCP address")).await
    }

    async fn peers(&self) -> usize {
        self.daemon.engine().status(0).await.expect("the engine answers").leases.peer
    }

    async fn servers(&self) -> usize {
        self.daemon.engine().status(0).await.expect("the engine answers").leases.server
    }

    async fn register_peers(&self, ids: impl Iterator<Item = String>) {
        let claimant = Claimant { address: IpAddr::from(Ipv4Addr::LOCALHOST), token: None };
        let requests = ids.map(|id| {
            let body = format!(r#"{{"peerId":"{id}","addresses":["/ip4/198.51.100.7/tcp/4001"]}}"#);
            let request = Register::decode(body.as_bytes()).expect("a registration");
            self.daemon.engine().register_peer(request, claimant.clone())
        });
        let mut answers = futures_util::stream::iter(requests).buffer_unordered(IN_FLIGHT);
        while let Some(answer) = answers.next().await {
            let answer = answer.expect("the peer is registered");
            assert_eq!(answer.cleaned_expired_peers, 0, "nobody expires before the heartbeats");
        }
    }

    /// Heartbeats on all connections, each for peers of its own, one after another.
    async fn load(&self, connections: &mut Vec<Http>, requests: &Arc<Vec<Vec<u8>>>, until: Until) -> Load {
        let (real, started, sum) = (&self.real, self.real.running(), Arc::new(AtomicUsize::new(0)));
        let (mut clients, count) = (JoinSet::new(), connections.len());
        for (number, mut http) in connections.drain(..).enumerate() {
            let (requests, real, sum) = (requests.clone(), real.clone(), sum.clone());
            clients.spawn(async move {
                let mut latencies = histogram();
                for request in requests.iter().skip(number).step_by(count).cycle() {
                    let asked = real.running();
                    let over = match until {
                        Until::Passed(time) => asked - started >= time,
                        Until::Cleaned(most) => sum.load(Ordering::Relaxed) >= most,
                    };
                    if over {
                        break;
                    }
                    let answer = http.ask(request).await;
                    latencies.saturating_record((real.running() - asked).as_micros() as u64);
                    sum.fetch_add(cleaned(&answer), Ordering::Relaxed);
                }
                (http, latencies)
            });
        }
        let mut latencies = histogram();
        loop {
            tokio::select! {
                ended = clients.join_next() => match ended {
                    Some(ended) => {
                        let (http, own) = ended.expect("no client panics");
                        connections.push(http);
                        latencies.add(own).expect("histograms of one kind");
                    }
                    None => break,
                },
                () = real.sleep(TICK) => self.clock.step_wall(TICK),
            }
        }
        let expected = if let Until::Cleaned(most) = until { most } else { 0 };
        assert_eq!(sum.load(Ordering::Relaxed), expected, "peers removed by heartbeats");
        Load { latencies, took: real.running() - started }
    }

    /// Microseconds of listings, one after another: the median.
    async fn listing(&self, path: &str, count: usize) -> u64 {
        let (mut http, request) = (self.connect().await, get(path));
        let mut latencies = histogram();
        for number in 0..count + count / 5 {
            let asked = self.real.running();
            http.ask(&request).await;
            if number >= count / 5 {
                latencies.saturating_record((self.real.running() - asked).as_micros() as u64);
            }
        }
        latencies.value_at_quantile(0.5)
    }

    /// The few belong to those that expire later.
    async fn heartbeats(&self) -> Heartbeats {
        let Arguments { connections, expired, live, seconds, .. } = *self.arguments;
        let calm = Until::Passed(Duration::from_secs(seconds));
        let ids =
            |name: &'static str, from: usize, to: usize| (from..to).map(move |n| format!("{name}-{n:06}"));
        let of = |ids: &mut dyn Iterator<Item = String>| Arc::new(ids.map(|id| heartbeat(&id)).collect());
        let open = async || {
            let opening = (0..connections).map(|_| self.connect());
            futures_util::future::join_all(opening).await
        };

        self.register_peers(ids("gone", 0, FEW_PEERS)).await;
        let listing_few_us = self.listing("/peers?limit=100", LISTINGS).await;
        let (mut open_now, few) = (open().await, of(&mut ids("gone", 0, FEW_PEERS)));
        self.load(&mut open_now, &few, Until::Passed(WARM_UP)).await;
        let before = self.load(&mut open_now, &few, calm).await;
        drop(open_now);

        self.register_peers(ids("gone", FEW_PEERS, expired)).await;
        self.clock.step_wall(6 * MINUTE);
        self.register_peers(ids("live", 0, live)).await;
        // Connections that have been silent for a while are closed: these are new.
        let (mut open_now, many) = (open().await, of(&mut ids("live", 0, live)));
        self.load(&mut open_now, &many, Until::Passed(WARM_UP)).await;
        let crowded = self.load(&mut open_now, &many, calm).await;
        assert_eq!(self.peers().await, expired + live);
        self.clock.step_wall(5 * MINUTE);
        let cleaning = self.load(&mut open_now, &many, Until::Cleaned(expired)).await;
        assert_eq!(self.peers().await, live);
        self.load(&mut open_now, &many, Until::Passed(WARM_UP)).await;
        let after = self.load(&mut open_now, &many, calm).await;
        drop(open_now);
        let listing_many_us = self.listing("/peers?limit=100", LISTINGS).await;

        let p50 = |load: &Load| load.latencies.value_at_quantile(0.5) as f64;
        Heartbeats {
            p50_ratio: p50(&after) / p50(&before),
            cleaning_requests: cleaning.latencies.len(),
            cleaning_ms: cleaning.took.as_secs_f64() * 1e3,
            longest_while_cleaning_ms: cleaning.latencies.max() as f64 / 1e3,
            phases: vec![
                Row::of(format!("{FEW_PEERS} peers"), &before),
                Row::of(format!("{} peers, none expired", expired + live), &crowded),
                Row::of(format!("{expired} of them being cleaned"), &cleaning),
                Row::of(format!("{live} peers, after that"), &after),
            ],
            listing_few_us,
            listing_many_us,
        }
    }

    async fn register_servers(&self, kind: &str) {
        let requests = (0..STALE).map(|number| {
            self.daemon.engine().register_server(server(&format!("{kind}-{number}")), Proof::Token(None))
        });
        let mut answers = futures_util::stream::iter(requests).buffer_unordered(IN_FLIGHT);
        while let Some(answer) = answers.next().await {
            answer.expect("the server is registered");
        }
    }

    /// Transactions so far.
    async fn commits(&self) -> u64 {
        let metrics = self.admin.metrics().await.expect("the daemon's metrics");
        let name = "waypost_store_commit_seconds_count ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        value.expect("the metric is there")
    }

    async fn listings(&self) -> Listings {
        let request = get("/servers");
        let [mut first, mut calm, mut removal] = std::array::from_fn(|_| histogram());
        let micros = |from: Duration| (self.real.running() - from).as_micros() as u64;
        let (mut removed, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..self.arguments.listing_rounds {
            self.register_servers("stale").await;
            self.clock.step_wall(4 * MINUTE);
            self.register_servers("fresh").await;
            let mut http = self.connect().await;
            for _ in 0..3 {
                http.ask(&request).await;
            }
            self.clock.step_wall(2 * MINUTE);
            let (servers, count) = (self.servers().await, self.commits().await);
            assert_eq!(servers, 2 * STALE);
            let asked = self.real.running();
            http.ask(&request).await;
            first.saturating_record(micros(asked));
            // The removal is in the writer's queue before the listing's answer: whoever asks now comes behind it.
            self.daemon.engine().peer_stats(0).await.expect("the engine answers");
            removal.saturating_record(micros(asked));
            let count_now = self.commits().await;
            removed.push(servers - self.servers().await);
            commits.push(count_now - count);
            for number in 0..CALM_LISTINGS + 3 {
                let asked = self.real.running();
                http.ask(&request).await;
                if number >= 3 {
                    calm.saturating_record(micros(asked));
                }
            }
            self.clock.step_wall(10 * MINUTE);
            http.ask(&request).await;
            assert_eq!(self.servers().await, 0, "all are stale, and gone after a listing");
        }
        let p50 = |latencies: &Histogram<u64>| latencies.value_at_quantile(0.5);
        Listings {
            first_p50_us: p50(&first),
            first_max_us: first.max(),
            calm_p50_us: p50(&calm),
            calm_p99_us: calm.value_at_quantile(0.99),
            ratio: p50(&first) as f64 / p50(&calm) as f64,
            removed: range(&removed),
            commits: range(&commits),
            removal_p50_us: p50(&removal),
            removal_max_us: removal.max(),
        }
    }
}

fn server(id: &str) -> RegisterServer {
    let server = Server {
        endpoint: format!("wss://{id}.example.org:9000/ws"),
        public_key: "k".repeat(44),
        region: "unknown".to_owned(),
        counters: Counters::default(),
    };
    RegisterServer { id: ServerId::parse(id).expect("a server id"), server }
}

/// The same entries removed in three ways, straight on a store.
fn removals(rounds: usize) -> Removals {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&folder.path().join("store"), Faults::default()).expect("the store opens");
    let (real, mut now) = (Clock::system(), BEGINNING);
    let mut directory = Directory::new(DirectoryRules::default());
    let commit = |changes: &Changes| store.commit(changes).expect("a commit");
    let flush = || store.flush().expect("a flush");
    let mut times: [Histogram<u64>; 4] = std::array::from_fn(|_| histogram());
    for way in (0..rounds).flat_map(|_| 0..3) {
        let names = (0..REMOVED).map(|number| format!("server-{number}"));
        let ids: Vec<_> = names.clone().map(|id| ServerId::parse(&id).expect("a server id")).collect();
        let mut changes = Changes::default();
        for id in names {
            directory.register(now, server(&id), None, None, &mut changes).expect("there is room");
        }
        commit(&changes);
        flush();
        now += 6 * MINUTE.as_millis() as Millis;
        let started = real.running();
        if way == 0 {
            let mut changes = Changes::default();
            assert_eq!(directory.remove_stale(now, &mut changes), REMOVED);
            commit(&changes);
            times[3].saturating_record((real.running() - started).as_micros() as u64);
            flush();
        } else {
            for id in &ids {
                let mut changes = Changes::default();
                assert_eq!(directory.expire(id, now, &mut changes), Expired::Gone);
                commit(&changes);
                if way == 1 {
                    flush();
                }
            }
        }
        times[way].saturating_record((real.running() - started).as_micros() as u64);
        assert!(directory.is_empty());
    }
    let [batch_flushed_us, singly_flushed_us, singly_us, batch_us] =
        times.map(|times| times.value_at_quantile(0.5));
    Removals {
        batch_flushed_us,
        singly_flushed_us,
        ratio_flushed: singly_flushed_us as f64 / batch_flushed_us as f64,
        batch_us,
        singly_us,
        ratio: singly_us as f64 / batch_us as f64,
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("3 digits up to a minute")
}

fn range<T: Copy + Ord + TryInto<u64>>(values: &[T]) -> [u64; 2] {
    let number = |value: Option<&T>| value.and_then(|value| (*value).try_into().ok()).unwrap_or_default();
    [number(values.iter().min()), number(values.iter().max())]
}
