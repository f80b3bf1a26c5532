//! Owns the proof that the admin listener shows what is there, to the bearer of its token alone, and says so when the
//! storage fails.

#[path = "common/daemon.rs"]
mod daemon;

use std::path::Path;

use daemon::{BEGINNING, HOUR, SECOND, TestDaemon, ask, error, hear, hears_nothing, metric, offered};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use waypost::client::RawSocket;
use waypost::client::admin::LeaseFilter;
use waypost::id::ChunkName;
use waypost::store::{Changes, ChunkRecord, Faults, Indexed, LeaseKey, Store};

const GUARDED: [&str; 6] = [
    "/metrics",
    "/admin/api/status",
    "/admin/api/leases",
    "/admin/api/leases/relay/alice",
    "/admin/api/connections",
    "/nothing",
];

/// One request to the admin listener, with nothing but these headers.
async fn request(daemon: &TestDaemon, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{path}", daemon.addresses().admin);
    let request =
        headers.iter().fold(http.request(method, url), |it, (name, value)| it.header(*name, *value));
    request.send().await.unwrap()
}

async fn get(daemon: &TestDaemon, path: &str) -> Response {
    let bearer = format!("Bearer {}", daemon.token());
    request(daemon, Method::GET, path, &[("Authorization", &bearer)]).await
}

/// The code of a refusal, whose body is an error and a code and nothing else.
async fn refused(answer: Response, status: StatusCode) -> String {
    assert_eq!(answer.status(), status);
    let body: Value = answer.json().await.unwrap();
    let fields = body.as_object().unwrap();
    assert!(fields.len() == 2 && fields["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    fields["code"].as_str().unwrap().to_owned()
}

async fn meet(socket: &mut RawSocket, peer: &str, fields: Value) -> Value {
    let mut message = json!({"type": "register_rendezvous", "peerId": peer});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    ask(socket, message).await
}

#[tokio::test]
async fn nothing_but_the_probes_is_told_without_the_token() {
    let daemon = TestDaemon::start().await;
    let token = daemon.token();
    let wrong =
        ["", "Bearer", "Bearer ", "Bearer x", &format!("Basic {token}"), &token, &format!("Bearer {token}x")];
    let mut bodies = Vec::new();
    for path in GUARDED {
        let mut answers = vec![request(&daemon, Method::GET, path, &[]).await];
        for authorization in wrong {
            answers.push(request(&daemon, Method::GET, path, &[("Authorization", authorization)]).await);
        }
        answers.push(request(&daemon, Method::POST, path, &[]).await);
        for answer in answers {
            assert_eq!(
                (answer.status(), &answer.headers()["www-authenticate"]),
                (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap())
            );
            bodies.push(answer.text().await.unwrap());
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "always the same: {bodies:?}");
    assert_eq!(request(&daemon, Method::POST, "/admin/api/sweep", &[]).await.status(), 401);
    for path in ["/livez", "/readyz"] {
        assert_eq!(request(&daemon, Method::GET, path, &[]).await.status(), 200);
    }
    // The scheme's name may be written as one likes.
    let bearer = format!("bearer {token}");
    assert_eq!(request(&daemon, Method::GET, "/metrics", &[("Authorization", &bearer)]).await.status(), 200);
    // The public listener has none of this.
    let public =
        reqwest::get(format!("http://{}/admin/api/status", daemon.addresses().public)).await.unwrap();
    assert_eq!(public.status(), 404);
}

#[tokio::test]
async fn a_web_page_of_elsewhere_is_refused_even_with_the_token() {
    let daemon = TestDaemon::start().await;
    let own = daemon.addresses().admin.to_string();
    let (bearer, port) = (format!("Bearer {}", daemon.token()), daemon.addresses().admin.port());
    let with = async |name: &str, value: &str, path: &str| {
        request(&daemon, Method::GET, path, &[("Authorization", &bearer), (name, value)]).await
    };
    for path in ["/admin/api/status", "/livez", "/nothing"] {
        for host in
            ["evil.example", &format!("evil.example:{port}"), &format!("localhost.evil.example:{port}")]
        {
            assert_eq!(
                refused(with("Host", host, path).await, StatusCode::FORBIDDEN).await,
                "bad_host",
                "{host}"
            );
        }
        for origin in ["http://evil.example", "null", &format!("http://127.0.0.1:{}", port ^ 1)] {
            assert_eq!(
                refused(with("Origin", origin, path).await, StatusCode::FORBIDDEN).await,
                "bad_origin",
                "{origin}"
            );
        }
    }
    for host in [&own, "localhost", &format!("LOCALHOST:{port}"), "[::1]:9001"] {
        assert_eq!(with("Host", host, "/admin/api/status").await.status(), 200, "{host}");
    }
    assert_eq!(with("Origin", &format!("http://{own}"), "/admin/api/status").await.status(), 200);
}

#[tokio::test]
async fn status_metrics_and_connections_count_what_is_there() {
    let daemon = TestDaemon::start().await;
    let (mut alice, _) = daemon.registered("alice").await;
    let fields = json!({"dailyPoints": ["p", "q"], "hourlyTokens": ["t"], "deadDrops": {"p": "12345"}});
    meet(&mut alice, "alice", fields).await;
    daemon.advance(7 * SECOND);
    let mut stranger =
        RawSocket::connect_from(&format!("ws://{}/", daemon.addresses().public), [127, 0, 0, 9].into())
            .await
            .unwrap();
    hear(&mut stranger).await;
    ask(&mut stranger, json!({"type": "nope"})).await;

    let status = daemon.status().await;
    let (leases, sockets) = (&status.leases, &status.connections);
    assert_eq!(
        (leases.relay, leases.registration, leases.points, leases.tokens, leases.dead_drop_bytes),
        (1, 1, 2, 1, 5)
    );
    assert_eq!((sockets.open, sockets.addresses, sockets.ids), (2, 2, 1));
    assert_eq!(
        (status.boot, status.ready, status.uptime_seconds, status.now),
        (1, true, 7, BEGINNING + 7000)
    );
    assert_eq!(status.next_expiry, Some(BEGINNING + 3 * 3_600_000));
    assert!(status.store.bytes_on_disk > 0 && status.store.rows > 0 && status.engine.requests > 0);

    let listed = daemon.admin().connections().await.unwrap().connections;
    let shown: Vec<_> =
        listed.iter().map(|it| (it.address.as_str(), it.id.as_deref(), it.age_seconds)).collect();
    assert_eq!(shown, [("127.0.0.1", Some("alice"), 7), ("127.0.0.9", None, 0)]);

    let metrics = get(&daemon, "/metrics").await;
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.headers()["content-type"], format);
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.ends_with("# EOF\n"));
    for (name, value) in [
        ("connections", 2.0),
        ("messages_total{type=\"register\"}", 1.0),
        ("messages_total{type=\"invalid\"}", 1.0),
        ("errors_total{code=\"unknown_type\"}", 1.0),
        ("leases{kind=\"relay\"}", 1.0),
        ("leases{kind=\"registration\"}", 1.0),
        ("dead_drops_bytes", 5.0),
    ] {
        assert_eq!(metric(&metrics, &format!("waypost_{name}")), value, "{name}");
    }
}

#[tokio::test]
async fn leases_are_listed_page_by_page_and_dead_drops_shown_by_size_and_digest_alone() {
    let daemon = TestDaemon::start().await;
    let mut sockets = Vec::new();
    for id in ["alice", "bob-1", "bob-2"] {
        let (mut socket, token) = daemon.registered(id).await;
        let secret = format!("secret of {id}");
        let fields = json!({"relayId": "r", "dailyPoints": ["p", "q"], "deadDrops": {"p": secret}, "hourlyTokens": ["t"]});
        meet(&mut socket, id, fields).await;
        sockets.push((socket, token));
    }
    let admin = daemon.admin();
    let list = async |filter: LeaseFilter| {
        let page = admin.leases(&filter).await.unwrap();
        let keys: Vec<_> = page.leases.iter().map(|lease| format!("{}/{}", lease.kind, lease.key)).collect();
        (keys.join(" "), page.cursor)
    };
    let all = "relay/alice relay/bob-1 relay/bob-2 registration/1 registration/2 registration/3";
    assert_eq!(list(LeaseFilter::default()).await, (all.to_owned(), None));
    let of = |kind: &str| LeaseFilter { kind: Some(kind.into()), ..LeaseFilter::default() };
    assert_eq!(list(of("relay")).await.0, "relay/alice relay/bob-1 relay/bob-2");
    assert_eq!(list(of("registration")).await.0, "registration/1 registration/2 registration/3");
    assert_eq!(
        list(LeaseFilter { prefix: Some("bob".into()), ..LeaseFilter::default() }).await.0,
        "relay/bob-1 relay/bob-2"
    );
    assert_eq!(
        list(LeaseFilter { prefix: Some("nobody".into()), ..of("relay") }).await,
        (String::new(), None)
    );
    for limit in 1..=6 {
        let (mut pages, mut cursor) = (Vec::new(), None);
        loop {
            let filter = LeaseFilter { limit: Some(limit), cursor: cursor.take(), ..LeaseFilter::default() };
            let (keys, next) = list(filter).await;
            assert!(keys.split(' ').count() <= limit, "{keys}");
            pages.push(keys);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((pages.join(" "), pages.len()), (all.to_owned(), 6_usize.div_ceil(limit)), "by {limit}");
    }

    let lease = admin.lease("registration", "1").await.unwrap().unwrap();
    assert_eq!((lease.peer_id.as_str(), lease.ends), ("alice", Some(BEGINNING + 48 * 3_600_000)));
    let digest: String = Sha256::digest("secret of alice").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        lease.record["points"],
        json!([
            {"point": "p", "deadDrop": {"bytes": 15, "sha256": digest}}, {"point": "q", "deadDrop": null}
        ])
    );
    assert_eq!((&lease.record["relayId"], &lease.record["tokens"]), (&json!("r"), &json!(["t"])));
    let relay = admin.lease("relay", "bob-2").await.unwrap().unwrap();
    assert_eq!((relay.ends, &relay.record["maxConnections"]), (None, &json!(20)));
    for path in [
        "/admin/api/leases",
        "/admin/api/leases/registration/1",
        "/admin/api/leases/relay/alice",
        "/admin/api/connections",
        "/metrics",
    ] {
        let body = get(&daemon, path).await.text().await.unwrap();
        assert!(!body.contains("secret of"), "{path}: {body}");
        assert!(sockets.iter().all(|(_, token)| !body.contains(token)), "{path} tells a resume token");
    }
}

/// A chunk of ann's in the store of a daemon that is stopped; tells its key and the digest of its data.
fn put_chunk(store: &Path, end: u64, data: &str) -> (String, [u8; 32]) {
    let key = LeaseKey::chunk(&ChunkName::parse("world", "0,0").unwrap().key());
    let digest = Sha256::digest(data).into();
    let (owner, channel, chunk) = ("ann".into(), "world".into(), "0,0".into());
    let record = ChunkRecord { owner, channel, chunk, end, digest, data: data.into() };
    let store = Store::open(store, Faults::default()).unwrap();
    let mut changes = Changes::default();
    assert!(changes.put_new(&key, &record, Indexed::at(end)) > 1);
    store.commit(&changes).unwrap();
    store.flush().unwrap();
    (key.text(), digest)
}

#[tokio::test]
async fn chunks_are_counted_swept_and_shown_by_size_and_digest_alone() {
    let mut daemon = TestDaemon::start().await;
    daemon.stop([]).await;
    let secret = "secret of ann ".repeat(1000);
    let end = BEGINNING + 30 * 60_000;
    let (key, digest) = put_chunk(&daemon.data_dir().join(waypost::daemon::STORE), end, &secret);
    daemon.start_again().await;
    let admin = daemon.admin();
    assert_eq!(daemon.status().await.leases.chunk, 1);
    daemon.until_metric("waypost_leases{kind=\"chunk\"}", 1.0).await;
    let listed = admin.leases(&LeaseFilter { kind: Some("chunk".into()), ..LeaseFilter::default() }).await;
    let [shown] = &listed.unwrap().leases[..] else { panic!("there is one") };
    assert_eq!((shown.kind.as_str(), &shown.key, shown.peer_id.as_str()), ("chunk", &key, "ann"));
    assert_eq!((shown.ends, shown.indexed), (Some(end), end));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let record = json!({"channelId": "world", "chunkId": "0,0", "bytes": 14_000, "sha256": digest});
    assert_eq!(shown.record, record);
    assert_eq!(admin.lease("chunk", &key).await.unwrap().unwrap().record, record);
    let alone = format!("/admin/api/leases/chunk/{key}");
    for path in ["/admin/api/leases", &alone, "/metrics"] {
        let body = get(&daemon, path).await.text().await.unwrap();
        assert!(!body.contains("secret of"), "{path}: {body}");
    }
    let checked = daemon.engine().check().await.unwrap();
    assert!(checked.report.is_clean() && checked.memory_agrees);

    assert_eq!(admin.sweep().await.unwrap().chunk, 0);
    // A leap, so that the sweeper itself holds back.
    daemon.clock.step_wall(2 * HOUR);
    assert_eq!(admin.sweep().await.unwrap().chunk, 1);
    assert_eq!(daemon.status().await.leases.chunk, 0);
    assert!(admin.lease("chunk", &key).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_there_or_not_understood_is_refused_with_a_code() {
    let daemon = TestDaemon::start().await;
    for (path, status, code) in [
        ("/admin/api/leases?kind=nonsense", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases?kin=relay", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases?limit=many", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases?cursor=nonsense", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases?cursor=registration/x", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases/nonsense/1", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases/registration/x", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases/chunk/x", StatusCode::BAD_REQUEST, "bad_request"),
        ("/admin/api/leases/registration/7", StatusCode::NOT_FOUND, "not_found"),
        ("/admin/api/leases/relay/nobody", StatusCode::NOT_FOUND, "not_found"),
        ("/admin/api/nothing", StatusCode::NOT_FOUND, "not_found"),
        ("/admin/api/sweep", StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
    ] {
        assert_eq!(refused(get(&daemon, path).await, status).await, code, "{path}");
    }
    let bearer = format!("Bearer {}", daemon.token());
    let posted = request(&daemon, Method::POST, "/admin/api/status", &[("Authorization", &bearer)]).await;
    assert_eq!(refused(posted, StatusCode::METHOD_NOT_ALLOWED).await, "method_not_allowed");
    assert!(daemon.admin().lease("relay", "nobody").await.unwrap().is_none());
}

#[tokio::test]
async fn a_sweep_tells_how_many_leases_it_ended() {
    let mut daemon = TestDaemon::start_with(|settings| settings.sweep.max_batch = 2).await;
    let (mut relay, _) = daemon.registered("relay").await;
    for number in 0..5 {
        meet(&mut relay, "relay", json!({"dailyPoints": [format!("p{number}")]})).await;
    }
    meet(&mut relay, "relay", json!({"hourlyTokens": ["t"]})).await;
    daemon.restart([relay]).await;
    let swept = async || {
        let swept = daemon.admin().sweep().await.unwrap();
        (swept.relay, swept.registration)
    };
    assert_eq!(swept().await, (0, 0));
    // After a leap of the wall clock alone the sweeper itself holds back for a while.
    daemon.clock.step_wall(4 * HOUR);
    assert_eq!(swept().await, (1, 1));
    daemon.clock.step_wall(44 * HOUR);
    assert_eq!(swept().await, (0, 5));
    assert_eq!(swept().await, (0, 0));
    let leases = daemon.status().await.leases;
    assert_eq!((leases.relay, leases.registration, leases.points), (0, 0, 0));
}

/// While this stands, the store cannot be opened again.
fn block(store: &Path) {
    std::fs::rename(store, store.with_extension("away")).unwrap();
    std::fs::write(store, "in the way").unwrap();
}

fn unblock(store: &Path) {
    std::fs::remove_file(store).unwrap();
    std::fs::rename(store.with_extension("away"), store).unwrap();
}

#[tokio::test]
async fn while_the_storage_fails_writes_are_refused_reads_go_on_and_nothing_acknowledged_is_lost() {
    type Fault = fn(&Faults);
    let faults: [(Fault, &[usize]); 2] = [(|it| it.fail_write(1), &[0]), (|it| it.fail_flush(1), &[0, 3])];
    for (fail, whole_or_nothing) in faults {
        let daemon = TestDaemon::start().await;
        let store = daemon.data_dir().join(waypost::daemon::STORE);
        let admin = daemon.admin();
        let (mut alice, _) = daemon.registered("alice").await;
        let points = json!({"dailyPoints": ["a", "b", "c"], "deadDrop": "kept"});
        assert_eq!(meet(&mut alice, "alice", points).await["type"], "rendezvous_result");
        assert!(admin.ready().await.unwrap());

        block(&store);
        fail(&daemon.faults);
        let unavailable = error("storage_unavailable", "Storage is unavailable. Please try again.");
        let mut bob = daemon.raw().await;
        let bobs = json!({"dailyPoints": ["x", "y", "z"], "deadDrop": "bob's"});
        assert_eq!(meet(&mut bob, "bob", bobs.clone()).await, unavailable);
        daemon.until("it is not ready", |status| !status.ready).await;
        assert_eq!((admin.ready().await.unwrap(), admin.live().await.unwrap()), (false, true));
        assert_eq!(get(&daemon, "/readyz").await.status(), 503);
        for path in ["/admin/api/leases", "/admin/api/leases/relay/alice"] {
            let refusal = refused(get(&daemon, path).await, StatusCode::SERVICE_UNAVAILABLE).await;
            assert_eq!(refusal, "storage_unavailable");
        }
        for message in [
            json!({"type": "register", "peerId": "carol"}),
            json!({"type": "register_rendezvous", "peerId": "carol", "hourlyTokens": ["t"]}),
        ] {
            assert_eq!(ask(&mut daemon.raw().await, message).await, unavailable);
        }
        let update = json!({"type": "update_load", "peerId": "alice", "connectedCount": 1});
        assert_eq!(ask(&mut alice, update.clone()).await, unavailable);
        hears_nothing(&mut alice).await;
        assert_eq!(offered(&mut bob).await, ["alice"]);

        unblock(&store);
        daemon.advance(SECOND);
        daemon.until("it is ready again", |status| status.ready).await;
        let mut reader = daemon.raw().await;
        let found = meet(&mut reader, "reader", json!({"dailyPoints": ["a", "b", "c"]})).await;
        let drops: Vec<_> = found["deadDrops"].as_array().unwrap().iter().map(|it| &it["deadDrop"]).collect();
        assert_eq!(drops, ["kept", "kept", "kept"]);
        let found = meet(&mut reader, "reader", json!({"dailyPoints": ["x", "y", "z"]})).await;
        let found = found["deadDrops"].as_array().unwrap().len();
        assert!(whole_or_nothing.contains(&found), "{found} of 3 points");
        assert_eq!(ask(&mut alice, update).await["type"], "load_updated");
        assert_eq!(meet(&mut bob, "bob", bobs).await["type"], "rendezvous_result");
        assert_eq!(offered(&mut reader).await, ["alice"]);
    }
}

#[tokio::test]
async fn the_metrics_tell_what_is_there_before_anybody_has_come() {
    let mut daemon = TestDaemon::start().await;
    let mut alice = daemon.raw().await;
    meet(&mut alice, "alice", json!({"dailyPoints": ["a", "b"], "deadDrop": "x"})).await;
    daemon.restart([alice]).await;
    daemon.until_metric("waypost_leases{kind=\"registration\"}", 1.0).await;
    daemon.until_metric("waypost_points", 2.0).await;
}
