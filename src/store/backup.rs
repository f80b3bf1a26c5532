//! A backup of a store that is written to meanwhile.
//!
//! Owns how it comes to be the store at one point in time. Its trees are walked range by range, while what is committed
//! meanwhile is recorded; between two ranges what was recorded is written behind what was walked. A range is read after the
//! changes that stand before it in the file, so whoever applies all in order has each row as the last commit left it. It ends
//! between two commits, so that all of a transaction is in it or nothing. Must not know who takes it.

use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sled::IVec;

use super::snapshot::{Encoder, FRAME, Head};
use super::{Changes, Store, StoreError, guarded, migrate};
use crate::clock::Millis;

/// Bytes of changes that may wait to be written out: past them whoever takes the backup is too slow.
const MOST_WAITING: usize = 64 << 20;

/// What the record of a change costs beside its key and value.
const CHANGE: usize = 64;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it is taken too slowly: more than {MOST_WAITING} bytes of changes came meanwhile")]
    TooSlow,
    #[error("the store was closed meanwhile")]
    Closed,
    #[error("another one is being made")]
    Running,
}

/// What is committed while a backup is made, in order; nothing while none is.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Option<Recorded>>>);

#[derive(Default)]
struct Recorded {
    changes: Vec<Change>,
    bytes: usize,
}

struct Change {
    tree: &'static str,
    key: IVec,
    value: Option<IVec>,
}

/// Held over a commit: a backup begins and ends between two.
pub(super) struct Recording<'a>(MutexGuard<'a, Option<Recorded>>);

impl Recorder {
    pub fn lock(&self) -> Recording<'_> {
        Recording(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Recording<'_> {
    /// To be called once these are committed.
    pub fn committed(&mut self, changes: &Changes) {
        let Some(recorded) = self.0.as_mut() else { return };
        if recorded.bytes > MOST_WAITING {
            return;
        }
        for row in &changes.rows {
            recorded.bytes += CHANGE + row.key.len() + row.value.as_ref().map_or(0, |value| value.len());
            let (key, value) = (row.key.clone(), row.value.clone());
            recorded.changes.push(Change { tree: row.tree, key, value });
        }
        if recorded.bytes > MOST_WAITING {
            recorded.changes = Vec::new();
        }
    }
}

/// A backup on its way.
pub struct Backup {
    encoder: Encoder,
    recorder: Recorder,
    trees: Vec<IVec>,
    /// How far the last of `trees` was walked.
    walked: Bound<IVec>,
}

/// What a backup came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Rows written to the file, changes among them.
    pub rows: u64,
    pub bytes: u64,
}

impl Store {
    /// Begins a backup, one at a time.
    pub fn begin_backup(&self, made_at: Millis, server_key: Vec<u8>) -> Result<Backup, BackupError> {
        let schema = guarded(|| migrate::schema_of(&self.db))?;
        let encoder = Encoder::new(&Head { schema, made_at, server_key });
        let mut recording = self.recorder.lock();
        if recording.0.is_some() {
            return Err(BackupError::Running);
        }
        *recording.0 = Some(Recorded::default());
        drop(recording);
        let trees = self.db.tree_names();
        Ok(Backup { encoder, recorder: self.recorder.clone(), trees, walked: Bound::Unbounded })
    }
}

impl Backup {
    /// The next piece of the file; `None` once the trees have been walked. Reads the store for a few milliseconds.
    pub fn step(&mut self, store: &Store) -> Result<Option<Vec<u8>>, BackupError> {
        let changes = self.recorded(store)?;
        self.write(changes);
        let Some(tree) = self.trees.last().cloned() else { return Ok(None) };
        let from = std::mem::replace(&mut self.walked, Bound::Unbounded);
        let mut last = None;
        guarded(|| {
            let mut bytes = 0;
            // Each range by an iterator of its own: it keeps a copy of what it has come to.
            for row in store.db.open_tree(&tree)?.range::<IVec, _>((from, Bound::Unbounded)) {
                let (key, value) = row?;
                self.encoder.row(&tree, &key, Some(&value));
                bytes += key.len() + value.len();
                last = Some(key);
                if bytes >= FRAME {
                    return Ok(());
                }
            }
            last = None;
            Ok(())
        })?;
        match last {
            Some(key) => self.walked = Bound::Excluded(key),
            None => drop(self.trees.pop()),
        }
        self.encoder.end_rows();
        Ok(Some(self.encoder.take()))
    }

    /// Ends it: everything that has been committed is in it. Gives the last piece.
    pub fn finish(mut self, store: &Store) -> Result<(Vec<u8>, Made), BackupError> {
        let changes = self.recorded(store)?;
        self.write(changes);
        self.encoder.close();
        let (rows, bytes) = self.encoder.counts();
        Ok((self.encoder.take(), Made { rows, bytes }))
    }

    fn recorded(&self, store: &Store) -> Result<Vec<Change>, BackupError> {
        if !Arc::ptr_eq(&self.recorder.0, &store.recorder.0) {
            return Err(BackupError::Closed);
        }
        let mut recording = self.recorder.lock();
        let recorded = recording.0.as_mut().map(std::mem::take).ok_or(BackupError::Closed)?;
        if recorded.bytes > MOST_WAITING {
            return Err(BackupError::TooSlow);
        }
        Ok(recorded.changes)
    }

    /// Changes of one tree stay in their order; between trees there is none.
    fn write(&mut self, mut changes: Vec<Change>) {
        changes.sort_by_key(|change| change.tree);
        for Change { tree, key, value } in &changes {
            self.encoder.row(tree.as_bytes(), key, value.as_deref());
        }
        self.encoder.end_rows();
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        *self.recorder.lock().0 = None;
    }
}
