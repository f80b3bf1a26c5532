//! The chunk relay: who can be asked for which chunk, who waits for one, and who listens to which channel (protocol:
//! signalling, section 5).
//!
//! Owns what of chunks exists only while sockets do, and its ceilings. Must not know which chunks are cached.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::id::{ChunkKey, ChunkName, SocketId};
use crate::limits::{
    CHUNK_REQUEST_TTL, CHUNK_SOURCE_TTL, MAX_ANNOUNCED_CHUNKS, MAX_CHUNK_REQUESTS_PER_SOCKET,
    MAX_CHUNKS_PER_SOCKET, MAX_SOURCES_PER_CHUNK, MAX_SUBSCRIBERS_PER_CHANNEL, MAX_SUBSCRIPTIONS_PER_SOCKET,
    RUNG_PER_TURN,
};
use crate::wire::signalling::ServerMessage;

/// What a socket is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub to: SocketId,
    pub message: ServerMessage,
}

/// A ceiling that a request would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This socket has announced, asked for, or subscribed to enough.
    Socket,
    /// All sockets together have announced enough, or the channel has enough subscribers.
    All,
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sources: usize,
    pub requests: usize,
    pub subscriptions: usize,
}

pub struct ChunkRelay {
    pull_timeout: Duration,
    sources: HashMap<ChunkKey, Vec<Source>>,
    pulls: HashMap<ChunkKey, Pull>,
    channels: HashMap<Arc<str>, HashSet<SocketId>>,
    sockets: HashMap<SocketId, Socket>,
    /// When announcements end, and when pulls are to be looked at next, in running time.
    source_ends: BTreeSet<(Duration, SocketId, ChunkKey)>,
    deadlines: BTreeSet<(Duration, ChunkKey)>,
    counts: Counts,
}

struct Source {
    socket: SocketId,
    end: Duration,
    /// It was asked and did not push: others are asked first.
    silent: bool,
}

/// A chunk that somebody waits for.
struct Pull {
    name: ChunkName,
    /// Those who were asked, the one whose turn it is last.
    asked: Vec<SocketId>,
    silent_at: Duration,
    look_at: Duration,
    /// Each until its time, the first one first.
    waiting: BTreeSet<(Duration, SocketId)>,
}

/// What a socket has to do with chunks.
#[derive(Default)]
struct Socket {
    /// When each announcement ends; it counts also where the chunk has sources enough.
    announced: HashMap<ChunkKey, Duration>,
    /// Until when.
    waits_for: HashMap<ChunkKey, Duration>,
    asked_for: HashSet<ChunkKey>,
    channels: HashSet<Arc<str>>,
}

impl Socket {
    fn is_empty(&self) -> bool {
        self.announced.is_empty()
            && self.waits_for.is_empty()
            && self.asked_for.is_empty()
            && self.channels.is_empty()
    }
}

impl ChunkRelay {
    pub fn new(pull_timeout: Duration) -> ChunkRelay {
        ChunkRelay {
            pull_timeout,
            sources: HashMap::new(),
            pulls: HashMap::new(),
            channels: HashMap::new(),
            sockets: HashMap::new(),
            source_ends: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Whether a socket may announce these. Which of them are new is looked at only where it matters.
    pub fn admit(&self, socket: SocketId, chunks: &[ChunkKey]) -> Result<(), Full> {
        let own = self.sockets.get(&socket).map(|socket| &socket.announced);
        let fresh = || chunks.iter().filter(|key| own.is_none_or(|own| !own.contains_key(*key))).count();
        let own = own.map_or(0, HashMap::len);
        if own + chunks.len() > MAX_CHUNKS_PER_SOCKET && own + fresh() > MAX_CHUNKS_PER_SOCKET {
            return Err(Full::Socket);
        }
        let all = self.counts.sources;
        if all + chunks.len() > MAX_ANNOUNCED_CHUNKS && all + fresh() > MAX_ANNOUNCED_CHUNKS {
            return Err(Full::All);
        }
        Ok(())
    }

    /// A socket has these chunks, and is asked for them for an hour.
    pub fn announce(&mut self, now: Duration, socket: SocketId, chunks: &[ChunkKey]) {
        let end = now + CHUNK_SOURCE_TTL;
        for key in chunks {
            self.forget_source(socket, key);
            self.source_ends.insert((end, socket, *key));
            self.sockets.entry(socket).or_default().announced.insert(*key, end);
            self.counts.sources += 1;
            let sources = self.sources.entry(*key).or_default();
            if sources.len() >= MAX_SOURCES_PER_CHUNK {
                // Newcomers drive out only those that do not do what they promised.
                let Some(silent) = sources.iter().position(|source| source.silent) else { continue };
                sources.swap_remove(silent);
            }
            sources.push(Source { socket, end, silent: false });
        }
    }

    /// How many subscribe to a channel.
    pub fn subscriber_count(&self, channel: &str) -> usize {
        self.channels.get(channel).map_or(0, HashSet::len)
    }

    /// The subscribers of a channel, but for one.
    pub fn subscribers(&self, channel: &str, except: SocketId) -> impl Iterator<Item = SocketId> {
        let subscribers = self.channels.get(channel).into_iter().flatten().copied();
        subscribers.filter(move |socket| *socket != except)
    }

    /// A socket asks for a chunk that is not cached: who is asked for it, where nobody was before. `None`: nobody has it.
    pub fn request(
        &mut self,
        now: Duration,
        socket: SocketId,
        name: &ChunkName,
    ) -> Result<Option<Vec<Notice>>, Full> {
        let key = name.key();
        let waits = self.sockets.get(&socket).map(|socket| &socket.waits_for);
        if waits.is_some_and(|waits| waits.contains_key(&key)) {
            return Ok(Some(Vec::new()));
        }
        if waits.is_some_and(|waits| waits.len() >= MAX_CHUNK_REQUESTS_PER_SOCKET) {
            return Err(Full::Socket);
        }
        let is_new = !self.pulls.contains_key(&key);
        if is_new {
            if !self.sources_of(&key, now).any(|source| source.socket != socket) {
                return Ok(None);
            }
            // The one who asks is not asked.
            let asked = vec![socket];
            let (name, waiting) = (name.clone(), BTreeSet::new());
            self.pulls.insert(key, Pull { name, asked, silent_at: now, look_at: now, waiting });
        }
        let until = now + CHUNK_REQUEST_TTL;
        if let Some(pull) = self.pulls.get_mut(&key) {
            pull.waiting.insert((until, socket));
        }
        self.sockets.entry(socket).or_default().waits_for.insert(key, until);
        self.counts.requests += 1;
        Ok(Some(if is_new { self.ask_next(now, &key) } else { Vec::new() }))
    }

    /// Whether a socket has announced a chunk, or was asked for it.
    pub fn may_push(&self, now: Duration, socket: SocketId, key: &ChunkKey) -> bool {
        self.sockets.get(&socket).is_some_and(|socket| {
            socket.announced.get(key).is_some_and(|end| *end > now) || socket.asked_for.contains(key)
        })
    }

    /// A socket has pushed a chunk: those who waited for it.
    pub fn pushed(&mut self, socket: SocketId, key: &ChunkKey) -> Vec<SocketId> {
        let sources = self.sources.get_mut(key).into_iter().flatten();
        sources.filter(|source| source.socket == socket).for_each(|source| source.silent = false);
        let Some(pull) = self.end_pull(key) else { return Vec::new() };
        pull.waiting.into_iter().map(|(_, socket)| socket).collect()
    }

    pub fn subscribe(&mut self, socket: SocketId, channel: &str) -> Result<(), Full> {
        let own = self.sockets.get(&socket).map(|socket| &socket.channels);
        if own.is_some_and(|own| own.contains(channel)) {
            return Ok(());
        }
        if own.is_some_and(|own| own.len() >= MAX_SUBSCRIPTIONS_PER_SOCKET) {
            return Err(Full::Socket);
        }
        let known = self.channels.get_key_value(channel);
        if known.is_some_and(|(_, subscribers)| subscribers.len() >= MAX_SUBSCRIBERS_PER_CHANNEL) {
            return Err(Full::All);
        }
        let channel: Arc<str> = known.map_or_else(|| channel.into(), |(name, _)| name.clone());
        self.channels.entry(channel.clone()).or_default().insert(socket);
        self.sockets.entry(socket).or_default().channels.insert(channel);
        self.counts.subscriptions += 1;
        Ok(())
    }

    pub fn unsubscribe(&mut self, socket: SocketId, channel: &str) {
        let Some(subscribers) = self.channels.get_mut(channel) else { return };
        if subscribers.remove(&socket) {
            self.counts.subscriptions -= 1;
        }
        if subscribers.is_empty() {
            self.channels.remove(channel);
        }
        self.change(socket, |own| own.channels.remove(channel));
    }

    /// A socket has ended. Whoever waits for what it was asked for is told, where nobody else can be asked.
    pub fn leave(&mut self, now: Duration, socket: SocketId) -> Vec<Notice> {
        let Some(own) = self.sockets.get(&socket) else { return Vec::new() };
        let channels: Vec<_> = own.channels.iter().cloned().collect();
        let waits_for: Vec<_> = own.waits_for.iter().map(|(key, until)| (*key, *until)).collect();
        channels.iter().for_each(|channel| self.unsubscribe(socket, channel));
        waits_for.iter().for_each(|(key, until)| self.stop_waiting(key, *until, socket));
        self.withdraw(now, socket)
    }

    /// A socket is no source any more; for the rest it stays.
    pub fn withdraw(&mut self, now: Duration, socket: SocketId) -> Vec<Notice> {
        let Some(own) = self.sockets.get(&socket) else { return Vec::new() };
        let announced: Vec<_> = own.announced.keys().copied().collect();
        let asked_for: Vec<_> = own.asked_for.iter().copied().collect();
        announced.iter().for_each(|key| self.forget_source(socket, key));
        let mut notices = Vec::new();
        for key in &asked_for {
            if self.pulls.get(key).is_some_and(|pull| pull.asked.last() == Some(&socket)) {
                notices.extend(self.ask_next(now, key));
            }
            self.change(socket, |own| own.asked_for.remove(key));
        }
        notices
    }

    /// When [`ChunkRelay::ring`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        let sources = self.source_ends.first().map(|(at, ..)| *at);
        let pulls = self.deadlines.first().map(|(at, _)| *at);
        sources.into_iter().chain(pulls).min()
    }

    /// Ends announcements and requests whose time is up, and asks others where somebody was silent; some of them, where they
    /// are many.
    pub fn ring(&mut self, now: Duration) -> Vec<Notice> {
        let mut notices = Vec::new();
        for _ in 0..RUNG_PER_TURN {
            let Some((end, socket, key)) = self.source_ends.first().copied() else { break };
            if end > now {
                break;
            }
            self.forget_source(socket, &key);
        }
        for _ in 0..RUNG_PER_TURN {
            let Some((at, key)) = self.deadlines.first().copied() else { break };
            if at > now {
                break;
            }
            while notices.len() < RUNG_PER_TURN
                && let Some(pull) = self.pulls.get(&key)
                && let Some((until, socket)) = pull.waiting.first().copied()
                && until <= now
            {
                notices.push(no_source(socket, &pull.name));
                self.stop_waiting(&key, until, socket);
            }
            match self.pulls.get(&key) {
                Some(pull) if pull.silent_at <= now => notices.extend(self.ask_next(now, &key)),
                Some(_) => self.schedule(&key),
                None => {}
            }
        }
        notices
    }

    /// Whether nothing of anybody is left.
    pub fn is_empty(&self) -> bool {
        let keyed_by_chunk = self.sources.is_empty() && self.pulls.is_empty();
        let others = self.channels.is_empty() && self.sockets.is_empty();
        keyed_by_chunk && others && self.next_deadline().is_none() && self.counts == Counts::default()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn sources_of(&self, key: &ChunkKey, now: Duration) -> impl Iterator<Item = &Source> {
        self.sources.get(key).into_iter().flatten().filter(move |source| source.end > now)
    }

    /// Asks the next one who was not asked yet; tells those who wait where there is none.
    fn ask_next(&mut self, now: Duration, key: &ChunkKey) -> Vec<Notice> {
        let Some(pull) = self.pulls.get(key) else { return Vec::new() };
        let left = self.sources_of(key, now).filter(|source| !pull.asked.contains(&source.socket));
        let next = left.min_by_key(|source| (source.silent, source.socket)).map(|source| source.socket);
        let sources = self.sources.get_mut(key).into_iter().flatten();
        let Some(pull) = self.pulls.get_mut(key) else { return Vec::new() };
        // The first one is who asked.
        if let [_, .., last] = &pull.asked[..] {
            sources.filter(|source| source.socket == *last).for_each(|source| source.silent = true);
        }
        let Some(next) = next else {
            let name = pull.name.clone();
            let waiting = self.end_pull(key).map(|pull| pull.waiting).unwrap_or_default();
            return waiting.into_iter().map(|(_, socket)| no_source(socket, &name)).collect();
        };
        pull.asked.push(next);
        pull.silent_at = now + self.pull_timeout;
        let (chunk_id, channel_id) = (pull.name.chunk().to_string(), pull.name.channel().to_string());
        self.sockets.entry(next).or_default().asked_for.insert(*key);
        self.schedule(key);
        vec![Notice { to: next, message: ServerMessage::ChunkPull { chunk_id, channel_id } }]
    }

    /// Files a pull at the time at which it is to be looked at next.
    fn schedule(&mut self, key: &ChunkKey) {
        let Some(pull) = self.pulls.get_mut(key) else { return };
        self.deadlines.remove(&(pull.look_at, *key));
        let first = pull.waiting.first().map_or(pull.silent_at, |(until, _)| *until);
        pull.look_at = pull.silent_at.min(first);
        self.deadlines.insert((pull.look_at, *key));
    }

    /// One of those who wait for a chunk waits no more; without any the pull ends.
    fn stop_waiting(&mut self, key: &ChunkKey, until: Duration, socket: SocketId) {
        let Some(pull) = self.pulls.get_mut(key) else { return };
        self.counts.requests -= usize::from(pull.waiting.remove(&(until, socket)));
        let is_over = pull.waiting.is_empty();
        self.change(socket, |own| own.waits_for.remove(key).is_some());
        if is_over {
            self.end_pull(key);
        }
    }

    fn end_pull(&mut self, key: &ChunkKey) -> Option<Pull> {
        let pull = self.pulls.remove(key)?;
        self.deadlines.remove(&(pull.look_at, *key));
        self.counts.requests -= pull.waiting.len();
        for (_, socket) in &pull.waiting {
            self.change(*socket, |own| own.waits_for.remove(key).is_some());
        }
        for socket in &pull.asked {
            self.change(*socket, |own| own.asked_for.remove(key));
        }
        Some(pull)
    }

    fn forget_source(&mut self, socket: SocketId, key: &ChunkKey) {
        let announced = self.sockets.get_mut(&socket).and_then(|own| own.announced.remove(key));
        let Some(end) = announced else { return };
        self.source_ends.remove(&(end, socket, *key));
        self.counts.sources -= 1;
        if let Some(sources) = self.sources.get_mut(key) {
            sources.retain(|source| source.socket != socket);
            if sources.is_empty() {
                self.sources.remove(key);
            }
        }
        self.change(socket, |_| true);
    }

    /// Takes something from what a socket has; one that has nothing any more is forgotten.
    fn change(&mut self, socket: SocketId, take: impl FnOnce(&mut Socket) -> bool) {
        if let Some(own) = self.sockets.get_mut(&socket) {
            take(own);
            if own.is_empty() {
                self.sockets.remove(&socket);
            }
        }
    }
}

fn no_source(to: SocketId, name: &ChunkName) -> Notice {
    let error = "No source available for chunk".into();
    Notice { to, message: ServerMessage::ChunkError { chunk_id: name.chunk().to_string(), error } }
}
