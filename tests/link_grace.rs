//! Owns the claim over time: grace, reclaim, take-over, restart, a disk that fails (protocol: link, section 4).

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use std::time::Duration;

use daemon::{SECOND, SOON, TestDaemon};
use link::{
    HOME, binary, binary_at, claims, close, closed, hear_frame, hear_text, met, phone, phone_at, send, state,
    until_state,
};
use serde_json::json;
use waypost::client::RawSocket;

const MILLISECOND: Duration = Duration::from_millis(1);

async fn is_alone(daemon: &TestDaemon) {
    daemon.until("nobody is connected", |status| status.connections.open == 0).await;
}

#[tokio::test]
async fn a_claim_stays_for_its_grace_to_the_millisecond_and_is_free_at_its_end() {
    let daemon = link::start_with(|settings| settings.link.grace = 3 * SECOND).await;
    let address = daemon.addresses().public;
    drop(binary(&daemon, HOME).await);
    until_state(&daemon, "grace").await;
    assert_eq!(claims(&daemon).await[0].left_ms, Some(3000), "still claimed just after");
    let mut first = phone(&daemon, HOME).await;
    daemon.advance(3 * SECOND - MILLISECOND);
    assert_eq!(claims(&daemon).await[0].left_ms, Some(1), "still claimed just before the end");
    let _second = phone(&daemon, HOME).await;
    daemon.advance(MILLISECOND);
    // The answer does not depend on whether the sweeper has looked.
    let mut late = phone_at(address, HOME).await;
    assert_eq!(closed(&mut late).await, close(4404, "no server with that id"));
    assert_eq!(state(&daemon).await, "free");
    assert_eq!(closed(&mut first).await, close(1011, "binary did not reconnect"));
    daemon.until("its row is gone", |status| status.leases.claim == 0).await;
    daemon.until_metric("waypost_link_graces_ended_total", 1.0).await;
    is_alone(&daemon).await;

    // The upgrade gate, the conflict and a plain claim are as ever.
    assert_eq!(daemon::RawTcp::open(address, "/v1/server", "").await.status(), 400);
    let mut afresh = binary(&daemon, HOME).await;
    assert_eq!(claims(&daemon).await[0].generation, 2);
    let mut other = binary_at(address, HOME).await;
    tokio::select! {
        refused = closed(&mut other) => assert_eq!(refused, close(4409, "server-id already claimed")),
        heard = afresh.next_text(SOON) => panic!("{heard:?}"),
    }
    drop(afresh);
    until_state(&daemon, "grace").await;
    daemon.advance(3 * SECOND);
    daemon.until_metric("waypost_link_graces_ended_total", 2.0).await;
    assert!(daemon.engine().check().await.unwrap().memory_agrees);
}

#[tokio::test]
async fn a_claim_at_the_very_end_starts_afresh_before_the_sweeper_has_looked() {
    let daemon = link::start().await;
    drop(binary(&daemon, HOME).await);
    until_state(&daemon, "grace").await;
    let mut old = phone(&daemon, HOME).await;
    old.send_text("\"for nobody\"").await.unwrap();
    daemon.until("it waits", |status| status.connections.unsent_bytes > 0).await;
    daemon.advance(30 * SECOND);
    let mut home = binary_at(daemon.addresses().public, HOME).await;
    assert_eq!(closed(&mut old).await, close(1011, "binary did not reconnect"));
    daemon.until("the binary holds it", |status| status.connections.binaries == 1).await;
    met(&mut home, &mut phone(&daemon, HOME).await).await;
    daemon.until_metric("waypost_link_graces_ended_total", 1.0).await;
    daemon.advance(10 * SECOND);
    let metrics = daemon.admin().metrics().await.unwrap();
    assert_eq!(daemon::metric(&metrics, "waypost_link_graces_ended_total"), 1.0, "a grace ends once");
    assert_eq!(state(&daemon).await, "held");
}

#[tokio::test]
async fn a_reclaim_within_the_grace_keeps_phones_and_ends_the_countdown() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let conn_id = met(&mut home, &mut first).await;
    for generation in 2..5 {
        drop(home);
        until_state(&daemon, "grace").await;
        daemon.advance(29 * SECOND);
        first.send_text("\"meanwhile\"").await.unwrap();
        home = binary(&daemon, HOME).await;
        assert_eq!(hear_frame(&mut home).await, (conn_id.clone(), "\"meanwhile\"".to_owned()));
        assert_eq!(claims(&daemon).await[0].generation, generation);
    }
    daemon.advance(29 * SECOND);
    send(&mut home, &conn_id, json!("still here")).await;
    assert_eq!(hear_text(&mut first).await, "\"still here\"");
    assert_eq!(state(&daemon).await, "held");
}

#[tokio::test]
async fn phones_are_evicted_on_a_reclaim_where_the_setting_says_so() {
    let daemon = link::start_with(|settings| settings.link.evict_on_reclaim = true).await;
    let home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    drop(home);
    until_state(&daemon, "grace").await;
    first.send_text("1").await.unwrap();
    daemon.until("it waits", |status| status.connections.unsent_bytes > 0).await;
    let mut home = binary(&daemon, HOME).await;
    assert_eq!(closed(&mut first).await, close(4404, "binary reclaimed server-id"));
    let mut second = phone(&daemon, HOME).await;
    met(&mut home, &mut second).await;
    assert_eq!(daemon.status().await.connections.unsent_bytes, 0);
}

#[tokio::test]
async fn a_silent_holder_is_replaced_after_the_probe_and_its_late_exit_does_nothing() {
    let daemon = link::start().await;
    let mut silent = link::mute(&daemon, "/v1/server", HOME).await;
    let mut first = phone(&daemon, HOME).await;
    first.send_text("\"to the old\"").await.unwrap();
    let Some((1, text)) = silent.frame().await else { panic!("the frame") };
    assert!(text.ends_with(b"\"to the old\"}"));
    let mut newcomer = binary_at(daemon.addresses().public, HOME).await;
    assert!(matches!(silent.frame().await, Some((9, _))), "a ping");
    // Meanwhile the holder goes on serving.
    first.send_text("\"still to the old\"").await.unwrap();
    assert!(matches!(silent.frame().await, Some((1, _))));
    assert_eq!(claims(&daemon).await[0].generation, 1);
    daemon.advance(10 * SECOND);
    assert_eq!(silent.closed().await, close(1011, "heartbeat timeout"));
    first.send_text("\"to the new\"").await.unwrap();
    assert_eq!(hear_frame(&mut newcomer).await.1, "\"to the new\"");
    drop(silent);
    daemon.until("the old one is gone", |status| status.connections.open == 2).await;
    assert_eq!((state(&daemon).await, claims(&daemon).await[0].generation), ("held".to_owned(), 2));
    daemon.advance(29 * SECOND);
    met(&mut newcomer, &mut first).await;
}

#[tokio::test]
async fn of_two_claims_at_once_exactly_one_wins() {
    let daemon = link::start().await;
    let address = daemon.addresses().public;
    for round in 0..20 {
        let id = format!("home {round}");
        let mut both =
            futures_util::future::join_all([binary_at(address, &id), binary_at(address, &id)]).await;
        let mut second = both.pop().unwrap();
        let mut first = both.pop().unwrap();
        let refused = close(4409, "server-id already claimed");
        // The winner answers its ping while it is listened to.
        tokio::select! {
            told = closed(&mut first) => assert_eq!(told, refused),
            told = closed(&mut second) => assert_eq!(told, refused),
        }
        daemon.until("one is left", |status| status.connections.binaries == round + 1).await;
        std::mem::forget((first, second));
    }
}

/// How a binary may drop its connection.
async fn part(socket: RawSocket, how: usize) {
    let mut socket = socket;
    match how % 3 {
        0 => {}
        1 => {
            use tokio_tungstenite::tungstenite::Message;
            socket.send(Message::Close(None)).await.unwrap();
        }
        // Words that are still under way when the newcomer is there.
        _ => {
            for _ in 0..3 {
                socket.send_text(r#"{"conn_id":"x","frame":1}"#).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn an_instant_reconnect_a_thousand_times_in_a_row_is_never_refused() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let conn_id = met(&mut home, &mut first).await;
    for number in 0..1000 {
        part(home, number).await;
        home = binary_at(daemon.addresses().public, HOME).await;
        first.send_text(number.to_string()).await.unwrap();
        // A frame of the instant in between may have gone to the connection before; this one holds the id all the same.
        loop {
            let heard = home.next_text(SECOND / 20).await;
            match heard {
                Ok(text) => {
                    assert!(text.contains(&conn_id), "{text}");
                    break;
                }
                Err(waypost::client::ClientError::Timeout) => first.send_text("\"again\"").await.unwrap(),
                Err(error) => panic!("round {number}: {error}"),
            }
        }
    }
    let metrics = daemon.admin().metrics().await.unwrap();
    let refused = "waypost_connections_ended_total{reason=\"server_id_claimed\"}";
    assert_eq!(daemon::metric(&metrics, refused), 0.0);
}

#[tokio::test]
async fn over_a_restart_a_held_claim_gets_its_full_grace_and_a_grace_keeps_what_it_had_left() {
    let mut daemon = link::start().await;
    drop(binary(&daemon, "long away").await);
    until_state(&daemon, "grace").await;
    daemon.advance(10 * SECOND);
    drop(binary(&daemon, "away").await);
    daemon.until("it is gone", |status| status.connections.binaries == 0).await;
    let home = binary(&daemon, HOME).await;
    daemon.advance(17 * SECOND);
    daemon.stop([]).await;
    drop(home);
    daemon.start_again().await;
    let left = async |daemon: &TestDaemon| -> Vec<_> {
        let all = claims(daemon).await;
        all.into_iter().map(|claim| (claim.server_id, claim.left_ms.unwrap())).collect()
    };
    let told = |all: [(&str, u64); 3]| {
        all.map(|(id, left)| (id.to_owned(), left * 1000)).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(left(&daemon).await, told([("away", 13), (HOME, 30), ("long away", 5)]));
    // It is no new grace with every start.
    daemon.advance(8 * SECOND);
    daemon.until("one is over", |status| status.leases.claim == 2).await;
    daemon.stop([]).await;
    daemon.start_again().await;
    assert_eq!(left(&daemon).await, [("away".to_owned(), 5000), (HOME.to_owned(), 22_000)]);
    assert!(daemon.engine().check().await.unwrap().memory_agrees);
}

#[tokio::test]
async fn after_a_restart_phones_may_come_before_their_binary() {
    let mut daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    met(&mut home, &mut first).await;
    daemon.stop([]).await;
    daemon.start_again().await;
    let mut first = phone(&daemon, HOME).await;
    first.send_text("\"in between\"").await.unwrap();
    daemon.advance(29 * SECOND);
    let mut home = binary(&daemon, HOME).await;
    assert_eq!(hear_frame(&mut home).await.1, "\"in between\"");
    assert_eq!(claims(&daemon).await[0].generation, 2);
}

#[tokio::test]
async fn a_claim_that_cannot_be_written_is_refused_and_nothing_else_changes() {
    let daemon = link::start().await;
    let address = daemon.addresses().public;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    met(&mut home, &mut first).await;
    for what in ["commit", "flush"] {
        match what {
            "commit" => daemon.faults.fail_write(1),
            _ => daemon.faults.fail_flush(1),
        }
        let mut refused = binary_at(address, "new").await;
        assert_eq!(closed(&mut refused).await, close(1013, "storage unavailable"), "{what}");
        daemon.until("the store is open again", |status| status.ready).await;
        assert_eq!(state(&daemon).await, "held", "{what}");
        met(&mut home, &mut first).await;
        assert!(daemon.engine().check().await.unwrap().memory_agrees);
    }
    // A binary that leaves while nothing can be written is in its grace when the store is back.
    daemon.faults.fail_write(1);
    drop(home);
    daemon.until_metric("waypost_store_failures_total", 3.0).await;
    daemon.until("the store is open again", |status| status.ready).await;
    until_state(&daemon, "grace").await;
    first.send_text("\"kept\"").await.unwrap();
    let mut home = binary(&daemon, HOME).await;
    assert_eq!(hear_frame(&mut home).await.1, "\"kept\"");
}

#[tokio::test]
async fn a_reclaim_that_cannot_be_written_leaves_the_grace_and_what_waits() {
    let daemon = link::start().await;
    drop(binary(&daemon, HOME).await);
    until_state(&daemon, "grace").await;
    let mut first = phone(&daemon, HOME).await;
    first.send_text("\"kept\"").await.unwrap();
    daemon.until("it waits", |status| status.connections.unsent_bytes > 0).await;
    // With its flush the release is on the disk as well.
    let _other = binary(&daemon, "other").await;
    daemon.faults.fail_flush(1);
    let mut refused = binary_at(daemon.addresses().public, HOME).await;
    assert_eq!(closed(&mut refused).await, close(1013, "storage unavailable"));
    daemon.until("the store is open again", |status| status.ready).await;
    let mut home = binary(&daemon, HOME).await;
    let (conn_id, frame) = hear_frame(&mut home).await;
    assert_eq!(frame, "\"kept\"");
    send(&mut home, &conn_id, json!(1)).await;
    assert_eq!(hear_text(&mut first).await, "1");
}
