//! Owns the proof that clients which are not ours, in a language that is not ours, are served by the real binary, and that
//! its OpenAPI document says what they get. Skipped, saying so, where Python or its libraries are missing.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/python.rs"]
mod python;

use std::process::Output;

use daemon::Process;

/// What a script said, which has to have succeeded.
fn told(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

#[test]
fn a_python_client_pairs_signals_calls_links_and_meets() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let Some(output) = python::run("pair.py", "websockets", &[&format!("ws://{}", daemon.public)]) else {
        return;
    };
    let told = told(&output);
    assert_eq!(told.matches("ok: ").count(), 5, "{told}");
}

/// Examples for each operation and phase: a few seconds.
const EXAMPLES: &str = "40";

#[test]
fn whatever_is_asked_over_http_the_answer_is_one_of_the_documents() {
    let data = tempfile::tempdir().unwrap();
    let settings = data.path().join("settings.toml");
    std::fs::write(&settings, "[limits]\nhttp_requests_per_minute = 0\n").unwrap();
    let daemon = Process::start(&data.path().join("data"), &["--config", settings.to_str().unwrap()]);
    let address = format!("http://{}", daemon.public);
    let Some(output) = python::run("contract.py", "schemathesis", &[&address, EXAMPLES]) else { return };
    let told = told(&output);
    let count = told.lines().find_map(|line| line.trim().split_once(" generated, ")?.0.parse().ok());
    let generated: usize = count.unwrap_or_default();
    assert!(generated > 500, "{told}");
}
