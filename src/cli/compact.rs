//! Owns `waypost compact`: its progress, and what it says afterwards. Must not know how a store is compacted.

use std::io::{self, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Exit;
use super::tables::size;
use crate::clock::Clock;
use crate::store::{CompactError, Compacted, Faults, Phase, Progress, compact};

#[derive(clap::Args)]
pub(super) struct Compact {
    /// Print JSON instead of a line.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    store: &'a Path,
    /// Rows of all trees.
    rows: u64,
    bytes_before: u64,
    bytes_after: u64,
    seconds: f64,
}

impl Compact {
    /// Compacts the store in `store`, and prints to stdout what that came to.
    pub(super) fn run(&self, store: &Path) -> Result<Exit, Exit> {
        let clock = Clock::system();
        let bar = ProgressBar::no_length();
        let done = compact(store, &Faults::default(), &mut |progress| show(&bar, progress));
        bar.finish_and_clear();
        let Compacted { rows, bytes_before, bytes_after } = done.map_err(|error| told(&error))?;
        let seconds = clock.running().as_secs_f64();
        let report = Report { store, rows, bytes_before, bytes_after, seconds };
        let text = if self.json { json(&report) } else { line(&report) };
        io::stdout().write_all(text.as_bytes()).map_err(|_| Exit::Failure)?;
        Ok(Exit::Ok)
    }
}

fn told(error: &CompactError) -> Exit {
    eprintln!("{error}");
    if error.is_refusal() { Exit::Usage } else { Exit::Failure }
}

/// On a terminal; elsewhere nothing is drawn.
fn show(bar: &ProgressBar, progress: Progress) {
    if progress.done == 0 {
        let template = match progress.phase {
            Phase::Count => "counting rows: {human_pos}",
            Phase::Copy => "  copying {bar:40} {human_pos}/{human_len} rows, {eta} left",
            Phase::Verify => "verifying {bar:40} {human_pos}/{human_len} rows, {eta} left",
            Phase::Swap => "swapping",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        bar.reset();
        bar.set_length(progress.total);
    }
    bar.set_position(progress.done);
}

fn line(report: &Report<'_>) -> String {
    let Report { store, rows, bytes_before, bytes_after, seconds } = report;
    let (before, after) = (size(*bytes_before), size(*bytes_after));
    format!("{}: {before} before, {after} after; {rows} rows in {seconds:.1} s\n", store.display())
}

fn json(report: &Report<'_>) -> String {
    serde_json::to_string(report).expect("a report is plain data") + "\n"
}
