//! Owns the proof of what all HTTP routes share: the document that describes them, bodies, CORS, request ids, the limit on
//! requests, whose a peer is, and how many there may be.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;

use std::collections::BTreeSet;
use std::time::Duration;

use daemon::{SECOND, TestDaemon};
use http::{Http, XFF, peer, register};
use reqwest::Method;
use serde_json::{Value, json};
use waypost::config::Settings;
use waypost::limits::Ownership;

const TTL: Duration = Duration::from_secs(600);
const ELSEWHERE: &str = "Peer ID is registered elsewhere";
const UNKNOWN: &str = "Peer not found - please register first";

/// Behind a proxy, without a limit on requests, whose bucket time does not fill, and without a backup sweep in between.
async fn start_with(adjust: impl FnOnce(&mut Settings)) -> (TestDaemon, Http) {
    http::start_with(|settings| {
        settings.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        adjust(settings);
    })
    .await
}

async fn start() -> (TestDaemon, Http) {
    start_with(|_| {}).await
}

/// All values under a key, wherever in the document.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key));
            fields.values().for_each(|value| all(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| all(value, key, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_lists_every_route_once_and_nothing_dangles() {
    let (_daemon, http) = start().await;
    let document = &http.document;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let listed = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        let methods = methods.filter(|key| ["get", "post", "put", "delete", "patch"].contains(&key.as_str()));
        methods.map(move |method| format!("{method} {path}"))
    });
    let routes = "post /register,post /heartbeat,get /peers,delete /peers/{peerId},get /stats,\
        post /register-turn-server,post /unregister-turn-server,get /turn-servers,post /allocate-turn,\
        post /release-turn,post /servers,get /servers,post /servers/heartbeat,delete /servers/{id},get /servers/key,\
        get /health,get /healthz,get /,get /openapi.json,get /asyncapi.json";
    assert_eq!(listed.collect::<BTreeSet<_>>(), routes.split(',').map(str::to_owned).collect());

    let mut ids = Vec::new();
    all(document, "operationId", &mut ids);
    let distinct: BTreeSet<_> = ids.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!((ids.len(), distinct.len()), (20, 20), "{ids:?}");
    let mut refs = Vec::new();
    all(document, "$ref", &mut refs);
    assert!(!refs.is_empty());
    for target in refs {
        let pointer = target.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} resolves to nothing");
    }
}

#[tokio::test]
async fn every_text_of_a_failure_in_the_sources_is_an_example_in_the_document() {
    let (_daemon, http) = start().await;
    let mut examples = Vec::new();
    all(&http.document, "error", &mut examples);
    let mut seen = 0;
    for file in ["http", "bootstrap", "turn", "directory"] {
        let path = format!("{}/src/wire/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(path).unwrap();
        for (_, call) in source.split("Refusal::of(").enumerate().skip(1) {
            let mut texts = call.split('"').skip(1).step_by(2);
            let (code, text) = (texts.next().unwrap(), texts.next().unwrap());
            if !["not_found", "method_not_allowed"].contains(&code) {
                assert!(
                    examples.iter().any(|example| *example == text),
                    "not in the document: {code}: {text}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// Link, section 5, to the byte but for what differs between two runs.
#[tokio::test]
async fn healthz_tells_who_is_connected_in_its_order_and_is_never_stored() {
    let (daemon, http) = start().await;
    daemon.advance(90 * SECOND);
    let answer = http.get("/healthz").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    assert_eq!(answer.header("content-type"), "application/json");
    let version = env!("CARGO_PKG_VERSION");
    let text = String::from_utf8(answer.bytes).unwrap();
    let (head, seconds) = text.rsplit_once(':').unwrap();
    let expected = format!(
        r#"{{"status":"ok","version":"{version}","connected_binaries":0,"connected_phones":0,"uptime_seconds""#
    );
    assert_eq!(head, expected);
    let seconds: u64 = seconds.strip_suffix('}').unwrap().parse().unwrap();
    assert_eq!(seconds, 90);
    http.send(Method::HEAD, "/healthz", &[], None).await.ok();
    http.post("/healthz", json!({})).await.refused(405, "Method not allowed");
}

#[tokio::test]
async fn what_is_nowhere_is_404_and_another_method_405() {
    let (_daemon, http) = start().await;
    for path in ["/nothing", "/register/x", "/admin/api/status", "/metrics"] {
        let answer = http.get(path).await;
        answer.refused(404, "Not found");
        assert_eq!(answer.header("x-error-code"), "not_found");
    }
    for path in ["/register", "/heartbeat", "/allocate-turn", "/servers/heartbeat"] {
        let answer = http.get(path).await;
        answer.refused(405, "Method not allowed");
        assert_eq!(answer.header("x-error-code"), "method_not_allowed");
    }
    http.post("/peers", json!({})).await.refused(405, "Method not allowed");
}

#[tokio::test]
async fn each_answer_bears_an_id_of_ours() {
    let (_daemon, http) = start().await;
    let mut ids = BTreeSet::new();
    for path in ["/peers", "/servers", "/nothing", "/register"] {
        let answer = http.send(Method::GET, path, &[("x-request-id", "mine")], None).await;
        assert_ne!(answer.header("x-request-id"), "mine");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(ids.insert(answer.header("x-request-id").to_owned()));
    }
}

#[tokio::test]
async fn any_page_may_ask_unless_the_bootstrap_paths_are_restricted() {
    let origins = |open: bool| if open { "*" } else { "https://app.example" };
    for open in [true, false] {
        let allowed = origins(open).to_owned();
        let (_daemon, http) = start_with(|settings| settings.peers.cors_origins = vec![allowed]).await;
        for path in ["/peers", "/register", "/turn-servers", "/servers", "/servers/key", "/nothing"] {
            let directory = path.starts_with("/servers");
            for (origin, ours) in
                [("https://app.example", true), ("https://other.example", open || directory)]
            {
                let asked = [("origin", origin), ("access-control-request-method", "POST")];
                for method in [Method::OPTIONS, Method::GET] {
                    let answer = http.send(method.clone(), path, &asked, None).await;
                    let told = answer.header("access-control-allow-origin");
                    assert_eq!(told == "*" || told == origin, ours, "{method} {path} for {origin}: {told:?}");
                    if method == Method::OPTIONS {
                        assert_eq!(answer.status, 200, "{path}");
                        let methods = answer.header("access-control-allow-methods");
                        assert!(["GET", "POST", "DELETE", "OPTIONS"].iter().all(|it| methods.contains(it)));
                    } else {
                        let exposed = answer.header("access-control-expose-headers").to_lowercase();
                        assert!(exposed.contains("x-bootstrap-signature"), "{path}: {exposed}");
                    }
                }
            }
        }
        for path in ["/", "/health", "/any/path/at/all", "/servers/x/y", "/servers/heartbeat", "/peers/x"] {
            assert_eq!(http.send(Method::OPTIONS, path, &[], None).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits_and_no_other_does() {
    let (daemon, http) = start_with(|settings| settings.connections.http_requests_per_minute = 3).await;
    let from = async |address: &str| http.send(Method::GET, "/stats", &[(XFF, address)], None).await;
    for (busy, same, other) in
        [("192.0.2.1", "192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")]
    {
        for _ in 0..3 {
            from(busy).await.ok();
        }
        let answer = from(same).await;
        answer.refused(429, "Too many requests");
        assert_eq!(answer.header("x-error-code"), "rate_limited");
        from(other).await.ok();
        let seconds: u32 = answer.header("retry-after").parse().unwrap();
        assert!((20..=30).contains(&seconds), "at the earliest, or a little later: {seconds}");
        daemon.advance(20 * SECOND - Duration::from_millis(1));
        assert_eq!(from(busy).await.status, 429);
        daemon.advance(Duration::from_millis(1));
        from(busy).await.ok();
        assert_eq!(from(busy).await.status, 429);
    }
}

#[tokio::test]
async fn a_page_that_asks_too_often_may_read_that_it_does() {
    let (_daemon, http) = start_with(|settings| settings.connections.http_requests_per_minute = 1).await;
    let headers = [(XFF, "192.0.2.1"), ("origin", "https://app.example")];
    http.send(Method::GET, "/peers", &headers, None).await.ok();
    let answer = http.send(Method::GET, "/peers", &headers, None).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (429, "*"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn options_are_200_also_for_an_address_that_asks_too_often() {
    let (_daemon, http) = start_with(|settings| settings.connections.http_requests_per_minute = 1).await;
    for _ in 0..3 {
        let answer = http.send(Method::OPTIONS, "/register", &[(XFF, "192.0.2.1")], None).await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn a_body_is_json_whatever_it_says_and_bounded() {
    let (_daemon, http) = start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        let body = Some(peer("a", json!({})).to_string().into_bytes());
        http.send(Method::POST, "/register", &[("content-type", kind)], body).await.ok();
    }
    let padded = |length: usize| {
        let text = peer("a", json!({})).to_string();
        text.clone() + &" ".repeat(length - text.len())
    };
    http.post_raw("/register", padded(262_144)).await.ok();
    for length in [262_145, 300_000, 900_000, 3_000_000] {
        http.post_raw("/register", padded(length)).await.refused(413, "Request body too large");
        http.post_raw("/heartbeat", padded(length)).await.refused(413, "Request body too large");
    }
}

#[tokio::test]
async fn strict_ownership_keeps_a_live_peer_for_its_network_and_the_bearer_of_its_token() {
    let (daemon, http) = start_with(|settings| settings.peers.ownership = Ownership::Strict).await;
    for (home, near, far) in
        [("192.0.2.1", "192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")]
    {
        let from = async |address: &str, token: &str| {
            let bearer = format!("Bearer {token}");
            http.post_with("/register", peer(home, json!({})), &[(XFF, address), ("authorization", &bearer)])
                .await
        };
        let token = from(home, "").await.ok()["registrationToken"].as_str().unwrap().to_owned();
        assert_eq!(from(near, "").await.ok()["registrationToken"], Value::Null);
        from(far, "").await.refused(409, ELSEWHERE);
        from(far, "wrong").await.refused(409, ELSEWHERE);
        let turn = peer(home, json!({"turnAddresses": ["t"], "turnPort": 1}));
        http.post_with("/register-turn-server", turn.clone(), &[(XFF, far)]).await.refused(409, ELSEWHERE);
        http.post_with("/unregister-turn-server", turn, &[(XFF, far)]).await.refused(409, ELSEWHERE);
        http.post_with("/heartbeat", json!({"peerId": home}), &[(XFF, far)]).await.ok();
        assert_eq!(from(far, &token).await.ok()["registrationToken"], Value::Null);
        daemon.advance(TTL);
        assert!(from(far, "").await.ok()["registrationToken"].is_string());
        from(home, &token).await.refused(409, ELSEWHERE);
    }
}

#[tokio::test]
async fn open_ownership_lets_anyone_register_again_and_only_the_bearer_of_the_token_leave() {
    let (_daemon, http) = start().await;
    let token = register(&http, "a/b%").await["registrationToken"].as_str().unwrap().to_owned();
    let again = http.post_with("/register", peer("a/b%", json!({})), &[(XFF, "192.0.2.9")]).await.ok();
    assert_eq!(again["registrationToken"], Value::Null);
    let path = "/peers/a%2Fb%25";
    http.delete(path).await.refused(401, "Unauthorized");
    http.delete_as(path, "wrong").await.refused(401, "Unauthorized");
    assert_eq!(http.delete_as("/peers/nobody", &token).await.status, 404);
    assert_eq!(http.delete_as(path, &token).await.ok(), json!({"success": true}));
    assert_eq!(http.delete_as(path, &token).await.status, 404);
    assert_eq!(http.get("/peers").await.ok()["totalRegistered"], 0);
    http.post("/heartbeat", json!({"peerId": "a/b%"})).await.refused(404, UNKNOWN);
    assert_ne!(register(&http, "a/b%").await["registrationToken"], token);
}

#[tokio::test]
async fn a_full_registry_takes_no_new_peer_until_one_has_expired() {
    let (daemon, http) = start_with(|settings| settings.peers.max = 2).await;
    register(&http, "a").await;
    daemon.advance(SECOND);
    register(&http, "b").await;
    http.post("/register", peer("c", json!({}))).await.refused(503, "Registry full");
    register(&http, "b").await;
    daemon.advance(TTL - SECOND);
    assert_eq!(register(&http, "c").await["cleanedExpiredPeers"], 1);
    let (_daemon, http) = start_with(|settings| settings.peers.max_bytes = 2000).await;
    register(&http, "a").await;
    let large = json!({"capabilities": {"a": "x".repeat(4000)}});
    for id in ["a", "b"] {
        http.post("/register", peer(id, large.clone())).await.refused(503, "Registry full");
    }
    assert_eq!(http.get("/peers").await.ok()["totalRegistered"], 1);
    assert_eq!(http.get("/peers?includeCapabilities=true").await.ok()["peers"][0]["capabilities"], json!({}));
}
