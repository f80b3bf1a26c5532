//! The store: sled, and everything sled 0.34 wants from who uses it (docs/storage.md lists it).
//!
//! Owns opening, atomic commits, flushes that survive a power cut, and folding the rows back. This folder is the only
//! place that names sled and bincode. Must not know who asks or what the registries' rules are.

mod backup;
mod bytes;
mod carry;
mod changes;
mod check;
mod compact;
mod disk;
mod faults;
mod fold;
mod key;
mod log;
mod migrate;
mod offline;
mod payloads;
mod read;
mod record;
mod restore;
mod side;
mod snapshot;
mod swap;
mod upgrade;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sled::transaction::TransactionError;
use sled::{Batch, Transactional, Tree};

pub use backup::{Backup, BackupError, Made};
pub use bytes::{index_row, read_index_row, read_rows};
pub use carry::{CarryError, Exported, Imported, export, import};
pub use changes::{Changes, Indexed, Rows};
pub use check::{Problem, Report};
pub use compact::{CompactError, Compacted, Phase, Progress, compact};
pub use faults::Faults;
pub use fold::Folded;
pub use key::{HELD, LeaseKey};
pub use migrate::{Migration, Plan, SCHEMA};
pub use offline::{OfflineError, Repaired, check, repair};
pub use payloads::{DropRef, Pinned, Pins};
pub use read::{Due, Index, Row};
pub use record::{
    Amendment, ChunkRecord, ClaimRecord, PeerRecord, PointRecord, RegistrationRecord, RelayRecord, Seen,
    ServerRecord, TurnRecord, TurnSessionRecord, Undecodable,
};
pub use restore::{RestoreError, Verified, restore, verify};
pub use side::{Replace, SideError};
pub use snapshot::{Decoder, Encoder, Head, Rows as SnapshotRows, SnapshotError, SnapshotRow};
pub use upgrade::{Upgrade, UpgradeError, upgrade};

use crate::id::Kind;
use backup::Recorder;
use disk::Disk;

/// Why a store cannot be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store {} is in use by another process: stop that waypost first, or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    #[error(
        "the store {} has schema {found}, written by a newer waypost; this one knows schema {known}: \
         run the newer version, or restore the copy that its upgrade kept beside the store",
        .path.display()
    )]
    NewerSchema { path: PathBuf, found: u32, known: u32 },
    #[error(
        "the store {} is damaged ({reason}): move the directory away and start again with a backup of it, \
         or with an empty one",
        .path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("the store {} cannot be used: {source}: check that the directory exists and is writable, and that the disk has space", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl OpenError {
    /// What the disk refuses is told apart from files that say nonsense: only the latter are damage.
    pub(crate) fn of(path: &Path, error: StoreError) -> OpenError {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let path = path.to_owned();
        match error {
            StoreError::Disk(source) | StoreError::Sled(sled::Error::Io(source))
                if !matches!(source.kind(), InvalidData | InvalidInput | UnexpectedEof) =>
            {
                OpenError::Io { path, source }
            }
            error => OpenError::Damaged { path, reason: error.to_string() },
        }
    }
}

/// Why a read, a commit or a flush failed. The store is to be closed and opened anew.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("disk: {0}")]
    Disk(#[from] std::io::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("a fault injected by a test")]
    Injected,
}

/// Commits that sled may have to write at once: fewer than its seven I/O threads.
const MOST_UNWRITTEN: u64 = 4;

/// An open store. One process holds it at a time.
pub struct Store {
    db: sled::Db,
    disk: Disk,
    faults: Faults,
    boot: u64,
    /// How many commits there have been, and up to which one sled has surely written them.
    committed: AtomicU64,
    written: AtomicU64,
    recorder: Recorder,
    /// Held until everything above is closed.
    _lock: std::fs::File,
}

impl Store {
    /// Opens or makes the store in `path`, brings it to this version's schema, and counts one more boot.
    pub fn open(path: &Path, faults: Faults) -> Result<Store, OpenError> {
        Store::open_with(path, faults, migrate::STEPS)
    }

    /// As [`Store::open`], with other migrations than the built-in ones: for testing the machinery.
    pub fn open_with(path: &Path, faults: Faults, steps: &[Migration]) -> Result<Store, OpenError> {
        let mut store = Store::open_again(path, faults, steps)?;
        store.boot = guarded(|| store.count_boot()).map_err(|error| OpenError::of(path, error))?;
        Ok(store)
    }

    /// Opens the store within a boot, after a failure, as the disk has it.
    pub fn reopen(path: &Path, faults: Faults, boot: u64) -> Result<Store, OpenError> {
        disk::forget_cached(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Store { boot, ..Store::open_again(path, faults, migrate::STEPS)? })
    }

    fn open_again(path: &Path, faults: Faults, steps: &[Migration]) -> Result<Store, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let lock = lock(path)?;
        swap::settle(path).map_err(io)?;
        std::fs::create_dir_all(path).map_err(io)?;
        let db = open_whole(path)?;
        let db = migrate::run(db, path, steps)?;
        let disk = Disk::open(path).map_err(io)?;
        if let Err(error) = swap::clear(path) {
            tracing::warn!(%error, "cannot remove what a compaction left over");
        }
        Ok(Store {
            db,
            disk,
            faults,
            boot: 0,
            committed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            recorder: Recorder::default(),
            _lock: lock,
        })
    }

    fn count_boot(&self) -> Result<u64, StoreError> {
        let meta = self.tree(key::META)?;
        let last = self.number(key::BOOT)?;
        meta.insert(key::BOOT, &(last + 1).to_be_bytes())?;
        self.flush_and_note()?;
        self.disk.note_boot(last + 1)?;
        self.disk.sync_end()?;
        Ok(last + 1)
    }

    /// How often this store has been opened, this time included.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The earliest boot whose live records count, as [`Changes::live_since`] last had it.
    pub fn live_since(&self) -> Result<u64, StoreError> {
        self.number(key::LIVE_SINCE)
    }

    fn number(&self, name: &str) -> Result<u64, StoreError> {
        number(&self.db, name)
    }

    /// Applies all changes or none, as one transaction of one batch per tree. Durable only after [`Store::flush`].
    pub fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.faults.on_write()?;
        let batches = batches(changes, |tree| self.tree(tree))?;
        guarded(|| {
            // Else each of sled's I/O threads may hold a write that waits for a truncation, which waits for an I/O thread.
            let written = self.written.load(Ordering::Acquire);
            if self.committed.load(Ordering::Acquire) - written >= MOST_UNWRITTEN {
                self.write_out()?;
            }
            let mut recording = self.recorder.lock();
            apply(&batches)?;
            recording.committed(changes);
            self.committed.fetch_add(1, Ordering::Release);
            Ok(())
        })
    }

    /// When it returns, sled has written every commit that was made before: to its file, not yet to the disk.
    fn write_out(&self) -> Result<(), StoreError> {
        let committed = self.committed.load(Ordering::Acquire);
        self.db.flush()?;
        self.written.fetch_max(committed, Ordering::Release);
        Ok(())
    }

    /// Puts every commit so far on the disk itself. sled's own flush does not: see docs/storage.md.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.faults.on_flush()?;
        guarded(|| self.flush_and_note())
    }

    fn flush_and_note(&self) -> Result<(), StoreError> {
        self.write_out()?;
        // What is committed meanwhile may be on the disk afterwards, and need not be.
        let end = log::end(&self.db);
        self.disk.sync()?;
        Ok(self.disk.note_end(end)?)
    }

    /// Bytes that the store takes on the disk.
    pub fn size_on_disk(&self) -> u64 {
        self.disk.size()
    }

    /// Bytes that are free where the store is.
    pub fn free_on_disk(&self) -> Result<u64, StoreError> {
        Ok(self.disk.free(&self.faults)?)
    }

    fn tree(&self, name: &str) -> Result<Tree, StoreError> {
        Ok(self.db.open_tree(name)?)
    }

    fn lease_tree(&self, kind: Kind) -> Result<Tree, StoreError> {
        self.tree(key::tree_name(kind))
    }
}

/// All changes as one batch per tree.
fn batches(
    changes: &Changes,
    open: impl Fn(&str) -> Result<Tree, StoreError>,
) -> Result<Vec<(Tree, Batch)>, StoreError> {
    let mut batches: Vec<(&'static str, Batch)> = Vec::with_capacity(4);
    for row in &changes.rows {
        let at = batches.iter().position(|(tree, _)| *tree == row.tree).unwrap_or_else(|| {
            batches.push((row.tree, Batch::default()));
            batches.len() - 1
        });
        match &row.value {
            Some(value) => batches[at].1.insert(row.key.clone(), value.clone()),
            None => batches[at].1.remove(row.key.clone()),
        }
    }
    batches.into_iter().map(|(tree, batch)| Ok((open(tree)?, batch))).collect()
}

/// One transaction of one batch per tree: all or nothing.
fn apply(batches: &[(Tree, Batch)]) -> Result<(), StoreError> {
    let trees: Vec<Tree> = batches.iter().map(|(tree, _)| tree.clone()).collect();
    let done = trees[..].transaction(|views| {
        for (view, (_, batch)) in views.iter().zip(batches) {
            view.apply_batch(batch)?;
        }
        Ok(())
    });
    done.map_err(|error: TransactionError<()>| match error {
        TransactionError::Storage(error) => StoreError::Sled(error),
        TransactionError::Abort(()) => unreachable!("the closure never aborts"),
    })
}

/// A number in `meta`; 0 where there is none.
fn number(db: &sled::Db, name: &str) -> Result<u64, StoreError> {
    let row = db.open_tree(key::META)?.get(name)?;
    Ok(row.and_then(|row| row.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Opens sled, unless it has less than was flushed. What it then still has is left to whoever may want to save it.
fn open_whole(path: &Path) -> Result<sled::Db, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    disk::prepare(path).map_err(io)?;
    let since = log::last_snapshot(path).map_err(io)?;
    if let Some(reason) = disk::noted_damage(path).map_err(io)? {
        return Err(OpenError::Damaged { path: path.to_owned(), reason });
    }
    let db = open_sled(path)?;
    guarded(|| {
        refuse_lost_rows(&db, path)?;
        refuse_damage(&db, path, since)
    })
    .map_err(|error| OpenError::of(path, error))?;
    Ok(db)
}

/// sled opens a log as far as it makes sense, a wholly damaged one as an empty store: what it has then is older than
/// what was noted beside it.
fn refuse_lost_rows(db: &sled::Db, path: &Path) -> Result<(), StoreError> {
    let lost = |what: &str, now: u64, noted: u64| {
        Err(damage(format!("it has lost rows: its {what} is {now}, and has been {noted}")))
    };
    // Before anything is looked up, since sled makes a tree that is not there.
    let (end, noted) = (log::end(db), disk::noted_end(path)?);
    let (boot, noted_boot) = (number(db, key::BOOT)?, disk::noted_boot(path)?);
    if boot < noted_boot {
        return lost("boot number", boot, noted_boot);
    }
    if end < noted { lost("log's end", end, noted) } else { Ok(()) }
}

/// sled passes over what makes no sense in the midst of its log. Once open it does not come to that place again: so it is
/// noted.
fn refuse_damage(db: &sled::Db, path: &Path, since: sled::Lsn) -> Result<(), StoreError> {
    let Some(at) = log::damaged_at(db, since) else { return Ok(()) };
    let reason = format!("its file db makes no sense at byte {at}");
    disk::note_damage(path, &reason)?;
    Err(damage(reason))
}

fn damage(reason: String) -> StoreError {
    std::io::Error::new(std::io::ErrorKind::InvalidData, reason).into()
}

/// How often a lock that somebody holds is tried again, and the time between two tries: whoever had it may be about to end, or
/// be a child of this process that has not become another program yet.
const LOCK_TRIES: u32 = 20;
const LOCK_AGAIN: Duration = Duration::from_millis(50);

fn lock(path: &Path) -> Result<std::fs::File, OpenError> {
    for _ in 0..LOCK_TRIES {
        let lock = disk::lock(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        std::thread::sleep(LOCK_AGAIN);
    }
    Err(OpenError::InUse(path.to_owned()))
}

/// Opens sled itself: clears what a kill inside an earlier open left, waits for a lock that is released late, and
/// turns a panic inside sled into an error.
fn open_sled(path: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(crate::limits::STORE_CACHE_BYTES)
        .flush_every_ms(None)
        .print_profile_on_drop(false);
    let mut tries = 0;
    loop {
        match guarded(|| Ok(config.open()?)) {
            Ok(db) => return Ok(db),
            Err(StoreError::Sled(sled::Error::Io(error)))
                if error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                if tries > LOCK_TRIES {
                    return Err(OpenError::InUse(path.to_owned()));
                }
                std::thread::sleep(LOCK_AGAIN);
            }
            Err(error) => return Err(OpenError::of(path, error)),
        }
    }
}

/// Runs something that may panic inside sled.
fn guarded<T>(run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Err(StoreError::Panicked(text.unwrap_or_default()))
    })
}
