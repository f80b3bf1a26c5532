//! Owns the proof that a PROXY header of version 2 is believed from trusted proxies, with and without TLS behind it, and that
//! nothing else is let in where one is asked for.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/logged.rs"]
mod logged;
#[path = "common/tls.rs"]
mod tls;

use std::net::SocketAddr;

use daemon::{SECOND, TestDaemon, soon};
use logged::Logged;
use proxy_header::{ProxiedAddress, ProxyHeader};
use tls::{Certificate, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypost::clock::Clock;
use waypost::config::Settings;

const BAD_HEADER: &str = "waypost_connections_refused_total{reason=\"bad_proxy_header\"}";

async fn start(adjust: impl FnOnce(&mut Settings)) -> TestDaemon {
    TestDaemon::start_with(|settings| {
        settings.server.proxy_protocol = true;
        settings.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        settings.connections.http_requests_per_minute = 1;
        adjust(settings);
    })
    .await
}

/// A header as a proxy writes it.
fn header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let own = if client.is_ipv4() { "192.0.2.1:443" } else { "[2001:db8::1]:443" };
    written(ProxyHeader::with_address(ProxiedAddress::stream(client, own.parse().unwrap())))
}

fn written(header: ProxyHeader<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode_v2(&mut bytes).unwrap();
    bytes
}

async fn connect(daemon: &TestDaemon, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.addresses().public).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

async fn health(daemon: &TestDaemon, first: &[u8], headers: &str) -> String {
    get(&mut connect(daemon, first).await, "/health", headers).await[9..12].to_owned()
}

#[tokio::test]
async fn the_address_in_the_header_is_the_clients() {
    let daemon = start(|_| {}).await;
    let forged = "X-Forwarded-For: 198.51.100.9\r\n";
    for client in ["203.0.113.7", "[2001:db8:7::1]"] {
        let (one, other) = (header(&format!("{client}:4000")), header(&format!("{client}:4001")));
        assert_eq!(health(&daemon, &one, "").await, "200", "{client}");
        assert_eq!(health(&daemon, &other, forged).await, "429", "a client's own header is not believed");
    }
    // Where the header names another trusted proxy, which speaks HTTP, that one is believed in turn.
    assert_eq!(health(&daemon, &header("127.0.0.1:1"), "X-Forwarded-For: 203.0.113.7\r\n").await, "429");
    assert_eq!(health(&daemon, &header("127.0.0.1:1"), forged).await, "200");
    let mut socket = connect(&daemon, &header("203.0.113.99:5")).await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    soon(socket.read_u8()).await.unwrap();
    daemon.until("it is open", |status| status.connections.open == 1).await;
    let connections = daemon.admin().connections().await.unwrap();
    assert_eq!(connections.connections[0].address, "203.0.113.99");
}

#[tokio::test]
async fn a_proxy_may_speak_for_itself() {
    let daemon = start(|_| {}).await;
    let local = written(ProxyHeader::with_local());
    assert_eq!([health(&daemon, &local, "").await, health(&daemon, &local, "").await], ["200", "429"]);
    // Extensions are read past, and a family that is not known to TCP is the proxy's own.
    let mut extended = local.clone();
    extended[12] = 0x21;
    extended[15] = 5;
    extended.extend([4, 0, 2, 9, 9]);
    assert_eq!(health(&daemon, &extended, "X-Forwarded-For: 203.0.113.7\r\n").await, "200");
}

#[tokio::test]
async fn whatever_is_no_header_is_closed_and_counted() {
    let daemon = start(|_| {}).await;
    let good = header("203.0.113.7:4000");
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 443\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        changed(0, b'x'),
        // Another version, command, family; UDP; no room for the address; more than anybody sends.
        changed(12, 0x31),
        changed(12, 0x22),
        changed(13, 0x51),
        changed(13, 0x12),
        changed(15, 11),
        changed(14, 0xff),
        header("0.0.0.0:1"),
        header("[::]:1"),
        header("[::ffff:0.0.0.0]:1"),
    ];
    for (number, case) in cases.iter().enumerate() {
        let mut stream = connect(&daemon, case).await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"", "{case:?}");
        daemon.until_metric(BAD_HEADER, (number + 1) as f64).await;
    }
    // One that does not end in time, and one that is cut short.
    let mut slow = connect(&daemon, &good[..20]).await;
    let ended = tokio::spawn(async move { slow.read_to_end(&mut Vec::new()).await });
    let clock = Clock::system();
    while !ended.is_finished() {
        daemon.advance(SECOND);
        clock.sleep(SECOND / 1000).await;
    }
    drop(connect(&daemon, &good[..20]).await);
    daemon.until_metric(BAD_HEADER, (cases.len() + 2) as f64).await;
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let mut daemon =
        start(|settings| settings.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]).await;
    let mut stream = connect(&daemon, &header("203.0.113.7:4000")).await;
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    daemon.until_metric(BAD_HEADER, 1.0).await;
    daemon.reload(|settings| settings.server.trusted_proxies.push("127.0.0.0/8".parse().unwrap())).unwrap();
    assert_eq!(health(&daemon, &header("203.0.113.7:4000"), "").await, "200");
}

#[tokio::test]
async fn connections_of_one_client_are_counted_behind_a_proxy_too() {
    let daemon = start(|_| {}).await;
    let mut mute = Vec::new();
    for port in 0..waypost::limits::HTTP_CONNECTIONS_PER_ADDRESS {
        mute.push(connect(&daemon, &header(&format!("203.0.113.7:{}", port + 1))).await);
    }
    // Which of them is one too many the order of their tasks says.
    mute.push(connect(&daemon, &header("203.0.113.7:4000")).await);
    daemon.until_metric("waypost_connections_refused_total{reason=\"address\"}", 1.0).await;
    assert_eq!(health(&daemon, &header("203.0.113.8:4000"), "").await, "200");
}

#[tokio::test]
async fn the_log_names_the_client_past_a_limit_and_not_its_proxy() {
    let daemon = Logged::start(
        "text",
        &[
            "--set",
            "server.proxy_protocol=true",
            "--set",
            "log.abuse_addresses=true",
            "--set",
            "server.trusted_proxies=127.0.0.1",
        ],
    )
    .await;
    let mut open = Vec::new();
    for port in 0..waypost::limits::HTTP_CONNECTIONS_PER_ADDRESS as u16 + 1 {
        let mut stream = TcpStream::connect(daemon.public).await.unwrap();
        stream.write_all(&header(&format!("203.0.113.7:{}", port + 1))).await.unwrap();
        open.push(stream);
    }
    let line = daemon.until("waypost::abuse").await;
    assert!(line.contains("event=connection_refused reason=address addr=203.0.113.7"), "{line}");
    let mut stream = TcpStream::connect(daemon.public).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    assert!(!daemon.stop().contains("addr=127"));
}

#[tokio::test]
async fn tls_begins_behind_the_header() {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let daemon = start(|settings| certificate.set(folder.path(), settings)).await;
    for (client, status) in [("203.0.113.7:1", "200"), ("203.0.113.7:2", "429"), ("203.0.113.8:1", "200")] {
        let stream = connect(&daemon, &header(client)).await;
        let answer = get(&mut certificate.on(stream).await.unwrap(), "/health", "").await;
        assert_eq!(&answer[9..12], status, "{client}");
    }
}
