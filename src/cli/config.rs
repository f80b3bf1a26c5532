//! Owns `waypost config`: prints the settings that would be used, and checks a file. Must not know what settings there are.

use std::io::Write;
use std::path::PathBuf;

use super::{Exit, Flags, load};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print every setting with its meaning, as a settings file.
    Print,
    /// Tell all that is wrong with a settings file, under the environment and flags of this call.
    Check { file: PathBuf },
}

impl Command {
    pub(super) fn run(&self, flags: &Flags) -> Result<Exit, Exit> {
        match self {
            Self::Print => print(&flags.settings()?.to_toml_with_comments()),
            Self::Check { file } => {
                if flags.config.is_some() {
                    eprintln!("config check: give the file either as FILE or with --config, not both");
                    return Err(Exit::Usage);
                }
                load(&flags.sources().file(file))?;
                print(&format!("{}: all settings are valid\n", file.display()))
            }
        }
    }
}

/// As `print!`, which would panic when stdout is a closed pipe.
fn print(text: &str) -> Result<Exit, Exit> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|_| Exit::Failure)?;
    Ok(Exit::Ok)
}
