//! Owns the proof that a store of schema 1, as the first version left it, opens with today's build and says the same.
//!
//! `GOLDEN_WRITE=<directory> cargo test --test golden` writes such a store anew, as of today. The one in `tests/golden` stays as it
//! is: a later schema gets a directory of its own, and this one is upgraded on the way.

mod common;

use std::path::Path;

use common::registry::{HOUR, MINUTE, START, from};
use common::store::{Place, commit, copy, id, of_order, open, put};
use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::clock::Millis;
use waypost::id::{PeerId, TokenDigest};
use waypost::limits::Limits;
use waypost::registry::{Boot, Registries};
use waypost::store::{
    Amendment, Changes, Indexed, LeaseKey, Pins, PointRecord, RegistrationRecord, RelayRecord, Row, Rows,
    Store,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/schema-1");

/// The relays, in the order of their ids.
fn relays() -> [(PeerId, RelayRecord); 3] {
    let relay = |boot, public_key: Option<&str>, max_connections, connected, registered_at, token: &str| {
        RelayRecord {
            boot,
            public_key: public_key.map(str::to_owned),
            max_connections,
            connected,
            registered_at,
            resume: TokenDigest::of(token).0,
        }
    };
    [
        (id("relay-full"), relay(2, None, 1, 0.5, START + 31 * MINUTE, "full")),
        (id("relay-new"), relay(2, None, 1000, 499.75, START + 30 * MINUTE, "new")),
        (id("relay_OLD"), relay(1, Some("a key, \u{e4}ny string"), 20, 4.5, START, "old")),
    ]
}

fn registration(
    boot: u64,
    peer: &'static str,
    at: Millis,
    points: &[(&'static str, Option<u16>)],
    tokens: &[&'static str],
    payloads: &[&'static str],
) -> RegistrationRecord<'static> {
    let point = |(name, payload): &(&'static str, Option<u16>)| PointRecord {
        name: (*name).into(),
        payload: *payload,
    };
    RegistrationRecord {
        boot,
        peer: peer.into(),
        relay_id: if boot == 2 { "relay-new".into() } else { "".into() },
        registered_at: at,
        points_end: at + 48 * HOUR,
        tokens_end: at + 3 * HOUR,
        points: points.iter().map(point).collect(),
        tokens: tokens.iter().map(|name| (*name).into()).collect(),
        payloads: payloads.iter().map(|text| (*text).into()).collect(),
        order: 0,
    }
}

/// A registration as its rows have it: sequence number, record, amendment, place in the index.
type Filed = (u64, RegistrationRecord<'static>, Option<Amendment>, Millis);

fn registrations() -> [Filed; 6] {
    let amendment = |points_gone: &[u16], tokens_gone: &[u16]| {
        Some(Amendment { points_gone: points_gone.to_vec(), tokens_gone: tokens_gone.to_vec() })
    };
    let long_ago = START - 49 * HOUR;
    let expired = registration(1, "dan", long_ago, &[("p", Some(0))], &[], &["too late"]);
    let ann = registration(1, "ann", START, &[("p", Some(0)), ("q", None)], &["t", "u"], &["from ann"]);
    let bob = registration(
        1,
        "bob",
        START + 1,
        &[("p", Some(0)), ("q", Some(0))],
        &["t"],
        &["bob's, at two points"],
    );
    let cat =
        registration(1, "cat", START + 2, &[("p", Some(0)), ("r", Some(1))], &[], &["gone", "from cat"]);
    let eve = registration(2, "eve", START + 30 * MINUTE, &[], &["t"], &[]);
    let far = registration(
        2,
        "f-_9",
        START + 31 * MINUTE,
        &[("\u{df}\u{1f980} ", Some(0))],
        &["\u{e9}"],
        &["\u{0}\u{1f980}"],
    );
    let all = [
        (1, expired, None, long_ago + 48 * HOUR),
        (2, ann, None, START + 3 * HOUR),
        (3, bob, amendment(&[], &[0]), START + 1 + 48 * HOUR),
        (4, cat, amendment(&[0], &[]), START + 2 + 48 * HOUR),
        (6, eve, None, START + 30 * MINUTE + 3 * HOUR),
        (300, far, None, START + 31 * MINUTE + 3 * HOUR),
    ];
    // The order is that of the keys.
    all.map(|(sequence, record, amendment, at)| (sequence, of_order(sequence, &record), amendment, at))
}

fn put_boot(store: &Store, boot: u64, change: impl FnOnce(&mut Changes)) {
    commit(store, |changes| {
        for (id, record) in relays().iter().filter(|(_, record)| record.boot == boot) {
            changes.put_new(&LeaseKey::relay(id), record, Indexed::HELD);
        }
        for (sequence, record, amendment, indexed) in
            registrations().iter().filter(|filed| filed.1.boot == boot)
        {
            let first_end = if record.tokens.is_empty() { record.points_end } else { record.tokens_end };
            put(changes, *sequence, record, first_end);
            if let Some(amendment) = amendment {
                changes.amend(
                    &LeaseKey::registration(*sequence),
                    amendment,
                    Indexed::at(first_end),
                    Indexed::at(*indexed),
                );
            }
        }
        change(changes);
    });
    store.flush().unwrap();
}

/// Two boots of a daemon, each closed properly.
fn write_golden(path: &Path) {
    let removed = registration(1, "gus", START, &[("p", Some(0))], &[], &["removed"]);
    let store = open(path);
    put_boot(&store, 1, |changes| put(changes, 5, &removed, removed.points_end));
    drop(store);
    let store = open(path);
    put_boot(&store, 2, |changes| {
        changes.remove_all(
            &LeaseKey::registration(5),
            Rows { parts: 1, amended: false, indexed: Indexed::at(removed.points_end) },
        );
        changes.live_since(1);
    });
}

#[test]
fn the_store_of_schema_1_says_what_it_said() {
    match std::env::var_os("GOLDEN_WRITE") {
        Some(directory) => write_golden(Path::new(&directory)),
        None => println!("GOLDEN_WRITE is not set: no golden store is written"),
    }
    let place = Place::new();
    copy(Path::new(GOLDEN), &place.path());
    let store = place.open();
    assert_eq!((store.boot(), store.live_since().unwrap()), (3, 1));
    let report = store.check().unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.leases["relay"], report.leases["registration"], report.index_rows), (3, 6, 9));

    let (mut relays, mut registrations) = (relays().into_iter(), registrations().into_iter());
    let folded = store.fold(|row| match row {
        Row::Relay { id, record } => assert_eq!(Some((id, record)), relays.next()),
        Row::Registration { sequence, record, amendment, indexed, .. } => {
            assert_eq!(Some((sequence, record, amendment, indexed)), registrations.next());
        }
        row => panic!("{row:?}"),
    });
    assert_eq!((folded.unwrap().last_sequence, relays.next(), registrations.next()), (300, None, None));
}

#[test]
fn the_store_of_schema_1_answers_as_it_did() {
    let place = Place::new();
    copy(Path::new(GOLDEN), &place.path());
    let store = place.open();
    let now = START + HOUR;
    let grace_end = now + 30_000;
    let boot = Boot { number: store.boot(), live_since: store.live_since().unwrap(), grace_end };
    let mut registries = Registries::new(boot, &Limits::default());
    store.fold(|row| registries.load(row)).unwrap();

    let mut changes = Changes::default();
    let request =
        from("newcomer").point("p").point("q").point("r").point("\u{df}\u{1f980} ").token("t").token("u");
    let found = registries.rendezvous.register(now, &request, &mut changes).unwrap();
    let payloads =
        Pins::default().pin(found.drops.iter().map(|drop| drop.at).collect()).read(&store).unwrap();
    let peers = found.drops.iter().map(|drop| (drop.from.peer.as_str(), drop.from.meeting_point.as_str()));
    let drops: Vec<_> =
        peers.zip(&payloads).map(|((peer, point), payload)| (peer, point, payload.as_str())).collect();
    assert_eq!(
        drops,
        [
            ("ann", "p", "from ann"),
            ("bob", "p", "bob's, at two points"),
            ("bob", "q", "bob's, at two points"),
            ("cat", "r", "from cat"),
            ("f-_9", "\u{df}\u{1f980} ", "\u{0}\u{1f980}"),
        ]
    );
    let mut live_at = |now| {
        let request = from("asker").token("t").token("u");
        let found = registries.rendezvous.register(now, &request, &mut changes).unwrap();
        let meetings = found.live.into_iter();
        meetings
            .map(|meeting| format!("{} {}", meeting.peer.as_str(), meeting.meeting_point))
            .collect::<Vec<_>>()
    };
    assert_eq!(live_at(grace_end - 1), ["ann t", "eve t", "newcomer t", "ann u", "newcomer u"]);
    assert_eq!(live_at(grace_end), ["newcomer t", "newcomer u"]);

    let mut rng = StdRng::seed_from_u64(1);
    let mut offered = |now| {
        let offers = registries.relays.sample(now, None, 10, &mut rng);
        let mut ids: Vec<_> = offers.into_iter().map(|offer| offer.id.as_str().to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(offered(grace_end - 1), ["relay-new", "relay_OLD"]);
    assert!(offered(grace_end).is_empty());
}
