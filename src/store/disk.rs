//! The files under sled: what it leaves to its user to make durable and to clean up.
//!
//! Owns fdatasync of sled's log, of the blob files that sled writes beside it for entries over 128 KiB and never
//! syncs, and of the directories; the lock, and the boot number noted beside them. Must not know trees or records.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{Advice, fadvise};

const BOOT: &str = "boot";

pub(super) struct Disk {
    path: PathBuf,
    log: File,
    blobs: Mutex<Blobs>,
}

/// Which blob files have been synced.
struct Blobs {
    folder: File,
    path: PathBuf,
    /// Blobs are named by a rising number; up to here they have been seen.
    seen: i64,
    /// Synced once, perhaps while still being written for a commit that nobody had been promised: synced once more.
    again: Vec<PathBuf>,
}

/// Makes the folder and locks it against other processes; `None` where one holds it.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(path)?;
    let lock = File::create(path.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// After a failed flush the kernel may show pages that never reached the disk, and will not mention them again: lets go
/// of what it has cached, so that the next reader sees the disk.
pub(super) fn forget_cached(path: &Path) -> io::Result<()> {
    for folder in [path.to_owned(), path.join("blobs")] {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
            }
        }
    }
    Ok(())
}

/// Before sled is opened: a snapshot that a kill cut short is removed, since sled would trip over it.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "removing a snapshot that was cut short");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The boot number, in a file of its own beside sled's: 0 where there is none.
pub(super) fn noted_boot(path: &Path) -> io::Result<u64> {
    match fs::read_to_string(path.join(BOOT)) {
        Ok(text) => text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

impl Disk {
    /// Notes the boot number, once the store has it durably.
    pub fn note_boot(&self, boot: u64) -> io::Result<()> {
        let unfinished = self.path.join(format!("{BOOT}.unfinished"));
        fs::write(&unfinished, format!("{boot}\n"))?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, self.path.join(BOOT))?;
        File::open(&self.path)?.sync_all()
    }

    /// After sled was opened.
    pub fn open(path: &Path) -> io::Result<Disk> {
        let log = File::open(path.join("db"))?;
        let blob_path = path.join("blobs");
        let folder = File::open(&blob_path)?;
        let blobs = Mutex::new(Blobs { folder, path: blob_path, seen: -1, again: Vec::new() });
        let disk = Disk { path: path.to_owned(), log, blobs };
        File::open(path)?.sync_all()?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        disk.sync()?;
        Ok(disk)
    }

    /// Everything that sled has written so far is on the disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
        self.log.sync_data()
    }

    pub fn size(&self) -> u64 {
        let files = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        let bytes = |entry: fs::DirEntry| {
            entry.metadata().map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 })
        };
        files(&self.path).chain(files(&self.path.join("blobs"))).map(bytes).sum()
    }
}

impl Blobs {
    /// A new file changes the folder's modification time; setting that to the epoch before each look makes every
    /// later one visible without reading the folder at every flush.
    fn sync(&mut self) -> io::Result<()> {
        let again = std::mem::take(&mut self.again);
        let changed = self.folder.metadata()?.modified()? != SystemTime::UNIX_EPOCH;
        if changed {
            self.folder.set_modified(SystemTime::UNIX_EPOCH)?;
            let mut newest = self.seen;
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                // Another name is not sled's.
                let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if let Some(number) = number.filter(|number| *number > self.seen) {
                    self.again.push(entry.path());
                    newest = newest.max(number);
                }
            }
            self.seen = newest;
        }
        for path in again.iter().chain(&self.again) {
            match File::open(path) {
                Ok(blob) => blob.sync_data()?,
                // sled removes a blob once nothing refers to it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if changed {
            self.folder.sync_all()?;
        }
        Ok(())
    }
}
