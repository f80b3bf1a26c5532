//! Owns one message of each kind of the signalling dialect, of the sizes that clients really send, and the proof that none
//! is missing. Must not know what is measured with them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use waypost::limits::RendezvousRules;
use waypost::server::asyncapi;
use waypost::wire::signalling::{ServerMessage, decode};

const CALL: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// The length of a peer id, a point or a token in hex.
const NAME: usize = 32;
const DEAD_DROP: usize = 256;
const SDP: usize = 2048;
const CANDIDATE: usize = 128;
const CHUNK: usize = 4096;

/// A message with a name of its own: its `type`, and where there are several, what tells it from the others.
pub struct Sample<T> {
    pub name: String,
    pub message: T,
}

/// What clients say, as it travels.
pub fn from_clients() -> Vec<Sample<String>> {
    let key = format!("{}=", "A".repeat(43));
    let call = |kind: &str, own: Value| {
        let mut payload = json!({"callId": CALL});
        extend(&mut payload, &own);
        let mut flat = json!({"type": kind, "targetId": "AAA222"});
        extend(&mut flat, &payload);
        [("", json!({"type": kind, "target": "AAA222", "payload": payload})), (" (flat)", flat)]
    };
    let mut all = vec![
        ("", json!({"type": "ping"})),
        ("", json!({"type": "heartbeat", "peerId": name('a')})),
        ("", json!({"type": "register", "peerId": name('a'), "maxConnections": 20, "publicKey": key})),
        (" (code)", json!({"type": "register", "pairingCode": "AAA222", "publicKey": key})),
        ("", json!({"type": "update_load", "peerId": name('a'), "connectedCount": 3})),
        ("", json!({"type": "get_relays", "peerId": name('a'), "count": 10})),
        (
            "",
            json!({"type": "register_rendezvous", "peerId": name('a'),
                "dailyPoints": [name('1'), name('2'), name('3')], "hourlyTokens": [name('4')],
                "deadDrop": text(DEAD_DROP)}),
        ),
        (
            " (token)",
            json!({"type": "register_rendezvous", "peerId": name('a'), "hourlyTokens": [name('4')]}),
        ),
        ("", json!({"type": "pair_request", "targetCode": "BBB333", "proposedName": "Alice"})),
        ("", json!({"type": "pair_response", "targetCode": "BBB333", "accepted": true})),
        ("", json!({"type": "offer", "target": "BBB333", "payload": {"sdp": text(SDP)}})),
        ("", json!({"type": "answer", "target": "BBB333", "payload": {"sdp": text(SDP)}})),
        ("", json!({"type": "ice_candidate", "payload": {"candidate": text(CANDIDATE)}})),
        (
            "",
            json!({"type": "link_request", "linkCode": "BBB333", "publicKey": key, "deviceName": "Firefox"}),
        ),
        ("", json!({"type": "link_response", "linkCode": "BBB333", "accepted": true, "deviceId": name('d')})),
        (
            "",
            json!({"type": "chunk_announce", "peerId": name('a'), "channelId": name('c'), "chunks": chunks()}),
        ),
        ("", json!({"type": "chunk_request", "chunkId": name('1'), "channelId": name('c')})),
        (
            "",
            json!({"type": "chunk_push", "chunkId": name('1'), "channelId": name('c'),
                "data": {"encrypted": text(CHUNK)}}),
        ),
        ("", json!({"type": "channel-subscribe", "channelId": name('c')})),
        ("", json!({"type": "channel-unsubscribe", "channelId": name('c')})),
    ];
    all.extend(call("call_offer", json!({"sdp": text(SDP), "withVideo": true})));
    all.extend(call("call_answer", json!({"sdp": text(SDP)})));
    all.extend(call("call_reject", json!({"reason": "busy"})));
    all.extend(call("call_hangup", json!({})));
    all.extend(call("call_ice", json!({"candidate": text(CANDIDATE)})));
    prove_whole("hear", &all);
    let samples = all.into_iter().map(|(which, message)| {
        let name = kind(&message).to_owned() + which;
        let message = message.to_string();
        decode(Some(&message), &RendezvousRules::default())
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        Sample { name, message }
    });
    samples.collect()
}

/// What the server says.
pub fn from_server() -> Vec<Sample<ServerMessage>> {
    let relay = |first| json!({"peerId": name(first), "publicKey": text(44), "capacity": 0.25});
    let relays: Vec<Value> = ('0'..='9').map(relay).collect();
    let meeting = json!({"peerId": name('a'), "relayId": "", "meetingPoint": name('4')});
    let dead_drop = json!({"peerId": name('a'), "deadDrop": text(DEAD_DROP), "relayId": "",
        "meetingPoint": name('1')});
    let forwarded = |kind: &str, payload: Value| json!({"type": kind, "from": "AAA222", "payload": payload});
    let call = |kind: &str, own: Value| {
        let mut payload = json!({"callId": CALL});
        extend(&mut payload, &own);
        let mut message = forwarded(kind, payload.clone());
        extend(&mut message, &payload);
        ("", message)
    };
    let all = vec![
        (
            "",
            json!({"type": "server_info", "serverId": name('s'), "endpoint": "wss://example.org/ws", "region": null}),
        ),
        ("", json!({"type": "pong"})),
        ("", json!({"type": "heartbeat_ack", "timestamp": 1_800_000_000_000_u64})),
        (
            "",
            json!({"type": "registered", "peerId": name('a'), "serverId": name('s'), "relays": relays,
                "resumeToken": text(43)}),
        ),
        (
            " (code)",
            json!({"type": "registered", "pairingCode": "AAA222", "serverId": name('s'), "resumeToken": text(43)}),
        ),
        ("", json!({"type": "load_updated", "peerId": name('a'), "connectedCount": 3})),
        ("", json!({"type": "relays", "relays": relays})),
        (" (empty)", json!({"type": "rendezvous_result", "liveMatches": [], "deadDrops": []})),
        (
            "",
            json!({"type": "rendezvous_result", "liveMatches": [meeting], "deadDrops": [dead_drop],
                "resumeToken": text(43)}),
        ),
        ("", json!({"type": "rendezvous_match", "match": meeting})),
        ("", json!({"type": "code_collision", "message": "Pairing code already in use."})),
        (
            "",
            json!({"type": "pair_incoming", "fromCode": "AAA222", "fromPublicKey": text(44), "expiresIn": 120_000,
                "proposedName": "Alice"}),
        ),
        ("", json!({"type": "pair_error", "error": "Target not connected"})),
        ("", json!({"type": "pair_expiring", "peerCode": "AAA222", "remainingSeconds": 30})),
        ("", json!({"type": "pair_timeout", "peerCode": "AAA222"})),
        ("", json!({"type": "pair_cancelled", "peerCode": "AAA222"})),
        ("", json!({"type": "pair_rejected", "peerCode": "AAA222"})),
        (
            "",
            json!({"type": "pair_matched", "peerCode": "AAA222", "peerPublicKey": text(44), "isInitiator": true}),
        ),
        ("", forwarded("offer", json!({"sdp": text(SDP)}))),
        ("", forwarded("answer", json!({"sdp": text(SDP)}))),
        ("", forwarded("ice_candidate", json!({"candidate": text(CANDIDATE)}))),
        call("call_offer", json!({"sdp": text(SDP), "withVideo": true})),
        call("call_answer", json!({"sdp": text(SDP)})),
        call("call_reject", json!({"reason": "busy"})),
        call("call_hangup", json!({})),
        call("call_ice", json!({"candidate": text(CANDIDATE)})),
        (
            "",
            json!({"type": "link_request", "linkCode": "AAA222", "publicKey": text(44), "deviceName": "Firefox",
                "expiresIn": 120_000}),
        ),
        ("", json!({"type": "link_error", "error": "Device not connected"})),
        ("", json!({"type": "link_timeout", "linkCode": "AAA222"})),
        ("", json!({"type": "link_rejected", "linkCode": "AAA222"})),
        (
            "",
            json!({"type": "link_matched", "linkCode": "AAA222", "peerPublicKey": text(44), "isInitiator": true,
                "deviceId": name('d')}),
        ),
        ("", json!({"type": "chunk_announce_ack", "registered": 10})),
        (
            "",
            json!({"type": "chunk_available", "channelId": name('c'), "chunkIds": ('0'..='9').map(name).collect::<Vec<_>>()}),
        ),
        ("", json!({"type": "chunk_pull", "chunkId": name('1'), "channelId": name('c')})),
        ("", json!({"type": "chunk_pulling", "chunkId": name('1')})),
        (
            "",
            json!({"type": "chunk_data", "chunkId": name('1'), "channelId": name('c'),
                "data": {"encrypted": text(CHUNK)}, "source": "relay"}),
        ),
        ("", json!({"type": "chunk_error", "chunkId": name('1'), "error": "Chunk not available"})),
        ("", json!({"type": "chunk_push_ack", "chunkId": name('1'), "cached": true, "servedCount": 2})),
        ("", json!({"type": "channel-subscribed", "channelId": name('c')})),
        ("", json!({"type": "channel-unsubscribed", "channelId": name('c')})),
        (
            "",
            json!({"type": "error", "message": "Rate limit exceeded. Please slow down.", "code": "rate_limited"}),
        ),
    ];
    prove_whole("say", &all);
    let samples = all.into_iter().map(|(which, message)| {
        let name = kind(&message).to_owned() + which;
        let said = serde_json::from_value(message.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(serde_json::to_value(&said).ok(), Some(message), "the server says it like this");
        Sample { name, message: said }
    });
    samples.collect()
}

/// A name of hex characters, told from others by its first one.
fn name(first: char) -> String {
    first.to_string() + &text(NAME - 1)
}

/// Letters that JSON writes as they are.
fn text(bytes: usize) -> String {
    "0123456789abcdef".chars().cycle().take(bytes).collect()
}

fn chunks() -> Vec<Value> {
    ('0'..='9').map(|first| json!({"chunkId": name(first), "routingHash": name('h')})).collect()
}

fn extend(message: &mut Value, more: &Value) {
    let fields = more.as_object().expect("an object").clone();
    message.as_object_mut().expect("an object").extend(fields);
}

fn kind(message: &Value) -> &str {
    message["type"].as_str().expect("a type")
}

/// Every message of the served document is among these.
fn prove_whole(operation: &str, samples: &[(&str, Value)]) {
    let document = asyncapi::document(&RendezvousRules::default());
    let resolve = |reference: &Value| {
        let pointer =
            reference["$ref"].as_str().and_then(|text| text.strip_prefix('#')).expect("a reference");
        document.pointer(pointer).expect("what is referred to")
    };
    let listed = document["operations"][operation]["messages"].as_array().expect("a list");
    let documented: BTreeSet<&str> =
        listed.iter().map(|listed| resolve(resolve(listed))["name"].as_str().expect("a name")).collect();
    let sampled: BTreeSet<&str> = samples.iter().map(|(_, message)| kind(message)).collect();
    assert_eq!(documented, sampled, "every message has a sample");
}
