//! Owns the proof that upgrades are atomic, repeatable and kept a copy of, with invented steps: what they do to real
//! rows is proved beside each of them.

mod common;

use std::path::Path;

use common::store::{Place, copy, dump, raw, tamper};
use sled::{Batch, Db};
use waypost::store::{Faults, Migration, OpenError, Plan, Store};

/// Schema 1: names and values in one tree.
const FIRST: Migration = Migration { name: "first", plan: |db| db.open_tree("things").map(|_| Vec::new()) };
/// Schema 2: values are written backwards, and counted in a tree of their own.
const SECOND: Migration = Migration { name: "second", plan: backwards };
/// Schema 3: the tree has another name.
const THIRD: Migration = Migration { name: "third", plan: renamed };
const STEPS: [Migration; 3] = [FIRST, SECOND, THIRD];

fn backwards(db: &Db) -> Result<Plan, sled::Error> {
    let (things, counts) = (db.open_tree("things")?, db.open_tree("counts")?);
    let (mut turned, mut counted) = (Batch::default(), Batch::default());
    for row in things.iter() {
        let (key, value) = row?;
        let value: Vec<u8> = value.iter().rev().copied().collect();
        counted.insert(key.clone(), &[value.len() as u8]);
        turned.insert(key, value);
    }
    Ok(vec![(things, turned), (counts, counted)])
}

fn renamed(db: &Db) -> Result<Plan, sled::Error> {
    let (old, new) = (db.open_tree("things")?, db.open_tree("items")?);
    let (mut removed, mut inserted) = (Batch::default(), Batch::default());
    for row in old.iter() {
        let (key, value) = row?;
        removed.remove(key.clone());
        inserted.insert(key, value);
    }
    Ok(vec![(old, removed), (new, inserted)])
}

fn open(path: &Path, steps: &[Migration]) -> Result<Store, OpenError> {
    Store::open_with(path, Faults::default(), steps)
}

fn insert(path: &Path, tree: &str, rows: &[(&str, &[u8])]) {
    tamper(path, |db| {
        let tree = db.open_tree(tree).unwrap();
        for (key, value) in rows {
            tree.insert(key, *value).unwrap();
        }
    });
}

/// A closed store of schema 1 with two rows.
fn of_schema_1() -> Place {
    let place = Place::new();
    drop(open(&place.path(), &STEPS[..1]).unwrap());
    insert(&place.path(), "things", &[("a", b"one"), ("b", b"three")]);
    place
}

fn copy_of(place: &Place, schema: u32) -> std::path::PathBuf {
    place.path().with_file_name(format!("store.schema-{schema}"))
}

fn schema(path: &Path) -> u32 {
    let row = raw(path).open_tree("meta").unwrap().get("schema").unwrap().unwrap();
    u32::from_be_bytes(row.as_ref().try_into().unwrap())
}

#[test]
fn an_upgraded_store_equals_a_fresh_one() {
    let upgraded = of_schema_1();
    drop(open(&upgraded.path(), &STEPS).unwrap());

    let fresh = Place::new();
    drop(open(&fresh.path(), &STEPS).unwrap());
    insert(&fresh.path(), "items", &[("a", b"eno"), ("b", b"eerht")]);
    insert(&fresh.path(), "counts", &[("a", &[3]), ("b", &[5])]);
    assert_eq!(dump(&upgraded.path()), dump(&fresh.path()));
    assert_eq!(schema(&upgraded.path()), 3);
    assert!(!copy_of(&fresh, 0).exists(), "a new store has nothing to keep");
}

#[test]
fn one_step_after_the_other_gives_what_both_at_once_give() {
    let (at_once, one_by_one) = (of_schema_1(), of_schema_1());
    drop(open(&at_once.path(), &STEPS).unwrap());
    drop(open(&one_by_one.path(), &STEPS[..2]).unwrap());
    assert_eq!(schema(&one_by_one.path()), 2);
    let refused = open(&one_by_one.path(), &STEPS[..1]).err().unwrap();
    assert!(matches!(refused, OpenError::NewerSchema { found: 2, known: 1, .. }), "{refused:?}");
    drop(open(&one_by_one.path(), &STEPS).unwrap());
    assert_eq!(dump(&at_once.path()), dump(&one_by_one.path()));
}

#[test]
fn a_copy_from_before_the_upgrade_is_kept_and_opens() {
    let place = of_schema_1();
    let before = dump(&place.path());
    drop(open(&place.path(), &STEPS).unwrap());
    let copy = copy_of(&place, 1);
    assert_eq!(dump(&copy), before);
    assert_eq!(open(&copy, &STEPS[..1]).unwrap().boot(), 2);
    assert!(!copy_of(&place, 2).exists(), "kept once an upgrade, not once a step");
}

#[test]
fn a_second_run_changes_nothing() {
    let place = of_schema_1();
    assert_eq!(open(&place.path(), &STEPS).unwrap().boot(), 2);
    let after = dump(&place.path());
    assert_eq!(open(&place.path(), &STEPS).unwrap().boot(), 3);
    assert_eq!(dump(&place.path()), after);
    assert!(!copy_of(&place, 3).exists());
}

#[test]
fn a_step_that_fails_leaves_the_store_where_it_was() {
    const REFUSES: Migration =
        Migration { name: "refuses", plan: |_| Err(sled::Error::Unsupported("not today".into())) };
    const PANICS: Migration = Migration { name: "panics", plan: |_| panic!("not today") };
    for fails in [REFUSES, PANICS] {
        let place = of_schema_1();
        let before = dump(&place.path());
        let error = open(&place.path(), &[FIRST, fails, THIRD]).err().unwrap();
        assert!(error.to_string().contains("not today"), "{error}");
        assert_eq!(dump(&place.path()), before);

        let error = open(&place.path(), &[FIRST, SECOND, fails]).err().unwrap();
        assert!(error.to_string().contains("not today"), "{error}");
        let second = of_schema_1();
        drop(open(&second.path(), &STEPS[..2]).unwrap());
        assert_eq!(dump(&place.path()), dump(&second.path()), "the step before it stands");

        drop(open(&place.path(), &STEPS).unwrap());
        assert_eq!(schema(&place.path()), 3);
        assert_eq!(dump(&copy_of(&place, 1)), before);
    }
}

/// Whoever went back to the copy of an upgrade, worked on, and upgrades again, keeps what he has now.
#[test]
fn the_copy_of_an_earlier_upgrade_is_replaced() {
    let place = of_schema_1();
    drop(open(&place.path(), &STEPS).unwrap());
    std::fs::remove_dir_all(place.path()).unwrap();
    copy(&copy_of(&place, 1), &place.path());
    insert(&place.path(), "things", &[("c", b"new")]);
    let before = dump(&place.path());
    drop(open(&place.path(), &STEPS).unwrap());
    assert_eq!(dump(&copy_of(&place, 1)), before);
}

#[test]
fn a_copy_that_was_cut_short_is_made_anew() {
    let place = of_schema_1();
    let before = dump(&place.path());
    let unfinished = copy_of(&place, 1).with_extension("unfinished");
    std::fs::create_dir(&unfinished).unwrap();
    std::fs::write(unfinished.join("db"), "half a co").unwrap();
    drop(open(&place.path(), &STEPS).unwrap());
    assert_eq!(dump(&copy_of(&place, 1)), before);
    assert!(!unfinished.exists());
}
