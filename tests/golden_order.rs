//! Owns the proof that what schema 5 brought (the order of registrations) opens with today's build as the version left it that
//! wrote it, and says the same.
//!
//! `GOLDEN_WRITE_5=<directory> cargo test --test golden_order` writes such a store anew. The one in `tests/golden` stays as it is.

mod common;

use std::path::Path;

use common::registry::{HOUR, START, from};
use common::store::{Place, commit, copy, of_order, open, put, registration};
use waypost::limits::Limits;
use waypost::registry::{Boot, Registries};
use waypost::store::{Indexed, LeaseKey, RegistrationRecord, Row, Rows};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/schema-5");

const TOKENS_END: u64 = START + 3 * HOUR;
const POINTS_END: u64 = START + 48 * HOUR;

fn record(peer: &str) -> RegistrationRecord<'static> {
    registration(peer, TOKENS_END, POINTS_END)
}

/// Three registrations at one point, the first of which was made anew and kept its place in the store.
fn write_golden(path: &Path) {
    let store = open(path);
    commit(&store, |changes| {
        for (sequence, peer) in [(1, "ann"), (2, "bob"), (3, "cat")] {
            put(changes, sequence, &record(peer), TOKENS_END);
        }
    });
    commit(&store, |changes| {
        let old = Rows { parts: 1, amended: false, indexed: Indexed::at(TOKENS_END) };
        let again = of_order(4, &record("ann"));
        changes.replace(&LeaseKey::registration(1), &again, old, Indexed::at(TOKENS_END));
    });
    store.flush().unwrap();
}

#[test]
fn the_store_of_schema_5_keeps_the_order_in_which_peers_came() {
    match std::env::var_os("GOLDEN_WRITE_5") {
        Some(directory) => write_golden(Path::new(&directory)),
        None => println!("GOLDEN_WRITE_5 is not set: no golden store is written"),
    }
    let place = Place::new();
    copy(Path::new(GOLDEN), &place.path());
    let store = place.open();
    let report = store.check().unwrap();
    assert_eq!((report.problems, report.leases["registration"], report.index_rows), (vec![], 3, 3));
    let mut seen = Vec::new();
    store
        .fold(|row| match row {
            Row::Registration { sequence, record, .. } => {
                assert_eq!(record, of_order(record.order, &self::record(&record.peer)));
                seen.push((sequence, record.order, record.peer.to_string()));
            }
            row => panic!("{row:?}"),
        })
        .unwrap();
    assert_eq!(seen, [(1, 4, "ann".into()), (2, 2, "bob".into()), (3, 3, "cat".into())]);

    let boot = Boot { number: 1, live_since: 0, grace_end: START + HOUR };
    let mut registries = Registries::new(boot, &Limits::default());
    store.fold(|row| registries.load(row)).unwrap();
    let newcomer = from("dan").point("point").token("token");
    let found = registries.rendezvous.register(START, &newcomer, &mut Default::default()).unwrap();
    let drops: Vec<_> = found.drops.iter().map(|drop| drop.from.peer.as_str()).collect();
    let live: Vec<_> = found.live.iter().map(|meeting| meeting.peer.as_str()).collect();
    assert_eq!((&drops[..], &live[..]), (&["bob", "cat", "ann"][..], &["bob", "cat", "ann"][..]));
    assert_eq!(registries.rendezvous.last_sequence(), 5, "no number is given twice");
}
