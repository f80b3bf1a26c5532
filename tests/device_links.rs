//! Owns the proof of device links (protocol: signalling, section 5): a second device links to one that has a code, and from
//! then on each may leave out whom it means.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use daemon::{SECOND, SOON, TestDaemon, ask, error, hear, hears_nothing, say};
use devices::{ALICE, BOB, CAROL, device, device_with_token, key_of, missing, not_registered, register};
use serde_json::{Value, json};
use waypost::client::RawSocket;

const MOBILE: &str = ALICE;
const WEB: &str = BOB;
const OTHER: &str = CAROL;

fn request(link_code: &str) -> Value {
    json!({"type": "link_request", "linkCode": link_code, "publicKey": "web key", "deviceName": "Firefox"})
}

fn response(link_code: &str, accepted: bool) -> Value {
    json!({"type": "link_response", "linkCode": link_code, "accepted": accepted})
}

fn requested(name: &str) -> Value {
    json!({"type": "link_request", "linkCode": MOBILE, "publicKey": "web key", "deviceName": name,
        "expiresIn": 120_000})
}

fn timeout() -> Value {
    json!({"type": "link_timeout", "linkCode": MOBILE})
}

fn could_not() -> Value {
    json!({"type": "link_error", "error": "Link request could not be processed"})
}

fn nothing_pending() -> Value {
    json!({"type": "link_error", "error": "No pending link request found"})
}

fn to_mobile(web: &str, name: &str) -> Value {
    json!({"type": "link_matched", "linkCode": MOBILE, "peerPublicKey": "web key", "isInitiator": false,
        "webClientCode": web, "deviceName": name})
}

fn to_web() -> Value {
    json!({"type": "link_matched", "linkCode": MOBILE, "peerPublicKey": key_of(MOBILE), "isInitiator": true})
}

async fn request_pending(web: &mut RawSocket, mobile: &mut RawSocket) {
    say(web, request(MOBILE)).await;
    assert_eq!(hear(mobile).await, requested("Firefox"));
}

async fn link((web, code): (&mut RawSocket, &str), mobile: &mut RawSocket) {
    request_pending(web, mobile).await;
    assert_eq!(ask(mobile, response(MOBILE, true)).await, to_mobile(code, "Firefox"));
    assert_eq!(hear(web).await, to_web());
}

fn offer(number: u32) -> Value {
    json!({"type": "offer", "payload": {"number": number}})
}

fn from(code: &str, number: u32) -> Value {
    json!({"type": "offer", "from": code, "payload": {"number": number}})
}

#[tokio::test]
async fn a_device_links_and_the_web_client_hears_first() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    request_pending(&mut web, &mut mobile).await;
    hears_nothing(&mut web).await;
    let mut accepted = response(MOBILE, true);
    accepted["deviceId"] = json!("device-1");
    assert_eq!(ask(&mut mobile, accepted).await, to_mobile(WEB, "Firefox"));
    let mut told = to_web();
    told["deviceId"] = json!("device-1");
    assert_eq!(web.next_message(SOON).await.unwrap(), told);
    assert_eq!(ask(&mut mobile, response(MOBILE, true)).await, nothing_pending());
    let live = daemon.status().await.live;
    assert_eq!((live.link_requests, live.device_links), (0, 1));

    // And a refused one.
    request_pending(&mut web, &mut mobile).await;
    say(&mut mobile, response(MOBILE, false)).await;
    assert_eq!(hear(&mut web).await, json!({"type": "link_rejected", "linkCode": MOBILE}));
    hears_nothing(&mut mobile).await;
}

#[tokio::test]
async fn names_have_a_default_and_a_length() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    for (given, told) in [
        (json!(null), "Unknown Browser".to_owned()),
        (json!(""), String::new()),
        (json!("\u{e9}".repeat(128)), "\u{e9}".repeat(128)),
        (json!("\u{e9}".repeat(129)), "\u{e9}".repeat(128)),
    ] {
        let mut asked = request(MOBILE);
        asked["deviceName"] = given;
        say(&mut web, asked).await;
        assert_eq!(hear(&mut mobile).await, requested(&told));
    }
    assert_eq!(daemon.status().await.live.link_requests, 1, "the same socket's replaces the one before");
    let last = "\u{e9}".repeat(128);
    // An id is not cut: it would be another one.
    let mut accepted = response(MOBILE, true);
    accepted["deviceId"] = json!("x".repeat(129));
    let too_long = "Invalid message: link_response: deviceId must be a string of at most 128 characters";
    assert_eq!(ask(&mut mobile, accepted).await, error("invalid_field", too_long));
    assert_eq!(ask(&mut mobile, response(MOBILE, true)).await, to_mobile(WEB, &last));
}

#[tokio::test]
async fn checks_come_in_order() {
    let daemon = TestDaemon::start().await;
    let mut stranger = daemon.raw().await;
    for message in [json!({"type": "link_request"}), request(MOBILE), json!({"type": "link_response"})] {
        assert_eq!(ask(&mut stranger, message).await, not_registered());
    }
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    let bad_code = error("invalid_link_code", "Invalid link code format");
    let bad_key = error("invalid_public_key", "Invalid public key format");
    let asked = |code: Value, key: Value| json!({"type": "link_request", "linkCode": code, "publicKey": key});
    let answered = |code: Value, accepted: Value| json!({"type": "link_response", "linkCode": code, "accepted": accepted});
    let not_bool = error("invalid_field", "Invalid message: link_response: accepted must be a boolean");
    let not_own = error("not_your_link", "Cannot respond to link request for another device");
    let bad_name = error("invalid_field", "Invalid message: link_request: deviceName must be a string");
    let mut named = request(MOBILE);
    named["deviceName"] = json!(7);
    for (message, expected) in [
        (asked(json!(null), json!(7)), missing("linkCode")),
        (asked(json!(""), json!(7)), missing("linkCode")),
        (asked(json!(7), json!(7)), bad_code.clone()),
        (asked(json!("aaa222"), json!(null)), bad_code.clone()),
        (asked(json!(MOBILE), json!(null)), missing("publicKey")),
        (asked(json!(MOBILE), json!("")), missing("publicKey")),
        (asked(json!(MOBILE), json!(7)), bad_key.clone()),
        (asked(json!(MOBILE), json!("x".repeat(1025))), bad_key),
        (named, bad_name),
        (request("ZZZ999"), could_not()),
        (request(WEB), could_not()),
        (answered(json!(null), json!(7)), missing("linkCode")),
        (answered(json!("aaa222"), json!(7)), bad_code),
        (answered(json!(MOBILE), json!(7)), not_bool),
        (response(MOBILE, true), not_own.clone()),
        (response("ZZZ999", false), not_own),
        (response(WEB, true), nothing_pending()),
    ] {
        assert_eq!(ask(&mut web, message.clone()).await, expected, "{message}");
    }
    say(&mut web, asked(json!(MOBILE), json!("x".repeat(1024)))).await;
    assert_eq!(hear(&mut mobile).await["publicKey"], "x".repeat(1024));
}

#[tokio::test]
async fn another_device_cannot_push_a_pending_one_aside() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    let mut other = device(&daemon, OTHER).await;
    request_pending(&mut web, &mut mobile).await;
    assert_eq!(ask(&mut other, request(MOBILE)).await, could_not());
    assert_eq!(ask(&mut mobile, response(MOBILE, true)).await, to_mobile(WEB, "Firefox"));
    assert_eq!(hear(&mut web).await, to_web());
    request_pending(&mut other, &mut mobile).await;
}

#[tokio::test]
async fn at_its_end_both_are_told_and_nobody_is_warned() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    request_pending(&mut web, &mut mobile).await;
    daemon.advance_with(119 * SECOND, &mut [&mut mobile, &mut web]).await;
    daemon.advance(SECOND);
    assert_eq!(hear(&mut web).await, timeout());
    assert_eq!(hear(&mut mobile).await, timeout());
    assert_eq!(ask(&mut mobile, response(MOBILE, true)).await, nothing_pending());
}

#[tokio::test]
async fn when_either_side_leaves_the_other_is_told() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    request_pending(&mut web, &mut mobile).await;
    drop(web);
    assert_eq!(hear(&mut mobile).await, timeout());
    let mut web = device(&daemon, WEB).await;
    request_pending(&mut web, &mut mobile).await;
    drop(mobile);
    assert_eq!(hear(&mut web).await, timeout());
    assert_eq!(daemon.status().await.live.link_requests, 0);
}

#[tokio::test]
async fn without_a_target_the_other_end_of_the_link_is_meant() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (device(&daemon, MOBILE).await, device(&daemon, WEB).await);
    assert_eq!(ask(&mut web, offer(1)).await, missing("target"));
    link((&mut web, WEB), &mut mobile).await;
    say(&mut web, offer(1)).await;
    assert_eq!(hear(&mut mobile).await, from(WEB, 1));
    say(&mut mobile, offer(2)).await;
    assert_eq!(hear(&mut web).await, from(MOBILE, 2));
    let no_payload = error("invalid_payload", "Missing or invalid payload");
    assert_eq!(ask(&mut web, json!({"type": "answer"})).await, no_payload);
    // Calls always name whom they are for.
    let call = json!({"type": "call_hangup", "callId": "0f8fad5b-d9cb-469f-a165-70867728950e"});
    assert_eq!(ask(&mut web, call).await, missing("target"));

    // Of several links the newest is meant, and when it ends the one before.
    let mut other = device(&daemon, OTHER).await;
    link((&mut other, OTHER), &mut mobile).await;
    say(&mut mobile, offer(3)).await;
    assert_eq!(hear(&mut other).await, from(MOBILE, 3));
    say(&mut web, offer(4)).await;
    assert_eq!(hear(&mut mobile).await, from(WEB, 4));
    drop(other);
    daemon.until("the second link has ended", |status| status.live.device_links == 1).await;
    say(&mut mobile, offer(5)).await;
    assert_eq!(hear(&mut web).await, from(MOBILE, 5));

    // Whoever takes a code that was left has no part in its links.
    drop(mobile);
    daemon.until("the link has ended", |status| status.live.device_links == 0).await;
    let mut stranger = device(&daemon, MOBILE).await;
    assert_eq!(ask(&mut web, offer(6)).await, missing("target"));
    assert_eq!(ask(&mut stranger, offer(7)).await, missing("target"));
}

#[tokio::test]
async fn a_link_moves_along_with_its_id() {
    let daemon = TestDaemon::start().await;
    let (mut old, token) = device_with_token(&daemon, MOBILE).await;
    let mut web = device(&daemon, WEB).await;
    link((&mut web, WEB), &mut old).await;
    request_pending(&mut web, &mut old).await;
    let mut again = register(MOBILE);
    again["resumeToken"] = json!(token);
    let mut new = daemon.raw().await;
    assert_eq!(ask(&mut new, again).await["type"], "registered");
    assert_eq!(hear(&mut web).await, timeout());
    assert_eq!(ask(&mut new, response(MOBILE, true)).await, nothing_pending());
    say(&mut web, offer(1)).await;
    assert_eq!(hear(&mut new).await, from(WEB, 1));
    say(&mut new, offer(2)).await;
    assert_eq!(hear(&mut web).await, from(MOBILE, 2));
}

#[tokio::test]
async fn of_too_many_links_the_oldest_ends() {
    let daemon = TestDaemon::start().await;
    let mut mobile = device(&daemon, MOBILE).await;
    let mut webs = Vec::new();
    for letter in "ABCDEFGHJKLMNPQRS".chars() {
        let code = format!("WWWWW{letter}");
        let mut web = device(&daemon, &code).await;
        link((&mut web, &code), &mut mobile).await;
        webs.push(web);
    }
    assert_eq!(daemon.status().await.live.device_links, 16);
    assert_eq!(ask(&mut webs[0], offer(1)).await, missing("target"));
    say(&mut webs[1], offer(2)).await;
    assert_eq!(hear(&mut mobile).await["payload"]["number"], 2);
}
