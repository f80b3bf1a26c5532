//! How often memory is asked for, and how much of it: for each message decoded, encoded, sent to many, for each call of a
//! registry, and for each request through the whole engine.
//!
//! Owns what is counted. Every block counts, in all threads, one that grows once more with all its bytes. Run it with
//! `cargo bench --bench allocations`; it counts rather than measures, so that any build and any machine will do.

#[path = "common/messages.rs"]
mod messages;
#[path = "common/registrations.rs"]
mod registrations;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use dhat::HeapStats;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use waypost::clock::Clock;
use waypost::engine::{Engine, Joined, Options};
use waypost::id::{PeerId, SocketId};
use waypost::limits::{Limits, RendezvousRules};
use waypost::live::outbox::{Budget, Ceiling, Close, Outbox, weight};
use waypost::logging::Blur;
use waypost::metrics::Metrics;
use waypost::store::{Changes, Faults};
use waypost::wire::signalling::{
    GetRelays, Match, Register, RegisterRendezvous, ServerMessage, UpdateLoad, decode, encode,
};

use registrations::{
    DRAIN, NOW, Names, Ring, at_token, enter_relays, register, registration, registries, relay,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// How often each thing is done; what is told is the mean.
const ROUNDS: usize = 50;
/// Whom a message is sent to.
const RECIPIENTS: usize = 64;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn main() {
    let _counting = dhat::Profiler::builder().testing().trim_backtraces(Some(1)).build();
    for part in [decoding, encoding, of_registries, of_a_fan_out, of_the_engine] {
        println!("{}\n", part().trim_fmt());
    }
}

fn table(head: [&str; 2]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([head[0], head[1], "allocations", "bytes allocated"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn add(table: &mut Table, name: &str, size: impl ToString, [blocks, bytes]: [f64; 2]) {
    table.add_row([name.to_owned(), size.to_string(), format!("{blocks:.1}"), format!("{bytes:.0}")]);
}

/// Blocks and bytes of one of so many calls, once nothing is done for the first time any more.
fn count(times: usize, mut run: impl FnMut()) -> [f64; 2] {
    run();
    let before = HeapStats::get();
    (0..times).for_each(|_| run());
    let after = HeapStats::get();
    let [blocks, bytes] = [after.total_blocks - before.total_blocks, after.total_bytes - before.total_bytes];
    [blocks as f64 / times as f64, bytes as f64 / times as f64]
}

fn per(count: usize, cost: [f64; 2]) -> [f64; 2] {
    cost.map(|cost| cost / count as f64)
}

fn decoding() -> Table {
    let rules = RendezvousRules::default();
    let mut table = table(["decode", "bytes"]);
    for sample in messages::from_clients() {
        let cost = count(ROUNDS, || drop(black_box(decode(Some(&sample.message), &rules))));
        add(&mut table, &sample.name, sample.message.len(), cost);
    }
    table
}

fn encoding() -> Table {
    let mut table = table(["encode", "bytes"]);
    for sample in messages::from_server() {
        let cost = count(ROUNDS, || drop(black_box(encode(&sample.message))));
        add(&mut table, &sample.name, encode(&sample.message).len(), cost);
    }
    table
}

/// Calls of the registries, with the rows that they leave to be written; so many to a transaction.
fn of_registries() -> Table {
    let mut names = Names::new();
    let mut registries = registries();
    let known = enter_relays(&mut registries, &mut names, 100);
    let mut table = table(["registry", "rows"]);
    let mut row = |name: &str, request: &mut dyn FnMut(&mut Changes)| {
        let mut rows = 0;
        let cost = count(ROUNDS, || {
            let mut changes = Changes::default();
            (0..DRAIN).for_each(|_| request(&mut changes));
            rows = changes.rows() / DRAIN;
        });
        add(&mut table, name, rows, per(DRAIN, cost));
    };

    let new: Vec<RegisterRendezvous> = (0..(ROUNDS + 1) * DRAIN)
        .map(|_| {
            let peer = names.peer();
            registration(&mut names, peer)
        })
        .collect();
    let mut new = new.iter();
    row("rendezvous: new", &mut |changes| {
        drop(register(&mut registries, new.next().expect("enough of them"), changes));
    });
    let mut ring = Ring::of_scenario(&mut names);
    ring.register(&mut registries, ring.len());
    row("rendezvous: replacing its former self", &mut |changes| {
        drop(register(&mut registries, ring.next(), changes));
    });
    let mut pairs = Ring::of_pairs(&mut names);
    pairs.register(&mut registries, pairs.len());
    row("rendezvous: token that another holds", &mut |changes| {
        drop(register(&mut registries, pairs.next(), changes));
    });
    let relays = &mut registries.relays;
    row("relay: again", &mut |changes| relays.register(NOW, relay(known[0].clone()), changes));
    row("relay: load", &mut |_| assert!(relays.update_load(&known[0], 3.0)));
    let mut rng = StdRng::seed_from_u64(7);
    row("relay: sample of 10", &mut |_| drop(relays.sample(NOW, Some(known[0].as_str()), 10, &mut rng)));
    table
}

/// A push to everybody at a token: encoded once, then queued for each.
fn of_a_fan_out() -> Table {
    let budget = Budget::new(Limits::default().connections.outbox_total_bytes, Arc::new(Metrics::default()));
    let ceiling = Ceiling { bytes: 1 << 20, full: Close::SLOW_CONSUMER };
    let outbox = |number| Outbox::new(SocketId(number), LOCALHOST, Duration::ZERO, ceiling, budget.clone());
    let outboxes: Vec<Arc<Outbox>> = (1..=RECIPIENTS as u64).map(outbox).collect();
    let mut names = Names::new();
    let matched = Match { peer_id: names.name(), relay_id: String::new(), meeting_point: names.name() };
    let push = ServerMessage::RendezvousMatch { r#match: matched };
    let mut table = table(["a push to all at a token", "recipients"]);
    for recipients in [1, RECIPIENTS] {
        let cost = count(ROUNDS, || {
            let text = Utf8Bytes::from(encode(&push));
            for outbox in &outboxes[..recipients] {
                outbox.try_send(text.clone()).expect("room in the outbox");
            }
            for outbox in &outboxes[..recipients] {
                let sent = outbox.next().expect("what was queued");
                outbox.sent(weight(&sent));
            }
        });
        add(&mut table, "encoded and queued, per push", recipients, cost);
        add(&mut table, "encoded and queued, per recipient", recipients, per(recipients, cost));
    }
    table
}

/// Requests from the session's call to its answer, in all threads, sled's too; so many at once.
fn of_the_engine() -> Table {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let runtime = Runtime::new().expect("a runtime");
    let options = Options {
        store: folder.path().join("store"),
        limits: Limits::default(),
        clock: Clock::system(),
        metrics: Arc::new(Metrics::default()),
        rng: StdRng::seed_from_u64(7),
        faults: Faults::default(),
        server_id: "bench".to_owned(),
        blur: Blur::new(false),
    };
    let engine = runtime.block_on(async { Engine::start(options) }).expect("the engine starts");
    let mut names = Names::new();
    let joined: Vec<Joined> = (0..DRAIN).map(|_| engine.join(LOCALHOST)).collect();
    let peers: Vec<(SocketId, PeerId)> =
        joined.iter().map(|joined| (joined.outbox.socket, names.peer())).collect();

    ask(&runtime, peers.iter().map(|(socket, id)| engine.register(*socket, a_relay(id))));
    let mut table = table(["engine, all threads", "at once"]);
    let mut row =
        |name: &str, run: &mut dyn FnMut()| add(&mut table, name, DRAIN, per(DRAIN, count(ROUNDS, run)));
    row("get_relays", &mut || {
        ask(&runtime, peers.iter().map(|_| engine.get_relays(GetRelays { peer_id: None, count: 10 })));
    });
    row("update_load", &mut || {
        let load = |id: &PeerId| UpdateLoad { peer_id: id.as_str().to_owned(), connected_count: 3.0 };
        ask(&runtime, peers.iter().map(|(socket, id)| engine.update_load(*socket, load(id))));
    });
    let meetings = peers.iter().map(|(_, id)| registration(&mut names, id.clone())).collect();
    let tokens = peers.iter().map(|(_, id)| at_token(id.clone(), names.name())).collect();
    for (name, requests) in
        [("rendezvous: replacing its former self", meetings), ("rendezvous: 1 token", tokens)]
    {
        // Made beforehand: what a request itself takes is counted where it is decoded.
        let mut rounds = vec![requests; ROUNDS + 1].into_iter();
        row(name, &mut || {
            let requests: Vec<RegisterRendezvous> = rounds.next().expect("enough of them");
            let asked = requests.into_iter().zip(&peers);
            ask(&runtime, asked.map(|(request, (socket, _))| engine.register_rendezvous(*socket, request)));
        });
    }
    drop(joined);
    runtime.block_on(engine.stop());
    table
}

fn a_relay(id: &PeerId) -> Register {
    let public_key = Some("A".repeat(44));
    Register { peer_id: id.clone(), max_connections: 20, public_key, resume_token: None }
}

/// All at once, until the last answer.
fn ask(runtime: &Runtime, requests: impl Iterator<Item = impl Future<Output = ServerMessage>>) {
    for answer in runtime.block_on(join_all(requests)) {
        assert!(!matches!(answer, ServerMessage::Error(_)), "{answer:?}");
    }
}
