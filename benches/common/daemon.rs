//! Owns starting the daemon as a process of its own, for who measures it from outside. Must not know what is measured.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// With its default settings but for these, each as `--set` takes it; tells where peers connect.
pub fn start(data: &Path, settings: &[&str]) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.arg("--data-dir").arg(data).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the daemon starts");
    let mut log = BufReader::new(child.stderr.take().expect("its log is a pipe")).lines();
    let address = log.by_ref().find_map(|line| {
        let line: Value = serde_json::from_str(&line.ok()?).ok()?;
        line["fields"]["listen"].as_str()?.parse().ok()
    });
    // Whatever else it logs must go somewhere, or it would wait for a reader.
    std::thread::spawn(move || log.for_each(drop));
    (child, address.expect("the daemon listens"))
}
