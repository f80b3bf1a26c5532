//! Owns the proof of what a bad disk does: one that is full, read-only or slow. Writes are refused or wait; sockets, pings and
//! reads go on; it recovers by itself, and nothing acknowledged is lost.
//!
//! The first two are skipped, saying so, without root: they mount a file system of their own.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/disk.rs"]
mod disk;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crash::{admin, check};
use daemon::{Process, TestDaemon, ask, connect, hear, hears_nothing, offered, say, soon};
use disk::{Mounted, or_skip};
use serde_json::{Value, json};
use waypost::client::RawSocket;
use waypost::clock::Clock;

const DISK_BYTES: u64 = 24 << 20;
const UNLIMITED: [&str; 2] = ["--set", "limits.messages_per_minute=0"];

/// A registration of a point of its own, with a dead drop of 3000 bytes.
fn registration(peer: &str, number: usize) -> Value {
    json!({"type": "register_rendezvous", "peerId": peer, "dailyPoints": [format!("point {number}")],
        "deadDrops": {format!("point {number}"): format!("{number} {}", "x".repeat(3000))}})
}

/// Takes all space that is left; the file whose removal gives it back.
fn fill_up(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut filler = File::create(&path).unwrap();
    let mut piece = 1 << 20;
    while piece > 0 {
        if filler.write_all(&vec![1; piece]).is_err() {
            piece /= 2;
        }
    }
    path
}

/// A daemon on a small disk, a relay in it, and somebody who registers; all that was acknowledged to it.
struct OnSmallDisk {
    daemon: Process,
    data: PathBuf,
    relay: RawSocket,
    peer: RawSocket,
    acknowledged: Vec<usize>,
    count: usize,
}

impl OnSmallDisk {
    async fn start(disk: &Mounted) -> OnSmallDisk {
        let data = disk.path().join("data");
        let daemon = Process::start(&data, &UNLIMITED);
        let (mut relay, peer) = (connect(daemon.public).await, connect(daemon.public).await);
        let registered = ask(&mut relay, json!({"type": "register", "peerId": "relay"})).await;
        assert_eq!(registered["type"], "registered");
        let body = json!({"peerId": "node", "addresses": ["a"]});
        let url = format!("http://{}/register", daemon.public);
        let answer = reqwest::Client::new().post(url).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut small = OnSmallDisk { daemon, data, relay, peer, acknowledged: Vec::new(), count: 0 };
        for _ in 0..20 {
            assert!(small.registers().await);
        }
        small
    }

    /// Whether one more registration is acknowledged; else it is refused for want of storage, and for nothing else.
    async fn registers(&mut self) -> bool {
        self.count += 1;
        let answer = ask(&mut self.peer, registration("alice", self.count)).await;
        if answer["type"] == "rendezvous_result" {
            self.acknowledged.push(self.count);
            return true;
        }
        assert_eq!(answer["code"], "storage_unavailable", "{answer}");
        false
    }

    async fn until_refused(&mut self) {
        while self.registers().await {}
    }

    async fn status_of(&self, path: &str) -> u16 {
        reqwest::get(format!("http://{path}")).await.unwrap().status().as_u16()
    }

    /// Nothing is written; everything else goes on.
    async fn only_writes_fail(&mut self) {
        let ready = format!("{}/readyz", self.daemon.admin);
        for _ in 0..3 {
            assert!(!self.registers().await);
            assert_eq!(self.status_of(&ready).await, 503);
            assert_eq!(self.status_of(&format!("{}/livez", self.daemon.admin)).await, 200);
            hears_nothing(&mut self.relay).await;
            hears_nothing(&mut self.peer).await;
            let mut stranger = connect(self.daemon.public).await;
            assert_eq!(offered(&mut stranger).await, ["relay"]);
            let peers = reqwest::get(format!("http://{}/peers", self.daemon.public)).await.unwrap();
            assert!(peers.text().await.unwrap().contains("\"node\""));
            assert_eq!(self.status_of(&format!("{}/servers", self.daemon.public)).await, 200);
        }
    }

    async fn until_ready(&self) {
        let admin = admin(&self.daemon, &self.data);
        soon(async { while !admin.ready().await.unwrap() {} }).await;
    }

    /// All that was acknowledged is there, with the sockets of before and after one more start.
    async fn nothing_is_lost(mut self) {
        for _ in 0..20 {
            assert!(self.registers().await);
        }
        assert_eq!(offered(&mut self.peer).await, ["relay"]);
        everything_is_there(&self.daemon, &self.acknowledged).await;
        let OnSmallDisk { daemon, data, acknowledged, .. } = self;
        daemon.kill();
        check(&data);
        let daemon = Process::start(&data, &UNLIMITED);
        everything_is_there(&daemon, &acknowledged).await;
    }
}

async fn everything_is_there(daemon: &Process, acknowledged: &[usize]) {
    let mut seeker = connect(daemon.public).await;
    for numbers in acknowledged.chunks(20) {
        let points: Vec<_> = numbers.iter().map(|number| format!("point {number}")).collect();
        let message = json!({"type": "register_rendezvous", "peerId": "seeker", "dailyPoints": points});
        let found = ask(&mut seeker, message).await;
        let mut drops = found["deadDrops"].as_array().unwrap().iter();
        for number in numbers {
            let start = format!("{number} ");
            assert!(
                drops.any(|drop| drop["deadDrop"].as_str().unwrap().starts_with(&start)),
                "{number} is lost"
            );
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space_and_loses_nothing() {
    let Some(disk) = or_skip(Mounted::in_memory(DISK_BYTES)) else { return };
    let mut small = OnSmallDisk::start(&disk).await;
    for _ in 0..3 {
        let filler = fill_up(&disk.path());
        small.until_refused().await;
        small.only_writes_fail().await;
        fs::remove_file(filler).unwrap();
        small.until_ready().await;
    }
    small.nothing_is_lost().await;
}

#[tokio::test]
async fn a_disk_that_turns_read_only_refuses_writes_until_it_is_writable_and_loses_nothing() {
    let Some(disk) = or_skip(Mounted::in_memory(DISK_BYTES)) else { return };
    let mut small = OnSmallDisk::start(&disk).await;
    // A file system with files that are open for writing does not turn read-only. A store that has failed is closed.
    let filler = fill_up(&disk.path());
    small.until_refused().await;
    let clock = Clock::system();
    soon(async {
        while disk.remount("ro").is_err() {
            clock.sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(fs::remove_file(&filler).is_err(), "it is read-only");
    // Space is there from now on, and only that nothing can be written stands in the way.
    disk.remount(&format!("ro,size={}", 2 * DISK_BYTES)).unwrap();
    small.only_writes_fail().await;
    clock.sleep(Duration::from_millis(2500)).await;
    small.only_writes_fail().await;
    disk.remount("rw").unwrap();
    small.until_ready().await;
    small.nothing_is_lost().await;
}

#[tokio::test]
async fn on_a_slow_disk_pings_do_not_wait_and_answers_keep_their_order() {
    let mut daemon = TestDaemon::start().await;
    let [mut writer, mut pinger] = daemon.raws().await;
    daemon.faults.slow_down(Duration::from_millis(40));
    const REQUESTS: usize = 15;
    for number in 0..REQUESTS {
        say(&mut writer, registration("alice", number)).await;
        say(&mut writer, json!({"type": "ping"})).await;
    }
    let writing = async {
        for _ in 0..REQUESTS {
            // Each answer before what was asked after it, however quickly that could be answered.
            assert_eq!(hear(&mut writer).await["type"], "rendezvous_result");
            assert_eq!(hear(&mut writer).await["type"], "pong");
        }
    };
    let pings = Cell::new(0);
    let pinging = async {
        loop {
            hears_nothing(&mut pinger).await;
            pings.set(pings.get() + 1);
        }
    };
    tokio::select! {
        () = soon(writing) => {}
        () = pinging => unreachable!("it pings for ever"),
    }
    // Where pings waited for the disk there would be one or two for each answer.
    assert!(pings.get() > 10 * REQUESTS, "{} pings beside {REQUESTS} registrations", pings.get());
    daemon.faults.slow_down(Duration::ZERO);
    daemon.restart([writer, pinger]).await;
    let mut seeker = daemon.raw().await;
    let points: Vec<_> = (0..REQUESTS).map(|number| format!("point {number}")).collect();
    let message = json!({"type": "register_rendezvous", "peerId": "seeker", "dailyPoints": points});
    let found = ask(&mut seeker, message).await;
    assert_eq!(found["deadDrops"].as_array().unwrap().len(), REQUESTS);
}
