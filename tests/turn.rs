//! Owns the proof of the TURN half of the bootstrap page over HTTP: who offers itself, admission by capacity, and loads
//! that fall to the millisecond.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;

use std::time::Duration;

use daemon::{BEGINNING, HOUR, SECOND, TestDaemon};
use http::Http;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);
const MISSING: &str = "Missing required fields: peerId, turnAddresses, turnPort";
const UNKNOWN: &str = "Peer not found - register peer first";

/// Without a limit on requests, whose bucket time does not fill, and without a backup sweep in between.
async fn start() -> (TestDaemon, Http) {
    http::start_with(|settings| settings.peers.ttl = 2 * HOUR).await
}

async fn peer(http: &Http, id: &str) {
    http.post("/register", json!({"peerId": id, "addresses": ["/ip4/192.0.2.1/tcp/1"]})).await.ok();
}

fn with(id: &str, mut fields: Value) -> Value {
    (fields["peerId"], fields["addresses"]) = (json!(id), json!(["x"]));
    fields
}

fn offer(id: &str, capacity: u32) -> Value {
    json!({"peerId": id, "turnAddresses": [format!("turn:{id}")], "turnPort": 3478, "turnCapacity": capacity})
}

async fn server(http: &Http, id: &str, capacity: u32) -> Value {
    peer(http, id).await;
    http.post("/register-turn-server", offer(id, capacity)).await.ok()
}

/// Each server below its capacity with its load, in the order they are told.
async fn loads(http: &Http) -> Vec<(String, u64)> {
    let listed = http.get("/turn-servers").await.ok();
    let servers = listed["servers"].as_array().unwrap();
    assert_eq!(listed["total"], servers.len());
    let shown = |it: &Value| (it["peerId"].as_str().unwrap().to_owned(), it["turnLoad"].as_u64().unwrap());
    servers.iter().map(shown).collect()
}

fn are(loads: &[(&str, u64)]) -> Vec<(String, u64)> {
    loads.iter().map(|(id, load)| ((*id).to_owned(), *load)).collect()
}

/// A session's id and its server.
async fn allocate(http: &Http) -> (String, String) {
    let answer = http.post("/allocate-turn", json!({"peerId": "nobody"})).await.ok();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&answer["sessionId"]), text(&answer["turnServer"]["peerId"]))
}

async fn release(http: &Http, session: &str) {
    let answer = http.post("/release-turn", json!({"sessionId": session})).await.ok();
    assert_eq!(answer, json!({"success": true}));
}

async fn no_capacity(http: &Http) -> u64 {
    let answer = http.post("/allocate-turn", json!({"peerId": "nobody"})).await;
    answer.refused(429, "No TURN capacity available");
    assert_eq!(answer.body["success"], false);
    let seconds = answer.body["retryAfter"].as_u64().unwrap();
    assert!(seconds > 0);
    assert_eq!(answer.header("retry-after"), seconds.to_string());
    seconds
}

#[tokio::test]
async fn a_peer_that_offers_itself_is_told_with_public_fields_alone() {
    let (_daemon, http) = start().await;
    peer(&http, "a").await;
    let body = json!({"peerId": "a", "turnAddresses": ["turn:a", ""], "turnPort": 65535});
    let answer = http.post("/register-turn-server", body).await.ok();
    assert_eq!(answer, json!({"success": true, "turnServers": 1, "cleanedExpiredPeers": 0}));
    let listed = http.get("/turn-servers").await.ok();
    let shown = json!([{
        "peerId": "a", "turnAddresses": ["turn:a"], "turnPort": 65535, "turnCapacity": 10, "turnLoad": 0,
        "cryptoIPv6": "fd00:a", "networkId": "mainnet"
    }]);
    assert_eq!((&listed["servers"], &listed["total"]), (&shown, &json!(1)));
    assert_eq!(listed["timestamp"], "2027-01-15T08:00:00.000Z");
    assert_eq!(server(&http, "b", 5).await["turnServers"], 2);
    assert_eq!(http.get("/stats").await.ok()["turnServers"], 2);
}

#[tokio::test]
async fn an_offer_that_lacks_or_breaks_a_field_is_refused_and_changes_nothing() {
    let (_daemon, http) = start().await;
    peer(&http, "a").await;
    for (field, value, error) in [
        ("peerId", Value::Null, MISSING),
        ("peerId", json!(""), MISSING),
        ("turnAddresses", Value::Null, MISSING),
        ("turnAddresses", json!([]), MISSING),
        ("turnAddresses", json!([""]), MISSING),
        ("turnPort", Value::Null, MISSING),
        ("peerId", json!(7), "Invalid field: peerId"),
        ("peerId", json!("a b"), "Invalid field: peerId"),
        ("turnAddresses", json!("x".repeat(9)), "Invalid field: turnAddresses"),
        ("turnAddresses", json!([1]), "Invalid field: turnAddresses"),
        ("turnAddresses", json!(["x".repeat(513)]), "Invalid field: turnAddresses"),
        ("turnAddresses", json!(vec!["x"; 65]), "Invalid field: turnAddresses"),
        ("turnPort", json!(0), "Invalid field: turnPort"),
        ("turnPort", json!(65536), "Invalid field: turnPort"),
        ("turnPort", json!(-1), "Invalid field: turnPort"),
        ("turnPort", json!(1.5), "Invalid field: turnPort"),
        ("turnPort", json!("3478"), "Invalid field: turnPort"),
        ("turnCapacity", json!(-1), "Invalid field: turnCapacity"),
        ("turnCapacity", json!("x"), "Invalid field: turnCapacity"),
        ("turnCapacity", json!(1.5), "Invalid field: turnCapacity"),
    ] {
        let mut body = offer("a", 1);
        body[field] = value;
        http.post("/register-turn-server", body).await.refused(400, error);
    }
    assert_eq!(loads(&http).await, are(&[]));
    http.post_raw("/register-turn-server", "").await.refused(400, MISSING);
    for path in ["/register-turn-server", "/unregister-turn-server", "/allocate-turn", "/release-turn"] {
        http.post_raw(path, "{").await.refused(400, "Invalid JSON body");
        http.post_raw(path, vec![b' '; 262_145]).await.refused(413, "Request body too large");
    }
    http.post("/register-turn-server", offer("nobody", 1)).await.refused(404, UNKNOWN);
    http.post("/unregister-turn-server", json!({})).await.refused(400, "Missing required field: peerId");
}

#[tokio::test]
async fn an_offer_counts_as_a_heartbeat_and_an_expired_peer_must_register_first() {
    let (daemon, http) = start().await;
    for id in ["late", "punctual"] {
        peer(&http, id).await;
    }
    daemon.advance(2 * HOUR - MS);
    http.post("/register-turn-server", offer("punctual", 1)).await.ok();
    daemon.advance(MS);
    http.post("/register-turn-server", offer("late", 1)).await.refused(404, UNKNOWN);
    daemon.advance(2 * HOUR - 2 * MS);
    assert_eq!(loads(&http).await, are(&[("punctual", 0)]));
    daemon.advance(MS);
    assert_eq!(loads(&http).await, are(&[]));
    assert_eq!(server(&http, "late", 1).await["turnServers"], 1);
}

#[tokio::test]
async fn sessions_go_to_the_least_loaded_until_no_server_has_room() {
    let (_daemon, http) = start().await;
    no_capacity(&http).await;
    server(&http, "big", 3).await;
    server(&http, "small", 1).await;
    let answer = http.post("/allocate-turn", json!({"peerId": "nobody", "other": [1]})).await.ok();
    assert_eq!(
        answer,
        json!({
            "success": true, "sessionId": answer["sessionId"],
            "turnServer": {"peerId": "big", "turnAddresses": ["turn:big"], "turnPort": 3478},
            "limits": {"maxDurationSeconds": 1800}, "expiresAt": BEGINNING + 1_800_000
        })
    );
    assert_eq!(loads(&http).await, are(&[("small", 0), ("big", 1)]));
    assert_eq!(allocate(&http).await.1, "small");
    assert_eq!(loads(&http).await, are(&[("big", 1)]));
    assert_eq!((allocate(&http).await.1, allocate(&http).await.1), ("big".into(), "big".into()));
    assert_eq!(loads(&http).await, are(&[]));
    assert_eq!(no_capacity(&http).await, 1800);
    server(&http, "small", 2).await;
    assert_eq!(loads(&http).await, are(&[("small", 1)]));
}

#[tokio::test]
async fn a_session_needs_a_caller_and_a_release_a_session() {
    let (_daemon, http) = start().await;
    server(&http, "a", 1).await;
    for body in ["", "{}", "[]", r#"{"peerId":null}"#, r#"{"peerId":""}"#] {
        let answer = http.post_raw("/allocate-turn", body).await;
        answer.refused(400, "Missing required field: peerId");
        assert_eq!(answer.body["success"], false);
    }
    http.post("/allocate-turn", json!({"peerId": 7})).await.refused(400, "Invalid field: peerId");
    for unknown in ["nobody", "not a session", &"x".repeat(500)] {
        let answer = http.post("/release-turn", json!({"sessionId": unknown})).await;
        answer.refused(404, "Session not found");
    }
    http.post("/release-turn", json!({"sessionId": 7})).await.refused(400, "Invalid field: sessionId");
    assert_eq!(http.post("/release-turn", json!({})).await.status, 400);
    assert_eq!(loads(&http).await, are(&[("a", 0)]));
}

#[tokio::test]
async fn a_load_falls_at_the_release_and_exactly_when_the_session_ends() {
    let (daemon, http) = start().await;
    server(&http, "a", 2).await;
    let (released, _) = allocate(&http).await;
    daemon.advance(10 * SECOND);
    let (expiring, _) = allocate(&http).await;
    assert_eq!(loads(&http).await, are(&[]));
    assert_eq!(no_capacity(&http).await, 1790);
    release(&http, &released).await;
    assert_eq!(loads(&http).await, are(&[("a", 1)]));
    http.post("/release-turn", json!({"sessionId": released})).await.refused(404, "Session not found");
    daemon.advance(30 * MINUTE - MS);
    assert_eq!(loads(&http).await, are(&[("a", 1)]));
    daemon.advance(MS);
    assert_eq!(loads(&http).await, are(&[("a", 0)]));
    http.post("/release-turn", json!({"sessionId": expiring})).await.refused(404, "Session not found");
    let (first, second) = (allocate(&http).await, allocate(&http).await);
    assert_ne!(first.0, second.0);
    no_capacity(&http).await;
    daemon.advance(30 * MINUTE);
    allocate(&http).await;
}

#[tokio::test]
async fn sessions_and_offers_survive_a_restart_with_their_remaining_time() {
    let (mut daemon, http) = start().await;
    server(&http, "a", 3).await;
    let ((kept, _), (let_go, _)) = (allocate(&http).await, allocate(&http).await);
    daemon.advance(20 * MINUTE);
    daemon.restart([]).await;
    let http = Http::at(daemon.addresses().public).await;
    assert_eq!(loads(&http).await, are(&[("a", 2)]));
    release(&http, &let_go).await;
    daemon.advance(10 * MINUTE - MS);
    assert_eq!(loads(&http).await, are(&[("a", 1)]));
    daemon.advance(MS);
    assert_eq!(loads(&http).await, are(&[("a", 0)]));
    http.post("/release-turn", json!({"sessionId": kept})).await.refused(404, "Session not found");
}

#[tokio::test]
async fn a_server_that_has_expired_left_or_withdrawn_is_not_allocated() {
    let (daemon, http) = start().await;
    server(&http, "a", 1).await;
    daemon.advance(2 * HOUR - MS);
    release(&http, &allocate(&http).await.0).await;
    daemon.advance(MS);
    no_capacity(&http).await;
    assert_eq!(loads(&http).await, are(&[]));

    server(&http, "b", 1).await;
    let answer = http.post("/unregister-turn-server", json!({"peerId": "b"})).await.ok();
    assert_eq!(answer, json!({"success": true}));
    no_capacity(&http).await;
    let body = json!({"peerId": "c", "addresses": ["x"], "turnCapable": true, "turnAddresses": ["t"], "turnPort": 9});
    let token = http.post("/register", body).await.ok()["registrationToken"].as_str().unwrap().to_owned();
    assert_eq!(loads(&http).await, are(&[("c", 0)]));
    http.delete_as("/peers/c", &token).await.ok();
    no_capacity(&http).await;
}

#[tokio::test]
async fn the_ceiling_of_all_sessions_is_no_capacity() {
    let daemon = TestDaemon::start_with(|settings| settings.turn.max_sessions = 1).await;
    let http = Http::at(daemon.addresses().public).await;
    server(&http, "a", 5).await;
    let (session, _) = allocate(&http).await;
    no_capacity(&http).await;
    release(&http, &session).await;
    allocate(&http).await;
}

#[tokio::test]
async fn turn_data_outlives_a_registration_without_any_and_ends_with_the_peer_or_by_its_withdrawal() {
    let (daemon, http) = start().await;
    let turn = async || http.get("/turn-servers").await.ok()["servers"][0]["turnAddresses"].clone();
    let data = json!({"turnCapable": true, "turnAddresses": ["t"], "turnPort": 5, "turnCapacity": 3});
    http.post("/register", with("a", data.clone())).await.ok();
    for none in
        [json!({}), json!({"turnCapable": false, "turnAddresses": []}), json!({"turnAddresses": null})]
    {
        http.post("/register", with("a", none)).await.ok();
        assert_eq!(turn().await, json!(["t"]));
        assert_eq!(http.get("/peers").await.ok()["peers"][0]["turnCapable"], true);
    }
    http.post("/unregister-turn-server", json!({"peerId": "a"})).await.ok();
    peer(&http, "a").await;
    assert_eq!(turn().await, Value::Null);
    assert_eq!(http.get("/peers").await.ok()["peers"][0]["turnCapable"], false);
    http.post("/register", with("a", data)).await.ok();
    daemon.advance(2 * HOUR);
    peer(&http, "a").await;
    assert_eq!(turn().await, Value::Null);
}
