//! Owns a pair of registries beside a real store: whatever a request changes goes into the store, and what the store
//! says is held against memory after every step.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::clock::Millis;
use waypost::id::{Generation, LinkId, PeerId, TokenDigest};
use waypost::limits::Limits;
use waypost::registry::claims::{self, Claimed};
use waypost::registry::relays::Registration;
use waypost::registry::rendezvous::{Found, Refused};
use waypost::registry::{Boot, Expired, Registries};
use waypost::store::{Amendment, Changes, Due, Index, LeaseKey, Pins, RelayRecord, Row, Store};
use waypost::wire::signalling::{Point, RegisterRendezvous};

use super::store::{Place, id};

/// When the tests begin.
pub const START: Millis = 1_800_000_000_000;
pub const MINUTE: Millis = 60_000;
pub const HOUR: Millis = 60 * MINUTE;

pub struct World {
    pub registries: Registries,
    pub store: Store,
    pub rng: StdRng,
    /// The time at which TURN loads are compared.
    pub now: Millis,
    boot: Boot,
    limits: Limits,
    _place: Place,
}

impl World {
    pub fn new() -> World {
        World::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Limits)) -> World {
        let mut limits = Limits::default();
        change(&mut limits);
        let place = Place::new();
        let store = place.open();
        let boot = Boot { number: store.boot(), live_since: 0, grace_end: START };
        let registries = Registries::new(boot, &limits);
        World { registries, store, rng: StdRng::seed_from_u64(1), now: START, boot, limits, _place: place }
    }

    /// Runs something that changes the registries, commits the changes, and proves that the rows say the same.
    pub fn change<T>(&mut self, run: impl FnOnce(&mut Registries, &mut Changes) -> T) -> T {
        let mut changes = Changes::default();
        let answer = run(&mut self.registries, &mut changes);
        self.store.commit(&changes).unwrap();
        let mut folded = self.fold();
        let same = folded.same_as(&mut self.registries, self.now);
        assert!(same, "the rows say the same as memory");
        let report = self.store.check().unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        answer
    }

    fn fold(&self) -> Registries {
        let mut registries = Registries::new(self.boot, &self.limits);
        let folded = self.store.fold(|row| registries.load(row)).unwrap();
        assert!(folded.undecodable.is_empty(), "{:?}", folded.undecodable);
        registries
    }

    /// The daemon starts again at `now`.
    pub fn restart(&mut self, now: Millis) {
        self.restart_since(0, now);
    }

    /// The same, where nothing that was live before boot `live_since` counts any more.
    pub fn restart_since(&mut self, live_since: u64, now: Millis) {
        let grace_end = now + self.limits.relays.restart_grace.as_millis() as Millis;
        self.boot = Boot { number: self.boot.number + 1, live_since, grace_end };
        self.registries = self.fold();
    }

    /// The settings are others from the next restart on.
    pub fn change_limits(&mut self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.limits);
    }

    pub fn grace_end(&self) -> Millis {
        self.boot.grace_end
    }

    pub fn leave(&mut self, peer: &str) {
        self.change(|registries, changes| registries.leave(&id(peer), changes));
    }

    /// Looks at everything that the index has as due, and tells what became of each, in order.
    pub fn sweep(&mut self, now: Millis) -> Vec<Expired> {
        let due = self.store.due(Index::Expiry, now, None, usize::MAX).unwrap();
        due.iter().map(|due| self.expire(due, now)).collect()
    }

    pub fn expire(&mut self, due: &Due, now: Millis) -> Expired {
        self.change(|registries, changes| registries.expire(due, now, changes))
    }

    // Relays.

    pub fn register(&mut self, now: Millis, registration: Registration) {
        self.change(|registries, changes| registries.relays.register(now, registration, changes));
    }

    pub fn update_load(&mut self, peer: &str, connected: f64) -> bool {
        self.change(|registries, changes| {
            let updated = registries.relays.update_load(&id(peer), connected);
            registries.relays.write_loads(usize::MAX, changes);
            updated
        })
    }

    /// The ids of a sample, sorted, each with its capacity.
    pub fn offers(&mut self, now: Millis, left_out: Option<&str>, count: usize) -> Vec<(String, f64)> {
        let offers = self.registries.relays.sample(now, left_out, count, &mut self.rng);
        let mut offers: Vec<_> =
            offers.into_iter().map(|offer| (offer.id.as_str().to_owned(), offer.capacity)).collect();
        offers.sort_by(|one, other| one.0.cmp(&other.0));
        offers
    }

    /// The ids of all relays that are offered, sorted.
    pub fn offered(&mut self, now: Millis) -> Vec<String> {
        self.offers(now, None, 1000).into_iter().map(|(id, _)| id).collect()
    }

    pub fn relay_record(&self, peer: &str) -> Option<RelayRecord> {
        let key = LeaseKey::relay(&id(peer));
        let record = self.store.inspect(&key, |row| match row {
            Row::Relay { record, .. } => record,
            _ => unreachable!("a relay's key names a relay"),
        });
        record.unwrap()
    }

    // Rendezvous.

    pub fn meet(&mut self, now: Millis, request: &RegisterRendezvous) -> Result<Found, Refused> {
        self.change(|registries, changes| registries.rendezvous.register(now, request, changes))
    }

    /// Registers, and tells the dead drops found as (peer, point, payload).
    pub fn drops(&mut self, now: Millis, request: &RegisterRendezvous) -> Vec<(String, String, String)> {
        let found = self.meet(now, request).unwrap();
        let pinned = Pins::default().pin(found.drops.iter().map(|drop| drop.at).collect());
        let payloads = pinned.read(&self.store).unwrap();
        let described = |drop: waypost::registry::rendezvous::FoundDrop, payload| {
            (drop.from.peer.as_str().to_owned(), drop.from.meeting_point, payload)
        };
        found.drops.into_iter().zip(payloads).map(|(drop, payload)| described(drop, payload)).collect()
    }

    /// Who left the dead drops that are found.
    pub fn droppers(&mut self, now: Millis, request: &RegisterRendezvous) -> Vec<String> {
        self.drops(now, request).into_iter().map(|(peer, _, _)| peer).collect()
    }

    /// Registers, and tells the peers met at tokens.
    pub fn matches(&mut self, now: Millis, request: &RegisterRendezvous) -> Vec<String> {
        let found = self.meet(now, request).unwrap();
        found.live.into_iter().map(|meeting| meeting.peer.as_str().to_owned()).collect()
    }

    /// Where the index has a registration and what it has lost, if it is there.
    pub fn filed(&self, sequence: u64) -> Option<(Millis, Option<Amendment>)> {
        let filed = self.store.inspect(&LeaseKey::registration(sequence), |row| match row {
            Row::Registration { amendment, indexed, .. } => (indexed, amendment),
            _ => unreachable!("a sequence number names a registration"),
        });
        filed.unwrap()
    }

    // Claims: each answer with the number of rows that it took.

    pub fn claim(
        &mut self,
        now: Millis,
        name: &str,
        silent: Option<Generation>,
    ) -> (Result<Claimed, claims::Refused>, usize) {
        self.change(|registries, changes| {
            (registries.claims.claim(now, &link(name), silent, changes), changes.rows())
        })
    }

    pub fn release(&mut self, now: Millis, name: &str, generation: Generation) -> (bool, usize) {
        self.change(|registries, changes| {
            (registries.claims.release(now, &link(name), generation, changes), changes.rows())
        })
    }

    /// Tells whether it was withdrawn, and how many rows that took.
    pub fn withdraw(&mut self, name: &str, generation: Generation) -> (bool, usize) {
        self.change(|registries, changes| {
            (registries.claims.withdraw(&link(name), generation, changes), changes.rows())
        })
    }

    pub fn end_claim(&mut self, now: Millis, name: &str) -> (Expired, usize) {
        self.change(|registries, changes| {
            (registries.claims.expire(&link(name), now, changes), changes.rows())
        })
    }

    /// As [`World::restart`], with what the daemon does to claims then; tells how many rows that took.
    pub fn restart_claims(&mut self, now: Millis) -> usize {
        self.restart(now);
        self.change(|registries, changes| {
            registries.claims.restart(now, changes);
            changes.rows()
        })
    }
}

/// A server-id of link.
pub fn link(name: &str) -> LinkId {
    LinkId::parse(name).unwrap()
}

/// A relay without a key, for 20 connections.
pub fn relay(peer: &str) -> Registration {
    Registration {
        id: id(peer),
        max_connections: 20,
        public_key: None,
        resume: TokenDigest::of(&format!("token of {peer}")),
        shown_token: None,
        unbroken: false,
    }
}

/// A rendezvous request that names nothing yet.
pub fn from(peer: &str) -> Meet {
    let peer_id: PeerId = id(peer);
    Meet(RegisterRendezvous {
        peer_id,
        relay_id: String::new(),
        points: Vec::new(),
        tokens: Vec::new(),
        payloads: Vec::new(),
        resume_token: None,
    })
}

/// A rendezvous request in the making.
pub struct Meet(RegisterRendezvous);

impl Meet {
    pub fn point(mut self, name: &str) -> Meet {
        self.0.points.push(Point { name: name.to_owned(), payload: None });
        self
    }

    pub fn drop(mut self, name: &str, payload: &str) -> Meet {
        let at = self.0.payloads.len() as u16;
        self.0.payloads.push(payload.to_owned());
        self.0.points.push(Point { name: name.to_owned(), payload: Some(at) });
        self
    }

    /// The same payload at every one of the points `name-from..name-to`.
    pub fn shared_drop(mut self, name: &str, numbers: std::ops::Range<usize>, payload: &str) -> Meet {
        let at = self.0.payloads.len() as u16;
        self.0.payloads.push(payload.to_owned());
        self.0
            .points
            .extend(numbers.map(|number| Point { name: format!("{name}-{number}"), payload: Some(at) }));
        self
    }

    pub fn points(mut self, name: &str, numbers: std::ops::Range<usize>) -> Meet {
        self.0.points.extend(numbers.map(|number| Point { name: format!("{name}-{number}"), payload: None }));
        self
    }

    pub fn token(mut self, name: &str) -> Meet {
        self.0.tokens.push(name.to_owned());
        self
    }

    pub fn tokens(mut self, name: &str, numbers: std::ops::Range<usize>) -> Meet {
        self.0.tokens.extend(numbers.map(|number| format!("{name}-{number}")));
        self
    }

    pub fn relay(mut self, relay_id: &str) -> Meet {
        self.0.relay_id = relay_id.to_owned();
        self
    }
}

impl std::ops::Deref for Meet {
    type Target = RegisterRendezvous;

    fn deref(&self) -> &RegisterRendezvous {
        &self.0
    }
}

/// A duration of the settings in milliseconds.
pub fn millis(duration: Duration) -> Millis {
    duration.as_millis() as Millis
}
