//! Owns `waypost restore`, and what becomes of the server's key. Must not know how a store is made.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Exit, Place, bar, print, told};
use crate::clock::Clock;
use crate::daemon::SERVER_KEY;
use crate::store::{Faults, Head, Replace, Restored, restore, verify};

#[derive(clap::Args)]
pub(in crate::cli) struct Restore {
    /// The backup.
    file: PathBuf,
    /// Move a store that is there aside, and another server's key.
    #[arg(long)]
    replace: bool,
    /// Only tell whether the file is whole and could be restored by this version.
    #[arg(long)]
    verify: bool,
    /// Print JSON instead of a line.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    /// Of the backup; what was restored has this version's.
    schema: u32,
    /// Milliseconds since the Unix epoch.
    made_at: u64,
    rows: u64,
    /// What was restored, unless the file was only verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'a Path>,
    /// Where the former store is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<&'a Path>,
}

impl Restore {
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        let file = &self.file;
        let bar = bar("reading", fs::metadata(file).ok().map(|meta| meta.len()));
        let mut progress = |bytes| bar.set_position(bytes);
        let (store, key) = (place.store(), place.data_dir.join(SERVER_KEY));
        let now = Clock::system().now();
        let done = if self.verify {
            verify(file, &mut progress).map(|backup| Restored { backup, moved: None })
        } else {
            let replace = Replace { path: &store, existing: self.replace, now };
            restore(file, &replace, &Faults::default(), &mut progress, |head| {
                put_key(&key, head, self.replace, now)
            })
        };
        bar.finish_and_clear();
        let Restored { backup, moved } = done.map_err(|error| told(&error, error.is_refusal()))?;
        let report = Report {
            file,
            schema: backup.head.schema,
            made_at: backup.head.made_at,
            rows: backup.rows,
            store: (!self.verify).then_some(store.as_path()),
            moved: moved.as_deref(),
        };
        print(self.json, &report, || line(&report))?;
        Ok(Exit::Ok)
    }
}

fn line(report: &Report<'_>) -> String {
    let Report { file, rows, schema, .. } = report;
    let file = file.display();
    let Some(store) = report.store else {
        return format!("{file}: whole, {rows} rows of schema {schema}\n");
    };
    let moved = report.moved.map(|moved| format!("; the former store is {}", moved.display()));
    format!("{}: restored {rows} rows from {file}{}\n", store.display(), moved.unwrap_or_default())
}

/// The server keeps its identity. Another server's key is moved aside.
fn put_key(path: &Path, head: &Head, replace: bool, now: u64) -> io::Result<()> {
    if head.server_key.is_empty() {
        return Ok(());
    }
    match fs::read(path) {
        Ok(key) if key.trim_ascii() == head.server_key.trim_ascii() => return Ok(()),
        Ok(_) if replace => fs::rename(path, path.with_file_name(format!("{SERVER_KEY}.replaced-{now}")))?,
        Ok(_) => {
            let what = format!("{} is of another server: have it moved aside with --replace", path.display());
            return Err(io::Error::other(what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let partial = path.with_extension("key.partial");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&head.server_key)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    fs::File::open(folder)?.sync_all()
}
