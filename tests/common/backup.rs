//! Owns backups of stores that a test has open, and what is seen of a data directory from outside. Must not know any single
//! story.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use waypost::store::{Faults, Replace, RestoreError, Restored, Store, restore};

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

/// A restore without faults, in which nobody wants the key.
pub fn restored(file: &Path, path: &Path, existing: bool) -> Result<Restored, RestoreError> {
    restore(file, &target(path, existing), &Faults::default(), &mut |_| {}, |_| Ok(()))
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
