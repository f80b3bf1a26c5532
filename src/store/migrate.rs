//! Schema versions: numbered steps, each atomic, and a copy of the store kept before the first step of an upgrade.
//!
//! Owns the schema number in `meta` and the order of the steps; the steps themselves are in `migrations/`. Must not
//! know what the registries do with the rows.

use std::path::{Path, PathBuf};

use sled::{Batch, Db, Tree};

use super::key::{META, SCHEMA as SCHEMA_KEY};
use super::{OpenError, StoreError, apply, disk::Disk, guarded, open_sled, swap};

#[path = "../../migrations/0001_leases.rs"]
mod m0001;
#[path = "../../migrations/0002_http_registries.rs"]
mod m0002;
#[path = "../../migrations/0003_claims.rs"]
mod m0003;
#[path = "../../migrations/0004_chunks.rs"]
mod m0004;
#[path = "../../migrations/0005_order.rs"]
mod m0005;

/// All steps, in order.
pub(super) const STEPS: &[Migration] =
    &[m0001::MIGRATION, m0002::MIGRATION, m0003::MIGRATION, m0004::MIGRATION, m0005::MIGRATION];

/// The schema that this version reads and writes.
pub const SCHEMA: u32 = STEPS.len() as u32;

/// What a step changes, tree by tree.
pub type Plan = Vec<(Tree, Batch)>;

/// One step: what it changes, tree by tree, given the store as the step before left it.
#[derive(Clone, Copy)]
pub struct Migration {
    pub name: &'static str,
    pub plan: fn(&Db) -> Result<Plan, sled::Error>,
}

/// Brings a store to the newest of `steps`; a store that is newer than these is refused.
pub(super) fn run(db: Db, path: &Path, steps: &[Migration]) -> Result<Db, OpenError> {
    let found = guarded(|| schema_of(&db)).map_err(|error| OpenError::of(path, error))?;
    let known = steps.len() as u32;
    if found > known {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known });
    }
    if found > 0 && found < known {
        let copy = copy_path(path, found);
        tracing::info!(from = found, to = known, copy = %copy.display(), "upgrading the store; a copy is kept");
        keep_copy(&db, &copy)?;
    }
    guarded(|| run_steps(&db, path, found, steps)).map_err(|error| OpenError::of(path, error))?;
    Ok(db)
}

/// The steps after `found`.
fn run_steps(db: &Db, path: &Path, found: u32, steps: &[Migration]) -> Result<(), StoreError> {
    for (number, step) in (1..).zip(steps).skip(found as usize) {
        run_step(db, path, number, step)?;
    }
    Ok(())
}

/// Brings a store to this version's schema, without keeping a copy: it is one itself.
pub(super) fn upgrade(db: &Db, path: &Path) -> Result<(), StoreError> {
    run_steps(db, path, schema_of(db)?, STEPS)
}

/// 0 is a store that has just been made.
pub(super) fn schema_of(db: &Db) -> Result<u32, StoreError> {
    match db.open_tree(META)?.get(SCHEMA_KEY)? {
        None => Ok(0),
        Some(row) => match row.as_ref().try_into() {
            Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
            Err(_) => {
                let kind = std::io::ErrorKind::InvalidData;
                Err(StoreError::Disk(std::io::Error::new(kind, "the schema number is malformed")))
            }
        },
    }
}

/// One transaction: the step's changes and the schema number.
fn run_step(db: &Db, path: &Path, number: u32, step: &Migration) -> Result<(), StoreError> {
    let mut plan = (step.plan)(db)?;
    let mut meta = Batch::default();
    meta.insert(SCHEMA_KEY, &number.to_be_bytes());
    plan.push((db.open_tree(META)?, meta));
    apply(&plan)?;
    db.flush()?;
    Disk::open(path)?.sync()?;
    tracing::info!(schema = number, step = step.name, "store migrated");
    Ok(())
}

pub(super) fn copy_path(path: &Path, schema: u32) -> PathBuf {
    swap::beside(path, &format!("schema-{schema}"))
}

/// Copies all rows into a fresh store under another name first, so that a copy under its final name is whole. One that
/// an earlier upgrade kept is replaced: the store may have gone on from it.
fn keep_copy(db: &Db, copy: &Path) -> Result<(), OpenError> {
    let unfinished = copy.with_extension("unfinished");
    let io = |source| OpenError::Io { path: unfinished.clone(), source };
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(io)?;
    }
    let fresh = open_sled(&unfinished)?;
    let copied = guarded(|| {
        fresh.import(db.export());
        fresh.flush()?;
        Ok(Disk::open(&unfinished)?.sync()?)
    });
    copied.map_err(|error| OpenError::of(&unfinished, error))?;
    drop(fresh);
    if copy.exists() {
        std::fs::remove_dir_all(copy).map_err(io)?;
    }
    std::fs::rename(&unfinished, copy).map_err(io)?;
    Ok(())
}
