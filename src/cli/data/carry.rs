//! Owns `waypost export` and `waypost import`. Must not know what a line says.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Exit, Place, Whole, is_standard, print, told};
use crate::clock::Clock;
use crate::store::{CarryError, Exported, Faults, Imported, Replace, export, import};

#[derive(clap::Args)]
pub(in crate::cli) struct Export {
    /// The file to write; - is standard output.
    file: PathBuf,
    /// Print JSON instead of a line.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Import {
    /// The lines of an export; - is standard input.
    file: PathBuf,
    /// Move a store that is there aside.
    #[arg(long)]
    replace: bool,
    /// Print JSON instead of a line.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    store: &'a Path,
    leases: u64,
    /// Leases that do not decode, and were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<&'a [String]>,
    /// Where the former store is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<&'a Path>,
}

fn failed(error: &CarryError) -> Exit {
    told(error, error.is_refusal())
}

impl Export {
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        let (store, now) = (place.store(), Clock::system().now());
        let exported = if is_standard(&self.file) {
            export(&store, now, &mut BufWriter::new(io::stdout().lock())).map_err(|error| failed(&error))?
        } else {
            let of_file =
                |error: io::Error| told(&format!("cannot write {}: {error}", self.file.display()), false);
            let whole = Whole::create(&self.file).map_err(of_file)?;
            let exported = export(&store, now, &mut BufWriter::new(&whole.file));
            let exported = exported.map_err(|error| failed(&error))?;
            whole.keep().map_err(of_file)?;
            exported
        };
        let Exported { leases, undecodable } = exported;
        for key in &undecodable {
            eprintln!("{key} does not decode, and was left out: see waypost check");
        }
        // Standard output has the lines.
        if !is_standard(&self.file) {
            let report = Report { store: &store, leases, undecodable: Some(&undecodable), moved: None };
            print(self.json, &report, || format!("{}: {leases} leases\n", self.file.display()))?;
        }
        Ok(Exit::Ok)
    }
}

impl Import {
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        let store = place.store();
        let replace = Replace { path: &store, existing: self.replace, now: Clock::system().now() };
        let faults = Faults::default();
        let imported = if is_standard(&self.file) {
            import(io::stdin().lock(), &replace, &faults)
        } else {
            let file = File::open(&self.file);
            let file =
                file.map_err(|error| told(&format!("cannot read {}: {error}", self.file.display()), true))?;
            import(BufReader::new(file), &replace, &faults)
        };
        let Imported { leases, moved } = imported.map_err(|error| failed(&error))?;
        let report = Report { store: &store, leases, undecodable: None, moved: moved.as_deref() };
        print(self.json, &report, || {
            let moved = moved.as_ref().map(|moved| format!("; the former store is {}", moved.display()));
            format!("{}: {leases} leases{}\n", store.display(), moved.unwrap_or_default())
        })?;
        Ok(Exit::Ok)
    }
}
