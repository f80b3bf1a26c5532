//! Owns backups of stores that a test has open, and what is seen of a data directory from outside. Must not know any single
//! story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use waypost::store::{Changes, Faults, Replace, RestoreError, Store, restore, verify};

use crate::common::store::{Place, commit, put, put_relay, registration, relay};

/// When every backup here was begun, and every restore.
pub const NOW: u64 = 1_800_000_000_000;

/// The file of a backup, taken at once.
pub fn taken(store: &Store, server_key: &[u8]) -> Vec<u8> {
    let mut backup = store.begin_backup(NOW, server_key.to_vec()).unwrap();
    let mut file = Vec::new();
    while let Some(piece) = backup.step(store).unwrap() {
        file.extend(piece);
    }
    file.extend(backup.finish(store).unwrap().0);
    file
}

pub fn target(path: &Path, existing: bool) -> Replace<'_> {
    Replace { path, existing, now: NOW }
}

/// A restore in which nobody wants the key; tells where the former store is.
pub fn restored(file: &Path, path: &Path, existing: bool) -> Result<Option<PathBuf>, RestoreError> {
    restored_with(file, &target(path, existing), &Faults::default())
}

pub fn restored_with(
    file: &Path,
    replace: &Replace<'_>,
    faults: &Faults,
) -> Result<Option<PathBuf>, RestoreError> {
    let backup = verify(file, &mut |_| {})?;
    restore((file, &backup), replace, faults, &mut |_| {}, || Ok(()))
}

/// Names and contents of everything in a folder.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
                found.insert(path, None);
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path, Some(content));
            }
        }
    }
    found
}

/// A server's key.
pub const KEY: &[u8] = b"the server's own\n";

/// A registration, some of them in parts.
pub fn write(changes: &mut Changes, sequence: u64, value: u8) {
    let mut record = registration("bob", 10, 20);
    record.payloads = vec![char::from(b'a' + value % 26).to_string().repeat(60 * usize::from(value)).into()];
    put(changes, sequence, &record, 10);
}

/// A closed store with some of everything, and the backup of it.
pub fn store_and_file(count: u64) -> (Place, PathBuf) {
    let place = Place::new();
    let store = place.open();
    commit(&store, |changes| {
        put_relay(changes, "ann", &relay(7));
        changes.live_since(1);
    });
    for sequence in 1..=count {
        commit(&store, |changes| write(changes, sequence, (sequence % 200) as u8));
    }
    store.flush().unwrap();
    let file = place.path().with_file_name("backup");
    fs::write(&file, taken(&store, KEY)).unwrap();
    (place, file)
}
