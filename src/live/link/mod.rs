//! Link while its sockets live: who holds which server-id on which socket, and the phones of each (protocol: link).
//!
//! Owns the table of slots, each of which lasts as long as its claim, and the closes of the dialect. Must not know when a
//! claim may be taken or ends: the claim registry does.

mod slot;

use std::collections::HashMap;
use std::sync::Arc;

use super::outbox::{Budget, Close, Outbox};
use crate::id::{ConnId, Generation, LinkId, SocketId};
use crate::limits::LinkRules;
use crate::metrics::{Ending, Metrics};

pub use slot::{Attached, Delivered, Forwarded, Slot};

impl Close {
    pub const NO_SERVER: Close =
        Close { code: 4404, reason: "no server with that id", ending: Ending::NoServer };
    pub const TOO_MANY_PHONES: Close =
        Close { code: 4429, reason: "too many phones for server-id", ending: Ending::TooManyPhones };
    pub const SERVER_ID_CLAIMED: Close =
        Close { code: 4409, reason: "server-id already claimed", ending: Ending::ServerIdClaimed };
    pub const RECLAIMED: Close =
        Close { code: 4404, reason: "binary reclaimed server-id", ending: Ending::Reclaimed };
    pub const HEARTBEAT_TIMEOUT: Close =
        Close { code: 1011, reason: "heartbeat timeout", ending: Ending::Silent };
    pub const GRACE_ENDED: Close =
        Close { code: 1011, reason: "binary did not reconnect", ending: Ending::GraceEnded };
    pub const BACKLOG_FULL: Close =
        Close { code: 1011, reason: "phone backlog full", ending: Ending::BacklogFull };
    pub const SHUTTING_DOWN: Close = Close { code: 1001, reason: "shutting down", ending: Ending::Shutdown };
}

/// What a socket of link is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Binary,
    Phone,
}

/// What a binary's socket holds.
#[derive(Clone, Debug)]
pub struct Holding {
    pub id: LinkId,
    pub generation: Generation,
    /// Whether nobody stood to the id when it was claimed, phones neither.
    pub afresh: bool,
}

/// The slots, one for each claim that a socket has had to do with.
pub struct Links {
    slots: HashMap<LinkId, Arc<Slot>>,
    /// The binaries' sockets and what each holds.
    holders: HashMap<SocketId, Holding>,
    max_phones: usize,
    evict_on_reclaim: bool,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

impl Links {
    pub fn new(rules: &LinkRules, budget: Arc<Budget>, metrics: Arc<Metrics>) -> Links {
        let LinkRules { max_phones, evict_on_reclaim, .. } = *rules;
        Links {
            slots: HashMap::new(),
            holders: HashMap::new(),
            max_phones,
            evict_on_reclaim,
            budget,
            metrics,
        }
    }

    /// The slot of a claim that stands, also while its binary is away.
    fn slot(&mut self, id: &LinkId) -> &Arc<Slot> {
        self.slots
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Slot::new(self.max_phones, self.budget.clone(), &self.metrics)))
    }

    /// Makes a socket the holder of an id. Frames flow once it has opened the slot. The socket that it replaces is told so
    /// by the caller.
    pub fn hold(&mut self, holding: Holding, outbox: Arc<Outbox>) -> (Arc<Slot>, Option<Arc<Outbox>>) {
        let slot = self.slot(&holding.id).clone();
        let (socket, generation) = (outbox.socket, holding.generation);
        let replaced = slot.hold(generation, outbox);
        self.holders.insert(socket, holding);
        if let Some(replaced) = &replaced {
            self.holders.remove(&replaced.socket);
        }
        (slot, replaced)
    }

    /// The holder of an id and the generation that it holds.
    pub fn holder(&self, id: &LinkId) -> Option<(Generation, Arc<Outbox>)> {
        self.slots.get(id)?.holder()
    }

    /// A phone attaches under a fresh conn_id; `None` where there are too many.
    pub fn attach(&mut self, id: &LinkId, conn_id: ConnId, outbox: Arc<Outbox>) -> Option<Attached> {
        Slot::attach(self.slot(id), conn_id, outbox)
    }

    /// A socket has ended. What it held until now is returned, and whether it came to open the slot; a holder that was
    /// replaced held nothing.
    pub fn leave(&mut self, socket: SocketId) -> Option<(Holding, bool)> {
        let holding = self.holders.remove(&socket)?;
        let opened = self.slots.get(&holding.id).is_some_and(|slot| slot.vacate(holding.generation));
        Some((holding, opened))
    }

    /// The binary is back: phones that are not to stay are for the caller to close.
    pub fn evict(&mut self, id: &LinkId) -> Vec<Arc<Outbox>> {
        let slot = self.slots.get(id).filter(|_| self.evict_on_reclaim);
        slot.map_or_else(Vec::new, |slot| slot.clear())
    }

    /// Gives up what phones that have left have said and no binary has read.
    pub fn forget_departed(&self) {
        self.slots.values().for_each(|slot| slot.forget_departed(0));
    }

    /// The claim has ended, and its slot with it; the phones are for the caller to close.
    pub fn end(&mut self, id: &LinkId) -> Vec<Arc<Outbox>> {
        self.slots.remove(id).map_or_else(Vec::new, |slot| slot.clear())
    }

    pub fn ids(&self) -> impl Iterator<Item = &LinkId> {
        self.slots.keys()
    }

    /// Phones attached to an id, and bytes of theirs that wait for the binary.
    pub fn phones(&self, id: &LinkId) -> (usize, usize) {
        self.slots.get(id).map_or((0, 0), |slot| slot.phones())
    }

    /// Every socket of link with what it is there for.
    pub fn roles(&self) -> HashMap<SocketId, (Role, &LinkId)> {
        let mut roles = HashMap::new();
        for (id, slot) in &self.slots {
            roles.extend(slot.phone_sockets().into_iter().map(|socket| (socket, (Role::Phone, id))));
        }
        roles.extend(self.holders.iter().map(|(socket, holding)| (*socket, (Role::Binary, &holding.id))));
        roles
    }
}
