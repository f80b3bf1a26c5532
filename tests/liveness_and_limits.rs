//! Owns the proof that the dead are noticed and that nobody gets more than a share (protocol: signalling, sections 1, 2
//! and 8): pings, silence, rates, numbers of sockets, slow consumers, and the addresses they count for.

#[path = "common/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{
    HOUR, RawTcp, SECOND, SOON, TestDaemon, ask, connect, error, hear, hears_nothing, metric, soon,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use waypost::client::RawSocket;

fn ping() -> Value {
    json!({"type": "ping"})
}

fn pong() -> Value {
    json!({"type": "pong"})
}

/// A socket that answers nothing by itself and has said its first message.
async fn silent(daemon: &TestDaemon) -> RawTcp {
    let mut socket = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    socket.hear().await;
    socket.send_json(ping()).await;
    assert_eq!(socket.hear().await, pong());
    socket
}

fn is_ping(frame: &Option<(u8, Vec<u8>)>) -> bool {
    matches!(frame, Some((9, _)))
}

#[tokio::test]
async fn a_socket_is_pinged_every_30_seconds_and_dropped_after_60_of_silence() {
    let daemon = TestDaemon::start().await;
    let mut socket = silent(&daemon).await;
    daemon.advance(30 * SECOND);
    assert!(is_ping(&socket.frame().await));
    daemon.advance(30 * SECOND - Duration::from_millis(1));
    // It is still here: it is heard, and so lives another minute.
    socket.send_json(ping()).await;
    assert_eq!(socket.hear().await, pong());
    daemon.advance(Duration::from_millis(1));
    assert!(is_ping(&socket.frame().await));
    daemon.advance(60 * SECOND);
    assert_eq!(socket.frame().await, None, "dropped without a word");
    daemon.until_metric("waypost_connections_ended_total{reason=\"silent\"}", 1.0).await;
}

#[tokio::test]
async fn any_frame_counts_as_life() {
    let daemon = TestDaemon::start().await;
    let mut socket = silent(&daemon).await;
    let mut awaited = 0;
    for (opcode, payload) in
        [(10, ""), (9, "x"), (1, "not json"), (2, "{"), (0xa, "pong"), (1, r#"{"type":"ping"}"#)]
    {
        daemon.advance(30 * SECOND);
        assert!(is_ping(&socket.frame().await), "before {payload:?}");
        socket.send(opcode, payload.as_bytes()).await;
        // The answer to the next one shows that this one has arrived.
        socket.send(9, b"arrived").await;
        awaited += 1;
        while socket.frame().await != Some((10, b"arrived".to_vec())) {}
    }
    assert_eq!((awaited, daemon.status().await.connections.open), (6, 1));
}

#[tokio::test]
async fn a_peer_that_vanished_without_a_close_is_gone_from_everywhere_with_all_that_was_kept_for_it() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.max_connections = 1).await;
    let mut ghost = silent(&daemon).await;
    ghost.send_json(json!({"type": "register", "peerId": "ghost"})).await;
    ghost.hear().await;
    ghost.send_json(json!({"type": "register_rendezvous", "peerId": "ghost", "hourlyTokens": ["t"]})).await;
    ghost.hear().await;
    let status = daemon.status().await;
    assert_eq!((status.leases.relay, status.leases.tokens), (1, 1));
    assert_eq!((status.connections.open, status.connections.addresses, status.connections.ids), (1, 1, 1));
    assert_eq!(daemon.admin().connections().await.unwrap().connections[0].id.as_deref(), Some("ghost"));

    daemon.advance(300 * SECOND);
    let nothing_left = |status: &waypost::wire::admin::Status| {
        let (leases, connections) = (&status.leases, &status.connections);
        leases.relay + leases.tokens + leases.registration == 0
            && connections.open + connections.addresses + connections.ids + connections.unsent_bytes == 0
    };
    daemon.until("nothing is left", nothing_left).await;
    assert_eq!(daemon.admin().connections().await.unwrap().connections.len(), 0);
    let metrics = daemon.admin().metrics().await.unwrap();
    for gauge in ["connections", "unsent_bytes", "leases{kind=\"relay\"}", "tokens"] {
        assert_eq!(metric(&metrics, &format!("waypost_{gauge}")), 0.0, "{gauge}");
    }
    // Its place is free, and so is its id.
    let (mut next, _) = daemon.registered("ghost").await;
    assert_eq!(daemon::offered(&mut next).await, ["ghost"]);
}

#[tokio::test]
async fn a_dead_peer_whose_connection_is_clogged_is_dropped_as_well() {
    let daemon = TestDaemon::start_with(|settings| settings.liveness.ping_interval = 10 * SECOND).await;
    let mut giver = daemon.raw().await;
    let points: Vec<_> = (0..50).map(|number| format!("p{number}")).collect();
    let gift = json!({"type": "register_rendezvous", "peerId": "giver", "dailyPoints": points,
        "deadDrop": "x".repeat(4096)});
    assert_eq!(ask(&mut giver, gift).await["type"], "rendezvous_result");
    drop(giver);
    // It asks for 200 KiB again and again and reads none of it, until nothing more goes through.
    let mut ghost = silent(&daemon).await;
    let request = json!({"type": "register_rendezvous", "peerId": "ghost", "dailyPoints": points});
    let mut unsent = Vec::new();
    while unsent.len() < 20 || unsent[0] < 128 * 1024 {
        ghost.send_json(request.clone()).await;
        let now = daemon.status().await.connections.unsent_bytes;
        // How much it was in all the looks since it last changed.
        unsent.retain(|before| *before == now);
        unsent.push(now);
    }
    // Time for it to be pinged more than once, which cannot go out any more.
    for _ in 0..59 {
        daemon.advance(SECOND);
        daemon.status().await;
    }
    daemon.advance(SECOND);
    daemon.until("it is dropped", |status| status.connections.open == 0 && status.connections.ids == 0).await;
}

#[tokio::test]
async fn a_socket_that_says_nothing_within_30_seconds_is_closed_and_a_bad_message_is_something() {
    let daemon = TestDaemon::start().await;
    let [mut mute, mut pinging, mut bad] = daemon.raws().await;
    pinging.send(Message::Ping(Vec::new().into())).await.unwrap();
    bad.send_text("nonsense").await.unwrap();
    assert_eq!(hear(&mut bad).await["code"], "invalid_json");
    daemon.advance(30 * SECOND);
    for socket in [&mut mute, &mut pinging] {
        assert_eq!(socket.closed(SOON).await.unwrap().0, 1008, "frames that are no message do not count");
    }
    hears_nothing(&mut bad).await;
}

#[tokio::test]
async fn a_hundred_messages_a_minute_pass_and_300_dropped_ones_close() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.messages_per_minute = 100).await;
    let [mut socket, mut other] = daemon.raws().await;
    let slow_down = error("rate_limited", "Rate limit exceeded. Please slow down.");
    for number in 0..100 {
        assert_eq!(ask(&mut socket, ping()).await, pong(), "message {number}");
    }
    let taking = json!({"type": "register", "peerId": "alice"});
    assert_eq!(ask(&mut socket, taking.clone()).await, slow_down, "and the message is dropped");
    assert_eq!(ask(&mut other, ping()).await, pong(), "another socket has its own");
    assert_eq!(daemon.status().await.connections.ids, 0);
    // One message comes back for each share of the minute.
    daemon.advance(Duration::from_millis(600));
    assert_eq!(ask(&mut socket, taking).await["type"], "registered");
    for _ in 1..299 {
        assert_eq!(ask(&mut socket, ping()).await, slow_down);
    }
    socket.send_json(&ping()).await.unwrap();
    assert_eq!(socket.closed(SOON).await.unwrap().0, 1008, "the 300th within a minute");

    // Dropped ones are forgotten after their minute.
    let mut patient = daemon.raw().await;
    let mut dropped = 0;
    for _ in 0..5 {
        for _ in 0..200 {
            dropped += usize::from(ask(&mut patient, ping()).await == slow_down);
        }
        daemon.advance(30 * SECOND);
        daemon.advance_with(29 * SECOND, &mut [&mut patient]).await;
        daemon.advance(2 * SECOND);
    }
    assert!(dropped > 400, "{dropped}");
}

#[tokio::test]
async fn no_limit_on_messages_is_no_limit() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.messages_per_minute = 0).await;
    let mut socket = daemon.raw().await;
    for _ in 0..1000 {
        assert_eq!(ask(&mut socket, ping()).await, pong());
    }
}

/// The status of a refused upgrade, which says when to come again.
async fn refused(daemon: &TestDaemon, headers: &str) -> u16 {
    let refused = RawTcp::open(daemon.addresses().public, "/ws", headers).await;
    let wait = refused
        .head
        .to_lowercase()
        .lines()
        .find_map(|line| Some(line.strip_prefix("retry-after: ")?.parse::<u32>()));
    assert!(wait.expect("a Retry-After").unwrap() > 0);
    refused.status()
}

#[tokio::test]
async fn too_many_sockets_are_refused_before_the_upgrade() {
    let daemon = TestDaemon::start_with(|settings| {
        settings.connections.max_connections = 3;
        settings.connections.max_connections_per_address = 2;
    })
    .await;
    let url = format!("ws://{}/", daemon.addresses().public);
    let (mut one, _two) = (daemon.raw().await, daemon.raw().await);
    assert_eq!(refused(&daemon, "").await, 429);
    let _elsewhere = RawSocket::connect_from(&url, [127, 0, 0, 2].into()).await.unwrap();
    let status = daemon.status().await.connections;
    assert_eq!((status.open, status.addresses), (3, 2));
    drop(_two);
    daemon.until("one has gone", |status| status.connections.open == 2).await;
    let _third = RawSocket::connect_from(&url, [127, 0, 0, 3].into()).await.unwrap();
    // This address has one place left, but there is none in all.
    assert_eq!(refused(&daemon, "").await, 503);
    hears_nothing(&mut one).await;
    // Health checks are no sockets.
    let health = reqwest::get(format!("http://{}/health", daemon.addresses().public)).await.unwrap();
    assert_eq!(health.status(), 200);
}

#[tokio::test]
async fn forwarded_addresses_count_only_when_a_trusted_proxy_says_them() {
    for trusted in [true, false] {
        let daemon = TestDaemon::start_with(|settings| {
            settings.connections.max_connections_per_address = 1;
            if trusted {
                settings.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
            }
        })
        .await;
        let public = daemon.addresses().public;
        let first = RawTcp::open(public, "/ws", "X-Forwarded-For: 9.9.9.9, 192.0.2.1\r\n").await;
        assert_eq!(first.status(), 101);
        let address = &daemon.admin().connections().await.unwrap().connections[0].address;
        assert_eq!(address, if trusted { "192.0.2.1" } else { "127.0.0.1" });
        if trusted {
            assert_eq!(refused(&daemon, "Forwarded: for=192.0.2.1\r\n").await, 429);
            assert_eq!(RawTcp::open(public, "/", "X-Forwarded-For: 192.0.2.2\r\n").await.status(), 101);
            let six = "X-Forwarded-For: 2001:db8::1\r\n";
            let _six = RawTcp::open(public, "/", six).await;
            assert_eq!(refused(&daemon, "X-Forwarded-For: 2001:db8::2\r\n").await, 429, "the same /64");
        } else {
            assert_eq!(refused(&daemon, "X-Forwarded-For: 192.0.2.2\r\n").await, 429);
        }
    }
}

#[tokio::test]
async fn a_slow_consumer_is_closed_and_the_others_go_on() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.outbox_bytes = 256 * 1024).await;
    let (mut slow, _) = daemon.registered("slow").await;
    let mut quick = daemon.raw().await;
    let tokens: Vec<_> = (0..50).map(|number| format!("{number}-{}", "t".repeat(120))).collect();
    let at = |peer: &str, count: usize| {
        json!({"type": "register_rendezvous", "peerId": peer, "hourlyTokens": tokens[..count],
            "relayId": "r".repeat(128)})
    };
    assert_eq!(ask(&mut slow, at("slow", 50)).await["type"], "rendezvous_result");
    ask(&mut quick, at("quick", 1)).await;
    // Each of these is 50 pushes to the slow one, which reads none of them, and one to the quick one, which does.
    let mut many = daemon.raw().await;
    let mut rounds = 0;
    let full = "waypost_messages_undelivered_total{outcome=\"full\"}";
    while metric(&daemon.admin().metrics().await.unwrap(), full) == 0.0 {
        for _ in 0..10 {
            assert_eq!(ask(&mut many, at("many", 50)).await["type"], "rendezvous_result");
            let push = soon(async {
                loop {
                    let heard = hear(&mut quick).await;
                    if heard["type"] == "rendezvous_match" && heard["match"]["peerId"] == "many" {
                        return heard;
                    }
                }
            });
            assert_eq!(push.await["match"]["meetingPoint"], tokens[0]);
        }
        rounds += 1;
        assert!(rounds < 500, "it is never full");
    }
    assert_eq!(slow.closed(SOON).await.unwrap(), (1013, "slow consumer".to_owned()));
    drop(slow);
    daemon
        .until("the slow one has left", |status| status.leases.relay == 0 && status.connections.open == 2)
        .await;
    // Nobody stands where the slow one stood.
    let result = ask(&mut many, at("many", 50)).await;
    assert_eq!(result["liveMatches"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn http_says_who_it_is_and_every_path_can_become_a_socket() {
    let daemon = TestDaemon::start().await;
    let public = daemon.addresses().public;
    let get = async |path: &str| reqwest::get(format!("http://{public}{path}")).await.unwrap();
    daemon.advance(2 * HOUR + SECOND / 2);
    let health: Value = get("/health").await.json().await.unwrap();
    assert_eq!((&health["status"], &health["service"]), (&json!("healthy"), &json!("waypost")));
    assert_eq!((&health["version"], &health["uptime"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(7200.5)));
    assert_eq!(health["timestamp"], "2027-01-15T10:00:00.500Z");
    let root = get("/").await.text().await.unwrap();
    assert!(root.contains("waypost") && root.contains(health["serverId"].as_str().unwrap()), "{root}");
    for path in ["/nothing", "/ws", "/health/x", "/admin/api/status", "/metrics"] {
        let answer = get(path).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({"error": "Not found"}));
    }
    for path in ["/", "/ws", "/health", "/any/path?with=query", "/%F0%9F%A6%80"] {
        let mut socket = RawSocket::connect(&format!("ws://{public}{path}")).await.unwrap();
        assert_eq!(hear(&mut socket).await["type"], "server_info", "{path}");
        hears_nothing(&mut socket).await;
    }
    // A handshake that is none costs nobody anything.
    let keyless = reqwest::Client::new().get(format!("http://{public}/ws"));
    let keyless = keyless.header("Connection", "Upgrade").header("Upgrade", "websocket");
    assert_eq!(keyless.send().await.unwrap().status(), 400);
    hears_nothing(&mut connect(public).await).await;
}
