//! Owns the proof of the HTTP dialects' promises (docs/storage.md): the real binary is killed with kill -9 at random moments
//! under load, and whatever registration, session or listed server it had acknowledged is there, whole, after the next
//! start; whatever it had not is there wholly or not at all.
//!
//! `CRASH_ROUNDS` is the number of rounds.

#[path = "common/daemon.rs"]
mod daemon;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use daemon::Process;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use waypost::clock::Clock;
use waypost::store::{Faults, Store};

const NODES: usize = 4;
const UNLIMITED: [&str; 2] = ["--set", "limits.http_requests_per_minute=0"];

/// One node over all rounds: what was acknowledged to it last, and what it had asked for when it was cut off.
#[derive(Clone, Default)]
struct Node {
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
    fn id(&self) -> String {
        format!("node-{}", self.number)
    }

    async fn ask_until_cut_off(mut self, address: SocketAddr, acknowledged: Arc<AtomicUsize>) -> Node {
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
    async fn compare(&mut self, http: &reqwest::Client, address: SocketAddr, peers: &Value, servers: &Value) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_over_http_before_a_kill_is_there_whole_after_it() {
    let clock = Clock::system();
    let rounds = std::env::var("CRASH_ROUNDS").ok().map_or(15, |text| text.parse::<u64>().unwrap());
    let seed = clock.now();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut nodes: Vec<_> = (0..NODES).map(|number| Node { number, ..Node::default() }).collect();
    let mut total = 0;
    for round in 0..rounds {
        println!("round {round}");
        let daemon = Process::start(data.path(), &UNLIMITED);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (address, enough) = (daemon.public, rng.random_range(0..150));
        let running: Vec<_> = nodes
            .drain(..)
            .map(|node| tokio::spawn(node.ask_until_cut_off(address, acknowledged.clone())))
            .collect();
        while acknowledged.load(Ordering::Relaxed) < enough && !running.iter().any(|node| node.is_finished())
        {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
        daemon.kill();
        for node in running {
            nodes.push(node.await.unwrap());
        }
        total += acknowledged.load(Ordering::Relaxed);

        let store = Store::open(&Process::store(data.path()), Faults::default()).unwrap();
        assert_eq!(store.check().unwrap().problems, []);
        drop(store);
        let daemon = Process::start(data.path(), &UNLIMITED);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let peers = get(&http, daemon.public, "/peers?includeStores=true").await;
        let servers = get(&http, daemon.public, "/servers").await;
        for node in &mut nodes {
            node.compare(&http, daemon.public, &peers["peers"], &servers["servers"]).await;
        }
        daemon.kill();
    }
    println!("{total} acknowledged");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}
