//! Owns `waypost migrate`: what it says of an upgrade. Must not know what one does.

use std::path::Path;

use serde::Serialize;

use super::{Exit, Place, print, told};
use crate::store::{Faults, Upgrade, upgrade};

#[derive(clap::Args)]
pub(in crate::cli) struct Migrate {
    /// Try it on a copy that goes afterwards; nothing is changed.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of lines.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    store: &'a Path,
    from: u32,
    to: u32,
    steps: &'a [&'static str],
    /// Rows of the store, and how many of them the steps change; the latter from a dry run.
    rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<&'a Path>,
}

impl Migrate {
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        let store = place.store();
        let done = upgrade(&store, self.dry_run, &Faults::default());
        let Upgrade { from, to, steps, rows, changed, copy } =
            done.map_err(|error| told(&error, error.is_refusal()))?;
        let report = Report { store: &store, from, to, steps: &steps, rows, changed, copy: copy.as_deref() };
        print(self.json, &report, || text(&report))?;
        Ok(Exit::Ok)
    }
}

fn text(report: &Report<'_>) -> String {
    let Report { store, from, to, steps, rows, changed, copy } = report;
    let store = store.display();
    if steps.is_empty() {
        return format!("{store}: schema {to} already, {rows} rows\n");
    }
    let (run, is) = if changed.is_some() { ("would run", "would be") } else { ("ran", "is") };
    let steps = (from + 1..).zip(*steps).map(|(number, name)| format!("{run}: {number}, {name}\n"));
    let changed = changed.map(|changed| format!(", {changed} of them changed"));
    let copy = copy.map(|copy| format!("; the copy from before is {}", copy.display()));
    let end = format!(
        "{store}: {is} schema {to}, from {from}; {rows} rows{}{}\n",
        changed.unwrap_or_default(),
        copy.unwrap_or_default()
    );
    steps.chain([end]).collect()
}
