//! Owns the proof of `waypost backup` and `waypost restore` as the real binary: the server goes on elsewhere as itself, with
//! what it had; kill -9 at any moment of either leaves a whole store. What a file and a restore promise is in
//! `store_backup.rs`.
//!
//! `CRASH_ROUNDS` is the number of kills, `CRASH_SEED` repeats their moments.

#[path = "common/command.rs"]
mod command;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/store.rs"]
#[allow(dead_code, reason = "each test file uses its share")]
mod store;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use command::{command, run, said, told};
use daemon::{BEGINNING, Process, TestDaemon, ask, connect};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use store::{commit, dump, open, put, registration};
use waypost::client::ClientError;
use waypost::clock::Clock;
use waypost::daemon::{ADMIN_TOKEN, SERVER_KEY};
use waypost::store::{BackupError, Faults, Store, verify};

const UNLIMITED: [&str; 4] =
    ["--set", "limits.messages_per_minute=0", "--set", "rendezvous.max_points_per_peer=1000000"];

/// The flags by which a command finds a daemon.
fn at(daemon: &Process) -> [String; 2] {
    ["--admin".to_owned(), format!("http://{}", daemon.admin)]
}

fn back_up(daemon: &Process, data: &Path, file: &Path, more: &[&str]) -> std::process::Output {
    let [flag, url] = at(daemon);
    run(data, &[&["backup", file.to_str().unwrap(), &flag, &url], more].concat())
}

/// Registrations in a store that nobody has open.
fn fill(data: &Path, count: u64) {
    let store = open(&Process::store(data));
    for first in (1..=count).step_by(100) {
        commit(&store, |changes| {
            for sequence in first..first + 100 {
                let mut record = registration("bob", u64::MAX, u64::MAX);
                record.payloads = vec!["x".repeat(256).into()];
                put(changes, sequence, &record, u64::MAX);
            }
        });
    }
    store.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_elsewhere_as_itself_from_its_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (data, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
    let file = folder.path().join("waypost.backup");
    let daemon = Process::start(&data, &[]);
    let point = json!({"type": "register_rendezvous", "peerId": "ann", "dailyPoints": ["point"],
        "deadDrops": {"point": "from ann"}});
    assert_eq!(ask(&mut connect(daemon.public).await, point).await["type"], "rendezvous_result");

    let done = back_up(&daemon, &data, &file, &["--json"]);
    assert!(done.status.success(), "{done:?}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((&report["file"], &report["bytes"]), (&json!(file), &json!(meta.len())));
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert!(!folder.path().join("waypost.backup.partial").exists());
    assert_eq!(told(&done), "", "no progress where there is no terminal");
    let streamed = back_up(&daemon, &data, Path::new("-"), &[]);
    fs::write(folder.path().join("streamed"), &streamed.stdout).unwrap();
    let seen = verify(&folder.path().join("streamed"), &mut |_| {}).unwrap();
    assert_eq!(seen.head.server_key, fs::read(data.join(SERVER_KEY)).unwrap());
    let line = back_up(&daemon, &data, &file, &[]);
    assert!(said(&line).starts_with(&format!("{}: ", file.display())), "an older one is replaced: {line:?}");
    drop(daemon);

    let whole = run(&elsewhere, &["restore", "--verify", file.to_str().unwrap()]);
    assert!(said(&whole).contains(": whole, "), "{whole:?}");
    assert!(!elsewhere.exists());
    let done = run(&elsewhere, &["restore", file.to_str().unwrap()]);
    assert!(done.status.success() && said(&done).contains(": restored "), "{done:?}");
    assert_eq!(fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o700);
    let key = |data: &Path| fs::read(data.join(SERVER_KEY)).unwrap();
    assert_eq!(key(&elsewhere), key(&data));
    assert_eq!(fs::metadata(elsewhere.join(SERVER_KEY)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!elsewhere.join(ADMIN_TOKEN).exists(), "each data directory has its own");
    let daemon = Process::start(&elsewhere, &[]);
    let look = json!({"type": "register_rendezvous", "peerId": "bob", "dailyPoints": ["point"]});
    let found = ask(&mut connect(daemon.public).await, look).await;
    assert_eq!(found["deadDrops"][0]["deadDrop"], "from ann", "{found}");
}

#[tokio::test]
async fn another_servers_key_and_store_are_kept_unless_they_may_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let file = folder.path().join("backup");
    let daemon = Process::start(&data, &[]);
    assert!(back_up(&daemon, &data, &file, &[]).status.success());
    drop(Process::start(&other, &[]));
    let key = fs::read(other.join(SERVER_KEY)).unwrap();

    let refused = run(&other, &["restore", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let other_key = "is of another server: have it moved aside with --replace";
    assert!(told(&refused).contains(other_key), "{refused:?}");
    fs::rename(other.join(SERVER_KEY), folder.path().join("kept")).unwrap();
    let refused = run(&other, &["restore", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(told(&refused).contains("already: choose another --data-dir, or have it"), "{refused:?}");
    fs::rename(folder.path().join("kept"), other.join(SERVER_KEY)).unwrap();
    fs::remove_dir_all(Process::store(&other)).unwrap();
    let refused = run(&other, &["restore", file.to_str().unwrap()]);
    assert!(told(&refused).contains(other_key), "{refused:?}");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!Process::store(&other).exists() && !other.join("store.restoring").exists());
    assert_eq!(fs::read(other.join(SERVER_KEY)).unwrap(), key);

    fill(&other, 100);
    let done = run(&other, &["restore", file.to_str().unwrap(), "--replace", "--json"]);
    assert!(done.status.success(), "{done:?}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let moved = report["moved"].as_str().unwrap();
    assert_eq!(open(Path::new(moved)).fold(|_| {}).unwrap().rows, 100);
    assert_eq!(fs::read(other.join(SERVER_KEY)).unwrap(), fs::read(data.join(SERVER_KEY)).unwrap());
    let keys = fs::read_dir(&other).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = keys.filter(|path| path.to_string_lossy().contains("server.key.replaced-")).collect();
    assert_eq!(fs::read(&kept[0]).unwrap(), key);
}

#[tokio::test]
async fn what_cannot_be_is_told_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Process::start(&data, &[]);
    let nowhere = back_up(&daemon, &data, &folder.path().join("no/such/folder"), &[]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(told(&nowhere).starts_with("cannot write "), "{nowhere:?}");
    let file = folder.path().join("backup");
    let (url, gone) = (at(&daemon)[1].clone(), daemon);
    drop(gone);
    let nobody = run(&data, &["backup", file.to_str().unwrap(), "--admin", &url]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(told(&nobody).starts_with("no daemon answers at "), "{nobody:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "neither the file nor a part of it");

    fs::write(&file, "something else").unwrap();
    let before = fs::read_dir(&data).unwrap().count();
    for name in ["backup", "not there"] {
        let refused = run(&data, &["restore", folder.path().join(name).to_str().unwrap(), "--replace"]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
    assert_eq!(fs::read_dir(&data).unwrap().count(), before);
}

#[tokio::test]
async fn there_is_one_backup_at_a_time_and_metrics_tell_the_last_one() {
    let daemon = TestDaemon::start().await;
    let admin = daemon.admin();
    let metric = |text: &str, name: &str| -> f64 {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name} in {text}"))
    };
    assert_eq!(metric(&admin.metrics().await.unwrap(), "waypost_backup_last_size_bytes"), 0.0);
    let mut pieces = admin.backup().await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await.unwrap() {
        bytes += piece.as_ref().len();
    }
    daemon::soon(async {
        while metric(&admin.metrics().await.unwrap(), "waypost_backup_last_size_bytes") == 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let text = admin.metrics().await.unwrap();
    assert_eq!(metric(&text, "waypost_backup_last_size_bytes"), bytes as f64);
    let began = metric(&text, "waypost_backup_last_start_timestamp_seconds");
    assert_eq!(began, (BEGINNING / 1000) as f64);

    // Held by hand: the next one is refused until it is let go.
    let held = daemon.engine().backup(Vec::new()).await.unwrap();
    let refused = admin.backup().await.err().unwrap();
    assert!(matches!(&refused, ClientError::Refused { code, .. } if code == "backup_running"), "{refused:?}");
    drop(held);
    daemon::soon(async {
        while admin.backup().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What was committed and not flushed may be gone then, and the file would have it.
#[tokio::test]
async fn a_storage_failure_ends_a_backup_with_an_error_and_the_next_one_is_whole() {
    let daemon = TestDaemon::start().await;
    // More pieces than wait to be taken: it is in the midst of its walk.
    let mut pieces = daemon.engine().backup(Vec::new()).await.unwrap();
    daemon.faults.fail_write(1);
    let mut socket = daemon.raw().await;
    let point = json!({"type": "register_rendezvous", "peerId": "ann", "dailyPoints": ["point"]});
    assert_eq!(ask(&mut socket, point).await["code"], "storage_unavailable");
    daemon.until("the store to be open again", |status| status.ready).await;
    let mut last = None;
    while let Some(piece) = pieces.recv().await {
        last = Some(piece);
    }
    assert!(matches!(last, Some(Err(BackupError::Closed))), "{last:?}");
    let mut pieces = daemon.engine().backup(Vec::new()).await.unwrap();
    while let Some(piece) = pieces.recv().await {
        piece.unwrap();
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The daemon's and the command's: a store is whole, and a file is whole or has not its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_midst_of_a_backup_leaves_the_store_whole() {
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(6);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fill(&data, 4000);
    let file = folder.path().join("backup");
    for round in 0..rounds {
        let daemon = Process::start(&data, &UNLIMITED);
        let [flag, url] = at(&daemon);
        let arguments = ["backup", file.to_str().unwrap(), &flag, &url];
        let mut running = command(&data, &arguments).spawn().unwrap();
        // Registrations go on meanwhile; the last that was answered is there afterwards.
        let mut socket = connect(daemon.public).await;
        let moment = clock.running() + std::time::Duration::from_micros(rng.random_range(0..150_000));
        let mut last = 0;
        while clock.running() < moment {
            last += 1;
            let point = json!({"type": "register_rendezvous", "peerId": "ann",
                "dailyPoints": [format!("{round} {last}")]});
            assert_eq!(ask(&mut socket, point).await["type"], "rendezvous_result");
        }
        if round % 2 == 1 {
            running.kill().unwrap();
        }
        daemon.kill();
        let ended = running.wait_with_output().unwrap();
        println!("round {round}: {:?}", ended.status);
        if ended.status.success() {
            verify(&file, &mut |_| {}).unwrap();
        } else if !file.exists() {
            assert!(round % 2 == 1 || !folder.path().join("backup.partial").exists(), "{ended:?}");
        }
        let store = Store::open(&Process::store(&data), Faults::default()).unwrap();
        assert_eq!(store.check().unwrap().problems, []);
        let mut found = last == 0;
        let name = format!("{round} {last}");
        store
            .fold(|row| {
                if let waypost::store::Row::Registration { record, .. } = row {
                    found |= record.points.iter().any(|point| point.name == name);
                }
            })
            .unwrap();
        assert!(found, "{name}");
    }
}

#[test]
fn a_kill_in_the_midst_of_a_restore_leaves_the_old_store_or_the_new_one() {
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(12);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (from, data) = (folder.path().join("from"), folder.path().join("data"));
    fill(&from, 5000);
    fill(&data, 300);
    let file = folder.path().join("backup");
    let store = open(&Process::store(&from));
    let mut backup = store.begin_backup(1, Vec::new()).unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = backup.step(&store).unwrap() {
        bytes.extend(piece);
    }
    bytes.extend(backup.finish(&store).unwrap().0);
    drop(store);
    fs::write(&file, bytes).unwrap();
    let (old, new) = (dump(&Process::store(&data)), dump(&Process::store(&from)));
    let trial = folder.path().join("trial");
    let started = clock.running();
    assert!(run(&trial, &["restore", file.to_str().unwrap()]).status.success());
    let whole = clock.running() - started;

    let mut killed = 0;
    for round in 0..rounds {
        let place = folder.path().join(format!("place {round}"));
        store::copy(&data, &place);
        let mut running = command(&place, &["restore", file.to_str().unwrap(), "--replace"]).spawn().unwrap();
        let moment = whole.mul_f64(rng.random_range(0.0..1.2));
        std::thread::sleep(moment);
        running.kill().unwrap();
        let status = running.wait().unwrap();
        killed += u64::from(!status.success());
        let left: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        println!("round {round}: {moment:?} {status} {left:?}");
        drop(open(&Process::store(&place)));
        let found = dump(&Process::store(&place));
        assert!(found == old || found == new, "round {round}");
        assert!(!status.success() || found == new);
        for name in ["store.restoring", "store.restored"] {
            assert!(!place.join(name).exists());
        }
        fs::remove_dir_all(&place).unwrap();
    }
    assert!(killed * 4 > rounds, "{killed} of {rounds} were killed in time");
}
