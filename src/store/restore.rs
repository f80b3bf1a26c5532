//! A store from a backup file.
//!
//! Owns what is looked at before anything is touched: the whole file, its schema, the room. Must not know what the rows
//! say, nor how a store is put in its place.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use sled::{Batch, Db};

use super::side::{self, Replace, SideError};
use super::snapshot::{Decoder, Head, SnapshotError};
use super::{Faults, SCHEMA, StoreError};

/// Why nothing was restored. Whatever was there before is whole.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the backup {}: {source}", .path.display())]
    File { path: PathBuf, source: SnapshotError },
    #[error(
        "the backup {} has schema {found}, written by a newer waypost; this one knows schema {SCHEMA}: run the newer version",
        .path.display()
    )]
    NewerSchema { path: PathBuf, found: u32 },
    #[error(transparent)]
    Side(#[from] SideError),
}

impl RestoreError {
    /// Whether nothing was begun, and something is to be mended before another try makes sense.
    pub fn is_refusal(&self) -> bool {
        match self {
            RestoreError::File { .. } | RestoreError::NewerSchema { .. } => true,
            RestoreError::Side(error) => error.is_refusal(),
        }
    }
}

/// A file that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub head: Head,
    /// Rows in it, changes among them.
    pub rows: u64,
    pub bytes: u64,
}

/// Reads a file to its end. `progress` hears how many of its bytes have been read.
///
/// # Errors
/// One that is cut or altered anywhere, or that a newer version wrote, is refused.
pub fn verify(file: &Path, progress: &mut dyn FnMut(u64)) -> Result<Verified, RestoreError> {
    let (mut rows, mut bytes) = (0, 0);
    let head = read(file, progress, |read| {
        rows += read.rows.len() as u64;
        let sizes = read.rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        bytes += sizes.sum::<usize>() as u64;
        Ok(())
    })?;
    Ok(Verified { head, rows, bytes })
}

/// Makes a store of a backup that was verified, of this version's schema, and puts it in its place; tells where the store is
/// that was there before. `ready` is called when all that is left to do is that.
///
/// # Errors
/// After any error, as after a kill at any moment, there is what was there before, or all of the backup.
pub fn restore(
    (file, backup): (&Path, &Verified),
    replace: &Replace<'_>,
    faults: &Faults,
    progress: &mut dyn FnMut(u64),
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Option<PathBuf>, RestoreError> {
    side::refuse_existing(replace)?;
    side::refuse_little_room(replace.path, backup.rows, backup.bytes, faults)?;
    let failed = SideError::failed(replace.path);
    let fill = |db: &Db| {
        let head = read(file, progress, |rows| put(db, &rows).map_err(|error| failed(error).into()))?;
        if head != backup.head {
            let changed = io::Error::other("it was changed meanwhile");
            return Err(RestoreError::File { path: file.to_owned(), source: changed.into() });
        }
        Ok(())
    };
    side::build(replace, faults, fill, ready)
}

/// Shows all rows of a file, which counts only once this has returned.
fn read(
    file: &Path,
    progress: &mut dyn FnMut(u64),
    mut show: impl FnMut(super::SnapshotRows) -> Result<(), RestoreError>,
) -> Result<Head, RestoreError> {
    let of_file = |source| RestoreError::File { path: file.to_owned(), source };
    let opened = File::open(file).map_err(|error| of_file(error.into()))?;
    let (mut decoder, head) = Decoder::new(BufReader::with_capacity(1 << 16, opened)).map_err(of_file)?;
    if head.schema > SCHEMA {
        return Err(RestoreError::NewerSchema { path: file.to_owned(), found: head.schema });
    }
    while let Some(rows) = decoder.read().map_err(of_file)? {
        show(rows)?;
        progress(decoder.position());
    }
    Ok(head)
}

/// In one batch, which is flushed: only what is flushed can become garbage that is used again.
fn put(db: &Db, rows: &super::SnapshotRows) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    for (key, value) in &rows.rows {
        match value {
            Some(value) => batch.insert(key.as_slice(), value.as_slice()),
            None => batch.remove(key.as_slice()),
        }
    }
    db.open_tree(&rows.tree)?.apply_batch(batch)?;
    db.flush()?;
    Ok(())
}
