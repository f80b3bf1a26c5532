//! Rendezvous: peers that meet at points and tokens, and leave dead drops for those who come later (protocol:
//! signalling, section 4).
//!
//! Owns who stands at which point, the quotas, and exact expiry. Payloads stay in the store: memory has their size and
//! where to find them. Must not know sockets, clocks or sled.

use std::collections::{BTreeSet, HashMap};

use smallvec::SmallVec;

use super::{Boot, Expired};
use crate::clock::Millis;
use crate::id::{PeerId, PointKey};
use crate::limits::{
    MAX_DROP_BYTES_PER_RESULT, MAX_DROPS_PER_RESULT, MAX_ENTRIES_PER_POINT, RendezvousRules,
};
use crate::store::{Amendment, Changes, DropRef, Indexed, LeaseKey, PointRecord, RegistrationRecord};
use crate::wire::signalling::RegisterRendezvous;

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

/// Points or tokens: two halves of one registration that end at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Points,
    Tokens,
}

#[derive(Clone, Debug, PartialEq)]
struct Registration {
    boot: u64,
    peer: PeerId,
    relay_id: Box<str>,
    points: Box<[PointKey]>,
    tokens: Box<[PointKey]>,
    points_end: Millis,
    tokens_end: Millis,
    payload_bytes: u64,
    indexed: Indexed,
    amended: bool,
}

/// One peer at one point or token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    sequence: u64,
    /// Payload bytes; 0 is none.
    size: u32,
    /// The position in its registration.
    place: u16,
}

/// Oldest registration first; never two of one peer.
type Entries = SmallVec<[Entry; 1]>;

pub struct Rendezvous {
    boot: Boot,
    rules: RendezvousRules,
    next_sequence: u64,
    registrations: HashMap<u64, Registration>,
    points: HashMap<PointKey, Entries>,
    tokens: HashMap<PointKey, Entries>,
    by_peer: HashMap<PeerId, SmallVec<[u64; 1]>>,
    totals: Totals,
}

/// What all registrations hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub points: usize,
    pub tokens: usize,
    pub payload_bytes: u64,
}

impl Rendezvous {
    pub fn new(boot: Boot, rules: RendezvousRules) -> Rendezvous {
        Rendezvous {
            boot,
            rules,
            next_sequence: 1,
            registrations: HashMap::new(),
            points: HashMap::new(),
            tokens: HashMap::new(),
            by_peer: HashMap::new(),
            totals: Totals::default(),
        }
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
        let points: Vec<PointKey> = request.points.iter().map(|point| PointKey::of(&point.name)).collect();
        let tokens: Vec<PointKey> = request.tokens.iter().map(|name| PointKey::of(name)).collect();
        if points.is_empty() && tokens.is_empty() {
            return Ok(Found::default());
        }
        self.admit(now, request, &points, &tokens)?;
        let found = self.collect(now, request, &points, &tokens);
        self.enter(now, request, points, tokens, changes);
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
            // What the peer holds already, without what this request replaces.
            let held = self.by_peer.get(&request.peer_id).into_iter().flatten().map(|sequence| {
                let registration = &self.registrations[sequence];
                let live = self.is_live(half, registration, now);
                let keys_held = if live { registration.keys(half) } else { &[] };
                let stands = |place: usize, key: &PointKey| self.stands(half, key, *sequence, place as u16);
                let stays = |(place, key): &(usize, &PointKey)| stands(*place, key) && !keys.contains(key);
                keys_held.iter().enumerate().filter(stays).count()
            });
            if held.sum::<usize>() + keys.len() > most {
                return Err(Refused::PeerQuota);
            }
        }
        let bytes: usize = request.payloads.iter().map(String::len).sum();
        let full = self.registrations.len() >= self.rules.max_registrations
            || self.totals.payload_bytes + bytes as u64 > self.rules.max_stored_bytes;
        if full { Err(Refused::RegistryFull) } else { Ok(()) }
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
            relay_id: other.relay_id.to_string(),
            meeting_point: name.to_owned(),
        };
        'points: for (key, point) in points.iter().zip(&request.points) {
            for (entry, other) in self.live_entries(Half::Points, key, now) {
                if entry.size == 0 || other.peer == request.peer_id {
                    continue;
                }
                bytes += entry.size as usize;
                if found.drops.len() == MAX_DROPS_PER_RESULT || bytes > MAX_DROP_BYTES_PER_RESULT {
                    found.truncated = true;
                    break 'points;
                }
                let at = DropRef { sequence: entry.sequence, point: entry.place };
                found.drops.push(FoundDrop { from: meeting(other, &point.name), at });
            }
        }
        for (key, name) in tokens.iter().zip(&request.tokens) {
            let live = self.live_entries(Half::Tokens, key, now);
            let others = live.filter(|(_, other)| other.peer != request.peer_id);
            found.live.extend(others.map(|(_, other)| meeting(other, name)));
        }
        found
    }

    fn enter(
        &mut self,
        now: Millis,
        request: &RegisterRendezvous,
        points: Vec<PointKey>,
        tokens: Vec<PointKey>,
        changes: &mut Changes,
    ) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let points_end = now + self.rules.daily_ttl.as_millis() as Millis;
        let tokens_end = now + self.rules.hourly_ttl.as_millis() as Millis;

        let mut replaced = BTreeSet::new();
        for (half, keys) in [(Half::Points, &points), (Half::Tokens, &tokens)] {
            for key in keys {
                replaced.extend(self.replace_own(half, key, &request.peer_id));
            }
        }
        for old in replaced {
            self.lost_something(old, changes);
        }

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
        };
        let first_end = match (points.is_empty(), tokens.is_empty()) {
            (false, false) => points_end.min(tokens_end),
            (false, true) => points_end,
            (true, _) => tokens_end,
        };
        let indexed = Indexed::at(first_end);
        changes.put_new(&LeaseKey::registration(sequence), &record, indexed);
        self.insert(sequence, &record, None, indexed, points.into(), tokens.into());
    }

    /// Takes a registration back from its rows.
    pub fn load(
        &mut self,
        sequence: u64,
        record: RegistrationRecord<'_>,
        amendment: Option<Amendment>,
        indexed: Indexed,
    ) {
        self.continue_after(sequence);
        let points = record.points.iter().map(|point| PointKey::of(&point.name)).collect();
        let tokens = record.tokens.iter().map(|name| PointKey::of(name)).collect();
        self.insert(sequence, &record, amendment.as_ref(), indexed, points, tokens);
    }

    /// Keeps counting where the registries before a storage failure had come to.
    pub fn continue_sequence(&mut self, old: &Rendezvous) {
        self.next_sequence = self.next_sequence.max(old.next_sequence);
    }

    /// Keeps counting behind `last`, which a row has that perhaps does not decode and is to be left alone.
    pub fn continue_after(&mut self, last: u64) {
        self.next_sequence = self.next_sequence.max(last + 1);
    }

    fn insert(
        &mut self,
        sequence: u64,
        record: &RegistrationRecord<'_>,
        amendment: Option<&Amendment>,
        indexed: Indexed,
        points: Box<[PointKey]>,
        tokens: Box<[PointKey]>,
    ) {
        let Some(peer) = PeerId::parse(&record.peer) else { return };
        // One copy of the id for all that a peer has.
        let peer = self.by_peer.get_key_value(&peer).map_or(peer, |(known, _)| known.clone());
        for (place, key) in points.iter().enumerate() {
            if amendment.is_none_or(|lost| !lost.points_gone.contains(&(place as u16))) {
                let payload = record.points[place].payload;
                let payload = payload.and_then(|at| record.payloads.get(usize::from(at)));
                let size = payload.map_or(0, |payload| payload.len() as u32);
                self.points.entry(*key).or_default().push(Entry { sequence, size, place: place as u16 });
                self.totals.points += 1;
            }
        }
        for (place, key) in tokens.iter().enumerate() {
            if amendment.is_none_or(|lost| !lost.tokens_gone.contains(&(place as u16))) {
                self.tokens.entry(*key).or_default().push(Entry { sequence, size: 0, place: place as u16 });
                self.totals.tokens += 1;
            }
        }
        let payload_bytes = record.payloads.iter().map(|payload| payload.len() as u64).sum();
        self.totals.payload_bytes += payload_bytes;
        self.by_peer.entry(peer.clone()).or_default().push(sequence);
        let registration = Registration {
            boot: record.boot,
            peer,
            relay_id: record.relay_id.as_ref().into(),
            points,
            tokens,
            points_end: record.points_end,
            tokens_end: record.tokens_end,
            payload_bytes,
            indexed,
            amended: amendment.is_some(),
        };
        self.registrations.insert(sequence, registration);
    }

    /// The holder of `peer` is gone: its tokens go, its points stay until their TTL where the setting says so.
    pub fn leave(&mut self, peer: &PeerId, changes: &mut Changes) {
        for sequence in self.by_peer.get(peer).cloned().unwrap_or_default() {
            let mut lost = self.clear(sequence, Half::Tokens);
            if !self.rules.keep_drops {
                lost |= self.clear(sequence, Half::Points);
            }
            if lost {
                self.lost_something(sequence, changes);
            }
        }
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

    /// Whether both would answer every request alike.
    pub fn same_as(&self, other: &Rendezvous) -> bool {
        self.registrations == other.registrations
            && self.points == other.points
            && self.tokens == other.tokens
            && self.by_peer == other.by_peer
            && self.totals == other.totals
    }

    /// Ids with tokens that were live in this boot.
    pub fn live_ids(&self) -> impl Iterator<Item = &PeerId> {
        let live = self.registrations.values().filter(|registration| registration.boot == self.boot.number);
        live.filter(|registration| !registration.tokens.is_empty()).map(|registration| &registration.peer)
    }

    // What stands where.

    fn map(&mut self, half: Half) -> &mut HashMap<PointKey, Entries> {
        match half {
            Half::Points => &mut self.points,
            Half::Tokens => &mut self.tokens,
        }
    }

    fn entries(&self, half: Half, key: &PointKey) -> &[Entry] {
        let map = match half {
            Half::Points => &self.points,
            Half::Tokens => &self.tokens,
        };
        map.get(key).map_or(&[], |entries| entries)
    }

    fn live_entries(
        &self,
        half: Half,
        key: &PointKey,
        now: Millis,
    ) -> impl Iterator<Item = (Entry, &Registration)> {
        let all = self.entries(half, key).iter().map(|entry| (*entry, &self.registrations[&entry.sequence]));
        all.filter(move |(_, registration)| self.is_live(half, registration, now))
    }

    fn is_live(&self, half: Half, registration: &Registration, now: Millis) -> bool {
        registration.end(half) > now
            && (half == Half::Points || self.boot.counts_as_live(registration.boot, now))
    }

    fn stands(&self, half: Half, key: &PointKey, sequence: u64, place: u16) -> bool {
        self.entries(half, key).iter().any(|entry| entry.sequence == sequence && entry.place == place)
    }

    /// Takes a peer's own entry away from a point; tells the registration that lost it.
    fn replace_own(&mut self, half: Half, key: &PointKey, peer: &PeerId) -> Option<u64> {
        let registrations = &self.registrations;
        let is_own = |entry: &Entry| registrations[&entry.sequence].peer == *peer;
        let own = self.entries(half, key).iter().find(|entry| is_own(entry))?.sequence;
        self.take_away(half, key, own);
        Some(own)
    }

    fn take_away(&mut self, half: Half, key: &PointKey, sequence: u64) -> bool {
        let map = self.map(half);
        let Some(entries) = map.get_mut(key) else { return false };
        let before = entries.len();
        entries.retain(|entry| entry.sequence != sequence);
        let taken = before - entries.len();
        if entries.is_empty() {
            map.remove(key);
        }
        match half {
            Half::Points => self.totals.points -= taken,
            Half::Tokens => self.totals.tokens -= taken,
        }
        taken > 0
    }

    /// Takes one half of a registration away; tells whether there was any of it.
    fn clear(&mut self, sequence: u64, half: Half) -> bool {
        let keys = self.registrations[&sequence].keys(half).to_vec();
        keys.iter().fold(false, |any, key| self.take_away(half, key, sequence) || any)
    }

    /// When a registration next loses something of its own accord; `None` where it has nothing left.
    fn next_end(&self, sequence: u64) -> Option<Millis> {
        let registration = &self.registrations[&sequence];
        let halves = [Half::Points, Half::Tokens].into_iter();
        let has = |half: &Half| {
            let keys = registration.keys(*half).iter().enumerate();
            keys.into_iter().any(|(place, key)| self.stands(*half, key, sequence, place as u16))
        };
        halves.filter(has).map(|half| registration.end(half)).min()
    }

    /// A registration has lost entries: writes that, or removes it when nothing is left.
    fn lost_something(&mut self, sequence: u64, changes: &mut Changes) {
        match self.next_end(sequence) {
            None => self.remove(sequence, changes),
            // The index may name it too early: the sweeper files it anew then.
            Some(_) => self.amend(sequence, self.registrations[&sequence].indexed, changes),
        }
    }

    fn amend(&mut self, sequence: u64, indexed: Indexed, changes: &mut Changes) {
        let registration = &self.registrations[&sequence];
        let gone = |half: Half| {
            let places = registration.keys(half).iter().enumerate().map(|(place, key)| (place as u16, key));
            let lost = places.filter(|(place, key)| !self.stands(half, key, sequence, *place));
            lost.map(|(place, _)| place).collect()
        };
        let amendment = Amendment { points_gone: gone(Half::Points), tokens_gone: gone(Half::Tokens) };
        changes.amend(sequence, &amendment, registration.indexed, indexed);
        if let Some(registration) = self.registrations.get_mut(&sequence) {
            (registration.indexed, registration.amended) = (indexed, true);
        }
    }

    fn remove(&mut self, sequence: u64, changes: &mut Changes) {
        let Some(registration) = self.registrations.remove(&sequence) else { return };
        self.totals.payload_bytes -= registration.payload_bytes;
        if let Some(sequences) = self.by_peer.get_mut(&registration.peer) {
            sequences.retain(|other| *other != sequence);
            if sequences.is_empty() {
                self.by_peer.remove(&registration.peer);
            }
        }
        changes.remove_registration(sequence, registration.amended, registration.indexed);
    }
}

impl Registration {
    fn keys(&self, half: Half) -> &[PointKey] {
        match half {
            Half::Points => &self.points,
            Half::Tokens => &self.tokens,
        }
    }

    fn end(&self, half: Half) -> Millis {
        match half {
            Half::Points => self.points_end,
            Half::Tokens => self.tokens_end,
        }
    }
}
