//! The files under sled: what it leaves to its user to make durable and to clean up.
//!
//! Owns fdatasync of sled's log and of the directories, the lock, the room on the disk, and what is noted beside them: the
//! boot number, how far the log was flushed, and damage that was found. Must not know trees or records.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Advice, fadvise, statvfs};

use super::{Faults, swap};

const BOOT: &str = "boot";
const FLUSHED: &str = "flushed";
const DAMAGE: &str = "damaged";

pub(super) struct Disk {
    path: PathBuf,
    log: File,
    flushed: File,
}

/// Locks the store against other processes; `None` where one holds it. The lock is beside the folder, which another one
/// may take the place of.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(swap::parent(path))?;
    let lock = File::create(swap::beside(path, "lock"))?;
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

/// Why the store was found damaged at an earlier start.
pub(super) fn noted_damage(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path.join(DAMAGE)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn note_damage(path: &Path, reason: &str) -> io::Result<()> {
    fs::write(path.join(DAMAGE), format!("{reason}\n"))?;
    sync_all(path)
}

/// How far the log was flushed, in a file of its own beside sled's: 0 where nothing is noted, as where a power cut took the
/// file's first contents.
pub(super) fn noted_end(path: &Path) -> io::Result<u64> {
    let text = match fs::read(path.join(FLUSHED)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if text.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.split(' ').next()?.parse().ok());
    number.filter(|number| note(*number).as_bytes() == text).ok_or_else(|| {
        let what = format!("the note {FLUSHED} of what was flushed says nonsense");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

/// A number and its complement, of the same length whatever the number is: it is written over the one before.
fn note(end: u64) -> String {
    format!("{end:020} {:020}\n", !end)
}

/// Every file and folder under this one is on the disk when this returns.
pub(super) fn sync_all(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    swap::sync_folder(path)
}

/// sled lets go of a store some time after it was closed, and may write until then: waits for that. While the file is
/// kept, sled does not open the store again, under whatever name.
pub(super) fn closed(path: &Path) -> io::Result<File> {
    const TRIES: u32 = 1000;
    let log = File::open(path.join("db"))?;
    for _ in 0..TRIES {
        match log.try_lock() {
            Ok(()) => return Ok(log),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "sled does not let go of it"))
}

/// Bytes that this process may still write where the folder is.
pub(super) fn free(folder: &Path, faults: &Faults) -> io::Result<u64> {
    let disk = statvfs(folder)?;
    Ok(faults.free().unwrap_or_else(|| disk.f_bavail.saturating_mul(disk.f_frsize)))
}

/// Bytes of the files in a store's folder.
pub(super) fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file());
    files.map(|meta| meta.len()).sum()
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
        let flushed = File::options().write(true).create(true).truncate(false).open(path.join(FLUSHED))?;
        let disk = Disk { path: path.to_owned(), log, flushed };
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

    /// Notes that the log is on the disk up to there. The note itself is not waited for: where a power cut takes it, an older
    /// one is there, which claims less.
    pub fn note_end(&self, end: u64) -> io::Result<()> {
        self.flushed.write_all_at(note(end).as_bytes(), 0)
    }

    /// The last such note is on the disk when this returns.
    pub fn sync_end(&self) -> io::Result<()> {
        self.flushed.sync_data()
    }

    pub fn size(&self) -> u64 {
        size(&self.path)
    }

    pub fn free(&self, faults: &Faults) -> io::Result<u64> {
        free(&self.path, faults)
    }
}
