//! Owns the proof of the subcommands that act on a running daemon, or on none: the real binary asks a daemon of this process.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use daemon::{Process, TestDaemon, ask, soon};
use serde_json::{Value, json};

fn waypost(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(arguments).env_clear();
    command
}

/// Runs it beside the daemon.
async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A subcommand that asks this daemon.
fn asking(daemon: &TestDaemon, arguments: &[&str]) -> Command {
    let mut command = waypost(arguments);
    command.args(["--admin", daemon.admin().base()]);
    command.arg("--token-file").arg(daemon.data_dir().join("admin.token"));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_ended_and_a_socket_closed_by_what_the_lists_show() {
    let daemon = TestDaemon::start().await;
    let (alice, _) = daemon.registered("alice").await;
    let done = (0, "ended relay alice\n".to_owned(), String::new());
    assert_eq!(told(&run(asking(&daemon, &["end", "relay", "alice"])).await), done);
    let (code, _, error) = told(&run(asking(&daemon, &["end", "relay", "alice"])).await);
    assert_eq!((code, error.contains("There is no such lease")), (1, true), "{error}");
    let (_, list, _) = told(&run(asking(&daemon, &["connections", "--json"])).await);
    let list: Value = serde_json::from_str(&list).unwrap();
    let socket = list["connections"][0]["socket"].to_string();
    let (code, said, _) = told(&run(asking(&daemon, &["close", &socket, "--json"])).await);
    assert_eq!((code, serde_json::from_str::<Value>(&said).unwrap()), (0, json!({"done": true})));
    daemon.until("it is closed", |status| status.connections.open == 0).await;
    drop(alice);
    assert_eq!(told(&run(waypost(&["close", "alice"])).await).0, 2, "wrong usage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_status_goes_on_with_rates_until_it_is_interrupted() {
    let daemon = TestDaemon::start().await;
    let mut watching = asking(&daemon, &["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut socket = daemon.raw().await;
    let mut seen = tokio::task::spawn_blocking(move || {
        let rates = lines.find(|line| line.as_ref().unwrap().trim_start().starts_with("a second"));
        (rates.unwrap().unwrap(), lines)
    });
    // Rates are by the daemon's clock, which stands here unless it is moved.
    let (rates, _lines) = loop {
        ask(&mut socket, json!({"type": "ping"})).await;
        daemon.advance(daemon::SECOND);
        tokio::select! {
            seen = &mut seen => break seen.unwrap(),
            () = waypost::clock::rest(std::time::Duration::from_millis(200)) => {}
        }
    };
    assert!(rates.contains("requests in") && rates.contains("writer busy"), "{rates}");
    let pid = rustix::process::Pid::from_child(&watching);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || watching.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_asks_whether_the_daemon_is_healthy_and_an_operator_drains_it() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let url = format!("http://{}", process.admin);
    let ready = (0, "ready\n".to_owned(), String::new());
    assert_eq!(told(&run(waypost(&["healthcheck", "--admin", &url])).await), ready);
    let mut drain = waypost(&["drain", "--admin", &url, "--data-dir"]);
    drain.arg(data.path());
    assert_eq!(told(&run(drain).await), (0, "the daemon has ended\n".to_owned(), String::new()));
    assert_eq!(soon(process.ended()).await.code(), Some(0));
    let (code, said, error) = told(&run(waypost(&["healthcheck", "--admin", &url])).await);
    assert_eq!((code, said, error), (1, String::new(), format!("no daemon answers at {url}\n")));
}

#[test]
fn there_are_completions_for_each_shell_and_a_man_page_for_each_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = told(&waypost(&["completions", shell]).output().unwrap());
        assert!(code == 0 && script.contains("healthcheck"), "{shell}");
    }
    // Nobody reads it to its end.
    let mut command = waypost(&["completions", "zsh"]);
    let mut unread = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    assert_ne!(unread.wait().unwrap().code(), Some(101), "that is no panic");

    let pages = tempfile::tempdir().unwrap();
    let directory = pages.path().join("man1");
    assert!(waypost(&["man", directory.to_str().unwrap()]).status().unwrap().success());
    let (_, help, _) = told(&waypost(&["--help"]).output().unwrap());
    let commands = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands = commands.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("    "));
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"drain"), "{help}");
    let written: BTreeSet<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(written.contains("waypost.1"));
    for command in commands.iter().filter(|command| **command != "help") {
        let name = format!("waypost-{command}.1");
        assert!(written.contains(&name), "{name}");
        assert!(page(&directory, &name).contains(".SH SYNOPSIS"), "{name}");
    }
}

fn page(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}
