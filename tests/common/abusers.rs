//! Clients that go past a limit each, as the log is to have it. Owns what they do, and from which address. Must not know
//! what becomes of the lines.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::daemon::{RawTcp, soon};
use crate::logged::Logged;

/// What each address does, as the log has it, the address's last byte first.
const EVENTS: [(u8, &str, &str); 8] = [
    (11, "upgrade_refused", "rate"),
    (12, "upgrade_refused", "address"),
    (14, "upgrade_refused", "bad_upgrade"),
    (15, "socket_closed", "bad_frame"),
    (16, "socket_closed", "too_large"),
    (17, "socket_closed", "not_text"),
    (18, "socket_closed", "abuse"),
    (19, "request_refused", "rate_limited"),
];
/// Of these and the two below; the first address has gone past two limits.
pub const LINES: usize = EVENTS.len() + 3;
const GUESSER: u8 = 20;
const CROWD: u8 = 21;

/// Limits that are soon reached, whatever an address is up to.
pub const LIMITS: [&str; 8] = [
    "--set",
    "limits.upgrades_per_minute=3",
    "--set",
    "limits.max_connections_per_address=2",
    "--set",
    "limits.http_requests_per_minute=3",
    "--set",
    "limits.messages_per_minute=1",
];

/// A connection from another address of the loopback.
pub async fn from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

pub async fn socket_from(last: u8, to: SocketAddr) -> RawTcp {
    RawTcp::on(from(last, to).await, to, "/ws", "").await
}

/// The head of the answer to a request made by hand.
pub async fn request_from(last: u8, to: SocketAddr, head: &str) -> String {
    let mut stream = from(last, to).await;
    stream.write_all(format!("{head}\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut heard = String::new();
    soon(stream.read_to_string(&mut heard)).await.unwrap();
    heard
}

/// Every client goes past one limit, each from an address of its own.
pub async fn abuse(daemon: &Logged) {
    let (public, admin) = (daemon.public, daemon.admin);
    // The first one past the sockets that an address may have, the second one past its upgrades.
    for (last, wanted) in [(11, &[101, 101, 429, 429][..]), (12, &[101, 101, 429])] {
        let mut kept = Vec::new();
        for wanted in wanted {
            kept.push(socket_from(last, public).await);
            assert_eq!(kept.last().unwrap().status(), *wanted);
        }
    }
    let upgrade =
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let heard = RawTcp::on(from(13, public).await, public, "/v1/server", "").await;
    assert_eq!(heard.status(), 400);
    let old = upgrade.replace("13", "7");
    let heard = request_from(14, public, &format!("GET /ws HTTP/1.1\r\nConnection: Upgrade\r\n{old}")).await;
    assert!(heard.starts_with("HTTP/1.1 400"), "{heard}");

    let mut broken = socket_from(15, public).await;
    broken.send(3, b"a frame that is none").await;
    assert_eq!(broken.closed().await.0, 1002);
    let mut large = socket_from(16, public).await;
    large.stream.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(large.closed().await.0, 1009);
    let mut binary = socket_from(17, public).await;
    binary.send(1, &[0xff, 0xfe]).await;
    assert_eq!(binary.closed().await.0, 1007);
    let mut chatty = socket_from(18, public).await;
    for _ in 0..302 {
        chatty.send_json(json!({"type": "ping"})).await;
    }
    assert_eq!(chatty.closed().await.0, 1008);

    for wanted in ["200", "200", "200", "429"] {
        let heard = request_from(19, public, "GET /health HTTP/1.1").await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {wanted}")), "{heard}");
    }
    let guess = "GET /admin/api/status HTTP/1.1\r\nAuthorization: Bearer guessed";
    assert!(request_from(GUESSER, admin, guess).await.starts_with("HTTP/1.1 401"));
    assert!(request_from(GUESSER, admin, "GET /admin/api/status HTTP/1.1").await.starts_with("HTTP/1.1 401"));
    let mut crowd = Vec::new();
    for _ in 0..64 {
        crowd.push(from(CROWD, public).await);
    }
    // Dropped without an answer; those before it may not have been accepted yet.
    let mut last = from(CROWD, public).await;
    assert!(!matches!(soon(last.read(&mut [0])).await, Ok(1..)));
    daemon.until_lines("seen", LINES).await;
}

/// All the events with the addresses that caused them.
pub fn events() -> Vec<(String, &'static str, &'static str)> {
    let rest = [(GUESSER, "token_refused", "unauthorized"), (CROWD, "connection_refused", "address")];
    let all = EVENTS.into_iter().chain(rest);
    all.map(|(last, event, reason)| (format!("127.0.0.{last}"), event, reason)).collect()
}
