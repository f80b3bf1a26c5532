//! Owns the proof of `waypost compact` as the real binary: what it says and refuses, and that kill -9 at any moment of
//! it costs nothing. What it does to a store is in `store_compact.rs`.
//!
//! `CRASH_ROUNDS` is the number of kills, `CRASH_SEED` repeats their moments.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/store.rs"]
#[allow(dead_code, reason = "each test file uses its share")]
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use daemon::{Process, ask, connect};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use store::{commit, dump_all, open, put, registration};
use waypost::clock::Clock;
use waypost::store::{Faults, Indexed, LeaseKey, Rows, Store};

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.arg("compact").arg("--data-dir").arg(data).args(arguments).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Many registrations, most of which are gone again.
fn fill(data: &Path, count: u64, alive: u64) {
    let store = open(&Process::store(data));
    for first in (1..=count).step_by(100) {
        commit(&store, |changes| {
            for sequence in first..first + 100 {
                let mut record = registration("bob", u64::MAX, u64::MAX);
                record.payloads = vec!["x".repeat(256).into()];
                put(changes, sequence, &record, u64::MAX);
                if let Some(old) = sequence.checked_sub(alive).filter(|old| *old > 0) {
                    let rows = Rows { parts: 1, amended: false, indexed: Indexed::at(u64::MAX) };
                    changes.remove_all(&LeaseKey::registration(old), rows);
                }
            }
        });
    }
    store.flush().unwrap();
}

/// Names and contents of all files in the data directory but the store's.
fn others(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path == Process::store(data) {
            } else if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                files.insert(path, content);
            }
        }
    }
    files
}

#[tokio::test]
async fn it_compacts_the_store_alone_and_the_daemon_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let daemon = Process::start(data, &[]);
    let point = json!({"type": "register_rendezvous", "peerId": "ann", "dailyPoints": ["point"],
        "deadDrops": {"point": "from ann"}});
    assert_eq!(ask(&mut connect(daemon.public).await, point).await["type"], "rendezvous_result");
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    fs::create_dir(data.join("store.schema-1")).unwrap();
    for name in ["store.schema-1/db", "store.old", "notes"] {
        fs::write(data.join(name), name).unwrap();
    }
    let before = others(data);

    let done = run(data, &[]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(text(&done.stderr), "", "no progress where there is no terminal");
    let line = text(&done.stdout);
    let begins = format!("{}: ", Process::store(data).display());
    assert!(line.starts_with(&begins) && line.contains(" before, ") && line.contains(" rows in "), "{line}");
    assert_eq!(others(data), before);

    let daemon = Process::start(data, &[]);
    let look = json!({"type": "register_rendezvous", "peerId": "bob", "dailyPoints": ["point"]});
    let found = ask(&mut connect(daemon.public).await, look).await;
    assert_eq!(found["deadDrops"][0]["deadDrop"], "from ann", "{found}");
}

#[test]
fn json_tells_bytes_before_and_after_rows_and_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    fill(data, 10_000, 5000);
    // Most of them go.
    let store = open(&Process::store(data));
    commit(&store, |changes| {
        for sequence in 5001..9901 {
            let rows = Rows { parts: 1, amended: false, indexed: Indexed::at(u64::MAX) };
            changes.remove_all(&LeaseKey::registration(sequence), rows);
        }
    });
    store.flush().unwrap();
    drop(store);
    let size = || -> u64 {
        let files =
            fs::read_dir(Process::store(data)).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        files.filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
    };
    let (before, rows) = (size(), dump_all(&Process::store(data)).len());
    let done = run(data, &["--json"]);
    assert!(done.status.success(), "{done:?}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["store"], json!(Process::store(data)));
    assert_eq!((&report["rows"], &report["bytes_after"]), (&json!(rows), &json!(size())));
    // Opening it may write a little, or cut off what is free at its end.
    assert!(
        report["bytes_before"].as_u64() > report["bytes_after"].as_u64().map(|after| 2 * after),
        "{report}"
    );
    assert!(size() < before);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_store_that_a_daemon_holds_is_refused_as_the_daemon_refuses_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let daemon = Process::start(data, &[]);
    let refused = run(data, &["--json"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("is in use by another process: stop that waypost first"));
    assert_eq!(text(&refused.stdout), "");
    assert_eq!(
        ask(&mut connect(daemon.public).await, json!({"type": "ping"})).await,
        json!({"type": "pong"})
    );
}

#[test]
fn without_a_store_it_says_so_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("nowhere");
    let refused = run(&data, &[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).starts_with("there is no store "), "{refused:?}");
    assert!(!data.exists());
}

#[test]
fn a_kill_at_any_moment_costs_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(20);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let path = Process::store(data);
    fill(data, 20_000, 5000);
    let mut expected = dump_all(&path);
    assert!(run(data, &[]).status.success());
    // The next ones take less, since there is less to read.
    let started = clock.running();
    assert!(run(data, &[]).status.success());
    let whole = clock.running() - started;

    let mut killed = 0;
    for round in 0..rounds {
        let mut running = command(data, &[]).spawn().unwrap();
        let moment = whole.mul_f64(rng.random_range(0.0..1.1));
        std::thread::sleep(moment);
        running.kill().unwrap();
        let status = running.wait().unwrap();
        killed += u64::from(!status.success());
        let left: Vec<_> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        println!("round {round}: {moment:?} {status} {left:?}");
        if round % 2 == 0 {
            // Counts one more boot.
            let store = Store::open(&path, Faults::default()).unwrap();
            assert_eq!(store.check().unwrap().problems, []);
            let boot = ("meta".to_owned(), b"boot".to_vec());
            let row = expected.iter_mut().find(|(tree, key, _)| (tree, key) == (&boot.0, &boot.1)).unwrap();
            row.2 = store.boot().to_be_bytes().to_vec();
        } else {
            assert!(run(data, &[]).status.success());
        }
        assert!(!data.join("store.compacting").exists() && !data.join("store.uncompacted").exists());
        assert!(dump_all(&path) == expected, "round {round}: the rows are others");
    }
    assert!(killed * 4 > rounds, "{killed} of {rounds} were killed in time");
}
