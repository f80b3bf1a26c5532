//! Owns commands of the real binary on a data directory, run to their end. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(arguments).arg("--data-dir").arg(data).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn run(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().unwrap()
}

/// On stdout.
pub fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// On stderr.
pub fn told(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
