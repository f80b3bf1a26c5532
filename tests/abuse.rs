//! Owns the proof that a peer that does not read costs itself alone: what it makes the daemon keep is bounded, and its
//! socket can be ended like any other.

#[path = "common/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{RawTcp, SECOND, TestDaemon};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// More than the kernel keeps on the way in both directions.
const A_LOT: usize = 96 << 20;

/// One masked frame (its mask is zero) of 125 bytes.
fn frame(opcode: u8) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | 125, 0, 0, 0, 0];
    frame.resize(6 + 125, b' ');
    frame
}

/// Whether the daemon has stopped reading before all of this was sent.
async fn is_held_back(socket: &mut RawTcp, frame: &[u8]) -> bool {
    let many = frame.repeat(8192);
    let sending = async {
        for _ in 0..A_LOT / many.len() {
            if socket.stream.write_all(&many).await.is_err() {
                return;
            }
        }
    };
    timeout(5 * SECOND, sending).await.is_err()
}

async fn deaf(daemon: &TestDaemon) -> RawTcp {
    let mut socket = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    socket.hear().await;
    socket.send_json(json!({"type": "register", "peerId": "deaf"})).await;
    assert_eq!(socket.hear().await["type"], "registered");
    socket
}

#[tokio::test]
async fn pings_whose_pongs_nobody_reads_are_not_answered_without_end() {
    let daemon = TestDaemon::start().await;
    let mut socket = deaf(&daemon).await;
    assert!(is_held_back(&mut socket, &frame(9)).await, "every ping was taken");
    // It is ended like any other that is not heard.
    daemon.advance(61 * SECOND);
    daemon.until("the deaf socket is gone", |status| status.connections.open == 0).await;
    assert_eq!(daemon.status().await.connections.unsent_bytes, 0);
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_back_their_requests() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.messages_per_minute = 0).await;
    let mut socket = deaf(&daemon).await;
    // Not JSON, so that each is answered.
    assert!(is_held_back(&mut socket, &frame(1)).await, "every message was taken");
    let status = daemon.status().await;
    assert!(status.connections.unsent_bytes < 1 << 20, "{} bytes are kept", status.connections.unsent_bytes);
    // The id can be had after a probe: nothing on the stuck socket waits for it to be read.
    let mut newcomer = daemon.raw().await;
    newcomer.send_json(&json!({"type": "register", "peerId": "deaf"})).await.unwrap();
    let answer = async {
        loop {
            daemon.advance(5 * SECOND);
            if let Ok(answer) = newcomer.next_message(Duration::from_millis(200)).await {
                return answer;
            }
        }
    };
    assert_eq!(daemon::soon(answer).await["type"], "registered");
    drop(socket);
}

/// A socket with more large answers under way than the kernel takes.
async fn clogged(daemon: &TestDaemon) -> RawTcp {
    let points: Vec<String> = (0..50).map(|number| format!("point {number}")).collect();
    let mut giver = daemon.raw().await;
    let drops = json!({"type": "register_rendezvous", "peerId": "giver", "dailyPoints": points,
        "deadDrop": "x".repeat(4096)});
    assert_eq!(daemon::ask(&mut giver, drops).await["type"], "rendezvous_result");
    let mut socket = deaf(daemon).await;
    let request = json!({"type": "register_rendezvous", "peerId": "deaf", "dailyPoints": points}).to_string();
    let asking = async {
        loop {
            socket.send(1, request.as_bytes()).await;
        }
    };
    tokio::select! {
        () = asking => {}
        _ = daemon.until("answers wait", |status| status.connections.unsent_bytes > 100_000) => {}
    }
    socket
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_who_does_not_read() {
    let mut daemon = TestDaemon::start_with(|settings| settings.drain.timeout = 10 * SECOND).await;
    let socket = clogged(&daemon).await;
    timeout(8 * SECOND, daemon.stop([])).await.expect("the shutdown waits for nobody");
    drop(socket);
}

#[tokio::test]
async fn a_full_budget_costs_the_slowest_alone() {
    let daemon =
        TestDaemon::start_with(|settings| settings.connections.outbox_total_bytes = 100 * 1024).await;
    let mut others = daemon.raws::<8>().await;
    let socket = clogged(&daemon).await;
    for _ in 0..5 {
        for other in &mut others {
            assert_eq!(daemon::ask(other, json!({"type": "get_relays"})).await["type"], "relays");
        }
    }
    daemon.until_metric("waypost_connections_ended_total{reason=\"slow_consumer\"}", 1.0).await;
    drop(socket);
}
