//! What stands where: entries at points and tokens, and what a registration has left.
//!
//! Owns taking entries away, when a registration next ends, and what it writes when it has lost something. Must not know
//! requests.

use super::Rendezvous;
use super::few::Few;
use crate::clock::Millis;
use crate::id::{PeerId, PointKey};
use crate::store::{Amendment, Changes, Indexed, LeaseKey, Rows};

/// Points or tokens: two halves of one registration that end at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Points,
    Tokens,
}

/// Sizes are bounded by what `parts` rows take, and so fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registration {
    /// Which was registered before which; its key may be older.
    pub(super) order: u64,
    pub(super) boot: u64,
    pub(super) peer: PeerId,
    pub(super) relay_id: Box<str>,
    /// Its points, then its tokens.
    pub(super) keys: Box<[PointKey]>,
    pub(super) points_end: Millis,
    pub(super) tokens_end: Millis,
    pub(super) indexed: Indexed,
    pub(super) payload_bytes: u32,
    /// Those of its names.
    pub(super) name_bytes: u32,
    /// How many of the keys are points.
    pub(super) points: u16,
    /// Rows that its record takes, and whether it has an amendment beside it.
    pub(super) parts: u16,
    pub(super) amended: bool,
}

/// One peer at one point or token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// Payload bytes; 0 is none.
    pub(super) size: u32,
    /// The position in its registration.
    pub(super) place: u16,
    /// Whether a point or a token of that name is meant: both stand in one list.
    pub(super) half: Half,
}

/// Oldest registration first; in either half never two of one peer.
pub(super) type Entries = Few<Entry>;

/// What one peer has: its registrations, the oldest first, and how many entries they have left, ended ones included.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Holdings {
    pub(super) sequences: Few<u64>,
    pub(super) points: u32,
    pub(super) tokens: u32,
}

impl Holdings {
    pub(super) fn count(&self, half: Half) -> usize {
        let count = match half {
            Half::Points => self.points,
            Half::Tokens => self.tokens,
        };
        count as usize
    }
}

impl Registration {
    pub(super) fn keys(&self, half: Half) -> &[PointKey] {
        match half {
            Half::Points => &self.keys[..usize::from(self.points)],
            Half::Tokens => &self.keys[usize::from(self.points)..],
        }
    }

    pub(super) fn end(&self, half: Half) -> Millis {
        match half {
            Half::Points => self.points_end,
            Half::Tokens => self.tokens_end,
        }
    }
}

impl Rendezvous {
    fn entries(&self, half: Half, key: &PointKey) -> impl Iterator<Item = Entry> {
        let entries = self.places.get(key).into_iter().flat_map(|entries| entries.iter().copied());
        entries.filter(move |entry| entry.half == half)
    }

    pub(super) fn live_entries(
        &self,
        half: Half,
        key: &PointKey,
        now: Millis,
    ) -> impl Iterator<Item = (Entry, &Registration)> {
        let all = self.entries(half, key).map(|entry| (entry, &*self.registrations[&entry.sequence]));
        all.filter(move |(_, registration)| self.is_live(half, registration, now))
    }

    pub(super) fn is_live(&self, half: Half, registration: &Registration, now: Millis) -> bool {
        registration.end(half) > now
            && (half == Half::Points || self.boot.counts_as_live(registration.boot, now))
    }

    pub(super) fn stands(&self, half: Half, key: &PointKey, sequence: u64, place: u16) -> bool {
        self.entries(half, key).any(|entry| entry.sequence == sequence && entry.place == place)
    }

    /// How many live entries a peer keeps when `keys` are registered anew.
    pub(super) fn stays(&self, holdings: &Holdings, half: Half, keys: &[PointKey], now: Millis) -> usize {
        let registrations =
            holdings.sequences.iter().map(|sequence| (*sequence, &*self.registrations[sequence]));
        let live = registrations.filter(|(_, registration)| self.is_live(half, registration, now));
        let entries = live.flat_map(|(sequence, registration)| {
            let places = registration.keys(half).iter().enumerate();
            places.map(move |(place, key)| (sequence, place as u16, key))
        });
        let stays = |(sequence, place, key): &(u64, u16, &PointKey)| {
            !keys.contains(key) && self.stands(half, key, *sequence, *place)
        };
        entries.filter(stays).count()
    }

    /// Takes a peer's own entry away from a point; tells the registration that lost it.
    pub(super) fn replace_own(&mut self, half: Half, key: &PointKey, peer: &PeerId) -> Option<u64> {
        let registrations = &self.registrations;
        let is_own = |entry: &Entry| registrations[&entry.sequence].peer == *peer;
        let own = self.entries(half, key).find(is_own)?.sequence;
        self.take_away(half, key, own);
        Some(own)
    }

    fn take_away(&mut self, half: Half, key: &PointKey, sequence: u64) -> bool {
        let Some(entries) = self.places.get_mut(key) else { return false };
        let before = entries.len();
        entries.retain(|entry| entry.half != half || entry.sequence != sequence);
        let taken = before - entries.len();
        if entries.is_empty() {
            self.places.remove(key);
        }
        let holdings = self.by_peer.get_mut(&self.registrations[&sequence].peer);
        let (total, own) = match half {
            Half::Points => (&mut self.totals.points, holdings.map(|holdings| &mut holdings.points)),
            Half::Tokens => (&mut self.totals.tokens, holdings.map(|holdings| &mut holdings.tokens)),
        };
        *total -= taken;
        if let Some(own) = own {
            *own -= taken as u32;
        }
        taken > 0
    }

    /// Takes one half of a registration away; tells whether there was any of it.
    pub(super) fn clear(&mut self, sequence: u64, half: Half) -> bool {
        let keys = self.registrations[&sequence].keys(half).to_vec();
        let mut any = false;
        for key in keys {
            any |= self.take_away(half, &key, sequence);
        }
        any
    }

    /// When a registration next loses something of its own accord; `None` where it has nothing left.
    pub(super) fn next_end(&self, sequence: u64) -> Option<Millis> {
        let registration = &self.registrations[&sequence];
        let halves = [Half::Points, Half::Tokens].into_iter();
        let has = |half: &Half| {
            let keys = registration.keys(*half).iter().enumerate();
            keys.into_iter().any(|(place, key)| self.stands(*half, key, sequence, place as u16))
        };
        halves.filter(has).map(|half| registration.end(half)).min()
    }

    /// Puts an entry at a point, behind those that were registered before it.
    pub(super) fn put(&mut self, key: PointKey, entry: Entry, order: u64) {
        let registrations = &self.registrations;
        let entries = self.places.entry(key).or_default();
        let later = entries.iter().rev().take_while(|other| {
            other.sequence != entry.sequence && registrations[&other.sequence].order > order
        });
        let at = entries.len() - later.count();
        entries.insert(at, entry);
    }

    /// A registration has lost entries: writes that, or removes it when nothing is left.
    pub(super) fn lost_something(&mut self, sequence: u64, changes: &mut Changes) {
        match self.next_end(sequence) {
            None => self.remove(sequence, changes),
            // The index may name it too early: the sweeper files it anew then.
            Some(_) => self.amend(sequence, self.registrations[&sequence].indexed, changes),
        }
    }

    pub(super) fn amend(&mut self, sequence: u64, indexed: Indexed, changes: &mut Changes) {
        let registration = &self.registrations[&sequence];
        let gone = |half: Half| {
            let places = registration.keys(half).iter().enumerate().map(|(place, key)| (place as u16, key));
            let lost = places.filter(|(place, key)| !self.stands(half, key, sequence, *place));
            lost.map(|(place, _)| place).collect()
        };
        let amendment = Amendment { points_gone: gone(Half::Points), tokens_gone: gone(Half::Tokens) };
        let key = LeaseKey::registration(sequence);
        changes.amend(&key, &amendment, registration.indexed, indexed);
        if let Some(registration) = self.registrations.get_mut(&sequence) {
            (registration.indexed, registration.amended) = (indexed, true);
        }
    }

    pub(super) fn remove(&mut self, sequence: u64, changes: &mut Changes) {
        if let Some(rows) = self.forget(sequence) {
            changes.remove_all(&LeaseKey::registration(sequence), rows);
        }
    }

    /// Takes a registration that has nothing left out of memory; tells which rows it has.
    pub(super) fn forget(&mut self, sequence: u64) -> Option<Rows> {
        let registration = self.registrations.remove(&sequence)?;
        let payload_bytes = u64::from(registration.payload_bytes);
        self.totals.payload_bytes -= payload_bytes;
        self.totals.stored_bytes -= payload_bytes + u64::from(registration.name_bytes);
        if let Some(holdings) = self.by_peer.get_mut(&registration.peer) {
            holdings.sequences.retain(|other| *other != sequence);
            if holdings.sequences.is_empty() {
                self.by_peer.remove(&registration.peer);
            }
        }
        let Registration { parts, amended, indexed, .. } = *registration;
        Some(Rows { parts, amended, indexed })
    }
}
