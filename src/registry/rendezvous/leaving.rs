//! How registrations end: their peer leaves, or their time is up.
//!
//! Owns what goes then and what stays. Must not know requests.

use super::Rendezvous;
use super::entries::{Half, Registration};
use crate::clock::Millis;
use crate::id::PeerId;
use crate::registry::Expired;
use crate::store::{Changes, Indexed};

impl Rendezvous {
    /// The holder of `peer` is gone: its tokens go, its points stay until their TTL where the setting says so.
    pub fn leave(&mut self, peer: &PeerId, changes: &mut Changes) {
        self.leave_where(peer, |_| true, changes);
    }

    /// As [`Rendezvous::leave`], for registrations of this boot.
    pub fn leave_live(&mut self, peer: &PeerId, changes: &mut Changes) {
        let boot = self.boot.number;
        self.leave_where(peer, |registration| registration.boot == boot, changes);
    }

    fn leave_where(&mut self, peer: &PeerId, which: impl Fn(&Registration) -> bool, changes: &mut Changes) {
        for sequence in self.by_peer.get(peer).cloned().unwrap_or_default().sequences.iter().copied() {
            if !which(&self.registrations[&sequence]) {
                continue;
            }
            let mut lost = self.clear(sequence, Half::Tokens);
            if !self.rules.keep_drops {
                lost |= self.clear(sequence, Half::Points);
            }
            if lost {
                self.lost_something(sequence, changes);
            }
        }
    }

    /// Ends a registration with both its halves; false where there is none.
    pub fn end(&mut self, sequence: u64, changes: &mut Changes) -> bool {
        let found = self.registrations.contains_key(&sequence);
        if found {
            self.clear(sequence, Half::Points);
            self.clear(sequence, Half::Tokens);
            self.remove(sequence, changes);
        }
        found
    }

    /// Ends the halves whose time is up; `at` is where the index row was that brought the sweeper here.
    pub fn expire(&mut self, sequence: u64, at: Millis, now: Millis, changes: &mut Changes) -> Expired {
        let Some(registration) = self.registrations.get(&sequence) else { return Expired::Kept };
        if registration.indexed != Indexed::at(at) || at > now {
            return Expired::Kept;
        }
        for half in [Half::Points, Half::Tokens] {
            if self.registrations[&sequence].end(half) <= now {
                self.clear(sequence, half);
            }
        }
        match self.next_end(sequence) {
            None => {
                self.remove(sequence, changes);
                Expired::Gone
            }
            Some(end) => {
                self.amend(sequence, Indexed::at(end), changes);
                Expired::Refiled
            }
        }
    }
}
