//! Owns the proof of `waypost check`, with and without a daemon, of its repair, and of `waypost migrate`. What can be wrong
//! is in `store_check.rs`.

#[path = "common/command.rs"]
mod command;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/store.rs"]
#[allow(dead_code, reason = "each test file uses its share")]
mod store;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use command::{run, said, told};
use daemon::{Process, ask, connect};
use serde_json::{Value, json};
use store::{RawRow, commit, copy, dump, dump_all, open, put, put_relay, registration, relay, tamper};
use waypost::store::{Amendment, Indexed, LeaseKey, SCHEMA};

const REGISTRATIONS: &str = "lease.registration";
const INDEX: &str = "index.expiry";

fn index_row(at: u64, kind: u8, key: &[u8]) -> Vec<u8> {
    [&at.to_be_bytes()[..], &[kind], key].concat()
}

/// A closed store with relay ann and registrations 1 to 9, of which 5 is in three parts and 6 amended.
fn some_leases(data: &Path) -> PathBuf {
    let path = Process::store(data);
    let store = open(&path);
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        for sequence in 1..10 {
            let mut record = registration("bob", 10, 20);
            if sequence == 5 {
                record.payloads = vec!["x".repeat(9000).into()];
            }
            put(changes, sequence, &record, 10);
        }
        let gone = Amendment { points_gone: vec![], tokens_gone: vec![0] };
        changes.amend(&LeaseKey::registration(6), &gone, Indexed::at(10), Indexed::at(20));
    });
    store.flush().unwrap();
    path
}

/// One of everything that can be wrong; tells the rows that a repair moves aside.
fn damage(path: &Path) -> Vec<RawRow> {
    let before = dump(path);
    let key = |sequence: u64| sequence.to_be_bytes();
    tamper(path, |db| {
        let (registrations, index) = (db.open_tree(REGISTRATIONS).unwrap(), db.open_tree(INDEX).unwrap());
        registrations.insert(key(1), &[9, 9]).unwrap();
        // Without its second part.
        registrations.remove([&key(5)[..], &[2, 0, 1]].concat()).unwrap().unwrap();
        // Its amendment says that it is indexed after its end.
        let amendment = [&key(6)[..], &[1]].concat();
        let mut late = registrations.get(&amendment).unwrap().unwrap().to_vec();
        late[1..9].copy_from_slice(&99_u64.to_be_bytes());
        registrations.insert(amendment, late).unwrap();
        index.remove(index_row(10, 2, &key(2))).unwrap().unwrap();
        index.insert(index_row(11, 2, &key(3)), &[]).unwrap();
        index.insert(index_row(11, 2, &key(77)), &[]).unwrap();
        index.insert([1, 2, 3], &[]).unwrap();
        // Of a lease that is not there.
        registrations.insert([&key(88)[..], &[2, 0, 4]].concat(), "a part").unwrap();
    });
    assert_ne!(dump(path), before);
    let of = |tree: &str, key: &[u8]| {
        [1_u64, 5, 6, 88].iter().any(|sequence| match tree {
            REGISTRATIONS => key.starts_with(&sequence.to_be_bytes()),
            _ => key.len() == 17 && key.ends_with(&sequence.to_be_bytes()),
        }) || (tree == INDEX && (key == [1, 2, 3] || key.starts_with(&11_u64.to_be_bytes())))
    };
    dump(path).into_iter().filter(|(tree, key, _)| of(tree, key)).collect()
}

/// The rows of the file that a repair has made.
fn rows_in(file: &Path) -> Vec<RawRow> {
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let bytes = |value: &Value| STANDARD.decode(text(value)).unwrap();
    let mut rows: Vec<_> =
        lines.map(|row| (text(&row["tree"]), bytes(&row["key"]), bytes(&row["value"]))).collect();
    rows.sort();
    rows
}

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_whole_store_is_told_so_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = some_leases(folder.path());
    let before = dump_all(&path);
    let done = run(folder.path(), &["check"]);
    assert_eq!(said(&done), "10 leases, 10 index rows: nothing is wrong\n", "{done:?}");
    assert!(done.status.success());
    let done = run(folder.path(), &["check", "--json"]);
    assert_eq!(
        json_of(&done),
        json!({"leases": {"relay": 1, "registration": 9}, "index_rows": 10, "problems": []})
    );
    let done = run(folder.path(), &["check", "--repair"]);
    assert!(done.status.success() && said(&done).contains("nothing is wrong"), "{done:?}");
    assert!(dump_all(&path) == before, "the boot number included");
    let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(files.into_iter().all(|name| !name.to_string_lossy().starts_with("repaired-")));
}

#[test]
fn a_repair_moves_aside_what_makes_no_sense_and_mends_the_index_and_the_second_one_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = some_leases(folder.path());
    let aside = damage(&path);
    let damaged = dump(&path);
    let found = run(folder.path(), &["check", "--json"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(json_of(&found)["problems"].as_array().unwrap().len() >= 6, "{found:?}");
    assert!(dump(&path) == damaged, "a check mends nothing");

    let done = run(folder.path(), &["check", "--repair", "--json"]);
    assert!(done.status.success(), "{done:?}");
    let report = json_of(&done);
    assert_eq!(report["problems"], json!([]));
    assert_eq!(report["leases"], json!({"relay": 1, "registration": 6}));
    let remedies: Vec<_> =
        report["repaired"].as_array().unwrap().iter().map(|line| line["done"].as_str().unwrap()).collect();
    for remedy in ["lease moved aside", "index row written", "index row moved aside"] {
        assert!(remedies.contains(&remedy), "{remedies:?}");
    }
    let file = PathBuf::from(report["file"].as_str().unwrap());
    assert!(rows_in(&file) == aside, "other rows were moved aside");
    let mut expected: Vec<_> = damaged.into_iter().filter(|row| !aside.contains(row)).collect();
    expected.push((INDEX.to_owned(), index_row(10, 2, &2_u64.to_be_bytes()), Vec::new()));
    expected.sort();
    assert!(dump(&path) == expected);

    let again = run(folder.path(), &["check", "--repair", "--json"]);
    assert_eq!((&json_of(&again)["repaired"], json_of(&again).get("file")), (&json!([]), None));
    assert_eq!(open(&path).fold(|_| {}).unwrap().undecodable.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_what_is_wrong_in_the_store_that_it_has_open_and_is_not_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = some_leases(folder.path());
    tamper(&path, |db| {
        db.open_tree(INDEX).unwrap().insert([1, 2, 3], &[]).unwrap();
    });
    let daemon = Process::start(folder.path(), &[]);
    let mut socket = connect(daemon.public).await;
    assert_eq!(ask(&mut socket, json!({"type": "ping"})).await["type"], "pong");
    let url = format!("http://{}", daemon.admin);
    let found = run(folder.path(), &["check", "--admin", &url, "--json"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let report = json_of(&found);
    assert_eq!(report["problems"], json!(["an index row that is malformed: 010203"]));
    assert_eq!(report["memory_agrees"], true);
    let refused = run(folder.path(), &["check", "--repair"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(told(&refused).contains("is in use by another process"), "{refused:?}");
    let unasked = run(folder.path(), &["check", "--admin", "http://127.0.0.1:1"]);
    assert_eq!(unasked.status.code(), Some(1));
    assert!(told(&unasked).contains("and it cannot be asked: no daemon answers at "), "{unasked:?}");
}

#[test]
fn without_a_store_it_says_so_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("nowhere");
    for arguments in [&["check"][..], &["check", "--repair"], &["migrate"], &["export", "-"]] {
        let refused = run(&data, arguments);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(told(&refused).starts_with("there is no store "), "{refused:?}");
        assert!(!data.exists());
    }
}

#[test]
fn a_migration_is_tried_on_a_copy_and_then_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = Process::store(folder.path());
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema-2"), &path);
    let before = dump_all(&path);
    let tried = run(folder.path(), &["migrate", "--dry-run"]);
    assert!(tried.status.success(), "{tried:?}");
    let expected = format!(
        "would run: 3, claims\nwould run: 4, chunks\nwould run: 5, order of registrations\n{}: would be schema {SCHEMA}, \
         from 2; {} rows, 0 of them changed\n",
        path.display(),
        before.len()
    );
    assert_eq!(said(&tried), expected);
    assert!(dump_all(&path) == before);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the store and its lock: {left:?}");

    let done = run(folder.path(), &["migrate", "--json"]);
    let report = json_of(&done);
    assert_eq!((&report["from"], &report["to"]), (&json!(2), &json!(SCHEMA)), "{done:?}");
    assert!(dump_all(Path::new(report["copy"].as_str().unwrap())) == before);
    let after = dump_all(&path);
    let again = run(folder.path(), &["migrate"]);
    assert_eq!(said(&again), format!("{}: schema {SCHEMA} already, {} rows\n", path.display(), before.len()));
    assert!(dump_all(&path) == after, "it does not count as a start");
    let store = open(&path);
    assert_eq!(store.check().unwrap().problems, []);
}
