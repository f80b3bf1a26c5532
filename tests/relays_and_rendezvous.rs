//! Owns the proof that relays and rendezvous work end to end over sockets (protocol: signalling, sections 3, 4 and 7):
//! who is offered, who meets whom, what lasts for how long, and what a restart keeps.

#[path = "common/daemon.rs"]
mod daemon;

use std::collections::BTreeSet;
use std::time::Duration;

use daemon::{BEGINNING, HOUR, SECOND, TestDaemon, ask, error, hear, hears_nothing, offered};
use serde_json::{Value, json};
use waypost::client::RawSocket;

const MILLISECOND: Duration = Duration::from_millis(1);
const GRACE: Duration = Duration::from_secs(30);

fn rendezvous(peer: &str, fields: Value) -> Value {
    let mut message = json!({"type": "register_rendezvous", "peerId": peer});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    message
}

/// Registers at points and tokens; the result, which is the next message.
async fn meet(socket: &mut RawSocket, peer: &str, fields: Value) -> Value {
    let answer = ask(socket, rendezvous(peer, fields)).await;
    assert_eq!(answer["type"], "rendezvous_result", "{answer}");
    answer
}

/// What a stranger finds at a point: the peers and their dead drops.
async fn drops_at(daemon: &TestDaemon, point: &str) -> Vec<(String, String)> {
    let result = meet(&mut daemon.raw().await, "stranger", json!({"dailyPoints": [point]})).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let drops = result["deadDrops"].as_array().unwrap();
    drops.iter().map(|found| (text(&found["peerId"]), text(&found["deadDrop"]))).collect()
}

/// Whom a stranger meets at a token.
async fn live_at(daemon: &TestDaemon, token: &str) -> Vec<String> {
    let result = meet(&mut daemon.raw().await, "stranger", json!({"hourlyTokens": [token]})).await;
    let live = result["liveMatches"].as_array().unwrap();
    live.iter().map(|found| found["peerId"].as_str().unwrap().to_owned()).collect()
}

async fn load(socket: &mut RawSocket, peer: &str, count: f64) {
    let update = json!({"type": "update_load", "peerId": peer, "connectedCount": count});
    assert_eq!(ask(socket, update).await["type"], "load_updated");
}

async fn register(daemon: &TestDaemon, fields: Value) -> RawSocket {
    let mut socket = daemon.raw().await;
    let mut message = json!({"type": "register"});
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    assert_eq!(ask(&mut socket, message).await["type"], "registered");
    socket
}

#[tokio::test]
async fn a_peer_that_registers_is_told_relays_below_half_of_their_capacity_and_never_itself() {
    let daemon = TestDaemon::start().await;
    let (mut low, _) = daemon.registered("low").await;
    let (mut half, _) = daemon.registered("half").await;
    load(&mut low, "low", 9.9).await;
    load(&mut half, "half", 10.0).await;
    let mut newcomer = daemon.raw().await;
    let key = json!({"type": "register", "peerId": "new", "publicKey": "key", "maxConnections": 4});
    let answer = ask(&mut newcomer, key.clone()).await;
    assert_eq!(answer["relays"], json!([{"peerId": "low", "publicKey": null, "capacity": 0.495}]));
    assert_eq!((&answer["peerId"], answer["resumeToken"].as_str().unwrap().len()), (&json!("new"), 22));
    assert!(answer["serverId"].as_str().unwrap().starts_with("ed25519:"));

    // What a relay says of its load is what others see.
    load(&mut half, "half", 9.0).await;
    load(&mut low, "low", 15.0).await;
    assert_eq!(offered(&mut low).await, ["half", "new"]);
    // Registering again changes what is said, and keeps the count.
    load(&mut newcomer, "new", 1.0).await;
    let again = json!({"type": "register", "peerId": "new", "publicKey": "other", "maxConnections": 10});
    ask(&mut newcomer, again).await;
    let others = ask(&mut low, json!({"type": "get_relays", "peerId": "half"})).await;
    assert_eq!(others["relays"], json!([{"peerId": "new", "publicKey": "other", "capacity": 0.1}]));
}

#[tokio::test]
async fn ten_relays_answer_a_registration_and_as_many_as_asked_for_a_question() {
    let daemon = TestDaemon::start().await;
    let mut sockets = Vec::new();
    for number in 0..12 {
        sockets.push(daemon.registered(&format!("relay-{number}")).await.0);
    }
    let own = json!({"type": "register", "peerId": "relay-3"});
    let told = ask(&mut sockets[3], own).await["relays"].clone();
    let told: BTreeSet<_> =
        told.as_array().unwrap().iter().map(|relay| relay["peerId"].to_string()).collect();
    assert!(told.len() == 10 && !told.contains("\"relay-3\""), "{told:?}");
    let mut stranger = daemon.raw().await;
    for (asked, answered) in [(json!(-3), 1), (json!(0), 1), (json!(1.9), 1), (json!(5), 5), (json!(1e6), 12)]
    {
        let answer = ask(&mut stranger, json!({"type": "get_relays", "count": asked})).await;
        assert_eq!(answer["relays"].as_array().unwrap().len(), answered, "{asked}");
    }
    assert_eq!(
        ask(&mut stranger, json!({"type": "get_relays"})).await["relays"].as_array().unwrap().len(),
        10
    );
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let answer = ask(&mut stranger, json!({"type": "get_relays", "count": 1, "peerId": "relay-0"})).await;
        seen.insert(answer["relays"][0]["peerId"].as_str().unwrap().to_owned());
    }
    assert!(seen.len() == 11 && !seen.contains("relay-0"), "every other one is drawn: {seen:?}");
}

#[tokio::test]
async fn leaving_takes_relay_and_tokens_away_at_once_and_keeps_the_dead_drops() {
    let daemon = TestDaemon::start().await;
    let (mut alice, _) = daemon.registered("alice").await;
    meet(&mut alice, "alice", json!({"dailyPoints": ["p"], "hourlyTokens": ["t"], "deadDrop": "x"})).await;
    assert_eq!(
        (daemon.offered().await, live_at(&daemon, "t").await),
        (vec!["alice".into()], vec!["alice".into()])
    );
    hear(&mut alice).await;
    drop(alice);
    daemon.until("alice is gone", |status| status.leases.relay == 0 && status.connections.ids == 0).await;
    assert_eq!((daemon.offered().await, live_at(&daemon, "t").await), (vec![], vec![]));
    assert_eq!(drops_at(&daemon, "p").await, [("alice".into(), "x".into())]);
}

#[tokio::test]
async fn dead_drops_leave_with_their_peer_where_the_setting_says_so() {
    let daemon = TestDaemon::start_with(|settings| settings.rendezvous.keep_drops = false).await;
    let (mut alice, _) = daemon.registered("alice").await;
    meet(&mut alice, "alice", json!({"dailyPoints": ["p"], "deadDrop": "x"})).await;
    assert_eq!(drops_at(&daemon, "p").await.len(), 1);
    drop(alice);
    daemon.until("alice is gone", |status| status.leases.relay == 0 && status.connections.ids == 0).await;
    assert_eq!(drops_at(&daemon, "p").await, []);
}

#[tokio::test]
async fn the_earlier_peer_is_told_before_the_newcomers_result_and_points_alone_push_nothing() {
    let daemon = TestDaemon::start().await;
    let [mut first, mut newcomer, mut third] = daemon.raws().await;
    let all = json!({"relayId": "r1", "dailyPoints": ["p"], "hourlyTokens": ["s", "t"], "deadDrop": "x"});
    let result = meet(&mut first, "first", all).await;
    assert_eq!((&result["liveMatches"], &result["deadDrops"]), (&json!([]), &json!([])));
    assert_eq!(result["resumeToken"].as_str().unwrap().len(), 22, "it took the id with this");

    let tokens = json!({"relayId": "r2", "dailyPoints": ["p"], "hourlyTokens": ["t", "s", "u"]});
    let result = meet(&mut newcomer, "newcomer", tokens).await;
    let meeting =
        |peer: &str, relay: &str, at: &str| json!({"peerId": peer, "relayId": relay, "meetingPoint": at});
    assert_eq!(result["liveMatches"], json!([meeting("first", "r1", "t"), meeting("first", "r1", "s")]));
    let mut found = meeting("first", "r1", "p");
    found["deadDrop"] = json!("x");
    assert_eq!((&result["deadDrops"], &result["truncated"]), (&json!([found]), &Value::Null));
    // Whatever was sent before the result above reaches the first peer before the answer to this.
    first.send_json(&json!({"type": "ping"})).await.unwrap();
    for at in ["t", "s"] {
        let push = json!({"type": "rendezvous_match", "match": meeting("newcomer", "r2", at)});
        assert_eq!(hear(&mut first).await, push);
    }
    assert_eq!(hear(&mut first).await, json!({"type": "pong"}));

    meet(&mut third, "third", json!({"dailyPoints": ["p", "t"], "deadDrop": "y"})).await;
    hears_nothing(&mut first).await;
    hears_nothing(&mut newcomer).await;
}

#[tokio::test]
async fn of_two_peers_at_one_token_at_once_one_finds_and_the_other_is_told() {
    let daemon = TestDaemon::start().await;
    let [mut alice, mut bob] = daemon.raws().await;
    meet(&mut alice, "alice", json!({})).await;
    meet(&mut bob, "bob", json!({})).await;
    // How many pushes and found entries one side has heard, up to its result and then up to its pong.
    async fn until(socket: &mut RawSocket, last: &str, heard: &mut (usize, usize)) {
        loop {
            let message = hear(socket).await;
            heard.0 += usize::from(message["type"] == "rendezvous_match");
            heard.1 += message["liveMatches"].as_array().map_or(0, Vec::len);
            if message["type"] == last {
                return;
            }
        }
    }
    for round in 0..150 {
        let fields = json!({"hourlyTokens": [format!("token-{round}")]});
        let (mut by_alice, mut by_bob) = ((0, 0), (0, 0));
        let (to_alice, to_bob) = (rendezvous("alice", fields.clone()), rendezvous("bob", fields));
        let (one, other) = tokio::join!(alice.send_json(&to_alice), bob.send_json(&to_bob));
        one.and(other).unwrap();
        let result = "rendezvous_result";
        tokio::join!(until(&mut alice, result, &mut by_alice), until(&mut bob, result, &mut by_bob));
        for (socket, heard) in [(&mut alice, &mut by_alice), (&mut bob, &mut by_bob)] {
            socket.send_json(&json!({"type": "ping"})).await.unwrap();
            until(socket, "pong", heard).await;
        }
        let mut heard = [by_alice, by_bob];
        heard.sort();
        assert_eq!(heard, [(0, 1), (1, 0)], "round {round}");
    }
}

#[tokio::test]
async fn drops_come_oldest_first_once_a_peer_and_point_and_never_ones_own_or_empty_ones() {
    let daemon = TestDaemon::start().await;
    let [mut alice, mut bob, mut carol] = daemon.raws().await;
    meet(&mut alice, "alice", json!({"dailyPoints": ["p", "q", "p"], "deadDrops": {"p": "a1", "q": "a2"}}))
        .await;
    meet(&mut bob, "bob", json!({"dailyPoints": ["p"], "deadDrop": "b1"})).await;
    meet(&mut carol, "carol", json!({"dailyPoints": ["p", "q"], "deadDrops": {"q": "", "elsewhere": "c"}}))
        .await;
    let pair = |peer: &str, drop: &str| (peer.to_owned(), drop.to_owned());
    assert_eq!(drops_at(&daemon, "p").await, [pair("alice", "a1"), pair("bob", "b1")]);
    assert_eq!(drops_at(&daemon, "q").await, [pair("alice", "a2")]);
    assert_eq!(drops_at(&daemon, "elsewhere").await, []);
    // Registering again replaces and counts as new, at this point alone.
    let again = meet(&mut alice, "alice", json!({"dailyPoints": ["p", "p"], "deadDrop": "a3"})).await;
    assert_eq!(again["deadDrops"].as_array().unwrap().len(), 1, "{again}");
    assert_eq!(drops_at(&daemon, "p").await, [pair("bob", "b1"), pair("alice", "a3")]);
    assert_eq!(drops_at(&daemon, "q").await, [pair("alice", "a2")]);
}

#[tokio::test]
async fn a_result_is_cut_at_256_drops_and_at_512_kib() {
    let daemon = TestDaemon::start_with(|it| it.connections.max_connections_per_address = 100).await;
    let mut sockets = Vec::new();
    for number in 0..60 {
        let mut socket = daemon.raw().await;
        let points = json!({"dailyPoints": ["a", "b", "c", "d", "e"], "deadDrop": "small"});
        meet(&mut socket, &format!("peer-{number}"), points).await;
        let points = json!({"dailyPoints": ["x", "y", "z"], "deadDrop": "l".repeat(4096)});
        meet(&mut socket, &format!("peer-{number}"), points).await;
        sockets.push(socket);
    }
    let mut stranger = daemon.raw().await;
    for (points, count, cut) in [
        (json!(["a", "b", "c", "d"]), 240, Value::Null),
        (json!(["a", "b", "c", "d", "e"]), 256, json!(true)),
        (json!(["x", "y"]), 120, Value::Null),
        (json!(["x", "y", "z"]), 128, json!(true)),
    ] {
        let result = meet(&mut stranger, "stranger", json!({"dailyPoints": points})).await;
        assert_eq!((result["deadDrops"].as_array().unwrap().len(), &result["truncated"]), (count, &cut));
    }
}

#[tokio::test]
async fn drops_last_48_hours_and_tokens_3_to_the_millisecond_and_begin_anew_with_each_registration() {
    let daemon = TestDaemon::start().await;
    let mut alice = daemon.raw().await;
    let both = json!({"dailyPoints": ["p"], "hourlyTokens": ["t"], "deadDrop": "x"});
    meet(&mut alice, "alice", both.clone()).await;
    // Only the wall clock moves: the sockets stay, and the sweeper holds back as after any leap.
    daemon.clock.step_wall(2 * HOUR);
    assert_eq!(live_at(&daemon, "t").await, ["alice"]);
    daemon.clock.step_wall(HOUR - MILLISECOND);
    assert_eq!(live_at(&daemon, "t").await, ["alice"]);
    daemon.clock.step_wall(MILLISECOND);
    assert_eq!(live_at(&daemon, "t").await.len(), 0);
    daemon.clock.step_wall(44 * HOUR);
    assert_eq!(drops_at(&daemon, "p").await.len(), 1, "after 47 hours");
    daemon.clock.step_wall(HOUR - MILLISECOND);
    assert_eq!(drops_at(&daemon, "p").await.len(), 1);
    daemon.clock.step_wall(MILLISECOND);
    assert_eq!(drops_at(&daemon, "p").await, []);

    for _ in 0..3 {
        alice.send_json(&rendezvous("alice", both.clone())).await.unwrap();
        while hear(&mut alice).await["type"] != "rendezvous_result" {}
        daemon.clock.step_wall(2 * HOUR);
    }
    assert_eq!((live_at(&daemon, "t").await.len(), drops_at(&daemon, "p").await.len()), (1, 1));
    // With time that really passes everything is swept as well, if only one grace after the leap.
    daemon.advance(49 * HOUR);
    let swept = async {
        while daemon.status().await.leases.registration > 0 {
            daemon.advance(GRACE)
        }
    };
    daemon::soon(swept).await;
    assert_eq!(drops_at(&daemon, "p").await, []);
}

#[tokio::test]
async fn a_restart_keeps_drops_for_their_ttl_and_tokens_for_the_grace() {
    let mut daemon = TestDaemon::start().await;
    let mut alice = daemon.raw().await;
    meet(&mut alice, "alice", json!({"dailyPoints": ["p"], "hourlyTokens": ["t"], "deadDrop": "x"})).await;
    daemon.advance(10 * SECOND);
    daemon.restart([alice]).await;
    assert_eq!(drops_at(&daemon, "p").await, [("alice".to_owned(), "x".to_owned())]);
    daemon.advance(GRACE - MILLISECOND);
    assert_eq!(live_at(&daemon, "t").await, ["alice"]);
    daemon.advance(MILLISECOND);
    assert_eq!(live_at(&daemon, "t").await.len(), 0);

    daemon.restart([]).await;
    assert_eq!(drops_at(&daemon, "p").await.len(), 1);
    daemon.advance(48 * HOUR);
    assert_eq!(drops_at(&daemon, "p").await, []);
}

#[tokio::test]
async fn a_relay_kept_over_a_restart_is_offered_for_the_grace_and_never_again() {
    let mut daemon = TestDaemon::start().await;
    let (relay, _) = daemon.registered("relay").await;
    daemon.restart([relay]).await;
    assert_eq!(daemon.offered().await, ["relay"]);
    // It is kept, not registered: its id is free, and nobody speaks for it.
    let mut stranger = daemon.raw().await;
    let update = json!({"type": "update_load", "peerId": "relay", "connectedCount": 1});
    assert_eq!(ask(&mut stranger, update).await, error("not_registered", "Not registered: relay"));
    daemon.advance(GRACE - MILLISECOND);
    assert_eq!(daemon.offered().await, ["relay"]);
    daemon.advance(MILLISECOND);
    assert_eq!(daemon.offered().await.len(), 0);
    daemon.until("it is swept", |status| status.leases.relay == 0).await;
    daemon.restart([]).await;
    assert_eq!(daemon.offered().await.len(), 0);
}

#[tokio::test]
async fn count_and_age_go_on_after_a_restart_for_who_shows_the_token_or_the_same_key() {
    let mut daemon = TestDaemon::start().await;
    let mut sockets = Vec::new();
    let (first, token) = daemon.registered("by-token").await;
    sockets.push(first);
    for (id, key) in [
        ("by-key", json!("key")),
        ("by-null", Value::Null),
        ("other-key", json!("key")),
        ("late", json!("key")),
    ] {
        sockets.push(register(&daemon, json!({"peerId": id, "publicKey": key})).await);
    }
    let ids = ["by-token", "by-key", "by-null", "other-key", "late"];
    for (socket, id) in sockets.iter_mut().zip(ids) {
        load(socket, id, 5.0).await;
    }
    daemon.advance(10 * SECOND);
    daemon.restart(sockets).await;
    let then = BEGINNING + 10_000;
    let claims = [
        (json!({"peerId": "by-token", "publicKey": "new", "resumeToken": token}), BEGINNING, 5.0),
        (json!({"peerId": "by-key", "publicKey": "key"}), BEGINNING, 5.0),
        (json!({"peerId": "by-null"}), BEGINNING, 5.0),
        (json!({"peerId": "other-key", "publicKey": "forged", "resumeToken": "forged"}), then, 0.0),
        (json!({"peerId": "late", "publicKey": "key"}), then + 30_000, 0.0),
    ];
    let mut kept = Vec::new();
    for (claim, registered_at, count) in claims {
        if claim["peerId"] == "late" {
            let mut heard: Vec<_> = kept.iter_mut().collect();
            daemon.advance_with(GRACE, &mut heard).await;
        }
        let id = claim["peerId"].as_str().unwrap().to_owned();
        kept.push(register(&daemon, claim).await);
        let record = daemon.admin().lease("relay", &id).await.unwrap().unwrap().record;
        assert_eq!(
            (&record["registeredAt"], &record["connectedCount"]),
            (&json!(registered_at), &json!(count)),
            "{id}"
        );
    }
}

#[tokio::test]
async fn of_relays_of_mixed_age_only_the_stale_go_and_are_never_offered_again() {
    let mut daemon = TestDaemon::start().await;
    let mut before = Vec::new();
    for id in ["back-1", "back-2", "stale-1", "stale-2"] {
        before.push(daemon.registered(id).await.0);
    }
    daemon.restart(before).await;
    let (mut one, mut two) = (daemon.registered("back-1").await.0, daemon.registered("back-2").await.0);
    let (mut fresh, _) = daemon.registered("fresh").await;
    assert_eq!(daemon.offered().await, ["back-1", "back-2", "fresh", "stale-1", "stale-2"]);
    daemon.advance_with(GRACE, &mut [&mut one, &mut two, &mut fresh]).await;
    let live = ["back-1", "back-2", "fresh"];
    assert_eq!(daemon.offered().await, live);
    daemon.until("the stale are swept", |status| status.leases.relay == 3).await;
    daemon.advance_with(20 * SECOND, &mut [&mut one, &mut two, &mut fresh]).await;
    assert_eq!(daemon.offered().await, live);
    daemon.restart([one, two, fresh]).await;
    assert_eq!(daemon.offered().await, live, "nor after another restart");
}
