//! The HTTP registries' half of the random-operation model: peers, TURN sessions, servers.
//!
//! Owns a naive model of them and the comparison with what the engine answers. Must not know the other half.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use serde_json::json;
use waypost::engine::{Claimant, Engine, Filter, PeerPage, Proof};
use waypost::id::{NodeId, ServerId, SessionId};
use waypost::wire::bootstrap::{Register, Registered};
use waypost::wire::directory::{RegisterServer, ServerHeartbeat};
use waypost::wire::http::Problem;
use waypost::wire::turn::RegisterTurn;

const NODES: [&str; 4] = ["12D3Koo/ann", "b!b", "cat", "~dan"];
const SERVERS: [&str; 3] = ["ed25519:a/b=", "key", "s.c"];
const PEER_TTL: u64 = 10 * 60_000;
const SESSION_TTL: u64 = 30 * 60_000;
const SERVER_TTL: u64 = 5 * 60_000;

#[derive(Clone, Debug)]
pub enum HttpStep {
    RegisterPeer {
        node: usize,
        /// Large enough for rows of several parts, or small.
        stores: usize,
        capacity: Option<u32>,
    },
    Heartbeat {
        node: usize,
    },
    RegisterTurn {
        node: usize,
        capacity: u32,
    },
    UnregisterTurn {
        node: usize,
    },
    LeavePeer {
        node: usize,
    },
    Allocate,
    Release {
        which: usize,
    },
    RegisterServer {
        server: usize,
    },
    ServerHeartbeat {
        server: usize,
        connections: u64,
    },
    LeaveServer {
        server: usize,
    },
    ListServers,
}

pub fn http_step() -> impl Strategy<Value = HttpStep> {
    let node = || 0..NODES.len();
    let server = || 0..SERVERS.len();
    let capacity = || prop::option::weighted(0.4, 0..3_u32);
    let stores = || prop_oneof![4 => 0..3_usize, 1 => Just(200)];
    prop_oneof![
        5 => (node(), stores(), capacity())
            .prop_map(|(node, stores, capacity)| HttpStep::RegisterPeer { node, stores, capacity }),
        4 => node().prop_map(|node| HttpStep::Heartbeat { node }),
        2 => (node(), 0..3_u32).prop_map(|(node, capacity)| HttpStep::RegisterTurn { node, capacity }),
        1 => node().prop_map(|node| HttpStep::UnregisterTurn { node }),
        1 => node().prop_map(|node| HttpStep::LeavePeer { node }),
        4 => Just(HttpStep::Allocate),
        2 => (0..4_usize).prop_map(|which| HttpStep::Release { which }),
        3 => server().prop_map(|server| HttpStep::RegisterServer { server }),
        3 => (server(), 0..9_u64)
            .prop_map(|(server, connections)| HttpStep::ServerHeartbeat { server, connections }),
        1 => server().prop_map(|server| HttpStep::LeaveServer { server }),
        2 => Just(HttpStep::ListServers),
    ]
}

#[derive(Clone, Debug)]
struct Peer {
    end: u64,
    last_seen: u64,
    stores: usize,
    capacity: Option<u32>,
    token: String,
}

#[derive(Clone, Debug)]
struct Server {
    end: u64,
    registered_at: u64,
    connections: u64,
}

#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    node: usize,
    end: u64,
}

#[derive(Clone, Default)]
pub struct HttpModel {
    peers: BTreeMap<usize, Peer>,
    sessions: Vec<Session>,
    servers: BTreeMap<usize, Server>,
}

fn node(number: usize) -> NodeId {
    NodeId::parse(NODES[number]).unwrap()
}

fn claimant() -> Claimant {
    Claimant { address: IpAddr::V4(Ipv4Addr::LOCALHOST), token: None }
}

fn stores(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("store {number} {}", "x".repeat(count / 2))).collect()
}

/// The request of [`HttpStep::RegisterPeer`].
pub async fn register_peer(
    engine: &Engine,
    number: usize,
    count: usize,
    capacity: Option<u32>,
) -> Result<Registered, Problem> {
    let mut body = json!({"peerId": NODES[number], "addresses": ["/ip4/192.0.2.1"], "stores": stores(count),
        "turnCapable": false, "turnAddresses": []});
    if let Some(capacity) = capacity {
        body["turnCapable"] = true.into();
        body["turnAddresses"] = json!(["turn:192.0.2.1"]);
        body["turnCapacity"] = capacity.into();
    }
    engine.register_peer(Register::decode(body.to_string().as_bytes()).unwrap(), claimant()).await
}

impl HttpModel {
    /// Removes the expired; tells how many.
    fn clean(&mut self, except: Option<usize>, now: u64) -> usize {
        let before = self.peers.len();
        self.peers.retain(|number, peer| peer.end > now || Some(*number) == except);
        before - self.peers.len()
    }

    /// What a sweep of everything leaves.
    pub fn sweep(&mut self, now: u64) {
        self.clean(None, now);
        self.servers.retain(|_, server| server.end > now);
    }

    fn load(&self, number: usize, now: u64) -> u32 {
        let live = self.sessions.iter().filter(|session| session.node == number && session.end > now);
        live.count() as u32
    }

    /// Servers below their capacity, the least loaded first.
    fn available(&self, now: u64) -> Vec<(u32, usize)> {
        let live = self.peers.iter().filter(|(_, peer)| peer.end > now);
        let mut available: Vec<(u32, &str, usize)> = live
            .filter_map(|(number, peer)| Some((*number, peer.capacity?)))
            .map(|(number, capacity)| (self.load(number, now), capacity, number))
            .filter(|(load, capacity, _)| load < capacity)
            .map(|(load, _, number)| (load, NODES[number], number))
            .collect();
        available.sort();
        available.into_iter().map(|(load, _, number)| (load, number)).collect()
    }

    /// A registration was answered.
    pub fn registered(
        &mut self,
        number: usize,
        count: usize,
        capacity: Option<u32>,
        answer: &Registered,
        now: u64,
    ) {
        assert_eq!(answer.cleaned_expired_peers, self.clean(Some(number), now));
        let token = answer.registration_token.clone();
        let live = self.peers.get(&number).filter(|peer| peer.end > now);
        assert_eq!(token.is_some(), live.is_none(), "a token is given where the peerId was free or expired");
        let capacity = capacity.or(live.and_then(|live| live.capacity));
        let token = token.or(live.map(|live| live.token.clone())).unwrap();
        self.peers
            .insert(number, Peer { end: now + PEER_TTL, last_seen: now, stores: count, capacity, token });
    }

    pub async fn run(&mut self, engine: &Engine, step: &HttpStep, now: u64) {
        match step {
            HttpStep::RegisterPeer { node, stores, capacity } => {
                let answer = register_peer(engine, *node, *stores, *capacity).await.unwrap();
                self.registered(*node, *stores, *capacity, &answer, now);
            }
            HttpStep::Heartbeat { node: number } => {
                let answer = engine.hear_peer(node(*number)).await;
                let cleaned = self.clean(Some(*number), now);
                match self.peers.get_mut(number) {
                    Some(peer) => {
                        (peer.last_seen, peer.end) = (now, now + PEER_TTL);
                        let answer = answer.unwrap();
                        assert_eq!((answer.cleaned_expired_peers, answer.last_seen), (cleaned, now));
                    }
                    None => assert_eq!(answer.unwrap_err().status, 404),
                }
            }
            HttpStep::RegisterTurn { node: number, capacity } => {
                let body = json!({"peerId": NODES[*number], "turnAddresses": ["turn:x"], "turnPort": 1,
                    "turnCapacity": capacity});
                let request = RegisterTurn::decode(body.to_string().as_bytes()).unwrap();
                let answer = engine.register_turn(request, claimant()).await;
                let cleaned = self.clean(None, now);
                match self.peers.get_mut(number) {
                    Some(peer) => {
                        (peer.last_seen, peer.end, peer.capacity) = (now, now + PEER_TTL, Some(*capacity));
                        let answer = answer.unwrap();
                        let turn_servers = self.peers.values().filter(|peer| peer.capacity.is_some()).count();
                        assert_eq!(
                            (answer.cleaned_expired_peers, answer.turn_servers),
                            (cleaned, turn_servers)
                        );
                    }
                    None => assert_eq!(answer.unwrap_err().status, 404),
                }
            }
            HttpStep::UnregisterTurn { node: number } => {
                let answer = engine.unregister_turn(node(*number), claimant()).await;
                match self.peers.get_mut(number).filter(|peer| peer.end > now) {
                    Some(peer) => {
                        answer.unwrap();
                        (peer.last_seen, peer.end, peer.capacity) = (now, now + PEER_TTL, None);
                    }
                    None => assert_eq!(answer.unwrap_err().status, 404),
                }
            }
            HttpStep::LeavePeer { node: number } => {
                let peer = self.peers.get(number);
                let token = peer.map(|peer| peer.token.clone());
                let live = peer.is_some_and(|peer| peer.end > now);
                let wrong = engine.leave_peer(node(*number), Some("wrong".into())).await;
                assert_eq!(wrong.unwrap_err().status, if live { 401 } else { 404 });
                let answer = engine.leave_peer(node(*number), token).await;
                assert_eq!(answer.is_ok(), live);
                if live {
                    self.peers.remove(number);
                }
            }
            HttpStep::Allocate => {
                let answer = engine.allocate_turn(node(0)).await;
                match self.available(now).first() {
                    Some((_, number)) => {
                        let answer = answer.unwrap();
                        assert_eq!(answer.turn_server.peer_id, NODES[*number]);
                        assert_eq!(answer.expires_at, now + SESSION_TTL);
                        let id = SessionId::parse(&answer.session_id).unwrap();
                        self.sessions.push(Session { id, node: *number, end: now + SESSION_TTL });
                    }
                    None => assert_eq!(answer.unwrap_err().status, 429),
                }
            }
            HttpStep::Release { which } => {
                if *which < self.sessions.len() {
                    let session = self.sessions.remove(*which);
                    let answer = engine.release_turn(session.id).await;
                    assert_eq!(answer.is_ok(), session.end > now);
                }
            }
            HttpStep::RegisterServer { server } => {
                let body =
                    json!({"serverId": SERVERS[*server], "endpoint": "ws://example.org", "publicKey": "k"});
                let request = RegisterServer::decode(body.to_string().as_bytes(), false).unwrap();
                let answer = engine.register_server(request, Proof::Token(None)).await.unwrap();
                let live = self.servers.get(server).filter(|server| server.end > now);
                assert_eq!(answer.owner_token.is_some(), live.is_none());
                let known = self.servers.get(server);
                let registered_at = known.map_or(now, |known| known.registered_at);
                assert_eq!(answer.server.registered_at, registered_at);
                self.servers.insert(*server, Server { end: now + SERVER_TTL, registered_at, connections: 0 });
            }
            HttpStep::ServerHeartbeat { server, connections } => {
                let body = json!({"serverId": SERVERS[*server], "connections": connections});
                let request = ServerHeartbeat::decode(body.to_string().as_bytes()).unwrap();
                let answer = engine.hear_server(request).await;
                match self.servers.get_mut(server) {
                    Some(known) => {
                        (known.end, known.connections) = (now + SERVER_TTL, *connections);
                        let others: Vec<_> =
                            answer.unwrap().peers.into_iter().map(|peer| peer.server_id).collect();
                        let mut fresh = self.fresh(now);
                        fresh.retain(|(id, _)| id != SERVERS[*server]);
                        assert_eq!(others, fresh.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
                    }
                    None => assert_eq!(answer.unwrap_err().status, 404),
                }
            }
            HttpStep::LeaveServer { server } => {
                let id = ServerId::parse(SERVERS[*server]).unwrap();
                engine.leave_server(id, Proof::Token(None)).await.unwrap();
                self.servers.remove(server);
            }
            HttpStep::ListServers => {
                let (servers, _) = engine.list_servers().await.unwrap();
                let listed =
                    servers.into_iter().map(|server| (server.server_id, server.counters.connections));
                assert_eq!(listed.collect::<Vec<_>>(), self.fresh(now));
                // Behind the answer, and before whatever is asked next.
                self.servers.retain(|_, server| server.end > now);
            }
        }
    }

    /// Fresh servers and their connections, in the order of their ids.
    fn fresh(&self, now: u64) -> Vec<(String, u64)> {
        let fresh = self.servers.iter().filter(|(_, server)| server.end > now);
        let mut fresh: Vec<_> =
            fresh.map(|(number, server)| (SERVERS[*number].to_owned(), server.connections)).collect();
        fresh.sort();
        fresh
    }

    /// Whatever is listed, filtered and counted is as it should be.
    pub async fn compare(&self, engine: &Engine, now: u64) {
        let filters = [
            Filter::default(),
            Filter { turn_capable: Some(true), ..Filter::default() },
            Filter { turn_capable: Some(false), network: Some("mainnet".into()), ..Filter::default() },
            Filter { store: stores(1).pop(), ..Filter::default() },
        ];
        for (number, filter) in filters.into_iter().enumerate() {
            let live = self.peers.iter().filter(|(_, peer)| peer.end > now);
            let matching = live.filter(|(_, peer)| match number {
                0 => true,
                1 => peer.capacity.is_some(),
                2 => peer.capacity.is_none(),
                _ => peer.stores == 1,
            });
            let mut matching: Vec<_> =
                matching.map(|(number, peer)| (NODES[*number].to_owned(), peer.last_seen)).collect();
            matching.sort();
            let page = PeerPage { filter: filter.clone(), ..PeerPage::default() };
            let listed = engine.list_peers(&page).await.unwrap();
            let shown = listed.peers.into_iter().map(|peer| (peer.id.as_str().to_owned(), peer.last_seen));
            assert_eq!(shown.collect::<Vec<_>>(), matching, "{filter:?}");
            assert_eq!(listed.registered, self.peers.len());
            assert_eq!(engine.count_peers(filter).await.unwrap(), matching.len());
        }
        let (turn_servers, _) = engine.turn_servers().await.unwrap();
        let listed = turn_servers.into_iter().map(|server| (server.load, server.id));
        let expected = self.available(now).into_iter().map(|(load, number)| (load, node(number)));
        assert_eq!(listed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
