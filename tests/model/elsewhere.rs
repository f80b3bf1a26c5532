//! A restart on another store than that of before, which has the same in it: it came through a backup or through an export.
//!
//! Owns both ways. Must not know what is in the store.

use std::fs;
use std::path::Path;

use waypost::clock::Clock;
use waypost::engine::Engine;
use waypost::store::{Faults, Replace, export, import, restore, verify};

#[derive(Clone, Copy, Debug)]
pub enum Way {
    Backup,
    Export,
}

/// The file of a backup that the running engine makes.
pub async fn back_up(engine: &Engine, folder: &Path) {
    let mut pieces = engine.backup(Vec::new()).await.unwrap();
    let mut file = Vec::new();
    while let Some(piece) = pieces.recv().await {
        file.extend(piece.unwrap());
    }
    fs::write(folder.join("backup"), file).unwrap();
}

/// The closed store is gone, and what came of its file is in its place.
pub fn restored(folder: &Path, clock: &Clock) {
    let store = folder.join("store");
    fs::remove_dir_all(&store).unwrap();
    let replace = Replace { path: &store, existing: false, now: clock.now() };
    let file = folder.join("backup");
    let backup = verify(&file, &mut |_| {}).unwrap();
    restore((&file, &backup), &replace, &Faults::default(), &mut |_| {}, || Ok(())).unwrap();
}

/// The same by lines, which the new store gives again.
pub fn carried(folder: &Path, clock: &Clock) {
    let store = folder.join("store");
    let lines = || {
        let mut lines = Vec::new();
        assert_eq!(export(&store, clock.now(), &mut lines).unwrap().undecodable, [""; 0]);
        lines
    };
    let before = lines();
    fs::remove_dir_all(&store).unwrap();
    let replace = Replace { path: &store, existing: false, now: clock.now() };
    import(before.as_slice(), &replace, &Faults::default()).unwrap();
    assert!(lines() == before, "other lines came back");
}
