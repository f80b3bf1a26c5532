//! Programs that some tests need beyond Rust and git. Owns when a test may be skipped for want of one. Must not know any
//! single program.
#![allow(dead_code, reason = "each test file uses its share")]

use std::process::{Command, Output};

/// Set where skipping a test is a failure.
const SKIP_NOTHING: &str = "WAYPOST_SKIP_NOTHING";

/// Whether a program is there; that it is not, and what was skipped therefore, is said.
pub fn is_there(program: &str, package: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        let reason = format!("there is no {program}; Debian has it in the package {package}");
        assert!(std::env::var_os(SKIP_NOTHING).is_none(), "{reason}");
        eprintln!("skipped: {reason}");
    }
    found
}

/// Everything that a program has said.
pub fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// Runs a program that has to succeed, and gives what it has said.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}
