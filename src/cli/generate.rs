//! Owns what is made from the command line's own description: completions and man pages. Must not know any command.

use std::io::{self, Write};
use std::path::PathBuf;

use clap_complete::Shell;

use super::Exit;

const NAME: &str = "waypost";

/// Where man pages go.
#[derive(clap::Args)]
pub(super) struct Man {
    /// Directory to write waypost.1, waypost-status.1 and the others to; made where it is not there.
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(&self, command: clap::Command) -> Result<Exit, Exit> {
        let made = std::fs::create_dir_all(&self.directory);
        made.and_then(|()| clap_mangen::generate_to(command, &self.directory)).map_err(|error| {
            eprintln!("cannot write to {}: {error}", self.directory.display());
            Exit::Failure
        })?;
        Ok(Exit::Ok)
    }
}

/// Prints them.
pub(super) fn completions(shell: Shell, mut command: clap::Command) -> Result<Exit, Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut script);
    io::stdout().write_all(&script).map_err(|error| {
        eprintln!("cannot print: {error}");
        Exit::Failure
    })?;
    Ok(Exit::Ok)
}
