//! Owns where the daemon of an example is: `WAYPOST_BIN`, or the `waypost` beside this example's directory.

use std::error::Error;
use std::path::{Path, PathBuf};

pub fn daemon_binary() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = std::env::var_os("WAYPOST_BIN") {
        return Ok(path.into());
    }
    let example = std::env::current_exe()?;
    let beside = example.parent().and_then(Path::parent).map(|directory| directory.join("waypost"));
    beside
        .filter(|path| path.exists())
        .ok_or_else(|| "there is no daemon to start: run `cargo build --release`, or set WAYPOST_BIN".into())
}
