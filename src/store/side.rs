//! A store that is made beside its place, from rows that came from elsewhere, and put there once it is whole.
//!
//! Owns the order of its steps. Until the last one what was there before is untouched; a store that is replaced is moved
//! aside, never removed. The names and what a kill leaves are in `swap.rs`. Must not know where the rows come from.

use std::cell::Cell;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sled::Db;

use super::compact::{SPACE_FACTOR, SPACE_LEAST, SPACE_ROW, is_in_place, open_fresh};
use super::{Faults, OpenError, StoreError, disk, guarded, key, lock, log, migrate, number};
use super::{refuse_lost_rows, swap};
use crate::clock::Millis;

/// Where a store is to be, and what becomes of one that is there.
#[derive(Clone, Copy, Debug)]
pub struct Replace<'a> {
    pub path: &'a Path,
    /// Whether a store that is there may be moved aside.
    pub existing: bool,
    /// For its name then.
    pub now: Millis,
}

/// Why no store was put there. What was there before is whole.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("there is a store {} already: choose another --data-dir, or have it moved aside with --replace", .0.display())]
    Exists(PathBuf),
    #[error(
        "the store {} is a link or a file system of its own, so that no other can take its place: let --data-dir name \
         the directory that it really is in",
        .0.display()
    )]
    NotInPlace(PathBuf),
    #[error("the store {} may take {needed} bytes, and {free} are free: make room first", .path.display())]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error("the store {} was not made: {source}", .path.display())]
    Failed { path: PathBuf, source: StoreError },
    #[error("the store {} was not made: read back from the disk it has other rows: check the disk", .0.display())]
    Differs(PathBuf),
}

impl SideError {
    /// Whether nothing was begun, and something is to be mended before another try makes sense.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, SideError::Failed { .. } | SideError::Differs(_))
    }

    pub(super) fn failed(path: &Path) -> impl Fn(StoreError) -> SideError + use<> {
        let path = path.to_owned();
        move |source| SideError::Failed { path: path.clone(), source }
    }
}

/// Refuses where a store is and may not be moved aside.
pub(super) fn refuse_existing(replace: &Replace<'_>) -> Result<(), SideError> {
    let Replace { path, existing, .. } = *replace;
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    if !existing && swap::is_taken(path).map_err(io)? {
        return Err(SideError::Exists(path.to_owned()));
    }
    Ok(())
}

/// Refuses where the disk has too little room for so many rows with so many bytes.
pub(super) fn refuse_little_room(
    path: &Path,
    rows: u64,
    bytes: u64,
    faults: &Faults,
) -> Result<(), SideError> {
    let needed = bytes * SPACE_FACTOR + rows * SPACE_ROW + SPACE_LEAST;
    let folder = swap::parent(path).ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let free =
        disk::free(folder, faults).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    if free < needed {
        return Err(SideError::NoRoom { path: path.to_owned(), needed, free });
    }
    Ok(())
}

/// Makes a store of the rows that `fill` puts into it, brings it to this version's schema, reads it back from the disk, and
/// puts it in its place; tells where the former one is now. `ready` is called when all that is left to do is that.
pub(super) fn build<E: From<SideError>>(
    replace: &Replace<'_>,
    faults: &Faults,
    fill: impl FnOnce(&Db) -> Result<(), E>,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Option<PathBuf>, E> {
    let path = replace.path;
    let io = |source| SideError::Open(OpenError::Io { path: path.to_owned(), source });
    let failed = SideError::failed(path);
    refuse_existing(replace)?;
    // The data directory is its owner's alone, where it does not exist yet.
    DirBuilder::new().recursive(true).mode(0o700).create(swap::parent(path)).map_err(io)?;
    let _lock = lock(path).map_err(SideError::Open)?;
    swap::settle(path).map_err(io)?;
    refuse_existing(replace)?;
    if path.exists() && !is_in_place(path).map_err(io)? {
        return Err(SideError::NotInPlace(path.to_owned()).into());
    }
    swap::clear_side(path).map_err(io)?;
    let side = swap::side(path);
    let cut_short = Cell::new(false);
    let step = || {
        let done = faults.on_step();
        cut_short.set(done.is_err());
        done.map_err(&failed)
    };
    if let Err(error) = make(&side, &step, &failed, fill) {
        if !cut_short.get() {
            // A disk that is full is to have its room back. What else is wrong with it has been told.
            let _ = swap::clear_side(path);
        }
        return Err(error);
    }
    Ok(take_place(replace, &side, faults, ready).map_err(failed)?)
}

fn make<E: From<SideError>>(
    side: &Path,
    step: &dyn Fn() -> Result<(), SideError>,
    failed: &impl Fn(StoreError) -> SideError,
    fill: impl FnOnce(&Db) -> Result<(), E>,
) -> Result<(), E> {
    step()?;
    let db = open_fresh(side).map_err(failed)?;
    step()?;
    guarded(|| Ok(fill(&db))).map_err(failed)??;
    step()?;
    guarded(|| migrate::upgrade(&db, side)).map_err(failed)?;
    let wanted = guarded(|| digest(&db)).map_err(failed)?;
    close(side, db).map_err(failed)?;
    step()?;

    guarded(|| {
        disk::forget_cached(side)?;
        let db = open_fresh(side)?;
        refuse_lost_rows(&db, side)?;
        let is_same = digest(&db)? == wanted;
        close(side, db)?;
        Ok(is_same)
    })
    .map_err(failed)?
    .then_some(())
    .ok_or_else(|| SideError::Differs(side.to_owned()))?;
    Ok(step()?)
}

/// Everything of it is on the disk afterwards, with the notes that an opening wants to see.
fn close(side: &Path, db: Db) -> Result<(), StoreError> {
    db.flush()?;
    let (end, boot) = (log::end(&db), number(&db, key::BOOT)?);
    drop(db);
    disk::closed(side)?;
    let disk = disk::Disk::open(side)?;
    disk.note_boot(boot)?;
    disk.note_end(end)?;
    Ok(disk::sync_all(side)?)
}

/// Of all rows of all trees.
fn digest(db: &Db) -> Result<[u8; 32], StoreError> {
    let mut names = db.tree_names();
    names.sort();
    let mut digest = Sha256::new();
    for name in names {
        let mut put = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        put(&name);
        for row in db.open_tree(&name)?.iter() {
            let (key, value) = row?;
            put(&key);
            put(&value);
        }
    }
    Ok(digest.finalize().into())
}

fn take_place(
    replace: &Replace<'_>,
    side: &Path,
    faults: &Faults,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Option<PathBuf>, StoreError> {
    // While these are kept sled opens neither, under whatever name. What is replaced may be no store any more.
    let former = match disk::closed(replace.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        closed => Some(closed?),
    };
    let _both = (former, disk::closed(side)?);
    ready()?;
    swap::put(replace.path, replace.now, faults)
}
