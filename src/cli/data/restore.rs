//! Owns `waypost restore`, and what becomes of the server's key. Must not know how a store is made.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Exit, Place, bar, print, told};
use crate::clock::Clock;
use crate::daemon::SERVER_KEY;
use crate::store::{Faults, Head, Replace, RestoreError, restore, verify};

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
        let refused = |error: RestoreError| told(&error, error.is_refusal());
        let backup = verify(file, &mut progress).map_err(refused)?;
        let mut moved = None;
        if !self.verify {
            let is_other = is_other(&key, &backup.head);
            if is_other && !self.replace {
                let text =
                    format!("{} is of another server: have it moved aside with --replace", key.display());
                return Err(told(&text, true));
            }
            let replace = Replace { path: &store, existing: self.replace, now };
            let ready = || put_key(&key, &backup.head, is_other, now);
            let restored = restore((file, &backup), &replace, &Faults::default(), &mut progress, ready);
            moved = restored.map_err(refused)?;
        }
        bar.finish_and_clear();
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

/// Whether there is a key, and another one than in the backup.
fn is_other(path: &Path, head: &Head) -> bool {
    let key = &head.server_key;
    !key.is_empty()
        && path.exists()
        && !fs::read(path).is_ok_and(|there| there.trim_ascii() == key.trim_ascii())
}

/// The server keeps its identity. Another server's key is moved aside.
fn put_key(path: &Path, head: &Head, is_other: bool, now: u64) -> io::Result<()> {
    if is_other {
        fs::rename(path, path.with_file_name(format!("{SERVER_KEY}.replaced-{now}")))?;
    }
    if head.server_key.is_empty() || path.exists() {
        return Ok(());
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
