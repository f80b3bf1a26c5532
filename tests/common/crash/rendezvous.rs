//! Peers that register rendezvous points until they are cut off. Owns what was acknowledged to each, and holding it against
//! what is there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use waypost::client::RawSocket;

use crate::daemon::{Process, SOON, ask, connect};

pub const PEERS: usize = 4;
/// Points and tokens of one peer: few, so that they are replaced often; in all no more than one message may name.
const POINTS: usize = 12;
const TOKENS: usize = 3;

/// What a peer has registered: dead drops by point ("" is none), and tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    drops: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
}

impl Held {
    /// What is held after registering `new` too.
    fn and(&self, new: &Held) -> Held {
        let mut held = self.clone();
        held.drops.extend(new.drops.clone());
        held.tokens.extend(new.tokens.clone());
        held
    }

    /// What others can see of it.
    fn seen(&self) -> Held {
        let mut seen = self.clone();
        seen.drops.retain(|_, payload| !payload.is_empty());
        seen
    }
}

/// One peer over all rounds: what was acknowledged to it, and what it had asked for when it was cut off.
pub struct Peer {
    pub id: String,
    held: Held,
    asked: Option<Held>,
    count: usize,
    rng: StdRng,
}

impl Peer {
    pub fn new(number: usize, seed: u64) -> Peer {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        Peer { id: format!("peer-{number}"), held: Held::default(), asked: None, count: 0, rng }
    }

    fn points(&self) -> impl Iterator<Item = String> {
        (0..POINTS).map(|number| format!("{}-point-{number}", self.id))
    }

    fn tokens(&self) -> impl Iterator<Item = String> {
        (0..TOKENS).map(|number| format!("{}-token-{number}", self.id))
    }

    /// A registration of some of its points, each with a payload that never comes again, or with none.
    fn invent(&mut self) -> Held {
        self.count += 1;
        let mut new = Held::default();
        for point in self.points().collect::<Vec<_>>() {
            if self.rng.random_bool(0.3) {
                let payload = match self.rng.random_range(0..4) {
                    0 => String::new(),
                    size => format!("{} {point} {}", self.count, "x".repeat(10_usize.pow(size))),
                };
                new.drops.insert(point, payload);
            }
        }
        for token in self.tokens().collect::<Vec<_>>() {
            if self.rng.random_bool(0.3) {
                new.tokens.insert(token);
            }
        }
        new
    }

    /// Registers one thing after the other until the daemon is gone.
    pub async fn register_until_cut_off(
        mut self,
        address: SocketAddr,
        acknowledged: Arc<AtomicUsize>,
    ) -> Peer {
        // The others may have had enough acknowledged before this one was let in.
        let Ok(mut socket) = RawSocket::connect(&format!("ws://{address}/ws")).await else { return self };
        let Ok(_server_info) = socket.next_message(SOON).await else { return self };
        loop {
            let new = self.invent();
            let message = json!({"type": "register_rendezvous", "peerId": self.id,
                "dailyPoints": new.drops.keys().collect::<Vec<_>>(), "deadDrops": new.drops,
                "hourlyTokens": new.tokens});
            self.asked = Some(new.clone());
            if socket.send_json(&message).await.is_err() {
                return self;
            }
            let Ok(answer) = socket.next_message(SOON).await else { return self };
            assert_eq!(answer["type"], "rendezvous_result", "{answer}");
            self.held = self.held.and(&new);
            self.asked = None;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Holds what is there against what was acknowledged; what was under way has come to pass or it has not.
    pub fn compare(&mut self, found: &Held) {
        let with_asked = self.asked.take().map(|asked| self.held.and(&asked));
        if with_asked.as_ref().is_some_and(|held| held.seen() == *found) {
            self.held = with_asked.unwrap();
        }
        assert_eq!(
            self.held.seen(),
            *found,
            "{}: what is there is neither with nor without the last one",
            self.id
        );
    }
}

/// What somebody else finds of each peer.
pub async fn look(daemon: &Process, peers: &[Peer]) -> BTreeMap<String, Held> {
    let points: Vec<_> = peers.iter().flat_map(Peer::points).collect();
    let tokens: Vec<_> = peers.iter().flat_map(Peer::tokens).collect();
    let message = json!({"type": "register_rendezvous", "peerId": "seeker", "dailyPoints": points, "hourlyTokens": tokens});
    let result = ask(&mut connect(daemon.public).await, message).await;
    assert_eq!(
        (&result["type"], &result["truncated"]),
        (&json!("rendezvous_result"), &Value::Null),
        "{result}"
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found: BTreeMap<String, Held> = BTreeMap::new();
    for drop in result["deadDrops"].as_array().unwrap() {
        let held = found.entry(text(&drop["peerId"])).or_default();
        let before = held.drops.insert(text(&drop["meetingPoint"]), text(&drop["deadDrop"]));
        assert_eq!(before, None, "a point holds one entry of a peer");
    }
    for live in result["liveMatches"].as_array().unwrap() {
        found.entry(text(&live["peerId"])).or_default().tokens.insert(text(&live["meetingPoint"]));
    }
    found
}
