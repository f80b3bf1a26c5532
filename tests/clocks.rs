//! Owns the proof that a wrong wall clock costs nobody a lease that was not over: leaps ahead and back while the daemon runs
//! and between two runs, over all kinds of leases. What has ended by the clock is not answered, to the millisecond; it is
//! removed only once the clock has been believed for a grace.

#[path = "common/chunks.rs"]
mod chunks;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;
#[path = "common/link.rs"]
mod link;

use std::time::Duration;

use daemon::{BEGINNING, HOUR, SECOND, TestDaemon, ask};
use http::{Http, register};
use link::{HOME, binary_at, until_state};
use serde_json::{Value, json};
use waypost::client::RawSocket;
use waypost::clock::Clock;
use waypost::wire::admin::Leases;

const MS: Duration = Duration::from_millis(1);
/// Of a restart, and of a leap ahead.
const GRACE: Duration = Duration::from_secs(30);
/// Of one whole daemon: a registration, a peer, a TURN session, a server, a claim and a chunk.
const ALL: [usize; 6] = [1; 6];

fn counts(leases: &Leases) -> [usize; 6] {
    [leases.registration, leases.peer, leases.turn_session, leases.server, leases.claim, leases.chunk]
}

/// A lease of every kind; sockets are silent for as long as a test likes, and only the binary of link is away.
async fn with_all_kinds() -> (TestDaemon, RawSocket) {
    let daemon = TestDaemon::start_with(|settings| {
        settings.liveness.timeout = 9000 * HOUR;
        settings.connections.http_requests_per_minute = 0;
        settings.connections.link_upgrades_per_minute = 0;
    })
    .await;
    let mut alice = daemon.raw().await;
    let drop =
        json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"], "deadDrop": "kept"});
    assert_eq!(ask(&mut alice, drop).await["type"], "rendezvous_result");
    ask(&mut alice, chunks::announce("alice", &["c"])).await;
    assert_eq!(ask(&mut alice, chunks::push("c", "data")).await, chunks::pushed("c", 0));
    let http = at(&daemon).await;
    register(&http, "node").await;
    let offer = json!({"peerId": "node", "turnAddresses": ["t"], "turnPort": 1});
    http.post("/register-turn-server", offer).await.ok();
    http.post("/allocate-turn", json!({"peerId": "node"})).await.ok();
    let server = json!({"serverId": "s", "endpoint": "ws://127.0.0.1:1", "publicKey": "k"});
    http.post("/servers", server).await.ok();
    drop_binary(&daemon).await;
    assert_eq!(counts(&daemon.status().await.leases), ALL);
    (daemon, alice)
}

async fn drop_binary(daemon: &TestDaemon) {
    let binary = binary_at(daemon.addresses().public, HOME).await;
    until_state(daemon, "held").await;
    drop(binary);
    until_state(daemon, "grace").await;
}

async fn at(daemon: &TestDaemon) -> Http {
    Http::at(daemon.addresses().public).await
}

/// What of all that is answered: the dead drop, the chunk, the peer, the server; and how the claim stands.
async fn answered(daemon: &TestDaemon) -> (Vec<&'static str>, String) {
    let (mut seeker, http) = (daemon.raw().await, at(daemon).await);
    let chunk = ask(&mut seeker, chunks::request("c")).await;
    let point = json!({"type": "register_rendezvous", "peerId": "seeker", "dailyPoints": ["p"]});
    let found = ask(&mut seeker, point).await;
    let (peers, servers) = (http.get("/peers").await.ok(), http.get("/servers").await.ok());
    let is_one = |list: &Value| list.as_array().unwrap().len() == 1;
    let answers = [
        ("drop", found["deadDrops"][0]["deadDrop"] == "kept"),
        ("chunk", chunk == chunks::cached("c", "data")),
        ("peer", is_one(&peers["peers"])),
        ("server", is_one(&servers["servers"])),
    ];
    let answered = answers.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    (answered, link::state(daemon).await)
}

/// Whatever there is to be removed would be by now: sweeps wait for nothing but time, which stands still, and requests that
/// clean have come by.
async fn settle(daemon: &TestDaemon) {
    let http = at(daemon).await;
    for _ in 0..3 {
        http.post("/heartbeat", json!({"peerId": "nobody"}))
            .await
            .refused(404, "Peer not found - please register first");
        Clock::system().sleep(150 * MS).await;
    }
}

#[tokio::test]
async fn a_leap_ahead_removes_nothing_within_the_grace_and_what_has_ended_after_it() {
    let (daemon, _alice) = with_all_kinds().await;
    daemon.clock.step_wall(5 * HOUR);
    settle(&daemon).await;
    assert_eq!(counts(&daemon.status().await.leases), ALL);
    // What has ended by the clock is not answered all the same; the drop has 43 hours left.
    assert_eq!(answered(&daemon).await.0, ["drop"]);
    daemon.advance(GRACE - MS);
    settle(&daemon).await;
    let leases = daemon.status().await.leases;
    assert_eq!(counts(&leases)[1..], ALL[1..], "to the millisecond");
    daemon.advance(MS);
    let gone = |leases: &Leases| counts(leases)[1..] == [0; 5];
    let status = daemon.until("what has ended is removed", |status| gone(&status.leases)).await;
    assert_eq!(status.leases.dead_drop_bytes, 4);
}

#[tokio::test]
async fn a_leap_ahead_that_is_put_right_by_a_restart_has_cost_nothing() {
    let (mut daemon, alice) = with_all_kinds().await;
    daemon.clock.step_wall(1000 * HOUR);
    settle(&daemon).await;
    daemon.stop([alice]).await;
    daemon.clock = Clock::manual(BEGINNING + 10_000);
    daemon.start_again().await;
    assert_eq!(counts(&daemon.status().await.leases), ALL);
    assert_eq!(answered(&daemon).await, (vec!["drop", "chunk", "peer", "server"], "grace".to_owned()));
}

#[tokio::test]
async fn a_leap_ahead_that_is_put_back_holds_time_and_removes_nothing_until_the_clock_has_come_to_it() {
    let (mut daemon, alice) = with_all_kinds().await;
    daemon.clock.step_wall(1000 * HOUR);
    settle(&daemon).await;
    daemon.clock.step_wall_back(1000 * HOUR);
    for _ in 0..4 {
        daemon.advance(GRACE);
        settle(&daemon).await;
    }
    assert_eq!(counts(&daemon.status().await.leases), ALL, "the grace of the leap is long over");
    assert_eq!(daemon.status().await.now, BEGINNING + 1000 * 3_600_000, "it is held");
    // A restart believes the clock again, in which two minutes have passed.
    daemon.stop([alice]).await;
    daemon.clock = Clock::manual(BEGINNING + 120_000);
    daemon.start_again().await;
    assert_eq!(answered(&daemon).await, (vec!["drop", "chunk", "peer", "server"], "grace".to_owned()));
}

#[tokio::test]
async fn time_that_is_held_goes_on_where_the_clock_catches_up_and_ends_are_exact_again() {
    let (daemon, _alice) = with_all_kinds().await;
    // Somebody has to have seen the time that is gone back behind.
    daemon.advance(10 * SECOND);
    daemon.status().await;
    daemon.clock.step_wall_back(HOUR);
    assert_eq!(answered(&daemon).await, (vec!["drop", "chunk", "peer", "server"], "grace".to_owned()));
    let status = daemon.status().await;
    assert_eq!(status.now, BEGINNING + 10_000);
    // An hour passes, in which time stands still: nothing ends.
    daemon.advance(HOUR);
    assert_eq!(answered(&daemon).await, (vec!["drop", "chunk", "peer", "server"], "grace".to_owned()));
    assert_eq!(daemon.status().await.now, BEGINNING + 10_000);
    let left = |end: u64| Duration::from_millis(BEGINNING + end - daemon.clock.now());
    daemon.advance(left(300_000) - MS);
    assert_eq!(answered(&daemon).await.0, ["drop", "chunk", "peer", "server"]);
    daemon.advance(MS);
    assert_eq!(answered(&daemon).await, (vec!["drop", "chunk", "peer"], "free".to_owned()));
    daemon.advance(left(600_000) - MS);
    assert_eq!(answered(&daemon).await.0, ["drop", "chunk", "peer"]);
    daemon.advance(MS);
    assert_eq!(answered(&daemon).await.0, ["drop", "chunk"]);
    daemon.advance(left(1_800_000) - MS);
    assert_eq!(answered(&daemon).await.0, ["drop", "chunk"]);
    daemon.advance(MS);
    assert_eq!(answered(&daemon).await.0, ["drop"]);
    daemon.advance(left(48 * 3_600_000));
    assert_eq!(answered(&daemon).await.0, [""; 0]);
}

#[tokio::test]
async fn a_start_far_ahead_of_what_is_stored_removes_nothing_within_the_grace() {
    for (put_right, kept) in [(true, ALL), (false, [0; 6])] {
        let (mut daemon, alice) = with_all_kinds().await;
        daemon.stop([alice]).await;
        daemon.clock = Clock::manual(BEGINNING + 1000 * 3_600_000);
        daemon.start_again().await;
        daemon.advance(GRACE - MS);
        settle(&daemon).await;
        assert_eq!(counts(&daemon.status().await.leases), ALL);
        if put_right {
            daemon.stop([]).await;
            daemon.clock = Clock::manual(BEGINNING + 60_000);
            daemon.start_again().await;
            let (answered, claim) = answered(&daemon).await;
            assert_eq!((answered, claim.as_str()), (vec!["drop", "chunk", "peer", "server"], "grace"));
        } else {
            // Believed: everything has ended long ago.
            daemon.advance(MS);
            daemon.until("it is swept", |status| status.leases.registration == 0).await;
            daemon.advance(900 * SECOND);
            daemon.until("the backup sweep has come", |status| counts(&status.leases) == kept).await;
        }
    }
}

#[tokio::test]
async fn a_start_near_what_is_stored_sweeps_at_once() {
    let (mut daemon, alice) = with_all_kinds().await;
    daemon.stop([alice]).await;
    daemon.clock = Clock::manual(BEGINNING + 3_600_000);
    daemon.start_again().await;
    let gone = |leases: &Leases| (leases.chunk, leases.turn_session) == (0, 0);
    daemon.until("what has ended is removed", |status| gone(&status.leases)).await;
    assert_eq!(answered(&daemon).await.0, ["drop"]);
}

#[tokio::test]
async fn a_start_behind_what_is_stored_ends_nothing_too_early_and_goes_by_the_clock() {
    let (mut daemon, alice) = with_all_kinds().await;
    daemon.stop([alice]).await;
    let back = BEGINNING - 5 * 3_600_000;
    daemon.clock = Clock::manual(back);
    daemon.start_again().await;
    assert_eq!(daemon.status().await.now, back, "the rows may be what was wrong");
    assert_eq!(answered(&daemon).await, (vec!["drop", "chunk", "peer", "server"], "grace".to_owned()));
    // A claim's grace is a full one at most, by whatever clock.
    let ends = link::claims(&daemon).await[0].ends;
    assert_eq!(ends, Some(back + 30_000));
    // Put right while it runs, which is a leap ahead: what was stored before is as it would have been.
    daemon.clock.step_wall(5 * HOUR);
    settle(&daemon).await;
    assert_eq!(counts(&daemon.status().await.leases)[1..5], ALL[1..5]);
    assert_eq!(answered(&daemon).await.0, ["drop", "chunk", "peer", "server"]);
}

#[tokio::test]
async fn a_claim_keeps_its_grace_over_restarts_whatever_the_clock_does_between_them() {
    let (mut daemon, alice) = with_all_kinds().await;
    daemon.stop([alice]).await;
    let full = u64::try_from(GRACE.as_millis()).unwrap();
    for (now, left) in [
        (BEGINNING + 7000, full - 7000),
        (BEGINNING - 1_000_000_000, full),
        (BEGINNING - 1_000_000_000 + 20_000, full - 20_000),
        // Over by this clock: the least that a restart gives.
        (BEGINNING + 1_000_000_000, 5000),
    ] {
        daemon.clock = Clock::manual(now);
        daemon.start_again().await;
        let [claim] = &link::claims(&daemon).await[..] else { panic!("there is one") };
        assert_eq!((claim.state.as_str(), claim.ends), ("grace", Some(now + left)), "at {now}");
        daemon.stop([]).await;
    }
}

#[tokio::test]
async fn small_steps_of_the_clock_are_no_news() {
    let (daemon, _alice) = with_all_kinds().await;
    for _ in 0..10 {
        daemon.clock.step_wall_back(SECOND);
        daemon.advance(SECOND);
        daemon.status().await;
        daemon.clock.step_wall(SECOND);
    }
    daemon.advance(1800 * SECOND);
    daemon.until("sweeps go on", |status| status.leases.chunk == 0).await;
}
