//! The first part of the random-operation model: relays, rendezvous points, tokens and dead drops.
//!
//! Owns a naive model of them. Must not know the other parts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use waypost::wire::signalling::ServerMessage;

use crate::MINUTE;
use crate::peers::PEERS;

const DAILY: u64 = 48 * 60 * MINUTE;
const HOURLY: u64 = 3 * 60 * MINUTE;

#[derive(Clone, Debug)]
pub struct Meet {
    pub peer: usize,
    pub points: BTreeSet<u8>,
    pub tokens: BTreeSet<u8>,
    /// 0 leaves no dead drop.
    pub payload: u8,
}

pub fn meet() -> impl Strategy<Value = Meet> {
    let names = || proptest::collection::btree_set(0..4_u8, 0..4);
    (0..PEERS.len(), names(), names(), 0..3_u8).prop_map(|(peer, points, tokens, payload)| Meet {
        peer,
        points,
        tokens,
        payload,
    })
}

/// What the naive model knows of one peer at one point or token.
#[derive(Clone, Debug)]
struct Entry {
    peer: usize,
    payload: u8,
    end: u64,
    boot: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    pub max: u32,
    pub count: u32,
    pub key: Option<u8>,
    pub boot: u64,
}

/// Entries per name, the oldest first.
#[derive(Clone, Default)]
pub struct Model {
    points: BTreeMap<u8, Vec<Entry>>,
    tokens: BTreeMap<u8, Vec<Entry>>,
    pub relays: BTreeMap<usize, Relay>,
    pub boot: u64,
    pub live_since: u64,
    pub grace_end: u64,
}

impl Model {
    /// Of the first boot.
    pub fn new(grace_end: u64) -> Model {
        Model { boot: 1, grace_end, ..Model::default() }
    }

    pub fn live(&self, boot: u64, now: u64) -> bool {
        boot == self.boot || (boot >= self.live_since && now < self.grace_end)
    }

    fn drops_for(&self, meet: &Meet, now: u64) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for point in &meet.points {
            for entry in self.points.get(point).into_iter().flatten() {
                if entry.peer != meet.peer && entry.payload > 0 && entry.end > now {
                    found.push((PEERS[entry.peer].into(), payload(entry.payload), format!("p{point}")));
                }
            }
        }
        found
    }

    fn matches_for(&self, meet: &Meet, now: u64) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for token in &meet.tokens {
            for entry in self.tokens.get(token).into_iter().flatten() {
                if entry.peer != meet.peer && entry.end > now && self.live(entry.boot, now) {
                    found.push((PEERS[entry.peer].into(), format!("t{token}")));
                }
            }
        }
        found
    }

    pub fn compare(&self, meet: &Meet, answer: ServerMessage, now: u64) {
        let ServerMessage::RendezvousResult { live_matches, dead_drops, .. } = answer else {
            panic!("{answer:?}");
        };
        let drops = dead_drops.into_iter().map(|drop| (drop.peer_id, drop.dead_drop, drop.meeting_point));
        assert_eq!(drops.collect::<Vec<_>>(), self.drops_for(meet, now), "dead drops for {meet:?}");
        let matches = live_matches.into_iter().map(|found| (found.peer_id, found.meeting_point));
        assert_eq!(matches.collect::<Vec<_>>(), self.matches_for(meet, now), "matches for {meet:?}");
    }

    pub fn enter(&mut self, meet: &Meet, now: u64) {
        let boot = self.boot;
        let halves = [(&mut self.points, &meet.points, DAILY), (&mut self.tokens, &meet.tokens, HOURLY)];
        for (map, names, ttl) in halves {
            for name in names {
                let entries = map.entry(*name).or_default();
                entries.retain(|entry| entry.peer != meet.peer);
                entries.push(Entry { peer: meet.peer, payload: meet.payload, end: now + ttl, boot });
            }
        }
    }

    pub fn leave(&mut self, peer: usize) {
        self.relays.remove(&peer);
        self.tokens.values_mut().for_each(|entries| entries.retain(|entry| entry.peer != peer));
    }

    /// The id that a peer took with its last registration was given back, and with it what is live.
    pub fn give_back(&mut self, peer: usize) {
        let boot = self.boot;
        let stays = |entry: &Entry| entry.peer != peer || entry.boot != boot;
        self.tokens.values_mut().for_each(|entries| entries.retain(stays));
    }

    /// Who is offered as a relay to `asker`.
    pub fn offered(&self, asker: usize, now: u64) -> BTreeSet<String> {
        let offered = self.relays.iter().filter(|(peer, relay)| {
            **peer != asker && relay.count * 2 < relay.max && self.live(relay.boot, now)
        });
        offered.map(|(peer, _)| PEERS[*peer].to_owned()).collect()
    }
}

pub fn payload(number: u8) -> String {
    format!("drop {number}")
}
