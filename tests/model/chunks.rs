//! The chunks' part of the random-operation model: what is cached, who announced it, and who listens.
//!
//! Owns a naive map of what must be cached and the comparison with what the engine says (`chunks/steps.rs` has the steps).
//! Must not know the other parts.

#[path = "chunks/steps.rs"]
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use waypost::clock::Clock;
use waypost::engine::{Engine, Joined, LeaseQuery};
use waypost::id::{ChunkName, Kind};
use waypost::metrics::Metrics;
use waypost::wire::signalling::{ChunkAnnounce, ChunkPush, ChunkSource, ServerMessage};

use crate::MINUTE;
use crate::peers::{PEERS, Peers, id, join, told_of_chunks};
pub use steps::{ChunkStep, Push, chunk_step, push};

const NAMES: [(&str, &str); 5] = [("", "a"), ("c", "a"), ("c", "b"), ("c", "d"), ("\u{e4}", "\0")];
const CHANNELS: [&str; 2] = ["c", "\u{e4}"];
/// Of data; with the last one a record takes two rows.
const SIZES: [usize; 4] = [0, 1000, 2500, 5000];
/// What a chunk weighs beside its data and names.
const ONE: u64 = 1024;
/// Of the whole cache; the engine of the model is started with it.
pub const BUDGET: u64 = 7500;
const TTL: u64 = 30 * MINUTE;
const SOURCE_TTL: u64 = 60 * MINUTE;

/// When a chunk was pushed or used. Of what was before the last fold only the ends are known: those of the same end stand
/// in no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Before(u64),
    Since(u64),
}

#[derive(Debug)]
struct Cached {
    owner: usize,
    data: usize,
    end: u64,
    pushed: Place,
    used: Place,
}

/// What a push comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// Somebody else has pushed the same.
    Given,
    Refused(&'static str),
}

pub struct ChunkModel {
    clock: Clock,
    metrics: Arc<Metrics>,
    cached: BTreeMap<usize, Cached>,
    /// Who has announced what until when.
    sources: BTreeMap<(usize, usize), u64>,
    /// Peers and channels.
    listeners: BTreeSet<(usize, usize)>,
    /// Pushes and reads so far.
    steps: u64,
}

fn name(number: usize) -> ChunkName {
    ChunkName::parse(NAMES[number].0, NAMES[number].1).unwrap()
}

fn chunk_id(number: usize) -> String {
    NAMES[number].1.to_owned()
}

fn data(number: usize) -> Value {
    "x".repeat(SIZES[number]).into()
}

fn data_message(number: usize, of: usize, source: ChunkSource) -> ServerMessage {
    ServerMessage::chunk_data(&name(number), data(of), source)
}

fn weight(number: usize, of: usize) -> u64 {
    let (channel, chunk) = NAMES[number];
    (channel.len() + chunk.len() + data(of).to_string().len()) as u64 + ONE
}

/// What the store has: owner, end and digest of each chunk.
async fn stored(engine: &Engine) -> BTreeMap<usize, (String, Option<u64>, String)> {
    let query = LeaseQuery { kind: Kind::Chunk, prefix: String::new(), after: None, limit: 2 * NAMES.len() };
    let leases = engine.leases(query).await.unwrap().leases;
    let number = |key: &str| (0..NAMES.len()).find(|number| name(*number).key().text() == key).unwrap();
    let shown = leases.into_iter().map(|lease| {
        let digest = lease.record["sha256"].as_str().unwrap().to_owned();
        (number(&lease.key), (lease.peer_id, lease.ends, digest))
    });
    shown.collect()
}

impl ChunkModel {
    pub fn new(clock: &Clock, metrics: &Arc<Metrics>) -> ChunkModel {
        ChunkModel {
            clock: clock.clone(),
            metrics: metrics.clone(),
            cached: BTreeMap::new(),
            sources: BTreeMap::new(),
            listeners: BTreeSet::new(),
            steps: 0,
        }
    }

    fn forget_ended(&mut self) {
        let now = self.clock.now();
        self.cached.retain(|_, cached| cached.end > now);
        self.sources.retain(|_, end| *end > now);
    }

    fn next_place(&mut self) -> Place {
        self.steps += 1;
        Place::Since(self.steps)
    }

    fn touch(&mut self, number: usize) {
        let place = self.next_place();
        self.cached.get_mut(&number).unwrap().used = place;
    }

    fn outcome(&self, push: &Push) -> Outcome {
        if !self.sources.contains_key(&(push.peer, push.name)) {
            return Outcome::Refused("chunk_not_announced");
        }
        match self.cached.get(&push.name) {
            Some(others) if others.owner != push.peer && others.data != push.data => {
                Outcome::Refused("chunk_conflict")
            }
            Some(others) if others.owner != push.peer => Outcome::Given,
            _ => Outcome::Stored,
        }
    }

    /// A push was taken; tells how many chunks it drove out. Where several could go as well as the other, the store is
    /// asked which it was.
    fn enter(&mut self, push: &Push, stored: &BTreeSet<usize>) -> usize {
        let place = self.next_place();
        let end = self.clock.now() + TTL;
        let entry = Cached { owner: push.peer, data: push.data, end, pushed: place, used: place };
        self.cached.insert(push.name, entry);
        let before = self.cached.len();
        let weight_of = |(number, cached): (&usize, &Cached)| weight(*number, cached.data);
        while self.cached.iter().map(weight_of).sum::<u64>() > BUDGET {
            let others = self.cached.iter().filter(|(number, _)| **number != push.name);
            // The lightest first, so that all of those that are gone may have had to go.
            let first = others.min_by_key(|(number, cached)| {
                (cached.used, stored.contains(number), weight(**number, cached.data))
            });
            let first = *first.expect("a chunk fits by itself").0;
            self.cached.remove(&first);
        }
        before - self.cached.len()
    }

    /// The rows were folded anew, after a start or a storage failure.
    pub fn folded(&mut self) {
        for cached in self.cached.values_mut() {
            (cached.pushed, cached.used) = (Place::Before(cached.end), Place::Before(cached.end));
        }
    }

    /// The peer's socket has ended.
    pub fn leave(&mut self, peer: usize) {
        self.sources.retain(|(source, _), _| *source != peer);
        self.listeners.retain(|(listener, _)| *listener != peer);
    }

    /// The daemon closes all sockets, and starts again.
    pub fn restart(&mut self) {
        (0..PEERS.len()).for_each(|peer| self.leave(peer));
        self.folded();
    }

    async fn announce(&mut self, engine: &Engine, peers: &mut Peers, peer: usize, numbers: &[usize]) {
        let socket = peers.socket(engine, peer);
        let channel = NAMES[numbers[0]].0.to_owned();
        let chunks: Vec<String> = numbers.iter().copied().map(chunk_id).collect();
        let request = ChunkAnnounce {
            peer_id: id(peer),
            resume_token: None,
            channel: channel.clone(),
            chunks: chunks.clone(),
        };
        let answer = engine.chunk_announce(socket, request).await;
        let ServerMessage::ChunkAnnounceAck { registered, resume_token } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(registered, numbers.len());
        assert_eq!(resume_token.is_some(), !peers.held.contains(&peer), "a token where the id was not held");
        peers.took(peer, resume_token);
        let end = self.clock.now() + SOURCE_TTL;
        self.sources.extend(numbers.iter().map(|number| ((peer, *number), end)));
        for (listener, id) in PEERS.iter().enumerate() {
            let hears = |at: usize| CHANNELS[at] == channel && self.listeners.contains(&(listener, at));
            let told = (listener != peer && (0..CHANNELS.len()).any(hears)).then(|| {
                ServerMessage::ChunkAvailable { channel_id: channel.clone(), chunk_ids: chunks.clone() }
            });
            assert_eq!(peers.told(listener), Vec::from_iter(told), "{channel:?} for {id}");
        }
    }

    /// What comes before a push; then whether it is to change anything.
    pub async fn prepare(&mut self, engine: &Engine, peers: &mut Peers, push: &Push) -> bool {
        self.forget_ended();
        if push.announces && !self.sources.contains_key(&(push.peer, push.name)) {
            self.announce(engine, peers, push.peer, &[push.name]).await;
        }
        self.outcome(push) == Outcome::Stored
    }

    pub async fn ask_to_push(&self, engine: &Engine, peers: &mut Peers, push: &Push) -> ServerMessage {
        let request = ChunkPush { name: name(push.name), data: data(push.data).to_string() };
        engine.chunk_push(peers.socket(engine, push.peer), request).await
    }

    /// A push that changes something, while a storage fault was set and is over now. What was committed and not flushed
    /// lasts on this disk.
    pub async fn failed(&mut self, engine: &Engine, push: &Push, answer: ServerMessage, lasts: bool) {
        let stored = stored(engine).await.into_keys().collect();
        match answer {
            ServerMessage::Error(refusal) => {
                assert_eq!(refusal.code, "storage_unavailable");
                if lasts {
                    self.enter(push, &stored);
                }
                self.folded();
            }
            // Another write or flush met the fault, and this came after the recovery.
            ServerMessage::ChunkPushAck { .. } => {
                self.folded();
                self.enter(push, &stored);
            }
            answer => panic!("{answer:?}"),
        }
    }

    async fn push(&mut self, engine: &Engine, peers: &mut Peers, push: &Push, served_count: usize) {
        let evicted = self.metrics.chunks_evicted.get();
        let answer = self.ask_to_push(engine, peers, push).await;
        let outcome = self.outcome(push);
        if let Outcome::Refused(code) = outcome {
            assert!(matches!(&answer, ServerMessage::Error(refusal) if refusal.code == code), "{answer:?}");
            return;
        }
        let chunk_id = chunk_id(push.name);
        assert_eq!(answer, ServerMessage::ChunkPushAck { chunk_id, cached: true, served_count });
        if outcome == Outcome::Given {
            self.touch(push.name);
        } else {
            let evicts = self.enter(push, &stored(engine).await.into_keys().collect());
            assert_eq!(self.metrics.chunks_evicted.get() - evicted, evicts as u64);
        }
    }

    async fn request(&mut self, engine: &Engine, peers: &mut Peers, peer: usize, number: usize) {
        let answer = engine.chunk_request(peers.socket(engine, peer), name(number)).await;
        self.forget_ended();
        if let Some(cached) = self.cached.get(&number) {
            assert_eq!(answer, Some(data_message(number, cached.data, ChunkSource::Cache)));
            return self.touch(number);
        }
        let has = |source: &usize| *source != peer && self.sources.contains_key(&(*source, number));
        let sources: Vec<usize> = (0..PEERS.len()).filter(has).collect();
        let chunk_id = chunk_id(number);
        if sources.is_empty() {
            let error = "No source available for chunk".into();
            assert_eq!(answer, Some(ServerMessage::ChunkError { chunk_id, error }));
            return;
        }
        let pulling = ServerMessage::ChunkPulling { chunk_id: chunk_id.clone() };
        assert_eq!((answer, peers.told(peer)), (None, vec![pulling]));
        let told = sources
            .into_iter()
            .flat_map(|source| peers.told(source).into_iter().map(move |told| (source, told)));
        let told: Vec<_> = told.collect();
        let [(asked, pull)] = &told[..] else { panic!("one is asked: {told:?}") };
        let channel_id = NAMES[number].0.to_owned();
        assert_eq!(*pull, ServerMessage::ChunkPull { chunk_id, channel_id });
        let push = Push { peer: *asked, name: number, data: number % SIZES.len(), announces: false };
        self.push(engine, peers, &push, 1).await;
        assert_eq!(peers.told(peer), [data_message(number, push.data, ChunkSource::Relay)]);
    }

    fn pass_until_end(&self, number: usize) {
        if let Some(cached) = self.cached.get(&number) {
            self.clock.advance(Duration::from_millis(cached.end - self.clock.now()));
        }
    }

    pub async fn run(&mut self, engine: &Engine, peers: &mut Peers, step: &ChunkStep) {
        self.forget_ended();
        match step {
            ChunkStep::Announce { peer, name } => {
                let all = (0..NAMES.len()).filter(|number| NAMES[*number].0 == NAMES[*name].0);
                self.announce(engine, peers, *peer, &all.collect::<Vec<_>>()).await;
            }
            ChunkStep::Push(push) => {
                self.prepare(engine, peers, push).await;
                self.push(engine, peers, push, 0).await;
            }
            ChunkStep::Request { peer, name } => self.request(engine, peers, *peer, *name).await,
            ChunkStep::PushAtEnd(push) => {
                self.pass_until_end(push.name);
                self.prepare(engine, peers, push).await;
                self.push(engine, peers, push, 0).await;
            }
            ChunkStep::RequestAtEnd { peer, name } => {
                self.pass_until_end(*name);
                self.request(engine, peers, *peer, *name).await;
            }
            ChunkStep::Subscribe { peer, channel } => {
                let socket = peers.socket(engine, *peer);
                self.subscribe(engine, &peers.sockets[peer].0, *channel).await;
                assert_eq!(peers.sockets[peer].0.outbox.socket, socket);
                self.listeners.insert((*peer, *channel));
            }
            ChunkStep::Unsubscribe { peer, channel } => {
                let (socket, channel_id) = (peers.socket(engine, *peer), CHANNELS[*channel].to_owned());
                let answer = engine.channel_unsubscribe(socket, channel_id.clone()).await;
                assert_eq!(answer, ServerMessage::ChannelUnsubscribed { channel_id });
                self.listeners.remove(&(*peer, *channel));
            }
            ChunkStep::Pass { millis } => self.clock.advance(Duration::from_millis(*millis)),
        }
    }

    /// A socket subscribes and is told what is cached, the newest first; nothing counts as used by that.
    async fn subscribe(&self, engine: &Engine, joined: &Joined, channel: usize) {
        let channel_id = CHANNELS[channel].to_owned();
        assert_eq!(engine.channel_subscribe(joined.outbox.socket, channel_id.clone()).await, None);
        let mut told = told_of_chunks(joined).into_iter();
        assert_eq!(told.next(), Some(ServerMessage::ChannelSubscribed { channel_id: channel_id.clone() }));
        let listed = match told.next() {
            None => Vec::new(),
            Some(ServerMessage::ChunkAvailable { channel_id: of, chunk_ids }) if of == channel_id => {
                chunk_ids
            }
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!(told.next(), None);
        let of_channel = self.cached.iter().filter(|(number, _)| NAMES[**number].0 == channel_id);
        let pushed: BTreeMap<_, _> =
            of_channel.map(|(number, cached)| (chunk_id(*number), cached.pushed)).collect();
        assert_eq!(BTreeSet::from_iter(&listed), pushed.keys().collect(), "{channel_id:?}");
        assert_eq!(listed.len(), pushed.len(), "each once: {listed:?}");
        assert!(
            listed.is_sorted_by(|newer, older| pushed[newer] >= pushed[older]),
            "{listed:?} of {pushed:?}"
        );
    }

    /// Once everything has been swept whose time is up.
    pub async fn compare(&mut self, engine: &Engine, peers: &Peers) {
        self.forget_ended();
        let expected = self.cached.iter().map(|(number, cached)| {
            let digest = Sha256::digest(data(cached.data).to_string());
            let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            (*number, (PEERS[cached.owner].to_owned(), Some(cached.end), digest))
        });
        assert_eq!(stored(engine).await, expected.collect());
        for channel in 0..CHANNELS.len() {
            self.subscribe(engine, &join(engine), channel).await;
        }
        for (peer, id) in PEERS.iter().enumerate() {
            assert_eq!(peers.told(peer), [], "{id} is told more than that");
        }
    }
}
