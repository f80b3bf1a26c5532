//! Devices that pair, link and call each other. Owns how one registers its code. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use serde_json::{Value, json};
use waypost::client::RawSocket;

use crate::daemon::{TestDaemon, ask, error};

pub const ALICE: &str = "AAA222";
pub const BOB: &str = "BBB333";
pub const CAROL: &str = "CCC444";

/// The public key of the device with this code: 32 bytes.
pub fn key_of(code: &str) -> String {
    format!("{code}{}=", "A".repeat(37))
}

pub fn register(code: &str) -> Value {
    json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)})
}

/// A device that has registered its code.
pub async fn device(daemon: &TestDaemon, code: &str) -> RawSocket {
    device_with_token(daemon, code).await.0
}

/// The same, and its resume token.
pub async fn device_with_token(daemon: &TestDaemon, code: &str) -> (RawSocket, String) {
    let mut socket = daemon.raw().await;
    let answer = ask(&mut socket, register(code)).await;
    assert_eq!(answer["type"], "registered", "{answer}");
    (socket, answer["resumeToken"].as_str().unwrap().to_owned())
}

pub fn not_registered() -> Value {
    error("not_registered", "Not registered. Send register message first.")
}

pub fn missing(field: &str) -> Value {
    error("missing_field", &format!("Missing required field: {field}"))
}

pub fn not_found(code: &str) -> Value {
    error("peer_not_found", &format!("Peer not found: {code}"))
}
