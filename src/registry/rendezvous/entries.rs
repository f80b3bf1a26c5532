//! What stands where: entries at points and tokens, and what a registration has left.
//!
//! Owns taking entries away, when a registration next ends, and what it writes when it has lost something. Must not know
//! requests.

use super::Rendezvous;
use super::few::Few;
use super::places::Entry;
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
    pub(super) named: Box<[Named]>,
    pub(super) points_end: Millis,
    pub(super) tokens_end: Millis,
    pub(super) indexed: Indexed,
    pub(super) payload_bytes: u32,
    /// Those of its names.
    pub(super) name_bytes: u32,
    /// How many of the named are points.
    pub(super) points: u16,
    /// Rows that its record takes, and whether it has an amendment beside it.
    pub(super) parts: u16,
    pub(super) amended: bool,
}

/// One of a registration's points or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) key: PointKey,
    /// Bytes of its dead drop; 0 is none.
    pub(super) size: u32,
}

/// What one peer has: its registrations, the oldest first, and how many entries they have left, ended ones included.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Holdings {
    pub(super) sequences: Few<u64>,
    pub(super) points: u32,
    pub(super) tokens: u32,
}

/// What makes room for what replaces it.
#[derive(Default)]
pub(super) struct Going {
    pub(super) registrations: usize,
    pub(super) entries: usize,
    pub(super) bytes: u64,
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
    /// What it has of a half, ended ones included, each with its place.
    pub(super) fn named(&self, half: Half) -> impl Iterator<Item = (u16, &PointKey)> {
        let points = usize::from(self.points);
        let places = match half {
            Half::Points => 0..points,
            Half::Tokens => points..self.named.len(),
        };
        places.map(|place| (place as u16, &self.named[place].key))
    }

    pub(super) fn half(&self, place: u16) -> Half {
        if place < self.points { Half::Points } else { Half::Tokens }
    }

    pub(super) fn end(&self, half: Half) -> Millis {
        match half {
            Half::Points => self.points_end,
            Half::Tokens => self.tokens_end,
        }
    }
}

impl Rendezvous {
    /// Who stands at a point or token, in no order; in either half never two of one peer.
    fn entries(&self, half: Half, key: &PointKey) -> impl Iterator<Item = (Entry, &Registration)> {
        let near = self.places.near(key).map(|entry| (entry, &*self.registrations[&entry.sequence]));
        near.filter(move |(entry, registration)| {
            registration.half(entry.place) == half && registration.named[usize::from(entry.place)].key == *key
        })
    }

    pub(super) fn live_entries(
        &self,
        half: Half,
        key: &PointKey,
        now: Millis,
    ) -> impl Iterator<Item = (Entry, &Registration)> {
        self.entries(half, key).filter(move |(_, registration)| self.is_live(half, registration, now))
    }

    /// The live entries of others than `peer`, the one first that was registered first.
    pub(super) fn others(
        &self,
        half: Half,
        key: &PointKey,
        peer: &PeerId,
        now: Millis,
    ) -> Vec<(Entry, &Registration)> {
        let live = self.live_entries(half, key, now);
        let mut others: Vec<_> = live.filter(|(_, other)| other.peer != *peer).collect();
        others.sort_unstable_by_key(|(_, other)| other.order);
        others
    }

    pub(super) fn is_live(&self, half: Half, registration: &Registration, now: Millis) -> bool {
        registration.end(half) > now
            && (half == Half::Points || self.boot.counts_as_live(registration.boot, now))
    }

    pub(super) fn stands(&self, key: &PointKey, sequence: u64, place: u16) -> bool {
        self.places.has(key, Entry { sequence, place })
    }

    /// How many live entries a peer keeps when `keys` are registered anew.
    pub(super) fn stays(&self, holdings: &Holdings, half: Half, keys: &[PointKey], now: Millis) -> usize {
        let registrations =
            holdings.sequences.iter().map(|sequence| (*sequence, &*self.registrations[sequence]));
        let live = registrations.filter(|(_, registration)| self.is_live(half, registration, now));
        let entries = live.flat_map(|(sequence, registration)| {
            registration.named(half).map(move |(place, key)| (sequence, place, key))
        });
        let stays = |(sequence, place, key): &(u64, u16, &PointKey)| {
            !keys.contains(key) && self.stands(key, *sequence, *place)
        };
        entries.filter(stays).count()
    }

    /// What a peer's registrations hold that have nothing left when these points and tokens are registered anew.
    pub(super) fn going(&self, holdings: &Holdings, points: &[PointKey], tokens: &[PointKey]) -> Going {
        let mut going = Going::default();
        for sequence in holdings.sequences.iter() {
            let registration = &*self.registrations[sequence];
            let standing = |half| {
                let named = registration.named(half);
                named.filter(|(place, key)| self.stands(key, *sequence, *place)).map(|(_, key)| key)
            };
            let halves = [(Half::Points, points), (Half::Tokens, tokens)];
            if halves.iter().all(|(half, keys)| standing(*half).all(|key| keys.contains(key))) {
                going.registrations += 1;
                going.entries += standing(Half::Points).count() + standing(Half::Tokens).count();
                going.bytes += u64::from(registration.payload_bytes) + u64::from(registration.name_bytes);
            }
        }
        going
    }

    /// Takes a peer's own entry away from a point; tells the registration that lost it.
    pub(super) fn replace_own(&mut self, half: Half, key: &PointKey, peer: &PeerId) -> Option<u64> {
        let own = self.entries(half, key).find(|(_, registration)| registration.peer == *peer);
        let (entry, _) = own?;
        self.take_away(half, key, entry);
        Some(entry.sequence)
    }

    fn take_away(&mut self, half: Half, key: &PointKey, entry: Entry) -> bool {
        if !self.places.take(key, entry) {
            return false;
        }
        let holdings = self.by_peer.get_mut(&self.registrations[&entry.sequence].peer);
        let (total, own) = match half {
            Half::Points => (&mut self.totals.points, holdings.map(|holdings| &mut holdings.points)),
            Half::Tokens => (&mut self.totals.tokens, holdings.map(|holdings| &mut holdings.tokens)),
        };
        *total -= 1;
        if let Some(own) = own {
            *own -= 1;
        }
        true
    }

    /// Takes one half of a registration away; tells whether there was any of it.
    pub(super) fn clear(&mut self, sequence: u64, half: Half) -> bool {
        let named = self.registrations[&sequence].named(half);
        let mut any = false;
        for (place, key) in named.map(|(place, key)| (place, *key)).collect::<Vec<_>>() {
            any |= self.take_away(half, &key, Entry { sequence, place });
        }
        any
    }

    /// When a registration next loses something of its own accord; `None` where it has nothing left.
    pub(super) fn next_end(&self, sequence: u64) -> Option<Millis> {
        let registration = &self.registrations[&sequence];
        let has = |half: &Half| {
            let mut named = registration.named(*half);
            named.any(|(place, key)| self.stands(key, sequence, place))
        };
        let halves = [Half::Points, Half::Tokens].into_iter().filter(has);
        halves.map(|half| registration.end(half)).min()
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
            let named = registration.named(half).zip(0..);
            let lost = named.filter(|((place, key), _)| !self.stands(key, sequence, *place));
            lost.map(|(_, position)| position).collect()
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
