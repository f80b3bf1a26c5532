//! Owns the proof of how a store opens: what an earlier kill left, what another process holds, what a newer version
//! wrote, and files that say nonsense.

mod common;

use std::fs;
use std::path::Path;

use common::store::{Place, commit, copy, put, put_relay, registration, relay, rows, tamper};
use waypost::store::{Faults, OpenError, SCHEMA, Store};

fn refusal(path: &Path) -> OpenError {
    match Store::open(path, Faults::default()) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => error,
    }
}

fn filled() -> Place {
    let place = Place::new();
    let store = place.open();
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        for sequence in 1..200 {
            put(changes, sequence, &registration("bob", 10, 20), 10);
        }
    });
    store.flush().unwrap();
    place
}

#[test]
fn a_snapshot_that_a_kill_cut_short_is_removed_and_the_store_opens() {
    let place = filled();
    let leftover = place.path().join("snap.00000000000000FF.generating");
    fs::write(&leftover, "half a snapsh").unwrap();
    let store = place.open();
    assert!(!leftover.exists());
    assert_eq!(rows(&store).len(), 200);
}

#[test]
fn a_store_that_is_open_elsewhere_is_refused_and_what_to_do_is_said() {
    let place = filled();
    let first = place.open();
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::InUse(_)), "{error:?}");
    let text = error.to_string();
    for part in
        [place.path().to_str().unwrap(), "in use by another process", "stop that waypost", "--data-dir"]
    {
        assert!(text.contains(part), "{text}");
    }
    commit(&first, |changes| put(changes, 300, &registration("cat", 10, 20), 10));
    drop(first);
    assert_eq!(rows(&place.open()).len(), 201);
}

#[test]
fn a_newer_schema_is_refused_with_both_numbers_and_what_to_do_and_nothing_changes() {
    let place = filled();
    let write = |schema: u32| {
        tamper(&place.path(), |db| {
            db.open_tree("meta").unwrap().insert("schema", &schema.to_be_bytes()).unwrap();
        });
    };
    write(SCHEMA + 41);
    let error = refusal(&place.path());
    assert!(
        matches!(error, OpenError::NewerSchema { found, known, .. } if found == SCHEMA + 41 && known == SCHEMA)
    );
    let text = error.to_string();
    let numbers = [format!("schema {}", SCHEMA + 41), format!("knows schema {SCHEMA}")];
    for part in numbers.iter().map(String::as_str).chain(["run the newer version", "copy"]) {
        assert!(text.contains(part), "{text}");
    }
    write(SCHEMA);
    let store = place.open();
    assert_eq!((store.boot(), rows(&store).len()), (2, 200));
}

#[test]
fn a_schema_number_that_is_none_is_damage() {
    let place = filled();
    tamper(&place.path(), |db| drop(db.open_tree("meta").unwrap().insert("schema", "one").unwrap()));
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("move the directory away"), "{error}");
}

#[test]
fn a_file_where_the_store_should_be_is_no_damage() {
    let place = Place::new();
    fs::write(place.path(), "not a directory").unwrap();
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("writable"), "{error}");
}

/// Opens and reads everything; what is wrong must come out as an error.
fn rows_of(path: &Path) -> Result<usize, String> {
    let store = Store::open(path, Faults::default()).map_err(|error| error.to_string())?;
    let folded = store.fold(|_| {}).map_err(|error| error.to_string())?;
    store.check().map_err(|error| error.to_string())?;
    Ok(folded.rows)
}

/// sled opens such files as an empty store.
#[test]
fn a_store_whose_rows_are_lost_is_damaged_and_stays_so() {
    let whole = filled();
    let db = fs::read(whole.path().join("db")).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("garbage", |db| db.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 % 251) as u8)),
        ("empty", |db| db.clear()),
        ("cut", |db| db.truncate(100)),
        ("zero", |db| db.fill(0)),
    ];
    for (name, damage) in damages {
        let place = Place::new();
        copy(&whole.path(), &place.path());
        let mut damaged = db.clone();
        damage(&mut damaged);
        fs::write(place.path().join("db"), damaged).unwrap();
        for _ in 0..2 {
            let error = refusal(&place.path());
            assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains("move the directory away"), "{error}");
        }
    }
}

#[test]
fn a_lost_log_is_damage_and_an_empty_directory_is_a_new_store() {
    let place = filled();
    fs::remove_file(place.path().join("db")).unwrap();
    assert!(matches!(refusal(&place.path()), OpenError::Damaged { .. }));
    fs::remove_dir_all(place.path()).unwrap();
    assert_eq!(place.open().boot(), 1);
}

/// What sled takes for a torn end of its log, it leaves out: that may cost what was written since the last start, and
/// no more.
#[test]
fn damage_anywhere_is_an_error_or_a_lost_end_and_never_a_panic() {
    let whole = filled();
    drop(whole.open());
    for file in ["db", "conf", "boot", "flushed"] {
        let bytes = fs::read(whole.path().join(file)).unwrap();
        for part in 0..8 {
            let at = part * bytes.len() / 8;
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x55;
            for damaged in [flipped, bytes[..at].to_vec()] {
                let place = Place::new();
                copy(&whole.path(), &place.path());
                fs::write(place.path().join(file), damaged).unwrap();
                if let Ok(rows) = rows_of(&place.path()) {
                    assert_eq!(rows, 200, "{file} at {at}");
                }
            }
        }
    }
}

/// A store of 200 registrations that were written again and again since its last start, as a kill would leave it; and its log
/// as it was three flushes before the end.
fn killed() -> (Place, Vec<u8>) {
    let (place, killed) = (Place::new(), Place::new());
    let mut store = place.open();
    let mut before = Vec::new();
    for count in 0..800 {
        if count == 200 {
            drop(store);
            store = place.open();
        }
        let mut record = registration("bob", 10, 20);
        record.payloads = vec![format!("{count} {}", "x".repeat(3000)).into()];
        commit(&store, |changes| put(changes, count * 7 % 200, &record, 10));
        if count % 10 == 9 || count > 790 {
            store.flush().unwrap();
        }
        if count == 796 {
            before = fs::read(place.path().join("db")).unwrap();
        }
    }
    copy(&place.path(), &killed.path());
    (killed, before)
}

fn is_damaged_and_stays_so(path: &Path, reason: &str) {
    for _ in 0..2 {
        let error = refusal(path);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// sled opens it with the rows that are left.
#[test]
fn a_log_without_the_last_flushed_commits_is_damaged() {
    let (place, before) = killed();
    fs::write(place.path().join("db"), before).unwrap();
    is_damaged_and_stays_so(&place.path(), "it has lost rows: its log's end is");
}

/// sled leaves out what comes after it in that segment, and goes on with the next one.
#[test]
fn a_log_that_is_damaged_in_its_midst_opens_with_all_rows_or_not_at_all() {
    let (whole, _) = killed();
    let expected = {
        let place = Place::new();
        copy(&whole.path(), &place.path());
        rows(&place.open())
    };
    let log = fs::read(whole.path().join("db")).unwrap();
    let mut passed_over = 0;
    for part in 0..24 {
        let place = Place::new();
        copy(&whole.path(), &place.path());
        let mut bytes = log.clone();
        bytes[part * log.len() / 24 + 1000] ^= 1;
        fs::write(place.path().join("db"), bytes).unwrap();
        match Store::open(&place.path(), Faults::default()) {
            Ok(store) => assert_eq!(rows(&store), expected, "part {part}"),
            Err(OpenError::Damaged { reason, .. }) if reason.contains("makes no sense at byte") => {
                passed_over += 1;
                is_damaged_and_stays_so(&place.path(), "its file db makes no sense at byte");
            }
            Err(OpenError::Damaged { .. }) => is_damaged_and_stays_so(&place.path(), "is damaged"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(passed_over > 0, "sled noticed all of it itself");
}

#[test]
fn a_note_of_what_was_flushed_that_a_power_cut_took_back_is_no_damage() {
    let whole = killed().0;
    for note in ["", "\0\0\0\0\0\0\0\0", "00000000000000000007 18446744073709551608\n"] {
        let place = Place::new();
        copy(&whole.path(), &place.path());
        fs::write(place.path().join("flushed"), note).unwrap();
        assert_eq!(rows(&place.open()).len(), 200, "{note:?}");
    }
    fs::write(whole.path().join("flushed"), "00000000000000000007 18446744073709551607\n").unwrap();
    is_damaged_and_stays_so(&whole.path(), "says nonsense");
}
