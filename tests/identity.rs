//! Owns the proof of who holds an id (protocol: signalling, section 6): one living socket at a time, taken over only
//! with its resume token or after a silence, under peerIds and pairing codes alike.

#[path = "common/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{RawTcp, SECOND, TestDaemon, ask, error, hear, hears_nothing};
use serde_json::{Value, json};
use waypost::client::{ClientError, RawSocket};
use waypost::store::Faults;

const PROBE: Duration = Duration::from_secs(5);
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn register(id: &str) -> Value {
    json!({"type": "register", "peerId": id})
}

fn code(code: &str) -> Value {
    json!({"type": "register", "pairingCode": code, "publicKey": KEY})
}

fn rendezvous(id: &str, token: &str) -> Value {
    json!({"type": "register_rendezvous", "peerId": id, "hourlyTokens": [token]})
}

fn with_token(mut message: Value, token: &str) -> Value {
    message["resumeToken"] = json!(token);
    message
}

fn in_use() -> Value {
    error("id_in_use", "Peer ID already in use by another connection")
}

fn collision() -> Value {
    json!({"type": "code_collision", "message": "Pairing code already in use. Please reconnect with a new code."})
}

fn token_of(answer: &Value) -> String {
    answer["resumeToken"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The answer to the newcomer while the holder listens, and so answers pings; it is told nothing.
async fn ask_beside(holder: &mut RawSocket, newcomer: &mut RawSocket, message: Value) -> Value {
    tokio::select! {
        answer = ask(newcomer, message) => answer,
        heard = hear(holder) => panic!("the holder heard {heard}"),
    }
}

/// A holder that answers no ping: it holds the id that it asked for.
async fn silent_holder(daemon: &TestDaemon, message: Value) -> (RawTcp, String) {
    let mut holder = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    holder.hear().await;
    holder.send_json(message).await;
    let token = token_of(&holder.hear().await);
    (holder, token)
}

/// Sends a claim to an id whose holder is silent; the holder has been pinged for it when this returns.
async fn claim(newcomer: &mut RawSocket, holder: &mut RawTcp, message: Value) {
    newcomer.send_json(&message).await.unwrap();
    assert!(matches!(holder.frame().await, Some((9, _))), "a ping");
}

/// The answer to a claim, for which the time of the probe has to pass.
async fn answer_in_time(daemon: &TestDaemon, newcomer: &mut RawSocket) -> Value {
    for _ in 0..4 {
        daemon.advance(PROBE);
        match newcomer.next_message(SECOND).await {
            Err(ClientError::Timeout) => {}
            answer => return answer.unwrap(),
        }
    }
    panic!("there is no answer");
}

#[tokio::test]
async fn a_living_holder_keeps_its_id_and_notices_nothing() {
    let daemon = TestDaemon::start().await;
    let (mut holder, _) = daemon.registered("ABC234").await;
    ask(&mut holder, rendezvous("ABC234", "t")).await;
    let mut newcomer = daemon.raw().await;
    for (message, refusal) in [
        (register("ABC234"), in_use()),
        (rendezvous("ABC234", "t"), in_use()),
        (with_token(register("ABC234"), "AAAAAAAAAAAAAAAAAAAAAA"), in_use()),
        (with_token(register("ABC234"), ""), in_use()),
        // Pairing codes and peerIds are one namespace.
        (code("ABC234"), collision()),
        (with_token(code("ABC234"), "forged"), collision()),
    ] {
        assert_eq!(ask_beside(&mut holder, &mut newcomer, message.clone()).await, refusal, "{message}");
        hears_nothing(&mut holder).await;
    }
    let status = daemon.status().await;
    assert_eq!((status.leases.relay, status.leases.tokens, status.connections.ids), (1, 1, 1));
    // The newcomer is free to be somebody else, and the id is free once its holder has left.
    assert_eq!(ask(&mut newcomer, code("DEF234")).await["pairingCode"], "DEF234");
    drop(holder);
    daemon.until("the holder has left", |status| status.connections.ids == 1).await;
    assert_eq!(ask(&mut newcomer, code("ABC234")).await["pairingCode"], "ABC234");
}

#[tokio::test]
async fn while_a_holder_is_probed_nobody_waits_and_any_frame_of_it_is_life() {
    let daemon = TestDaemon::start().await;
    let (mut holder, _) = silent_holder(&daemon, register("alice")).await;
    let [mut newcomer, mut bystander] = daemon.raws().await;
    claim(&mut newcomer, &mut holder, register("alice")).await;
    assert_eq!(ask(&mut bystander, register("bob")).await["type"], "registered");
    assert_eq!(ask(&mut bystander, rendezvous("bob", "t")).await["type"], "rendezvous_result");
    // The holder's own request is answered meanwhile, and is the sign of life where there is no pong.
    holder.send_json(json!({"type": "update_load", "peerId": "alice", "connectedCount": 1})).await;
    assert_eq!(holder.hear().await["type"], "load_updated");
    assert_eq!(answer_in_time(&daemon, &mut newcomer).await, in_use());
}

#[tokio::test]
async fn a_pong_is_a_sign_of_life_at_once() {
    let daemon = TestDaemon::start().await;
    let (mut holder, _) = silent_holder(&daemon, register("alice")).await;
    let mut newcomer = daemon.raw().await;
    newcomer.send_json(&register("alice")).await.unwrap();
    let Some((9, payload)) = holder.frame().await else { panic!("a ping") };
    holder.send(10, &payload).await;
    assert_eq!(hear(&mut newcomer).await, in_use());
}

/// What a holder sent before it ended may be read after the probe was sent: that is no life.
#[tokio::test]
async fn the_last_words_of_a_holder_do_not_keep_its_id() {
    let daemon = TestDaemon::start().await;
    let (mut holder, _) = silent_holder(&daemon, register("alice")).await;
    let mut newcomer = daemon.raw().await;
    claim(&mut newcomer, &mut holder, register("alice")).await;
    holder.send_json(json!({"type": "ping"})).await;
    drop(holder);
    assert_eq!(hear(&mut newcomer).await["type"], "registered");
}

#[tokio::test]
async fn the_resume_token_takes_over_with_all_that_belongs_to_the_id() {
    let daemon = TestDaemon::start().await;
    let (mut old, first) = daemon.registered("alice").await;
    ask(&mut old, json!({"type": "update_load", "peerId": "alice", "connectedCount": 5})).await;
    ask(&mut old, rendezvous("alice", "t")).await;
    daemon.advance(10 * SECOND);
    let before = daemon.admin().lease("relay", "alice").await.unwrap().unwrap().record;

    let mut successor = daemon.raw().await;
    let second = token_of(&ask(&mut successor, with_token(register("alice"), &first)).await);
    assert_ne!(first, second);
    let replaced = (4409, "replaced by a newer connection".to_owned());
    assert_eq!(old.closed(daemon::SOON).await.unwrap(), replaced);
    drop(old);
    daemon.until("the old socket is gone", |status| status.connections.open == 1).await;
    let after = daemon.admin().lease("relay", "alice").await.unwrap().unwrap().record;
    assert_eq!(before, after, "count and age");
    assert_eq!(daemon.offered().await, ["alice"]);

    // The tokens are the successor's now: it is told of who comes to them.
    let mut bob = daemon.raw().await;
    let result = ask(&mut bob, rendezvous("bob", "t")).await;
    assert_eq!(result["liveMatches"][0]["peerId"], "alice");
    assert_eq!(hear(&mut successor).await["match"]["peerId"], "bob");

    // The old token is worth nothing, the new one takes over again, also by a rendezvous.
    let mut third = daemon.raw().await;
    let refused = ask_beside(&mut successor, &mut third, with_token(register("alice"), &first)).await;
    assert_eq!(refused, in_use());
    let result = ask(&mut third, with_token(rendezvous("alice", "t"), &second)).await;
    assert_eq!(result["liveMatches"][0]["peerId"], "bob");
    assert_eq!(successor.closed(daemon::SOON).await.unwrap(), replaced);
    let third_token = token_of(&result);
    let mut fourth = daemon.raw().await;
    let refused = ask_beside(&mut third, &mut fourth, with_token(register("alice"), &second)).await;
    assert_eq!(refused, in_use());
    let taken = ask(&mut fourth, with_token(register("alice"), &third_token)).await;
    assert_eq!(taken["type"], "registered");
    assert_eq!(daemon.admin().lease("relay", "alice").await.unwrap().unwrap().record, before);
}

#[tokio::test]
async fn the_late_exit_of_a_replaced_socket_leaves_its_successor_alone() {
    let daemon = TestDaemon::start().await;
    // It does not answer the close, and so is still there when its successor has long settled in.
    let (mut old, token) = silent_holder(&daemon, register("alice")).await;
    let mut successor = daemon.raw().await;
    ask(&mut successor, with_token(register("alice"), &token)).await;
    ask(&mut successor, rendezvous("alice", "t")).await;
    assert_eq!(old.closed().await.0, 4409);
    drop(old);
    daemon.until("the old socket is gone", |status| status.connections.open == 1).await;
    let leases = daemon.status().await.leases;
    assert_eq!((leases.relay, leases.tokens), (1, 1));
    let update = json!({"type": "update_load", "peerId": "alice", "connectedCount": 2});
    assert_eq!(ask(&mut successor, update).await["type"], "load_updated");
}

#[tokio::test]
async fn a_silent_holder_is_taken_over_when_the_probes_time_is_up() {
    let daemon = TestDaemon::start().await;
    for (first, second) in [
        (register("alice"), register("alice")),
        (register("ABC234"), code("ABC234")),
        (code("DEF234"), register("DEF234")),
        (register("bob"), rendezvous("bob", "t")),
    ] {
        let (mut holder, old_token) = silent_holder(&daemon, first.clone()).await;
        let mut newcomer = daemon.raw().await;
        claim(&mut newcomer, &mut holder, second.clone()).await;
        daemon.advance(PROBE - Duration::from_millis(1));
        // Time in which nothing must happen cannot be waited for; other requests go through meanwhile.
        daemon.status().await;
        assert_eq!(daemon.offered().await.is_empty(), first["pairingCode"].is_string(), "still the holder's");
        let answer = answer_in_time(&daemon, &mut newcomer).await;
        assert_ne!(token_of(&answer), old_token, "{first} by {second}");
        assert_eq!(holder.closed().await, (4409, "replaced by a newer connection".to_owned()));
        drop((holder, newcomer));
        daemon.until("all are gone", |status| status.connections.open == 0).await;
    }
}

#[tokio::test]
async fn a_holder_that_leaves_while_it_is_probed_makes_room_at_once() {
    let daemon = TestDaemon::start().await;
    let (mut holder, _) = silent_holder(&daemon, register("alice")).await;
    let mut newcomer = daemon.raw().await;
    claim(&mut newcomer, &mut holder, register("alice")).await;
    drop(holder);
    assert_eq!(hear(&mut newcomer).await["type"], "registered");
}

#[tokio::test]
async fn of_two_newcomers_one_takes_the_silent_holders_id_and_the_other_finds_it_living() {
    let daemon = TestDaemon::start().await;
    let (mut holder, _) = silent_holder(&daemon, register("alice")).await;
    let [mut one, mut other] = daemon.raws().await;
    claim(&mut one, &mut holder, register("alice")).await;
    other.send_json(&register("alice")).await.unwrap();
    daemon.until_metric("waypost_messages_total{type=\"register\"}", 3.0).await;
    let first = async {
        loop {
            daemon.advance(PROBE);
            tokio::select! {
                answer = one.next_message(SECOND) => if let Ok(answer) = answer { return (answer, true) },
                answer = other.next_message(SECOND) => if let Ok(answer) = answer { return (answer, false) },
            }
        }
    };
    let (answer, is_one) = daemon::soon(first).await;
    assert_eq!(answer["type"], "registered");
    let (winner, loser) = if is_one { (&mut one, &mut other) } else { (&mut other, &mut one) };
    // The other one's next probe goes to the winner, which listens.
    tokio::select! {
        answer = hear(loser) => assert_eq!(answer, in_use()),
        heard = hear(winner) => panic!("the winner heard {heard}"),
    }
}

#[tokio::test]
async fn a_socket_that_holds_nothing_takes_the_id_with_its_rendezvous() {
    let daemon = TestDaemon::start().await;
    let [mut alice, mut other] = daemon.raws().await;
    let result = ask(&mut alice, rendezvous("alice", "t")).await;
    let token = token_of(&result);
    let again = ask(&mut alice, rendezvous("alice", "t")).await;
    assert_eq!((&again["type"], &again["resumeToken"]), (&json!("rendezvous_result"), &Value::Null));
    let mismatch = error("peer_mismatch", "peerId mismatch with registered identity");
    assert_eq!(ask(&mut alice, rendezvous("bob", "t")).await, mismatch);
    assert_eq!(ask_beside(&mut alice, &mut other, rendezvous("alice", "t")).await, in_use());
    assert_eq!(
        ask(&mut other, with_token(rendezvous("alice", "t"), &token)).await["type"],
        "rendezvous_result"
    );
    assert_eq!(alice.closed(daemon::SOON).await.unwrap().0, 4409);
    // A pairing code is as good as a peerId.
    let mut paired = daemon.raw().await;
    ask(&mut paired, code("ABC234")).await;
    assert_eq!(ask(&mut paired, rendezvous("ABC234", "u")).await["type"], "rendezvous_result");
    assert_eq!(ask(&mut paired, rendezvous("ABC235", "u")).await, mismatch);
    assert_eq!(ask(&mut paired, register("ABC234")).await["type"], "registered");
}

#[tokio::test]
async fn a_refused_message_takes_no_id_even_with_the_resume_token() {
    let daemon = TestDaemon::start_with(|settings| settings.rendezvous.max_tokens_per_peer = 1).await;
    let (mut holder, token) = daemon.registered("alice").await;
    let mut newcomer = daemon.raw().await;
    let mut too_many = with_token(rendezvous("alice", "t"), &token);
    too_many["hourlyTokens"] = json!(["t", "u"]);
    let quota = error("peer_quota", "Too many points for this peer");
    assert_eq!(ask(&mut newcomer, too_many.clone()).await, quota);
    too_many["peerId"] = json!("free");
    assert_eq!(ask(&mut newcomer, too_many).await, quota);
    for bad in [json!({"maxConnections": 0}), json!({"publicKey": 7})] {
        let mut message = with_token(register("alice"), &token);
        message.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert_eq!(ask(&mut newcomer, message).await["type"], "error");
    }
    hears_nothing(&mut holder).await;
    assert_eq!(daemon.status().await.connections.ids, 1);
    assert_eq!(ask(&mut newcomer, register("somebody-else")).await["type"], "registered");
    assert_eq!(
        ask(&mut daemon.raw().await, with_token(register("alice"), &token)).await["type"],
        "registered"
    );
}

#[tokio::test]
async fn another_code_on_the_same_socket_frees_the_old_one_with_its_tokens() {
    let daemon = TestDaemon::start().await;
    let [mut alice, mut bob] = daemon.raws().await;
    assert_eq!(ask(&mut alice, code("ABC234")).await["pairingCode"], "ABC234");
    assert_eq!(ask(&mut alice, code("ABC234")).await["pairingCode"], "ABC234", "again is no collision");
    ask(&mut alice, rendezvous("ABC234", "t")).await;
    // A code that is not to be had costs nothing.
    ask(&mut bob, code("DEF234")).await;
    assert_eq!(ask_beside(&mut bob, &mut alice, code("DEF234")).await, collision());
    assert_eq!(daemon.status().await.leases.tokens, 1);

    assert_eq!(ask(&mut alice, code("GHJ234")).await["pairingCode"], "GHJ234");
    assert_eq!(daemon.status().await.leases.tokens, 0);
    assert_eq!(ask(&mut bob, code("ABC234")).await["pairingCode"], "ABC234", "it is free");
    let found = ask(&mut bob, rendezvous("ABC234", "t")).await;
    assert_eq!(found["liveMatches"], json!([]));
    let other = error("already_registered", "Cannot re-register with a different peerId");
    assert_eq!(ask(&mut alice, register("alice")).await, other);
}

#[tokio::test]
async fn a_pairing_code_is_checked_before_its_key_and_each_fault_has_its_text() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    let no_code = ("missing_field", "Missing required field: pairingCode");
    let bad_code = ("invalid_pairing_code", "Invalid pairing code format");
    let no_key = ("missing_field", "Missing required field: publicKey");
    let bad_key = ("invalid_public_key", "Invalid public key format");
    let length = ("invalid_public_key_length", "Invalid public key length");
    let missing = [(Value::Null, no_code), (json!(""), no_code)];
    let bad = ["ABC23", "ABC2345", "abc234", "ABI234", "ABO234", "ABC123", "ABC023", "ABC-34"];
    let bad = bad.map(|text| (json!(text), bad_code)).into_iter().chain([(json!(7), bad_code)]);
    for (value, (code, text)) in missing.into_iter().chain(bad) {
        // The id in peerId does not count where the key pairingCode exists.
        let message = json!({"type": "register", "pairingCode": value, "peerId": "alice"});
        assert_eq!(ask(&mut socket, message).await, error(code, text), "{value}");
    }
    let short = KEY.replace("AAAA", "");
    for (value, (code, text)) in [
        (Value::Null, no_key),
        (json!(""), no_key),
        (json!(7), bad_key),
        (json!("not base64!"), bad_key),
        (json!("____AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), bad_key),
        (json!(short), length),
        (json!(format!("AAAA{KEY}")), length),
    ] {
        let message = json!({"type": "register", "pairingCode": "ABC234", "publicKey": value});
        assert_eq!(ask(&mut socket, message).await, error(code, text), "{value}");
    }
    let unpadded =
        json!({"type": "register", "pairingCode": "ABC234", "publicKey": KEY.trim_end_matches('=')});
    let answer = ask(&mut socket, unpadded).await;
    assert_eq!((&answer["pairingCode"], &answer["relays"]), (&json!("ABC234"), &Value::Null));
    assert!(answer["serverId"].is_string() && answer["resumeToken"].is_string());
}

#[tokio::test]
async fn a_request_that_the_storage_refused_took_no_id() {
    type Fault = fn(&Faults);
    let faults: [Fault; 2] = [|faults| faults.fail_write(1), |faults| faults.fail_flush(1)];
    for fail in faults {
        let daemon = TestDaemon::start().await;
        let [mut one, mut other] = daemon.raws().await;
        let meet = json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"]});
        fail(&daemon.faults);
        assert_eq!(ask(&mut one, meet.clone()).await["code"], "storage_unavailable");
        daemon.until("the store is open again", |status| status.ready).await;
        let status = daemon.until("the id is free", |status| status.connections.ids == 0).await;
        assert_eq!(status.connections.open, 2);
        // Somebody else may have it, and is told the token that proves it.
        let answer = ask(&mut other, meet.clone()).await;
        assert!(answer["resumeToken"].is_string(), "{answer}");
    }
}
