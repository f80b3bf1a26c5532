//! Owns stores in directories of their own, and leases to put into them.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use waypost::clock::Millis;
use waypost::id::PeerId;
use waypost::store::{
    Changes, Faults, Indexed, LeaseKey, PointRecord, RegistrationRecord, RelayRecord, Row, Store,
};

/// A directory that is gone with this, and the store's place in it.
pub struct Place {
    directory: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub fn open(&self) -> Store {
        open(&self.path())
    }
}

pub fn open(path: &Path) -> Store {
    Store::open(path, Faults::default()).unwrap()
}

/// The files of a closed store, opened behind the store's back.
pub fn raw(path: &Path) -> sled::Db {
    let config = sled::Config::new().path(path).flush_every_ms(None);
    for _ in 0..1000 {
        match config.open() {
            Ok(db) => return db,
            // sled lets go of its lock some time after it was closed.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
    panic!("{} stays locked", path.display());
}

/// Changes a closed store behind its back.
pub fn tamper(path: &Path, change: impl FnOnce(&sled::Db)) {
    let db = raw(path);
    change(&db);
    db.flush().unwrap();
}

/// Copies the files of a closed store.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Tree, key and value.
pub type RawRow = (String, Vec<u8>, Vec<u8>);

/// All rows of all trees of a closed store, without the boot number.
pub fn dump(path: &Path) -> Vec<RawRow> {
    let mut rows = dump_all(path);
    rows.retain(|(tree, key, _)| (tree.as_str(), key.as_slice()) != ("meta", b"boot"));
    rows
}

/// All rows of all trees of a closed store.
pub fn dump_all(path: &Path) -> Vec<RawRow> {
    let db = raw(path);
    let mut rows = Vec::new();
    for name in db.tree_names() {
        for row in db.open_tree(&name).unwrap().iter() {
            let (key, value) = row.unwrap();
            rows.push((String::from_utf8_lossy(&name).into_owned(), key.to_vec(), value.to_vec()));
        }
    }
    rows.sort();
    rows
}

/// One commit of what `make` puts together.
pub fn commit(store: &Store, make: impl FnOnce(&mut Changes)) {
    let mut changes = Changes::default();
    make(&mut changes);
    store.commit(&changes).unwrap();
}

pub fn id(text: &str) -> PeerId {
    PeerId::parse(text).unwrap()
}

pub fn relay(registered_at: Millis) -> RelayRecord {
    RelayRecord {
        boot: 1,
        public_key: Some("key".into()),
        max_connections: 20,
        connected: 4.5,
        registered_at,
        resume: [7; 32],
    }
}

/// A registration with one point and one token.
pub fn registration(peer: &str, tokens_end: Millis, points_end: Millis) -> RegistrationRecord<'static> {
    RegistrationRecord {
        boot: 1,
        peer: peer.to_owned().into(),
        relay_id: "".into(),
        registered_at: 1,
        points_end,
        tokens_end,
        points: vec![PointRecord { name: "point".into(), payload: Some(0) }],
        tokens: vec!["token".into()],
        payloads: vec![format!("from {peer}").into()],
        order: 0,
    }
}

/// The same with an order.
pub fn of_order<'a>(order: u64, record: &RegistrationRecord<'a>) -> RegistrationRecord<'a> {
    RegistrationRecord { order, ..record.clone() }
}

/// Puts a registration in as the one of that order, indexed at `at`.
pub fn put(changes: &mut Changes, sequence: u64, record: &RegistrationRecord<'_>, at: Millis) {
    changes.put_new(&LeaseKey::registration(sequence), &of_order(sequence, record), Indexed::at(at));
}

pub fn put_relay(changes: &mut Changes, name: &str, record: &RelayRecord) {
    changes.put_new(&LeaseKey::relay(&id(name)), record, Indexed::HELD);
}

/// Everything that a fold shows, as text.
pub fn rows(store: &Store) -> Vec<String> {
    let mut rows = Vec::new();
    store.fold(|row: Row<'_>| rows.push(format!("{row:?}"))).unwrap();
    rows
}
