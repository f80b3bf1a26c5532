//! Owns the proof that what schema 3 brought (link's claims) opens with today's build as the version left it that wrote it,
//! beside a lease of each other kind, and says the same.
//!
//! `GOLDEN_WRITE_3=<directory> cargo test --test golden_link` writes such a store anew. The one in `tests/golden` stays as
//! it is.

mod common;

use std::path::Path;

use common::registry::{MINUTE, START, link};
use common::store::{Place, commit, copy, of_order, open, put, put_relay, registration, relay};
use waypost::clock::Millis;
use waypost::id::{Generation, LinkId, NodeId, ServerId, SessionId};
use waypost::limits::Limits;
use waypost::registry::claims::{Claim, Claimed, Found, Refused, State};
use waypost::registry::{Boot, Registries};
use waypost::store::{
    Changes, ClaimRecord, Indexed, LeaseKey, PeerRecord, Row, Seen, ServerRecord, Store, TurnSessionRecord,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/schema-3");

/// When the graces end.
const END: Millis = START + 30_000;
const LAST: Millis = u64::MAX - 1;

/// The claims, in the order of their ids.
fn claims() -> [(LinkId, ClaimRecord); 5] {
    let claim = |name, generation, until| (link(name), ClaimRecord { generation, until });
    [
        claim("! ~", 4, Some(LAST)),
        claim("an id of many: \"{x}\"", 300, None),
        claim("away", 2, Some(END)),
        claim("home", 1, None),
        claim("my home", 1 << 33, Some(END + 1)),
    ]
}

const SEEN: Seen = Seen { last_seen: START, end: START + 10 * MINUTE };

fn peer() -> (NodeId, PeerRecord) {
    let record = PeerRecord {
        seen: SEEN,
        token: [9; 32],
        address: "192.0.2.1".parse().unwrap(),
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".into()],
        crypto_ipv6: "fd00::1".into(),
        stores: vec!["store".into()],
        version: "1".into(),
        privacy_mode: true,
        capabilities: "{}".into(),
        turn_capable: false,
        bootstrap_capable: true,
        network_id: "mainnet".into(),
        software_version: "2".into(),
        server_port: 4001,
        node_type: 1,
        capability_list: "[]".into(),
        turn: None,
    };
    (NodeId::parse("12D3Koo/ann").unwrap(), record)
}

fn session() -> (SessionId, TurnSessionRecord) {
    let record = TurnSessionRecord { server: "12D3Koo/ann".into(), peer: "any".into(), end: START + MINUTE };
    (SessionId::parse("AAAA_session-id").unwrap(), record)
}

fn server() -> (ServerId, ServerRecord) {
    let record = ServerRecord {
        seen: SEEN,
        token: None,
        endpoint: "wss://example.org/ws".into(),
        public_key: "key".into(),
        region: "eu-1".into(),
        registered_at: START,
        counters: [1, 2, 3, 4],
    };
    (ServerId::parse("ed25519:a/b+c=").unwrap(), record)
}

fn indexed(record: &ClaimRecord) -> Indexed {
    record.until.map_or(Indexed::HELD, Indexed::at)
}

/// Each claim as if it had been held before, and one that has ended.
fn write_golden(path: &Path) {
    let store = open(path);
    let gone = LeaseKey::claim(&link("gone"));
    commit(&store, |changes: &mut Changes| {
        put_relay(changes, "relay", &relay(START));
        put(changes, 7, &registration("ann", START + MINUTE, START + 2 * MINUTE), START + MINUTE);
        let (id, record) = peer();
        changes.put_new(&LeaseKey::peer(&id), &record, Indexed::at(record.seen.end));
        let (id, record) = session();
        changes.put_new(&LeaseKey::turn_session(&id), &record, Indexed::at(record.end));
        let (id, record) = server();
        changes.put_new(&LeaseKey::server(&id), &record, Indexed::at(record.seen.end));
        for (id, record) in claims() {
            let held = ClaimRecord { until: None, ..record };
            changes.put_new(&LeaseKey::claim(&id), &held, Indexed::HELD);
        }
        changes.put_new(&gone, &ClaimRecord { generation: 5, until: Some(END) }, Indexed::at(END));
    });
    commit(&store, |changes| {
        for (id, record) in claims() {
            changes.move_to(&LeaseKey::claim(&id), &record, Indexed::HELD, indexed(&record));
        }
        changes.remove(&gone, Indexed::at(END));
    });
    store.flush().unwrap();
}

fn golden() -> (Place, Store) {
    let place = Place::new();
    copy(Path::new(GOLDEN), &place.path());
    let store = place.open();
    (place, store)
}

#[test]
fn the_store_of_schema_3_says_what_it_said() {
    match std::env::var_os("GOLDEN_WRITE_3") {
        Some(directory) => write_golden(Path::new(&directory)),
        None => println!("GOLDEN_WRITE_3 is not set: no golden store is written"),
    }
    let (_place, store) = golden();
    assert_eq!((store.boot(), store.live_since().unwrap()), (2, 0));
    let report = store.check().unwrap();
    assert_eq!(report.problems, []);
    let mut counts: Vec<_> = report.leases.into_iter().collect();
    counts.sort_unstable();
    assert_eq!(
        counts,
        [("claim", 5), ("peer", 1), ("registration", 1), ("relay", 1), ("server", 1), ("turn_session", 1)]
    );
    assert_eq!(report.index_rows, 10);

    let mut expected = claims().into_iter();
    let folded = store.fold(|row| match row {
        Row::Relay { id, record } => assert_eq!((id.as_str(), record), ("relay", relay(START))),
        Row::Registration { sequence, record, amendment, indexed, parts } => {
            assert_eq!((sequence, amendment, indexed, parts), (7, None, START + MINUTE, 1));
            assert_eq!(record, of_order(7, &registration("ann", START + MINUTE, START + 2 * MINUTE)));
        }
        Row::Peer { id, record, seen, .. } => assert_eq!(((id, record), seen), (peer(), None)),
        Row::TurnSession { id, record } => assert_eq!((id, record), session()),
        Row::Server { id, record, indexed } => assert_eq!(((id, record), indexed), (server(), SEEN.end)),
        Row::Claim { id, record } => assert_eq!(Some((id, record)), expected.next()),
        row => panic!("{row:?}"),
    });
    let folded = folded.unwrap();
    assert_eq!((folded.rows, folded.last_sequence, expected.next()), (10, 7, None));
    assert!(folded.undecodable.is_empty(), "{:?}", folded.undecodable);
}

#[test]
fn the_store_of_schema_3_answers_as_it_did() {
    let (_place, store) = golden();
    let boot = Boot { number: store.boot(), live_since: 0, grace_end: 0 };
    let mut registries = Registries::new(boot, &Limits::default());
    store.fold(|row| registries.load(row)).unwrap();
    let claims = &mut registries.claims;

    let held = |generation| Some(Claim { generation: Generation(generation), state: State::Held });
    let grace =
        |generation, until| Some(Claim { generation: Generation(generation), state: State::Grace { until } });
    assert_eq!(claims.last_generation(), 1 << 33);
    assert_eq!(claims.get(&link("home"), END), held(1));
    assert_eq!(claims.get(&link("an id of many: \"{x}\""), END), held(300));
    assert_eq!(claims.get(&link("away"), END - 1), grace(2, END));
    assert_eq!(claims.get(&link("away"), END), None);
    assert_eq!(claims.get(&link("my home"), END), grace(1 << 33, END + 1));
    assert_eq!(claims.get(&link("my home"), END + 1), None);
    assert_eq!(claims.get(&link("! ~"), END), grace(4, LAST));
    assert_eq!(claims.get(&link("gone"), START), None);

    // As the daemon goes on with it.
    let mut changes = Changes::default();
    assert_eq!(claims.claim(START, &link("home"), None, &mut changes), Err(Refused::Taken(Generation(1))));
    let next = |number: u64, found| Ok(Claimed { generation: Generation((1 << 33) + number), found });
    assert_eq!(claims.claim(START, &link("my home"), None, &mut changes), next(1, Found::Standing));
    assert_eq!(claims.claim(END, &link("away"), None, &mut changes), next(2, Found::Over));
    assert!(claims.release(START, &link("my home"), Generation((1 << 33) + 1), &mut changes));
    claims.restart(START + 20_000, &mut changes);
    assert_eq!(claims.get(&link("home"), START), grace(1, START + 50_000));
    assert_eq!(claims.get(&link("my home"), START), grace((1 << 33) + 1, END));
    store.commit(&changes).unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}
