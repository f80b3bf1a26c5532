//! Owns the proof that damage inside a store is noticed, told and survived: the check finds each kind of problem, and
//! a row that does not decode stops nothing.

mod common;

use common::registry::{START, from};
use common::store::{Place, commit, put, put_relay, registration, relay, rows, tamper};
use waypost::id::ChunkName;
use waypost::registry::rendezvous::Rendezvous;
use waypost::store::{Amendment, Changes, ChunkRecord, Index, Indexed, LeaseKey, Problem, Undecodable};

const INDEX: &str = "index.expiry";
const RELAYS: &str = "lease.relay";
const REGISTRATIONS: &str = "lease.registration";

/// A closed store with relay ann, registrations 1 and 2, the second amended.
fn store_with_leases() -> Place {
    let place = Place::new();
    let store = place.open();
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        put(changes, 1, &registration("bob", 10, 20), 10);
        put(changes, 2, &registration("cat", 11, 21), 11);
        let gone = Amendment { points_gone: vec![], tokens_gone: vec![0] };
        changes.amend(&LeaseKey::registration(2), &gone, Indexed::at(11), Indexed::at(21));
    });
    store.flush().unwrap();
    assert!(store.check().unwrap().is_clean());
    place
}

fn index_row(at: u64, kind: u8, key: &[u8]) -> Vec<u8> {
    [&at.to_be_bytes()[..], &[kind], key].concat()
}

fn problems(place: &Place, damage: impl FnOnce(&sled::Db)) -> Vec<Problem> {
    tamper(&place.path(), damage);
    place.open().check().unwrap().problems
}

fn after(damage: impl FnOnce(&sled::Db)) -> Vec<Problem> {
    problems(&store_with_leases(), damage)
}

fn undecodable(kind: &'static str, key: &str, reason: Undecodable) -> Problem {
    Problem::Undecodable { kind, key: key.into(), reason }
}

#[test]
fn a_whole_store_has_no_problems_and_the_check_counts_it() {
    let report = store_with_leases().open().check().unwrap();
    assert_eq!((report.leases["relay"], report.leases["registration"], report.index_rows), (1, 2, 3));
    assert_eq!(report.problems, []);
}

#[test]
fn a_missing_index_row_is_found() {
    let found = after(|db| {
        let index = db.open_tree(INDEX).unwrap();
        index.remove(index_row(0, 1, b"ann")).unwrap().unwrap();
        index.remove(index_row(21, 2, &2_u64.to_be_bytes())).unwrap().unwrap();
    });
    let missing = |kind, key: &str, at| Problem::NotIndexed { kind, key: key.into(), at };
    assert_eq!(found, [missing("relay", "ann", 0), missing("registration", "2", 21)]);
    assert_eq!(found[1].to_string(), "registration 2: no index row at 21");
}

#[test]
fn a_stray_index_row_is_found_whether_it_names_nothing_or_something_twice() {
    let found = after(|db| {
        let index = db.open_tree(INDEX).unwrap();
        index.insert(index_row(9, 2, &1_u64.to_be_bytes()), &[]).unwrap();
        index.insert(index_row(11, 2, &2_u64.to_be_bytes()), &[]).unwrap();
        index.insert(index_row(15, 2, &3_u64.to_be_bytes()), &[]).unwrap();
        index.insert(index_row(15, 1, b"ann"), &[]).unwrap();
    });
    let stray = |kind, key: &str, at| Problem::StrayIndexRow { kind, key: key.into(), at };
    let registration = |key, at| stray("registration", key, at);
    assert_eq!(
        found,
        [registration("1", 9), registration("2", 11), stray("relay", "ann", 15), registration("3", 15)]
    );
}

#[test]
fn a_malformed_index_row_is_found() {
    let found = after(|db| {
        let index = db.open_tree(INDEX).unwrap();
        index.insert([1, 2, 3], &[]).unwrap();
        index.insert(index_row(5, 99, b"key"), &[]).unwrap();
    });
    let malformed = |hex: &str| Problem::MalformedIndexRow(hex.into());
    assert_eq!(found, [malformed("0000000000000005636b6579"), malformed("010203")]);
}

#[test]
fn an_index_row_after_the_end_is_found() {
    let place = Place::new();
    let store = place.open();
    let all_gone = Amendment { points_gone: vec![0], tokens_gone: vec![0] };
    let tokens_gone = Amendment { points_gone: vec![], tokens_gone: vec![0] };
    commit(&store, |changes| {
        put(changes, 1, &registration("ann", 10, 20), 20);
        put(changes, 2, &registration("ann", 10, 20), 21);
        put(changes, 3, &registration("ann", 10, 20), 10);
        changes.amend(&LeaseKey::registration(3), &tokens_gone, Indexed::at(10), Indexed::at(20));
        put(changes, 4, &registration("ann", 30, 20), 20);
        changes.amend(&LeaseKey::registration(4), &tokens_gone, Indexed::at(20), Indexed::at(30));
        put(changes, 5, &registration("ann", 10, 20), 10);
        changes.amend(&LeaseKey::registration(5), &all_gone, Indexed::at(10), Indexed::at(10));
    });
    let late = |key: &str, at, end| Problem::IndexedLate { kind: "registration", key: key.into(), at, end };
    assert_eq!(store.check().unwrap().problems, [late("2", 21, 20), late("4", 30, 20), late("5", 10, 0)]);
}

#[test]
fn a_row_that_does_not_decode_is_found() {
    let found = after(|db| {
        let registrations = db.open_tree(REGISTRATIONS).unwrap();
        let mut longer = registrations.get(1_u64.to_be_bytes()).unwrap().unwrap().to_vec();
        longer.push(0);
        db.open_tree(RELAYS).unwrap().insert("ann", &[9, 9, 9]).unwrap();
        registrations.insert(1_u64.to_be_bytes(), longer).unwrap();
        registrations.insert(2_u64.to_be_bytes(), &[2, 0]).unwrap();
    });
    assert_eq!(found[0], undecodable("relay", "ann", Undecodable::Version(9)));
    let Problem::Undecodable { kind: "registration", key, reason: Undecodable::Codec(_) } = &found[1] else {
        panic!("{found:?}");
    };
    assert_eq!(key, "1");
    assert_eq!(found[2..], [undecodable("registration", "2", Undecodable::Short)]);
}

#[test]
fn an_amendment_that_does_not_decode_or_belongs_to_nothing_is_found() {
    let amendment = |sequence: u64| [&sequence.to_be_bytes()[..], &[1]].concat();
    let found = after(|db| {
        let registrations = db.open_tree(REGISTRATIONS).unwrap();
        let whole = registrations.insert(amendment(2), &[7]).unwrap().unwrap();
        registrations.insert(amendment(3), whole).unwrap();
    });
    assert_eq!(found[0], undecodable("registration", "2", Undecodable::Version(7)));
    let malformed = Undecodable::Codec("the key is malformed".into());
    assert_eq!(found[1], undecodable("registration", "000000000000000301", malformed));
    assert_eq!(found.len(), 2);
}

#[test]
fn a_row_that_does_not_decode_is_told_and_stops_nothing() {
    let place = store_with_leases();
    tamper(&place.path(), |db| {
        db.open_tree(RELAYS).unwrap().insert("broken", "garbage").unwrap();
        db.open_tree(REGISTRATIONS).unwrap().insert(1_u64.to_be_bytes(), "").unwrap();
    });
    let store = place.open();
    let mut shown = Vec::new();
    let folded = store.fold(|row| shown.push(row.indexed())).unwrap();
    assert_eq!(shown, [0, 21]);
    assert_eq!(folded.rows, 4);
    let version = Undecodable::Version(b'g');
    assert_eq!(
        folded.undecodable,
        [("relay/broken".to_owned(), version), ("registration/1".to_owned(), Undecodable::Short)]
    );
    let mut paged = 0;
    let more = store.page(waypost::id::Kind::Registration, "", None, 1, |_, _| paged += 1).unwrap();
    assert_eq!((paged, more), (1, None));
    assert_eq!(store.inspect(&LeaseKey::registration(1), |_| ()).unwrap(), None);

    commit(&store, |changes| put(changes, 3, &registration("dan", 12, 22), 12));
    drop(store);
    assert_eq!(rows(&place.open()).len(), 3);
}

#[test]
fn a_chunk_with_parts_that_are_not_its_own_or_under_another_key_is_found() {
    let place = Place::new();
    let store = place.open();
    let name = |chunk| ChunkName::parse("", chunk).unwrap();
    let record = |chunk: &'static str| ChunkRecord {
        owner: "ann".into(),
        channel: "".into(),
        chunk: chunk.into(),
        end: 10,
        digest: [7; 32],
        data: "x".repeat(5000).into(),
    };
    let [whole, cut, longer, other] = ["whole", "cut", "longer", "other"].map(|text| name(text).key().text());
    commit(&store, |changes| {
        for chunk in ["whole", "cut", "longer"] {
            assert_eq!(
                changes.put_new(&LeaseKey::chunk(&name(chunk).key()), &record(chunk), Indexed::at(10)),
                2
            );
        }
        changes.put_new(&LeaseKey::chunk(&name("other").key()), &record("another"), Indexed::at(10));
    });
    store.flush().unwrap();
    drop(store);
    let part = |text: &str, number: u8| [text.as_bytes(), &[2, 0, number]].concat();
    let found = problems(&place, |db| {
        let chunks = db.open_tree("lease.chunk").unwrap();
        chunks.remove(part(&cut, 1)).unwrap().unwrap();
        chunks.insert(part(&longer, 2), "x").unwrap();
    });
    let of = |key: &str| {
        found.iter().find(|problem| matches!(problem, Problem::Undecodable { key: of, .. } if of == key))
    };
    for key in [&cut, &longer] {
        assert!(
            matches!(of(key), Some(Problem::Undecodable { reason: Undecodable::Codec(_), .. })),
            "{found:?}"
        );
    }
    assert_eq!(
        of(&other),
        Some(&undecodable("chunk", &other, Undecodable::Codec("the key is malformed".into())))
    );
    assert_eq!((of(&whole), found.len()), (None, 3));
}

/// A new registration under the number of a row that does not decode would overwrite what is to be left alone, and take
/// over its index row.
#[test]
fn the_number_of_a_row_that_does_not_decode_is_never_given_again() {
    let place = store_with_leases();
    tamper(&place.path(), |db| {
        let registrations = db.open_tree(REGISTRATIONS).unwrap();
        registrations.insert(6_u64.to_be_bytes(), "garbage").unwrap();
        registrations.insert([&7_u64.to_be_bytes()[..], &[1]].concat(), "garbage").unwrap();
    });
    let store = place.open();
    let boot = waypost::registry::Boot { number: store.boot(), live_since: 0, grace_end: 0 };
    let mut rendezvous = Rendezvous::new(boot, waypost::limits::RendezvousRules::default());
    let folded = store.fold(|_| {}).unwrap();
    assert_eq!(folded.last_sequence, 7);
    rendezvous.continue_after(folded.last_sequence);
    let mut changes = Changes::default();
    rendezvous.register(START, &from("eve").point("p"), &mut changes).unwrap();
    store.commit(&changes).unwrap();
    assert!(store.inspect(&LeaseKey::registration(8), |_| ()).unwrap().is_some());
    assert_eq!(store.fold(|_| {}).unwrap().undecodable.len(), 2);
}

/// Memory has 48 bits for a registration's number: one that did not fit was cut short and then looked for in vain, a panic of
/// the writer once somebody came to its point. And behind the highest possible one there is none to give.
#[test]
fn a_number_that_damage_has_made_too_large_is_undecodable_and_numbers_go_on() {
    let place = store_with_leases();
    tamper(&place.path(), |db| {
        let registrations = db.open_tree(REGISTRATIONS).unwrap();
        let second = registrations.get(2_u64.to_be_bytes()).unwrap().unwrap();
        for too_large in [1 << 47, 1 << 48, u64::MAX] {
            registrations.insert(too_large.to_be_bytes(), second.clone()).unwrap();
        }
        // The order stands last in a record, as a varint: in one byte, or behind 253 in eight.
        let order = [&second[..second.len() - 1], &[253], &u64::MAX.to_le_bytes()].concat();
        registrations.insert(3_u64.to_be_bytes(), order).unwrap();
        let generation = [&[1][..], &[0; 8], &[253], &u64::MAX.to_le_bytes(), &[0]].concat();
        db.open_tree("lease.claim").unwrap().insert("home", generation).unwrap();
    });
    let store = place.open();
    let boot = waypost::registry::Boot { number: store.boot(), live_since: 0, grace_end: 0 };
    let mut registries = waypost::registry::Registries::new(boot, &waypost::limits::Limits::default());
    let folded = store.fold(|row| registries.load(row)).unwrap();
    assert_eq!(folded.undecodable.len(), 5, "{:?}", folded.undecodable);
    registries.rendezvous.continue_after(folded.last_sequence);
    let mut changes = Changes::default();
    registries.rendezvous.register(START, &from("eve").point("p"), &mut changes).unwrap();
    assert_eq!(registries.rendezvous.last_sequence(), 4);
    let home = waypost::id::LinkId::parse("office").unwrap();
    let claimed = registries.claims.claim(START, &home, None, &mut changes).unwrap();
    assert_eq!(claimed.generation.0, 1);
    store.commit(&changes).unwrap();
    assert_eq!(store.fold(|_| {}).unwrap().undecodable.len(), 5);
}

#[test]
fn malformed_index_rows_hide_nothing_that_is_due() {
    let place = store_with_leases();
    tamper(&place.path(), |db| {
        let index = db.open_tree(INDEX).unwrap();
        for number in 0..5 {
            index.insert(index_row(5, 99, &[number]), &[]).unwrap();
        }
    });
    let store = place.open();
    let due = store.due(Index::Expiry, 30, None, 1).unwrap();
    assert_eq!(due.iter().map(|due| due.at).collect::<Vec<_>>(), [10]);
    assert_eq!(store.next_expiry(0).unwrap(), Some(10));
}
