//! Owns the proof of the promise (protocol: signalling, section 4): the real binary is killed with kill -9 at random
//! moments under load, and whatever it had acknowledged is there, whole, after the next start; whatever it had not is
//! there wholly or not at all.
//!
//! `CRASH_ROUNDS` is the number of rounds, `CRASH_SEED` repeats the load of an earlier run.

#[path = "common/daemon.rs"]
mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use daemon::{Process, SOON, ask, connect};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use waypost::client::RawSocket;
use waypost::clock::Clock;
use waypost::store::{Faults, Store};

const PEERS: usize = 4;
/// Points and tokens of one peer: few, so that they are replaced often; in all no more than one message may name.
const POINTS: usize = 12;
const TOKENS: usize = 3;
const UNLIMITED: [&str; 2] = ["--set", "limits.messages_per_minute=0"];

/// What a peer has registered: dead drops by point ("" is none), and tokens.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    drops: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
}

impl Held {
    /// What is held after registering `new` too.
    fn and(&self, new: &Held) -> Held {
        let mut held = self.clone();
        held.drops.extend(new.drops.clone());
        held.tokens.extend(new.tokens.clone());
        held
    }

    /// What others can see of it.
    fn seen(&self) -> Held {
        let mut seen = self.clone();
        seen.drops.retain(|_, payload| !payload.is_empty());
        seen
    }
}

/// One peer over all rounds: what was acknowledged to it, and what it had asked for when it was cut off.
struct Peer {
    id: String,
    held: Held,
    asked: Option<Held>,
    count: usize,
    rng: StdRng,
}

impl Peer {
    fn new(number: usize, seed: u64) -> Peer {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        Peer { id: format!("peer-{number}"), held: Held::default(), asked: None, count: 0, rng }
    }

    fn points(&self) -> impl Iterator<Item = String> {
        (0..POINTS).map(|number| format!("{}-point-{number}", self.id))
    }

    fn tokens(&self) -> impl Iterator<Item = String> {
        (0..TOKENS).map(|number| format!("{}-token-{number}", self.id))
    }

    /// A registration of some of its points, each with a payload that never comes again, or with none.
    fn invent(&mut self) -> Held {
        self.count += 1;
        let mut new = Held::default();
        for point in self.points().collect::<Vec<_>>() {
            if self.rng.random_bool(0.3) {
                let payload = match self.rng.random_range(0..4) {
                    0 => String::new(),
                    size => format!("{} {point} {}", self.count, "x".repeat(10_usize.pow(size))),
                };
                new.drops.insert(point, payload);
            }
        }
        for token in self.tokens().collect::<Vec<_>>() {
            if self.rng.random_bool(0.3) {
                new.tokens.insert(token);
            }
        }
        new
    }

    /// Registers one thing after the other until the daemon is gone.
    async fn register_until_cut_off(mut self, address: SocketAddr, acknowledged: Arc<AtomicUsize>) -> Peer {
        // The others may have had enough acknowledged before this one was let in.
        let Ok(mut socket) = RawSocket::connect(&format!("ws://{address}/ws")).await else { return self };
        let Ok(_server_info) = socket.next_message(SOON).await else { return self };
        loop {
            let new = self.invent();
            let message = json!({"type": "register_rendezvous", "peerId": self.id,
                "dailyPoints": new.drops.keys().collect::<Vec<_>>(), "deadDrops": new.drops,
                "hourlyTokens": new.tokens});
            self.asked = Some(new.clone());
            if socket.send_json(&message).await.is_err() {
                return self;
            }
            let Ok(answer) = socket.next_message(SOON).await else { return self };
            assert_eq!(answer["type"], "rendezvous_result", "{answer}");
            self.held = self.held.and(&new);
            self.asked = None;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Holds what is there against what was acknowledged; what was under way has come to pass or it has not.
    fn compare(&mut self, found: &Held) {
        let with_asked = self.asked.take().map(|asked| self.held.and(&asked));
        if with_asked.as_ref().is_some_and(|held| held.seen() == *found) {
            self.held = with_asked.unwrap();
        }
        assert_eq!(
            self.held.seen(),
            *found,
            "{}: what is there is neither with nor without the last one",
            self.id
        );
    }
}

/// What somebody else finds of each peer.
async fn look(daemon: &Process, peers: &[Peer]) -> BTreeMap<String, Held> {
    let points: Vec<_> = peers.iter().flat_map(Peer::points).collect();
    let tokens: Vec<_> = peers.iter().flat_map(Peer::tokens).collect();
    let message = json!({"type": "register_rendezvous", "peerId": "seeker", "dailyPoints": points, "hourlyTokens": tokens});
    let result = ask(&mut connect(daemon.public).await, message).await;
    assert_eq!(
        (&result["type"], &result["truncated"]),
        (&json!("rendezvous_result"), &Value::Null),
        "{result}"
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found: BTreeMap<String, Held> = BTreeMap::new();
    for drop in result["deadDrops"].as_array().unwrap() {
        let held = found.entry(text(&drop["peerId"])).or_default();
        let before = held.drops.insert(text(&drop["meetingPoint"]), text(&drop["deadDrop"]));
        assert_eq!(before, None, "a point holds one entry of a peer");
    }
    for live in result["liveMatches"].as_array().unwrap() {
        found.entry(text(&live["peerId"])).or_default().tokens.insert(text(&live["meetingPoint"]));
    }
    found
}

/// While nobody has the store open.
fn check(data: &Path) {
    let store = Store::open(&Process::store(data), Faults::default()).unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_before_a_kill_is_there_whole_after_it() {
    let clock = Clock::system();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(30);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut peers: Vec<_> = (0..PEERS).map(|number| Peer::new(number, seed)).collect();
    let mut total = 0;
    for round in 0..rounds {
        println!("round {round}");
        if round % 3 == 2 {
            // Killed while it starts, wherever it is then.
            let mut starting = Process::command(data.path(), &UNLIMITED).spawn().unwrap();
            clock.sleep(Duration::from_micros(rng.random_range(0..60_000))).await;
            starting.kill().unwrap();
            starting.wait().unwrap();
        }
        let daemon = Process::start(data.path(), &UNLIMITED);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (address, enough) = (daemon.public, rng.random_range(0..200));
        let running = peers
            .drain(..)
            .map(|peer| tokio::spawn(peer.register_until_cut_off(address, acknowledged.clone())));
        let running: Vec<_> = running.collect();
        while acknowledged.load(Ordering::Relaxed) < enough && !running.iter().any(|peer| peer.is_finished())
        {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
        daemon.kill();
        for peer in running {
            peers.push(peer.await.unwrap());
        }
        total += acknowledged.load(Ordering::Relaxed);

        check(data.path());
        let daemon = Process::start(data.path(), &UNLIMITED);
        let mut found = look(&daemon, &peers).await;
        for peer in &mut peers {
            peer.compare(&found.remove(&peer.id).unwrap_or_default());
        }
        assert_eq!(found, BTreeMap::new(), "nobody else is there");
        daemon.kill();
    }
    check(data.path());
    println!("{total} acknowledged registrations");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}

#[tokio::test]
async fn a_relay_and_its_load_are_on_the_disk_half_a_second_later() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let mut relay = connect(daemon.public).await;
    ask(&mut relay, json!({"type": "register", "peerId": "relay"})).await;
    ask(&mut relay, json!({"type": "update_load", "peerId": "relay", "connectedCount": 5})).await;
    // The promise is about the time that passes for the disk: there is no clock to move.
    Clock::system().sleep(Duration::from_millis(500)).await;
    daemon.kill();
    let daemon = Process::start(data.path(), &[]);
    let answer = ask(&mut connect(daemon.public).await, json!({"type": "get_relays"})).await;
    assert_eq!(answer["relays"], json!([{"peerId": "relay", "publicKey": null, "capacity": 0.25}]));
}
