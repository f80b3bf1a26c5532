//! Peers that push chunks until they are cut off. Owns what was acknowledged to each, and holding it against what is cached
//! afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use waypost::client::RawSocket;

use crate::daemon::{Process, SOON, ask, connect};

pub const PEERS: usize = 4;
/// Chunks that one peer alone pushes: few, so that they are replaced often.
const OWN: usize = 6;
/// Chunks that every peer would like to have.
const SHARED: usize = 4;
pub const CHANNEL: &str = "world";

pub fn request(kind: &str, chunk: &str) -> Value {
    json!({"type": kind, "channelId": CHANNEL, "chunkId": chunk})
}

fn announcement(peer: &str, chunks: &[String]) -> Value {
    let chunks: Vec<_> = chunks.iter().map(|chunk| json!({"chunkId": chunk})).collect();
    json!({"type": "chunk_announce", "peerId": peer, "channelId": CHANNEL, "chunks": chunks})
}

/// Data of one of several sizes, which begin with who pushed them and never come again.
fn invent(peer: &str, count: usize, rng: &mut StdRng) -> Value {
    let filler = "x".repeat([0, 100, 3000, 9000][rng.random_range(0..4)]);
    json!({"of": peer, "count": count, "filler": filler})
}

/// A socket that has announced chunks; none where the daemon is gone before.
pub async fn announced(address: SocketAddr, peer: &str, chunks: &[String]) -> Option<RawSocket> {
    let mut socket = RawSocket::connect(&format!("ws://{address}/ws")).await.ok()?;
    socket.next_message(SOON).await.ok()?;
    let ack = answer(&mut socket, &announcement(peer, chunks)).await?;
    assert_eq!(
        (&ack["type"], &ack["registered"]),
        (&json!("chunk_announce_ack"), &json!(chunks.len())),
        "{ack}"
    );
    Some(socket)
}

pub async fn answer(socket: &mut RawSocket, message: &Value) -> Option<Value> {
    socket.send_json(message).await.ok()?;
    socket.next_message(SOON).await.ok()
}

/// One peer over all rounds: its chunks as they were acknowledged, and what it had pushed when it was cut off.
pub struct Peer {
    id: String,
    held: BTreeMap<String, Value>,
    asked: Option<(String, Value)>,
    count: usize,
    rng: StdRng,
}

impl Peer {
    pub fn new(number: usize, seed: u64) -> Peer {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        Peer { id: format!("source-{number}"), held: BTreeMap::new(), asked: None, count: 0, rng }
    }

    fn chunks(&self) -> Vec<String> {
        let own = (0..OWN).map(|number| format!("{}-{number}", self.id));
        own.chain((0..SHARED).map(|number| format!("shared-{number}"))).collect()
    }

    /// Pushes one chunk after the other until the daemon is gone.
    pub async fn push_until_cut_off(mut self, address: SocketAddr, acknowledged: Arc<AtomicUsize>) -> Peer {
        let chunks = self.chunks();
        let Some(mut socket) = announced(address, &self.id, &chunks).await else { return self };
        loop {
            self.count += 1;
            let chunk = &chunks[self.rng.random_range(0..chunks.len())];
            let data = invent(&self.id, self.count, &mut self.rng);
            self.asked = Some((chunk.clone(), data.clone()));
            let mut push = request("chunk_push", chunk);
            push["data"] = data.clone();
            let Some(answer) = answer(&mut socket, &push).await else { return self };
            self.asked = None;
            if answer["code"] == "chunk_conflict" {
                assert!(chunk.starts_with("shared") && !self.held.contains_key(chunk), "{chunk}: {answer}");
                continue;
            }
            assert_eq!(answer["type"], "chunk_push_ack", "{chunk}: {answer}");
            self.held.insert(chunk.clone(), data);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Holds what is cached of one chunk against what was acknowledged; what was under way has come to pass or it has not.
fn compare_one(peers: &mut [Peer], chunk: &str, found: Option<&Value>) {
    let holders = peers.iter().filter(|peer| peer.held.contains_key(chunk)).count();
    assert!(holders <= 1, "{chunk} was given to several");
    // While it is cached nobody else can have replaced it.
    let may_have = |peer: &Peer| holders == 0 || peer.held.contains_key(chunk);
    let asked =
        |peer: &Peer| peer.asked.as_ref().filter(|(asked, _)| asked == chunk).map(|(_, data)| data.clone());
    let lasted: Vec<Value> = peers.iter().filter_map(|peer| peer.held.get(chunk).cloned()).collect();
    let under_way = peers.iter().filter(|peer| may_have(peer)).filter_map(asked);
    let Some(found) = found else {
        assert_eq!(lasted, [] as [Value; 0], "{chunk} is forgotten");
        return;
    };
    assert!(lasted.contains(found) || under_way.into_iter().any(|data| data == *found), "{chunk}: {found}");
    let owner = peers.iter_mut().find(|peer| found["of"] == *peer.id).unwrap();
    owner.held.insert(chunk.to_owned(), found.clone());
}

/// What a chunk's data are, where it is cached.
pub async fn cached(socket: &mut RawSocket, chunk: &str) -> Option<Value> {
    let answer = ask(socket, request("chunk_request", chunk)).await;
    if answer["type"] == "chunk_data" {
        assert_eq!((&answer["chunkId"], &answer["source"]), (&json!(chunk), &json!("cache")));
        return Some(answer["data"].clone());
    }
    assert_eq!(
        answer,
        json!({"type": "chunk_error", "chunkId": chunk, "error": "No source available for chunk"})
    );
    None
}

/// Holds what is cached, and whose it is, against what was acknowledged.
pub async fn compare(peers: &mut [Peer], daemon: &Process) {
    let mut chunks: Vec<_> = peers.iter().flat_map(Peer::chunks).collect();
    chunks.sort();
    chunks.dedup();
    let mut seeker = connect(daemon.public).await;
    let mut found = Vec::new();
    for chunk in &chunks {
        let data = cached(&mut seeker, chunk).await;
        compare_one(peers, chunk, data.as_ref());
        found.extend(data.map(|_| chunk.clone()));
    }
    peers.iter_mut().for_each(|peer| peer.asked = None);
    // The owners are there too: nobody else replaces their chunks.
    let mut stranger = announced(daemon.public, "stranger", &chunks).await.unwrap();
    for chunk in &found {
        let mut push = request("chunk_push", chunk);
        push["data"] = json!("other");
        assert_eq!(ask(&mut stranger, push).await["code"], "chunk_conflict", "{chunk}");
    }
}
