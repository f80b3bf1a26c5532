//! Clients of all dialects at once. Owns who they are and that all of them are held against what they heard.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde_json::json;
use waypost::client::RawSocket;
use waypost::clock::Clock;

use super::{admin, chunks, http, link, rendezvous};
use crate::daemon::{Process, SOON};

/// However long it takes, nothing ends, and nobody is held up by a limit.
pub const SETTINGS: [&str; 14] = [
    "--set",
    "limits.messages_per_minute=0",
    "--set",
    "limits.http_requests_per_minute=0",
    "--set",
    "limits.link_upgrades_per_minute=0",
    "--set",
    "limits.max_connections_per_address=1000",
    "--set",
    "relays.restart_grace=1h",
    "--set",
    "link.grace=1h",
    "--set",
    "chunks.ttl=48h",
];

/// How long what is only applied may take to reach the disk.
const APPLIED: Duration = Duration::from_millis(500);
/// Relays of the rounds before that are looked for each time.
const LOOKED_AT: usize = 20;

pub struct Crowd {
    peers: Vec<rendezvous::Peer>,
    sources: Vec<chunks::Peer>,
    nodes: Vec<http::Node>,
    claimed: Vec<String>,
    /// Relays whose registration and load are on the disk.
    relays: Vec<String>,
    rounds: u64,
}

impl Crowd {
    pub fn new(seed: u64) -> Crowd {
        Crowd {
            peers: (0..rendezvous::PEERS).map(|number| rendezvous::Peer::new(number, seed)).collect(),
            sources: (0..chunks::PEERS).map(|number| chunks::Peer::new(number, seed)).collect(),
            nodes: (0..http::NODES).map(http::Node::new).collect(),
            claimed: Vec::new(),
            relays: Vec::new(),
            rounds: 0,
        }
    }

    /// Asks for one thing after the other, in all dialects, until the daemon is gone.
    pub async fn ask_until_cut_off(mut self, daemon: &Process, acknowledged: Arc<AtomicUsize>) -> Crowd {
        self.rounds += 1;
        let (address, round) = (daemon.public, self.rounds);
        let count = || acknowledged.clone();
        let peers =
            self.peers.drain(..).map(|peer| tokio::spawn(peer.register_until_cut_off(address, count())));
        let peers: Vec<_> = peers.collect();
        let sources =
            self.sources.drain(..).map(|peer| tokio::spawn(peer.push_until_cut_off(address, count())));
        let sources: Vec<_> = sources.collect();
        let nodes = self.nodes.drain(..).map(|node| tokio::spawn(node.ask_until_cut_off(address, count())));
        let nodes: Vec<_> = nodes.collect();
        let binaries = 0..link::BINARIES;
        let binaries =
            binaries.map(|number| tokio::spawn(link::claim_until_cut_off(address, number, round, count())));
        let binaries: Vec<_> = binaries.collect();
        let relay = tokio::spawn(relay_until_cut_off(address, round));
        for peer in peers {
            self.peers.push(peer.await.unwrap());
        }
        for source in sources {
            self.sources.push(source.await.unwrap());
        }
        for node in nodes {
            self.nodes.push(node.await.unwrap());
        }
        for binary in binaries {
            self.claimed.extend(binary.await.unwrap());
        }
        self.relays.extend(relay.await.unwrap());
        self
    }

    /// Holds everything that is there against everything that was acknowledged.
    pub async fn compare(&mut self, daemon: &Process, data: &Path) {
        link::compare(&self.claimed, daemon, data).await;
        let admin = admin(daemon, data);
        for id in self.relays.iter().rev().take(LOOKED_AT) {
            let lease = admin.lease("relay", id).await.unwrap();
            let lease = lease.unwrap_or_else(|| panic!("{id} is forgotten"));
            assert_eq!(lease.record["connectedCount"], json!(5.0), "{id}");
        }
        let mut found = rendezvous::look(daemon, &self.peers).await;
        for peer in &mut self.peers {
            peer.compare(&found.remove(&peer.id).unwrap_or_default());
        }
        assert_eq!(found, BTreeMap::new(), "nobody else is there");
        http::compare(&mut self.nodes, daemon.public).await;
        chunks::compare(&mut self.sources, daemon).await;
        // Each round looks for its own; those of before were found.
        self.claimed.clear();
    }

    /// What this crowd has found to last beside what was asked in rounds.
    pub fn relays(&self) -> usize {
        self.relays.len()
    }
}

/// A relay that tells its load again and again. Its id, where registration and load must be on the disk.
async fn relay_until_cut_off(address: SocketAddr, round: u64) -> Option<String> {
    let id = format!("relay-{round}");
    let clock = Clock::system();
    let mut socket = RawSocket::connect(&format!("ws://{address}/ws")).await.ok()?;
    socket.next_message(SOON).await.ok()?;
    // When its load was first acknowledged, and when the daemon was last heard.
    let (mut loaded, mut heard) = (None, clock.running());
    socket.send_json(&json!({"type": "register", "peerId": id})).await.ok()?;
    while socket.next_message(SOON).await.is_ok() {
        heard = clock.running();
        clock.sleep(Duration::from_millis(20)).await;
        let message = json!({"type": "update_load", "peerId": id, "connectedCount": 5});
        if socket.send_json(&message).await.is_err() || socket.next_message(SOON).await.is_err() {
            break;
        }
        loaded.get_or_insert(clock.running());
        // Heard again at the next turn.
        if socket.send_json(&json!({"type": "ping"})).await.is_err() {
            break;
        }
    }
    loaded.filter(|since| heard.saturating_sub(*since) >= APPLIED).map(|_| id)
}
