//! Owns the subcommands that work on a data directory as a whole: `backup`, `restore`, `check`, `export`, `import`,
//! `migrate`. Each is a file beside this one. Must not know how any of it is done.

mod backup;
mod carry;
mod check;
mod migrate;
mod restore;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::TempPath;

use super::{Exit, asking, tables};

/// What is done with all of the data.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Write a backup of the running daemon's store, and its key, to a file.
    Backup(backup::Backup),
    /// Make the store of a backup; with the daemon stopped.
    Restore(restore::Restore),
    /// Tell what is wrong in the store, and mend it with --repair.
    Check(check::Check),
    /// Write all leases as lines of JSON; with the daemon stopped.
    Export(carry::Export),
    /// Make a store of such lines; with the daemon stopped.
    Import(carry::Import),
    /// Bring the store to this version's schema; with the daemon stopped.
    Migrate(migrate::Migrate),
}

/// Where things are, from the settings.
pub(super) struct Place {
    pub data_dir: PathBuf,
    /// Of the admin endpoint.
    pub url: String,
    pub token_file: PathBuf,
}

impl Place {
    fn store(&self) -> PathBuf {
        self.data_dir.join(crate::daemon::STORE)
    }
}

impl Command {
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        match self {
            Command::Backup(backup) => backup.run(place),
            Command::Restore(restore) => restore.run(place),
            Command::Check(check) => check.run(place),
            Command::Export(export) => export.run(place),
            Command::Import(import) => import.run(place),
            Command::Migrate(migrate) => migrate.run(place),
        }
    }
}

/// Tells an error; whether nothing was begun says which exit code it is.
fn told(error: &dyn std::fmt::Display, is_refusal: bool) -> Exit {
    eprintln!("{error}");
    if is_refusal { Exit::Usage } else { Exit::Failure }
}

/// Prints JSON or a text.
fn print(as_json: bool, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Exit> {
    let text =
        if as_json { serde_json::to_string(report).expect("a report is plain data") + "\n" } else { text() };
    io::stdout().write_all(text.as_bytes()).map_err(|error| told(&error, false))
}

/// Bytes done, of so many where that is known; drawn on a terminal alone.
fn bar(what: &'static str, length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "{msg} {bar:40} {bytes}/{total_bytes}, {eta} left",
        None => "{msg} {bytes}, {bytes_per_sec}",
    };
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new).with_message(what);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar
}

/// A file that is written beside its name, readable by its owner alone, and has its name once it is whole and on the disk.
/// Else it goes with this.
struct Whole {
    to: PathBuf,
    partial: TempPath,
    file: std::fs::File,
}

impl Whole {
    fn create(to: &Path) -> io::Result<Whole> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".partial");
        let partial = to.with_file_name(name);
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        Ok(Whole { to: to.to_owned(), partial: TempPath::try_from_path(partial)?, file })
    }

    /// It is on the disk, under its name.
    fn keep(self) -> io::Result<()> {
        self.file.sync_all()?;
        self.partial.persist(&self.to)?;
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// The name that means standard input or output.
fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}
