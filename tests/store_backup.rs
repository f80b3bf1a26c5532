//! Owns the proof of what a backup promises: the store at one point in time, whatever is committed meanwhile; and a file that is
//! refused wherever it was cut or altered. What a restore makes of it is in `store_restore.rs`, what the commands say in
//! `backup.rs`.

#[path = "common/backup.rs"]
mod backup;
mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backup::{KEY, NOW, files, restored, store_and_file, taken, write};
use common::store::{Place, RawRow, commit, dump, put, registration};
use proptest::prelude::*;
use waypost::store::{
    BackupError, Changes, Decoder, Encoder, Faults, Head, Indexed, LeaseKey, RestoreError, Rows, SCHEMA,
    SnapshotError, Store, verify,
};

fn parts(value: u8) -> u16 {
    1 + u16::from(value) / 69
}

fn remove(changes: &mut Changes, sequence: u64) {
    let rows = Rows { parts: parts(255), amended: false, indexed: Indexed::at(10) };
    changes.remove_all(&LeaseKey::registration(sequence), rows);
}

/// What a file makes.
fn rows_of(file: &[u8]) -> Vec<RawRow> {
    let place = Place::new();
    let path = place.path().with_file_name("backup");
    fs::write(&path, file).unwrap();
    restored(&path, &place.path(), false).unwrap();
    assert_eq!(Store::open(&place.path(), Faults::default()).unwrap().check().unwrap().problems, []);
    dump(&place.path())
}

#[derive(Clone, Debug)]
enum Step {
    /// Registrations written and removed in one commit.
    Commit(Vec<(u64, Option<u8>)>),
    Back,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (1..400_u64, proptest::option::weighted(0.7, 0..=255_u8));
    prop_oneof![
        proptest::collection::vec(change, 1..8).prop_map(Step::Commit),
        Just(Step::Back),
        Just(Step::Back),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Commits come before, between and after its steps; it has exactly those before its end.
    #[test]
    fn a_backup_is_the_store_at_its_end_whatever_is_committed_meanwhile(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let place = Place::new();
        let store = place.open();
        for sequence in 1..400 {
            commit(&store, |changes| write(changes, sequence, (sequence % 256) as u8));
        }
        let mut backup = store.begin_backup(NOW, Vec::new()).unwrap();
        let mut file = Vec::new();
        for step in steps {
            match step {
                Step::Commit(rows) => commit(&store, |changes| {
                    for (sequence, value) in rows {
                        remove(changes, sequence);
                        value.into_iter().for_each(|value| write(changes, sequence, value));
                    }
                }),
                Step::Back => file.extend(backup.step(&store).unwrap().unwrap_or_default()),
            }
        }
        while let Some(piece) = backup.step(&store).unwrap() {
            file.extend(piece);
        }
        file.extend(backup.finish(&store).unwrap().0);
        commit(&store, |changes| write(changes, 1000, 1));
        drop(store);
        let mut expected = dump(&place.path());
        expected.retain(|(_, key, _)| !key.windows(8).any(|part| part == 1000_u64.to_be_bytes()));
        prop_assert!(rows_of(&file) == expected, "the rows are others");
    }
}

/// Each commit writes the same number into many registrations: a backup has one number in all of them, and no older one
/// than had been committed when its end was asked for.
#[test]
fn a_backup_never_has_half_a_commit_and_misses_none_that_came_before_its_end() {
    let place = Place::new();
    let store = place.open();
    let crowd: Vec<u64> = (1..=3000).collect();
    let write_all = |number: u64| {
        commit(&store, |changes| {
            for sequence in crowd.iter().filter(|sequence| sequence.is_multiple_of(100)) {
                let mut record = registration("bob", 10, 20);
                record.registered_at = number;
                put(changes, *sequence, &record, 10);
            }
        });
    };
    commit(&store, |changes| crowd.iter().for_each(|sequence| write(changes, *sequence, 3)));
    write_all(1);
    let (committed, over) = (AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut number = 2;
            while !over.load(Ordering::SeqCst) {
                write_all(number);
                committed.store(number, Ordering::SeqCst);
                number += 1;
            }
        });
        for _ in 0..5 {
            let mut backup = store.begin_backup(NOW, Vec::new()).unwrap();
            let mut file = Vec::new();
            while let Some(piece) = backup.step(&store).unwrap() {
                file.extend(piece);
            }
            let before = committed.load(Ordering::SeqCst);
            file.extend(backup.finish(&store).unwrap().0);
            let place = Place::new();
            let path = place.path().with_file_name("backup");
            fs::write(&path, file).unwrap();
            restored(&path, &place.path(), false).unwrap();
            let mut numbers = Vec::new();
            place
                .open()
                .fold(|row| {
                    if let waypost::store::Row::Registration { sequence, record, .. } = row
                        && sequence.is_multiple_of(100)
                    {
                        numbers.push(record.registered_at);
                    }
                })
                .unwrap();
            assert_eq!(numbers.len(), 30);
            numbers.dedup();
            assert!(numbers.len() == 1 && numbers[0] >= before, "{numbers:?}, not before {before}");
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn one_backup_at_a_time_and_the_next_one_after_it() {
    let place = Place::new();
    let store = place.open();
    let first = store.begin_backup(NOW, Vec::new()).unwrap();
    assert!(matches!(store.begin_backup(NOW, Vec::new()), Err(BackupError::Running)));
    drop(first);
    taken(&store, KEY);
    let mut left = store.begin_backup(NOW, Vec::new()).unwrap();
    drop(store);
    let again = place.open();
    assert!(matches!(left.step(&again), Err(BackupError::Closed)), "it was of the store as it was open then");
}

#[test]
fn who_takes_a_backup_too_slowly_gets_none_and_costs_no_memory() {
    let place = Place::new();
    let store = place.open();
    let mut backup = store.begin_backup(NOW, Vec::new()).unwrap();
    for _ in 0..80 {
        let mut record = registration("bob", 10, 20);
        record.payloads = vec!["x".repeat(1 << 20).into()];
        commit(&store, |changes| put(changes, 1, &record, 10));
    }
    assert!(matches!(backup.step(&store), Err(BackupError::TooSlow)));
}

/// The positions at which frames end.
fn borders(file: &[u8]) -> Vec<usize> {
    let mut decoder = Decoder::new(file).unwrap().0;
    let mut borders = vec![16, decoder.position() as usize];
    while decoder.read().unwrap().is_some() {
        borders.push(decoder.position() as usize);
    }
    borders
}

/// What refuses a file, with the data directory untouched.
fn refused(file: &[u8]) -> SnapshotError {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    fs::write(&path, file).unwrap();
    let refused = restored(&path, &place.path(), true).unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    assert_eq!(files(place.path().parent().unwrap()).len(), 0);
    match refused {
        RestoreError::File { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let file = fs::read(store_and_file(400).1).unwrap();
    let borders = borders(&file);
    assert!(borders.len() > 10, "{borders:?}");
    for at in borders {
        for cut in [at - 1, at, at + 1] {
            refused(&file[..cut]);
        }
    }
    for cut in (0..file.len()).step_by(file.len() / 50) {
        refused(&file[..cut]);
    }
    assert!(matches!(refused(b""), SnapshotError::NotABackup));
    assert!(matches!(refused(b"something else altogether"), SnapshotError::NotABackup));
    let more = [file.as_slice(), b"x"].concat();
    assert!(matches!(refused(&more), SnapshotError::Altered { what: "more than the end", .. }));
}

#[test]
fn a_file_of_which_a_bit_is_other_is_refused() {
    let file = fs::read(store_and_file(150).1).unwrap();
    let places =
        (0..200).chain((200..file.len()).step_by(file.len() / 60)).chain(file.len() - 60..file.len());
    for at in places {
        let mut altered = file.clone();
        altered[at] ^= 1 << (at % 8);
        refused(&altered);
    }
    // Two whole frames that have changed places.
    let borders = borders(&file);
    let [a, b, c] = borders[2..5] else { panic!() };
    let exchanged = [&file[..a], &file[b..c], &file[a..b], &file[c..]].concat();
    assert_ne!(exchanged, file);
    let left_out = [&file[..a], &file[b..]].concat();
    for altered in [exchanged, left_out] {
        assert!(matches!(refused(&altered), SnapshotError::Altered { what: "an end that does not fit", .. }));
    }
}

#[test]
fn a_newer_format_or_schema_is_refused_and_said_so() {
    let mut file = fs::read(store_and_file(10).1).unwrap();
    file[15] += 1;
    assert!(matches!(refused(&file), SnapshotError::NewerFormat { found: 2 }));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let mut encoder = Encoder::new(&Head { schema: SCHEMA + 1, made_at: NOW, server_key: Vec::new() });
    encoder.close();
    fs::write(&path, encoder.take()).unwrap();
    let refused = verify(&path, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, RestoreError::NewerSchema { found, .. } if found == SCHEMA + 1));
    assert!(refused.to_string().contains("run the newer version"), "{refused}");
}
