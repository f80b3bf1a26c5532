//! Owns the proof of what a restore promises: the rows of the backup, of this version's schema, or the store of before, whole. How
//! a backup comes to be, and which files are refused, is in `store_backup.rs`.

#[path = "common/backup.rs"]
mod backup;
mod common;

use std::fs;
use std::path::Path;

use backup::{KEY, NOW, files, restored, restored_with, store_and_file, taken, target};
use common::store::{Place, RawRow, copy, dump, dump_all, raw, tamper};
use waypost::store::{Encoder, Faults, Head, Replace, RestoreError, SCHEMA, SideError, Store, verify};

#[test]
fn a_restored_store_has_the_same_rows_and_goes_on() {
    let (place, file) = store_and_file(1000);
    let before = dump_all(&place.path());
    let other = Place::new();
    assert_eq!(restored(&file, &other.path(), false).unwrap(), None);
    assert_eq!(verify(&file, &mut |_| {}).unwrap().head.server_key, KEY);
    assert!(dump_all(&other.path()) == before, "byte for byte, the boot number included");
    let store = other.open();
    assert_eq!((store.boot(), store.live_since().unwrap()), (2, 1));
    assert_eq!(store.check().unwrap().problems, []);
    assert_eq!(store.fold(|_| {}).unwrap().last_sequence, 1000);
}

#[test]
fn rows_that_do_not_decode_and_trees_that_nobody_knows_are_in_it() {
    let (place, _) = store_and_file(20);
    tamper(&place.path(), |db| {
        db.open_tree("lease.registration").unwrap().insert(7_u64.to_be_bytes(), &[9, 9, 9]).unwrap();
        db.open_tree("of a tree that nobody knows").unwrap().insert([0], vec![0; 200_000]).unwrap();
        db.insert("in no tree", "of ours").unwrap();
    });
    let file = taken(&place.open(), KEY);
    let before = dump(&place.path());
    let other = Place::new();
    let path = other.path().with_file_name("backup");
    fs::write(&path, file).unwrap();
    restored(&path, &other.path(), false).unwrap();
    assert!(dump(&other.path()) == before);
}

/// The stores of older versions, as they are kept.
#[test]
fn a_backup_of_an_older_schema_is_upgraded_as_a_store_of_it_is() {
    for schema in 1..SCHEMA {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/schema-{schema}"));
        let place = Place::new();
        copy(&golden, &place.path());
        let mut encoder = Encoder::new(&Head { schema, made_at: NOW, server_key: Vec::new() });
        for (tree, key, value) in dump_all(&place.path()) {
            encoder.row(tree.as_bytes(), &key, Some(&value));
        }
        encoder.close();
        let file = place.path().with_file_name("backup");
        fs::write(&file, encoder.take()).unwrap();

        let other = Place::new();
        restored(&file, &other.path(), false).unwrap();
        assert!(!other.path().with_file_name(format!("store.schema-{schema}")).exists());
        let store = other.open();
        assert_eq!(store.check().unwrap().problems, []);
        drop(store);
        drop(place.open());
        assert!(dump(&other.path()) == dump(&place.path()), "schema {schema}");
    }
}

#[test]
fn a_store_that_is_there_is_refused_or_moved_aside_whole() {
    let (_kept, file) = store_and_file(50);
    let (place, _) = store_and_file(7);
    let path = place.path();
    let before = dump_all(&path);
    let refused = restored(&file, &path, false).unwrap_err();
    assert!(matches!(refused, RestoreError::Side(SideError::Exists(_))) && refused.is_refusal());
    assert!(dump_all(&path) == before);

    let store = place.open();
    let refused = restored(&file, &path, true).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("in use by another process"), "{refused}");
    drop(store);

    let before = dump_all(&path);
    let moved = restored(&file, &path, true).unwrap().unwrap();
    assert_eq!(moved, path.with_file_name("store.replaced-2027-01-15T080000Z"));
    assert!(dump_all(&moved) == before);
    assert_eq!(place.open().fold(|_| {}).unwrap().last_sequence, 50);
    let again = restored(&file, &path, true).unwrap_err();
    assert!(!again.is_refusal(), "the name is taken: {again}");
    assert_eq!(place.open().fold(|_| {}).unwrap().last_sequence, 50);
}

/// Even one that cannot be opened any more.
#[test]
fn a_damaged_store_is_moved_aside_as_well() {
    let (_kept, file) = store_and_file(50);
    let (place, _) = store_and_file(7);
    fs::remove_file(place.path().join("db")).unwrap();
    assert!(restored(&file, &place.path(), false).is_err());
    restored(&file, &place.path(), true).unwrap();
    assert_eq!(place.open().fold(|_| {}).unwrap().last_sequence, 50);
}

#[test]
fn too_little_room_is_refused_and_nothing_is_left() {
    let (_kept, file) = store_and_file(50);
    let place = Place::new();
    let faults = Faults::default();
    faults.set_free(1000);
    let run = || restored_with(&file, &target(&place.path(), false), &faults);
    let refused = run().unwrap_err();
    let RestoreError::Side(SideError::NoRoom { needed, free: 1000, .. }) = refused else {
        panic!("{refused}")
    };
    assert_eq!(files(place.path().parent().unwrap()).len(), 0);
    faults.set_free(needed);
    run().unwrap();
    let size: u64 = files(&place.path()).values().flatten().map(|content| content.len() as u64).sum();
    assert!(size <= needed, "{size}");
}

/// Where a restore stops, the next start has what was there before, or all of the backup; and so has a second try.
#[test]
fn a_restore_that_stops_at_any_step_leaves_the_old_store_or_the_new_one() {
    let (backed_up, file) = store_and_file(50);
    let (other, _) = store_and_file(7);
    let new = dump(&backed_up.path());
    for old in [None, Some(&other)] {
        let was = old.map_or(Vec::new(), |old| dump(&old.path()));
        let (mut olds, mut news) = (0, 0);
        for step in 1.. {
            let place = Place::new();
            let path = place.path();
            old.into_iter().for_each(|old| copy(&old.path(), &path));
            let faults = Faults::default();
            faults.fail_step(step);
            let stopped = restored_with(&file, &target(&path, true), &faults).is_err();

            let again = Place::new();
            copy(path.parent().unwrap(), again.path().parent().unwrap());
            let path_again = again.path();
            let replace = Replace { now: NOW + 60_000, ..target(&path_again, true) };
            restored_with(&file, &replace, &Faults::default()).unwrap();
            drop(again.open());
            assert!(dump(&again.path()) == new, "step {step}");

            let started = Store::open(&path, Faults::default()).unwrap();
            assert_eq!(started.check().unwrap().problems, []);
            drop(started);
            let found = dump(&path);
            if found == new {
                news += 1;
            } else {
                let leases = |rows: &[RawRow]| rows.iter().filter(|row| row.0 != "meta").count();
                assert!(found == was || (was.is_empty() && leases(&found) == 0), "step {step}");
                assert_eq!(news, 0, "step {step}: the old one after the new one");
                olds += 1;
            }
            for left in ["restoring", "restored"] {
                assert!(!path.with_file_name(format!("store.{left}")).exists(), "step {step}");
            }
            if !stopped {
                break;
            }
        }
        assert!(olds >= 5 && news >= 2, "{olds} and {news}");
    }
}

/// Only what a daemon would make a store of counts as one.
#[test]
fn a_restore_finds_an_empty_folder_where_the_store_is_to_be() {
    let (_kept, file) = store_and_file(5);
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    assert_eq!(restored(&file, &place.path(), false).unwrap(), None);
    assert!(raw(&place.path()).tree_names().len() > 3);
}
