//! Owns the proof that messages are read and refused to the letter of the protocol (signalling, sections 1, 3 and 4):
//! every text, every code, every limit of size, and the order of answers.

#[path = "common/daemon.rs"]
mod daemon;

use daemon::{BEGINNING, RawTcp, SOON, TestDaemon, ask, error, hear, hears_nothing};
use serde_json::{Value, json};
use waypost::client::RawSocket;
use waypost::limits::RendezvousRules;
use waypost::wire::signalling::decode;

/// The message is refused with exactly this code and text, and costs the socket nothing.
async fn refused(socket: &mut RawSocket, message: Value, (code, text): (&str, &str)) {
    assert_eq!(ask(socket, message.clone()).await, error(code, text), "{message}");
    hears_nothing(socket).await;
}

fn rendezvous(fields: Value) -> Value {
    let mut message = json!({"type": "register_rendezvous", "peerId": "alice"});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    message
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("name-{number}")).collect()
}

#[tokio::test]
async fn the_server_introduces_itself_at_once() {
    let daemon = TestDaemon::start_with(|settings| settings.server.region = "eu".into()).await;
    let url = format!("ws://{}", daemon.addresses().public);
    let mut socket = RawSocket::connect(&url).await.unwrap();
    let info = hear(&mut socket).await;
    assert_eq!((&info["type"], &info["region"]), (&json!("server_info"), &json!("eu")));
    assert_eq!(info["endpoint"], url);
    let id = info["serverId"].as_str().unwrap().strip_prefix("ed25519:").unwrap();
    assert!(id.len() == 43 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));

    let daemon = TestDaemon::start().await;
    let url = format!("ws://{}/any/path", daemon.addresses().public);
    let mut socket = RawSocket::connect(&url).await.unwrap();
    let info = socket.next_text(SOON).await.unwrap();
    assert!(info.contains(r#""region":null"#), "{info}");
}

#[tokio::test]
async fn what_is_no_message_is_refused_to_the_letter() {
    let daemon = TestDaemon::start().await;
    let [mut socket, mut other] = daemon.raws().await;
    let not_json = error("invalid_json", "Invalid message format: JSON parse error");
    let not_object = error("not_an_object", "Invalid message: Message must be a JSON object");
    let no_type = error("missing_type", "Invalid message: Missing or invalid \"type\" field");
    let deep = "[".repeat(10_000);
    let cases = [
        (vec!["", "not json", "{", "{\"type\":\"ping\"} x", "{'type':'ping'}", &deep], not_json.clone()),
        (vec!["[]", "[{\"type\":\"ping\"}]", "\"ping\"", "7", "null", "true"], not_object),
        (vec!["{}", "{\"Type\":\"ping\"}", "{\"type\":7}", "{\"type\":null}"], no_type),
    ];
    for (texts, expected) in cases {
        for text in texts {
            socket.send_text(text).await.unwrap();
            assert_eq!(hear(&mut socket).await, expected, "{text:.60}");
            hears_nothing(&mut socket).await;
        }
    }
    socket.send_binary([0xff, 0xfe]).await.unwrap();
    assert_eq!(hear(&mut socket).await, not_json);
    hears_nothing(&mut socket).await;
    hears_nothing(&mut other).await;
}

#[tokio::test]
async fn an_unknown_type_is_named_and_cut_to_64_characters() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    let crabs = "🦀".repeat(65);
    for (kind, named) in [("nope", "nope"), ("", ""), ("PING", "PING"), (&crabs, &"🦀".repeat(64))] {
        let text = format!("Unknown message type: {named}");
        refused(&mut socket, json!({"type": kind}), ("unknown_type", &text)).await;
    }
}

#[tokio::test]
async fn every_refusal_of_the_relay_registry_is_to_the_letter() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    const MISSING: (&str, &str) = ("missing_field", "Missing required field: peerId");
    const INVALID: (&str, &str) =
        ("invalid_peer_id", "Invalid peerId: must be 1-128 alphanumeric characters, hyphens, or underscores");
    const MAX: (&str, &str) =
        ("invalid_max_connections", "maxConnections must be a finite number between 1 and 1000");
    const COUNT: (&str, &str) = ("invalid_connected_count", "Invalid connectedCount");
    let mut cases = Vec::new();
    for kind in ["register", "update_load", "register_rendezvous"] {
        for id in [Value::Null, json!("")] {
            cases.push((json!({"type": kind, "peerId": id}), MISSING));
        }
        for id in [json!("a b"), json!("ä"), json!("x".repeat(129)), json!(7), json!(["a"])] {
            cases.push((json!({"type": kind, "peerId": id}), INVALID));
        }
    }
    cases.push((json!({"type": "register"}), MISSING));
    for most in [json!(0), json!(0.99), json!(1000.1), json!(-5), json!("20"), json!(true), json!([20])] {
        cases.push((json!({"type": "register", "peerId": "a", "maxConnections": most}), MAX));
    }
    for count in [Value::Null, json!(-1), json!(10_000.5), json!("3"), json!({})] {
        cases.push((json!({"type": "update_load", "peerId": "a", "connectedCount": count}), COUNT));
    }
    cases.extend([
        (json!({"type": "update_load", "peerId": "a"}), COUNT),
        // The first fault in the order of the protocol is the one that is told.
        (json!({"type": "register", "peerId": "", "maxConnections": 0, "publicKey": 7}), MISSING),
        (json!({"type": "register", "peerId": "a", "maxConnections": 0, "publicKey": 7}), MAX),
        (
            json!({"type": "register", "peerId": "a", "publicKey": "k".repeat(1025)}),
            ("invalid_public_key", "Invalid public key format"),
        ),
        (
            json!({"type": "update_load", "peerId": "bob", "connectedCount": 1}),
            ("not_registered", "Not registered: bob"),
        ),
    ]);
    for (message, refusal) in cases {
        refused(&mut socket, message, refusal).await;
    }
    assert_eq!(ask(&mut socket, json!({"type": "register", "peerId": "alice"})).await["type"], "registered");
    let other = "Cannot re-register with a different peerId";
    for (kind, refusal) in [
        ("register", ("already_registered", other)),
        ("update_load", ("not_registered", "Not registered: bob")),
        ("register_rendezvous", ("peer_mismatch", "peerId mismatch with registered identity")),
    ] {
        let message = json!({"type": kind, "peerId": "bob", "connectedCount": 1});
        refused(&mut socket, message, refusal).await;
    }
}

#[tokio::test]
async fn every_refusal_of_a_rendezvous_is_to_the_letter() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    let long = "x".repeat(129);
    const POINTS: (&str, &str) = ("invalid_points", "Invalid daily points format");
    const TOKENS: (&str, &str) = ("invalid_tokens", "Invalid hourly tokens format");
    const KEY: (&str, &str) = ("invalid_dead_drop_key", "Invalid dead drop key");
    const LARGE: (&str, &str) = ("payload_too_large", "Dead drop payload too large (max 4KB)");
    let mut cases = vec![
        (json!({"dailyPoints": names(51)}), ("too_many_points", "Too many daily points (max 50)")),
        (json!({"daily_points": vec!["same"; 51]}), ("too_many_points", "Too many daily points (max 50)")),
        (json!({"hourlyTokens": names(51)}), ("too_many_tokens", "Too many hourly tokens (max 50)")),
        (
            json!({"deadDrops": names(51).into_iter().map(|name| (name, json!("x"))).collect::<Value>()}),
            ("too_many_dead_drops", "Too many dead drops"),
        ),
        (json!({"deadDrop": "x".repeat(4097)}), LARGE),
        (json!({"deadDrop": "ä".repeat(2049)}), LARGE),
        (json!({"dead_drops": {"p": "x".repeat(4097)}}), LARGE),
        (json!({"deadDrops": {"": "x"}}), KEY),
        (json!({"deadDrops": {&long: "x"}}), KEY),
        // The first fault in the order of the protocol is the one that is told.
        (json!({"dailyPoints": "p", "hourlyTokens": "t", "deadDrops": {"": "x"}}), POINTS),
        (json!({"hourlyTokens": "t", "deadDrops": {"": "x"}, "deadDrop": "x".repeat(4097)}), TOKENS),
    ];
    for bad in [json!("p"), json!({}), json!([7]), json!(["p", null]), json!([""]), json!(["ok", &long])] {
        cases.push((json!({"dailyPoints": bad}), POINTS));
        cases.push((json!({"hourlyTokens": bad}), TOKENS));
    }
    for (fields, refusal) in cases {
        refused(&mut socket, rendezvous(fields), refusal).await;
    }
    // Nothing of all that took the id or left anything behind.
    let status = daemon.status().await;
    assert_eq!((status.connections.ids, status.leases.registration, status.store.rows), (0, 0, 0));
}

#[tokio::test]
async fn a_field_of_the_wrong_kind_is_named() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    for (kind, field, value, expected) in [
        ("register", "publicKey", json!(7), "a string"),
        ("register", "resumeToken", json!(7), "a string"),
        ("get_relays", "count", json!("ten"), "a number"),
        ("get_relays", "peerId", json!(7), "a string"),
        ("heartbeat", "peerId", json!([]), "a string"),
        ("register_rendezvous", "relayId", json!(7), "a string"),
        ("register_rendezvous", "deadDrop", json!({}), "a string"),
        ("register_rendezvous", "deadDrops", json!(["x"]), "an object"),
    ] {
        let mut message = json!({"type": kind, "peerId": "a"});
        message[field] = value;
        let text = format!("Invalid message: {kind}: {field} must be {expected}");
        refused(&mut socket, message, ("invalid_field", &text)).await;
    }
}

#[tokio::test]
async fn a_rendezvous_at_its_limits_passes() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    let mut points = names(50);
    points[49] = "🦀".repeat(128);
    let drops: Value = points.iter().map(|point| (point.clone(), json!("ä".repeat(2048)))).collect();
    let message = rendezvous(json!({
        "relayId": "🦀".repeat(128), "dailyPoints": points, "hourlyTokens": points, "deadDrops": drops
    }));
    assert_eq!(ask(&mut socket, message).await["type"], "rendezvous_result");
    let leases = daemon.status().await.leases;
    assert_eq!((leases.points, leases.tokens, leases.dead_drop_bytes), (50, 50, 50 * 4096));
}

#[tokio::test]
async fn a_full_point_and_a_used_up_quota_refuse_the_whole_message_and_take_no_id() {
    let daemon = TestDaemon::start_with(|settings| {
        settings.connections.max_connections_per_address = 100;
        settings.rendezvous.max_points_per_peer = 3;
        settings.rendezvous.max_tokens_per_peer = 2;
    })
    .await;
    let mut sockets = Vec::new();
    for number in 0..64 {
        let mut socket = daemon.raw().await;
        let message = json!({"type": "register_rendezvous", "peerId": format!("peer-{number}"),
            "dailyPoints": ["point"], "hourlyTokens": ["token"]});
        assert_eq!(ask(&mut socket, message).await["type"], "rendezvous_result");
        sockets.push(socket);
    }
    let full = ("point_full", "Meeting point is full");
    let quota = ("peer_quota", "Too many points for this peer");
    let mut socket = daemon.raw().await;
    for (fields, refusal) in [
        (json!({"dailyPoints": ["free", "point"]}), full),
        (json!({"hourlyTokens": ["free", "token"]}), full),
        (json!({"dailyPoints": names(4)}), quota),
        (json!({"hourlyTokens": names(3)}), quota),
    ] {
        refused(&mut socket, rendezvous(fields), refusal).await;
    }
    let leases = daemon.status().await.leases;
    assert_eq!((leases.registration, leases.points, leases.tokens), (64, 64, 64));
    // Whoever stands there already may come again, and what it replaces is not counted against it.
    let again =
        json!({"type": "register_rendezvous", "peerId": "peer-0", "dailyPoints": ["point", "a", "b"]});
    let first = &mut sockets[0];
    first.send_json(&again).await.unwrap();
    while hear(first).await["type"] != "rendezvous_result" {}
    refused(first, json!({"type": "register_rendezvous", "peerId": "peer-0", "dailyPoints": ["c"]}), quota)
        .await;
    // The refused one holds no id yet.
    let other = json!({"type": "register", "peerId": "other"});
    assert_eq!(ask(&mut socket, other).await["type"], "registered");
}

#[tokio::test]
async fn unknown_fields_are_ignored_null_is_absent_and_camel_case_wins_even_empty() {
    let daemon = TestDaemon::start().await;
    let [mut alice, mut bob] = daemon.raws().await;
    let binary = br#"{"type":"ping","x":[{}],"peerId":7}"#;
    alice.send_binary(binary.to_vec()).await.unwrap();
    assert_eq!(hear(&mut alice).await, json!({"type": "pong"}));
    let register = json!({"type": "register", "peerId": "alice", "maxConnections": null, "publicKey": null,
        "resumeToken": null, "nonsense": {"deep": [1]}});
    assert_eq!(ask(&mut alice, register).await["type"], "registered");
    let snake = rendezvous(json!({"dailyPoints": null, "daily_points": ["p"], "dead_drops": {"p": "hello"},
        "deadDrops": null, "hourly_tokens": ["t"], "deadDrop": null}));
    assert_eq!(ask(&mut alice, snake).await["type"], "rendezvous_result");

    let bobs = |fields: Value| {
        let mut message = rendezvous(fields);
        message["peerId"] = json!("bob");
        message
    };
    let camel =
        bobs(json!({"dailyPoints": [], "daily_points": ["p"], "hourlyTokens": [], "hourly_tokens": ["t"]}));
    let result = ask(&mut bob, camel).await;
    assert_eq!((&result["liveMatches"], &result["deadDrops"]), (&json!([]), &json!([])));
    let result = ask(&mut bob, bobs(json!({"daily_points": ["p"]}))).await;
    assert_eq!(result["deadDrops"][0]["deadDrop"], "hello");
    // An empty camelCase map hides the snake_case one, and so the payload for all counts.
    let carol = json!({"type": "register_rendezvous", "peerId": "bob", "dailyPoints": ["q"], "deadDrops": {},
        "dead_drops": {"q": "snake"}, "deadDrop": "for all"});
    ask(&mut bob, carol).await;
    let result = ask(&mut alice, rendezvous(json!({"dailyPoints": ["q"]}))).await;
    assert_eq!(result["deadDrops"][0]["deadDrop"], "for all");
}

#[tokio::test]
async fn numbers_travel_without_a_needless_decimal_point() {
    let daemon = TestDaemon::start().await;
    let (mut relay, _) = daemon.registered("relay").await;
    let mut stranger = daemon.raw().await;
    // 20.9 is floored to 20.
    ask(&mut relay, json!({"type": "register", "peerId": "relay", "maxConnections": 20.9})).await;
    for (count, told, capacity) in [("0", "0", "0"), ("5.0", "5", "0.25"), ("2.5", "2.5", "0.125")] {
        let update = format!(r#"{{"type":"update_load","peerId":"relay","connectedCount":{count}}}"#);
        relay.send_text(update).await.unwrap();
        let answer = relay.next_text(SOON).await.unwrap();
        assert_eq!(answer, format!(r#"{{"type":"load_updated","peerId":"relay","connectedCount":{told}}}"#));
        stranger.send_text(r#"{"type":"get_relays"}"#).await.unwrap();
        let relays = format!(r#"{{"peerId":"relay","publicKey":null,"capacity":{capacity}}}"#);
        let expected = format!(r#"{{"type":"relays","relays":[{relays}]}}"#);
        assert_eq!(stranger.next_text(SOON).await.unwrap(), expected);
    }
    let heartbeat = ask(&mut relay, json!({"type": "heartbeat", "peerId": "relay"})).await;
    assert_eq!(heartbeat, json!({"type": "heartbeat_ack", "timestamp": BEGINNING}));
}

#[tokio::test]
async fn the_largest_message_passes_and_one_byte_more_is_told_to_its_sender() {
    let daemon = TestDaemon::start().await;
    let mut bystander = daemon.raw().await;
    let ping = |bytes: usize| {
        let frame = r#"{"type":"ping","pad":""}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
    };
    let mut socket = daemon.raw().await;
    socket.send_text(ping(262_144)).await.unwrap();
    assert_eq!(hear(&mut socket).await, json!({"type": "pong"}));
    for too_large in [262_145, 5 << 20] {
        let mut socket = daemon.raw().await;
        socket.send_text(ping(too_large)).await.unwrap();
        assert_eq!(socket.closed(SOON).await.unwrap().0, 1009, "{too_large} bytes");
    }
    hears_nothing(&mut bystander).await;
}

#[tokio::test]
async fn a_text_frame_that_is_not_utf8_closes_1007() {
    let daemon = TestDaemon::start().await;
    let mut socket = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    socket.hear().await;
    socket.send_json(json!({"type": "ping"})).await;
    assert_eq!(socket.hear().await, json!({"type": "pong"}));
    socket.send(1, b"{\"type\":\"ping\xff\"}").await;
    assert_eq!(socket.closed().await.0, 1007);
}

#[tokio::test]
async fn answers_leave_in_the_order_of_the_requests() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    for round in 0..20 {
        let slow = rendezvous(json!({"dailyPoints": [format!("p{round}")], "deadDrop": "x"}));
        for message in [
            slow,
            json!({"type": "ping"}),
            json!({"type": "get_relays"}),
            json!({"type": "nope"}),
            json!({"type": "heartbeat"}),
        ] {
            socket.send_json(&message).await.unwrap();
        }
        for expected in ["rendezvous_result", "pong", "relays", "error", "heartbeat_ack"] {
            assert_eq!(hear(&mut socket).await["type"], expected, "round {round}");
        }
    }
}

#[test]
fn decoding_survives_every_flipped_bit_and_every_cut() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let valid = [
        json!({"type": "ping"}),
        json!({"type": "heartbeat", "peerId": "alice"}),
        json!({"type": "register", "peerId": "a", "maxConnections": 20, "publicKey": "k", "resumeToken": "t"}),
        json!({"type": "register", "pairingCode": "ABC234", "publicKey": key}),
        json!({"type": "update_load", "peerId": "a", "connectedCount": 1.5}),
        json!({"type": "get_relays", "peerId": "a", "count": 1e3}),
        rendezvous(json!({"relayId": "r", "dailyPoints": ["p", "ü"], "hourly_tokens": ["t"],
            "dead_drops": {"p": "\u{0}\"x"}, "deadDrop": "y"})),
    ];
    let rules = RendezvousRules::default();
    let (mut good, mut refused) = (0, 0);
    let mut count = |bytes: &[u8]| {
        let decoded = decode(std::str::from_utf8(bytes).ok(), &rules);
        if decoded.is_ok() { good += 1 } else { refused += 1 }
    };
    for message in &valid {
        let bytes = message.to_string().into_bytes();
        assert!(decode(std::str::from_utf8(&bytes).ok(), &rules).is_ok(), "{message}");
        for at in 0..bytes.len() {
            count(&bytes[..at]);
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                count(&flipped);
            }
        }
    }
    for deep in ["[", "{\"type\":", "{\"a\":[", "{\"type\":\"ping\",\"x\":["] {
        count(deep.repeat(10_000).as_bytes());
    }
    for number in ["1e999", "-1e999", "1e-999", &"9".repeat(400)] {
        count(format!(r#"{{"type":"register","peerId":"a","maxConnections":{number}}}"#).as_bytes());
    }
    assert!(good > 100 && refused > 1000, "{good} and {refused}");
}
