//! Owns the proof of what a compaction promises: the same rows in less space, and a whole store wherever it is cut
//! short. What the command says is in `compact.rs`.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::store::{
    Place, RawRow, commit, copy, dump, dump_all, put, put_relay, raw, registration, relay, tamper,
};
use waypost::store::{
    Changes, CompactError, Compacted, Faults, Indexed, LeaseKey, OpenError, Phase, Rows, SCHEMA, Store,
    compact,
};

/// How the swap is made: by an exchange, or as where the file system cannot.
const WAYS: [fn(&Faults); 2] = [|_| {}, Faults::deny_exchange];

/// Registrations written and removed, some of them in parts, with `alive` at any time.
fn churn(store: &Store, count: u64, alive: u64) {
    let payload =
        |sequence: u64| if sequence.is_multiple_of(50) { "x".repeat(9000) } else { "y".repeat(256) };
    let parts = |sequence: u64| if sequence.is_multiple_of(50) { 3 } else { 1 };
    for batch in (1..=count).collect::<Vec<_>>().chunks(100) {
        commit(store, |changes: &mut Changes| {
            for sequence in batch {
                let mut record = registration("bob", 10, 20);
                record.payloads = vec![payload(*sequence).into()];
                put(changes, *sequence, &record, 10);
                if let Some(old) = sequence.checked_sub(alive).filter(|old| *old > 0) {
                    let rows = Rows { parts: parts(old), amended: false, indexed: Indexed::at(10) };
                    changes.remove_all(&LeaseKey::registration(old), rows);
                }
            }
        });
    }
}

/// A crowd that comes and goes: what it took is what a compaction gives back.
fn crowd(store: &Store) {
    let sequences: Vec<u64> = (1_000_000..1_010_000).collect();
    for batch in sequences.chunks(100) {
        commit(store, |changes| {
            batch.iter().for_each(|sequence| put(changes, *sequence, &registration("bob", 10, 20), 10));
        });
    }
    let rows = Rows { parts: 1, amended: false, indexed: Indexed::at(10) };
    for batch in sequences.chunks(100) {
        commit(store, |changes| {
            batch.iter().for_each(|sequence| changes.remove_all(&LeaseKey::registration(*sequence), rows));
        });
    }
}

/// A closed store that has been written to for a while, and opened twice.
fn used(count: u64, alive: u64) -> Place {
    used_and(count, alive, |_| ())
}

fn used_and(count: u64, alive: u64, also: impl FnOnce(&Store)) -> Place {
    let place = Place::new();
    drop(place.open());
    let store = place.open();
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        changes.live_since(2);
    });
    churn(&store, count, alive);
    also(&store);
    store.flush().unwrap();
    place
}

fn run(path: &Path) -> Result<Compacted, CompactError> {
    compact(path, &Faults::default(), &mut |_| {})
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!("store.{suffix}"))
}

/// Whatever a compaction leaves beside the store and its lock.
fn left_over(path: &Path) -> Vec<&'static str> {
    ["compacting", "uncompacted"].into_iter().filter(|suffix| beside(path, suffix).exists()).collect()
}

fn opens_with(path: &Path, expected: &[RawRow]) {
    let store = Store::open(path, Faults::default()).unwrap();
    assert_eq!(store.check().unwrap().problems, []);
    drop(store);
    assert!(dump(path) == expected, "the rows are others");
    assert_eq!(left_over(path), [""; 0]);
}

#[test]
fn a_compacted_store_has_the_same_rows_and_is_smaller() {
    for prepare in WAYS {
        let place = used_and(20_000, 500, crowd);
        let path = place.path();
        let (before, boot) = (dump_all(&path), fs::read(path.join("boot")).unwrap());
        let faults = Faults::default();
        prepare(&faults);
        let mut phases = Vec::new();
        let done = compact(&path, &faults, &mut |progress| phases.push(progress.phase)).unwrap();
        assert_eq!(done.rows, before.len() as u64);
        assert!(done.bytes_after * 2 < done.bytes_before, "{done:?}");
        phases.dedup();
        assert_eq!(phases, [Phase::Count, Phase::Copy, Phase::Verify, Phase::Swap]);

        assert!(dump_all(&path) == before, "byte for byte, the boot number included");
        assert_eq!(fs::read(path.join("boot")).unwrap(), boot);
        assert_eq!(left_over(&path), [""; 0]);
        let store = place.open();
        assert_eq!((store.boot(), store.live_since().unwrap()), (3, 2));
        assert_eq!(store.fold(|_| {}).unwrap().last_sequence, 20_000);
        assert_eq!(store.check().unwrap().problems, []);
    }
}

#[test]
fn a_compacted_store_goes_on_and_is_compacted_again() {
    let place = used(2000, 100);
    for boot in 3..6 {
        run(&place.path()).unwrap();
        let store = place.open();
        assert_eq!(store.boot(), boot);
        churn(&store, 1000, 50);
        store.flush().unwrap();
    }
    let before = dump_all(&place.path());
    run(&place.path()).unwrap();
    assert!(dump_all(&place.path()) == before);
}

#[test]
fn rows_that_do_not_decode_stay_as_they_are_even_large_and_unknown_ones() {
    let place = used(200, 50);
    tamper(&place.path(), |db| {
        let registrations = db.open_tree("lease.registration").unwrap();
        registrations.insert(170_u64.to_be_bytes(), &[9, 9, 9]).unwrap();
        registrations.insert(b"", vec![0; 200_000]).unwrap();
        db.open_tree("index.expiry").unwrap().insert([1, 2, 3], &[4]).unwrap();
        db.open_tree("of a tree that nobody knows").unwrap().insert([0], &[]).unwrap();
        db.open_tree("empty").unwrap();
        db.insert("in no tree", "of ours").unwrap();
    });
    let before = dump_all(&place.path());
    run(&place.path()).unwrap();
    assert!(dump_all(&place.path()) == before);
    assert!(raw(&place.path()).tree_names().contains(&sled::IVec::from("empty")));
    assert_eq!(place.open().fold(|_| {}).unwrap().undecodable.len(), 2);
}

/// Where a compaction stops counts for nothing, and so does what comes next.
#[test]
fn a_compaction_that_stops_at_any_step_leaves_a_store_with_everything() {
    let place = used(500, 100);
    let expected = dump(&place.path());
    let [only, copying, cut, swapped] =
        [(true, false, false), (true, true, false), (false, true, true), (true, false, true)];
    let seen: [&[_]; 2] = [&[only, copying, only], &[only, copying, cut, swapped, copying, only]];
    for (prepare, seen) in WAYS.into_iter().zip(seen) {
        let mut states = Vec::new();
        for step in 1.. {
            let cut_short = Place::new();
            let path = cut_short.path();
            copy(&place.path(), &path);
            let faults = Faults::default();
            prepare(&faults);
            faults.fail_step(step);
            let stopped = compact(&path, &faults, &mut |_| {}).is_err();
            states.push((
                path.exists(),
                beside(&path, "compacting").exists(),
                beside(&path, "uncompacted").exists(),
            ));

            let then_compacted = Place::new();
            copy(path.parent().unwrap(), then_compacted.path().parent().unwrap());
            opens_with(&path, &expected);
            run(&then_compacted.path()).unwrap();
            opens_with(&then_compacted.path(), &expected);
            if !stopped {
                break;
            }
        }
        states.dedup();
        assert_eq!(states, seen);
    }
}

/// States that no step of ours leaves, but a kill within one.
#[test]
fn half_a_copy_and_half_a_former_store_are_left_over() {
    let place = used(500, 100);
    let expected = dump(&place.path());
    let half = |path: &Path| {
        fs::create_dir_all(path.join("blobs")).unwrap();
        fs::write(path.join("db"), "half a sto").unwrap();
    };
    type Opening = fn(&Path);
    let openings: [Opening; 2] = [|_| {}, |path| assert!(run(path).is_ok())];
    for opening in openings {
        let path = place.path();
        half(&beside(&path, "compacting"));
        opening(&path);
        opens_with(&path, &expected);

        // A former store on its way out, and the copy of another compaction.
        half(&beside(&path, "compacting"));
        copy(&path, &beside(&path, "uncompacted"));
        opening(&path);
        opens_with(&path, &expected);

        // Cut short between two renames.
        fs::rename(&path, beside(&path, "uncompacted")).unwrap();
        half(&beside(&path, "compacting"));
        opening(&path);
        opens_with(&path, &expected);

        fs::rename(&path, beside(&path, "uncompacted")).unwrap();
        opening(&path);
        opens_with(&path, &expected);
    }
}

#[test]
fn a_former_store_stays_where_its_successor_does_not_open() {
    let place = used(500, 100);
    let path = place.path();
    let expected = dump(&path);
    copy(&path, &beside(&path, "uncompacted"));
    fs::write(path.join("db"), "").unwrap();
    assert!(matches!(Store::open(&path, Faults::default()), Err(OpenError::Damaged { .. })));
    assert!(matches!(run(&path), Err(CompactError::Open(OpenError::Damaged { .. }))));
    fs::remove_dir_all(&path).unwrap();
    opens_with(&path, &expected);
}

#[test]
fn a_store_that_is_open_is_refused_and_one_that_is_being_compacted_cannot_be_opened() {
    let place = used(500, 100);
    let path = place.path();
    let store = place.open();
    let refused = run(&path).unwrap_err();
    assert!(
        matches!(refused, CompactError::Open(OpenError::InUse(_))) && refused.is_refusal(),
        "{refused:?}"
    );
    drop(store);
    for prepare in WAYS {
        let faults = Faults::default();
        prepare(&faults);
        let mut phases = Vec::new();
        let mut tried = |progress: waypost::store::Progress| {
            if !phases.contains(&progress.phase) {
                phases.push(progress.phase);
                let opened = Store::open(&path, Faults::default()).map(drop);
                assert!(matches!(opened, Err(OpenError::InUse(_))), "{progress:?}: {opened:?}");
            }
        };
        compact(&path, &faults, &mut tried).unwrap();
        assert_eq!(phases.len(), 4);
    }
}

#[test]
fn too_little_room_is_refused_with_what_is_needed_and_nothing_is_left() {
    let place = used(500, 100);
    let expected = dump(&place.path());
    let faults = Faults::default();
    faults.set_free(1000);
    let refused = compact(&place.path(), &faults, &mut |_| {}).unwrap_err();
    let CompactError::NoRoom { needed, free: 1000, .. } = refused else { panic!("{refused:?}") };
    assert!(refused.is_refusal());
    assert!(refused.to_string().contains(&format!("{needed} bytes")), "{refused}");
    assert_eq!(left_over(&place.path()), [""; 0]);
    faults.set_free(needed);
    let done = compact(&place.path(), &faults, &mut |_| {}).unwrap();
    assert!(done.bytes_after <= needed);
    opens_with(&place.path(), &expected);
}

#[test]
fn other_schemas_stay_newer_ones_are_refused_and_so_are_lost_rows() {
    let place = used(500, 100);
    let path = place.path();
    let write = |schema: u32| {
        tamper(&path, |db| {
            drop(db.open_tree("meta").unwrap().insert("schema", &schema.to_be_bytes()).unwrap())
        });
    };
    write(SCHEMA - 1);
    let before = dump_all(&path);
    run(&path).unwrap();
    assert!(dump_all(&path) == before, "not upgraded");
    write(SCHEMA + 1);
    let refused = run(&path).unwrap_err();
    assert!(matches!(refused, CompactError::Open(OpenError::NewerSchema { .. })), "{refused:?}");
    write(SCHEMA);

    fs::write(path.join("db"), "").unwrap();
    let refused = run(&path).unwrap_err();
    assert!(matches!(refused, CompactError::Open(OpenError::Damaged { .. })), "{refused:?}");
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let place = Place::new();
    let path = place.path();
    let refused = run(&path).unwrap_err();
    assert!(matches!(refused, CompactError::NoStore(_)) && refused.is_refusal(), "{refused:?}");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_store_behind_a_link_is_refused_and_compacted_where_it_is() {
    let (real, link) = (used(500, 100), Place::new());
    let expected = dump(&real.path());
    symlink(real.path(), link.path()).unwrap();
    let refused = run(&link.path()).unwrap_err();
    assert!(matches!(refused, CompactError::NotInPlace(_)) && refused.is_refusal(), "{refused:?}");
    run(&real.path()).unwrap();
    opens_with(&link.path(), &expected);
}
