//! The files under sled: what it leaves to its user to make durable and to clean up.
//!
//! Owns fdatasync of sled's log and of the directories, the lock, and the boot number noted beside them. Must not know
//! trees or records.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

const BOOT: &str = "boot";

pub(super) struct Disk {
    path: PathBuf,
    log: File,
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
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
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
        let disk = Disk { path: path.to_owned(), log };
        File::open(path)?.sync_all()?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        disk.sync()?;
        Ok(disk)
    }

    /// Everything that sled has written so far is on the disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.log.sync_data()
    }

    pub fn size(&self) -> u64 {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file());
        files.map(|meta| meta.len()).sum()
    }
}
