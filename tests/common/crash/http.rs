//! Nodes that register with bootstrap and the directory and allocate TURN sessions until they are cut off. Owns what was
//! acknowledged to each, and holding it against what is there afterwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

pub const NODES: usize = 4;

/// One node over all rounds: what was acknowledged to it last, and what it had asked for when it was cut off.
#[derive(Clone, Default)]
pub struct Node {
    number: usize,
    count: u64,
    peer: Option<u64>,
    asked_peer: Option<u64>,
    server: Option<u64>,
    asked_server: Option<u64>,
    sessions: Vec<String>,
}

async fn post(http: &reqwest::Client, address: SocketAddr, path: &str, body: Value) -> Option<Value> {
    let answer = http.post(format!("http://{address}{path}")).json(&body).send().await.ok()?;
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer.json().await.ok()
}

/// Texts of its own for each registration, many enough for rows of several parts.
fn stores(number: usize, count: u64) -> Vec<String> {
    (0..count % 150).map(|store| format!("store {store} of {number} in {count}")).collect()
}

impl Node {
    pub fn new(number: usize) -> Node {
        Node { number, ..Node::default() }
    }

    fn id(&self) -> String {
        format!("node-{}", self.number)
    }

    pub async fn ask_until_cut_off(mut self, address: SocketAddr, acknowledged: Arc<AtomicUsize>) -> Node {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        loop {
            self.count += 1;
            let (id, count) = (self.id(), self.count);
            self.asked_peer = Some(count);
            let body = json!({"peerId": id, "addresses": ["a"], "version": count.to_string(), "turnCapable": true,
                "turnAddresses": ["t"], "turnCapacity": 1_000_000, "stores": stores(self.number, count)});
            if post(&http, address, "/register", body).await.is_none() {
                return self;
            }
            (self.peer, self.asked_peer) = (Some(count), None);
            self.asked_server = Some(count);
            let body = json!({"serverId": id, "endpoint": "ws://127.0.0.1:1", "publicKey": "k", "connections": count});
            if post(&http, address, "/servers", body).await.is_none() {
                return self;
            }
            (self.server, self.asked_server) = (Some(count), None);
            let Some(answer) = post(&http, address, "/allocate-turn", json!({"peerId": id})).await else {
                return self;
            };
            self.sessions.push(answer["sessionId"].as_str().unwrap().to_owned());
            acknowledged.fetch_add(3, Ordering::Relaxed);
        }
    }

    /// Holds what is there against what was acknowledged; what was under way has come to pass or it has not.
    async fn compare_one(
        &mut self,
        http: &reqwest::Client,
        address: SocketAddr,
        peers: &Value,
        servers: &Value,
    ) {
        let id = self.id();
        let of = |list: &Value, name: &str| {
            let mut found = list.as_array().unwrap().iter().filter(|entry| entry[name] == id.as_str());
            found.next().cloned()
        };
        let peer = of(peers, "peerId");
        let version = peer.as_ref().map(|peer| peer["version"].as_str().unwrap().parse::<u64>().unwrap());
        assert!(
            version == self.peer || (version.is_some() && version == self.asked_peer),
            "{id}: {version:?}, not {:?}",
            self.peer
        );
        if let (Some(peer), Some(version)) = (peer, version) {
            assert_eq!(peer["stores"], json!(stores(self.number, version)), "it is whole");
        }
        let server = of(servers, "serverId").map(|server| server["connections"].as_u64().unwrap());
        assert!(
            server == self.server || (server.is_some() && server == self.asked_server),
            "{id}: {server:?}, not {:?}",
            self.server
        );
        (self.peer, self.server) = (version, server);
        (self.asked_peer, self.asked_server) = (None, None);
        for session in self.sessions.drain(..) {
            let released = post(http, address, "/release-turn", json!({"sessionId": session})).await;
            assert_eq!(released, Some(json!({"success": true})));
        }
    }
}

async fn get(http: &reqwest::Client, address: SocketAddr, path: &str) -> Value {
    http.get(format!("http://{address}{path}")).send().await.unwrap().json().await.unwrap()
}

/// Holds what each of them has there against what was acknowledged to it.
pub async fn compare(nodes: &mut [Node], address: SocketAddr) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let peers = get(&http, address, "/peers?includeStores=true").await;
    let servers = get(&http, address, "/servers").await;
    for node in nodes {
        node.compare_one(&http, address, &peers["peers"], &servers["servers"]).await;
    }
}
