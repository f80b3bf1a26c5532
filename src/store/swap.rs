//! Names beside the store's folder, and how a compacted or restored store takes its place.
//!
//! Owns the swap and what a kill in the midst of one leaves: at every moment there is one whole store, under its own
//! name, as `store.uncompacted` or as `store.restored`. Must not know what is in any of these folders.
//!
//! | there is | then |
//! |---|---|
//! | `store` | that is it; whatever else is there is left over, and goes |
//! | no `store`, but `store.restored` | it was about to take its place, and does |
//! | no `store`, but `store.uncompacted` | the swap was cut short between two renames, and is undone |
//!
//! `store.compacting` and `store.restoring` never count: they are being made, or removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Faults, StoreError};
use crate::clock::Millis;

/// A name beside the store's folder.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().map_or_else(|| "store".into(), |name| name.to_string_lossy());
    path.with_file_name(format!("{name}.{suffix}"))
}

/// Where a compacted store is made, and a former one removed.
pub(super) fn fresh(path: &Path) -> PathBuf {
    beside(path, "compacting")
}

/// The former store, whole, while its successor has not taken its name.
pub(super) fn former(path: &Path) -> PathBuf {
    beside(path, "uncompacted")
}

/// Where a store is made that comes from elsewhere.
pub(super) fn side(path: &Path) -> PathBuf {
    beside(path, "restoring")
}

/// The same store once it is whole, before it takes its place.
fn restored(path: &Path) -> PathBuf {
    beside(path, "restored")
}

/// Whether a store is there, or the remains of one, or a start would make one of what a kill has left.
pub(super) fn is_taken(path: &Path) -> io::Result<bool> {
    for folder in [path, &former(path), &restored(path)] {
        match fs::read_dir(folder) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The folder that a path is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Undoes or ends a swap that was cut short. Call it under the store's lock, before anything is opened or made.
pub(super) fn settle(path: &Path) -> io::Result<()> {
    let (former, restored) = (former(path), restored(path));
    if !path.try_exists()? && restored.try_exists()? {
        tracing::warn!(store = %path.display(), "finishing a restore that was cut short");
        fs::rename(&restored, path)?;
        sync_folder(parent(path))?;
    }
    if !path.try_exists()? && former.try_exists()? {
        tracing::warn!(store = %path.display(), "undoing a compaction that was cut short");
        fs::rename(&former, path)?;
        sync_folder(parent(path))?;
    }
    Ok(())
}

/// Removes what a compaction or a restore left over. Call it under the store's lock, once the store has opened.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    let (fresh, former) = (fresh(path), former(path));
    if !path.try_exists()? {
        // A swap could be neither finished nor undone: then the former store is all there is.
        return Ok(());
    }
    clear_side(path)?;
    remove(&fresh)?;
    if former.try_exists()? {
        // First to the name that never counts, so that half a store never has the other.
        fs::rename(&former, &fresh)?;
        sync_folder(parent(path))?;
        remove(&fresh)?;
    }
    Ok(())
}

/// Removes a store that was made to take the place of this one, and did not. Call it under the store's lock, once that is
/// settled.
pub(super) fn clear_side(path: &Path) -> io::Result<()> {
    let (side, restored) = (side(path), restored(path));
    remove(&side)?;
    if restored.try_exists()? {
        fs::rename(&restored, &side)?;
        remove(&side)?;
    }
    Ok(())
}

/// Puts the store that was made beside in its place. It is closed and on the disk. One that was there is moved aside, and
/// told where. Both have a name that counts at every moment.
pub(super) fn put(path: &Path, now: Millis, faults: &Faults) -> Result<Option<PathBuf>, StoreError> {
    let folder = parent(path);
    fs::rename(side(path), restored(path))?;
    sync_folder(folder)?;
    faults.on_step()?;
    let mut aside = None;
    // An empty folder is nothing to be kept; another one stays.
    let _ = fs::remove_dir(path);
    if path.try_exists()? {
        let to = beside(path, &format!("replaced-{}", stamp(now)));
        if to.try_exists()? {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
        }
        fs::rename(path, &to)?;
        aside = Some(to);
        faults.on_step()?;
        sync_folder(folder)?;
        faults.on_step()?;
    }
    if let Err(error) = fs::rename(restored(path), path) {
        if let Some(aside) = aside {
            fs::rename(aside, path)?;
        }
        return Err(error.into());
    }
    faults.on_step()?;
    sync_folder(folder)?;
    Ok(aside)
}

/// A time for the name of a file, such as 2026-11-25T172000Z.
pub(super) fn stamp(now: Millis) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(now);
    humantime::format_rfc3339_seconds(time).to_string().replace(':', "")
}

fn remove(folder: &Path) -> io::Result<()> {
    if folder.try_exists()? {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// Puts the fresh store in the place of the store, and the former one where the fresh one was. Both are closed and on
/// the disk. By one rename where the file system can exchange two names, else by three.
pub(super) fn swap(path: &Path, faults: &Faults) -> Result<(), StoreError> {
    let (fresh, folder) = (fresh(path), parent(path));
    sync_folder(folder)?;
    faults.on_step()?;
    match exchange(path, &fresh, faults) {
        Ok(()) => {}
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => by_three_renames(path, faults)?,
        Err(error) => return Err(io::Error::from(error).into()),
    }
    faults.on_step()?;
    Ok(sync_folder(folder)?)
}

fn exchange(path: &Path, fresh: &Path, faults: &Faults) -> Result<(), Errno> {
    if faults.cannot_exchange() {
        return Err(Errno::INVAL);
    }
    renameat_with(CWD, path, CWD, fresh, RenameFlags::EXCHANGE)
}

fn by_three_renames(path: &Path, faults: &Faults) -> Result<(), StoreError> {
    let (fresh, former) = (fresh(path), former(path));
    fs::rename(path, &former)?;
    faults.on_step()?;
    if let Err(error) = fs::rename(&fresh, path) {
        fs::rename(&former, path)?;
        return Err(error.into());
    }
    faults.on_step()?;
    sync_folder(parent(path))?;
    fs::rename(&former, &fresh)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_store_is_never_removed_without_a_successor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        fs::create_dir(former(&path)).unwrap();
        clear(&path).unwrap();
        assert!(former(&path).exists());
        settle(&path).unwrap();
        assert!(path.exists() && !former(&path).exists());
        fs::create_dir(former(&path)).unwrap();
        settle(&path).unwrap();
        clear(&path).unwrap();
        assert!(path.exists() && !former(&path).exists() && !fresh(&path).exists());
    }
}
