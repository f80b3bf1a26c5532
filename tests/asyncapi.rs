//! Owns the proof of the document of the WebSocket dialect: it is served, whole, and says of any message what the decoder
//! says of it. That whatever the server says stands in it, and whatever it takes, is looked at wherever tests hear and ask.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;

use std::collections::BTreeSet;

use daemon::dialect::{DOCUMENT, is_documented, may_be_heard, may_be_said, resolve};
use http::Http;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use waypost::limits::RendezvousRules;
use waypost::wire::signalling::{ClientMessage, decode};

const CALL: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// One good message for each that a client may send, with every field that it may have.
fn templates() -> Vec<Value> {
    let key = format!("{}=", "A".repeat(43));
    let call = |kind: &str, own: Value| {
        let mut payload = json!({"callId": CALL});
        payload.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let nested = json!({"type": kind, "target": "AAA222", "payload": payload});
        let mut flat = json!({"type": kind, "targetId": "AAA222"});
        flat.as_object_mut().unwrap().extend(payload.as_object().unwrap().clone());
        [nested, flat]
    };
    let mut all = vec![
        json!({"type": "ping"}),
        json!({"type": "heartbeat", "peerId": "alice"}),
        json!({"type": "register", "peerId": "alice", "maxConnections": 20, "publicKey": "k", "resumeToken": "t"}),
        json!({"type": "register", "pairingCode": "AAA222", "publicKey": key, "resumeToken": "t"}),
        json!({"type": "update_load", "peerId": "alice", "connectedCount": 3}),
        json!({"type": "get_relays", "peerId": "alice", "count": 5}),
        json!({"type": "register_rendezvous", "peerId": "alice", "relayId": "r", "dailyPoints": ["p", "q"],
            "hourlyTokens": ["t"], "deadDrops": {"p": "x"}, "deadDrop": "", "resumeToken": "t"}),
        json!({"type": "register_rendezvous", "peerId": "alice", "daily_points": ["p"], "hourly_tokens": ["t"],
            "dead_drops": {"p": null}}),
        json!({"type": "pair_request", "targetCode": "BBB333", "proposedName": "Alice"}),
        json!({"type": "pair_response", "targetCode": "BBB333", "accepted": true}),
        json!({"type": "offer", "target": "BBB333", "payload": {"sdp": "v=0"}}),
        json!({"type": "answer", "target": "BBB333", "payload": {}}),
        json!({"type": "ice_candidate", "payload": {"candidate": "c"}}),
        json!({"type": "link_request", "linkCode": "BBB333", "publicKey": "k", "deviceName": "Firefox"}),
        json!({"type": "link_response", "linkCode": "BBB333", "accepted": false, "deviceId": "d"}),
        json!({"type": "chunk_announce", "peerId": "alice", "channelId": "c", "resumeToken": "t",
            "chunks": [{"chunkId": "1", "routingHash": "h"}, {"chunkId": "2"}]}),
        json!({"type": "chunk_request", "chunkId": "1", "channelId": "c"}),
        json!({"type": "chunk_push", "chunkId": "1", "channelId": "c", "data": {"x": [1, null]}}),
        json!({"type": "channel-subscribe", "channelId": "c"}),
        json!({"type": "channel-unsubscribe", "channelId": "c"}),
    ];
    all.extend(call("call_offer", json!({"sdp": "v=0", "withVideo": true})));
    all.extend(call("call_answer", json!({"sdp": "v=0"})));
    all.extend(call("call_reject", json!({"reason": "busy"})));
    all.extend(call("call_hangup", json!({})));
    all.extend(call("call_ice", json!({"candidate": "c"})));
    all
}

/// What a decoder makes of a message, whoever sends it.
fn is_taken(message: &Value) -> bool {
    match decode(Some(&message.to_string()), &RendezvousRules::default()) {
        Ok(ClientMessage::PairRequest(it)) => it.is_ok(),
        Ok(ClientMessage::PairResponse(it)) => it.is_ok(),
        Ok(ClientMessage::LinkRequest(it)) => it.is_ok(),
        Ok(ClientMessage::LinkResponse(it)) => it.is_ok(),
        Ok(ClientMessage::Forward(_, it)) => it.is_ok_and(|forward| forward.payload.is_ok()),
        Ok(_) => true,
        Err(_) => false,
    }
}

/// All places in a message, as paths.
fn places(value: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, child)| (name.clone(), child)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect()
        }
        _ => Vec::new(),
    };
    for (name, child) in children {
        at.push(name);
        found.push(at.clone());
        places(child, at, found);
        at.pop();
    }
}

fn parent<'a>(message: &'a mut Value, path: &[String]) -> &'a mut Value {
    path[..path.len() - 1].iter().fold(message, |value, name| match value {
        Value::Array(list) => &mut list[name.parse::<usize>().unwrap()],
        value => &mut value[name],
    })
}

fn replacements() -> Vec<Value> {
    let long = |count: usize| "x".repeat(count);
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1000),
        json!(1001),
        json!(10_001),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("AAA222"),
        json!("aaa222"),
        json!("ABCO23"),
        json!("with space"),
        json!(CALL),
        json!(CALL.to_uppercase()),
        json!("0f8fad5b-d9cb-169f-a165-70867728950e"),
        json!("\u{e9}".repeat(128)),
        json!(long(128)),
        json!(long(129)),
        json!(long(256)),
        json!(long(257)),
        json!(long(1024)),
        json!(long(1025)),
        json!(long(4096)),
        json!(long(4097)),
        json!(long(65_536)),
        json!(long(65_537)),
        json!(format!("{}B", "A".repeat(42))),
        json!(format!("{}E", "A".repeat(42))),
        json!([]),
        json!(["p"]),
        json!(vec!["p"; 50]),
        json!(vec!["p"; 51]),
        json!([{"chunkId": "1"}]),
        json!(vec![json!({"chunkId": "1"}); 101]),
        json!({}),
        json!({"p": "x"}),
        json!({"p": 7}),
        json!({"": "x"}),
        Value::Object((0..51).map(|number| (number.to_string(), json!("x"))).collect::<Map<_, _>>()),
    ]
}

/// A change of one place: it is taken out, or replaced, or something is put beside it.
#[derive(Clone, Debug)]
enum Change {
    Remove,
    Replace(Value),
    Rename(&'static str),
}

fn change() -> impl Strategy<Value = Change> {
    let names = vec!["target", "targetId", "peerId", "pairingCode", "payload", "daily_points", "other"];
    prop_oneof![
        Just(Change::Remove),
        select(replacements()).prop_map(Change::Replace),
        select(names).prop_map(Change::Rename),
    ]
}

fn changed() -> impl Strategy<Value = Value> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change()), 0..3);
    (select(templates()), changes).prop_map(|(mut message, changes)| {
        for (at, change) in changes {
            let mut found = Vec::new();
            places(&message, &mut Vec::new(), &mut found);
            if found.is_empty() {
                continue;
            }
            let path = at.get(&found).clone();
            let name = path.last().unwrap();
            match (parent(&mut message, &path), change) {
                (Value::Object(fields), Change::Remove) => drop(fields.remove(name)),
                (Value::Object(fields), Change::Replace(value)) => drop(fields.insert(name.clone(), value)),
                (Value::Object(fields), Change::Rename(to)) => {
                    if let Some(value) = fields.remove(name) {
                        fields.insert(to.to_owned(), value);
                    }
                }
                (Value::Array(list), Change::Remove) => drop(list.remove(name.parse().unwrap())),
                (Value::Array(list), Change::Replace(value)) => list[name.parse::<usize>().unwrap()] = value,
                _ => {}
            }
        }
        message
    })
}

/// Ceilings that the protocol counts in bytes the document can only give in characters, and of two spellings it cannot say
/// that only one is looked at.
fn is_beyond_schema(message: &Value) -> bool {
    let both =
        [("dailyPoints", "daily_points"), ("hourlyTokens", "hourly_tokens"), ("deadDrops", "dead_drops")];
    let has = |name: &str| message.get(name).is_some_and(|value| !value.is_null());
    let data = &message["data"];
    both.iter().any(|(camel, snake)| has(camel) && has(snake))
        || (has("target") && has("targetId"))
        || data.to_string().len() > 65_536
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(20_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_document_and_the_decoder_agree_on_every_message(message in changed()) {
        if is_beyond_schema(&message) {
            return Ok(());
        }
        prop_assert_eq!(may_be_said(&message), is_taken(&message), "{}", message);
    }
}

#[test]
fn every_message_has_a_template_that_both_take() {
    let templates = templates();
    for message in &templates {
        assert!(is_taken(message), "{message}");
        assert!(may_be_said(message), "{message}");
        assert!(!may_be_said(&json!({"type": "unknown"})));
    }
    let kinds: BTreeSet<&str> = templates.iter().map(|message| message["type"].as_str().unwrap()).collect();
    let listed = DOCUMENT["operations"]["hear"]["messages"].as_array().unwrap();
    let documented: BTreeSet<&str> = listed
        .iter()
        .map(|listed| resolve(&DOCUMENT, resolve(&DOCUMENT, listed))["name"].as_str().unwrap())
        .collect();
    assert_eq!(documented, kinds);
}

#[test]
fn what_the_server_never_says_is_not_documented() {
    is_documented(&json!({"type": "pong"}));
    is_documented(
        &json!({"type": "call_ice", "from": "AAA222", "payload": {"callId": CALL}, "callId": CALL}),
    );
    for wrong in [
        json!({"type": "ping"}),
        json!({"type": "pair_timeout"}),
        json!({"type": "pair_timeout", "peerCode": 7}),
        json!({"type": "chunk_data", "chunkId": "1", "channelId": "", "data": "", "source": "disk"}),
        json!({"type": "error", "message": "no code"}),
    ] {
        assert!(!may_be_heard(&wrong), "{wrong}");
    }
}

#[tokio::test]
async fn the_document_is_served_with_the_limits_of_the_daemon_and_nothing_in_it_dangles() {
    let daemon = daemon::TestDaemon::start_with(|settings| settings.rendezvous.max_points = 7).await;
    let http = Http::at(daemon.addresses().public).await;
    let served = http.get("/asyncapi.json").await.ok();
    assert_eq!(served["asyncapi"], "3.0.0");
    let of_rendezvous = &served["components"]["messages"]["client.register_rendezvous"]["payload"];
    assert_eq!(of_rendezvous["properties"]["dailyPoints"]["maxItems"], 7);

    let mut open = vec![&served];
    let mut seen = 0;
    while let Some(value) = open.pop() {
        if let Some(reference) = value.get("$ref") {
            resolve(&served, &json!({"$ref": reference}));
            seen += 1;
        }
        match value {
            Value::Object(fields) => open.extend(fields.values()),
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    assert!(seen > 100, "{seen}");
}
