//! An upgrade of a store that no daemon has open, done or only tried.
//!
//! Owns the try: all steps, on a copy that goes afterwards. Must not know what the steps do.

use std::path::{Path, PathBuf};

use sled::Db;

use super::side::{SideError, refuse_little_room};
use super::{Faults, OfflineError, SCHEMA, Store, StoreError, compact, disk, guarded, migrate, swap};

/// What an upgrade has done, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The schema before, and afterwards.
    pub from: u32,
    pub to: u32,
    /// The names of its steps.
    pub steps: Vec<&'static str>,
    /// Rows of all trees before it.
    pub rows: u64,
    /// How many rows are other ones afterwards, new or gone; the schema's own is left out. Known from a try alone.
    pub changed: Option<u64>,
    /// The copy from before that is kept.
    pub copy: Option<PathBuf>,
}

/// Why a store was not upgraded, or that not tried.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error(transparent)]
    Room(#[from] SideError),
}

impl UpgradeError {
    /// Whether nothing was begun, and something is to be mended before another try makes sense.
    pub fn is_refusal(&self) -> bool {
        match self {
            UpgradeError::Offline(error) => error.is_refusal(),
            UpgradeError::Room(error) => error.is_refusal(),
        }
    }
}

/// Brings a store to this version's schema, as a start does; with `is_try` on a copy that goes afterwards, and nothing of the
/// store is changed.
pub fn upgrade(path: &Path, is_try: bool, faults: &Faults) -> Result<Upgrade, UpgradeError> {
    let failed = OfflineError::failed(path);
    let store = Store::open_as_it_is(path)?;
    let db = &store.db;
    let from = guarded(|| migrate::schema_of(db)).map_err(&failed)?;
    let (rows, bytes) = guarded(|| compact::count(db, &mut |_| {})).map_err(&failed)?;
    let steps = migrate::STEPS.iter().skip(from as usize).map(|step| step.name).collect::<Vec<_>>();
    let mut done = Upgrade { from, to: SCHEMA, steps, rows, changed: None, copy: None };
    if is_try {
        swap::clear_side(path).map_err(|error| failed(error.into()))?;
        refuse_little_room(path, rows, bytes, faults)?;
        let changed = guarded(|| try_on_copy(path, db));
        swap::clear_side(path).map_err(|error| failed(error.into()))?;
        done.changed = Some(changed.map_err(failed)?);
        return Ok(done);
    }
    done.copy = (from < SCHEMA && from > 0).then(|| migrate::copy_path(path, from));
    migrate::run(db.clone(), path, migrate::STEPS).map_err(OfflineError::Open)?;
    guarded(|| store.flush_and_note()).map_err(failed)?;
    Ok(done)
}

fn try_on_copy(path: &Path, db: &Db) -> Result<u64, StoreError> {
    let side = swap::side(path);
    let copy = compact::open_fresh(&side)?;
    compact::copy_rows(db, &copy, &mut || ())?;
    migrate::upgrade(&copy, &side)?;
    // The schema's own row is one of them.
    let changed = different(db, &copy)? - u64::from(migrate::schema_of(db)? != SCHEMA);
    drop(copy);
    disk::closed(&side)?;
    Ok(changed)
}

/// How many rows are in one alone, or differ.
fn different(one: &Db, other: &Db) -> Result<u64, StoreError> {
    let mut names = [one.tree_names(), other.tree_names()].concat();
    names.sort();
    names.dedup();
    let mut count = 0;
    for name in names {
        let has = |db: &Db| db.tree_names().contains(&name);
        let rows = |db: &Db| has(db).then(|| db.open_tree(&name)).transpose();
        let (one, other) = (rows(one)?, rows(other)?);
        for (these, those, is_first) in [(&one, &other, true), (&other, &one, false)] {
            for row in these.iter().flat_map(sled::Tree::iter) {
                let (key, value) = row?;
                let found = those.as_ref().map(|tree| tree.get(&key)).transpose()?.flatten();
                // What differs is seen from both sides, and counted once.
                count += u64::from(if is_first { found.as_ref() != Some(&value) } else { found.is_none() });
            }
        }
    }
    Ok(count)
}
