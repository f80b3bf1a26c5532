//! Owns the proof of pairing (protocol: signalling, section 5): codes, pair requests with their warnings and their ends,
//! the order of checks and of messages, and that nothing is left of it when somebody leaves.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use std::time::Duration;

use daemon::{RawTcp, SECOND, SOON, TestDaemon, ask, error, hear, hears_nothing, say};
use devices::{ALICE, BOB, CAROL, device, device_with_token, key_of, missing, not_registered, register};
use serde_json::{Value, json};
use waypost::client::RawSocket;

fn request(target: &str) -> Value {
    json!({"type": "pair_request", "targetCode": target})
}

fn response(requester: &str, accepted: bool) -> Value {
    json!({"type": "pair_response", "targetCode": requester, "accepted": accepted})
}

fn incoming(from: &str) -> Value {
    json!({"type": "pair_incoming", "fromCode": from, "fromPublicKey": key_of(from), "expiresIn": 120_000})
}

fn about(kind: &str, peer: &str) -> Value {
    json!({"type": kind, "peerCode": peer})
}

fn expiring(peer: &str) -> Value {
    json!({"type": "pair_expiring", "peerCode": peer, "remainingSeconds": 30})
}

fn could_not() -> Value {
    json!({"type": "pair_error", "error": "Pair request could not be processed"})
}

fn nothing_pending() -> Value {
    json!({"type": "pair_error", "error": "No pending request from this peer"})
}

fn matched(peer: &str, is_initiator: bool) -> Value {
    json!({"type": "pair_matched", "peerCode": peer, "peerPublicKey": key_of(peer), "isInitiator": is_initiator})
}

/// A pair request that has arrived.
async fn request_pending(from: (&mut RawSocket, &str), to: (&mut RawSocket, &str)) {
    say(from.0, request(to.1)).await;
    assert_eq!(hear(to.0).await, incoming(from.1));
}

#[tokio::test]
async fn two_devices_pair_and_the_requester_hears_first_and_is_the_initiator() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    say(&mut alice, json!({"type": "pair_request", "targetCode": BOB, "proposedName": "Al\u{ef}ce"})).await;
    let mut named = incoming(ALICE);
    named["proposedName"] = json!("Al\u{ef}ce");
    assert_eq!(hear(&mut bob).await, named);
    // A client takes silence for success.
    hears_nothing(&mut alice).await;

    assert_eq!(ask(&mut bob, response(ALICE, true)).await, matched(ALICE, false));
    // Bob has his answer: Alice had hers before.
    assert_eq!(alice.next_message(SOON).await.unwrap(), matched(BOB, true));
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, nothing_pending());
    assert_eq!(daemon.status().await.live.pair_requests, 0);

    // Paired or not, they may ask again; this time Bob refuses.
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    say(&mut bob, response(ALICE, false)).await;
    assert_eq!(hear(&mut alice).await, about("pair_rejected", BOB));
    hears_nothing(&mut bob).await;
    hears_nothing(&mut alice).await;
}

#[tokio::test]
async fn a_code_is_registered_with_a_key_and_again_as_often_as_one_likes() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    let with = |code: Value, key: Value| json!({"type": "register", "pairingCode": code, "publicKey": key});
    let (bad_code, bad_key) = (
        ("invalid_pairing_code", "Invalid pairing code format"),
        ("invalid_public_key", "Invalid public key format"),
    );
    for (message, (code, text)) in [
        (with(json!(""), json!(7)), ("missing_field", "Missing required field: pairingCode")),
        (with(json!(null), json!(7)), ("missing_field", "Missing required field: pairingCode")),
        (with(json!(7), json!(7)), bad_code),
        (with(json!("abc234"), json!("")), bad_code),
        (with(json!("ABCO23"), json!("")), bad_code),
        (with(json!(ALICE), json!(null)), ("missing_field", "Missing required field: publicKey")),
        (with(json!(ALICE), json!(["x"])), bad_key),
        (with(json!(ALICE), json!("not base64!")), bad_key),
        (with(json!(ALICE), json!("AAAA")), ("invalid_public_key_length", "Invalid public key length")),
    ] {
        assert_eq!(ask(&mut socket, message.clone()).await, error(code, text), "{message}");
    }
    assert_eq!(daemon.status().await.live.pairing_codes, 0);

    let unpadded = key_of(ALICE).trim_end_matches('=').to_owned();
    for key in [key_of(ALICE), unpadded.clone()] {
        let answer = ask(&mut socket, with(json!(ALICE), json!(key))).await;
        let token = answer["resumeToken"].clone();
        let server_id = answer["serverId"].clone();
        let expected =
            json!({"type": "registered", "pairingCode": ALICE, "serverId": server_id, "resumeToken": token});
        assert_eq!(answer, expected);
    }
    assert_eq!(daemon.status().await.live.pairing_codes, 1);

    // The key is told as it came last.
    let mut bob = device(&daemon, BOB).await;
    say(&mut socket, request(BOB)).await;
    let mut told = incoming(ALICE);
    told["fromPublicKey"] = json!(unpadded);
    assert_eq!(hear(&mut bob).await, told);
}

#[tokio::test]
async fn checks_come_in_order_whoever_asks() {
    let daemon = TestDaemon::start().await;
    let mut stranger = daemon.raw().await;
    let (mut peer, _) = daemon.registered("no-code").await;
    for message in
        [request(BOB), json!({"type": "pair_request"}), response(BOB, true), json!({"type": "pair_response"})]
    {
        assert_eq!(ask(&mut stranger, message.clone()).await, not_registered(), "{message}");
        assert_eq!(ask(&mut peer, message.clone()).await, not_registered(), "{message}");
    }
    // A code that is held as a peerId comes without the key that its peer would be told.
    let (mut as_peer, _) = daemon.registered(BOB).await;
    assert_eq!(ask(&mut as_peer, request(ALICE)).await, not_registered());

    let mut alice = device(&daemon, ALICE).await;
    let bad_target = error("invalid_target_code", "Invalid target code format");
    let not_bool = error("invalid_field", "Invalid message: pair_response: accepted must be a boolean");
    let bad_name = error("invalid_field", "Invalid message: pair_request: proposedName must be a string");
    for (message, expected) in [
        (json!({"type": "pair_request"}), missing("targetCode")),
        (json!({"type": "pair_request", "targetCode": ""}), missing("targetCode")),
        (json!({"type": "pair_request", "targetCode": null}), missing("targetCode")),
        (json!({"type": "pair_request", "targetCode": 7}), bad_target.clone()),
        (json!({"type": "pair_request", "targetCode": "bbb333"}), bad_target.clone()),
        (json!({"type": "pair_request", "targetCode": BOB, "proposedName": 7}), bad_name),
        (request(ALICE), could_not()),
        (request("ZZZ999"), could_not()),
        (request(BOB), could_not()),
        (json!({"type": "pair_response", "accepted": 7}), bad_target.clone()),
        (json!({"type": "pair_response", "targetCode": "", "accepted": 7}), bad_target),
        (json!({"type": "pair_response", "targetCode": BOB}), not_bool.clone()),
        (json!({"type": "pair_response", "targetCode": BOB, "accepted": "true"}), not_bool),
        (response("ZZZ999", true), nothing_pending()),
        (response(ALICE, true), nothing_pending()),
    ] {
        assert_eq!(ask(&mut alice, message.clone()).await, expected, "{message}");
    }
    // Once the other one has a key as well they can pair: it is the same id.
    assert_eq!(ask(&mut as_peer, register(BOB)).await["type"], "registered");
    request_pending((&mut alice, ALICE), (&mut as_peer, BOB)).await;
}

/// Nobody is to lose the socket for what strangers ask.
#[tokio::test]
async fn whoever_does_not_read_is_asked_for_nothing_more_and_keeps_the_socket() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.pair_requests_per_minute = 0).await;
    let mut bob = RawTcp::open(daemon.addresses().public, "/", "").await;
    for message in [register(BOB), json!({"type": "ping"})] {
        bob.send_json(message).await;
    }
    while bob.hear().await["type"] != "pong" {}
    let (mut alice, mut carol) = (device(&daemon, ALICE).await, device(&daemon, CAROL).await);
    let named =
        json!({"type": "pair_request", "targetCode": BOB, "proposedName": "\u{1f980}".repeat(200_000 / 4)});
    let mut asked = 0;
    loop {
        say(&mut alice, named.clone()).await;
        match ask(&mut alice, json!({"type": "ping"})).await {
            pong if pong["type"] == "pong" => asked += 1,
            refused => {
                assert_eq!(refused, could_not());
                break;
            }
        }
        assert!(asked < 100_000, "there is no end of it");
    }
    assert_eq!(hear(&mut alice).await, json!({"type": "pong"}));
    let link = json!({"type": "link_request", "linkCode": BOB, "publicKey": "k"});
    assert_eq!(ask(&mut carol, link).await["type"], "link_error");
    // Once he reads, all of it is there, each name cut, and he can be asked again.
    for _ in 0..asked {
        assert_eq!(bob.hear().await["proposedName"], "\u{1f980}".repeat(128));
    }
    request_pending_raw(&mut carol, CAROL, &mut bob).await;
}

async fn request_pending_raw(from: &mut RawSocket, code: &str, to: &mut RawTcp) {
    say(from, request(BOB)).await;
    assert_eq!(to.hear().await, incoming(code));
}

#[tokio::test]
async fn both_are_warned_before_the_end_and_the_requester_hears_of_the_end() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    daemon.advance_with(89 * SECOND, &mut [&mut alice, &mut bob]).await;
    hears_nothing(&mut alice).await;
    hears_nothing(&mut bob).await;
    daemon.advance(SECOND);
    assert_eq!(hear(&mut alice).await, expiring(BOB));
    assert_eq!(hear(&mut bob).await, expiring(ALICE));
    daemon.advance_with(29 * SECOND, &mut [&mut alice, &mut bob]).await;
    daemon.advance(SECOND);
    assert_eq!(hear(&mut alice).await, about("pair_timeout", BOB));
    hears_nothing(&mut alice).await;
    hears_nothing(&mut bob).await;
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, nothing_pending());
}

#[tokio::test]
async fn asking_again_replaces_the_request_and_restarts_its_time() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    daemon.advance_with(80 * SECOND, &mut [&mut alice, &mut bob]).await;
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    assert_eq!(daemon.status().await.live.pair_requests, 1);
    // The first one would have warned and ended by now.
    daemon.advance_with(80 * SECOND, &mut [&mut alice, &mut bob]).await;
    daemon.advance(10 * SECOND);
    assert_eq!(hear(&mut alice).await, expiring(BOB));
    assert_eq!(hear(&mut bob).await, expiring(ALICE));
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, matched(ALICE, false));
    assert_eq!(hear(&mut alice).await, matched(BOB, true));
    daemon.advance_with(60 * SECOND, &mut [&mut alice, &mut bob]).await;
    hears_nothing(&mut alice).await;
}

#[tokio::test]
async fn the_times_are_settings() {
    let daemon = TestDaemon::start_with(|settings| {
        settings.pairing.request_timeout = 10 * SECOND;
        settings.pairing.warning = 4 * SECOND;
    })
    .await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    say(&mut alice, request(BOB)).await;
    assert_eq!(hear(&mut bob).await["expiresIn"], 10_000);
    daemon.advance(6 * SECOND);
    assert_eq!(hear(&mut alice).await["remainingSeconds"], 4);
    assert_eq!(hear(&mut bob).await["remainingSeconds"], 4);
    daemon.advance(4 * SECOND);
    assert_eq!(hear(&mut alice).await, about("pair_timeout", BOB));

    let daemon = TestDaemon::start_with(|settings| settings.pairing.warning = Duration::ZERO).await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    daemon.advance_with(119 * SECOND, &mut [&mut alice, &mut bob]).await;
    daemon.advance(SECOND);
    assert_eq!(hear(&mut alice).await, about("pair_timeout", BOB));
    hears_nothing(&mut bob).await;
}

#[tokio::test]
async fn ten_requests_may_wait_for_one_code() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.pair_requests_per_minute = 0).await;
    let mut bob = device(&daemon, BOB).await;
    let mut others = Vec::new();
    for (number, letter) in "ABCDEFGHJKL".chars().enumerate() {
        let code = format!("ZZZZZ{letter}");
        let mut other = device(&daemon, &code).await;
        if number < 10 {
            request_pending((&mut other, &code), (&mut bob, BOB)).await;
        } else {
            assert_eq!(ask(&mut other, request(BOB)).await, could_not());
        }
        others.push((other, code));
    }
    // One that waits already may ask again.
    let (first, code) = &mut others[0];
    request_pending((first, code), (&mut bob, BOB)).await;
    assert_eq!(ask(&mut bob, response(code, true)).await, matched(code, false));
    let (last, code) = &mut others[10];
    request_pending((last, code), (&mut bob, BOB)).await;
}

#[tokio::test]
async fn ten_requests_in_a_minute_are_enough_and_malformed_ones_do_not_count() {
    let daemon = TestDaemon::start().await;
    daemon.advance(SECOND);
    let mut alice = device(&daemon, ALICE).await;
    let too_many = error("too_many_pair_requests", "Too many pair requests. Please slow down.");
    for _ in 0..10 {
        assert_eq!(ask(&mut alice, json!({"type": "pair_request"})).await, missing("targetCode"));
        assert_eq!(ask(&mut alice, request(BOB)).await, could_not());
    }
    assert_eq!(ask(&mut alice, request(BOB)).await, too_many);
    assert_eq!(ask(&mut alice, json!({"type": "pair_request"})).await, missing("targetCode"));
    let link = json!({"type": "link_request", "linkCode": BOB, "publicKey": "k"});
    assert_eq!(ask(&mut alice, link.clone()).await, too_many, "they count together");
    let mut bob = device(&daemon, BOB).await;
    assert_eq!(ask(&mut bob, request("ZZZ999")).await, could_not(), "each socket has its own");
    daemon.advance(6 * SECOND);
    say(&mut alice, link).await;
    assert_eq!(hear(&mut bob).await["type"], "link_request");
    assert_eq!(ask(&mut alice, request(BOB)).await, too_many);
}

#[tokio::test]
async fn whoever_leaves_ends_what_is_pending_and_the_other_side_is_told() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let mut carol = device(&daemon, CAROL).await;
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    request_pending((&mut carol, CAROL), (&mut alice, ALICE)).await;
    drop(alice);
    assert_eq!(hear(&mut bob).await, about("pair_cancelled", ALICE));
    assert_eq!(hear(&mut carol).await, about("pair_timeout", ALICE));
    let status = daemon.until("the code is free", |status| status.live.pairing_codes == 2).await;
    assert_eq!(status.live.pair_requests, 0);
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, nothing_pending());
    // Somebody else under the same code has nothing of it.
    let mut stranger = device(&daemon, ALICE).await;
    assert_eq!(ask(&mut stranger, response(CAROL, true)).await, nothing_pending());
    daemon.advance_with(130 * SECOND, &mut [&mut bob, &mut carol, &mut stranger]).await;
    for socket in [&mut bob, &mut carol, &mut stranger] {
        hears_nothing(socket).await;
    }
}

#[tokio::test]
async fn another_code_on_the_same_socket_frees_the_old_one_as_leaving_does() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let mut carol = device(&daemon, CAROL).await;
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    request_pending((&mut carol, CAROL), (&mut alice, ALICE)).await;
    // One that is held by somebody else cannot be had: nothing is lost.
    let collision = ask(&mut alice, register(BOB));
    let collision = tokio::select! {
        answer = collision => answer,
        heard = hear(&mut bob) => panic!("the holder heard {heard}"),
    };
    assert_eq!(collision["type"], "code_collision");
    assert_eq!(daemon.status().await.live.pair_requests, 2);

    assert_eq!(ask(&mut alice, register("DDD555")).await["type"], "registered");
    assert_eq!(hear(&mut bob).await, about("pair_cancelled", ALICE));
    assert_eq!(hear(&mut carol).await, about("pair_timeout", ALICE));
    let live = daemon.status().await.live;
    assert_eq!((live.pairing_codes, live.pair_requests), (3, 0));
    assert_eq!(ask(&mut carol, request(ALICE)).await, could_not());
    request_pending((&mut carol, CAROL), (&mut alice, "DDD555")).await;
}

#[tokio::test]
async fn a_take_over_ends_what_is_pending_and_its_late_exit_ends_nothing() {
    let daemon = TestDaemon::start().await;
    let (mut old, token) = device_with_token(&daemon, ALICE).await;
    let (mut bob, mut carol) = (device(&daemon, BOB).await, device(&daemon, CAROL).await);
    request_pending((&mut old, ALICE), (&mut bob, BOB)).await;
    request_pending((&mut carol, CAROL), (&mut old, ALICE)).await;
    let mut new = daemon.raw().await;
    let mut again = register(ALICE);
    again["resumeToken"] = json!(token);
    assert_eq!(ask(&mut new, again).await["type"], "registered");
    assert_eq!(hear(&mut bob).await, about("pair_cancelled", ALICE));
    assert_eq!(hear(&mut carol).await, about("pair_timeout", ALICE));
    request_pending((&mut new, ALICE), (&mut bob, BOB)).await;
    assert_eq!(old.closed(SOON).await.unwrap().0, 4409);
    daemon.until("the old socket is gone", |status| status.connections.open == 3).await;
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, matched(ALICE, false));
    assert_eq!(hear(&mut new).await, matched(BOB, true));
}

#[tokio::test]
async fn pairing_goes_on_over_a_storage_failure() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let (mut peer, _) = daemon.registered("peer").await;
    daemon.faults.fail_write(1);
    let drop =
        json!({"type": "register_rendezvous", "peerId": "peer", "dailyPoints": ["p"], "deadDrop": "x"});
    assert_eq!(ask(&mut peer, drop).await["code"], "storage_unavailable");
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, matched(ALICE, false));
    assert_eq!(hear(&mut alice).await, matched(BOB, true));
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    std::mem::drop(alice);
    assert_eq!(hear(&mut bob).await, about("pair_cancelled", ALICE));
}

#[tokio::test]
async fn nothing_of_it_outlives_a_restart_and_shutting_down_tells_nobody_of_it() {
    let mut daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    request_pending((&mut alice, ALICE), (&mut bob, BOB)).await;
    daemon.stop([]).await;
    // Whatever came before the close would be heard here.
    for socket in [&mut alice, &mut bob] {
        let heard = socket.next_message(SOON).await;
        assert!(matches!(&heard, Err(waypost::client::ClientError::Closed { code: 1001, .. })), "{heard:?}");
    }
    daemon.start_again().await;
    let live = daemon.status().await.live;
    assert_eq!((live.pairing_codes, live.pair_requests), (0, 0));
    let mut bob = device(&daemon, BOB).await;
    assert_eq!(ask(&mut bob, response(ALICE, true)).await, nothing_pending());
}
