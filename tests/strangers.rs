//! Owns the proof that what strangers do costs nobody else: not their sockets, not their answers, not their links.

#[path = "common/chunks.rs"]
mod chunks;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use std::net::IpAddr;

use daemon::{SECOND, TestDaemon, ask, hear, hears_nothing, say};
use devices::{ALICE, BOB, device, key_of, register};
use serde_json::json;
use waypost::engine::Joined;
use waypost::id::{ChunkName, PeerId};
use waypost::wire::signalling::{
    ChunkAnnounce, GetRelays, PairRequest, PairResponse, Register, RegisterCode, ServerMessage,
};

fn code(text: &str) -> PeerId {
    PeerId::parse(text).unwrap()
}

fn join(daemon: &TestDaemon) -> Joined {
    daemon.engine().join(IpAddr::from([10, 0, 0, 1]))
}

/// A socket that holds a code and reads nothing by itself.
async fn deaf(daemon: &TestDaemon, text: &str) -> Joined {
    let joined = join(daemon);
    let request = RegisterCode { code: code(text), public_key: key_of(text), resume_token: None };
    let answer = daemon.engine().register_code(joined.outbox.socket, request).await;
    assert!(matches!(answer, ServerMessage::Registered { .. }), "{answer:?}");
    joined
}

#[tokio::test]
async fn sockets_that_read_nothing_do_not_silence_those_that_do() {
    let daemon = TestDaemon::start_with(|settings| {
        settings.connections.max_message_bytes = 4096;
        settings.connections.outbox_bytes = 16 * 1024;
        settings.connections.outbox_total_bytes = 64 * 1024;
    })
    .await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let mut idle = Vec::new();
    for letter in "ABCD".chars() {
        let target = format!("DDDD2{letter}");
        idle.push(deaf(&daemon, &target).await);
        let offer = json!({"type": "offer", "target": target, "payload": {"sdp": "x".repeat(900)}});
        for _ in 0..12 {
            say(&mut alice, offer.clone()).await;
        }
    }
    let refused = chunks::heard(&mut alice).await;
    assert!(!refused.is_empty() && refused.iter().all(|answer| answer["code"] == "peer_busy"));
    assert!(daemon.status().await.connections.unsent_bytes >= 28 * 1024, "half of it all waits");
    for number in 0..20 {
        let payload = json!({"number": number, "sdp": "x".repeat(3000)});
        say(&mut alice, json!({"type": "offer", "target": BOB, "payload": payload})).await;
        assert_eq!(hear(&mut bob).await["payload"]["number"], number);
    }
    hears_nothing(&mut alice).await;
}

#[tokio::test]
async fn a_failing_commit_of_others_takes_no_answer_from_what_is_live() {
    let mut shared_a_drain = 0;
    for _ in 0..40 {
        let daemon = TestDaemon::start().await;
        let engine = daemon.engine().clone();
        let (alice, bob, other) = (deaf(&daemon, ALICE).await, deaf(&daemon, BOB).await, join(&daemon));
        let (alice, bob, other) = (&alice.outbox, bob.outbox.socket, other.outbox.socket);
        let request = PairRequest { target: code(BOB), proposed_name: None };
        assert_eq!(engine.pair_request(alice.socket, Ok(request)).await, None);
        let register =
            Register { peer_id: code("relay"), max_connections: 20, public_key: None, resume_token: None };
        daemon.faults.fail_write(1);
        let response = PairResponse { requester: code(ALICE), accepted: true };
        let many = (0..50).map(|_| engine.get_relays(GetRelays { peer_id: None, count: 10 }));
        let (_, registered, responded) = tokio::join!(
            futures_util::future::join_all(many),
            engine.register(other, register),
            engine.pair_response(bob, Ok(response)),
        );
        shared_a_drain += usize::from(matches!(registered, ServerMessage::Error(_)));
        assert!(matches!(responded, Some(ServerMessage::PairMatched { .. })), "{responded:?}");
        let told = alice.next().unwrap();
        assert!(told.contains("pair_matched"), "{told}");
        if shared_a_drain == 5 {
            return;
        }
    }
    assert!(shared_a_drain > 0, "no commit failed");
}

#[tokio::test]
async fn a_source_that_does_not_read_is_a_silent_one_and_keeps_its_socket() {
    let daemon = TestDaemon::start_with(|settings| {
        settings.connections.max_message_bytes = 32 * 1024;
        settings.connections.outbox_bytes = 32 * 1024;
    })
    .await;
    let engine = daemon.engine().clone();
    let (source, strangers) = (join(&daemon), [join(&daemon), join(&daemon), join(&daemon)]);
    let name = |number: usize| format!("{number:0>200}");
    for part in 0..3 {
        let chunks = (part * 100..part * 100 + 100).map(name).collect();
        let (peer_id, channel) = (code("ann"), String::new());
        let announce = ChunkAnnounce { peer_id, resume_token: None, channel, chunks };
        engine.chunk_announce(source.outbox.socket, announce).await;
    }
    for (number, stranger) in (0..210).zip(strangers.iter().cycle()) {
        let name = ChunkName::parse("", &name(number)).unwrap();
        assert_eq!(engine.chunk_request(stranger.outbox.socket, name).await, None);
        assert!(stranger.outbox.next().unwrap().contains("chunk_pulling"));
    }
    assert!(!source.outbox.is_closing());
    daemon.advance(10 * SECOND);
    daemon.until("nobody waits any more", |status| status.live.chunk_requests == 0).await;
    for stranger in &strangers {
        let told = std::iter::from_fn(|| stranger.outbox.next()).filter(|text| text.contains("chunk_error"));
        assert_eq!(told.count(), 70);
    }
    assert!(!source.outbox.is_closing());
}

/// A phone that is out of coverage for a moment loses its id to whoever asks for it, but not its key, and not its devices.
#[tokio::test]
async fn whoever_takes_a_silent_code_gets_neither_its_key_nor_its_links() {
    let daemon = TestDaemon::start().await;
    let mut web = device(&daemon, BOB).await;
    let take = async |message: serde_json::Value, mobile: waypost::client::RawSocket| {
        let mut thief = daemon.raw().await;
        say(&mut thief, message).await;
        // The holder does not answer.
        daemon
            .until("it is being looked whether the holder lives", |status| status.connections.open == 3)
            .await;
        while daemon.status().await.connections.ids == 2 {
            daemon.advance(SECOND);
            let heard = tokio::time::timeout(SECOND / 10, hear(&mut thief)).await;
            if let Ok(heard) = heard {
                drop(mobile);
                return (thief, heard);
            }
        }
        unreachable!("both ids are held throughout")
    };
    for (message, keeps_link) in [
        (json!({"type": "register", "peerId": ALICE}), false),
        (json!({"type": "register_rendezvous", "peerId": ALICE, "hourlyTokens": ["t"]}), false),
        (json!({"type": "register", "pairingCode": ALICE, "publicKey": key_of("THIEF2")}), false),
        (register(ALICE), true),
    ] {
        let mut mobile = device(&daemon, ALICE).await;
        let link = json!({"type": "link_request", "linkCode": ALICE, "publicKey": "k"});
        say(&mut web, link).await;
        assert_eq!(hear(&mut mobile).await["type"], "link_request");
        let accept = json!({"type": "link_response", "linkCode": ALICE, "accepted": true});
        assert_eq!(ask(&mut mobile, accept).await["type"], "link_matched");
        assert_eq!(hear(&mut web).await["type"], "link_matched");
        let (mut thief, answer) = take(message.clone(), mobile).await;
        assert_ne!(answer["type"], "error", "{message}: {answer}");
        let offer = json!({"type": "offer", "payload": {}});
        if keeps_link {
            say(&mut web, offer).await;
            assert_eq!(hear(&mut thief).await["from"], BOB);
        } else {
            assert_eq!(ask(&mut web, offer).await["code"], "missing_field", "{message}");
        }
        drop(thief);
        daemon.until("it is free again", |status| status.connections.ids == 1).await;
    }
}
