//! Owns the proof of what an operator does at the admin endpoint: ending a lease, closing a socket, draining; and that it
//! leaves memory, rows and those who are connected as if it had come about by itself.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;
#[path = "common/link.rs"]
mod link;

use daemon::{Process, TestDaemon, ask, offered, soon};
use http::Http;
use link::{HOME, binary, closed, met, phone};
use serde_json::{Value, json};
use waypost::client::{AdminClient, ClientError};
use waypost::wire::admin::Done;

const DONE: Done = Done { done: true };

fn code(refused: ClientError) -> String {
    let ClientError::Refused { code, .. } = refused else { panic!("{refused}") };
    code
}

/// The only key of a kind.
async fn key(daemon: &TestDaemon, kind: &str) -> String {
    let page = daemon.admin().leases(&Default::default()).await.unwrap();
    let mut keys = page.leases.into_iter().filter(|lease| lease.kind == kind).map(|lease| lease.key);
    let key = keys.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert_eq!(keys.next(), None, "{kind}");
    key
}

async fn is_sound(daemon: &TestDaemon) {
    let checked = daemon.engine().check().await.unwrap();
    assert!(checked.report.problems.is_empty() && checked.memory_agrees, "{:?}", checked.report.problems);
}

#[tokio::test]
async fn a_lease_of_any_kind_ends_before_its_time_with_its_rows() {
    let mut daemon = TestDaemon::start().await;
    let (mut alice, http) = (daemon.raw().await, Http::at(daemon.addresses().public).await);
    let register = json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"], "hourlyTokens": ["t"],
        "deadDrop": "for later"});
    ask(&mut alice, register).await;
    ask(&mut alice, json!({"type": "register", "peerId": "alice", "maxConnections": 5})).await;
    let push = json!({"type": "chunk_announce", "peerId": "alice", "chunks": [{"chunkId": "c"}]});
    ask(&mut alice, push).await;
    ask(&mut alice, json!({"type": "chunk_push", "chunkId": "c", "data": "d"})).await;
    let turn = json!({"peerId": "node", "addresses": ["a"], "turnCapable": true, "turnAddresses": ["b"], "turnCapacity": 1});
    http.post("/register", turn).await.ok();
    http.post("/allocate-turn", json!({"peerId": "node"})).await.ok();
    let server = json!({"serverId": "s", "endpoint": "ws://127.0.0.1:1", "publicKey": "k"});
    http.post("/servers", server).await.ok();
    let before = daemon.status().await.leases;
    let kinds = ["relay", "registration", "turn_session", "peer", "server", "chunk"];
    for kind in kinds {
        let key = key(&daemon, kind).await;
        assert_eq!(daemon.admin().end_lease(kind, &key).await.unwrap(), DONE, "{kind}");
        assert_eq!(code(daemon.admin().end_lease(kind, &key).await.unwrap_err()), "not_found", "{kind}");
        is_sound(&daemon).await;
    }
    let after = daemon.status().await.leases;
    assert_eq!((before.relay, before.registration, before.peer, before.turn_session), (1, 1, 1, 1));
    assert_eq!((after.relay, after.registration, after.peer, after.turn_session), (0, 0, 0, 0));
    assert_eq!(
        (after.server, after.chunk, after.points, after.tokens, after.dead_drop_bytes),
        (0, 0, 0, 0, 0)
    );
    // Its holder is still there and may come again.
    assert_eq!(offered(&mut alice).await, [""; 0]);
    ask(&mut alice, json!({"type": "register", "peerId": "alice", "maxConnections": 5})).await;
    assert_eq!(offered(&mut daemon.raw().await).await, ["alice"]);
    daemon.restart([alice]).await;
    assert_eq!(daemon.status().await.leases.registration, 0);
    is_sound(&daemon).await;
}

#[tokio::test]
async fn a_claim_is_ended_in_its_grace_and_not_while_a_binary_holds_it() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut mobile = phone(&daemon, HOME).await;
    met(&mut home, &mut mobile).await;
    assert_eq!(code(daemon.admin().end_lease("claim", HOME).await.unwrap_err()), "claim_held");
    let connections = daemon.admin().connections().await.unwrap().connections;
    let binary = connections.iter().find(|connection| connection.role == "binary").unwrap().socket;
    assert_eq!(daemon.admin().close(binary).await.unwrap(), DONE);
    assert_eq!(closed(&mut home).await, (1008, "closed by the operator".to_owned()));
    daemon.until("its grace", |status| status.connections.binaries == 0).await;
    assert_eq!(daemon.admin().end_lease("claim", HOME).await.unwrap(), DONE);
    assert_eq!(closed(&mut mobile).await.0, 1011, "as at the end of a grace");
    assert_eq!(daemon.status().await.leases.claim, 0);
    is_sound(&daemon).await;
}

#[tokio::test]
async fn a_socket_is_closed_by_its_number_and_what_it_held_goes_as_ever() {
    let daemon = TestDaemon::start().await;
    let (mut alice, _) = daemon.registered("alice").await;
    let mut other = daemon.raw().await;
    assert_eq!(offered(&mut other).await, ["alice"]);
    let connections = daemon.admin().connections().await.unwrap().connections;
    let socket =
        connections.iter().find(|connection| connection.id.as_deref() == Some("alice")).unwrap().socket;
    assert_eq!(daemon.admin().close(socket).await.unwrap(), DONE);
    assert_eq!(closed(&mut alice).await, (1008, "closed by the operator".to_owned()));
    daemon.until("it has left", |status| status.connections.open == 1).await;
    assert_eq!(code(daemon.admin().close(socket).await.unwrap_err()), "not_found");
    assert_eq!(offered(&mut other).await, [""; 0]);
    daemon.until_metric("waypost_connections_ended_total{reason=\"operator\"}", 1.0).await;
}

#[tokio::test]
async fn what_is_no_lease_and_no_socket_is_a_bad_request() {
    let daemon = TestDaemon::start().await;
    for (kind, key) in [("nothing", "a"), ("registration", "a")] {
        assert_eq!(
            code(daemon.admin().end_lease(kind, key).await.unwrap_err()),
            "bad_request",
            "{kind} {key}"
        );
    }
    assert_eq!(code(daemon.admin().end_lease("relay", "nobody").await.unwrap_err()), "not_found");
    let none = AdminClient::new(daemon.admin().base(), "wrong").unwrap();
    assert_eq!(code(none.drain().await.unwrap_err()), "unauthorized");
    assert_eq!(code(none.close(1).await.unwrap_err()), "unauthorized");
    assert_eq!(code(none.end_lease("relay", "a").await.unwrap_err()), "unauthorized");
}

/// Keys of link have any characters, and travel in a path.
#[tokio::test]
async fn a_key_of_any_characters_is_found() {
    let daemon = link::start().await;
    let id = "my home/shed?#%2F..";
    let _shed = binary(&daemon, id).await;
    let found = daemon.admin().lease("claim", id).await.unwrap();
    assert_eq!(found.map(|lease| lease.key).as_deref(), Some(id));
}

#[tokio::test]
async fn draining_ends_the_daemon_as_a_signal_does() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap();
    let admin = AdminClient::new(format!("http://{}", process.admin), token).unwrap();
    let mut socket = daemon::connect(process.public).await;
    let register =
        json!({"type": "register_rendezvous", "peerId": "a", "dailyPoints": ["p"], "deadDrop": "kept"});
    assert_eq!(ask(&mut socket, register.clone()).await["type"], "rendezvous_result");
    assert_eq!(admin.drain().await.unwrap(), DONE);
    assert_eq!(closed(&mut socket).await, (1001, "Server shutting down".to_owned()));
    assert_eq!(soon(process.ended()).await.code(), Some(0));
    let again = Process::start(data.path(), &[]);
    let mut socket = daemon::connect(again.public).await;
    let look = json!({"type": "register_rendezvous", "peerId": "b", "dailyPoints": ["p"]});
    let found: Value = ask(&mut socket, look).await;
    assert_eq!(found["deadDrops"].as_array().map(Vec::len), Some(1), "{found}");
}
