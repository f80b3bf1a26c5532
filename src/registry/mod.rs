//! The rules: what a request answers, what it changes, who must be told.
//!
//! Owns the registries in memory. Each is synchronous and pure: state, time and a request in; an answer and changes
//! out. Must not know tokio, sockets, clocks or sled; nothing here sends anything.

pub mod relays;
pub mod rendezvous;

use crate::clock::Millis;
use crate::id::PeerId;
use crate::limits::Limits;
use crate::store::{Changes, Due, Indexed, Row};

use relays::Relays;
use rendezvous::Rendezvous;

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

pub struct Registries {
    pub relays: Relays,
    pub rendezvous: Rendezvous,
}

impl Registries {
    pub fn new(boot: Boot, limits: &Limits) -> Registries {
        Registries { relays: Relays::new(boot), rendezvous: Rendezvous::new(boot, limits.rendezvous.clone()) }
    }

    /// Sets the end of the restart grace, once it is known.
    pub fn begin(&mut self, boot: Boot) {
        self.relays.begin(boot);
        self.rendezvous.begin(boot);
    }

    /// Takes a lease back from its rows.
    pub fn load(&mut self, row: Row<'_>) {
        match row {
            Row::Relay { id, record } => self.relays.load(id, record),
            Row::Registration { sequence, record, amendment, indexed, parts } => {
                self.rendezvous.load(sequence, record, amendment, Indexed::at(indexed), parts);
            }
        }
    }

    /// Ends a lease that is due, or files it at its true time.
    pub fn expire(&mut self, due: &Due, now: Millis, changes: &mut Changes) -> Expired {
        match (due.key.id(), due.key.sequence()) {
            (Some(id), _) => self.relays.expire(&id, now, changes),
            (None, Some(sequence)) => self.rendezvous.expire(sequence, due.at, now, changes),
            (None, None) => Expired::Kept,
        }
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

    /// Whether both would answer every request alike.
    pub fn same_as(&self, other: &Registries) -> bool {
        self.relays.same_as(&other.relays) && self.rendezvous.same_as(&other.rendezvous)
    }
}
