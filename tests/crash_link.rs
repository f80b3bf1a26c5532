//! Owns the proof of link's promise (docs/storage.md): a claim is on the disk before the first envelope flows. The real
//! binary is killed with kill -9, with binaries and phones attached.
//!
//! `CRASH_ROUNDS` is the number of rounds under load.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::link::{self as claims, BINARIES, claim_until_cut_off};
use crash::{check, number};
use daemon::{Process, SOON};
use link::{HOME, binary_at, close, closed, hear_frame, hear_text, left, met, phone_at, send};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use waypost::clock::Clock;

const SETTINGS: [&str; 4] = ["--set", "limits.link_upgrades_per_minute=0", "--set", "link.grace=1h"];

async fn health(daemon: &Process) -> (u64, u64) {
    let text = reqwest::get(format!("http://{}/healthz", daemon.public)).await.unwrap().text().await.unwrap();
    let health: Value = serde_json::from_str(&text).unwrap();
    let number = |name: &str| health[name].as_u64().unwrap();
    (number("connected_binaries"), number("connected_phones"))
}

#[tokio::test]
async fn after_a_kill_phones_come_back_first_and_what_they_send_arrives() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &SETTINGS);
    let mut home = binary_at(daemon.public, HOME).await;
    let claimed = async { while health(&daemon).await != (1, 0) {} };
    tokio::time::timeout(SOON, claimed).await.unwrap();
    let mut first = phone_at(daemon.public, HOME).await;
    met(&mut home, &mut first).await;
    let mut second = phone_at(daemon.public, HOME).await;
    met(&mut home, &mut second).await;
    daemon.kill();
    for socket in [&mut home, &mut first, &mut second] {
        assert_eq!(closed(socket).await.0, 1006);
    }

    let daemon = Process::start(data.path(), &SETTINGS);
    let mut stranger = phone_at(daemon.public, "nobody").await;
    assert_eq!(closed(&mut stranger).await, close(4404, "no server with that id"));
    let mut first = phone_at(daemon.public, HOME).await;
    let mut second = phone_at(daemon.public, HOME).await;
    for number in 0..10 {
        first.send_text(number.to_string()).await.unwrap();
    }
    second.send_text("\"bye\"").await.unwrap();
    drop(second);
    let gone = async { while health(&daemon).await != (0, 1) {} };
    tokio::time::timeout(SOON, gone).await.unwrap();

    let mut home = binary_at(daemon.public, HOME).await;
    let mut heard = Vec::new();
    for _ in 0..12 {
        heard.push(hear_text(&mut home).await);
    }
    let of_the_first: Vec<_> = heard.iter().filter(|text| !text.contains("bye")).collect();
    let last: Value = serde_json::from_str(heard.iter().find(|text| text.contains("bye")).unwrap()).unwrap();
    let told = left(last["conn_id"].as_str().unwrap(), 1001);
    assert!(of_the_first.iter().any(|text| **text == told), "{heard:?}");
    let frames = of_the_first.iter().filter(|text| ***text != told).enumerate();
    for (number, text) in frames {
        assert!(text.ends_with(&format!(",\"frame\":{number}}}")), "{heard:?}");
    }
    first.send_text("\"now\"").await.unwrap();
    let (conn_id, _) = hear_frame(&mut home).await;
    send(&mut home, &conn_id, json!("welcome back")).await;
    assert_eq!(hear_text(&mut first).await, "\"welcome back\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_through_which_a_frame_has_come_outlives_a_kill() {
    let clock = Clock::system();
    let rounds = number("CRASH_ROUNDS").unwrap_or(10);
    let seed = clock.now();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 0..rounds {
        let daemon = Process::start(data.path(), &SETTINGS);
        let count = Arc::new(AtomicUsize::new(0));
        let enough = rng.random_range(0..60);
        let running: Vec<_> = (0..BINARIES)
            .map(|number| tokio::spawn(claim_until_cut_off(daemon.public, number, round, count.clone())))
            .collect();
        while count.load(Ordering::Relaxed) < enough && !running.iter().any(|binary| binary.is_finished()) {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
        daemon.kill();
        let mut claimed = Vec::new();
        for binary in running {
            claimed.extend(binary.await.unwrap());
        }

        check(data.path());
        let daemon = Process::start(data.path(), &SETTINGS);
        claims::compare(&claimed, &daemon, data.path()).await;
        total += claimed.len();
        daemon.kill();
    }
    println!("{total} claims");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}
