//! File systems of a test's own: small ones in memory, and ext4 images over loop devices. Owns mounting, unmounting on every
//! path, and when a test may be skipped for want of what that takes. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Set where skipping a test is a failure.
const SKIP_NOTHING: &str = "WAYPOST_SKIP_NOTHING";

/// A mounted file system, which is unmounted with this; its loop device, if it has one, goes with it.
pub struct Mounted {
    directory: TempDir,
}

impl Mounted {
    /// In memory, of so many bytes.
    pub fn in_memory(bytes: u64) -> Result<Mounted, String> {
        Mounted::mount(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
    }

    /// Of an image file with a file system in it.
    pub fn image(image: &Path) -> Result<Mounted, String> {
        Mounted::mount(&["-o", "loop", image.to_str().unwrap()])
    }

    fn mount(arguments: &[&str]) -> Result<Mounted, String> {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &[arguments, &[directory.path().to_str().unwrap()]].concat())?;
        Ok(Mounted { directory })
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Mounts it again with other options.
    pub fn remount(&self, options: &str) -> Result<(), String> {
        run("mount", &["-o", &format!("remount,{options}"), self.directory.path().to_str().unwrap()])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let path = self.directory.path().to_str().unwrap();
        // Who has been killed a moment ago may still have files open; then it goes with the last of them.
        let unmounted = run("umount", &[path]).or_else(|_| run("umount", &["-l", path]));
        if let Err(reason) = unmounted {
            eprintln!("{path} stays mounted: {reason}");
        }
    }
}

/// Makes an image with an empty ext4 in it.
pub fn make_ext4(image: &Path, bytes: u64) -> Result<(), String> {
    fs::File::create(image).and_then(|file| file.set_len(bytes)).map_err(|error| error.to_string())?;
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// What was made, or `None` where it cannot be made here, and that was said.
pub fn or_skip<T>(made: Result<T, String>) -> Option<T> {
    match made {
        Ok(made) => Some(made),
        Err(reason) => {
            assert!(std::env::var_os(SKIP_NOTHING).is_none(), "this needs root and mounts: {reason}");
            eprintln!("skipped: it needs root, mount and mkfs.ext4: {reason}");
            None
        }
    }
}
