//! Owns the proof that what schema 2 brought (peers, TURN sessions, servers) opens with today's build as the version left it
//! that wrote it, and says the same.
//!
//! `GOLDEN_WRITE_2=<directory> cargo test --test golden_http` writes such a store anew. The one in `tests/golden` stays as
//! it is.

mod common;

use std::path::Path;

use common::registry::{MINUTE, START};
use common::store::{Place, commit, copy, open};
use waypost::id::{NodeId, ServerId, SessionId, TokenDigest};
use waypost::limits::Limits;
use waypost::registry::peers::{Claimant, Filter};
use waypost::registry::{Boot, Registries};
use waypost::store::{
    Changes, Indexed, LeaseKey, PeerRecord, Row, Rows, Seen, ServerRecord, TurnRecord, TurnSessionRecord,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/schema-2");

const fn seen(at: u64, ttl: u64) -> Seen {
    Seen { last_seen: at, end: at + ttl }
}

const TTL: u64 = 10 * MINUTE;

fn node(text: &str) -> NodeId {
    NodeId::parse(text).unwrap()
}

fn peer(name: &str, stores: usize, turn: Option<TurnRecord>) -> PeerRecord {
    PeerRecord {
        seen: seen(START, TTL),
        token: TokenDigest::of(name).0,
        address: if stores > 0 { "2001:db8::".parse().unwrap() } else { "192.0.2.1".parse().unwrap() },
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".into(), "\u{e4}".into()],
        crypto_ipv6: format!("fd00:{name}"),
        stores: (0..stores).map(|number| format!("store {number} {}", "x".repeat(100))).collect(),
        version: "1.2.3".into(),
        privacy_mode: stores > 0,
        capabilities: r#"{"turnServer":true,"more":[1,"\u00fc"]}"#.into(),
        turn_capable: turn.is_some(),
        bootstrap_capable: stores == 0,
        network_id: "mainnet".into(),
        software_version: "2.0".into(),
        server_port: 4001,
        node_type: 7,
        capability_list: r#"[[1,"1"]]"#.into(),
        turn,
    }
}

fn peers() -> [(NodeId, PeerRecord, Option<Seen>); 3] {
    let turn = TurnRecord { addresses: vec!["turn:192.0.2.1".into()], port: 3478, capacity: 2 };
    [
        (node("12D3Koo/heard"), peer("heard", 0, Some(turn)), Some(seen(START + 9 * MINUTE, TTL))),
        (node("large"), peer("large", 200, None), None),
        (node("~moved!"), peer("moved", 1, None), Some(seen(START + 5 * MINUTE, TTL))),
    ]
}

fn session() -> (SessionId, TurnSessionRecord) {
    let record =
        TurnSessionRecord { server: "12D3Koo/heard".into(), peer: "anyone".into(), end: START + 30 * MINUTE };
    (SessionId::parse("AAAA_session-id").unwrap(), record)
}

fn server() -> (ServerId, ServerRecord) {
    let record = ServerRecord {
        seen: seen(START + MINUTE, 5 * MINUTE),
        token: Some(TokenDigest::of("owner").0),
        endpoint: "wss://example.org/ws".into(),
        public_key: "key".into(),
        region: "eu-1".into(),
        registered_at: START,
        counters: [1, 2, 3, u64::from(u32::MAX) + 1],
    };
    (ServerId::parse("ed25519:a/b+c=").unwrap(), record)
}

fn write_golden(path: &Path) {
    let store = open(path);
    commit(&store, |changes: &mut Changes| {
        for (id, record, heard) in peers() {
            let (key, at) = (LeaseKey::peer(&id), Indexed::at(record.seen.end));
            let parts = changes.put_new(&key, &record, at);
            assert_eq!(parts > 1, id.as_str() == "large");
            if let Some(heard) = heard {
                // One was filed anew by a backup sweep, one was not.
                let to = if id.as_str() == "~moved!" { Indexed::at(heard.end) } else { at };
                changes.amend(&key, &heard, at, to);
            }
        }
        let (id, record) = session();
        changes.put_new(&LeaseKey::turn_session(&id), &record, Indexed::at(record.end));
        let (id, record) = server();
        let first = Indexed::at(START + 5 * MINUTE);
        changes.put_new(&LeaseKey::server(&id), &record, first);
        let gone = LeaseKey::peer(&node("gone"));
        let parts = changes.put_new(&gone, &peer("gone", 100, None), first);
        changes.remove_all(&gone, Rows { parts, amended: false, indexed: first });
    });
    store.flush().unwrap();
}

#[test]
fn the_store_of_schema_2_says_what_it_said() {
    match std::env::var_os("GOLDEN_WRITE_2") {
        Some(directory) => write_golden(Path::new(&directory)),
        None => println!("GOLDEN_WRITE_2 is not set: no golden store is written"),
    }
    let place = Place::new();
    copy(Path::new(GOLDEN), &place.path());
    let store = place.open();
    let report = store.check().unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.leases["peer"], report.leases["turn_session"], report.leases["server"]), (3, 1, 1));

    let mut expected = peers().into_iter();
    let mut others = 0;
    let folded = store.fold(|row| match row {
        Row::Peer { id, record, seen, .. } => assert_eq!(Some((id, record, seen)), expected.next()),
        Row::TurnSession { id, record } => {
            others += 1;
            assert_eq!((id, record), session());
        }
        Row::Server { id, record, indexed } => {
            others += 1;
            assert_eq!(((id, record), indexed), (server(), START + 5 * MINUTE));
        }
        row => panic!("{row:?}"),
    });
    assert!(folded.unwrap().undecodable.is_empty());
    assert_eq!((expected.next(), others), (None, 2));
}

#[test]
fn the_store_of_schema_2_answers_as_it_did() {
    let place = Place::new();
    copy(Path::new(GOLDEN), &place.path());
    let store = place.open();
    let boot = Boot { number: store.boot(), live_since: 0, grace_end: 0 };
    let mut registries = Registries::new(boot, &Limits::default());
    store.fold(|row| registries.load(row)).unwrap();

    let listed = |registries: &Registries, now| {
        let stretch = registries.peers.list(now, &Filter::default(), None, 9);
        stretch.peers.into_iter().map(|peer| peer.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&registries, START + TTL - 1), ["12D3Koo/heard", "large", "~moved!"]);
    assert_eq!(listed(&registries, START + TTL), ["12D3Koo/heard", "~moved!"]);
    assert_eq!(listed(&registries, START + 15 * MINUTE), ["12D3Koo/heard"]);
    let loads: Vec<_> = registries.turn.available(START).map(|(_, load)| load).collect();
    assert_eq!(loads, [1], "one of the two sessions that it takes");
    assert_eq!(registries.directory.list(START + 6 * MINUTE - 1).0[0].last_seen, START + MINUTE);
    assert_eq!(registries.directory.list(START + 6 * MINUTE).1, 1, "stale now");

    let mut changes = Changes::default();
    let stranger = Claimant { address: "192.0.2.9".parse().unwrap(), token: None };
    assert_eq!(
        registries.leave_peer(START, &node("large"), stranger.token.as_deref(), &mut changes),
        Err(waypost::registry::peers::Refused::Unauthorized)
    );
    assert_eq!(registries.leave_peer(START, &node("large"), Some("large"), &mut changes), Ok(()));
    store.commit(&changes).unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}
