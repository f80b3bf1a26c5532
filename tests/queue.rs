//! Owns the proof that the engine's queue is bounded for requests alone: who comes or leaves takes nobody's place in it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::clock::Clock;
use waypost::engine::{Engine, Options};
use waypost::limits::{ENGINE_QUEUE, Limits};
use waypost::logging::Blur;
use waypost::metrics::Metrics;
use waypost::store::Faults;
use waypost::wire::signalling::{GetRelays, RegisterRendezvous, ServerMessage};

/// The engine's tasks run only while this test's own task waits.
#[tokio::test]
async fn a_crowd_that_comes_and_leaves_at_once_costs_nobody_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::start(Options {
        store: folder.path().join("store"),
        limits: Limits::default(),
        clock: Clock::system(),
        metrics: Arc::new(Metrics::default()),
        rng: StdRng::seed_from_u64(7),
        faults: Faults::default(),
        server_id: "test".to_owned(),
        blur: Blur::new(false),
    })
    .unwrap();
    let join = || engine.join(IpAddr::from(Ipv4Addr::LOCALHOST));
    let asker = join();
    for round in 0..5 {
        let crowd: Vec<_> = (0..4 * ENGINE_QUEUE).map(|_| join()).collect();
        drop(crowd);
        let request = RegisterRendezvous {
            peer_id: waypost::id::PeerId::parse("asker").unwrap(),
            relay_id: String::new(),
            points: Vec::new(),
            tokens: vec![format!("token-{round}")],
            payloads: Vec::new(),
            resume_token: None,
        };
        let answer = engine.register_rendezvous(asker.outbox.socket, request).await;
        assert!(matches!(answer, ServerMessage::RendezvousResult { .. }), "{answer:?}");
    }
    let request = GetRelays { peer_id: None, count: 1 };
    assert!(matches!(engine.get_relays(request).await, ServerMessage::Relays { .. }));
    drop(asker);
    engine.stop().await;
}
