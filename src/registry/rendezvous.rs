//! Rendezvous: peers that meet at points and tokens, and leave dead drops for those who come later (protocol:
//! signalling, section 4).
//!
//! Owns who stands at which point, the quotas, and exact expiry. Payloads stay in the store: memory has their size and
//! where to find them. Must not know sockets, clocks or sled.

mod entries;
mod few;
mod filing;
mod leaving;
mod places;

use std::collections::BTreeSet;

use ahash::AHashMap;

use super::Boot;
use crate::clock::Millis;
use crate::id::{PeerId, PointKey};
use crate::limits::{
    MAX_DROP_BYTES_PER_RESULT, MAX_DROPS_PER_RESULT, MAX_ENTRIES_PER_POINT, RendezvousRules,
};
use crate::store::{Changes, DropRef, Indexed, LeaseKey, PointRecord, RegistrationRecord};
use crate::wire::signalling::RegisterRendezvous;
use entries::{Going, Half, Holdings, Registration};
use filing::Filed;
use places::Places;

/// What a newcomer finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Peers at a shared token; each of them is to be told of the newcomer.
    pub live: Vec<Meeting>,
    pub drops: Vec<FoundDrop>,
    pub truncated: bool,
}

/// Another peer at a point or token.
#[derive(Clone, Debug, PartialEq)]
pub struct Meeting {
    pub peer: PeerId,
    /// Whether it stood there in this boot. Of an earlier one whoever holds the id now may be somebody else.
    pub of_this_boot: bool,
    pub relay_id: String,
    pub meeting_point: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FoundDrop {
    pub from: Meeting,
    pub at: DropRef,
}

/// Why a registration is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    PointFull,
    PeerQuota,
    RegistryFull,
}

pub struct Rendezvous {
    boot: Boot,
    rules: RendezvousRules,
    next_sequence: u64,
    registrations: AHashMap<u64, Box<Registration>>,
    places: Places,
    by_peer: AHashMap<PeerId, Holdings>,
    totals: Totals,
}

/// What all registrations hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub points: usize,
    pub tokens: usize,
    pub payload_bytes: u64,
    /// Payloads and names: what the rows take in the store, within a few bytes each.
    pub stored_bytes: u64,
}

impl Rendezvous {
    pub fn new(boot: Boot, rules: RendezvousRules) -> Rendezvous {
        Rendezvous {
            boot,
            rules,
            next_sequence: 1,
            registrations: AHashMap::new(),
            places: Places::default(),
            by_peer: AHashMap::new(),
            totals: Totals::default(),
        }
    }

    pub fn begin(&mut self, boot: Boot) {
        self.boot = boot;
    }

    pub fn len(&self) -> usize {
        self.registrations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.registrations.is_empty()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Collects what is there for the newcomer, then enters it at every point and token; or refuses the whole.
    pub fn register(
        &mut self,
        now: Millis,
        request: &RegisterRendezvous,
        changes: &mut Changes,
    ) -> Result<Found, Refused> {
        let names = request.points.iter().map(|point| &point.name).chain(&request.tokens);
        let keys: Vec<PointKey> = names.map(|name| PointKey::of(name)).collect();
        if keys.is_empty() {
            return Ok(Found::default());
        }
        let (points, tokens) = keys.split_at(request.points.len());
        self.admit(now, request, points, tokens)?;
        let found = self.collect(now, request, points, tokens);
        self.enter(now, request, keys, changes);
        Ok(found)
    }

    fn admit(
        &self,
        now: Millis,
        request: &RegisterRendezvous,
        points: &[PointKey],
        tokens: &[PointKey],
    ) -> Result<(), Refused> {
        let halves = [
            (Half::Points, points, self.rules.max_points_per_peer),
            (Half::Tokens, tokens, self.rules.max_tokens_per_peer),
        ];
        for (half, keys, _) in halves {
            for key in keys {
                let live = self.live_entries(half, key, now);
                let others = live.filter(|(_, other)| other.peer != request.peer_id).count();
                if others >= MAX_ENTRIES_PER_POINT {
                    return Err(Refused::PointFull);
                }
            }
        }
        for (half, keys, most) in halves {
            let holdings = self.by_peer.get(&request.peer_id);
            let at_most = holdings.map_or(0, |it| it.count(half));
            let stays = || holdings.map_or(0, |it| self.stays(it, half, keys, now));
            if at_most + keys.len() > most && stays() + keys.len() > most {
                return Err(Refused::PeerQuota);
            }
        }
        let names = request.points.iter().map(|point| &point.name);
        let texts = names.chain(&request.tokens).chain(&request.payloads);
        let registrations = self.registrations.len() + 1;
        let entries = self.totals.points + self.totals.tokens + points.len() + tokens.len();
        let bytes = self.totals.stored_bytes + texts.map(|text| text.len() as u64).sum::<u64>();
        let fits = |going: Going| {
            registrations - going.registrations <= self.rules.max_registrations
                && entries - going.entries <= self.rules.max_entries
                && bytes - going.bytes <= self.rules.max_stored_bytes
        };
        // What goes for it is looked for only where there is no room otherwise.
        let holdings = self.by_peer.get(&request.peer_id);
        let replaces = || holdings.is_some_and(|it| fits(self.going(it, points, tokens)));
        if fits(Going::default()) || replaces() { Ok(()) } else { Err(Refused::RegistryFull) }
    }

    fn collect(
        &self,
        now: Millis,
        request: &RegisterRendezvous,
        points: &[PointKey],
        tokens: &[PointKey],
    ) -> Found {
        let mut found = Found::default();
        let mut bytes = 0;
        let meeting = |other: &Registration, name: &str| Meeting {
            peer: other.peer.clone(),
            of_this_boot: other.boot == self.boot.number,
            relay_id: other.relay_id.to_string(),
            meeting_point: name.to_owned(),
        };
        'points: for (key, point) in points.iter().zip(&request.points) {
            for (entry, other) in self.others(Half::Points, key, &request.peer_id, now) {
                let size = other.named[usize::from(entry.place)].size;
                if size == 0 {
                    continue;
                }
                bytes += size as usize;
                if found.drops.len() == MAX_DROPS_PER_RESULT || bytes > MAX_DROP_BYTES_PER_RESULT {
                    found.truncated = true;
                    break 'points;
                }
                let at = DropRef { sequence: entry.sequence, order: other.order, point: entry.place };
                found.drops.push(FoundDrop { from: meeting(other, &point.name), at });
            }
        }
        for (key, name) in tokens.iter().zip(&request.tokens) {
            let others = self.others(Half::Tokens, key, &request.peer_id, now);
            found.live.extend(others.iter().map(|(_, other)| meeting(other, name)));
        }
        found
    }

    fn enter(
        &mut self,
        now: Millis,
        request: &RegisterRendezvous,
        keys: Vec<PointKey>,
        changes: &mut Changes,
    ) {
        let (points, tokens) = keys.split_at(request.points.len());
        let order = self.next_sequence;
        self.next_sequence += 1;
        let points_end = now + self.rules.daily_ttl.as_millis() as Millis;
        let tokens_end = now + self.rules.hourly_ttl.as_millis() as Millis;

        let mut replaced = BTreeSet::new();
        for (half, keys) in [(Half::Points, points), (Half::Tokens, tokens)] {
            for key in keys {
                replaced.extend(self.replace_own(half, key, &request.peer_id));
            }
        }
        // One that has nothing left gives its place in the store to this one: then a row is overwritten, instead of four
        // written or removed.
        let place = replaced.iter().copied().find(|old| self.next_end(*old).is_none());
        for old in replaced.into_iter().filter(|old| Some(*old) != place) {
            self.lost_something(old, changes);
        }
        let place = place.and_then(|old| Some((old, self.forget(old)?)));

        let record = RegistrationRecord {
            boot: self.boot.number,
            peer: request.peer_id.as_str().into(),
            relay_id: request.relay_id.as_str().into(),
            registered_at: now,
            points_end,
            tokens_end,
            points: request
                .points
                .iter()
                .map(|point| PointRecord { name: point.name.as_str().into(), payload: point.payload })
                .collect(),
            tokens: request.tokens.iter().map(|name| name.as_str().into()).collect(),
            payloads: request.payloads.iter().map(|payload| payload.as_str().into()).collect(),
            order,
        };
        let first_end = match (points.is_empty(), tokens.is_empty()) {
            (false, false) => points_end.min(tokens_end),
            (false, true) => points_end,
            (true, _) => tokens_end,
        };
        let mut indexed = Indexed::at(first_end);
        let (sequence, parts) = match place {
            None => (order, changes.put_new(&LeaseKey::registration(order), &record, indexed)),
            Some((sequence, old)) => {
                // The index may name it too early: the sweeper files it anew then.
                indexed = indexed.min(old.indexed);
                (sequence, changes.replace(&LeaseKey::registration(sequence), &record, old, indexed).parts)
            }
        };
        let filed = Filed { amendment: None, indexed, parts };
        self.insert(sequence, &record, filed, keys);
    }

    /// The newest number given.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Keeps counting behind `last`, whose row perhaps does not decode and is to be left alone.
    pub fn continue_after(&mut self, last: u64) {
        self.next_sequence = self.next_sequence.max(last + 1);
    }

    /// Whether both would answer every request alike.
    pub fn same_as(&self, other: &Rendezvous) -> bool {
        self.registrations == other.registrations
            && self.places.len() == other.places.len()
            && self.registrations.iter().all(|(sequence, registration)| {
                (0..).zip(&registration.named).all(|(place, named)| {
                    let stands = |rendezvous: &Rendezvous| rendezvous.stands(&named.key, *sequence, place);
                    stands(self) == stands(other)
                })
            })
            && self.by_peer == other.by_peer
            && self.totals == other.totals
    }

    /// Ids with tokens that were live in this boot.
    pub fn live_ids(&self) -> impl Iterator<Item = &PeerId> {
        let live = self.registrations.values().filter(|registration| registration.boot == self.boot.number);
        live.filter(|registration| registration.named(Half::Tokens).next().is_some())
            .map(|registration| &registration.peer)
    }
}
