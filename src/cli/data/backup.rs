//! Owns `waypost backup`: the file's way to its name. Must not know how it is made.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Serialize;

use super::asking::{AskError, Options, at};
use super::tables::size;
use super::{Exit, Place, Whole, bar, is_standard, print, told};
use crate::client::admin::Pieces;
use crate::clock::Clock;
use crate::store::verify;

#[derive(clap::Args)]
pub(in crate::cli) struct Backup {
    /// The file to write; - is standard output.
    file: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    rows: u64,
    bytes: u64,
    seconds: f64,
}

impl Backup {
    pub(super) fn run(self, place: &Place) -> Result<Exit, Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| told(&error, false))?;
        let clock = Clock::system();
        let (client, url) = runtime
            .block_on(self.options.client(&place.url, &place.token_file))
            .map_err(|error| told(&error, false))?;
        let failed = |error| told(&at(&url)(error), false);
        if is_standard(&self.file) {
            let mut pieces = runtime.block_on(client.backup()).map_err(failed)?;
            let taken = runtime.block_on(take(&mut pieces, &mut io::stdout().lock(), &ProgressBar::hidden()));
            taken.map_err(|why| told(&why.at(&url), false))?;
            return Ok(Exit::Ok);
        }
        // Before the daemon is asked: a place where nothing can be written is told at once.
        let of_file =
            |error: io::Error| told(&format!("cannot write {}: {error}", self.file.display()), false);
        let mut whole = Whole::create(&self.file).map_err(of_file)?;
        let bar = bar("taking", None);
        let taken = runtime.block_on(async {
            let mut pieces = client.backup().await.map_err(NotTaken::Client)?;
            take(&mut pieces, &mut whole.file, &bar).await
        });
        bar.finish_and_clear();
        taken.map_err(|why| told(&why.at(&url), false))?;
        let verified = verify(&whole.partial, &mut |_| {}).map_err(|error| told(&error, false))?;
        let bytes = whole.file.metadata().map_err(of_file)?.len();
        whole.keep().map_err(of_file)?;
        let seconds = clock.running().as_secs_f64();
        let report = Report { file: &self.file, rows: verified.rows, bytes, seconds };
        print(self.options.json, &report, || {
            let Report { file, rows, bytes, seconds } = report;
            format!("{}: {rows} rows, {} in {seconds:.1} s\n", file.display(), size(bytes))
        })?;
        Ok(Exit::Ok)
    }
}

/// Why not all of it was taken.
enum NotTaken {
    Client(crate::client::ClientError),
    Write(io::Error),
}

impl NotTaken {
    fn at(self, url: &str) -> AskError {
        match self {
            NotTaken::Client(error) => at(url)(error),
            NotTaken::Write(error) => AskError::Print(error),
        }
    }
}

async fn take(pieces: &mut Pieces, to: &mut impl Write, bar: &ProgressBar) -> Result<(), NotTaken> {
    while let Some(piece) = pieces.next().await.map_err(NotTaken::Client)? {
        to.write_all(piece.as_ref()).map_err(NotTaken::Write)?;
        bar.inc(piece.as_ref().len() as u64);
    }
    to.flush().map_err(NotTaken::Write)
}
