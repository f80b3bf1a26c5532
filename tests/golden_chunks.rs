//! Owns the proof that what schema 4 brought (chunks) opens with today's build as the version left it that wrote it, beside
//! leases of other kinds, and says the same.
//!
//! `GOLDEN_WRITE_4=<directory> cargo test --test golden_chunks` writes such a store anew. The one in `tests/golden` stays as
//! it is.

mod common;

use std::path::Path;

use common::registry::{MINUTE, START, link};
use common::store::{Place, commit, copy, id, of_order, open, put, put_relay, registration, relay};
use sha2::{Digest, Sha256};
use waypost::clock::Millis;
use waypost::id::{ChunkKey, ChunkName, SessionId};
use waypost::limits::Limits;
use waypost::registry::chunks::{OtherContent, Push, Pushed};
use waypost::registry::{Boot, Registries};
use waypost::store::{
    Changes, ChunkRecord, ClaimRecord, Indexed, LeaseKey, Row, Rows, Store, TurnSessionRecord,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/schema-4");

const END: Millis = START + 30 * MINUTE;

fn key(channel: &str, chunk: &str) -> ChunkKey {
    ChunkName::parse(channel, chunk).unwrap().key()
}

fn large() -> String {
    format!(r#"{{"voxels":"{}"}}"#, "\u{e4}0123456789".repeat(1000))
}

fn longest() -> String {
    "\u{1f980}".repeat(256)
}

/// Each chunk with the text of its key and the number of its parts.
fn chunks() -> [(&'static str, u16, ChunkRecord<'static>); 5] {
    let chunk = |owner: &'static str, channel: String, chunk: &'static str, end, data: String| ChunkRecord {
        owner: owner.into(),
        channel: channel.into(),
        chunk: chunk.into(),
        end,
        digest: Sha256::digest(&data).into(),
        data: data.into(),
    };
    [
        (
            "fwi63COIh48qw5T4Rhtdj9uRaQKcfTtZdpcXyoCuYrE",
            1,
            chunk("ann", "world".into(), "0,0", END, r#"{"a":[1,2.50,"\u00e4"]}"#.into()),
        ),
        (
            "jdsTevW7aiRp0a8x5VVTog6kT9zCdvl49TNk4dsf9Z4",
            3,
            chunk("A-Z_09", "world".into(), "0,1", END + 1, large()),
        ),
        (
            "uL133strF7fjhQiZnZurgU_HiMJkwv_x0wU8jbOU8rc",
            1,
            chunk("bob", String::new(), "0,0", END + 2, "null".into()),
        ),
        (
            "l-E4ckUiRKBqd0ZeTbUTp2f_d97NEdpaFm3NVInw9yI",
            1,
            chunk("bob", "\0\n\u{1}".into(), " \"{x}\u{df}", END + 3, r#""""#.into()),
        ),
        (
            "i_qMCdSNebNqDUX7LCb7HqWGKSKcxvEQkvuMGZL0vNo",
            1,
            chunk("cat", longest(), "\u{1}\u{2}", u64::MAX - 1, "0".into()),
        ),
    ]
}

fn lease(record: &ChunkRecord<'_>) -> LeaseKey {
    LeaseKey::chunk(&key(&record.channel, &record.chunk))
}

fn session() -> (SessionId, TurnSessionRecord) {
    let record = TurnSessionRecord { server: "12D3Koo/ann".into(), peer: "any".into(), end: START + MINUTE };
    (SessionId::parse("AAAA_session-id").unwrap(), record)
}

const CLAIM: ClaimRecord = ClaimRecord { generation: 300, until: None };

/// The large one was small before, and a small one was large; one has ended.
fn write_golden(path: &Path) {
    let store = open(path);
    let [small, grown, shrunk, odd, long] = chunks().map(|(_, _, record)| record);
    let first = Indexed::at(START + MINUTE);
    let before = |record: &ChunkRecord<'static>, data: String| ChunkRecord {
        end: first.millis(),
        digest: Sha256::digest(&data).into(),
        data: data.into(),
        ..record.clone()
    };
    let gone = ChunkRecord { chunk: "gone".into(), ..before(&small, large()) };
    let mut old = Vec::new();
    commit(&store, |changes: &mut Changes| {
        put_relay(changes, "relay", &relay(START));
        put(changes, 7, &registration("ann", START + MINUTE, START + 2 * MINUTE), START + MINUTE);
        let (id, record) = session();
        changes.put_new(&LeaseKey::turn_session(&id), &record, Indexed::at(record.end));
        changes.put_new(&LeaseKey::claim(&link("my home")), &CLAIM, Indexed::HELD);
        for record in [&small, &odd, &long] {
            changes.put_new(&lease(record), record, Indexed::at(record.end));
        }
        for record in [before(&grown, "1".into()), before(&shrunk, large()), gone.clone()] {
            let parts = changes.put_new(&lease(&record), &record, first);
            old.push(Rows { parts, amended: false, indexed: first });
        }
    });
    commit(&store, |changes| {
        for (record, old) in [&grown, &shrunk].into_iter().zip(&old) {
            changes.replace(&lease(record), record, *old, Indexed::at(record.end));
        }
        changes.remove_all(&lease(&gone), old[2]);
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
fn the_store_of_schema_4_says_what_it_said() {
    match std::env::var_os("GOLDEN_WRITE_4") {
        Some(directory) => write_golden(Path::new(&directory)),
        None => println!("GOLDEN_WRITE_4 is not set: no golden store is written"),
    }
    let (_place, store) = golden();
    assert_eq!((store.boot(), store.live_since().unwrap()), (2, 0));
    let report = store.check().unwrap();
    assert_eq!(report.problems, []);
    let mut counts: Vec<_> = report.leases.into_iter().collect();
    counts.sort_unstable();
    assert_eq!(counts, [("chunk", 5), ("claim", 1), ("registration", 1), ("relay", 1), ("turn_session", 1)]);
    assert_eq!(report.index_rows, 9);

    let mut expected = chunks().to_vec();
    expected.sort_unstable_by_key(|(text, ..)| *text);
    let mut expected = expected.into_iter();
    let folded = store.fold(|row| match row {
        Row::Relay { id, record } => assert_eq!((id.as_str(), record), ("relay", relay(START))),
        Row::Registration { sequence, record, amendment, indexed, parts } => {
            assert_eq!((sequence, amendment, indexed, parts), (7, None, START + MINUTE, 1));
            assert_eq!(record, of_order(7, &registration("ann", START + MINUTE, START + 2 * MINUTE)));
        }
        Row::TurnSession { id, record } => assert_eq!((id, record), session()),
        Row::Claim { id, record } => assert_eq!((id, record), (link("my home"), CLAIM)),
        Row::Chunk { key, record, rows } => {
            let rows_expected = |parts| Rows { parts, amended: false, indexed: Indexed::at(record.end) };
            let (text, parts, expected) = expected.next().unwrap();
            assert_eq!((key.text().as_str(), rows), (text, rows_expected(parts)));
            assert_eq!(record, expected);
        }
        row => panic!("{row:?}"),
    });
    let folded = folded.unwrap();
    assert_eq!((folded.rows, folded.last_sequence, expected.next()), (9, 7, None));
    assert!(folded.undecodable.is_empty(), "{:?}", folded.undecodable);

    for (text, _, expected) in chunks() {
        let key = LeaseKey::chunk(&ChunkKey::parse(text).unwrap());
        let same = store.inspect(&key, |row| matches!(row, Row::Chunk { record, .. } if record == expected));
        assert_eq!(same.unwrap(), Some(true), "{text}");
    }
}

#[test]
fn the_store_of_schema_4_answers_as_it_did() {
    let (_place, store) = golden();
    let boot = Boot { number: store.boot(), live_since: 0, grace_end: 0 };
    let mut registries = Registries::new(boot, &Limits::default());
    store.fold(|row| registries.load(row)).unwrap();
    let cached = &mut registries.chunks;

    for (text, _, record) in chunks() {
        let key = key(&record.channel, &record.chunk);
        assert_eq!(key.text(), text);
        assert_eq!(cached.get(record.end - 1, &key), Some(record.digest), "{text}");
        assert_eq!(cached.get(record.end, &key), None, "{text}");
    }
    assert_eq!(cached.get(START, &key("world", "gone")), None);
    assert_eq!(cached.of_channel(START, "world").collect::<Vec<_>>(), ["0,1", "0,0"]);
    assert_eq!(cached.of_channel(END, "world").collect::<Vec<_>>(), ["0,1"]);
    assert_eq!(cached.of_channel(START, "").collect::<Vec<_>>(), ["0,0"]);
    assert_eq!(cached.of_channel(END + 3, &longest()).collect::<Vec<_>>(), ["\u{1}\u{2}"]);

    // As the daemon goes on with it.
    let mut changes = Changes::default();
    let name = ChunkName::parse("world", "0,1").unwrap();
    let push = |owner: &str, data: &str, changes: &mut Changes, registries: &mut Registries| {
        let push = Push { name: &name, owner: &id(owner), data };
        registries.chunks.push(START, push, changes)
    };
    assert_eq!(push("bob", "2", &mut changes, &mut registries), Err(OtherContent));
    assert_eq!(push("bob", &large(), &mut changes, &mut registries), Ok(Pushed { evicted: 0 }));
    assert!(changes.is_empty());
    assert_eq!(push("A-Z_09", "2", &mut changes, &mut registries), Ok(Pushed { evicted: 0 }));
    store.commit(&changes).unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}
