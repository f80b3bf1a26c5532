//! Relays: peers that offer to carry others' traffic (protocol: signalling, section 3).
//!
//! Owns who is a relay, its load, and a sample of the available ones at a cost that does not grow with their number.
//! Must not know sockets, clocks or sled, nor who may speak for an id.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;
use rand::Rng;
use rand::seq::index;

use super::{Boot, Expired};
use crate::clock::Millis;
use crate::id::{PeerId, TokenDigest};
use crate::store::{Changes, Indexed, LeaseKey, RelayRecord};

/// What a relay says of itself when it registers.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: PeerId,
    pub max_connections: u32,
    pub public_key: Option<String>,
    /// The digest of the token it is given now.
    pub resume: TokenDigest,
    /// The token it showed.
    pub shown_token: Option<String>,
    /// Whether the id was held without a break: the same socket again, or a take-over.
    pub unbroken: bool,
}

/// A relay as it is offered to others.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub id: PeerId,
    pub public_key: Option<Arc<str>>,
    /// connectedCount / maxConnections.
    pub capacity: f64,
}

#[derive(Clone, Debug, PartialEq)]
struct Relay {
    boot: u64,
    public_key: Option<Arc<str>>,
    max_connections: u32,
    connected: f64,
    registered_at: Millis,
    resume: TokenDigest,
}

impl Relay {
    fn capacity(&self) -> f64 {
        self.connected / f64::from(self.max_connections)
    }

    fn record(&self) -> RelayRecord {
        RelayRecord {
            boot: self.boot,
            public_key: self.public_key.as_deref().map(str::to_owned),
            max_connections: self.max_connections,
            connected: self.connected,
            registered_at: self.registered_at,
            resume: self.resume.0,
        }
    }
}

/// Offers in no particular order, with each one's position: drawing at random, adding and removing cost O(1). They lie
/// here as they are told, since whatever else is looked up of a relay drawn from very many is not in any cache.
#[derive(Default)]
struct Pool {
    offers: Vec<Offer>,
    positions: AHashMap<PeerId, usize>,
}

impl Pool {
    fn put(&mut self, offer: Offer) {
        match self.positions.get(&offer.id) {
            Some(position) => self.offers[*position] = offer,
            None => {
                self.positions.insert(offer.id.clone(), self.offers.len());
                self.offers.push(offer);
            }
        }
    }

    fn remove(&mut self, id: &PeerId) {
        if let Some(position) = self.positions.remove(id) {
            self.offers.swap_remove(position);
            if let Some(moved) = self.offers.get(position) {
                self.positions.insert(moved.id.clone(), position);
            }
        }
    }
}

pub struct Relays {
    boot: Boot,
    relays: AHashMap<PeerId, Relay>,
    /// Available relays whose holder lives.
    live: Pool,
    /// Available relays of an earlier boot: offered within the restart grace.
    kept: Pool,
    /// Whose load has changed since it was written.
    unwritten: BTreeSet<PeerId>,
}

impl Relays {
    pub fn new(boot: Boot) -> Relays {
        let (live, kept) = (Pool::default(), Pool::default());
        Relays { boot, relays: AHashMap::new(), live, kept, unwritten: BTreeSet::new() }
    }

    pub fn begin(&mut self, boot: Boot) {
        self.boot = boot;
    }

    pub fn len(&self) -> usize {
        self.relays.len()
    }

    pub fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }

    /// Enters or updates a relay. Its count and age go on where the id was held without a break, or where an entry kept
    /// over a restart is claimed with its resume token or the same public key (section 6).
    pub fn register(&mut self, now: Millis, request: Registration, changes: &mut Changes) {
        let Registration { id, max_connections, public_key, resume, shown_token, unbroken } = request;
        let public_key: Option<Arc<str>> = public_key.map(Into::into);
        let old = self.relays.get(&id);
        let goes_on = old.filter(|old| {
            let proven = shown_token.as_deref().is_some_and(|token| old.resume.matches(token));
            let of_this_boot = old.boot == self.boot.number;
            let kept = !of_this_boot && self.boot.counts_as_live(old.boot, now);
            (unbroken && of_this_boot) || (kept && (proven || old.public_key == public_key))
        });
        let (connected, registered_at) = goes_on.map_or((0.0, now), |old| (old.connected, old.registered_at));
        let first = old.is_none();
        let relay =
            Relay { boot: self.boot.number, public_key, max_connections, connected, registered_at, resume };
        self.write(&id, &relay, first, changes);
        self.relays.insert(id.clone(), relay);
        self.place(&id);
    }

    /// The id goes on under a new token without a `register`.
    pub fn renew_token(&mut self, id: &PeerId, resume: TokenDigest, changes: &mut Changes) {
        let boot = self.boot.number;
        if let Some(relay) = self.relays.get_mut(id).filter(|relay| relay.boot == boot) {
            relay.resume = resume;
            let relay = relay.clone();
            self.write(id, &relay, false, changes);
        }
    }

    /// False where there is no such relay of this boot. What a relay's load comes to is written by
    /// [`Relays::write_loads`], once, however often it changes until then.
    pub fn update_load(&mut self, id: &PeerId, connected: f64) -> bool {
        let boot = self.boot.number;
        let Some(relay) = self.relays.get_mut(id).filter(|relay| relay.boot == boot) else { return false };
        if relay.connected != connected {
            relay.connected = connected;
            self.unwritten.insert(id.clone());
            self.place(id);
        }
        true
    }

    /// Writes up to `most` of the loads that have changed; tells whether there are more.
    pub fn write_loads(&mut self, most: usize, changes: &mut Changes) -> bool {
        for _ in 0..most {
            let Some(id) = self.unwritten.first().cloned() else { break };
            let relay = self.relays[&id].clone();
            self.write(&id, &relay, false, changes);
        }
        !self.unwritten.is_empty()
    }

    /// Up to `count` relays below half of their capacity, without `left_out`: uniform, in random order.
    pub fn sample(
        &self,
        now: Millis,
        left_out: Option<&str>,
        count: usize,
        rng: &mut impl Rng,
    ) -> Vec<Offer> {
        let kept = if now < self.boot.grace_end { self.kept.offers.as_slice() } else { &[] };
        let live = self.live.offers.as_slice();
        let all = live.len() + kept.len();
        // One more than asked, so that leaving one out costs no second draw.
        let drawn = index::sample(rng, all, all.min(count + 1));
        let offers = drawn.into_iter().map(|at| live.get(at).unwrap_or_else(|| &kept[at - live.len()]));
        let others = offers.filter(|offer| Some(offer.id.as_str()) != left_out);
        others.take(count).cloned().collect()
    }

    /// Tells whether there was one.
    pub fn leave(&mut self, id: &PeerId, changes: &mut Changes) -> bool {
        let gone = self.relays.remove(id).is_some();
        if gone {
            self.live.remove(id);
            self.kept.remove(id);
            self.unwritten.remove(id);
            changes.remove(&LeaseKey::relay(id), Indexed::HELD);
        }
        gone
    }

    /// As [`Relays::leave`], for an entry of this boot.
    pub fn leave_live(&mut self, id: &PeerId, changes: &mut Changes) {
        if self.relays.get(id).is_some_and(|relay| relay.boot == self.boot.number) {
            self.leave(id, changes);
        }
    }

    /// Ends an entry that was kept over a restart and that nobody came back for.
    pub fn expire(&mut self, id: &PeerId, now: Millis, changes: &mut Changes) -> Expired {
        match self.relays.get(id) {
            Some(relay) if !self.boot.counts_as_live(relay.boot, now) => {
                self.leave(id, changes);
                Expired::Gone
            }
            _ => Expired::Kept,
        }
    }

    pub fn load(&mut self, id: PeerId, record: RelayRecord) {
        let relay = Relay {
            boot: record.boot,
            public_key: record.public_key.map(Into::into),
            max_connections: record.max_connections.max(1),
            connected: record.connected,
            registered_at: record.registered_at,
            resume: TokenDigest(record.resume),
        };
        self.relays.insert(id.clone(), relay);
        self.place(&id);
    }

    /// After a storage failure: brings over an entry of this boot that `old` has and the store may have lost.
    pub fn carry_over(&mut self, id: &PeerId, old: &Relays, changes: &mut Changes) {
        let live = old.relays.get(id).filter(|relay| relay.boot == self.boot.number);
        if let Some(relay) = live.filter(|relay| self.relays.get(id) != Some(relay)) {
            self.write(id, relay, !self.relays.contains_key(id), changes);
            self.relays.insert(id.clone(), relay.clone());
            self.place(id);
        }
    }

    /// Ids whose holder lived in this boot.
    pub fn live_ids(&self) -> impl Iterator<Item = &PeerId> {
        self.relays.iter().filter(|(_, relay)| relay.boot == self.boot.number).map(|(id, _)| id)
    }

    pub fn same_as(&self, other: &Relays) -> bool {
        // Which pool it is in hangs on the boot.
        let pooled = |relays: &Relays, id: &PeerId| {
            let offer = |pool: &Pool| Some(pool.offers[*pool.positions.get(id)?].clone());
            offer(&relays.live).or_else(|| offer(&relays.kept))
        };
        self.relays == other.relays && self.relays.keys().all(|id| pooled(self, id) == pooled(other, id))
    }

    fn write(&mut self, id: &PeerId, relay: &Relay, first: bool, changes: &mut Changes) {
        self.unwritten.remove(id);
        let key = LeaseKey::relay(id);
        if first {
            changes.put_new(&key, &relay.record(), Indexed::HELD);
        } else {
            changes.put_again(&key, &relay.record(), Indexed::HELD);
        }
    }

    /// Puts a relay into the pool where it belongs.
    fn place(&mut self, id: &PeerId) {
        let relay = &self.relays[id];
        let available = relay.capacity() < 0.5;
        let live = relay.boot == self.boot.number;
        let kept = !live && relay.boot >= self.boot.live_since;
        let offer =
            Offer { id: id.clone(), public_key: relay.public_key.clone(), capacity: relay.capacity() };
        for (pool, belongs) in [(&mut self.live, available && live), (&mut self.kept, available && kept)] {
            if belongs { pool.put(offer.clone()) } else { pool.remove(id) }
        }
    }
}
