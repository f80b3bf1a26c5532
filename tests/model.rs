//! Random operations against the engine and against a naive model of it: both answer alike, and after every step the
//! rows say what memory says. Grows with every registry.

#[path = "model/chunks.rs"]
mod chunks;
#[path = "model/elsewhere.rs"]
mod elsewhere;
#[path = "model/http.rs"]
mod http;
#[path = "model/link.rs"]
mod link;
#[path = "model/peers.rs"]
mod peers;
#[path = "model/rendezvous.rs"]
mod rendezvous;
#[path = "model/steps.rs"]
mod steps;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chunks::{BUDGET, ChunkModel, ChunkStep, Push};
use elsewhere::Way;
use http::{HttpModel, register_peer};
use link::{LinkModel, MAX_PHONES};
use peers::{PEERS, Peers, id, join};
use proptest::prelude::*;
use rand::SeedableRng;
use rendezvous::{Meet, Model, Relay, payload};
use steps::{Step, step};
use waypost::clock::Clock;
use waypost::engine::{Engine, Options};
use waypost::limits::Limits;
use waypost::logging::Blur;
use waypost::metrics::Metrics;
use waypost::store::Faults;
use waypost::wire::signalling::{GetRelays, Point, Register, RegisterRendezvous, ServerMessage, UpdateLoad};

const MINUTE: u64 = 60_000;
const GRACE: u64 = 30_000;

struct Bench<'a> {
    folder: &'a Path,
    clock: Clock,
    faults: Faults,
    metrics: Arc<Metrics>,
    engine: Engine,
    peers: Peers,
    model: Model,
    http: HttpModel,
    link: LinkModel,
    chunks: ChunkModel,
}

fn start(folder: &Path, clock: &Clock, faults: &Faults, metrics: &Arc<Metrics>) -> Engine {
    let mut limits = Limits::default();
    limits.sweep.max_batch = 3;
    limits.sweep.interval = Duration::from_secs(1_000_000_000);
    limits.peers.backup_sweep = Duration::from_secs(1_000_000_000);
    limits.link.max_phones = MAX_PHONES;
    limits.chunks.cache_bytes = BUDGET;
    let options = Options {
        store: folder.join("store"),
        limits,
        clock: clock.clone(),
        metrics: metrics.clone(),
        rng: rand::rngs::StdRng::seed_from_u64(7),
        faults: faults.clone(),
        server_id: "ed25519:test".into(),
        blur: Blur::new(false),
    };
    Engine::start(options).unwrap()
}

impl<'a> Bench<'a> {
    fn new(folder: &'a Path) -> Bench<'a> {
        let (clock, faults) = (Clock::manual(1_000_000 * MINUTE), Faults::default());
        let metrics = Arc::new(Metrics::default());
        let engine = start(folder, &clock, &faults, &metrics);
        let model = Model::new(clock.now() + GRACE);
        Bench {
            folder,
            http: HttpModel::default(),
            link: LinkModel::new(&clock),
            chunks: ChunkModel::new(&clock, &metrics),
            clock,
            faults,
            metrics,
            engine,
            peers: Peers::default(),
            model,
        }
    }

    async fn meet(&mut self, meet: &Meet) -> ServerMessage {
        let socket = self.peers.socket(&self.engine, meet.peer);
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
        let token = match &answer {
            ServerMessage::RendezvousResult { resume_token, .. } => resume_token.clone(),
            _ => None,
        };
        self.peers.took(meet.peer, token);
        answer
    }

    async fn run(&mut self, step: &Step) {
        let now = self.clock.now();
        match step {
            Step::Register { peer, max, key } => {
                let socket = self.peers.socket(&self.engine, *peer);
                let public_key = key.map(|key| format!("key {key}"));
                let request =
                    Register { peer_id: id(*peer), max_connections: *max, public_key, resume_token: None };
                let ServerMessage::Registered { relays, resume_token, .. } =
                    self.engine.register(socket, request).await
                else {
                    panic!("a peer on its own socket is registered");
                };
                self.peers.took(*peer, Some(resume_token));
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
                let socket = self.peers.socket(&self.engine, *peer);
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
                self.model.compare(meet, answer, now);
                self.model.enter(meet, now);
            }
            Step::Leave { peer } => {
                self.peers.sockets.remove(peer);
                self.chunks.leave(*peer);
                if self.peers.held.remove(peer) {
                    self.model.leave(*peer);
                }
            }
            Step::TakeOver { peer } => {
                let Some((_, Some(token))) = self.peers.sockets.get(peer) else { return };
                let token = token.clone();
                let new = join(&self.engine);
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
                self.peers.sockets.insert(*peer, (new, resume_token));
                // What it has announced does not come along.
                self.chunks.leave(*peer);
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
            Step::Http(step) => self.http.run(&self.engine, step, now).await,
            Step::FailingPeer { node } => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_write(1);
                let answer = register_peer(&self.engine, *node, 1, None).await;
                self.faults.fail_write(i64::MAX);
                self.recovered(failures + 1).await;
                match answer {
                    Err(problem) => assert_eq!(problem.refusal.code, "storage_unavailable"),
                    // The sweeper's own write met the fault, and this one came after the recovery.
                    Ok(answer) => self.http.registered(*node, 1, None, &answer, now),
                }
            }
            Step::Link(step) => {
                self.link.run(&self.engine, step).await;
                self.sweep_if_later_than(now).await;
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
            Step::Chunks(steps) => self.run_chunks(steps).await,
            Step::ChunksOverRestart(before, after) => {
                self.run_chunks(before).await;
                self.restart(None).await;
                self.run_chunks(after).await;
            }
            Step::FailingPush(push) => self.failing_push(push, false).await,
            Step::UnflushedPush(push) => self.failing_push(push, true).await,
            Step::Sweep => self.sweep().await,
            Step::Restart => self.restart(None).await,
            Step::Elsewhere(way) => self.restart(Some(*way)).await,
            // A request without rows has nothing to commit or flush.
            Step::FailingMeet(meet) | Step::FailingFlush(meet)
                if meet.points.is_empty() && meet.tokens.is_empty() => {}
            Step::FailingMeet(meet) => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_write(1);
                let held_before = self.peers.held.contains(&meet.peer);
                let answer = self.meet(meet).await;
                self.faults.fail_write(i64::MAX);
                self.recovered(failures + 1).await;
                if !matches!(answer, ServerMessage::Error(_)) {
                    // The sweeper's own write met the fault, and this one came after the recovery.
                    self.model.compare(meet, answer, now);
                    self.model.enter(meet, now);
                    return;
                }
                assert_refused(&answer);
                if !held_before {
                    self.peers.held.remove(&meet.peer);
                }
            }
            Step::FailingFlush(meet) => {
                let failures = self.metrics.storage_failures.get();
                self.faults.fail_flush(1);
                let held_before = self.peers.held.contains(&meet.peer);
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
                    self.peers.held.remove(&meet.peer);
                    self.model.give_back(meet.peer);
                }
            }
        }
    }

    async fn sweep(&mut self) {
        self.engine.sweep().await.unwrap();
        self.http.sweep(self.clock.now());
        self.swept();
    }

    fn swept(&mut self) {
        self.link.swept();
        if self.clock.now() >= self.model.grace_end {
            self.model.live_since = self.model.boot;
        }
    }

    async fn sweep_if_later_than(&mut self, before: u64) {
        if self.clock.now() > before {
            self.engine.sweep_expiry().await.unwrap();
            self.swept();
        }
    }

    async fn restart(&mut self, way: Option<Way>) {
        if let Some(Way::Backup) = way {
            elsewhere::back_up(&self.engine, self.folder).await;
        }
        self.engine.drain().await;
        self.peers.clear();
        self.link.restart();
        self.chunks.restart();
        self.engine.stop().await;
        match way {
            None => {}
            Some(Way::Backup) => elsewhere::restored(self.folder, &self.clock),
            Some(Way::Export) => elsewhere::carried(self.folder, &self.clock),
        }
        self.engine = start(self.folder, &self.clock, &self.faults, &self.metrics);
        self.model.boot += 1;
        self.model.grace_end = self.clock.now() + GRACE;
    }

    async fn run_chunks(&mut self, steps: &[ChunkStep]) {
        let before = self.clock.now();
        for step in steps {
            self.chunks.run(&self.engine, &mut self.peers, step).await;
        }
        self.sweep_if_later_than(before).await;
    }

    async fn failing_push(&mut self, push: &Push, lasts: bool) {
        if !self.chunks.prepare(&self.engine, &mut self.peers, push).await {
            return;
        }
        let failures = self.metrics.storage_failures.get();
        if lasts {
            self.faults.fail_flush(1)
        } else {
            self.faults.fail_write(1)
        }
        let answer = self.chunks.ask_to_push(&self.engine, &mut self.peers, push).await;
        self.ready_after(failures + 1).await;
        self.chunks.failed(&self.engine, push, answer, lasts).await;
    }

    /// Until the engine has met so many storage failures and is over the last one; what it has folded then is the rows.
    async fn recovered(&mut self, failures: u64) {
        self.ready_after(failures).await;
        self.chunks.folded();
    }

    async fn ready_after(&self, failures: u64) {
        while self.metrics.storage_failures.get() < failures {
            tokio::task::yield_now().await;
        }
        // Behind the writer's turn that has failed.
        self.engine.get_relays(GetRelays { peer_id: None, count: 1 }).await;
        while !self.engine.is_ready() {
            tokio::task::yield_now().await;
        }
    }

    async fn assert_consistent(&mut self, step: &Step) {
        self.http.compare(&self.engine, self.clock.now()).await;
        self.link.compare(&self.engine).await;
        self.chunks.compare(&self.engine, &self.peers).await;
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
