//! Owns the proof that the real binary gets on with a service manager: it takes the sockets that are handed to it, and tells
//! when it is ready, reloads, lives and stops.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;
#[path = "common/python.rs"]
mod python;
#[path = "common/supervised.rs"]
mod supervised;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use daemon::{Process, TestDaemon};
use http::Http;
use serde_json::json;
use supervised::{Manager, Supervised};
use waypost::client::AdminClient;
use waypost::clock::Clock;

/// The binary with sockets handed to it, as `name=address`; `None`: the test is skipped.
fn activated(data: &Path, sockets: &[&str], arguments: &[&str]) -> Option<Command> {
    let mut command = python::command("activate.py", "fcntl")?;
    let daemon = Process::command(data, arguments);
    command.env_clear().args(sockets).arg("--").arg(daemon.get_program()).args(daemon.get_args());
    Some(command)
}

#[tokio::test]
async fn sockets_that_are_handed_over_stand_in_for_those_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (data, admin) = (folder.path().join("data"), folder.path().join("admin"));
    let handed = format!("admin=unix:{}", admin.display());
    let Some(command) = activated(&data, &[&handed, "public=0.0.0.0:0"], &[]) else { return };
    let daemon = Supervised::start(command);
    let told = daemon.logs("listening");
    let public: SocketAddr = told["listen"].as_str().unwrap().parse().unwrap();
    assert!(public.ip().is_unspecified(), "not the address of --listen: {public}");
    let url = format!("unix:{}", admin.display());
    assert_eq!(told["admin_listen"], url);
    let http = Http::at(([127, 0, 0, 1], public.port()).into()).await;
    // What hangs on the address hangs on the one that was handed over.
    let server = json!({"serverId": "a", "endpoint": "ws://127.0.0.1", "publicKey": "key"});
    http.post("/servers", server).await.refused(400, "Invalid endpoint");
    assert!(AdminClient::new(url, "").unwrap().live().await.unwrap());
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(admin.exists(), "its file is the service manager's");
}

#[test]
fn one_socket_may_be_handed_over_and_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(command) = activated(&data, &["admin=127.0.0.1:0"], &[]) else { return };
    let daemon = Supervised::start(command);
    daemon.logs("listening");
    assert_eq!(daemon.stop().code(), Some(0));
    for (sockets, told) in [
        (
            &["waypost.socket=127.0.0.1:0"][..],
            "a socket with the name \\\"waypost.socket\\\" was handed over: name it",
        ),
        (&["public=127.0.0.1:0", "public=127.0.0.1:0"], "two sockets with the name public were handed over"),
        (&["public=udp:127.0.0.1:0"], "the socket public that was handed over cannot be used: "),
    ] {
        let output = activated(&data, sockets, &[]).unwrap().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn the_service_manager_is_told_of_every_turn() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::new(folder.path());
    let file = folder.path().join("waypost.toml");
    std::fs::write(&file, "").unwrap();
    let name = file.display().to_string();
    let mut command = Process::command(&folder.path().join("data"), &["--config", &name]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let daemon = Supervised::start(command);
    let ready = manager.hears();
    let listen = daemon.logs("listening")["listen"].as_str().unwrap().to_owned();
    assert_eq!(ready[0], "READY=1");
    assert!(ready[1].starts_with(&format!("STATUS=listening on {listen}, ")), "{ready:?}");
    for text in ["", "nonsense"] {
        std::fs::write(&file, text).unwrap();
        daemon.signal("HUP");
        let reloading = manager.hears();
        assert_eq!(reloading[0], "RELOADING=1");
        let since: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(since > 0);
        assert_eq!(manager.hears(), ready, "whether there was something wrong or not");
    }
    daemon.signal("TERM");
    assert_eq!(manager.hears(), ["STOPPING=1", "STATUS=shutting down"]);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_watchdog_hears_of_it_as_long_as_it_lives() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::new(folder.path());
    let mut command = Process::command(&folder.path().join("data"), &[]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "100000");
    let daemon = Supervised::start(command);
    assert_eq!(manager.hears()[0], "READY=1");
    let clock = Clock::system();
    for _ in 0..5 {
        assert_eq!(manager.hears(), ["WATCHDOG=1"]);
    }
    assert!(clock.running() >= Duration::from_millis(150), "not without a pause: {:?}", clock.running());
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn a_writer_that_is_stuck_does_not_answer_and_one_without_a_disk_does() {
    let daemon = TestDaemon::start().await;
    assert!(daemon.engine().answers().await);
    let mut socket = daemon.raw().await;
    let gift =
        json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"], "deadDrop": "x"});
    let slow = Duration::from_millis(300);
    daemon.faults.slow_down(slow);
    daemon::say(&mut socket, gift.clone()).await;
    let clock = Clock::system();
    let waited = async {
        loop {
            let before = clock.running();
            assert!(daemon.engine().answers().await);
            if clock.running() - before >= slow / 2 {
                return;
            }
        }
    };
    daemon::soon(waited).await;
    assert_eq!(daemon::hear(&mut socket).await["type"], "rendezvous_result");

    daemon.faults.slow_down(Duration::ZERO);
    daemon.faults.fail_write(1);
    assert_eq!(daemon::ask(&mut socket, gift).await["code"], "storage_unavailable");
    assert!(daemon.engine().answers().await, "a restart would not make room on the disk");
}
