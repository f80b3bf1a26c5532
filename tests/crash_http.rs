//! Owns the proof of the HTTP dialects' promises (docs/storage.md): the real binary is killed with kill -9 at random moments
//! under load, and whatever registration, session or listed server it had acknowledged is there, whole, after the next
//! start; whatever it had not is there wholly or not at all.
//!
//! `CRASH_ROUNDS` is the number of rounds.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::http::{self, NODES, Node};
use crash::{check, number};
use daemon::Process;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::clock::Clock;

const UNLIMITED: [&str; 2] = ["--set", "limits.http_requests_per_minute=0"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_over_http_before_a_kill_is_there_whole_after_it() {
    let clock = Clock::system();
    let rounds = number("CRASH_ROUNDS").unwrap_or(15);
    let seed = clock.now();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut nodes: Vec<_> = (0..NODES).map(Node::new).collect();
    let mut total = 0;
    for round in 0..rounds {
        println!("round {round}");
        let daemon = Process::start(data.path(), &UNLIMITED);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (address, enough) = (daemon.public, rng.random_range(0..150));
        let running: Vec<_> = nodes
            .drain(..)
            .map(|node| tokio::spawn(node.ask_until_cut_off(address, acknowledged.clone())))
            .collect();
        while acknowledged.load(Ordering::Relaxed) < enough && !running.iter().any(|node| node.is_finished())
        {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
        daemon.kill();
        for node in running {
            nodes.push(node.await.unwrap());
        }
        total += acknowledged.load(Ordering::Relaxed);

        check(data.path());
        let daemon = Process::start(data.path(), &UNLIMITED);
        http::compare(&mut nodes, daemon.public).await;
        daemon.kill();
    }
    println!("{total} acknowledged");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}
