//! Owns the proof of the promise (protocol: signalling, section 4): the real binary is killed with kill -9 at random
//! moments under load, and whatever it had acknowledged is there, whole, after the next start; whatever it had not is
//! there wholly or not at all.
//!
//! `CRASH_ROUNDS` is the number of rounds, `CRASH_SEED` repeats the load of an earlier run.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::rendezvous::{PEERS, Peer, look};
use crash::{check, number};
use daemon::{Process, ask, connect};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use waypost::clock::Clock;

const UNLIMITED: [&str; 2] = ["--set", "limits.messages_per_minute=0"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_before_a_kill_is_there_whole_after_it() {
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(30);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut peers: Vec<_> = (0..PEERS).map(|number| Peer::new(number, seed)).collect();
    let mut total = 0;
    for round in 0..rounds {
        println!("round {round}");
        if round % 3 == 2 {
            // Killed while it starts, wherever it is then.
            let mut starting = Process::command(data.path(), &UNLIMITED).spawn().unwrap();
            clock.sleep(Duration::from_micros(rng.random_range(0..60_000))).await;
            starting.kill().unwrap();
            starting.wait().unwrap();
        }
        let daemon = Process::start(data.path(), &UNLIMITED);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (address, enough) = (daemon.public, rng.random_range(0..200));
        let running = peers
            .drain(..)
            .map(|peer| tokio::spawn(peer.register_until_cut_off(address, acknowledged.clone())));
        let running: Vec<_> = running.collect();
        while acknowledged.load(Ordering::Relaxed) < enough && !running.iter().any(|peer| peer.is_finished())
        {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
        daemon.kill();
        for peer in running {
            peers.push(peer.await.unwrap());
        }
        total += acknowledged.load(Ordering::Relaxed);

        check(data.path());
        let daemon = Process::start(data.path(), &UNLIMITED);
        let mut found = look(&daemon, &peers).await;
        for peer in &mut peers {
            peer.compare(&found.remove(&peer.id).unwrap_or_default());
        }
        assert_eq!(found, BTreeMap::new(), "nobody else is there");
        daemon.kill();
    }
    check(data.path());
    println!("{total} acknowledged registrations");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}

#[tokio::test]
async fn a_relay_and_its_load_are_on_the_disk_half_a_second_later() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let mut relay = connect(daemon.public).await;
    ask(&mut relay, json!({"type": "register", "peerId": "relay"})).await;
    ask(&mut relay, json!({"type": "update_load", "peerId": "relay", "connectedCount": 5})).await;
    // The promise is about the time that passes for the disk: there is no clock to move.
    Clock::system().sleep(Duration::from_millis(500)).await;
    daemon.kill();
    let daemon = Process::start(data.path(), &[]);
    let answer = ask(&mut connect(daemon.public).await, json!({"type": "get_relays"})).await;
    assert_eq!(answer["relays"], json!([{"peerId": "relay", "publicKey": null, "capacity": 0.25}]));
}
