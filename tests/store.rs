//! Owns the proof of what a store that is open does: commits, the expiry index, pages, pins and large records. How it
//! opens is in `store_opening.rs`, what it notices in `store_check.rs`.

mod common;

use common::store::{Place, commit, id, of_order, put, put_relay, registration, relay, rows};
use waypost::id::Kind;
use waypost::store::{
    Amendment, Changes, DropRef, Due, Faults, Index, Indexed, LeaseKey, Pins, PointRecord,
    RegistrationRecord, Row, Rows, Store, StoreError,
};

fn due(at: u64, sequence: u64) -> Due {
    Due { at, key: LeaseKey::registration(sequence) }
}

#[test]
fn what_is_committed_is_there_after_opening_again_and_the_boot_number_rises() {
    let place = Place::new();
    let store = place.open();
    assert_eq!((store.boot(), store.live_since().unwrap()), (1, 0));
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        put(changes, 1, &registration("bob", 10, 20), 10);
        changes.live_since(1);
    });
    store.flush().unwrap();
    let before = rows(&store);
    drop(store);

    let store = place.open();
    assert_eq!((store.boot(), store.live_since().unwrap()), (2, 1));
    assert_eq!(rows(&store), before);
    assert_eq!(before.len(), 2);
    drop(store);
    assert_eq!(Store::reopen(&place.path(), Faults::default(), 2).unwrap().boot(), 2);
    assert_eq!(place.open().boot(), 3);
}

#[test]
fn rows_come_back_as_they_were_written_registrations_in_their_order() {
    let place = Place::new();
    let store = place.open();
    let amendment = Amendment { points_gone: vec![0], tokens_gone: vec![] };
    commit(&store, |changes| {
        for sequence in [300, 2, 255] {
            put(changes, sequence, &registration("bob", 10, 20), 10);
        }
        changes.amend(&LeaseKey::registration(255), &amendment, Indexed::at(10), Indexed::at(20));
        put_relay(changes, "ann", &relay(7));
    });
    let mut seen = Vec::new();
    let folded = store.fold(|row| match row {
        Row::Relay { id: of, record } => {
            assert_eq!((of, record), (id("ann"), relay(7)));
        }
        Row::Registration { sequence, record, amendment, indexed, .. } => {
            assert_eq!(record, of_order(sequence, &registration("bob", 10, 20)));
            seen.push((sequence, amendment, indexed));
        }
        row => panic!("{row:?}"),
    });
    let folded = folded.unwrap();
    assert_eq!((folded.rows, folded.last_sequence, folded.undecodable.len()), (4, 300, 0));
    assert_eq!(seen, [(2, None, 10), (255, Some(amendment), 20), (300, None, 10)]);
}

#[test]
fn a_commit_that_fails_changes_nothing_in_any_tree() {
    let place = Place::new();
    let faults = Faults::default();
    let store = Store::open(&place.path(), faults.clone()).unwrap();
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        put(changes, 1, &registration("bob", 10, 20), 10);
    });
    let (before, held, due) =
        (rows(&store), store.held(None, 9).unwrap(), store.due(Index::Expiry, 99, None, 9).unwrap());

    let mut changes = Changes::default();
    put_relay(&mut changes, "cat", &relay(8));
    put(&mut changes, 2, &registration("dan", 11, 21), 11);
    changes.remove(&LeaseKey::relay(&id("ann")), Indexed::HELD);
    changes
        .remove_all(&LeaseKey::registration(1), Rows { parts: 1, amended: false, indexed: Indexed::at(10) });
    faults.fail_write(1);
    assert!(matches!(store.commit(&changes), Err(StoreError::Injected)));
    assert_eq!(rows(&store), before);
    assert_eq!((store.held(None, 9).unwrap(), store.due(Index::Expiry, 99, None, 9).unwrap()), (held, due));
    assert!(store.check().unwrap().is_clean());

    store.commit(&changes).unwrap();
    assert_ne!(rows(&store), before);
    assert!(store.check().unwrap().is_clean());
}

#[test]
fn a_fault_comes_when_it_was_asked_for_and_once() {
    let place = Place::new();
    let faults = Faults::default();
    let store = Store::open(&place.path(), faults.clone()).unwrap();
    faults.fail_flush(2);
    store.flush().unwrap();
    assert!(matches!(store.flush(), Err(StoreError::Injected)));
    store.flush().unwrap();
}

#[test]
fn every_lease_is_indexed_exactly_once_whatever_happens_to_it() {
    let place = Place::new();
    let store = place.open();
    let lost_tokens = Amendment { points_gone: vec![], tokens_gone: vec![0] };
    let index = |held: usize, at: &[u64]| {
        let report = store.check().unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        assert_eq!(report.index_rows, held + at.len());
        assert_eq!(store.held(None, 9).unwrap().len(), held);
        let due = store.due(Index::Expiry, u64::MAX, None, 9).unwrap();
        assert_eq!(due.iter().map(|due| due.at).collect::<Vec<_>>(), at);
    };
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        put(changes, 1, &registration("bob", 10, 20), 10);
        put(changes, 2, &registration("cat", 11, 21), 11);
    });
    index(1, &[10, 11]);
    commit(&store, |changes| changes.put_again(&LeaseKey::relay(&id("ann")), &relay(8), Indexed::HELD));
    index(1, &[10, 11]);
    commit(&store, |changes| {
        changes.amend(&LeaseKey::registration(1), &lost_tokens, Indexed::at(10), Indexed::at(20))
    });
    index(1, &[11, 20]);
    commit(&store, |changes| {
        changes.amend(&LeaseKey::registration(2), &lost_tokens, Indexed::at(11), Indexed::at(11))
    });
    index(1, &[11, 20]);
    commit(&store, |changes| {
        changes.remove_all(
            &LeaseKey::registration(1),
            Rows { parts: 1, amended: true, indexed: Indexed::at(20) },
        );
        changes.remove(&LeaseKey::relay(&id("ann")), Indexed::HELD);
    });
    index(0, &[11]);
    commit(&store, |changes| {
        changes.remove_all(
            &LeaseKey::registration(2),
            Rows { parts: 1, amended: true, indexed: Indexed::at(11) },
        )
    });
    index(0, &[]);
    assert!(rows(&store).is_empty());
}

#[test]
fn due_rows_come_in_order_in_portions_and_without_what_ends_with_its_holder() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.next_expiry(0).unwrap(), None);
    let mut changes = Changes::default();
    put_relay(&mut changes, "ann", &relay(7));
    put_relay(&mut changes, "bob", &relay(7));
    assert_eq!(changes.earliest(), None);
    for (sequence, end) in [(1, 300), (2, 100), (3, 100), (4, 256)] {
        put(&mut changes, sequence, &registration("cat", end, 1000), end);
    }
    assert_eq!((changes.earliest(), changes.rows()), (Some(100), 12));
    store.commit(&changes).unwrap();

    assert_eq!(store.due(Index::Expiry, 99, None, 9).unwrap(), []);
    assert_eq!(store.due(Index::Expiry, 100, None, 9).unwrap(), [due(100, 2), due(100, 3)]);
    assert_eq!(store.due(Index::Expiry, 299, None, 9).unwrap(), [due(100, 2), due(100, 3), due(256, 4)]);
    assert_eq!(store.due(Index::Expiry, 300, None, 2).unwrap(), [due(100, 2), due(100, 3)]);
    assert_eq!(store.due(Index::Expiry, 300, Some(&due(100, 2)), 2).unwrap(), [due(100, 3), due(256, 4)]);
    assert_eq!(store.due(Index::Expiry, 300, Some(&due(300, 1)), 2).unwrap(), []);
    assert_eq!(store.due(Index::Expiry, u64::MAX, Some(&due(256, 4)), 9).unwrap(), [due(300, 1)]);
    for (after, next) in [(0, Some(100)), (99, Some(100)), (100, Some(256)), (300, None), (u64::MAX, None)] {
        assert_eq!(store.next_expiry(after).unwrap(), next, "after {after}");
    }

    let held = store.held(None, 9).unwrap();
    let relay_due = |name: &str| Due { at: 0, key: LeaseKey::relay(&id(name)) };
    assert_eq!(held, [relay_due("ann"), relay_due("bob")]);
    assert_eq!(store.held(None, 1).unwrap(), held[..1]);
    assert_eq!(store.held(Some(&held[0]), 9).unwrap(), held[1..]);
}

#[test]
fn pages_follow_prefix_and_cursor() {
    let place = Place::new();
    let store = place.open();
    let gone = Amendment { points_gone: vec![0], tokens_gone: vec![] };
    commit(&store, |changes| {
        for name in ["a", "ab", "abc", "b", "ba"] {
            put_relay(changes, name, &relay(7));
        }
        for sequence in [1, 2, 10, 11] {
            put(changes, sequence, &registration("cat", 5, 6), 5);
            changes.amend(&LeaseKey::registration(sequence), &gone, Indexed::at(5), Indexed::at(5));
        }
    });
    let page = |kind, prefix: &str, after: Option<&LeaseKey>, most| {
        let mut keys = Vec::new();
        let more = store.page(kind, prefix, after, most, |key, row| {
            if let Row::Registration { amendment, .. } = row {
                assert_eq!(amendment.as_ref(), Some(&gone));
            }
            keys.push(key.text());
        });
        (keys, more.unwrap().map(|key| key.text()))
    };
    let text = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(page(Kind::Relay, "", None, 9), (text(&["a", "ab", "abc", "b", "ba"]), None));
    assert_eq!(page(Kind::Relay, "ab", None, 9), (text(&["ab", "abc"]), None));
    assert_eq!(page(Kind::Relay, "ab", None, 2), (text(&["ab", "abc"]), None));
    assert_eq!(page(Kind::Relay, "a", None, 2), (text(&["a", "ab"]), Some("ab".into())));
    let after = LeaseKey::relay(&id("ab"));
    assert_eq!(page(Kind::Relay, "a", Some(&after), 2), (text(&["abc"]), None));
    assert_eq!(page(Kind::Relay, "x", None, 9), (text(&[]), None));

    assert_eq!(page(Kind::Registration, "", None, 3), (text(&["1", "2", "10"]), Some("10".into())));
    let after = LeaseKey::registration(2);
    assert_eq!(page(Kind::Registration, "", Some(&after), 3), (text(&["10", "11"]), None));
    assert_eq!(page(Kind::Registration, "1", None, 9), (text(&["1", "10", "11"]), None));
}

#[test]
fn one_lease_is_inspected_with_all_its_rows() {
    let place = Place::new();
    let store = place.open();
    commit(&store, |changes| put(changes, 1, &registration("ann", 10, 20), 10));
    let key = LeaseKey::registration(1);
    let ends = || store.inspect(&key, |row| (row.indexed(), row.end())).unwrap();
    assert_eq!(ends(), Some((10, Some(20))));
    let gone = Amendment { points_gone: vec![0], tokens_gone: vec![] };
    commit(&store, |changes| {
        changes.amend(&LeaseKey::registration(1), &gone, Indexed::at(10), Indexed::at(10))
    });
    assert_eq!(ends(), Some((10, Some(10))));
    assert_eq!(store.inspect(&LeaseKey::registration(2), |_| ()).unwrap(), None);
}

/// Removes registration 1, as the writer does it.
fn remove_pinned(store: &Store, pins: &Pins, mut changes: Changes) {
    changes
        .remove_all(&LeaseKey::registration(1), Rows { parts: 1, amended: false, indexed: Indexed::at(10) });
    pins.keep_removed(&changes, store).unwrap();
    store.commit(&changes).unwrap();
    assert!(rows(store).is_empty());
}

const FIRST_DROP: DropRef = DropRef { sequence: 1, order: 1, point: 0 };

#[test]
fn a_pinned_dead_drop_is_readable_after_its_registration_has_gone() {
    for written_before in [true, false] {
        let place = Place::new();
        let (store, pins) = (place.open(), Pins::default());
        let mut changes = Changes::default();
        put(&mut changes, 1, &registration("ann", 10, 20), 10);
        if written_before {
            store.commit(&std::mem::take(&mut changes)).unwrap();
        }
        let (pinned, other) = (pins.pin(vec![FIRST_DROP]), pins.pin(vec![FIRST_DROP, FIRST_DROP]));
        remove_pinned(&store, &pins, changes);
        assert_eq!(pinned.read(&store).unwrap(), ["from ann"]);
        drop(pinned);
        assert_eq!(other.read(&store).unwrap(), ["from ann", "from ann"]);
        drop(other);
        assert!(pins.pin(vec![FIRST_DROP]).read(&store).is_err(), "nothing is kept for nobody");
    }
}

#[test]
fn what_nobody_has_pinned_is_not_kept() {
    let place = Place::new();
    let (store, pins) = (place.open(), Pins::default());
    commit(&store, |changes| {
        put(changes, 1, &registration("ann", 10, 20), 10);
    });
    drop(pins.pin(vec![FIRST_DROP]));
    let elsewhere = pins.pin(vec![DropRef { sequence: 2, order: 2, point: 0 }]);
    remove_pinned(&store, &pins, Changes::default());
    assert!(pins.pin(vec![FIRST_DROP]).read(&store).is_err());
    assert!(elsewhere.read(&store).is_err());
    assert!(pins.pin(Vec::new()).is_empty());
}

#[test]
fn a_point_without_a_dead_drop_is_an_error_to_read_and_no_panic() {
    let place = Place::new();
    let (store, pins) = (place.open(), Pins::default());
    commit(&store, |changes| put(changes, 1, &registration("ann", 10, 20), 10));
    assert!(pins.pin(vec![DropRef { sequence: 1, order: 1, point: 1 }]).read(&store).is_err());
}

/// The key of a registration may be another one's by the time its dead drop is read.
#[test]
fn a_pinned_dead_drop_is_readable_after_its_registration_was_overwritten() {
    let key = LeaseKey::registration(1);
    let drop_of = |order| DropRef { sequence: 1, order, point: 0 };
    let old = Rows { parts: 1, amended: false, indexed: Indexed::at(10) };
    let record = |peer: &str, order| of_order(order, &registration(peer, 10, 20));
    let place = Place::new();
    let (store, pins) = (place.open(), Pins::default());
    commit(&store, |changes| put(changes, 1, &registration("ann", 10, 20), 10));
    let first = pins.pin(vec![drop_of(1)]);
    // Twice in one transaction, and once more in the next one; somebody has pinned each of them.
    let mut changes = Changes::default();
    changes.replace(&key, &record("bob", 2), old, Indexed::at(10));
    let second = pins.pin(vec![drop_of(2), drop_of(1)]);
    changes.replace(&key, &record("cat", 3), old, Indexed::at(10));
    let third = pins.pin(vec![drop_of(3)]);
    pins.keep_removed(&changes, &store).unwrap();
    store.commit(&changes).unwrap();
    assert_eq!(first.read(&store).unwrap(), ["from ann"]);
    assert_eq!(second.read(&store).unwrap(), ["from bob", "from ann"]);
    assert_eq!(third.read(&store).unwrap(), ["from cat"]);
    let mut changes = Changes::default();
    changes.replace(&key, &record("dan", 4), old, Indexed::at(10));
    pins.keep_removed(&changes, &store).unwrap();
    store.commit(&changes).unwrap();
    assert_eq!(third.read(&store).unwrap(), ["from cat"]);
    assert!(pins.pin(vec![drop_of(5)]).read(&store).is_err(), "nobody's");
}

/// 50 points, each with its own payload of 4096 bytes.
fn large(peer: &str) -> RegistrationRecord<'static> {
    let points = |number| PointRecord { name: format!("point {number}").into(), payload: Some(number) };
    RegistrationRecord {
        points: (0..50).map(points).collect(),
        payloads: (0..50)
            .map(|number| format!("{peer} {number:04000}").repeat(2)[..4096].to_owned().into())
            .collect(),
        ..registration(peer, 10, 20)
    }
}

#[test]
fn large_records_survive_commit_flush_and_opening_again() {
    let place = Place::new();
    let store = place.open();
    for round in 0..3 {
        commit(&store, |changes| {
            for number in 0..4 {
                put(changes, 4 * round + number, &large(&format!("peer-{round}-{number}")), 10);
            }
        });
        store.flush().unwrap();
    }
    let blobs = std::fs::read_dir(place.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled has put nothing beside its log, where a power cut could tear the two apart");
    assert!(store.size_on_disk() > 12 * 50 * 4096);
    let whole = |store: &Store| {
        let mut seen = 0;
        let folded = store.fold(|row| {
            let Row::Registration { sequence, record, .. } = row else { panic!("no relays here") };
            assert_eq!(
                record,
                of_order(sequence, &large(&format!("peer-{}-{}", sequence / 4, sequence % 4)))
            );
            seen += 1;
        });
        folded.unwrap();
        assert_eq!(seen, 12);
        let drops = (0..50).map(|point| DropRef { sequence: 7, order: 7, point }).collect();
        let payloads = Pins::default().pin(drops).read(store).unwrap();
        assert_eq!(payloads, large("peer-1-3").payloads);
        assert!(store.check().unwrap().is_clean());
    };
    whole(&store);
    drop(store);
    whole(&place.open());
}

#[test]
fn a_record_of_many_megabytes_is_a_record() {
    let place = Place::new();
    let store = place.open();
    let payload = "x".repeat(8 << 20);
    let record =
        RegistrationRecord { payloads: vec![payload.as_str().into()], ..registration("ann", 10, 20) };
    commit(&store, |changes| put(changes, 1, &record, 10));
    assert_eq!(Pins::default().pin(vec![FIRST_DROP]).read(&store).unwrap(), [payload]);
}

#[test]
fn a_large_registration_goes_with_all_its_parts_and_stays_readable_for_whoever_has_it_pinned() {
    let place = Place::new();
    let (store, pins) = (place.open(), Pins::default());
    let key = LeaseKey::registration(1);
    let mut changes = Changes::default();
    let parts = changes.put_new(&key, &of_order(1, &large("ann")), Indexed::at(10));
    assert!(parts > 50, "{parts} parts");
    store.commit(&changes).unwrap();
    let pinned = [
        pins.pin(vec![DropRef { sequence: 1, order: 1, point: 49 }]),
        pins.pin(vec![DropRef { sequence: 2, order: 2, point: 49 }]),
    ];
    let mut changes = Changes::default();
    changes.remove_all(&LeaseKey::registration(1), Rows { parts, amended: false, indexed: Indexed::at(10) });
    // And one that is written and removed at once.
    let parts = changes.put_new(&LeaseKey::registration(2), &of_order(2, &large("bob")), Indexed::at(10));
    changes.remove_all(&LeaseKey::registration(2), Rows { parts, amended: false, indexed: Indexed::at(10) });
    pins.keep_removed(&changes, &store).unwrap();
    store.commit(&changes).unwrap();
    assert_eq!(pinned[0].read(&store).unwrap(), [large("ann").payloads[49].to_string()]);
    assert_eq!(pinned[1].read(&store).unwrap(), [large("bob").payloads[49].to_string()]);
    let mut rows = 0;
    store.fold(|_| rows += 1).unwrap();
    let report = store.check().unwrap();
    assert_eq!((rows, report.index_rows, report.problems), (0, 0, vec![]));
}
