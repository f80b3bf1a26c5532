//! The rules: what a request answers, what it changes, who must be told.
//!
//! Owns the registries in memory. Each is synchronous and pure: state, time and a request in; an answer and changes
//! out. Must not know tokio, sockets, clocks or sled; nothing here sends anything.

pub mod chunks;
pub mod claims;
pub mod directory;
pub mod peers;
pub mod relays;
pub mod rendezvous;
pub mod turn;

use crate::clock::Millis;
use crate::id::{ChunkKey, Kind, LinkId, NodeId, PeerId, ServerId, SessionId, TokenDigest};
use crate::limits::Limits;
use crate::store::{Changes, Due, Indexed, LeaseKey, Row};
use crate::wire::bootstrap::Peer;
use crate::wire::turn::TurnOffer;

use chunks::Chunks;
use claims::Claims;
use directory::Directory;
use peers::{Claimant, Peers};
use relays::Relays;
use rendezvous::Rendezvous;
use turn::Turn;

/// Which run of the daemon this is, and how long what was live in an earlier one still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    pub number: u64,
    /// The earliest boot whose live records still counted when this run began: what did not come back within the grace
    /// of an earlier start has ended for good.
    pub live_since: u64,
    /// End of the restart grace.
    pub grace_end: Millis,
}

impl Boot {
    /// Whether something that was live in boot `number` counts as live at `now`.
    pub fn counts_as_live(&self, number: u64, now: Millis) -> bool {
        number == self.number || (number >= self.live_since && now < self.grace_end)
    }
}

/// What became of a lease that the sweeper looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Removed.
    Gone,
    /// Filed in the index at its true time.
    Refiled,
    /// Not what the index row said, or not to end now.
    Kept,
}

/// What became of a lease that was to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Removed.
    Gone,
    /// There is none.
    Unknown,
    /// A claim that a binary holds: it stands as long as the binary's socket.
    Held,
}

pub struct Registries {
    pub relays: Relays,
    pub rendezvous: Rendezvous,
    /// Changed through [`Registries`] alone where that concerns TURN.
    pub peers: Peers,
    pub turn: Turn,
    pub directory: Directory,
    pub claims: Claims,
    pub chunks: Chunks,
}

impl Registries {
    pub fn new(boot: Boot, limits: &Limits) -> Registries {
        Registries {
            relays: Relays::new(boot),
            rendezvous: Rendezvous::new(boot, limits.rendezvous.clone()),
            peers: Peers::new(limits.peers.clone()),
            turn: Turn::new(limits.turn.clone()),
            directory: Directory::new(limits.directory.clone()),
            claims: Claims::new(limits.link.grace),
            chunks: Chunks::new(limits.chunks.clone()),
        }
    }

    /// Sets the end of the restart grace, once it is known.
    pub fn begin(&mut self, boot: Boot) {
        self.relays.begin(boot);
        self.rendezvous.begin(boot);
    }

    /// Leases of a kind, ended ones too until they are removed.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Relay => self.relays.len(),
            Kind::Registration => self.rendezvous.len(),
            Kind::Peer => self.peers.len(),
            Kind::TurnSession => self.turn.len(),
            Kind::Server => self.directory.len(),
            Kind::Claim => self.claims.len(),
            Kind::Chunk => self.chunks.len(),
        }
    }

    /// Takes a lease back from its rows.
    pub fn load(&mut self, row: Row<'_>) {
        match row {
            Row::Relay { id, record } => self.relays.load(id, record),
            Row::Registration { sequence, record, amendment, indexed, parts } => {
                self.rendezvous.load(sequence, record, amendment, Indexed::at(indexed), parts);
            }
            Row::Peer { id, record, seen, rows } => {
                self.peers.load(id.clone(), record, seen, rows);
                self.announce(&id);
            }
            Row::TurnSession { id, record } => self.turn.load(id, &record),
            Row::Server { id, record, indexed } => self.directory.load(id, record, Indexed::at(indexed)),
            Row::Claim { id, record } => self.claims.load(id, record),
            Row::Chunk { key, record, rows } => self.chunks.load(key, &record, rows),
        }
    }

    /// Ends a lease that is due, or files it at its true time.
    pub fn expire(&mut self, due: &Due, now: Millis, changes: &mut Changes) -> Expired {
        let name = due.key.name().unwrap_or_default();
        match due.key.kind() {
            Kind::Relay => PeerId::parse(name).map(|id| self.relays.expire(&id, now, changes)),
            Kind::Registration => {
                due.key.sequence().map(|number| self.rendezvous.expire(number, due.at, now, changes))
            }
            Kind::Peer => NodeId::parse(name).map(|id| {
                let expired = self.peers.expire(&id, now, changes);
                self.announce(&id);
                expired
            }),
            Kind::TurnSession => SessionId::parse(name).map(|id| self.turn.expire(&id, now, changes)),
            Kind::Server => ServerId::parse(name).map(|id| self.directory.expire(&id, now, changes)),
            Kind::Claim => LinkId::parse(name).map(|id| self.claims.expire(&id, now, changes)),
            Kind::Chunk => ChunkKey::parse(name).map(|key| self.chunks.expire(&key, now, changes)),
        }
        .unwrap_or(Expired::Kept)
    }

    /// Ends a lease before its time.
    pub fn end(&mut self, key: &LeaseKey, changes: &mut Changes) -> Ended {
        let name = key.name().unwrap_or_default();
        let gone = match key.kind() {
            Kind::Relay => PeerId::parse(name).map(|id| self.relays.leave(&id, changes)),
            Kind::Registration => key.sequence().map(|number| self.rendezvous.end(number, changes)),
            Kind::Peer => NodeId::parse(name).map(|id| {
                let gone = self.peers.remove(&id, changes);
                self.announce(&id);
                gone
            }),
            Kind::TurnSession => SessionId::parse(name).map(|id| self.turn.remove(&id, changes)),
            Kind::Server => ServerId::parse(name).map(|id| self.directory.remove(&id, changes)),
            Kind::Claim => {
                return LinkId::parse(name).map_or(Ended::Unknown, |id| self.claims.end(&id, changes));
            }
            Kind::Chunk => ChunkKey::parse(name).map(|key| self.chunks.remove(&key, changes)),
        };
        if gone == Some(true) { Ended::Gone } else { Ended::Unknown }
    }

    /// The holder of `id` is gone (protocol: signalling, section 7).
    pub fn leave(&mut self, id: &PeerId, changes: &mut Changes) {
        self.relays.leave(id, changes);
        self.rendezvous.leave(id, changes);
    }

    /// As [`Registries::leave`], for what was live in this boot alone: nobody who came for it has been here since.
    pub fn leave_live(&mut self, id: &PeerId, changes: &mut Changes) {
        self.relays.leave_live(id, changes);
        self.rendezvous.leave_live(id, changes);
    }

    /// [`Peers::clean`]; tells how many.
    pub fn clean_peers(
        &mut self,
        now: Millis,
        except: Option<&NodeId>,
        most: usize,
        changes: &mut Changes,
    ) -> usize {
        let gone = self.peers.clean(now, except, most, changes);
        gone.iter().for_each(|id| self.announce(id));
        gone.len()
    }

    /// [`Peers::register`].
    pub fn register_peer(
        &mut self,
        now: Millis,
        (id, peer): (NodeId, Peer),
        claimant: &Claimant,
        fresh: TokenDigest,
        changes: &mut Changes,
    ) -> Result<bool, peers::Refused> {
        let registered = self.peers.register(now, (id.clone(), peer), claimant, fresh, changes);
        self.announce(&id);
        registered
    }

    /// [`Peers::set_turn`].
    pub fn set_turn(
        &mut self,
        now: Millis,
        id: &NodeId,
        turn: Option<TurnOffer>,
        claimant: &Claimant,
        changes: &mut Changes,
    ) -> Result<(), peers::Refused> {
        self.peers.set_turn(now, id, turn, claimant, changes)?;
        self.announce(id);
        Ok(())
    }

    /// [`Peers::leave`].
    pub fn leave_peer(
        &mut self,
        now: Millis,
        id: &NodeId,
        token: Option<&str>,
        changes: &mut Changes,
    ) -> Result<(), peers::Refused> {
        self.peers.leave(now, id, token, changes)?;
        self.announce(id);
        Ok(())
    }

    /// Tells the TURN registry how many sessions a peer takes.
    fn announce(&mut self, id: &NodeId) {
        let offer = self.peers.get(id).and_then(|peer| peer.turn.as_ref());
        self.turn.set_capacity(id, offer.map_or(0, |offer| offer.capacity));
    }

    /// Whether both would answer every request alike from `now` on.
    pub fn same_as(&mut self, other: &mut Registries, now: Millis) -> bool {
        self.relays.same_as(&other.relays)
            && self.rendezvous.same_as(&other.rendezvous)
            && self.peers.same_as(&other.peers)
            && self.turn.same_as(&mut other.turn, now)
            && self.directory.same_as(&other.directory)
            && self.claims.same_as(&other.claims)
            && self.chunks.same_as(&other.chunks)
    }
}
