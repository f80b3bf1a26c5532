//! Owns the proof that what one peer, token or id may do, no other may: names that are spoofed, secrets that are somebody
//! else's, worn out, cut short or read off the disk. Beside it stand identity.rs (who holds an id), openapi.rs and
//! directory.rs (ownership), admin.rs (the admin listener) and strangers.rs.

#[path = "common/chunks.rs"]
mod chunks;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;
#[path = "common/http.rs"]
mod http;
#[path = "common/link.rs"]
mod link;

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use daemon::{RawTcp, SECOND, TestDaemon, ask, hear, hears_nothing, say};
use devices::{ALICE, BOB, CAROL, device};
use http::{Http, XFF, peer};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypost::limits::Ownership;

const ADMIN_PATHS: [(&str, &str); 11] = [
    ("GET", "/metrics"),
    ("GET", "/admin/api/status"),
    ("GET", "/admin/api/leases"),
    ("GET", "/admin/api/leases/relay/alice"),
    ("GET", "/admin/api/claims"),
    ("GET", "/admin/api/connections"),
    ("GET", "/admin/api/log-level"),
    ("PUT", "/admin/api/log-level"),
    ("POST", "/admin/api/sweep"),
    ("OPTIONS", "/admin/api/sweep"),
    ("GET", "/nothing"),
];

fn register(id: &str, token: &str) -> Value {
    json!({"type": "register", "peerId": id, "resumeToken": token})
}

/// Head and body of the answer to one request made by hand.
async fn answer(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut heard = String::new();
    daemon::soon(stream.read_to_string(&mut heard)).await.unwrap();
    heard
}

fn status(heard: &str) -> u16 {
    heard.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_message_is_from_whoever_sent_it_whatever_it_says() {
    let daemon = TestDaemon::start().await;
    let (mut alice, mut bob) = (device(&daemon, ALICE).await, device(&daemon, BOB).await);
    let mut mallory = device(&daemon, CAROL).await;
    let spoofed = json!({"from": ALICE, "fromCode": ALICE, "peerId": ALICE, "pairingCode": ALICE,
        "fromPublicKey": devices::key_of(ALICE), "publicKey": devices::key_of(ALICE)});
    let with = |mut message: Value| {
        let fields = spoofed.as_object().unwrap().clone();
        message.as_object_mut().unwrap().extend(fields);
        message
    };
    for kind in ["offer", "answer", "ice_candidate"] {
        say(&mut mallory, with(json!({"type": kind, "target": BOB, "payload": {"from": ALICE}}))).await;
        assert_eq!(hear(&mut bob).await["from"], CAROL, "{kind}");
    }
    say(&mut mallory, with(json!({"type": "pair_request", "targetCode": BOB}))).await;
    let incoming = hear(&mut bob).await;
    assert_eq!(
        (&incoming["fromCode"], &incoming["fromPublicKey"]),
        (&json!(CAROL), &json!(devices::key_of(CAROL)))
    );
    // Nobody answers for another: not bob's request, nor one to alice that nobody has made.
    say(&mut mallory, with(json!({"type": "pair_response", "targetCode": BOB, "accepted": true}))).await;
    assert_ne!(hear(&mut mallory).await["type"], "pair_matched");
    // What belongs to an id is changed by its holder alone.
    let (mut relay, _) = daemon.registered("relay").await;
    for message in [
        json!({"type": "update_load", "peerId": "relay", "connectedCount": 20}),
        json!({"type": "register_rendezvous", "peerId": "relay", "hourlyTokens": ["t"]}),
        chunks::announce("relay", &["c"]),
        json!({"type": "register", "peerId": "relay", "maxConnections": 1}),
    ] {
        assert_eq!(ask(&mut mallory, message.clone()).await["type"], "error", "{message}");
    }
    for socket in [&mut alice, &mut bob, &mut relay] {
        hears_nothing(socket).await;
    }
    assert_eq!(daemon.offered().await, ["relay"]);
}

#[tokio::test]
async fn a_resume_token_counts_for_its_own_id_whole_once_and_not_by_its_digest() {
    let mut daemon = TestDaemon::start().await;
    let (mut alice, of_alice) = daemon.registered("alice").await;
    let (mut bob, of_bob) = daemon.registered("bob").await;
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&of_alice));
    let hex: String = Sha256::digest(&of_alice).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut thief = daemon.raw().await;
    let forged = [
        of_bob.clone(),
        of_alice[..of_alice.len() - 1].to_owned(),
        format!("{of_alice}A"),
        format!(" {of_alice}"),
        format!("{of_alice}\0"),
        of_alice.to_uppercase(),
        digest,
        hex,
        "A".repeat(100_000),
    ];
    for token in &forged {
        let message = register("alice", token);
        let refused = async { ask(&mut thief, message).await["code"].clone() };
        tokio::select! {
            code = refused => assert_eq!(code, "id_in_use", "{token:.50}"),
            heard = hear(&mut alice) => panic!("the holder heard {heard} for {token:.50}"),
        }
    }
    hears_nothing(&mut bob).await;

    // Over a restart it proves who a relay is, and once: its owner is given another.
    daemon.restart([alice, bob, thief]).await;
    // A daemon of the tests gives the same tokens in the same order.
    let _first = daemon.registered("first").await;
    let mut alice = daemon.raw().await;
    let fresh =
        ask(&mut alice, register("alice", &of_alice)).await["resumeToken"].as_str().unwrap().to_owned();
    assert_ne!(fresh, of_alice);
    let mut thief = daemon.raw().await;
    tokio::select! {
        answer = ask(&mut thief, register("alice", &of_alice)) => assert_eq!(answer["code"], "id_in_use"),
        heard = hear(&mut alice) => panic!("the holder heard {heard}"),
    }
}

#[tokio::test]
async fn after_a_restart_a_free_id_gives_a_stranger_nothing_of_who_had_it() {
    let mut daemon = TestDaemon::start().await;
    let (mut alice, _) = daemon.registered("alice").await;
    ask(&mut alice, json!({"type": "update_load", "peerId": "alice", "connectedCount": 7})).await;
    let token = json!({"type": "register_rendezvous", "peerId": "alice", "hourlyTokens": ["t"]});
    ask(&mut alice, token).await;
    daemon.restart([alice]).await;
    let mut thief = daemon.raw().await;
    // Only a null key is as good as the key that alice never had.
    let claim =
        json!({"type": "register", "peerId": "alice", "publicKey": "thief's", "resumeToken": "forged"});
    assert_eq!(ask(&mut thief, claim).await["type"], "registered");
    let relay = daemon.admin().lease("relay", "alice").await.unwrap().unwrap().record;
    assert_eq!((&relay["connectedCount"], &relay["publicKey"]), (&json!(0.0), &json!("thief's")));
    // Who comes to alice's token meets alice, who has a grace; the thief is not told.
    let mut bob = daemon.raw().await;
    let met = json!({"type": "register_rendezvous", "peerId": "bob", "hourlyTokens": ["t"]});
    assert_eq!(ask(&mut bob, met).await["type"], "rendezvous_result");
    hears_nothing(&mut thief).await;
}

#[tokio::test]
async fn tokens_of_http_count_for_their_own_record_and_not_for_its_successor() {
    let (daemon, http) = http::start_with(|settings| {
        settings.peers.ownership = Ownership::Strict;
        settings.directory.ownership = Ownership::Strict;
        settings.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let bearer = |token: &str| format!("Bearer {token}");
    let enter = async |id: &str, token: &str, from: &str| {
        let headers = [(XFF, from), ("authorization", &*bearer(token))];
        http.post_with("/register", peer(id, json!({})), &headers).await
    };
    let told = |answer: http::Answer, name: &str| answer.ok()[name].as_str().unwrap().to_owned();
    let of_a = told(enter("a", "", "192.0.2.1").await, "registrationToken");
    let of_b = told(enter("b", "", "192.0.2.1").await, "registrationToken");
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&of_a));
    for wrong in [&*of_b, &of_a[1..], &of_a[..of_a.len() - 1], &format!("{of_a}="), &digest, ""] {
        assert_eq!(enter("a", wrong, "198.51.100.1").await.status, 409, "{wrong}");
        assert_eq!(http.delete_as("/peers/a", wrong).await.status, 401, "{wrong}");
    }
    // Expired, and taken by another: the first one's token is worth nothing.
    daemon.advance(600 * SECOND);
    let of_successor = told(enter("a", "", "198.51.100.1").await, "registrationToken");
    assert_eq!(enter("a", &of_a, "192.0.2.1").await.status, 409);
    assert_eq!(http.delete_as("/peers/a", &of_a).await.status, 401);
    http.delete_as("/peers/a", &of_successor).await.ok();

    let server = |id: &str| json!({"serverId": id, "endpoint": "ws://127.0.0.1:1", "publicKey": "k"});
    let of_s = told(http.post("/servers", server("s")).await, "ownerToken");
    let of_t = told(http.post("/servers", server("t")).await, "ownerToken");
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&of_s));
    for wrong in [&*of_t, &of_b, &of_s[1..], &of_s[..of_s.len() - 1], &digest, ""] {
        let headers = [("authorization", &*bearer(wrong))];
        assert_eq!(http.post_with("/servers", server("s"), &headers).await.status, 403, "{wrong}");
        assert_eq!(http.delete_as("/servers/s", wrong).await.status, 403, "{wrong}");
    }
    http.delete_as("/servers/s", &of_s).await.ok();
}

#[tokio::test]
async fn the_public_secrets_open_no_other_door() {
    let (daemon, http) = http::start_with(|settings| settings.directory.secret = "sesame".into()).await;
    let admin = daemon.token();
    let peer_token = http::register(&http, "a").await["registrationToken"].as_str().unwrap().to_owned();
    for token in ["sesame", &peer_token] {
        let head =
            format!("GET /admin/api/status HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n");
        assert_eq!(status(&answer(daemon.addresses().admin, &head).await), 401, "{token}");
    }
    http.delete_as("/servers/x", &admin).await.refused(401, "Unauthorized");
    http.delete_as("/peers/a", &admin).await.refused(401, "Unauthorized");
}

#[tokio::test]
async fn a_binary_reaches_its_own_phones_alone() {
    let daemon = link::start().await;
    let mut home = link::binary(&daemon, "home").await;
    let mut phone = link::phone(&daemon, "home").await;
    let conn_id = link::met(&mut home, &mut phone).await;
    let mut other = link::binary(&daemon, "other").await;
    let mut its_phone = link::phone(&daemon, "other").await;
    link::met(&mut other, &mut its_phone).await;
    link::send(&mut other, &conn_id, json!("from elsewhere")).await;
    other.send_json(&json!({"conn_id": conn_id, "close_code": 1000})).await.unwrap();
    daemon.until_metric("waypost_link_dropped_total{what=\"unknown_conn_id\"}", 2.0).await;
    link::send(&mut home, &conn_id, json!("from home")).await;
    assert_eq!(link::hear_text(&mut phone).await, "\"from home\"");
    // A conn_id is good for one connection: its successor on the same id has another.
    link::close_with(&mut phone, 1000).await;
    assert_eq!(link::hear_text(&mut home).await, link::left(&conn_id, 1000));
    let mut again = link::phone(&daemon, "home").await;
    assert_ne!(link::met(&mut home, &mut again).await, conn_id);
    link::send(&mut home, &conn_id, json!("to who is gone")).await;
    daemon.until_metric("waypost_link_dropped_total{what=\"unknown_conn_id\"}", 3.0).await;
}

#[tokio::test]
async fn no_part_and_no_likeness_of_the_admin_token_is_the_token() {
    let daemon = TestDaemon::start().await;
    let (token, address) = (daemon.token(), daemon.addresses().admin);
    let other = token.chars().next().map_or('A', |first| if first == 'A' { 'B' } else { 'A' });
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&token));
    let likenesses = [
        token[..token.len() - 1].to_owned(),
        token[..1].to_owned(),
        token[1..].to_owned(),
        format!("{other}{}", &token[1..]),
        format!("{}{other}", &token[..token.len() - 1]),
        format!("{token}{token}"),
        format!("{token},{token}"),
        format!("{token}%00"),
        token.to_lowercase(),
        token.to_uppercase(),
        token.replace(['-', '_'], "+"),
        digest,
    ];
    for (method, path) in ADMIN_PATHS {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
        for likeness in likenesses.iter().filter(|likeness| **likeness != token) {
            let heard = answer(address, &format!("{head}Authorization: Bearer {likeness}\r\n")).await;
            assert_eq!(status(&heard), 401, "{method} {path} {likeness}");
        }
        // Nowhere but in its header, and there alone.
        let in_query =
            format!("{method} {path}?token={token}&access_token={token} HTTP/1.1\r\nHost: {address}\r\n");
        let in_cookie = format!(
            "{head}Cookie: token={token}\r\nX-Token: {token}\r\nProxy-Authorization: Bearer {token}\r\n"
        );
        for head in [in_query, in_cookie] {
            assert_eq!(status(&answer(address, &head).await), 401, "{head}");
        }
    }
}

#[tokio::test]
async fn a_page_gets_nothing_of_the_admin_listener_by_any_name_it_could_have() {
    let daemon = TestDaemon::start().await;
    let address = daemon.addresses().admin;
    let bearer = format!("Authorization: Bearer {}\r\n", daemon.token());
    let hosts = [
        String::new(),
        "Host:\r\n".to_owned(),
        format!("Host: {address}\r\nHost: evil.example\r\n"),
        format!("Host: evil.example\r\nHost: {address}\r\n"),
        "Host: 2130706433\r\n".to_owned(),
        "Host: 0x7f000001\r\n".to_owned(),
        "Host: 127.1\r\n".to_owned(),
        "Host: localhost.\r\n".to_owned(),
        "Host: localhost@evil.example\r\n".to_owned(),
        "Host: evil.example#127.0.0.1\r\n".to_owned(),
        "Host: [::1\r\n".to_owned(),
        "Host: 127.0.0.1.evil.example:9001\r\n".to_owned(),
    ];
    for path in ["/livez", "/admin/api/status"] {
        for host in &hosts {
            let heard = answer(address, &format!("GET {path} HTTP/1.1\r\n{host}{bearer}")).await;
            assert!(status(&heard) == 403 && heard.contains("bad_host"), "{host:?}: {heard}");
        }
    }
    // What a page of elsewhere may find out before it asks is that it may not.
    let own = format!("Host: {address}\r\nOrigin: http://{address}\r\n");
    for (method, origins) in [
        (
            "OPTIONS",
            format!(
                "Host: {address}\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
            ),
        ),
        ("POST", format!("{own}Origin: http://evil.example\r\n")),
        ("POST", format!("Host: {address}\r\nOrigin: http://evil.example\r\nOrigin: http://{address}\r\n")),
        ("POST", format!("Host: {address}\r\nOrigin: {address}\r\n")),
        ("POST", format!("Host: {address}\r\nOrigin:\r\n")),
    ] {
        let heard =
            answer(address, &format!("{method} /admin/api/sweep HTTP/1.1\r\n{origins}{bearer}")).await;
        assert!(status(&heard) == 403 && heard.contains("bad_origin"), "{origins:?}: {heard}");
        assert!(!heard.to_lowercase().contains("access-control-allow"), "{heard}");
    }
    let heard = answer(address, &format!("POST /admin/api/sweep HTTP/1.1\r\n{own}{bearer}")).await;
    assert!(status(&heard) == 200 && !heard.to_lowercase().contains("access-control-allow"), "{heard}");
    // There are no sockets here, with the token or without.
    for headers in ["", &bearer] {
        let socket = RawTcp::open(address, "/ws", headers).await;
        assert!([401, 404].contains(&socket.status()), "{}", socket.head);
    }
}

#[tokio::test]
async fn who_trusts_no_proxy_takes_nobodys_word_for_an_address() {
    let (daemon, http) = http::start_with(|settings| {
        settings.peers.ownership = Ownership::Strict;
        settings.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        settings.connections.http_requests_per_minute = 3;
    })
    .await;
    let headers = [(XFF, "192.0.2.1"), ("forwarded", "for=192.0.2.1"), ("x-real-ip", "192.0.2.1")];
    http.post_with("/register", peer("a", json!({})), &headers).await.ok();
    let record = daemon.admin().lease("peer", "a").await.unwrap().unwrap().record;
    assert_eq!(record["registeredFrom"], "127.0.0.1");
    // One request was the document of this test. Every further address that is claimed shares the bucket.
    http.send(Method::GET, "/stats", &[(XFF, "192.0.2.7")], None).await.ok();
    let answer = http.send(Method::GET, "/stats", &[(XFF, "192.0.2.8")], None).await;
    answer.refused(429, "Too many requests");
}

#[tokio::test]
async fn what_is_signed_for_the_directory_is_signed_by_this_server_alone() {
    let (one, other) = (TestDaemon::start().await, TestDaemon::start().await);
    let key = waypost::client::directory::DirectoryClient::new(format!("http://{}", one.addresses().public));
    let key = key.unwrap().key().await.unwrap();
    let foreign =
        waypost::client::directory::DirectoryClient::new(format!("http://{}", other.addresses().public));
    assert!(foreign.unwrap().verified_list(Some(&key)).await.is_err());
    let http = Http::at(other.addresses().public).await;
    assert_ne!(http.get("/servers/key").await.ok()["publicKey"], json!(key.public_key));
}
