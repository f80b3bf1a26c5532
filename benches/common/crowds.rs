//! Owns the registrations of the benches that load a whole daemon: a client's ring of them, and a crowd that fills the store. Must
//! not know what is measured beside them.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::client::Rendezvous;
use waypost::engine::Engine;
use waypost::id::PeerId;
use waypost::wire::signalling::{Point, RegisterRendezvous, ServerMessage};

/// Different registrations per client; each replaces its former self.
const RING: usize = 40;
/// Registrations of the crowd under way at once.
const IN_FLIGHT: usize = 2048;

/// What one client registers in turn: 3 points, 1 token and a dead drop of 256 bytes each.
pub fn ring(number: usize) -> Vec<Rendezvous> {
    let ring = names(number as u64, 4 * RING);
    let request = |names: &[String]| Rendezvous {
        peer_id: format!("client-{number}"),
        daily_points: names[..3].to_vec(),
        hourly_tokens: names[3..].to_vec(),
        dead_drop: names.concat().repeat(2),
        ..Rendezvous::default()
    };
    ring.chunks(4).map(request).collect()
}

/// Registers a crowd, 100 registrations to a peer, past the sockets; of another round it is another crowd. With `drops` each
/// has a dead drop of 256 bytes.
pub async fn register(engine: &Engine, round: usize, count: usize, points: usize, drops: bool) {
    let names = names(1000 + round as u64, count * points);
    // They join one by one: all at once they would fill the engine's queue.
    let mut peers = Vec::new();
    let requests = names.chunks(points).enumerate().map(|(number, names)| {
        let payload = drops.then_some(0);
        let peer = number / 100;
        if number % 100 == 0 {
            peers.push(engine.join(IpAddr::from(Ipv4Addr::LOCALHOST)));
        }
        let request = RegisterRendezvous {
            peer_id: PeerId::parse(&format!("crowd-{round}-{peer}")).expect("a peer id"),
            relay_id: String::new(),
            points: names.iter().map(|name| Point { name: name.clone(), payload }).collect(),
            tokens: Vec::new(),
            payloads: if drops { vec![names[0].repeat(8)] } else { Vec::new() },
            resume_token: None,
        };
        engine.register_rendezvous(peers[peer].outbox.socket, request)
    });
    let mut answers = futures_util::stream::iter(requests).buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        assert!(matches!(answer, ServerMessage::RendezvousResult { .. }), "{answer:?}");
    }
}

/// Names as peers make them: 32 hex characters.
fn names(seed: u64, count: usize) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| format!("{:032x}", rng.random::<u128>())).collect()
}
