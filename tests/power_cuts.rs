//! Owns the proof that power cuts lose nothing that was acknowledged: the real binary writes to an ext4 image under load of
//! all dialects; it is stopped at random moments, the image is copied as it is then, with what had reached the device and
//! nothing else, and the real binary starts on the copy.
//!
//! Skipped, saying so, without root or loop devices. `POWER_CUTS` is the number of cuts, `CRASH_SEED` repeats the load of an
//! earlier run.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/disk.rs"]
mod disk;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::crowd::{Crowd, SETTINGS};
use crash::{check, number};
use daemon::Process;
use disk::{Mounted, make_ext4, or_skip};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::clock::Clock;

const IMAGE_BYTES: u64 = 128 << 20;

/// The image as it was at one moment: the kernel may go on writing while it is read, so it is read until it stands still.
fn copy_at_one_moment(from: &Path, to: &Path) {
    let mut before = fs::read(from).unwrap();
    loop {
        let after = fs::read(from).unwrap();
        if before == after {
            return fs::write(to, after).unwrap();
        }
        before = after;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_before_a_power_cut_is_there_whole_after_it() {
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let cuts = number("POWER_CUTS").unwrap_or(5);
    println!("CRASH_SEED={seed} POWER_CUTS={cuts}");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(memory) = or_skip(Mounted::in_memory(4 * IMAGE_BYTES)) else { return };
    let image = |cut: u64| memory.path().join(format!("{cut}.img"));
    let made = make_ext4(&image(0), IMAGE_BYTES).and_then(|()| Mounted::image(&image(0)));
    let Some(mut mounted) = or_skip(made) else { return };
    let mut crowd = Crowd::new(seed);
    let mut total = 0;
    for cut in 0..cuts {
        println!("cut {cut}");
        let data = mounted.path().join("data");
        let daemon = Process::start(&data, &SETTINGS);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let least = Duration::from_millis(if cut % 2 == 0 { 700 } else { 0 });
        let (enough, started) = (rng.random_range(0..600), clock.running());
        let cut_off = async {
            while acknowledged.load(Ordering::Relaxed) < enough || clock.running() < started + least {
                clock.sleep(Duration::from_micros(200)).await;
            }
            clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
            daemon.signal("STOP");
            copy_at_one_moment(&image(cut), &image(cut + 1));
            daemon.signal("KILL");
        };
        crowd = tokio::join!(crowd.ask_until_cut_off(&daemon, acknowledged.clone()), cut_off).0;
        daemon.kill();
        total += acknowledged.load(Ordering::Relaxed);

        mounted = Mounted::image(&image(cut + 1)).unwrap();
        fs::remove_file(image(cut)).unwrap();
        let data = mounted.path().join("data");
        let daemon = Process::start(&data, &SETTINGS);
        crowd.compare(&daemon, &data).await;
        daemon.kill();
        check(&data);
    }
    println!("{total} acknowledged, {} relays", crowd.relays());
    assert!(total as u64 > 10 * cuts, "there was no load to speak of: {total}");
    assert!(crowd.relays() > 0);
}
