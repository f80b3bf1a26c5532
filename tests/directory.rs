//! Owns the proof of the directory page over HTTP: checks to the letter, who may write, signed listings, and that what is
//! stale is gone from answers at once and from the store in one batch.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use daemon::{BEGINNING, SECOND, metric};
use ed25519_dalek::{Signature, VerifyingKey};
use http::{Answer, Http, start, start_with};
use reqwest::Method;
use serde_json::{Value, json};
use waypost::limits::Ownership;

const TTL: Duration = Duration::from_secs(300);
const MS: Duration = Duration::from_millis(1);
const MISSING: &str = "Missing required fields: serverId, endpoint, publicKey";
const UNKNOWN: &str = "Server not registered";
const TOO_LARGE: &str = "Request body too large";

fn server(id: &str, fields: Value) -> Value {
    let mut server = json!({"serverId": id, "endpoint": "wss://relay.example.org", "publicKey": "key"});
    server.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server
}

async fn register(http: &Http, id: &str) -> Value {
    http.post("/servers", server(id, json!({}))).await.ok()
}

async fn heartbeat(http: &Http, id: &str) -> Answer {
    http.post("/servers/heartbeat", json!({"serverId": id})).await
}

fn ids(entries: &Value) -> String {
    let entries = entries.as_array().unwrap();
    entries.iter().map(|entry| entry["serverId"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

async fn listed(http: &Http) -> String {
    ids(&http.get("/servers").await.ok()["servers"])
}

#[tokio::test]
async fn a_registration_is_shown_as_it_was_made_and_overwritten_with_its_first_date() {
    let (daemon, http) = start().await;
    let mut entry = json!({
        "serverId": "a", "endpoint": "wss://relay.example.org", "publicKey": "key", "region": "unknown",
        "registeredAt": BEGINNING, "lastSeen": BEGINNING, "connections": 0, "relayConnections": 0,
        "signalingConnections": 0, "activeCodes": 0
    });
    let answer = register(&http, "a").await;
    assert!(answer["ownerToken"].is_string());
    assert_eq!((&answer["success"], &answer["server"]), (&json!(true), &entry));
    daemon.advance(SECOND);
    let other = json!({"region": "eu-1.a_b", "endpoint": "http://192.0.2.7:80/x?y", "publicKey": "k2",
        "connections": 1, "relayConnections": 2, "signalingConnections": 3, "activeCodes": 4});
    let answer = http.post("/servers", server("a", other.clone())).await.ok();
    entry.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    entry["lastSeen"] = json!(BEGINNING + 1000);
    assert_eq!(answer, json!({"success": true, "server": entry}));
    let list = http.get("/servers").await.ok();
    assert_eq!(list, json!({"servers": [entry], "timestamp": BEGINNING + 1000}));
}

#[tokio::test]
async fn a_heartbeat_changes_the_counters_it_names_and_tells_the_fresh_others() {
    let (daemon, http) = start().await;
    for id in ["stale", "a", "b"] {
        let counters =
            json!({"connections": 1, "relayConnections": 2, "signalingConnections": 3, "activeCodes": 4});
        http.post("/servers", server(id, counters)).await.ok();
        daemon.advance(SECOND);
    }
    daemon.advance(TTL - 3 * SECOND);
    let body = json!({"serverId": "a", "relayConnections": 9, "connections": null});
    let answer = http.post("/servers/heartbeat", body).await.ok();
    assert_eq!((&answer["success"], ids(&answer["peers"])), (&json!(true), "b".to_owned()));
    let answer = heartbeat(&http, "b").await.ok();
    let shown = &answer["peers"][0];
    let now = BEGINNING + 300_000;
    assert_eq!(
        (&shown["serverId"], &shown["lastSeen"], &shown["registeredAt"]),
        (&json!("a"), &json!(now), &json!(BEGINNING + 1000))
    );
    assert_eq!((&shown["connections"], &shown["relayConnections"]), (&json!(1), &json!(9)));
    assert_eq!((&shown["signalingConnections"], &shown["activeCodes"]), (&json!(3), &json!(4)));
    heartbeat(&http, "nobody").await.refused(404, UNKNOWN);
    for body in ["", "{}", "[]", r#"{"serverId":null}"#, r#"{"serverId":""}"#] {
        http.post_raw("/servers/heartbeat", body).await.refused(400, "Missing serverId");
    }
}

#[tokio::test]
async fn what_lacks_or_breaks_a_field_is_refused() {
    let (_daemon, http) = start().await;
    for field in ["serverId", "endpoint", "publicKey"] {
        for value in [Value::Null, json!("")] {
            http.post("/servers", server("a", json!({field: value}))).await.refused(400, MISSING);
        }
    }
    for (field, value, error) in [
        ("serverId", json!("a b"), "Invalid serverId format"),
        ("serverId", json!("a%"), "Invalid serverId format"),
        ("serverId", json!("x".repeat(129)), "Invalid serverId format"),
        ("serverId", json!(7), "Invalid serverId format"),
        ("endpoint", json!("ftp://example.org"), "Invalid endpoint"),
        ("endpoint", json!("relay.example.org"), "Invalid endpoint"),
        ("endpoint", json!("wss://user@example.org"), "Invalid endpoint"),
        ("endpoint", json!("wss://user:word@example.org"), "Invalid endpoint"),
        ("endpoint", json!(format!("wss://example.org/{}", "x".repeat(2031))), "Invalid endpoint"),
        ("publicKey", json!("x".repeat(1025)), "Invalid publicKey"),
        ("publicKey", json!(7), "Invalid publicKey"),
        ("connections", json!(-1), "Invalid field: connections"),
        ("activeCodes", json!("many"), "Invalid field: activeCodes"),
    ] {
        http.post("/servers", server("a", json!({field: value}))).await.refused(400, error);
    }
    http.post_raw("/servers", "{").await.refused(400, "Invalid JSON body");
    http.post_raw("/servers/heartbeat", "{").await.refused(400, "Invalid JSON body");
    for nothing in ["", "[]", "7"] {
        http.post_raw("/servers", nothing).await.refused(400, MISSING);
    }
    assert_eq!(listed(&http).await, "");
    let id = format!("{}_:.+/=-", "x".repeat(121));
    let endpoint = format!("wss://example.org/{}", "x".repeat(2030));
    register(&http, &id).await;
    http.post("/servers", server(&id, json!({"endpoint": endpoint, "publicKey": "k".repeat(1024)})))
        .await
        .ok();
    for (region, shown) in [
        (json!("a".repeat(64)), "a".repeat(64)),
        (json!("a".repeat(65)), "unknown".to_owned()),
        (json!("a b"), "unknown".to_owned()),
        (json!("ü"), "unknown".to_owned()),
        (json!(7), "unknown".to_owned()),
        (json!(""), "unknown".to_owned()),
    ] {
        let answer = http.post("/servers", server("r", json!({"region": region}))).await.ok();
        assert_eq!(answer["server"]["region"], shown);
    }
}

#[tokio::test]
async fn private_endpoints_are_refused_where_the_listener_is_public_unless_allowed() {
    let private = [
        "ws://127.0.0.1",
        "ws://localhost:1",
        "http://10.0.0.1",
        "wss://[::1]",
        "wss://nas.local",
        "ws://127.1",
    ];
    for (listen, allow, taken) in
        [([0, 0, 0, 0], false, false), ([0, 0, 0, 0], true, true), ([127, 0, 0, 1], false, true)]
    {
        let (_daemon, http) = start_with(|settings| {
            settings.server.listen = (listen, 0).into();
            settings.directory.allow_private = allow;
        })
        .await;
        for endpoint in private {
            let answer = http.post("/servers", server("a", json!({"endpoint": endpoint}))).await;
            if taken { drop(answer.ok()) } else { answer.refused(400, "Invalid endpoint") }
        }
        register(&http, "public").await;
    }
}

#[tokio::test]
async fn a_body_of_4096_bytes_is_read_and_one_more_is_not() {
    let (_daemon, http) = start().await;
    for path in ["/servers", "/servers/heartbeat"] {
        let padded = |length: usize| {
            let text = server("a", json!({})).to_string();
            text.clone() + &" ".repeat(length - text.len())
        };
        http.post_raw(path, padded(4096)).await.ok();
        for length in [4097, 300_000, 2_000_000] {
            http.post_raw(path, padded(length)).await.refused(413, TOO_LARGE);
        }
    }
}

#[tokio::test]
async fn a_listing_is_signed_over_its_exact_bytes_by_the_key_of_the_server_id() {
    let (_daemon, http) = start().await;
    let key = http.get("/servers/key").await.ok();
    let raw = STANDARD.decode(key["publicKey"].as_str().unwrap()).unwrap();
    assert_eq!(key, json!({"publicKey": STANDARD.encode(&raw), "algorithm": "ed25519"}));
    let health = http.get("/health?any=thing").await.ok();
    assert_eq!(health["serverId"], format!("ed25519:{}", URL_SAFE_NO_PAD.encode(&raw)));
    let key = VerifyingKey::from_bytes(&raw.try_into().unwrap()).unwrap();
    for id in ["", "a", "b"] {
        if !id.is_empty() {
            register(&http, id).await;
        }
        let answer = http.get("/servers").await;
        let signature = STANDARD.decode(answer.header("x-bootstrap-signature")).unwrap();
        let signature = Signature::from_slice(&signature).unwrap();
        key.verify_strict(&answer.bytes, &signature).unwrap();
        assert!(key.verify_strict(&[&answer.bytes[..], b" "].concat(), &signature).is_err());
    }
}

#[tokio::test]
async fn the_server_tells_who_it_is() {
    let (daemon, http) = start().await;
    daemon.advance(1500 * MS);
    let health = http.get("/health").await.ok();
    let id = health["serverId"].clone();
    let version = env!("CARGO_PKG_VERSION");
    let whole = json!({"status": "healthy", "service": "waypost", "serverId": id, "version": version,
        "uptime": 1.5, "timestamp": "2027-01-15T08:00:01.500Z"});
    assert_eq!(health, whole);
    let root = http.get("/").await;
    let text = String::from_utf8(root.bytes.clone()).unwrap();
    assert!(root.status == 200 && root.header("content-type").starts_with("text/plain"));
    assert!(text.contains("waypost") && text.contains(version), "{text}");
}

#[tokio::test]
async fn an_entry_is_stale_to_the_millisecond_and_revived_by_a_heartbeat() {
    let (daemon, http) = start().await;
    for id in ["a", "b"] {
        register(&http, id).await;
    }
    daemon.advance(TTL - MS);
    assert_eq!(listed(&http).await, "a b");
    daemon.advance(MS);
    let others = heartbeat(&http, "a").await.ok();
    assert_eq!((ids(&others["peers"]), listed(&http).await), (String::new(), "a".to_owned()));
    daemon.until("the stale one is removed", |status| status.leases.server == 1).await;
    heartbeat(&http, "b").await.refused(404, UNKNOWN);
}

#[tokio::test]
async fn the_stale_are_removed_after_a_listing_in_one_batch() {
    let (daemon, http) = start().await;
    http.post_all("/servers", (0..50).map(|n| server(&format!("s{n}"), json!({})))).await;
    daemon.advance(MS);
    register(&http, "fresh").await;
    daemon.advance(TTL - 2 * MS);
    // Past the grace of the restart nothing but requests writes.
    daemon.admin().sweep().await.unwrap();
    let counted =
        async |name: &str| metric(&daemon.admin().metrics().await.unwrap(), &format!("waypost_{name}"));
    let (rows, commits) = ("store_rows_total", "store_commit_seconds_count");
    let before = (counted(rows).await, counted(commits).await);
    assert_eq!(http.get("/servers").await.ok()["servers"].as_array().unwrap().len(), 51);
    assert_eq!((counted(rows).await, counted(commits).await), before);
    daemon.advance(MS);
    assert_eq!(listed(&http).await, "fresh");
    daemon.until_metric("waypost_leases_cleaned_total{kind=\"server\"}", 50.0).await;
    assert_eq!(counted("leases_cleaned_total{kind=\"server\"}").await, 50.0);
    assert_eq!(counted(commits).await, before.1 + 1.0);
    // A record and its index row each.
    assert_eq!(counted(rows).await, before.0 + 100.0);
    assert_eq!((daemon.status().await.leases.server, listed(&http).await), (1, "fresh".to_owned()));
}

#[tokio::test]
async fn a_directory_survives_a_restart_with_its_remaining_time() {
    let (mut daemon, http) = start().await;
    register(&http, "a").await;
    daemon.advance(TTL / 2);
    daemon.restart([]).await;
    let http = Http::at(daemon.addresses().public).await;
    daemon.advance(TTL / 2 - MS);
    assert_eq!(listed(&http).await, "a");
    daemon.advance(MS);
    assert_eq!(listed(&http).await, "");
}

#[tokio::test]
async fn with_a_secret_nothing_is_looked_at_without_it_and_no_tokens_are_given() {
    let (_daemon, http) = start_with(|settings| {
        settings.directory.secret = "sesame".into();
        settings.directory.ownership = Ownership::Strict;
    })
    .await;
    let bodies = [server("a", json!({})).to_string(), "{".into(), "x".repeat(4097), "x".repeat(300_000)];
    for wrong in ["", "Bearer", "Bearer sesam", "Bearer sesamee", "Basic sesame", "sesame"] {
        for path in ["/servers", "/servers/heartbeat"] {
            for body in &bodies {
                let body = Some(body.clone().into_bytes());
                let answer = http.send(Method::POST, path, &[("authorization", wrong)], body).await;
                answer.refused(401, "Unauthorized");
            }
        }
        for path in ["/servers/a", "/servers/%20", "/servers/key"] {
            let answer = http.send(Method::DELETE, path, &[("authorization", wrong)], None).await;
            answer.refused(401, "Unauthorized");
        }
    }
    let secret = [("authorization", "Bearer sesame")];
    for _ in 0..2 {
        let answer = http.post_with("/servers", server("a", json!({})), &secret).await.ok();
        assert_eq!(answer["ownerToken"], Value::Null);
    }
    http.post_with("/servers/heartbeat", json!({"serverId": "a"}), &secret).await.ok();
    assert_eq!(listed(&http).await, "a");
    http.delete_as("/servers/a", "sesame").await.ok();
    assert_eq!(listed(&http).await, "");
}

#[tokio::test]
async fn strict_ownership_needs_the_token_until_the_entry_is_stale() {
    let (daemon, http) = start_with(|settings| settings.directory.ownership = Ownership::Strict).await;
    let token = register(&http, "a").await["ownerToken"].as_str().unwrap().to_owned();
    let overwrite = async |token: &str| {
        let bearer = format!("Bearer {token}");
        http.post_with("/servers", server("a", json!({})), &[("authorization", &bearer)]).await
    };
    http.post("/servers", server("a", json!({}))).await.refused(403, "Forbidden");
    overwrite("wrong").await.refused(403, "Forbidden");
    http.delete("/servers/a").await.refused(403, "Forbidden");
    http.delete_as("/servers/a", "wrong").await.refused(403, "Forbidden");
    heartbeat(&http, "a").await.ok();
    assert_eq!(overwrite(&token).await.ok()["ownerToken"], Value::Null);
    daemon.advance(TTL);
    let fresh = register(&http, "a").await["ownerToken"].as_str().unwrap().to_owned();
    overwrite(&token).await.refused(403, "Forbidden");
    assert_eq!(http.delete_as("/servers/a", &fresh).await.ok(), json!({"success": true}));
    assert_eq!(listed(&http).await, "");
    register(&http, "b").await;
    daemon.advance(TTL);
    http.delete("/servers/b").await.ok();
}

#[tokio::test]
async fn in_the_open_anyone_overwrites_and_removes_whatever_the_name() {
    let (_daemon, http) = start().await;
    let names = [
        ("key", "key"),
        ("heartbeat", "heartbeat"),
        ("a/b", "a%2Fb"),
        ("a:b+c=.d", "a%3Ab%2Bc%3D.d"),
        ("x", "x"),
        ("a/key", "a%2Fkey"),
    ];
    for (id, encoded) in names {
        assert!(register(&http, id).await["ownerToken"].is_string());
        assert_eq!(register(&http, id).await["ownerToken"], Value::Null);
        assert_eq!(listed(&http).await, id);
        // Gone already is as good.
        for _ in 0..2 {
            let answer = http.delete(&format!("/servers/{encoded}")).await.ok();
            assert_eq!((answer, listed(&http).await), (json!({"success": true}), String::new()), "{id}");
        }
    }
    http.delete("/servers/a%20b").await.refused(400, "Invalid serverId format");
    http.delete(&format!("/servers/{}", "x".repeat(129))).await.refused(400, "Invalid serverId format");
}

#[tokio::test]
async fn a_thousand_fresh_entries_fill_the_directory_and_stale_ones_are_not_in_the_way() {
    let (daemon, http) = start().await;
    register(&http, "first").await;
    daemon.advance(SECOND);
    let answers = http.post_all("/servers", (1..1000).map(|n| server(&format!("s{n}"), json!({})))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    http.post("/servers", server("more", json!({}))).await.refused(503, "Server registry full");
    register(&http, "s1").await;
    daemon.advance(TTL - SECOND);
    register(&http, "more").await;
    http.post("/servers", server("first", json!({}))).await.refused(503, "Server registry full");
}
