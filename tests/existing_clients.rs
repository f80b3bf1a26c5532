//! Owns the proof that the clients which ship today connect unmodified (protocol: signalling): message by message what the
//! mobile app, the headless client and the web client send in one sitting, with the shapes that their present server
//! refuses, and what each of them needs to find in what it hears.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use daemon::{RawTcp, TestDaemon, ask, dialect, error, hear, hears_nothing, say};
use devices::{device, key_of, missing, register};
use serde_json::{Value, json};
use waypost::client::RawSocket;

const MOBILE: &str = "MQB7Y2";
const HEADLESS: &str = "HDLS42";
const WEB: &str = "WEBCL3";
const SDP: &str = "v=0\r\no=- 46117 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
const CALL: &str = "7c1f3a52-6f0e-4d6c-8b7e-0d9f2a4c5e61";

fn unknown(kind: &str) -> Value {
    error("unknown_type", &format!("Unknown message type: {kind}"))
}

/// What all three of them send first, without waiting for `server_info`; in between they all ping.
async fn opened(daemon: &TestDaemon, code: &str) -> RawSocket {
    let url = format!("ws://{}/any/path?as=they&like", daemon.addresses().public);
    let mut socket = RawSocket::connect(&url).await.unwrap();
    say(&mut socket, register(code)).await;
    assert_eq!(hear(&mut socket).await["type"], "server_info");
    let registered = hear(&mut socket).await;
    assert_eq!((&registered["type"], &registered["pairingCode"]), (&json!("registered"), &json!(code)));
    assert_eq!(ask(&mut socket, json!({"type": "ping"})).await, json!({"type": "pong"}));
    socket
}

/// The mobile app and the headless client nest a call's fields, the web client does not.
fn nested(kind: &str, target: &str, fields: Value) -> Value {
    json!({"type": kind, "target": target, "payload": fields})
}

fn flat(kind: &str, target: &str, fields: Value) -> Value {
    let mut message = json!({"type": kind, "targetId": target});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    message
}

/// A call's message in both shapes at once, whatever it was sent in.
fn both(kind: &str, from: &str, fields: Value) -> Value {
    let mut message = json!({"type": kind, "from": from, "payload": fields});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    message
}

async fn pair(requester: (&mut RawSocket, &str, Value), responder: (&mut RawSocket, &str)) {
    let (requester, code, request) = requester;
    let (responder, own) = responder;
    let name = request.get("proposedName").cloned();
    say(requester, request).await;
    let incoming = hear(responder).await;
    assert_eq!(incoming["type"], "pair_incoming");
    assert_eq!((&incoming["fromCode"], &incoming["fromPublicKey"]), (&json!(code), &json!(key_of(code))));
    assert_eq!(incoming.get("proposedName").cloned(), name);
    let response = json!({"type": "pair_response", "targetCode": code, "accepted": true});
    let matched = ask(responder, response).await;
    let expected = |peer: &str, first: bool| json!({"type": "pair_matched", "peerCode": peer, "peerPublicKey": key_of(peer), "isInitiator": first});
    assert_eq!(matched, expected(code, false));
    assert_eq!(hear(requester).await, expected(own, true));
}

#[tokio::test]
async fn the_mobile_app_pairs_with_the_web_client_and_calls_it() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (opened(&daemon, MOBILE).await, opened(&daemon, WEB).await);
    let request = json!({"type": "pair_request", "targetCode": WEB, "proposedName": "Nadia's phone"});
    pair((&mut mobile, MOBILE, request), (&mut web, WEB)).await;

    let offer = json!({"type": "offer", "sdp": SDP});
    say(&mut mobile, nested("offer", WEB, offer.clone())).await;
    assert_eq!(hear(&mut web).await, json!({"type": "offer", "from": MOBILE, "payload": offer}));
    let answer = json!({"type": "answer", "sdp": SDP});
    say(&mut web, nested("answer", MOBILE, answer.clone())).await;
    assert_eq!(hear(&mut mobile).await, json!({"type": "answer", "from": WEB, "payload": answer}));
    // Browsers fill in what they do not know with null.
    let candidate = json!({"candidate": "candidate:1 1 udp 2113937151 192.0.2.1 54400 typ host", "sdpMid": "0",
        "sdpMLineIndex": 0, "usernameFragment": null});
    say(&mut web, nested("ice_candidate", MOBILE, candidate.clone())).await;
    let expected = json!({"type": "ice_candidate", "from": WEB, "payload": candidate});
    assert_eq!(hear(&mut mobile).await, expected);

    // The web client reads the top level, the mobile app the payload; what it reads there it casts without looking.
    let offered = json!({"callId": CALL, "sdp": SDP, "withVideo": true});
    say(&mut mobile, nested("call_offer", WEB, offered.clone())).await;
    assert_eq!(hear(&mut web).await, both("call_offer", MOBILE, offered));
    let answered = json!({"callId": CALL, "sdp": SDP});
    say(&mut web, flat("call_answer", MOBILE, answered.clone())).await;
    assert_eq!(hear(&mut mobile).await, both("call_answer", WEB, answered));
    let candidate = json!({"callId": CALL, "candidate": "{\"candidate\":\"candidate:1\",\"sdpMid\":\"0\"}"});
    say(&mut web, flat("call_ice", MOBILE, candidate.clone())).await;
    assert_eq!(hear(&mut mobile).await, both("call_ice", WEB, candidate.clone()));
    say(&mut mobile, nested("call_ice", WEB, candidate.clone())).await;
    assert_eq!(hear(&mut web).await, both("call_ice", MOBILE, candidate));
    let over = json!({"callId": CALL});
    say(&mut web, flat("call_hangup", MOBILE, over.clone())).await;
    assert_eq!(hear(&mut mobile).await, both("call_hangup", WEB, over.clone()));

    // The web client calls back and is refused, with a reason and without: no reason is no field, not null.
    let offered = json!({"callId": CALL, "sdp": SDP, "withVideo": false});
    say(&mut web, flat("call_offer", MOBILE, offered.clone())).await;
    assert_eq!(hear(&mut mobile).await, both("call_offer", WEB, offered));
    for refused in [json!({"callId": CALL, "reason": "declined"}), over] {
        say(&mut mobile, nested("call_reject", WEB, refused.clone())).await;
        assert_eq!(hear(&mut web).await, both("call_reject", MOBILE, refused.clone()));
        say(&mut web, flat("call_reject", MOBILE, refused.clone())).await;
        assert_eq!(hear(&mut mobile).await, both("call_reject", WEB, refused));
    }
}

#[tokio::test]
async fn the_web_client_links_to_the_mobile_app_and_never_says_whom_it_means() {
    let daemon = TestDaemon::start().await;
    let (mut mobile, mut web) = (opened(&daemon, MOBILE).await, opened(&daemon, WEB).await);
    let key = key_of(WEB);
    say(&mut web, json!({"type": "link_request", "linkCode": MOBILE, "publicKey": key, "deviceName": "Firefox on Linux"}))
        .await;
    let asked = hear(&mut mobile).await;
    let expected = json!({"type": "link_request", "linkCode": MOBILE, "publicKey": key,
        "deviceName": "Firefox on Linux", "expiresIn": 120_000});
    assert_eq!(asked, expected);
    let device = "e0b5c7c2-8f55-4a60-94c8-b0e3d0b9c001";
    let response = json!({"type": "link_response", "linkCode": MOBILE, "accepted": true, "deviceId": device});
    let matched = ask(&mut mobile, response).await;
    assert_eq!((&matched["isInitiator"], &matched["peerPublicKey"]), (&json!(false), &json!(key)));
    let matched = hear(&mut web).await;
    assert_eq!((&matched["isInitiator"], &matched["deviceId"]), (&json!(true), &json!(device)));

    // Without a target: their present server refuses all of these.
    let offer = json!({"type": "offer", "sdp": SDP});
    say(&mut web, json!({"type": "offer", "payload": offer})).await;
    assert_eq!(hear(&mut mobile).await, json!({"type": "offer", "from": WEB, "payload": offer}));
    let answer = json!({"type": "answer", "sdp": SDP});
    say(&mut mobile, nested("answer", WEB, answer.clone())).await;
    assert_eq!(hear(&mut web).await, json!({"type": "answer", "from": MOBILE, "payload": answer}));
    let candidate =
        json!({"candidate": "candidate:1", "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "x"});
    say(&mut web, json!({"type": "ice_candidate", "payload": candidate})).await;
    assert_eq!(hear(&mut mobile).await, json!({"type": "ice_candidate", "from": WEB, "payload": candidate}));
    hears_nothing(&mut web).await;
}

#[tokio::test]
async fn the_headless_client_meets_through_a_token_and_says_everything_in_snake_case() {
    let daemon = TestDaemon::start().await;
    let (mut headless, mut mobile) = (opened(&daemon, HEADLESS).await, opened(&daemon, MOBILE).await);
    let (points, tokens) = (json!(["day_1", "day_2", "day_3"]), json!(["hr_1", "hr_2"]));
    let first = json!({"type": "register_rendezvous", "peerId": HEADLESS, "daily_points": points,
        "hourly_tokens": tokens, "dead_drops": {"day_1": "b64:drop"}});
    let nothing = json!({"type": "rendezvous_result", "liveMatches": [], "deadDrops": []});
    assert_eq!(ask(&mut headless, first).await, nothing);
    let second = json!({"type": "register_rendezvous", "peerId": MOBILE, "relayId": "", "dailyPoints": points,
        "hourlyTokens": tokens, "deadDrop": "b64:mine"});
    let result = ask(&mut mobile, second).await;
    let found = |point: &str| json!({"peerId": HEADLESS, "relayId": "", "meetingPoint": point});
    assert_eq!(result["liveMatches"], json!([found("hr_1"), found("hr_2")]));
    assert_eq!(result["deadDrops"][0]["deadDrop"], "b64:drop");
    for token in ["hr_1", "hr_2"] {
        let expected = json!({"peerId": MOBILE, "relayId": "", "meetingPoint": token});
        assert_eq!(hear(&mut headless).await, json!({"type": "rendezvous_match", "match": expected}));
    }
    // It always sends the map, empty where it has none.
    let empty = json!({"type": "register_rendezvous", "peerId": HEADLESS, "daily_points": ["day_3"],
        "hourly_tokens": [], "dead_drops": {}});
    assert_eq!(ask(&mut headless, empty).await["deadDrops"][0]["deadDrop"], "b64:mine");
}

#[tokio::test]
async fn the_headless_client_serves_a_channel_and_sends_more_fields_than_anybody_reads() {
    let daemon = TestDaemon::start().await;
    let (mut owner, mut reader) = (opened(&daemon, HEADLESS).await, opened(&daemon, WEB).await);
    assert_eq!(
        ask(&mut owner, json!({"type": "channel-owner-register", "channelId": "news"})).await,
        unknown("channel-owner-register")
    );
    let subscribed = json!({"type": "channel-subscribed", "channelId": "news"});
    assert_eq!(ask(&mut reader, json!({"type": "channel-subscribe", "channelId": "news"})).await, subscribed);
    let announce = json!({"type": "chunk_announce", "peerId": HEADLESS, "channelId": "news",
        "chunks": [{"chunkId": "ch_1", "routingHash": "9f2c"}]});
    assert_eq!(ask(&mut owner, announce).await, json!({"type": "chunk_announce_ack", "registered": 1}));
    let available = json!({"type": "chunk_available", "channelId": "news", "chunkIds": ["ch_1"]});
    assert_eq!(hear(&mut reader).await, available);
    let request = json!({"type": "chunk_request", "peerId": WEB, "chunkId": "ch_1", "channelId": "news"});
    assert_eq!(ask(&mut reader, request).await, json!({"type": "chunk_pulling", "chunkId": "ch_1"}));
    let pull = json!({"type": "chunk_pull", "chunkId": "ch_1", "channelId": "news"});
    assert_eq!(hear(&mut owner).await, pull);
    let data = json!({"chunk_id": "ch_1", "sequence": 1, "encrypted_payload": "AAEC", "signature": null});
    let push = json!({"type": "chunk_push", "peerId": HEADLESS, "chunkId": "ch_1", "channelId": "news", "data": data});
    let ack = json!({"type": "chunk_push_ack", "chunkId": "ch_1", "cached": true, "servedCount": 1});
    assert_eq!(ask(&mut owner, push).await, ack);
    let arrived = json!({"type": "chunk_data", "chunkId": "ch_1", "channelId": "news", "data": data, "source": "relay"});
    assert_eq!(hear(&mut reader).await, arrived);
}

/// Their present server wants a channelId of everybody, which the mobile app never sends.
#[tokio::test]
async fn the_mobile_app_shares_chunks_without_naming_a_channel() {
    let daemon = TestDaemon::start().await;
    let (mut source, mut reader) = (opened(&daemon, MOBILE).await, device(&daemon, WEB).await);
    let announce = json!({"type": "chunk_announce", "peerId": MOBILE,
        "chunks": [{"chunkId": "ch_7", "routingHash": "aa"}, {"chunkId": "ch_8", "routingHash": "bb"}]});
    assert_eq!(ask(&mut source, announce).await, json!({"type": "chunk_announce_ack", "registered": 2}));
    let request = json!({"type": "chunk_request", "peerId": WEB, "chunkId": "ch_7"});
    assert_eq!(ask(&mut reader, request.clone()).await["type"], "chunk_pulling");
    assert_eq!(hear(&mut source).await, json!({"type": "chunk_pull", "chunkId": "ch_7", "channelId": ""}));
    let push =
        json!({"type": "chunk_push", "peerId": MOBILE, "chunkId": "ch_7", "data": {"chunkId": "ch_7"}});
    assert_eq!(ask(&mut source, push).await["servedCount"], 1);
    for from in ["relay", "cache"] {
        let expected = json!({"type": "chunk_data", "chunkId": "ch_7", "channelId": "",
            "data": {"chunkId": "ch_7"}, "source": from});
        assert_eq!(hear(&mut reader).await, expected);
        say(&mut reader, request.clone()).await;
    }
}

#[tokio::test]
async fn what_is_not_spoken_here_costs_an_answer_and_nothing_else() {
    let daemon = TestDaemon::start().await;
    let mut mobile = opened(&daemon, MOBILE).await;
    for kind in [
        "channel-owner-register",
        "upstream-message",
        "stream-start",
        "stream-frame",
        "stream-end",
        "attest_request",
        "attest_response",
        "chunk_request_meta",
    ] {
        assert_eq!(ask(&mut mobile, json!({"type": kind, "channelId": "news"})).await, unknown(kind));
    }
    // Its relays report under another name.
    let load = json!({"type": "update_load", "sourceId": "a1b2c3d4e5f60718", "connectedCount": 3, "maxCapacity": 20});
    assert_eq!(ask(&mut mobile, load).await, missing("peerId"));
    hears_nothing(&mut mobile).await;
}

/// Some WebSocket libraries send text as binary frames, and none of them waits for anything.
#[tokio::test]
async fn binary_frames_and_impatience_are_understood() {
    let daemon = TestDaemon::start().await;
    let mut web = device(&daemon, WEB).await;
    let mut tcp = RawTcp::open(daemon.addresses().public, "/", "").await;
    let mut offer = nested("offer", WEB, json!({"sdp": SDP}));
    offer["unknown"] = json!({"to": "this version"});
    for message in [register(MOBILE), json!({"type": "pair_request", "targetCode": WEB}), offer] {
        tcp.send(2, message.to_string().as_bytes()).await;
    }
    assert_eq!(hear(&mut web).await["type"], "pair_incoming");
    assert_eq!(hear(&mut web).await["payload"]["sdp"], SDP);
    assert_eq!(tcp.hear().await["type"], "server_info");
    let registered = tcp.hear().await;
    dialect::is_documented(&registered);
    assert_eq!(registered["type"], "registered");
}
