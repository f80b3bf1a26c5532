//! Owns the proof that settings and certificate are read again at SIGHUP: what may change does, in every single case, or
//! nothing does.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;
#[path = "common/supervised.rs"]
mod supervised;
#[path = "common/tls.rs"]
mod tls;

use std::fs;
use std::net::SocketAddr;

use daemon::{Process, RawTcp, TestDaemon, ask, connect, soon};
use http::{Http, XFF};
use reqwest::Method;
use serde_json::json;
use supervised::Supervised;
use tls::{Certificate, first_message, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypost::config::{RELOADED, Settings};

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let (first, second, folder) = (Certificate::new(), Certificate::new(), tempfile::tempdir().unwrap());
    let mut daemon = TestDaemon::start_with(|settings| first.set(folder.path(), settings)).await;
    let public = daemon.addresses().public;
    let mut open = first.connect(public).await.unwrap();
    assert_eq!(daemon.reload(|_| {}).unwrap().applied, [""; 0], "the same files are no change");

    second.write(folder.path());
    let changes = daemon.reload(|_| {}).unwrap();
    assert_eq!((changes.applied, changes.need_restart), (vec!["server.tls_cert".to_owned()], Vec::new()));
    assert!(first.connect(public).await.is_err());
    let stream = second.connect(public).await.unwrap();
    assert_eq!(first_message(stream).await["type"], "server_info");
    assert!(get(&mut open, "/health", "").await.contains("\"healthy\""));

    // Files of other names.
    let other = tempfile::tempdir().unwrap();
    let changes = daemon.reload(|settings| first.set(other.path(), settings)).unwrap();
    assert_eq!(changes.applied, ["server.tls_cert", "server.tls_key"]);
    assert!(first.connect(public).await.is_ok() && second.connect(public).await.is_err());
}

#[tokio::test]
async fn a_bad_certificate_leaves_everything_as_it_was() {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let mut daemon = TestDaemon::start_with(|settings| certificate.set(folder.path(), settings)).await;
    fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
    let failed = daemon.reload(|settings| settings.connections.max_connections = 1);
    assert!(failed.unwrap_err().to_string().contains("cert.pem cannot be used as server.tls_cert"));
    let public = daemon.addresses().public;
    let _one = certificate.connect(public).await.unwrap();
    assert_eq!(first_message(certificate.connect(public).await.unwrap()).await["type"], "server_info");
    assert_ne!(daemon.running().settings().connections.max_connections, 1);
}

#[tokio::test]
async fn whether_there_is_tls_needs_a_restart() {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let mut plain = TestDaemon::start().await;
    let changes = plain.reload(|settings| certificate.set(folder.path(), settings)).unwrap();
    assert_eq!(changes.need_restart, ["server.tls_cert", "server.tls_key"]);
    plain.raw().await;
    let mut encrypted = TestDaemon::start_with(|settings| certificate.set(folder.path(), settings)).await;
    let changes = encrypted.reload(|settings| settings.server = Settings::default().server).unwrap();
    assert!(changes.need_restart.contains(&"server.tls_key".to_owned()), "{changes:?}");
    assert!(certificate.connect(encrypted.addresses().public).await.is_ok());
}

async fn status(address: SocketAddr, path: &str, headers: &str) -> u16 {
    RawTcp::open(address, path, headers).await.status()
}

const PHONE: &str = "X-Pyrycode-Server: home\r\nUser-Agent: phone\r\n";

/// Each setting that a reload exchanges, and how it is seen that it has.
#[tokio::test]
async fn every_limit_that_may_change_takes_effect() {
    let mut daemon = TestDaemon::start_with(|settings| {
        settings.connections.link_upgrades_per_minute = 0;
        settings.connections.http_requests_per_minute = 0;
    })
    .await;
    let public = daemon.addresses().public;
    let apply = |daemon: &mut TestDaemon, names: &[&str], change: &dyn Fn(&mut Settings)| {
        let changes = daemon.reload(change).unwrap();
        assert_eq!((changes.applied.as_slice(), changes.need_restart.len()), (&names.map_owned()[..], 0));
    };
    let mut before = connect(public).await;

    apply(&mut daemon, &["limits.messages_per_minute", "limits.pair_requests_per_minute"], &|settings| {
        settings.connections.messages_per_minute = 2;
        settings.connections.pair_requests_per_minute = 1;
    });
    let mut limited = connect(public).await;
    for _ in 0..2 {
        assert_eq!(ask(&mut limited, json!({"type": "ping"})).await["type"], "pong");
    }
    assert_eq!(ask(&mut limited, json!({"type": "ping"})).await["code"], "rate_limited");
    for _ in 0..3 {
        assert_eq!(ask(&mut before, json!({"type": "ping"})).await["type"], "pong", "as it was opened with");
    }
    apply(&mut daemon, &["limits.messages_per_minute"], &|settings| {
        settings.connections.messages_per_minute = 0;
    });
    let mut pairing = connect(public).await;
    ask(
        &mut pairing,
        json!({"type": "register", "pairingCode": "AAA222", "publicKey": "A".repeat(43) + "="}),
    )
    .await;
    let request = json!({"type": "pair_request", "targetCode": "BBB333"});
    assert_eq!(ask(&mut pairing, request.clone()).await["type"], "pair_error");
    assert_eq!(ask(&mut pairing, request).await["code"], "too_many_pair_requests");
    drop((before, limited, pairing));
    daemon.until("all are gone", |status| status.connections.open == 0).await;

    apply(&mut daemon, &["limits.max_connections_per_address"], &|settings| {
        settings.connections.max_connections_per_address = 1;
    });
    let one = connect(public).await;
    assert_eq!(status(public, "/ws", "").await, 429);
    apply(&mut daemon, &["limits.max_connections", "limits.max_connections_per_address"], &|settings| {
        settings.connections.max_connections = 1;
        settings.connections.max_connections_per_address = 50;
    });
    assert_eq!(status(public, "/ws", "").await, 503);
    apply(&mut daemon, &["limits.max_connections"], &|settings| settings.connections.max_connections = 9);
    drop((connect(public).await, one));

    apply(&mut daemon, &["limits.upgrades_per_minute"], &|settings| {
        settings.connections.upgrades_per_minute = 1;
    });
    assert_eq!([status(public, "/ws", "").await, status(public, "/ws", "").await], [101, 429]);
    apply(&mut daemon, &["limits.link_upgrades_per_minute", "limits.link_upgrade_burst"], &|settings| {
        settings.connections.link_upgrades_per_minute = 1;
        settings.connections.link_upgrade_burst = 2;
    });
    let link = async || status(public, "/v1/client", PHONE).await;
    assert_eq!([link().await, link().await, link().await], [101, 101, 429]);

    let http = Http::at(public).await;
    let health = async |client: &str| http.send(Method::GET, "/health", &[(XFF, client)], None).await.status;
    apply(&mut daemon, &["limits.http_requests_per_minute"], &|settings| {
        settings.connections.http_requests_per_minute = 2;
    });
    assert_eq!(
        [health("192.0.2.1").await, health("192.0.2.2").await, health("192.0.2.3").await],
        [200, 200, 429]
    );
    apply(&mut daemon, &["server.trusted_proxies"], &|settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    });
    assert_eq!([health("192.0.2.1").await, health("192.0.2.2").await, health("192.0.2.3").await], [200; 3]);
}

/// The names as they are reported.
trait Owned {
    fn map_owned(&self) -> Vec<String>;
}

impl Owned for [&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|name| (*name).to_owned()).collect()
    }
}

#[tokio::test]
async fn a_rate_that_has_not_changed_does_not_begin_anew() {
    let mut daemon =
        TestDaemon::start_with(|settings| settings.connections.http_requests_per_minute = 2).await;
    let http = Http::at(daemon.addresses().public).await;
    assert_eq!(http.get("/health").await.status, 200);
    daemon.reload(|settings| settings.connections.max_connections = 7).unwrap();
    assert_eq!(http.get("/health").await.status, 429);
}

#[tokio::test]
async fn the_real_binary_reads_its_file_again_at_sighup_and_names_what_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("waypost.toml");
    let certificate = Certificate::new();
    let (cert, key) = certificate.write(folder.path());
    let write = |rest: &str| {
        let (cert, key) = (cert.display(), key.display());
        fs::write(&file, format!("server.tls_cert = \"{cert}\"\nserver.tls_key = \"{key}\"\n{rest}"))
            .unwrap();
    };
    write("log.level = \"warn,waypost::cli=info\"\n");
    let file_name = file.display().to_string();
    let daemon = Supervised::start(Process::command(&folder.path().join("data"), &["--config", &file_name]));
    let public: SocketAddr = daemon.logs("listening")["listen"].as_str().unwrap().parse().unwrap();
    let mut open = certificate.connect(public).await.unwrap();
    open.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();

    // A fault in any leaves all as it was.
    write("limits.max_connections = 1\nsweep.interval = \"soon\"\nnonsense = 1\n");
    daemon.signal("HUP");
    let failed = daemon.logs("nothing has been reloaded: ")["message"].to_string();
    for part in ["sweep.interval: expected a duration", "unknown section", "waypost.toml"] {
        assert!(failed.contains(part), "{failed}");
    }
    write("limits.max_connections = 1\n");
    fs::write(&key, "nonsense").unwrap();
    daemon.signal("HUP");
    let failed = daemon.logs("nothing has been reloaded: ")["message"].to_string();
    assert!(failed.contains("key.pem cannot be used as server.tls_key"), "{failed}");
    let streams = [certificate.connect(public).await.unwrap(), certificate.connect(public).await.unwrap()];
    for stream in streams {
        assert_eq!(first_message(stream).await["type"], "server_info");
    }

    // Then all of it at once, with what needs a restart beside it.
    let renewed = Certificate::new();
    renewed.write(folder.path());
    write(
        "limits.max_connections = 1\nlog.level = \"debug\"\nsweep.interval = \"5m\"\nlog.format = \"text\"\n",
    );
    daemon.signal("HUP");
    let done = daemon.logs("reloaded");
    assert_eq!(done["changed"], "server.tls_cert, log.level, limits.max_connections");
    let left = daemon.logs("these settings have changed and need a restart");
    // --log-format beats the file.
    assert_eq!(left["changed"], "sweep.interval");
    assert!(certificate.connect(public).await.is_err());
    daemon.logs("no handshake of TLS");
    let socket = renewed.connect(public).await.unwrap();
    let (_socket, _) = tokio_tungstenite::client_async("ws://localhost/", socket).await.unwrap();
    let mut refused = renewed.connect(public).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    refused.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon(refused.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");

    // What was connected before has seen nothing of all this.
    open.write_all(b"Connection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(open.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn the_settings_that_may_change_are_those_of_the_table() {
    let page = include_str!("../docs/operations.md");
    let marked = page.lines().filter(|line| line.starts_with("| `") && line.ends_with(" ↻ |"));
    let marked: Vec<_> = marked.map(|line| line.split('`').nth(1).unwrap()).collect();
    assert_eq!(marked, RELOADED);
}
