//! The chunk relay as a source and a reader meet it. Owns what they say and hear. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::time::Duration;

use serde_json::{Value, json};
use waypost::client::RawSocket;

use crate::daemon::{HOUR, TestDaemon, ask, error, hear, say};

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const LIMIT: usize = 65_536;

pub fn announce<I: AsRef<str>>(peer: &str, chunks: &[I]) -> Value {
    let chunks: Vec<_> = chunks.iter().map(|chunk| json!({"chunkId": chunk.as_ref()})).collect();
    json!({"type": "chunk_announce", "peerId": peer, "channelId": "c", "chunks": chunks})
}

pub fn request(chunk: &str) -> Value {
    json!({"type": "chunk_request", "chunkId": chunk, "channelId": "c"})
}

pub fn push(chunk: &str, data: impl Into<Value>) -> Value {
    json!({"type": "chunk_push", "chunkId": chunk, "channelId": "c", "data": data.into()})
}

pub fn announced(registered: usize) -> Value {
    json!({"type": "chunk_announce_ack", "registered": registered})
}

pub fn pull(chunk: &str) -> Value {
    json!({"type": "chunk_pull", "chunkId": chunk, "channelId": "c"})
}

pub fn pulling(chunk: &str) -> Value {
    json!({"type": "chunk_pulling", "chunkId": chunk})
}

pub fn pushed(chunk: &str, served: usize) -> Value {
    json!({"type": "chunk_push_ack", "chunkId": chunk, "cached": true, "servedCount": served})
}

pub fn relayed(chunk: &str, data: impl Into<Value>) -> Value {
    json!({"type": "chunk_data", "chunkId": chunk, "channelId": "c", "data": data.into(), "source": "relay"})
}

pub fn cached(chunk: &str, data: impl Into<Value>) -> Value {
    json!({"type": "chunk_data", "chunkId": chunk, "channelId": "c", "data": data.into(), "source": "cache"})
}

pub fn no_source(chunk: &str) -> Value {
    json!({"type": "chunk_error", "chunkId": chunk, "error": "No source available for chunk"})
}

pub fn conflict() -> Value {
    error("chunk_conflict", "Chunk already cached with other content")
}

pub fn not_announced() -> Value {
    error("chunk_not_announced", "Chunk was not announced")
}

/// A socket that has taken this id with its announcement, and its resume token.
pub async fn source_with_token(daemon: &TestDaemon, peer: &str, chunks: &[&str]) -> (RawSocket, String) {
    let mut socket = daemon.raw().await;
    let mut answer = ask(&mut socket, announce(peer, chunks)).await;
    let token = answer.as_object_mut().unwrap().remove("resumeToken").unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(answer, announced(chunks.len()));
    (socket, token.as_str().unwrap().to_owned())
}

pub async fn source(daemon: &TestDaemon, peer: &str, chunks: &[&str]) -> RawSocket {
    source_with_token(daemon, peer, chunks).await.0
}

/// A daemon that does not mind silence, so that time can be moved at one go.
pub async fn patient(adjust: impl FnOnce(&mut waypost::config::Settings)) -> TestDaemon {
    TestDaemon::start_with(|settings| {
        settings.liveness.timeout = 9 * HOUR;
        adjust(settings);
    })
    .await
}

/// What was said to a socket until now.
pub async fn heard(socket: &mut RawSocket) -> Vec<Value> {
    say(socket, json!({"type": "ping"})).await;
    let mut heard = Vec::new();
    loop {
        match hear(socket).await {
            pong if pong == json!({"type": "pong"}) => return heard,
            message => heard.push(message),
        }
    }
}

/// Which of two sources is asked for a chunk, that one first; the protocol does not say which.
pub async fn asked_first(chunk: &str, mut one: RawSocket, mut other: RawSocket) -> (RawSocket, RawSocket) {
    let (of_one, of_other) = (heard(&mut one).await, heard(&mut other).await);
    assert_eq!([&of_one[..], &of_other[..]].concat(), [pull(chunk)], "exactly one of them is asked");
    if of_one.is_empty() { (other, one) } else { (one, other) }
}
