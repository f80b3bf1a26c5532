//! Random operations against the engine and against a naive model of it: both answer alike, and after every step the
//! rows say what memory says. Grows with every registry.

#[path = "model/http.rs"]
mod http;
#[path = "model/link.rs"]
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HttpModel, HttpStep, http_step, register_peer};
use link::{LinkModel, LinkStep, MAX_PHONES, link_step};
use proptest::prelude::*;
use rand::SeedableRng;
use waypost::clock::Clock;
use waypost::engine::{Engine, Joined, Options};
use waypost::id::{PeerId, SocketId};
use waypost::limits::Limits;
use waypost::metrics::Metrics;
use waypost::store::Faults;
use waypost::wire::signalling::{GetRelays, Point, Register, RegisterRendezvous, ServerMessage, UpdateLoad};

const PEERS: [&str; 4] = ["ann", "bob", "cat", "dan"];
const MINUTE: u64 = 60_000;
const DAILY: u64 = 48 * 60 * MINUTE;
const HOURLY: u64 = 3 * 60 * MINUTE;
const GRACE: u64 = 30_000;

#[derive(Clone, Debug)]
enum Step {
    Register {
        peer: usize,
        max: u32,
        key: Option<u8>,
    },
    Load {
        peer: usize,
        count: u32,
    },
    Meet(Meet),
    Leave {
        peer: usize,
    },
    /// Another socket with the resume token, if the peer is here.
    TakeOver {
        peer: usize,
    },
    Advance {
        minutes: u64,
    },
    /// As `Advance`, without a backup sweep.
    Wait {
        minutes: u64,
    },
    Http(HttpStep),
    /// The next commit fails: a peer's registration is refused, and nothing is cleaned.
    FailingPeer {
        node: usize,
    },
    Link(LinkStep),
    /// The next commit fails: a binary is not told that it holds the id.
    FailingClaim {
        id: usize,
    },
    /// The next flush fails: the same, but the rows may have lasted.
    UnflushedClaim {
        id: usize,
    },
    /// The next commit fails: that of a binary's end.
    FailingClose {
        id: usize,
    },
    Sweep,
    Restart,
    /// The next commit fails: a registration is refused whole.
    FailingMeet(Meet),
    /// The next flush fails: nothing was promised, but the rows may have lasted.
    FailingFlush(Meet),
}

#[derive(Clone, Debug)]
struct Meet {
    peer: usize,
    points: BTreeSet<u8>,
    tokens: BTreeSet<u8>,
    /// 0 leaves no dead drop.
    payload: u8,
}

fn meet() -> impl Strategy<Value = Meet> {
    let names = || proptest::collection::btree_set(0..4_u8, 0..4);
    (0..PEERS.len(), names(), names(), 0..3_u8).prop_map(|(peer, points, tokens, payload)| Meet {
        peer,
        points,
        tokens,
        payload,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..PEERS.len();
    prop_oneof![
        4 => (peer(), 1..5_u32, proptest::option::of(0..2_u8))
            .prop_map(|(peer, max, key)| Step::Register { peer, max, key }),
        2 => (peer(), 0..4_u32).prop_map(|(peer, count)| Step::Load { peer, count }),
        8 => meet().prop_map(Step::Meet),
        3 => peer().prop_map(|peer| Step::Leave { peer }),
        1 => peer().prop_map(|peer| Step::TakeOver { peer }),
        3 => prop_oneof![Just(0), Just(1), Just(179), Just(181), Just(47 * 60), Just(49 * 60)]
            .prop_map(|minutes| Step::Advance { minutes }),
        3 => prop_oneof![Just(1), Just(4), Just(6), Just(9), Just(11), Just(29)]
            .prop_map(|minutes| Step::Wait { minutes }),
        12 => http_step().prop_map(Step::Http),
        1 => (0..4_usize).prop_map(|node| Step::FailingPeer { node }),
        14 => link_step().prop_map(Step::Link),
        2 => (0..3_usize).prop_map(|id| Step::FailingClaim { id }),
        1 => (0..3_usize).prop_map(|id| Step::UnflushedClaim { id }),
        1 => (0..3_usize).prop_map(|id| Step::FailingClose { id }),
        2 => Just(Step::Sweep),
        2 => Just(Step::Restart),
        1 => meet().prop_map(Step::FailingMeet),
        1 => meet().prop_map(Step::FailingFlush),
    ]
}

/// What the naive model knows of one peer at one point or token.
#[derive(Clone, Debug)]
struct Entry {
    peer: usize,
    payload: u8,
    end: u64,
    boot: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Relay {
    max: u32,
    count: u32,
    key: Option<u8>,
    boot: u64,
}

/// Entries per name, the oldest first.
#[derive(Clone, Default)]
struct Model {
    points: BTreeMap<u8, Vec<Entry>>,
    tokens: BTreeMap<u8, Vec<Entry>>,
    relays: BTreeMap<usize, Relay>,
    http: HttpModel,
    boot: u64,
    live_since: u64,
    grace_end: u64,
}

impl Model {
    fn live(&self, boot: u64, now: u64) -> bool {
        boot == self.boot || (boot >= self.live_since && now < self.grace_end)
    }

    fn drops_for(&self, meet: &Meet, now: u64) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for point in &meet.points {
            for entry in self.points.get(point).into_iter().flatten() {
                if entry.peer != meet.peer && entry.payload > 0 && entry.end > now {
                    found.push((PEERS[entry.peer].into(), payload(entry.payload), format!("p{point}")));
                }
            }
        }
        found
    }

    fn matches_for(&self, meet: &Meet, now: u64) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for token in &meet.tokens {
            for entry in self.tokens.get(token).into_iter().flatten() {
                if entry.peer != meet.peer && entry.end > now && self.live(entry.boot, now) {
                    found.push((PEERS[entry.peer].into(), format!("t{token}")));
                }
            }
        }
        found
    }

    fn enter(&mut self, meet: &Meet, now: u64) {
        let boot = self.boot;
        let halves = [(&mut self.points, &meet.points, DAILY), (&mut self.tokens, &meet.tokens, HOURLY)];
        for (map, names, ttl) in halves {
            for name in names {
                let entries = map.entry(*name).or_default();
                entries.retain(|entry| entry.peer != meet.peer);
                entries.push(Entry { peer: meet.peer, payload: meet.payload, end: now + ttl, boot });
            }
        }
    }

    fn leave(&mut self, peer: usize) {
        self.relays.remove(&peer);
        self.tokens.values_mut().for_each(|entries| entries.retain(|entry| entry.peer != peer));
    }

    /// Who is offered as a relay to `asker`.
    fn offered(&self, asker: usize, now: u64) -> BTreeSet<String> {
        let offered = self.relays.iter().filter(|(peer, relay)| {
            **peer != asker && relay.count * 2 < relay.max && self.live(relay.boot, now)
        });
        offered.map(|(peer, _)| PEERS[*peer].to_owned()).collect()
    }
}

fn payload(number: u8) -> String {
    format!("drop {number}")
}

fn id(peer: usize) -> PeerId {
    PeerId::parse(PEERS[peer]).unwrap()
}

struct Bench<'a> {
    folder: &'a Path,
    clock: Clock,
    faults: Faults,
    metrics: Arc<Metrics>,
    engine: Engine,
    sockets: BTreeMap<usize, (Joined, Option<String>)>,
    /// Peers whose socket has taken its id.
    held: BTreeSet<usize>,
    link: LinkModel,
    model: Model,
}

fn start(folder: &Path, clock: &Clock, faults: &Faults, metrics: &Arc<Metrics>) -> Engine {
    let mut limits = Limits::default();
    limits.sweep.max_batch = 3;
    limits.sweep.interval = Duration::from_secs(1_000_000_000);
    limits.peers.backup_sweep = Duration::from_secs(1_000_000_000);
    limits.link.max_phones = MAX_PHONES;
    let options = Options {
        store: folder.join("store"),
        limits,
        clock: clock.clone(),
        metrics: metrics.clone(),
        rng: rand::rngs::StdRng::seed_from_u64(7),
        faults: faults.clone(),
        server_id: "ed25519:test".into(),
    };
    Engine::start(options).unwrap()
}

impl<'a> Bench<'a> {
    fn new(folder: &'a Path) -> Bench<'a> {
        let (clock, faults) = (Clock::manual(1_000_000 * MINUTE), Faults::default());
        let metrics = Arc::new(Metrics::default());
        let engine = start(folder, &clock, &faults, &metrics);
        let model = Model { boot: 1, grace_end: clock.now() + GRACE, ..Model::default() };
        Bench {
            folder,
            link: LinkModel::new(&clock),
            clock,
            faults,
            metrics,
            engine,
            sockets: BTreeMap::new(),
            held: BTreeSet::new(),
            model,
        }
    }

    fn socket(&mut self, peer: usize) -> SocketId {
        let engine = &self.engine;
        let join = || (engine.join(IpAddr::V4(Ipv4Addr::LOCALHOST)), None);
        self.sockets.entry(peer).or_insert_with(join).0.outbox.socket
    }

    async fn meet(&mut self, meet: &Meet) -> ServerMessage {
        let socket = self.socket(meet.peer);
        let drop = (meet.payload > 0 && !meet.points.is_empty()).then_some(0);
        let request = RegisterRendezvous {
            peer_id: id(meet.peer),
            relay_id: String::new(),
            points: meet
                .points
                .iter()
                .map(|point| Point { name: format!("p{point}"), payload: drop })
                .collect(),
            tokens: meet.tokens.iter().map(|token| format!("t{token}")).collect(),
            payloads: drop.map(|_| payload(meet.payload)).into_iter().collect(),
            resume_token: None,
        };
        let answer = self.engine.register_rendezvous(socket, request).await;
        self.held.insert(meet.peer);
        if let ServerMessage::RendezvousResult { resume_token: Some(token), .. } = &answer
            && let Some(socket) = self.sockets.get_mut(&meet.peer)
        {
            socket.1 = Some(token.clone());
        }
        answer
    }

    async fn run(&mut self, step: &Step) {
        let now = self.clock.now();
        match step {
            Step::Register { peer, max, key } => {
                let socket = self.socket(*peer);
                let public_key = key.map(|key| format!("key {key}"));
                let request =
                    Register { peer_id: id(*peer), max_connections: *max, public_key, resume_token: None };
                let ServerMessage::Registered { relays, resume_token, .. } =
                    self.engine.register(socket, request).await
                else {
                    panic!("a peer on its own socket is registered");
                };
                self.sockets.get_mut(peer).unwrap().1 = Some(resume_token);
                self.held.insert(*peer);
                let old = self.model.relays.get(peer);
                let goes_on = old.filter(|old| {
                    old.boot == self.model.boot || (self.model.live(old.boot, now) && old.key == *key)
                });
                let count = goes_on.map_or(0, |old| old.count);
                self.model.relays.insert(*peer, Relay { max: *max, count, key: *key, boot: self.model.boot });
                let offered: BTreeSet<String> =
                    relays.unwrap().into_iter().map(|relay| relay.peer_id).collect();
                assert_eq!(offered, self.model.offered(*peer, now));
            }
            Step::Load { peer, count } => {
                let socket = self.socket(*peer);
                let request = UpdateLoad { peer_id: PEERS[*peer].into(), connected_count: f64::from(*count) };
                let answer = self.engine.update_load(socket, request).await;
                let boot = self.model.boot;
                match self.model.relays.get_mut(peer).filter(|relay| relay.boot == boot) {
                    Some(relay) => {
                        assert!(matches!(answer, ServerMessage::LoadUpdated { .. }), "{answer:?}");
                        relay.count = *count;
                    }
                    None => assert!(matches!(answer, ServerMessage::Error(_)), "{answer:?}"),
                }
            }
            Step::Meet(meet) => {
                let answer = self.meet(meet).await;
                self.compare(meet, answer, now);
                self.model.enter(meet, now);
            }
            Step::Leave { peer } => {
                self.sockets.remove(peer);
                if self.held.remove(peer) {
                    self.model.leave(*peer);
                }
            }
            Step::TakeOver { peer } => {
                let Some((_, Some(token))) = self.sockets.get(peer) else { return };
                let token = token.clone();
                let new = self.engine.join(IpAddr::V4(Ipv4Addr::LOCALHOST));
                let request = RegisterRendezvous {
                    peer_id: id(*peer),
                    relay_id: String::new(),
                    points: vec![],
                    tokens: vec![],
                    payloads: vec![],
                    resume_token: Some(token),
                };
                let answer = self.engine.register_rendezvous(new.outbox.socket, request).await;
                let ServerMessage::RendezvousResult { resume_token, .. } = answer else {
                    panic!("{answer:?}")
                };
                // The late exit of the old socket changes nothing.
                self.sockets.insert(*peer, (new, resume_token));
            }
            Step::Advance { minutes } => {
                self.clock.advance(Duration::from_millis(minutes * MINUTE + 1));
                // The sweeper does this by itself, but when exactly is its own affair.
                self.sweep().await;
            }
            Step::Wait { minutes } => {
                self.clock.advance(Duration::from_millis(minutes * MINUTE + 1));
                self.engine.sweep_expiry().await.unwrap();
                self.swept();
            }
            Step::Http(step) => self.model.http.run(&self.engine, step, now).await,
            Step::FailingPeer { node } => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_write(1);
                let answer = register_peer(&self.engine, *node, 1, None).await;
                self.faults.fail_write(i64::MAX);
                self.recovered(failures + 1).await;
                match answer {
                    Err(problem) => assert_eq!(problem.refusal.code, "storage_unavailable"),
                    // The sweeper's own write met the fault, and this one came after the recovery.
                    Ok(answer) => self.model.http.registered(*node, 1, None, &answer, now),
                }
            }
            Step::Link(step) => {
                self.link.run(&self.engine, step).await;
                if self.clock.now() > now {
                    self.engine.sweep_expiry().await.unwrap();
                    self.swept();
                }
            }
            Step::FailingClaim { id } | Step::UnflushedClaim { id } if self.link.is_held(*id) => {}
            Step::FailingClaim { id } => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_write(1);
                self.link.failing_claim(&self.engine, *id, false).await;
                self.recovered(failures + 1).await;
            }
            Step::UnflushedClaim { id } => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_flush(1);
                self.link.failing_claim(&self.engine, *id, true).await;
                self.recovered(failures + 1).await;
            }
            Step::FailingClose { id } if self.link.is_held(*id) => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_write(1);
                self.link.close(*id);
                self.recovered(failures + 1).await;
            }
            Step::FailingClose { .. } => {}
            Step::Sweep => self.sweep().await,
            Step::Restart => {
                self.engine.drain().await;
                self.sockets.clear();
                self.held.clear();
                self.link.restart();
                self.engine.stop().await;
                self.engine = start(self.folder, &self.clock, &self.faults, &self.metrics);
                self.model.boot += 1;
                self.model.grace_end = now + GRACE;
            }
            Step::FailingMeet(meet) => {
                let changes = !meet.points.is_empty() || !meet.tokens.is_empty();
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_write(1);
                let held_before = self.held.contains(&meet.peer);
                let answer = self.meet(meet).await;
                self.faults.fail_write(i64::MAX);
                if changes && !matches!(answer, ServerMessage::Error(_)) {
                    // The sweeper's own write met the fault, and this one came after the recovery.
                    self.recovered(failures + 1).await;
                    self.compare(meet, answer, now);
                    self.model.enter(meet, now);
                } else if changes {
                    self.recovered(failures + 1).await;
                    assert_refused(&answer);
                    if !held_before {
                        self.held.remove(&meet.peer);
                    }
                } else {
                    self.compare(meet, answer, now);
                }
            }
            // A request without rows has nothing to flush.
            Step::FailingFlush(meet) if meet.points.is_empty() && meet.tokens.is_empty() => {}
            Step::FailingFlush(meet) => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_flush(1);
                let held_before = self.held.contains(&meet.peer);
                let answer = self.meet(meet).await;
                self.recovered(failures + 1).await;
                // Not promised, but this disk keeps what it was given.
                self.model.enter(meet, now);
                if !matches!(answer, ServerMessage::Error(_)) {
                    // A flush that nobody waited for met the fault, and this one came after the recovery.
                    return;
                }
                assert_refused(&answer);
                if !held_before {
                    // The id was given back, and with it what is live.
                    self.held.remove(&meet.peer);
                    let boot = self.model.boot;
                    let stays = |entry: &Entry| entry.peer != meet.peer || entry.boot != boot;
                    self.model.tokens.values_mut().for_each(|entries| entries.retain(stays));
                }
            }
        }
    }

    async fn sweep(&mut self) {
        self.engine.sweep().await.unwrap();
        self.model.http.sweep(self.clock.now());
        self.swept();
    }

    fn swept(&mut self) {
        self.link.swept();
        if self.clock.now() >= self.model.grace_end {
            self.model.live_since = self.model.boot;
        }
    }

    fn compare(&self, meet: &Meet, answer: ServerMessage, now: u64) {
        let ServerMessage::RendezvousResult { live_matches, dead_drops, .. } = answer else {
            panic!("{answer:?}");
        };
        let drops = dead_drops.into_iter().map(|drop| (drop.peer_id, drop.dead_drop, drop.meeting_point));
        assert_eq!(drops.collect::<Vec<_>>(), self.model.drops_for(meet, now), "dead drops for {meet:?}");
        let matches = live_matches.into_iter().map(|found| (found.peer_id, found.meeting_point));
        assert_eq!(matches.collect::<Vec<_>>(), self.model.matches_for(meet, now), "matches for {meet:?}");
    }

    /// Until the engine has met so many storage failures and is over the last one.
    async fn recovered(&self, failures: u64) {
        while self.metrics.storage_failures.get() < failures || !self.engine.is_ready() {
            tokio::task::yield_now().await;
        }
    }

    async fn assert_consistent(&mut self, step: &Step) {
        self.model.http.compare(&self.engine, self.clock.now()).await;
        self.link.compare(&self.engine).await;
        let checked = self.engine.check().await.unwrap();
        assert_eq!(checked.report.problems, vec![], "after {step:?}");
        assert!(checked.memory_agrees, "the rows and memory differ after {step:?}");
        let now = self.clock.now();
        let asked = GetRelays { peer_id: None, count: 100 };
        let ServerMessage::Relays { relays } = self.engine.get_relays(asked).await else { panic!() };
        let offered: BTreeSet<String> = relays.into_iter().map(|relay| relay.peer_id).collect();
        assert_eq!(offered, self.model.offered(usize::MAX, now), "relays after {step:?}");
    }
}

fn assert_refused(answer: &ServerMessage) {
    let ServerMessage::Error(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, "storage_unavailable");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_answers_as_the_model_and_the_rows_say_what_memory_says(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(folder.path());
            for step in &steps {
                bench.run(step).await;
                bench.assert_consistent(step).await;
            }
            bench.engine.stop().await;
        });
    }
}
