//! Owns the proof that clients which are not ours, in a language that is not ours, are served by the real binary. Skipped,
//! saying so, where Python or its library is missing.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/python.rs"]
mod python;

use daemon::Process;

#[test]
fn a_python_client_pairs_signals_calls_links_and_meets() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let Some(output) = python::run("pair.py", "websockets", &[&format!("ws://{}", daemon.public)]) else {
        return;
    };
    let (told, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{complaint}");
    assert_eq!(told.matches("ok: ").count(), 5, "{told}");
}
