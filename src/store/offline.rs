//! A store that no daemon has open, looked at and mended as it is: neither upgraded nor counted as a boot.
//!
//! Owns its opening, the check and the repair. Must not know what a problem is: `check.rs` does.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sled::{Batch, IVec};

use super::backup::Recorder;
use super::check::{Fix, Problem, Report};
use super::disk::Disk;
use super::{Faults, OpenError, Store, StoreError, compact, guarded, lock, swap};
use crate::clock::Millis;

/// How often a repair looks again: what one mending leaves, the next one finds.
const ROUNDS: usize = 4;
/// Rows that are changed in one transaction of a repair.
const BATCH: usize = 300;

/// Why a store could not be looked at or mended.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("there is no store {}: is this the right --data-dir?", .0.display())]
    NoStore(PathBuf),
    #[error("the store {}: {source}", .path.display())]
    Failed { path: PathBuf, source: StoreError },
}

impl OfflineError {
    /// Whether nothing was begun, and something is to be mended before another try makes sense.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, OfflineError::Failed { .. })
    }

    pub(super) fn failed(path: &Path) -> impl Fn(StoreError) -> OfflineError + use<> {
        let path = path.to_owned();
        move |source| OfflineError::Failed { path: path.clone(), source }
    }
}

impl Store {
    pub(super) fn open_as_it_is(path: &Path) -> Result<Store, OfflineError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        if !swap::is_taken(path).map_err(io)? {
            return Err(OfflineError::NoStore(path.to_owned()));
        }
        let lock = lock(path)?;
        swap::settle(path).map_err(io)?;
        let db = compact::open_old(path)?;
        let disk = Disk::open(path).map_err(io)?;
        Ok(Store {
            db,
            disk,
            faults: Faults::default(),
            boot: 0,
            committed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            recorder: Recorder::default(),
            _lock: lock,
        })
    }
}

/// What is wrong in a store. No row of it is changed.
pub fn check(path: &Path) -> Result<Report, OfflineError> {
    Store::open_as_it_is(path)?.check().map_err(OfflineError::failed(path))
}

/// What a repair came to.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What was wrong, and is mended: see [`Problem::mended`].
    pub problems: Vec<Problem>,
    /// Where the rows are that were taken out of the store, if any were.
    pub file: Option<PathBuf>,
    /// The store as it is now; it has no problems.
    pub report: Report,
}

/// Mends what a check finds. Leases that do not decode, or that are indexed after their end, are moved aside, into a file beside
/// the store; missing index rows are written, and those that name nothing are moved aside, too.
///
/// # Errors
/// Rows are on the disk in the file before they go from the store, so that an error or a kill loses none; another repair
/// goes on.
pub fn repair(path: &Path, now: Millis) -> Result<Repaired, OfflineError> {
    let store = Store::open_as_it_is(path)?;
    let name = format!("repaired-{}.ndjson", swap::stamp(now));
    let mut aside = Aside { path: swap::parent(path).join(name), file: None };
    let mut problems = Vec::new();
    let mended = guarded(|| {
        for _ in 0..ROUNDS {
            let mut fixes = Vec::new();
            let report = store.survey(&mut |fix| fixes.push(fix))?;
            if report.is_clean() {
                return Ok(Some(report));
            }
            problems.extend(report.problems);
            store.mend(&fixes, &mut aside)?;
        }
        Ok(None)
    });
    let mended = mended.and_then(|report| {
        let stays = || std::io::Error::other("it is not clean after its repair");
        report.ok_or_else(|| stays().into())
    });
    let report = mended.map_err(OfflineError::failed(path))?;
    let file = aside.file.map(|_| aside.path);
    Ok(Repaired { problems, file, report })
}

/// A row that was taken out of a store, as a line has it.
#[derive(Serialize)]
struct Line<'a> {
    tree: &'a str,
    /// Base64, as the value.
    key: String,
    value: String,
}

/// The file that rows are moved to; made with the first of them.
struct Aside {
    path: PathBuf,
    file: Option<BufWriter<std::fs::File>>,
}

impl Aside {
    fn put(&mut self, tree: &str, key: &IVec, value: &IVec) -> Result<(), StoreError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
                none.insert(BufWriter::new(file))
            }
        };
        let line = Line { tree, key: STANDARD.encode(key), value: STANDARD.encode(value) };
        let line = serde_json::to_string(&line).expect("texts");
        Ok(writeln!(file, "{line}")?)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(file) = &mut self.file {
            file.flush()?;
            file.get_ref().sync_all()?;
            swap::sync_folder(swap::parent(&self.path))?;
        }
        Ok(())
    }
}

impl Store {
    fn mend(&self, fixes: &[Fix], aside: &mut Aside) -> Result<(), StoreError> {
        for fixes in fixes.chunks(BATCH) {
            let mut changes = Vec::new();
            for fix in fixes {
                let (tree, keys) = match fix {
                    Fix::MoveAside { tree, keys } => (*tree, keys.as_slice()),
                    Fix::Unfile { tree, key } => (*tree, std::slice::from_ref(key)),
                    Fix::File { tree, key } => {
                        changes.push((*tree, key.clone(), Some(IVec::default())));
                        continue;
                    }
                };
                for key in keys {
                    if let Some(value) = self.tree(tree)?.get(key)? {
                        aside.put(tree, key, &value)?;
                        changes.push((tree, key.clone(), None));
                    }
                }
            }
            aside.sync()?;
            for (tree, key, value) in changes {
                let mut batch = Batch::default();
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
                self.tree(tree)?.apply_batch(batch)?;
            }
            self.flush_and_note()?;
        }
        Ok(())
    }
}
