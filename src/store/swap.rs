//! Names beside the store's folder, and how a compacted store takes its place.
//!
//! Owns the swap and what a kill in the midst of one leaves: at every moment there is one whole store, under its own
//! name or as `store.uncompacted`. Must not know what is in either folder.
//!
//! | there is | then |
//! |---|---|
//! | `store` | that is it; whatever else is there is left over, and goes |
//! | no `store`, but `store.uncompacted` | the swap was cut short between two renames, and is undone |
//!
//! `store.compacting` never counts: it is a copy that is being made, or a former store that is being removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Faults, StoreError};

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

/// The folder that a path is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Undoes a swap that was cut short. Call it under the store's lock, before anything is opened or made.
pub(super) fn settle(path: &Path) -> io::Result<()> {
    let former = former(path);
    if !path.try_exists()? && former.try_exists()? {
        tracing::warn!(store = %path.display(), "undoing a compaction that was cut short");
        fs::rename(&former, path)?;
        sync_folder(parent(path))?;
    }
    Ok(())
}

/// Removes what a compaction left over. Call it under the store's lock, once the store has opened.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    let (fresh, former) = (fresh(path), former(path));
    if !path.try_exists()? {
        // A swap could be neither finished nor undone: then the former store is all there is.
        return Ok(());
    }
    remove(&fresh)?;
    if former.try_exists()? {
        // First to the name that never counts, so that half a store never has the other.
        fs::rename(&former, &fresh)?;
        sync_folder(parent(path))?;
        remove(&fresh)?;
    }
    Ok(())
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
