//! Owns the proof of what two devices say to each other through the daemon (protocol: signalling, section 5): offers,
//! answers, candidates, and calls in the shapes of all existing clients; checks in order, and nobody harmed by a flood.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use daemon::{RawTcp, TestDaemon, ask, error, hear, hears_nothing, say};
use devices::{ALICE, BOB, device, missing, not_found, not_registered, register};
use serde_json::{Value, json};

const CALL: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const CALLS: [&str; 5] = ["call_offer", "call_answer", "call_reject", "call_hangup", "call_ice"];

fn bad_target() -> Value {
    error("invalid_target_code", "Invalid target code format")
}

fn bad_payload() -> Value {
    error("invalid_payload", "Missing or invalid payload")
}

/// The fields of a call's message that nobody refuses.
fn fields_of(kind: &str) -> Value {
    match kind {
        "call_offer" => json!({"callId": CALL, "sdp": "v=0", "withVideo": true}),
        "call_answer" => json!({"callId": CALL, "sdp": "v=0"}),
        "call_ice" => json!({"callId": CALL, "candidate": "candidate:1 1 UDP"}),
        _ => json!({"callId": CALL, "reason": "busy"}),
    }
}

/// An object and another one's fields beside its own.
fn with(mut object: Value, fields: &Value) -> Value {
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

#[tokio::test]
async fn offers_answers_and_candidates_arrive_as_they_were_sent() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let payloads = [
        json!({"type": "offer", "sdp": "v=0\r\n\u{1f980}\u{0}", "nested": {"a": [1, -2.5, null, true], "": {}}}),
        json!({}),
        json!({"candidate": "x".repeat(200_000), "sdpMLineIndex": 0, "big": 9007199254740993_u64}),
    ];
    for kind in ["offer", "answer", "ice_candidate"] {
        for payload in &payloads {
            say(&mut alice, json!({"type": kind, "target": BOB, "payload": payload})).await;
            assert_eq!(hear(&mut bob).await, json!({"type": kind, "from": ALICE, "payload": payload}));
            say(&mut bob, json!({"type": kind, "target": ALICE, "payload": payload})).await;
            assert_eq!(hear(&mut alice).await, json!({"type": kind, "from": BOB, "payload": payload}));
        }
    }
    hears_nothing(&mut alice).await;
    hears_nothing(&mut bob).await;
}

#[tokio::test]
async fn an_id_is_the_same_as_a_peer_id_and_as_a_pairing_code() {
    let daemon = TestDaemon::start().await;
    let (mut alice, _) = daemon.registered(ALICE).await;
    let mut bob = daemon.raw().await;
    let meet = json!({"type": "register_rendezvous", "peerId": BOB, "hourlyTokens": ["t"]});
    assert_eq!(ask(&mut bob, meet).await["type"], "rendezvous_result");
    say(&mut alice, json!({"type": "offer", "target": BOB, "payload": {"sdp": "a"}})).await;
    assert_eq!(hear(&mut bob).await, json!({"type": "offer", "from": ALICE, "payload": {"sdp": "a"}}));
    say(
        &mut bob,
        with(json!({"type": "call_hangup", "target": ALICE}), &json!({"payload": {"callId": CALL}})),
    )
    .await;
    assert_eq!(hear(&mut alice).await["from"], BOB);
}

#[tokio::test]
async fn offers_are_checked_in_order() {
    let daemon = TestDaemon::start().await;
    let mut stranger = daemon.raw().await;
    let (mut peer, _) = daemon.registered("no-code").await;
    let mut alice = device(&daemon, ALICE).await;
    for kind in ["offer", "answer", "ice_candidate"] {
        assert_eq!(ask(&mut stranger, json!({"type": kind})).await, not_registered());
        assert_eq!(
            ask(&mut peer, json!({"type": kind, "target": ALICE, "payload": {}})).await,
            not_registered()
        );
        for (message, expected) in [
            (json!({"payload": 7}), missing("target")),
            (json!({"target": "", "payload": 7}), missing("target")),
            (json!({"target": null, "payload": {}}), missing("target")),
            (json!({"target": 7, "payload": 7}), bad_target()),
            (json!({"target": "bbb333", "payload": 7}), bad_target()),
            (json!({"target": "BBB333X"}), bad_target()),
            (json!({"target": BOB}), bad_payload()),
            (json!({"target": BOB, "payload": null}), bad_payload()),
            (json!({"target": BOB, "payload": "{}"}), bad_payload()),
            (json!({"target": BOB, "payload": [1]}), bad_payload()),
            (json!({"target": BOB, "payload": {}}), not_found(BOB)),
        ] {
            let message = with(json!({"type": kind}), &message);
            assert_eq!(ask(&mut alice, message.clone()).await, expected, "{message}");
        }
    }
}

#[tokio::test]
async fn calls_are_taken_in_both_shapes_and_arrive_in_both() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    for kind in CALLS {
        let fields = fields_of(kind);
        let arrives = with(json!({"type": kind, "from": ALICE, "payload": fields}), &fields);
        let nested = json!({"type": kind, "target": BOB, "payload": fields});
        let flat = with(json!({"type": kind, "targetId": BOB}), &fields);
        // What a client leaves empty in the other shape is as if it were not there.
        let both = with(json!({"type": kind, "target": BOB, "targetId": BOB, "payload": null}), &fields);
        for sent in [nested, flat, both] {
            say(&mut alice, sent.clone()).await;
            assert_eq!(hear(&mut bob).await, arrives, "{sent}");
        }
        hears_nothing(&mut alice).await;
    }

    // Whatever else the payload has comes along, but never in place of what the daemon says.
    let payload =
        json!({"callId": CALL, "from": "EEE666", "type": "offer", "payload": {"x": 1}, "more": [1]});
    say(&mut alice, json!({"type": "call_reject", "target": BOB, "payload": payload})).await;
    let arrived = hear(&mut bob).await;
    let expected =
        json!({"type": "call_reject", "from": ALICE, "payload": payload, "callId": CALL, "more": [1]});
    assert_eq!(arrived, expected);
    // In the flat shape only the known fields belong to the call.
    say(&mut alice, json!({"type": "call_reject", "targetId": BOB, "callId": CALL, "other": 1})).await;
    let expected = json!({"type": "call_reject", "from": ALICE, "payload": {"callId": CALL}, "callId": CALL});
    assert_eq!(hear(&mut bob).await, expected);
}

#[tokio::test]
async fn calls_are_checked_in_order() {
    let daemon = TestDaemon::start().await;
    let mut stranger = daemon.raw().await;
    let mut alice = device(&daemon, ALICE).await;
    let bad_call = error("invalid_call_id", "Invalid or missing callId (must be UUID v4 format)");
    let bad_candidate = error("invalid_candidate", "Missing or invalid candidate in call_ice");
    for kind in CALLS {
        assert_eq!(ask(&mut stranger, json!({"type": kind})).await, not_registered());
        let mut cases = vec![
            (json!({"payload": 7}), missing("target")),
            (json!({"callId": "x"}), missing("target")),
            (json!({"target": "", "targetId": BOB}), missing("target")),
            (json!({"target": "x", "payload": 7}), bad_target()),
            (json!({"targetId": 7, "callId": "x"}), bad_target()),
            (json!({"target": BOB}), bad_payload()),
            (json!({"target": BOB, "payload": "x"}), bad_payload()),
            (json!({"target": BOB, "payload": {}}), bad_call.clone()),
            (
                json!({"target": BOB, "payload": {"callId": CALL.replace("-4", "-1"), "sdp": 7}}),
                bad_call.clone(),
            ),
            (json!({"targetId": BOB, "sdp": "", "candidate": ""}), bad_call.clone()),
            (json!({"targetId": BOB, "callId": 7}), bad_call.clone()),
        ];
        let (bad, field, most, too_large) = match kind {
            "call_ice" => {
                let text = "ICE candidate too large (max 1024 bytes)";
                (bad_candidate.clone(), "candidate", 1024, error("candidate_too_large", text))
            }
            "call_offer" | "call_answer" => {
                let bad = error("invalid_sdp", &format!("Missing or invalid sdp in {kind}"));
                (bad, "sdp", 65536, error("sdp_too_large", "SDP too large (max 65536 bytes)"))
            }
            _ => (not_found(BOB), "reason", 0, not_found(BOB)),
        };
        for wrong in [json!(null), json!(""), json!(7), json!({"a": 1})] {
            cases.push((json!({"target": BOB, "payload": {"callId": CALL, field: wrong}}), bad.clone()));
            cases.push((json!({"targetId": BOB, "callId": CALL, field: wrong}), bad.clone()));
        }
        // Bytes count, not characters.
        for longer in ["x".repeat(most + 1), "\u{e9}".repeat(most / 2 + 1)] {
            cases.push((
                json!({"target": BOB, "payload": {"callId": CALL, field: longer}}),
                too_large.clone(),
            ));
        }
        let longest = "x".repeat(most);
        cases.push((json!({"target": BOB, "payload": {"callId": CALL, field: longest}}), not_found(BOB)));
        cases.push((with(json!({"targetId": BOB}), &fields_of(kind)), not_found(BOB)));
        for (message, expected) in cases {
            if field == "reason" && message.to_string().contains("reason") {
                continue;
            }
            let message = with(json!({"type": kind}), &message);
            assert_eq!(ask(&mut alice, message.clone()).await, expected, "{message}");
        }
    }
}

#[tokio::test]
async fn messages_to_one_device_arrive_in_the_order_in_which_they_were_sent() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    for number in 0..200 {
        let kind = if number % 3 == 0 { "offer" } else { "ice_candidate" };
        say(&mut alice, json!({"type": kind, "target": BOB, "payload": {"number": number}})).await;
        if number == 100 {
            say(&mut alice, json!({"type": "ping"})).await;
        }
    }
    for number in 0..200 {
        assert_eq!(hear(&mut bob).await["payload"]["number"], number);
    }
    assert_eq!(hear(&mut alice).await, json!({"type": "pong"}));
}

#[tokio::test]
async fn whoever_is_flooded_by_others_keeps_the_socket_and_they_are_told() {
    let daemon = TestDaemon::start().await;
    let mut alice = device(&daemon, ALICE).await;
    // Bob does not read.
    let mut bob = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    bob.hear().await;
    bob.send_json(register(BOB)).await;
    assert_eq!(bob.hear().await["type"], "registered");
    let flood = json!({"type": "offer", "target": BOB, "payload": {"sdp": "x".repeat(200_000)}});
    let mut passed = 0;
    let refused = loop {
        say(&mut alice, flood.clone()).await;
        say(&mut alice, json!({"type": "ping"})).await;
        match hear(&mut alice).await {
            pong if pong["type"] == "pong" => passed += 1,
            refused => break refused,
        }
        assert!(passed < 1000, "there is no end of what he takes");
    };
    assert_eq!(refused, error("peer_busy", "Peer is busy. Please try again."));
    assert_eq!(hear(&mut alice).await, json!({"type": "pong"}));
    // What the daemon itself has to say still fits, and all of it arrives once he reads.
    say(&mut alice, json!({"type": "pair_request", "targetCode": BOB})).await;
    hears_nothing(&mut alice).await;
    for _ in 0..passed {
        assert_eq!(bob.hear().await["type"], "offer");
    }
    assert_eq!(bob.hear().await["type"], "pair_incoming");
    say(&mut alice, flood).await;
    assert_eq!(bob.hear().await["type"], "offer");
}

/// Room is looked for when a message is taken and again when it is put there: between the two others may have it.
#[tokio::test]
async fn of_many_that_come_at_once_each_arrives_or_its_sender_is_told() {
    let daemon = TestDaemon::start().await;
    let mut bob = RawTcp::open(daemon.addresses().public, "/", "").await;
    bob.send_json(register(BOB)).await;
    while bob.hear().await["type"] != "registered" {}
    let mut senders = Vec::new();
    for letter in "ABCDEFGHJK".chars() {
        senders.push(device(&daemon, &format!("ZZZZZ{letter}")).await);
    }
    let offer = json!({"type": "offer", "target": BOB, "payload": {"sdp": "x".repeat(200_000)}});
    let busy = error("peer_busy", "Peer is busy. Please try again.");
    let (mut sent, mut told) = (0, 0);
    for _ in 0..10 {
        let sending = senders.iter_mut().map(async |sender| {
            say(sender, offer.clone()).await;
            let refused = ask(sender, json!({"type": "ping"})).await == busy;
            if refused {
                assert_eq!(hear(sender).await, json!({"type": "pong"}));
            }
            usize::from(refused)
        });
        let refused: usize = futures_util::future::join_all(sending).await.iter().sum();
        (sent, told) = (sent + senders.len(), told + refused);
    }
    assert!(told > 0, "all of it found room");
    for _ in told..sent {
        assert_eq!(bob.hear().await["type"], "offer");
    }
    bob.send_json(json!({"type": "ping"})).await;
    assert_eq!(bob.hear().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn a_call_that_grows_too_large_by_its_two_shapes_is_refused_to_the_caller() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    // One digit and an exponent are written out: eight times as long, and twice.
    let numbers = vec!["1e9"; 60_000].join(",");
    let text = format!(
        r#"{{"type":"call_reject","target":"{BOB}","payload":{{"callId":"{CALL}","numbers":[{numbers}]}}}}"#
    );
    alice.send_text(text).await.unwrap();
    assert_eq!(hear(&mut alice).await, error("peer_busy", "Peer is busy. Please try again."));
    hears_nothing(&mut bob).await;
}

#[tokio::test]
async fn nobody_is_found_who_has_just_left() {
    let daemon = TestDaemon::start().await;
    let (mut alice, bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let offer = json!({"type": "offer", "target": BOB, "payload": {}});
    drop(bob);
    daemon.until("he is gone", |status| status.connections.ids == 1).await;
    assert_eq!(ask(&mut alice, offer).await, not_found(BOB));
}
