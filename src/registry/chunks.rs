//! Chunks: what peers have pushed for others to pull, cached for a while (protocol: signalling, chunks).
//!
//! Owns who may replace a chunk, exact expiry, the byte budget and the lists of channels. Must not know sockets, clocks or
//! sled, nor who is asked for a chunk that is not cached. The data are in the store alone.

mod order;

use std::collections::{BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::Expired;
use crate::clock::Millis;
use crate::id::{ChunkKey, ChunkName, PeerId};
use crate::limits::ChunkRules;
use crate::store::{Changes, ChunkRecord, Indexed, LeaseKey, Rows};
use order::{Channels, Place};

/// What a chunk weighs beside its data and names: its owner, digest, key and places in the orders, a channel of its own, and
/// its index row. Without it a crowd of empty chunks would weigh next to nothing and fill the memory.
const WEIGHT_OF_ONE: u64 = 1024;

/// Chunks that one push removes at most. After a start with a smaller budget there may be many to go.
const MAX_EVICTED: usize = 1024;

/// A chunk as it is pushed.
#[derive(Clone, Copy, Debug)]
pub struct Push<'a> {
    pub name: &'a ChunkName,
    pub owner: &'a PeerId,
    /// JSON.
    pub data: &'a str,
}

/// What a push that was taken has cost others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Live chunks that it drove out.
    pub evicted: usize,
}

/// Somebody else's chunk of that name is cached, with other data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherContent;

#[derive(Clone, Debug)]
struct Chunk {
    name: ChunkName,
    owner: PeerId,
    /// SHA-256 of its data.
    digest: [u8; 32],
    end: Millis,
    weight: u64,
    rows: Rows,
    pushed: Place,
    used: Place,
}

impl Chunk {
    fn is_live(&self, now: Millis) -> bool {
        now < self.end
    }

    /// Whether the store would tell them apart: it knows no places.
    fn same_as(&self, other: &Chunk) -> bool {
        let kept = |chunk: &Chunk| (chunk.digest, chunk.end, chunk.weight, chunk.rows);
        self.name == other.name && self.owner == other.owner && kept(self) == kept(other)
    }
}

pub struct Chunks {
    rules: ChunkRules,
    chunks: HashMap<ChunkKey, Chunk>,
    /// When each one ends.
    ends: BTreeSet<(Millis, ChunkKey)>,
    /// When each one was last used, the longest ago first. Memory alone knows: else each read would be a write.
    used: BTreeSet<(Place, ChunkKey)>,
    /// When each one of a channel was pushed.
    channels: Channels,
    /// What they all weigh.
    bytes: u64,
    /// Pushes and reads so far: the clock's milliseconds do not tell which of two was first.
    steps: u64,
}

impl Chunks {
    pub fn new(rules: ChunkRules) -> Chunks {
        Chunks {
            rules,
            chunks: HashMap::new(),
            ends: BTreeSet::new(),
            used: BTreeSet::new(),
            channels: Channels::default(),
            bytes: 0,
            steps: 0,
        }
    }

    /// Chunks that are stored, ended ones too.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What these weigh against the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The SHA-256 of a chunk's data, where it is cached; it counts as used.
    pub fn get(&mut self, now: Millis, key: &ChunkKey) -> Option<[u8; 32]> {
        let digest = self.chunks.get(key).filter(|chunk| chunk.is_live(now))?.digest;
        self.touch(key);
        Some(digest)
    }

    /// The chunkIds that are cached of a channel, the newest push first.
    pub fn of_channel<'a>(&'a self, now: Millis, channel: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let chunks = self.channels.newest_first(channel).map(|key| &self.chunks[key]);
        chunks.filter(move |chunk| chunk.is_live(now)).map(|chunk| &**chunk.name.chunk())
    }

    /// Caches a chunk for a full TTL, unless somebody else's stands: the same data are taken as given then, others refused.
    pub fn push(
        &mut self,
        now: Millis,
        push: Push<'_>,
        changes: &mut Changes,
    ) -> Result<Pushed, OtherContent> {
        let Push { name, owner, data } = push;
        let (key, digest) = (name.key(), Sha256::digest(data).into());
        let others = self.chunks.get(&key).filter(|chunk| chunk.is_live(now) && chunk.owner != *owner);
        if let Some(others) = others {
            if others.digest != digest {
                return Err(OtherContent);
            }
            self.touch(&key);
            return Ok(Pushed::default());
        }
        let end = now + self.rules.ttl.as_millis() as Millis;
        let record = ChunkRecord {
            owner: owner.as_str().into(),
            channel: (&**name.channel()).into(),
            chunk: (&**name.chunk()).into(),
            end,
            digest,
            data: data.into(),
        };
        let (lease, indexed) = (LeaseKey::chunk(&key), Indexed::at(end));
        let rows = match self.forget(&key) {
            Some(old) => changes.replace(&lease, &record, old.rows, indexed),
            None => Rows { parts: changes.put_new(&lease, &record, indexed), amended: false, indexed },
        };
        let place = self.next_place();
        let (name, owner, weight) = (name.clone(), owner.clone(), weight(name, data));
        self.insert(key, Chunk { name, owner, digest, end, weight, rows, pushed: place, used: place });
        Ok(Pushed { evicted: self.make_room(now, &key, changes) })
    }

    /// Removes chunks but `kept` until the rest fits the budget; tells how many of them were live. What has ended goes
    /// first, so that it does not matter whether it has been swept.
    fn make_room(&mut self, now: Millis, kept: &ChunkKey, changes: &mut Changes) -> usize {
        let mut evicted = 0;
        for _ in 0..MAX_EVICTED {
            if self.bytes <= self.rules.cache_bytes {
                break;
            }
            let over = self.ends.first().filter(|(end, _)| *end <= now).map(|(_, key)| *key);
            let Some(key) = over.or_else(|| self.used.first().map(|(_, key)| *key)) else { break };
            if key == *kept {
                break;
            }
            evicted += usize::from(over.is_none());
            self.remove(&key, changes);
        }
        evicted
    }

    /// Removes a chunk that has ended.
    pub fn expire(&mut self, key: &ChunkKey, now: Millis, changes: &mut Changes) -> Expired {
        match self.chunks.get(key) {
            Some(chunk) if !chunk.is_live(now) => {
                self.remove(key, changes);
                Expired::Gone
            }
            _ => Expired::Kept,
        }
    }

    pub fn load(&mut self, key: ChunkKey, record: &ChunkRecord<'_>, rows: Rows) {
        let name = ChunkName::parse(&record.channel, &record.chunk);
        let (Some(name), Some(owner)) = (name, PeerId::parse(&record.owner)) else { return };
        let (weight, place) = (weight(&name, &record.data), Place::Before(record.end));
        let (digest, end) = (record.digest, record.end);
        self.insert(key, Chunk { name, owner, digest, end, weight, rows, pushed: place, used: place });
    }

    /// Whether the rows of both say the same; places are not in them.
    pub fn same_as(&self, other: &Chunks) -> bool {
        let twin = |key: &ChunkKey, chunk: &Chunk| other.chunks.get(key).is_some_and(|it| chunk.same_as(it));
        self.ends == other.ends
            && self.bytes == other.bytes
            && self.used.len() == other.used.len()
            && self.channels.same_as(&other.channels)
            && self.chunks.len() == other.chunks.len()
            && self.chunks.iter().all(|(key, chunk)| twin(key, chunk))
    }

    fn next_place(&mut self) -> Place {
        self.steps += 1;
        Place::Since(self.steps)
    }

    fn touch(&mut self, key: &ChunkKey) {
        let place = self.next_place();
        if let Some(chunk) = self.chunks.get_mut(key) {
            self.used.remove(&(chunk.used, *key));
            self.used.insert((place, *key));
            chunk.used = place;
        }
    }

    fn insert(&mut self, key: ChunkKey, chunk: Chunk) {
        self.ends.insert((chunk.end, key));
        self.used.insert((chunk.used, key));
        self.channels.insert(chunk.name.channel(), chunk.pushed, key);
        self.bytes += chunk.weight;
        self.chunks.insert(key, chunk);
    }

    fn forget(&mut self, key: &ChunkKey) -> Option<Chunk> {
        let chunk = self.chunks.remove(key)?;
        self.ends.remove(&(chunk.end, *key));
        self.used.remove(&(chunk.used, *key));
        self.channels.remove(chunk.name.channel(), chunk.pushed, key);
        self.bytes -= chunk.weight;
        Some(chunk)
    }

    /// Tells whether there was one.
    pub fn remove(&mut self, key: &ChunkKey, changes: &mut Changes) -> bool {
        let gone = self.forget(key);
        gone.inspect(|chunk| changes.remove_all(&LeaseKey::chunk(key), chunk.rows)).is_some()
    }
}

fn weight(name: &ChunkName, data: &str) -> u64 {
    (name.channel().len() + name.chunk().len() + data.len()) as u64 + WEIGHT_OF_ONE
}
