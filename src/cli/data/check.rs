//! Owns `waypost check`: on the data directory, or by the daemon that has it open. Must not know what a problem is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::asking::{Options, at};
use super::{Exit, Place, print, told};
use crate::clock::Clock;
use crate::store::{OfflineError, OpenError, Report, check, repair};
use crate::wire::admin::Checked;

#[derive(clap::Args)]
pub(in crate::cli) struct Check {
    /// Mend what is wrong, with the daemon stopped: what nobody can make sense of is moved aside into a file.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    options: Options,
}

/// What `--repair --json` prints.
#[derive(Serialize)]
struct Mended {
    #[serde(flatten)]
    checked: Checked,
    repaired: Vec<Repair>,
    /// What was taken out of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Repair {
    problem: String,
    done: &'static str,
}

impl Check {
    /// Problems that stay are a failure.
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        if self.repair {
            return self.repair(place);
        }
        let checked = match check(&place.store()) {
            Ok(report) => checked(&report),
            // The daemon that has it open can tell.
            Err(OfflineError::Open(error @ OpenError::InUse(_))) => self.ask(place, &error)?,
            Err(error) => return Err(told(&error, error.is_refusal())),
        };
        print(self.options.json, &checked, || text(&checked))?;
        let is_clean = checked.problems.is_empty() && checked.memory_agrees != Some(false);
        Ok(if is_clean { Exit::Ok } else { Exit::Failure })
    }

    fn ask(&self, place: &Place, in_use: &OpenError) -> Result<Checked, Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| told(&error, false))?;
        runtime
            .block_on(async {
                let (client, url) = self.options.client(&place.url, &place.token_file).await?;
                client.check().await.map_err(at(&url))
            })
            .map_err(|error| told(&format!("{in_use}; and it cannot be asked: {error}"), false))
    }

    fn repair(&self, place: &Place) -> Result<Exit, Exit> {
        let done = repair(&place.store(), Clock::system().now());
        let done = done.map_err(|error| told(&error, error.is_refusal()))?;
        let repaired = done.problems.iter();
        let repaired =
            repaired.map(|problem| Repair { problem: problem.to_string(), done: problem.mended() }).collect();
        let mended = Mended { checked: checked(&done.report), repaired, file: done.file };
        print(self.options.json, &mended, || {
            let lines = mended.repaired.iter().map(|Repair { problem, done }| format!("{problem}: {done}\n"));
            let file =
                mended.file.iter().map(|file| format!("what was moved aside is in {}\n", file.display()));
            lines.chain(file).collect::<String>() + &text(&mended.checked)
        })?;
        Ok(Exit::Ok)
    }
}

fn checked(report: &Report) -> Checked {
    Checked {
        leases: report
            .leases
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count))
            .collect::<BTreeMap<_, _>>(),
        index_rows: report.index_rows,
        problems: report.problems.iter().map(ToString::to_string).collect(),
        memory_agrees: None,
    }
}

fn text(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked.problems.clone();
    if checked.memory_agrees == Some(false) {
        lines.push(
            "memory does not have what the rows say: restart the daemon, and tell the developers".into(),
        );
    }
    let leases: usize = checked.leases.values().sum();
    let found = match lines.len() {
        0 => "nothing is wrong".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    lines.push(format!("{leases} leases, {} index rows: {found}", checked.index_rows));
    lines.join("\n") + "\n"
}
