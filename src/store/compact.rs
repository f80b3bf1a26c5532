//! Compaction: copies a closed store, row by row, into a fresh one that takes its place.
//!
//! Owns the order of its steps: what is copied is read back from the disk and compared before anything is swapped, and
//! the swap is in `swap.rs`. Must not know what the rows say: they are bytes, whether they decode or not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sled::{Batch, Db};

use super::{Faults, OpenError, SCHEMA, StoreError, disk, key, log, migrate, swap};
use super::{guarded, number, open_sled, open_whole, refuse_lost_rows};

/// Rows that are copied in one batch, and flushed: sled's file grows to what its garbage takes at most, and only what
/// is flushed can become garbage that is used again.
const BATCH: usize = 300;
/// Rows between two looks at the progress.
const STRIDE: u64 = 4096;
/// What a fresh store takes at most: a multiple of the bytes of its keys and values, so many for each row, and so many
/// in any case; measured, and rounded up.
pub(super) const SPACE_FACTOR: u64 = 3;
pub(super) const SPACE_ROW: u64 = 300;
pub(super) const SPACE_LEAST: u64 = 16 << 20;

/// What a compaction is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Count,
    Copy,
    Verify,
    Swap,
}

/// How far it has come in a phase; each begins with nothing done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Rows done.
    pub done: u64,
    /// Rows in all; 0 where that is not known yet.
    pub total: u64,
}

/// What a compaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Rows of all trees.
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Why a store has not been compacted. Whichever it is, all its rows are there.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("there is no store {}: is this the right --data-dir?", .0.display())]
    NoStore(PathBuf),
    #[error(
        "the store {} is a link or a file system of its own, so that no other can take its place: let --data-dir name \
         the directory that it really is in",
        .0.display()
    )]
    NotInPlace(PathBuf),
    #[error(
        "compacting the store {} may take {needed} bytes beside it, and {free} are free: make room first",
        .path.display()
    )]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error("the store {} has not been compacted: {source}", .path.display())]
    Failed { path: PathBuf, source: StoreError },
    #[error(
        "the store {} has not been compacted: its copy, read back from the disk, differs in {tree}: check the disk",
        .path.display()
    )]
    Differs { path: PathBuf, tree: String },
}

impl CompactError {
    /// Whether nothing was begun, and something is to be mended before another try makes sense.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, CompactError::Failed { .. } | CompactError::Differs { .. })
    }
}

/// Copies the store in `path` into a fresh one, which takes its place: the file of a store never shrinks by itself. No
/// row is changed, and none that does not decode is left out; boot number and schema stay.
///
/// # Errors
/// A store that another process holds, that is damaged or newer than this version, or that has too little room beside
/// it, is refused. After any error, as after a kill at any moment, the store has all its rows; what is left over goes
/// with the next compaction or start.
pub fn compact(
    path: &Path,
    faults: &Faults,
    progress: &mut dyn FnMut(Progress),
) -> Result<Compacted, CompactError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let failed = |source| CompactError::Failed { path: path.to_owned(), source };
    if !path.join("db").exists() && !swap::former(path).exists() {
        return Err(CompactError::NoStore(path.to_owned()));
    }
    let _lock = disk::lock(path).map_err(io)?.ok_or_else(|| OpenError::InUse(path.to_owned()))?;
    swap::settle(path).map_err(io)?;
    if !is_in_place(path).map_err(io)? {
        return Err(CompactError::NotInPlace(path.to_owned()));
    }
    let db = open_old(path)?;
    swap::clear(path).map_err(io)?;
    let bytes_before = disk::size(path);
    let job = Job { path, fresh: swap::fresh(path), faults };
    let swapped = guarded(|| Ok(job.run(db, bytes_before, progress))).map_err(failed).flatten();
    if !matches!(swapped, Err(CompactError::Failed { source: StoreError::Injected, .. })) {
        // Also after an error: a disk that is full is to have its room back.
        let cleared = swap::clear(path);
        if swapped.is_ok() {
            cleared.map_err(|error| failed(error.into()))?;
        }
    }
    Ok(Compacted { rows: swapped?, bytes_before, bytes_after: disk::size(path) })
}

/// Whether another folder can take the store's name.
pub(super) fn is_in_place(path: &Path) -> io::Result<bool> {
    let (store, folder) = (fs::symlink_metadata(path)?, fs::metadata(swap::parent(path))?);
    Ok(store.is_dir() && store.dev() == folder.dev())
}

/// As it is: neither migrated nor counted as a boot.
pub(super) fn open_old(path: &Path) -> Result<Db, OpenError> {
    let db = open_whole(path)?;
    let found = guarded(|| migrate::schema_of(&db)).map_err(|error| OpenError::of(path, error))?;
    if found > SCHEMA {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known: SCHEMA });
    }
    Ok(db)
}

struct Job<'a> {
    path: &'a Path,
    fresh: PathBuf,
    faults: &'a Faults,
}

impl Job<'_> {
    /// Tells how many rows there are.
    fn run(
        &self,
        db: Db,
        bytes_before: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, CompactError> {
        let rows = self.make(&db, bytes_before, progress)?;
        drop(db);
        let swapped = self.take_place();
        swapped.map_err(|source| CompactError::Failed { path: self.path.to_owned(), source })?;
        Ok(rows)
    }

    /// Makes a copy that is whole and on the disk; tells how many rows there are.
    fn make(
        &self,
        db: &Db,
        bytes_before: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, CompactError> {
        let failed = |source| CompactError::Failed { path: self.path.to_owned(), source };
        let (total, bytes) = count(db, progress).map_err(failed)?;
        let needed = (bytes * SPACE_FACTOR + total * SPACE_ROW).min(bytes_before) + SPACE_LEAST;
        let free = disk::free(swap::parent(self.path), self.faults).map_err(|error| failed(error.into()))?;
        if free < needed {
            return Err(CompactError::NoRoom { path: self.path.to_owned(), needed, free });
        }
        self.copy(db, &mut Counter::new(Phase::Copy, total, progress)).map_err(failed)?;
        let differs = self.verify(db, &mut Counter::new(Phase::Verify, total, progress)).map_err(failed)?;
        if let Some(tree) = differs {
            return Err(CompactError::Differs { path: self.path.to_owned(), tree });
        }
        progress(Progress { phase: Phase::Swap, done: 0, total });
        Ok(total)
    }

    fn copy(&self, db: &Db, counter: &mut Counter<'_>) -> Result<(), StoreError> {
        self.faults.on_step()?;
        let fresh = open_fresh(&self.fresh)?;
        self.faults.on_step()?;
        copy_rows(db, &fresh, &mut || counter.one())?;
        self.faults.on_step()?;
        fresh.flush()?;
        let end = log::end(&fresh);
        drop(fresh);
        disk::closed(&self.fresh)?;
        self.faults.on_step()?;
        let disk = disk::Disk::open(&self.fresh)?;
        disk.note_boot(number(db, key::BOOT)?)?;
        disk.note_end(end)?;
        self.faults.on_step()?;
        Ok(disk::sync_all(&self.fresh)?)
    }

    /// Reads the copy back from the disk; names a tree in which it differs.
    fn verify(&self, db: &Db, counter: &mut Counter<'_>) -> Result<Option<String>, StoreError> {
        self.faults.on_step()?;
        disk::forget_cached(&self.fresh)?;
        let fresh = open_fresh(&self.fresh)?;
        refuse_lost_rows(&fresh, &self.fresh)?;
        self.faults.on_step()?;
        let (mut names, mut copied) = (db.tree_names(), fresh.tree_names());
        names.sort();
        copied.sort();
        if names != copied {
            return Ok(Some("the names of its trees".to_owned()));
        }
        for name in names {
            let (mut rows, mut copied) = (db.open_tree(&name)?.iter(), fresh.open_tree(&name)?.iter());
            loop {
                let (row, copy) = (rows.next().transpose()?, copied.next().transpose()?);
                if row != copy {
                    return Ok(Some(String::from_utf8_lossy(&name).into_owned()));
                }
                if row.is_none() {
                    break;
                }
                counter.one();
            }
        }
        drop(fresh);
        disk::closed(&self.fresh)?;
        // Opening it has written to it.
        disk::sync_all(&self.fresh)?;
        self.faults.on_step()?;
        Ok(None)
    }

    fn take_place(&self) -> Result<(), StoreError> {
        let _both = (disk::closed(self.path)?, disk::closed(&self.fresh)?);
        swap::swap(self.path, self.faults)?;
        self.faults.on_step()
    }
}

pub(super) fn open_fresh(path: &Path) -> Result<Db, StoreError> {
    open_sled(path).map_err(|error| StoreError::Disk(io::Error::other(error)))
}

/// All rows of all trees, one by one told.
pub(super) fn copy_rows(db: &Db, fresh: &Db, one: &mut dyn FnMut()) -> Result<(), StoreError> {
    for name in db.tree_names() {
        let (from, to) = (db.open_tree(&name)?, fresh.open_tree(&name)?);
        let mut rows = from.iter();
        loop {
            let (mut batch, mut taken) = (Batch::default(), 0);
            for row in rows.by_ref().take(BATCH) {
                let (key, value) = row?;
                batch.insert(key, value);
                taken += 1;
                one();
            }
            if taken == 0 {
                break;
            }
            to.apply_batch(batch)?;
            fresh.flush()?;
        }
    }
    Ok(())
}

/// Rows, and the bytes of their keys and values.
pub(super) fn count(db: &Db, progress: &mut dyn FnMut(Progress)) -> Result<(u64, u64), StoreError> {
    let mut counter = Counter::new(Phase::Count, 0, progress);
    let mut bytes = 0;
    for name in db.tree_names() {
        for row in db.open_tree(&name)?.iter() {
            let (key, value) = row?;
            bytes += (key.len() + value.len()) as u64;
            counter.one();
        }
    }
    Ok((counter.done, bytes))
}

struct Counter<'a> {
    phase: Phase,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Counter<'a> {
    fn new(phase: Phase, total: u64, progress: &'a mut dyn FnMut(Progress)) -> Counter<'a> {
        progress(Progress { phase, done: 0, total });
        Counter { phase, done: 0, total, progress }
    }

    fn one(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(STRIDE) {
            (self.progress)(Progress { phase: self.phase, done: self.done, total: self.total });
        }
    }
}
