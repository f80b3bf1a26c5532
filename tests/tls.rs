//! Owns the proof that the public listener speaks TLS where it has a certificate, and what becomes of connections that do
//! not.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/supervised.rs"]
mod supervised;
#[path = "common/tls.rs"]
mod tls;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use daemon::{Process, SECOND, TestDaemon, soon};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use supervised::Supervised;
use tempfile::TempDir;
use tls::{Certificate, first_message, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use waypost::clock::Clock;

async fn start() -> (TestDaemon, Certificate, TempDir) {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let daemon = TestDaemon::start_with(|settings| certificate.set(folder.path(), settings)).await;
    (daemon, certificate, folder)
}

const BAD_TLS: &str = "waypost_connections_refused_total{reason=\"bad_tls\"}";

#[tokio::test]
async fn http_and_websockets_are_spoken_over_tls_and_peers_are_told_so() {
    let (daemon, certificate, _folder) = start().await;
    let public = daemon.addresses().public;
    let mut stream = certificate.connect(public).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "not h2, which is not spoken");
    let answer = get(&mut stream, "/health", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"healthy\""), "{answer}");

    let stream = certificate.connect(public).await.unwrap();
    assert_eq!(first_message(stream).await["endpoint"], format!("wss://{public}"));
    let stream = certificate.connect(public).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://registry.example/", stream).await.unwrap();
    socket.next().await.unwrap().unwrap();
    // Longer than one record of TLS, both ways.
    let drop = "x".repeat(4096);
    let points: Vec<_> = (0..20).map(|number| format!("p{number}")).collect();
    let message = json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": points, "deadDrop": drop,
        "padding": "y".repeat(100_000)});
    socket.send(Message::text(message.to_string())).await.unwrap();
    let found = soon(socket.next()).await.unwrap().unwrap();
    assert!(found.to_text().unwrap().contains("rendezvous_result"), "{found}");
    socket.close(None).await.unwrap();
    while soon(socket.next()).await.is_some_and(|message| message.is_ok()) {}
    daemon.until("it is gone", |status| status.connections.open == 0).await;
}

#[tokio::test]
async fn who_speaks_no_tls_or_nothing_at_all_is_dropped_and_counted() {
    let (daemon, certificate, _folder) = start().await;
    let public = daemon.addresses().public;
    let mut plain = TcpStream::connect(public).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    daemon.until_metric(BAD_TLS, 1.0).await;

    let mut mute = TcpStream::connect(public).await.unwrap();
    let stranger = Certificate::new().connect(public).await;
    assert!(stranger.is_err(), "another certificate than it trusts");
    daemon.until_metric(BAD_TLS, 2.0).await;
    let ended = tokio::spawn(async move { mute.read_to_end(&mut Vec::new()).await });
    let clock = Clock::system();
    while !ended.is_finished() {
        daemon.advance(SECOND);
        clock.sleep(SECOND / 1000).await;
    }
    daemon.until_metric(BAD_TLS, 3.0).await;
    assert!(certificate.connect(public).await.is_ok());
}

#[tokio::test]
async fn handshakes_under_way_are_counted_with_the_connections_of_their_address() {
    let (daemon, certificate, _folder) = start().await;
    let public = daemon.addresses().public;
    let mut mute = Vec::new();
    for _ in 0..waypost::limits::HTTP_CONNECTIONS_PER_ADDRESS {
        mute.push(TcpStream::connect(public).await.unwrap());
    }
    // They are accepted in their order.
    assert!(certificate.connect(public).await.is_err());
    daemon.until_metric("waypost_connections_refused_total{reason=\"address\"}", 1.0).await;
    mute.clear();
    let clock = Clock::system();
    let again = async {
        while certificate.connect(public).await.is_err() {
            clock.sleep(SECOND / 100).await;
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn a_handshake_that_has_not_ended_does_not_hold_up_the_end() {
    let (mut daemon, certificate, _folder) = start().await;
    let _mute = TcpStream::connect(daemon.addresses().public).await.unwrap();
    // Whoever came before the one that was answered has been accepted.
    certificate.connect(daemon.addresses().public).await.unwrap();
    soon(daemon.stop([])).await;
}

#[test]
fn a_key_that_others_may_read_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = Certificate::new().write(folder.path());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let set = |name: &str, path: &Path| format!("server.{name}={}", path.display());
    let (certificate, key_is) = (set("tls_cert", &certificate), set("tls_key", &key));
    let arguments = ["--set", &certificate, "--set", &key_is];
    let daemon = Supervised::start(Process::command(&folder.path().join("data"), &arguments));
    let warned = daemon.logs("others may read this");
    assert_eq!((&warned["path"], &warned["mode"]), (&json!(key), &json!("640")));
    daemon.logs("listening");
    assert_eq!(daemon.stop().code(), Some(0));
}

/// Runs the binary where it cannot start.
fn refused(folder: &Path, certificate: &Path, key: &Path) -> (Option<i32>, String) {
    let set = |name: &str, path: &Path| format!("server.{name}={}", path.display());
    let (certificate, key) = (set("tls_cert", certificate), set("tls_key", key));
    let arguments = ["--set", &certificate, "--set", &key];
    let Output { status, stderr, .. } = Process::command(&folder.join("data"), &arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn files_that_cannot_be_used_are_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = Certificate::new().write(folder.path());
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let (_, other_key) = Certificate::new().write(&other);
    let (missing, empty) = (folder.path().join("missing.pem"), Path::new(""));
    let cut = folder.path().join("cut.pem");
    fs::write(&cut, &fs::read(&certificate).unwrap()[..100]).unwrap();
    let cases = [
        (missing.as_path(), key.as_path(), "missing.pem cannot be used as server.tls_cert: "),
        (&certificate, &missing, "missing.pem cannot be used as server.tls_key: "),
        (&key, &key, "key.pem cannot be used as server.tls_cert: no items found; give the certificate"),
        (&certificate, &certificate, "cert.pem cannot be used as server.tls_key: no items found; give the"),
        (&cut, &key, "cut.pem cannot be used as server.tls_cert: "),
        (&certificate, &other_key, "cannot be used together: "),
        (&certificate, empty, "flag --set: server.tls_cert: expected server.tls_key beside it"),
        (empty, &key, "flag --set: server.tls_key: expected server.tls_cert beside it"),
    ];
    for (certificate, key, told) in cases {
        let (code, said) = refused(folder.path(), certificate, key);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(told), "{told}: {said}");
    }
}
