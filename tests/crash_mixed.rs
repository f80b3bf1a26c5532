//! Owns the proof of all promises at once (docs/storage.md): the real binary is killed with kill -9 at random moments while
//! clients of all dialects ask, and whatever it had acknowledged to any of them is there, whole, after the next start.
//!
//! `CRASH_ROUNDS` is the number of rounds, `CRASH_SEED` repeats the load of an earlier run.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::crowd::{Crowd, SETTINGS};
use crash::{check, number};
use daemon::Process;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::clock::Clock;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_any_dialect_had_acknowledged_before_a_kill_is_there_whole_after_it() {
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(10);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut crowd = Crowd::new(seed);
    let mut total = 0;
    for round in 0..rounds {
        println!("round {round}");
        if round % 3 == 2 {
            // Killed while it starts, wherever it is then.
            let mut starting = Process::command(data.path(), &SETTINGS).spawn().unwrap();
            clock.sleep(Duration::from_micros(rng.random_range(0..60_000))).await;
            starting.kill().unwrap();
            starting.wait().unwrap();
        }
        let daemon = Process::start(data.path(), &SETTINGS);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        // Some rounds are long enough for what is applied to be on the disk.
        let least = Duration::from_millis(if round % 2 == 0 { 700 } else { 0 });
        let (enough, started) = (rng.random_range(0..400), clock.running());
        let cut_off = async {
            while acknowledged.load(Ordering::Relaxed) < enough || clock.running() < started + least {
                clock.sleep(Duration::from_micros(200)).await;
            }
            clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
            daemon.signal("KILL");
        };
        crowd = tokio::join!(crowd.ask_until_cut_off(&daemon, acknowledged.clone()), cut_off).0;
        daemon.kill();
        total += acknowledged.load(Ordering::Relaxed);

        check(data.path());
        let daemon = Process::start(data.path(), &SETTINGS);
        crowd.compare(&daemon, data.path()).await;
        daemon.kill();
    }
    check(data.path());
    println!("{total} acknowledged, {} relays", crowd.relays());
    assert!(total as u64 > 10 * rounds, "there was no load to speak of: {total}");
    assert!(crowd.relays() > 0);
}
