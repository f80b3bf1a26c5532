//! Bootstrap peers: who registered, when each was last heard, and what is listed (protocol: bootstrap, Peers and Expiry).
//!
//! Owns exact expiry, the removal of the expired on demand, and ownership. Must not know sockets, clocks or sled, nor how
//! busy TURN servers are.

mod entry;
mod facets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use super::Expired;
use crate::clock::Millis;
use crate::id::{NodeId, TokenDigest};
use crate::limits::{LISTED_BYTES_PER_TURN, LISTED_PER_TURN, MAX_CLEANED_PARTS, Ownership, PeerRules};
use crate::store::{Changes, Indexed, LeaseKey, PeerRecord, Rows, Seen};
use crate::wire::bootstrap::Peer;
use crate::wire::turn::TurnOffer;
use entry::{Entry, weight};
use facets::Facets;
pub use facets::Filter;

/// Who asks, for what belongs to a peer.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// Its address, or the /64 of that.
    pub address: IpAddr,
    /// The token it showed.
    pub token: Option<String>,
}

/// Why a request is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Elsewhere,
    Full,
    Unknown,
    Unauthorized,
}

/// A peer as it is listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    pub id: NodeId,
    pub peer: Arc<Peer>,
    pub last_seen: Millis,
}

/// A stretch of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stretch {
    pub peers: Vec<Listed>,
    /// The last peer that was looked at; `None` at the end.
    pub reached: Option<NodeId>,
}

pub struct Peers {
    rules: PeerRules,
    /// In the order of their ids, so that a list can go on where it was.
    peers: BTreeMap<NodeId, Entry>,
    /// When each one expires.
    ends: BTreeSet<(Millis, NodeId)>,
    facets: Facets,
    /// What the records take in memory, by estimate.
    bytes: u64,
}

impl Peers {
    pub fn new(rules: PeerRules) -> Peers {
        Peers { rules, peers: BTreeMap::new(), ends: BTreeSet::new(), facets: Facets::default(), bytes: 0 }
    }

    /// Peers that are stored, expired ones too.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn seen(&self, now: Millis) -> Seen {
        Seen { last_seen: now, end: now + self.rules.ttl.as_millis() as Millis }
    }

    pub fn is_live(&self, id: &NodeId, now: Millis) -> bool {
        self.peers.get(id).is_some_and(|entry| entry.is_live(now))
    }

    pub fn get(&self, id: &NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(id).map(|entry| &entry.peer)
    }

    /// Removes up to `most` of the expired but `except`, the oldest first; tells which.
    pub fn clean(
        &mut self,
        now: Millis,
        except: Option<&NodeId>,
        most: usize,
        changes: &mut Changes,
    ) -> Vec<NodeId> {
        let expired = self.ends.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| id);
        let mut parts = 0;
        let within = |id: &&NodeId| {
            let within = parts < MAX_CLEANED_PARTS;
            let entry = &self.peers[*id];
            parts += usize::from(entry.rows.parts) + 2 + entry.peer.stores.len();
            within
        };
        let others = expired.filter(|id| Some(*id) != except);
        let gone: Vec<NodeId> = others.take(most).take_while(within).cloned().collect();
        for id in &gone {
            self.remove(id, changes);
        }
        gone
    }

    /// Enters a peer or replaces its record; tells whether the id was free. `fresh` is the token it is given then. TURN
    /// data outlives a registration without any.
    pub fn register(
        &mut self,
        now: Millis,
        (id, mut peer): (NodeId, Peer),
        claimant: &Claimant,
        fresh: TokenDigest,
        changes: &mut Changes,
    ) -> Result<bool, Refused> {
        let old = self.peers.get(&id);
        let live = old.filter(|old| old.is_live(now));
        if live.is_some_and(|live| !self.may_write(live, claimant)) {
            return Err(Refused::Elsewhere);
        }
        if peer.turn.is_none() {
            peer.turn = live.and_then(|live| live.peer.turn.clone());
            peer.turn_capable |= peer.turn.is_some();
        }
        let bytes = self.bytes + weight(&id, &peer) - old.map_or(0, |old| weight(&id, &old.peer));
        let more = old.is_none_or(|old| weight(&id, &peer) > weight(&id, &old.peer));
        if (old.is_none() && self.peers.len() >= self.rules.max) || (more && bytes > self.rules.max_bytes) {
            return Err(Refused::Full);
        }
        let is_new = live.is_none();
        let token = live.map_or(fresh, |live| live.token);
        let seen = self.seen(now);
        let old = old.map(|old| old.rows);
        let unwritten = Rows { parts: 1, amended: false, indexed: Indexed::at(seen.end) };
        let rows = old.unwrap_or(unwritten);
        let mut entry = Entry { peer: Arc::new(peer), seen, token, address: claimant.address, rows };
        entry.write(&id, old, changes);
        self.insert(id, entry);
        Ok(is_new)
    }

    fn may_write(&self, entry: &Entry, claimant: &Claimant) -> bool {
        let proven = claimant.token.as_deref().is_some_and(|token| entry.token.matches(token));
        self.rules.ownership == Ownership::Open || entry.address == claimant.address || proven
    }

    /// The peer is heard, and revived where it has expired; false where it is unknown.
    pub fn heartbeat(&mut self, now: Millis, id: &NodeId, changes: &mut Changes) -> bool {
        let seen = self.seen(now);
        let Some(entry) = self.peers.get_mut(id) else { return false };
        self.ends.remove(&(entry.seen.end, id.clone()));
        self.ends.insert((seen.end, id.clone()));
        entry.seen = seen;
        // An end that is nearer than before, as after a change of the setting, moves the index row along.
        let indexed = entry.rows.indexed.min(Indexed::at(seen.end));
        changes.amend(&LeaseKey::peer(id), &seen, entry.rows.indexed, indexed);
        (entry.rows.amended, entry.rows.indexed) = (true, indexed);
        true
    }

    /// Makes a peer a TURN server, or no longer one. It counts as heard.
    pub fn set_turn(
        &mut self,
        now: Millis,
        id: &NodeId,
        turn: Option<TurnOffer>,
        claimant: &Claimant,
        changes: &mut Changes,
    ) -> Result<(), Refused> {
        let entry = self.peers.get(id).filter(|entry| entry.is_live(now)).ok_or(Refused::Unknown)?;
        if !self.may_write(entry, claimant) {
            return Err(Refused::Elsewhere);
        }
        let mut peer = Peer::clone(&entry.peer);
        peer.turn_capable = turn.is_some();
        peer.turn = turn;
        let (was, is) = (weight(id, &entry.peer), weight(id, &peer));
        if is > was && self.bytes + is - was > self.rules.max_bytes {
            return Err(Refused::Full);
        }
        let mut entry = Entry { peer: Arc::new(peer), seen: self.seen(now), ..entry.clone() };
        entry.write(id, Some(entry.rows), changes);
        self.insert(id.clone(), entry);
        Ok(())
    }

    /// The peer leaves, proven by its token.
    pub fn leave(
        &mut self,
        now: Millis,
        id: &NodeId,
        token: Option<&str>,
        changes: &mut Changes,
    ) -> Result<(), Refused> {
        let entry = self.peers.get(id).filter(|entry| entry.is_live(now)).ok_or(Refused::Unknown)?;
        if !token.is_some_and(|token| entry.token.matches(token)) {
            return Err(Refused::Unauthorized);
        }
        self.remove(id, changes);
        Ok(())
    }

    /// Ends a peer that has expired, or files it at its true time.
    pub fn expire(&mut self, id: &NodeId, now: Millis, changes: &mut Changes) -> Expired {
        let Some(entry) = self.peers.get_mut(id) else { return Expired::Kept };
        if !entry.is_live(now) {
            self.remove(id, changes);
            return Expired::Gone;
        }
        let end = Indexed::at(entry.seen.end);
        if entry.rows.indexed == end {
            return Expired::Kept;
        }
        changes.amend(&LeaseKey::peer(id), &entry.seen, entry.rows.indexed, end);
        (entry.rows.indexed, entry.rows.amended) = (end, true);
        Expired::Refiled
    }

    pub fn load(&mut self, id: NodeId, record: PeerRecord, seen: Option<Seen>, rows: Rows) {
        if let Some(entry) = Entry::of_record(record, seen, rows) {
            self.insert(id, entry);
        }
    }

    /// Active peers that match; `None` where only looking at each one would tell.
    pub fn total(&self, now: Millis, filter: &Filter) -> Option<usize> {
        let all = self.facets.count(filter, self.peers.len())?;
        let expired = self.ends.iter().take_while(|(end, _)| *end <= now);
        let expired = expired.filter(|(_, id)| filter.is_any() || filter.matches(&self.peers[id].peer));
        Some(all - expired.count())
    }

    /// Goes on with a list behind `after` until it has `most` peers or has looked at enough for one turn.
    pub fn list(&self, now: Millis, filter: &Filter, after: Option<&NodeId>, most: usize) -> Stretch {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut stretch = Stretch::default();
        let (mut looked_at, mut bytes) = (0, 0);
        let mut look = |id: &NodeId, entry: &Entry| {
            if entry.is_live(now) && filter.matches(&entry.peer) {
                bytes += weight(id, &entry.peer);
                stretch.peers.push(Listed {
                    id: id.clone(),
                    peer: entry.peer.clone(),
                    last_seen: entry.seen.last_seen,
                });
            }
            looked_at += 1;
            stretch.reached = Some(id.clone());
            looked_at < LISTED_PER_TURN && bytes < LISTED_BYTES_PER_TURN && stretch.peers.len() < most
        };
        let ended = match self.facets.narrowest(filter) {
            facets::Narrowed::All => self.peers.range::<NodeId, _>(from).all(|(id, entry)| look(id, entry)),
            facets::Narrowed::To(ids) => ids.range::<NodeId, _>(from).all(|id| look(id, &self.peers[id])),
            facets::Narrowed::None => true,
        };
        if ended {
            stretch.reached = None;
        }
        stretch
    }

    /// TURN servers that have not expired.
    pub fn turn_servers(&self, now: Millis) -> usize {
        let expired = self.ends.iter().take_while(|(end, _)| *end <= now);
        let expired = expired.filter(|(_, id)| self.peers[id].peer.turn.is_some());
        self.facets.turn_servers() - expired.count()
    }

    pub fn same_as(&self, other: &Peers) -> bool {
        self.peers == other.peers
            && self.ends == other.ends
            && self.facets == other.facets
            && self.bytes == other.bytes
    }

    fn insert(&mut self, id: NodeId, entry: Entry) {
        self.forget(&id);
        self.ends.insert((entry.seen.end, id.clone()));
        self.facets.add(&id, &entry.peer);
        self.bytes += weight(&id, &entry.peer);
        self.peers.insert(id, entry);
    }

    fn forget(&mut self, id: &NodeId) -> Option<Entry> {
        let entry = self.peers.remove(id)?;
        self.ends.remove(&(entry.seen.end, id.clone()));
        self.facets.remove(id, &entry.peer);
        self.bytes -= weight(id, &entry.peer);
        Some(entry)
    }

    /// Tells whether there was one.
    pub fn remove(&mut self, id: &NodeId, changes: &mut Changes) -> bool {
        let gone = self.forget(id);
        gone.inspect(|entry| changes.remove_all(&LeaseKey::peer(id), entry.rows)).is_some()
    }
}
