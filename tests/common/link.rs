//! Link as tests speak it: binaries and phones that say exactly what they are told to.
//!
//! Owns the upgrades with their headers and the shapes of envelopes. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use waypost::client::RawSocket;
use waypost::client::link::upgrade;
use waypost::config::Settings;
use waypost::wire::admin::Claim;

use super::daemon::{RawTcp, SOON, TestDaemon};

pub const HOME: &str = "home";

/// With the default settings, but without limits that fill with time.
pub async fn start() -> TestDaemon {
    start_with(|_| {}).await
}

pub async fn start_with(adjust: impl FnOnce(&mut Settings)) -> TestDaemon {
    TestDaemon::start_with(|settings| {
        settings.connections.link_upgrades_per_minute = 0;
        adjust(settings);
    })
    .await
}

pub async fn binary_at(address: SocketAddr, id: &str) -> RawSocket {
    let headers = HashMap::from([
        ("x-pyrycode-server", id.to_owned()),
        ("x-pyrycode-version", "1.0".to_owned()),
        ("user-agent", "test".to_owned()),
    ]);
    let request = upgrade(&format!("ws://{address}"), "/v1/server", &headers).unwrap();
    RawSocket::open(request, None).await.unwrap()
}

pub async fn phone_at(address: SocketAddr, id: &str) -> RawSocket {
    let headers = HashMap::from([
        ("x-pyrycode-server", id.to_owned()),
        ("x-pyrycode-token", "never read".to_owned()),
        ("user-agent", "test".to_owned()),
    ]);
    let request = upgrade(&format!("ws://{address}"), "/v1/client", &headers).unwrap();
    RawSocket::open(request, None).await.unwrap()
}

/// A binary that holds the id.
pub async fn binary(daemon: &TestDaemon, id: &str) -> RawSocket {
    let before = daemon.status().await.connections.binaries;
    let socket = binary_at(daemon.addresses().public, id).await;
    daemon.until("the binary holds it", |status| status.connections.binaries > before).await;
    socket
}

/// A phone that is attached.
pub async fn phone(daemon: &TestDaemon, id: &str) -> RawSocket {
    let before = daemon.status().await.connections.phones;
    let socket = phone_at(daemon.addresses().public, id).await;
    daemon.until("the phone is attached", |status| status.connections.phones > before).await;
    socket
}

/// A binary, or a phone, that answers nothing by itself.
pub async fn mute(daemon: &TestDaemon, path: &str, id: &str) -> RawTcp {
    let before = daemon.status().await.connections;
    let headers = format!("X-Pyrycode-Server: {id}\r\nX-Pyrycode-Version: 1\r\nUser-Agent: test\r\n");
    let socket = RawTcp::open(daemon.addresses().public, path, &headers).await;
    assert_eq!(socket.status(), 101);
    let connected = |status: &waypost::wire::admin::Status| {
        status.connections.binaries + status.connections.phones > before.binaries + before.phones
    };
    daemon.until("it is connected", connected).await;
    socket
}

pub async fn hear_text(socket: &mut RawSocket) -> String {
    socket.next_text(SOON).await.unwrap()
}

/// The conn_id and the frame of the next envelope, to the letter.
pub async fn hear_frame(binary: &mut RawSocket) -> (String, String) {
    let text = hear_text(binary).await;
    let inner = text.strip_prefix(r#"{"conn_id":""#).and_then(|text| text.strip_suffix('}'));
    let (conn_id, frame) = inner
        .and_then(|inner| inner.split_once(r#"","frame":"#))
        .unwrap_or_else(|| panic!("no frame in its envelope: {text}"));
    (conn_id.to_owned(), frame.to_owned())
}

/// Has a phone say who it is; its conn_id.
pub async fn met(binary: &mut RawSocket, phone: &mut RawSocket) -> String {
    phone.send_text("\"hello\"").await.unwrap();
    let (conn_id, frame) = hear_frame(binary).await;
    assert_eq!(frame, "\"hello\"");
    conn_id
}

pub async fn send(binary: &mut RawSocket, conn_id: &str, frame: Value) {
    binary.send_json(&json!({"conn_id": conn_id, "frame": frame})).await.unwrap();
}

pub fn left(conn_id: &str, code: u16) -> String {
    format!(r#"{{"conn_id":"{conn_id}","close_code":{code}}}"#)
}

/// How the server closes it.
pub async fn closed(socket: &mut RawSocket) -> (u16, String) {
    socket.closed(SOON).await.unwrap()
}

pub fn close(code: u16, reason: &str) -> (u16, String) {
    (code, reason.to_owned())
}

pub async fn claims(daemon: &TestDaemon) -> Vec<Claim> {
    daemon.admin().claims(None, None, None).await.unwrap().claims
}

/// The state of the only claim; "free" where there is none.
pub async fn state(daemon: &TestDaemon) -> String {
    match &claims(daemon).await[..] {
        [] => "free".to_owned(),
        [claim] => claim.state.clone(),
        more => panic!("{more:?}"),
    }
}

/// Waits until the only claim is in this state.
pub async fn until_state(daemon: &TestDaemon, wanted: &str) {
    let looking = async { while state(daemon).await != wanted {} };
    tokio::time::timeout(SOON, looking).await.unwrap_or_else(|_| panic!("it does not come to {wanted}"));
}

/// A JSON string of so many bytes.
pub fn string(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

pub async fn close_with(socket: &mut RawSocket, code: u16) {
    let frame = CloseFrame { code: code.into(), reason: "".into() };
    socket.send(Message::Close(Some(frame))).await.unwrap();
}
