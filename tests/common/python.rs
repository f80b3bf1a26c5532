//! Clients in Python against the daemon. Owns where Python is looked for, and when a test may be skipped for want of it. Must
//! not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::path::Path;
use std::process::{Command, Output};

/// Set where skipping a test is a failure.
const SKIP_NOTHING: &str = "WAYPOST_SKIP_NOTHING";
/// The interpreter that has what `tests/clients/requirements.txt` asks for, where it is not `python3`.
const PYTHON: &str = "WAYPOST_PYTHON";

/// Runs a script of `tests/clients`; `None`: there is no Python with the library it needs, and that was said.
pub fn run(script: &str, library: &str, arguments: &[&str]) -> Option<Output> {
    command(script, library).map(|mut command| command.args(arguments).output().unwrap())
}

/// The same, to be run by the caller.
pub fn command(script: &str, library: &str) -> Option<Command> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned());
    let looked = Command::new(&python).args(["-c", &format!("import {library}")]).output();
    if !looked.as_ref().is_ok_and(|output| output.status.success()) {
        let reason = match looked {
            Ok(output) => {
                String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
            }
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os(SKIP_NOTHING).is_none(), "{python} cannot run {script}: {reason}");
        eprintln!(
            "skipped: {python} cannot run tests/clients/{script}: {reason}. pip install -r tests/clients/requirements.txt, \
             or name an interpreter in {PYTHON}."
        );
        return None;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = Command::new(&python);
    command.arg(path);
    Some(command)
}
