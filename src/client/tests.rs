//! The signalling client against a server of a few lines, which drops, refuses and closes on request.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::signalling::Request;
use super::*;

type Heard = mpsc::UnboundedReceiver<(usize, Value)>;

/// Serves connections one after the other and answers each message with what `answer` makes of the connection's
/// number and the message; after a close frame, and after nothing at all, it hangs up.
async fn server(answer: impl Fn(usize, &Value) -> Vec<Message> + Send + 'static) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let (hear, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for connection in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let info =
                json!({"type": "server_info", "serverId": "ed25519:x", "endpoint": "", "region": null});
            socket.send(text(info)).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                let said = match message {
                    Message::Text(said) => serde_json::from_str(&said).unwrap(),
                    Message::Close(frame) => json!({ "closed": frame.map(|frame| u16::from(frame.code)) }),
                    _ => continue,
                };
                hear.send((connection, said.clone())).unwrap();
                let answers = answer(connection, &said);
                let last = answers.is_empty() || matches!(answers.last(), Some(Message::Close(_)));
                for answer in answers {
                    let _ = socket.send(answer).await;
                }
                if last {
                    break;
                }
            }
        }
    });
    (url, heard)
}

fn text(value: Value) -> Message {
    Message::Text(value.to_string().into())
}

fn close(code: u16) -> Vec<Message> {
    vec![Message::Close(Some(CloseFrame { code: code.into(), reason: "because".into() }))]
}

/// What a server says that has no objections. The resume token tells the connection.
fn plain(connection: usize, said: &Value) -> Vec<Message> {
    let answer = match said["type"].as_str() {
        Some("ping") => json!({"type": "pong"}),
        Some("heartbeat") => json!({"type": "heartbeat_ack", "timestamp": 7}),
        Some("register") => {
            json!({"type": "registered", "peerId": said["peerId"], "serverId": "s", "relays": [],
            "resumeToken": format!("token-{connection}")})
        }
        Some("update_load") => {
            json!({"type": "load_updated", "peerId": said["peerId"], "connectedCount": said["connectedCount"]})
        }
        Some("get_relays") => {
            json!({"type": "relays", "relays": [{"peerId": "r", "publicKey": null, "capacity": 0}]})
        }
        Some("register_rendezvous") => json!({"type": "rendezvous_result", "liveMatches": [],
            "deadDrops": [{"peerId": "a", "deadDrop": "drop", "relayId": "", "meetingPoint": said["dailyPoints"][0]}]}),
        _ => return Vec::new(),
    };
    vec![text(answer)]
}

fn eager(url: &str) -> ClientBuilder {
    ClientBuilder::new(url).request_timeout(Duration::from_secs(5)).max_backoff(Duration::from_millis(20))
}

fn peer(id: &str) -> Register {
    Register { peer_id: id.to_owned(), ..Register::default() }
}

#[tokio::test]
async fn answers_are_typed_and_pipelined_requests_get_their_own() {
    let (url, _heard) = server(plain).await;
    let client = Client::connect(url).await.unwrap();
    assert_eq!(client.server_info().await.unwrap().server_id, "ed25519:x");
    let register = peer("alice");
    let rendezvous =
        Rendezvous { peer_id: "alice".into(), daily_points: vec!["p".into()], ..Rendezvous::default() };
    let (pong, ack, registered, load, relays, met) = tokio::join!(
        client.ping(),
        client.heartbeat("alice"),
        client.register(&register),
        client.update_load("alice", 3),
        client.get_relays(None, 5),
        client.register_rendezvous(&rendezvous),
    );
    pong.unwrap();
    assert_eq!(ack.unwrap(), 7);
    assert_eq!(registered.unwrap().resume_token.as_deref(), Some("token-1"));
    assert_eq!(load.unwrap(), 3.0);
    assert_eq!(relays.unwrap()[0].peer_id, "r");
    assert_eq!(met.unwrap().dead_drops[0].meeting_point, "p");
}

#[tokio::test]
async fn an_error_answers_the_oldest_request_and_pushes_come_in_between() {
    let (url, _heard) = server(|connection, said| {
        let met = json!({"type": "rendezvous_match", "match": {"peerId": "bob", "relayId": "", "meetingPoint": "t"}});
        match said["type"].as_str() {
            Some("register") => vec![text(met), text(json!({"type": "error", "message": "No.", "code": "no"}))],
            _ => plain(connection, said),
        }
    })
    .await;
    let client = Client::connect(url).await.unwrap();
    let register = peer("alice");
    let (first, refused, last) = tokio::join!(client.ping(), client.register(&register), client.ping());
    first.unwrap();
    assert!(
        matches!(refused, Err(ClientError::Refused { message, code }) if message == "No." && code == "no")
    );
    last.unwrap();
    assert!(matches!(client.next_push().await, Some(Push::Match(found)) if found.peer_id == "bob"));
}

#[tokio::test]
async fn after_a_loss_it_registers_again_by_token_and_repeats_what_was_not_answered() {
    let (url, mut heard) = server(|connection, said| match said["type"].as_str() {
        Some("ping") if connection == 1 => Vec::new(),
        _ => plain(connection, said),
    })
    .await;
    let client = eager(&url).connect().await.unwrap();
    client.register(&peer("alice")).await.unwrap();
    let rendezvous =
        Rendezvous { peer_id: "alice".into(), daily_points: vec!["p".into()], ..Rendezvous::default() };
    client.register_rendezvous(&rendezvous).await.unwrap();
    client.ping().await.unwrap();
    let mut order = Vec::new();
    for _ in 0..6 {
        let (connection, said) = heard.recv().await.unwrap();
        order.push(format!("{connection} {} {}", said["type"].as_str().unwrap(), said["resumeToken"]));
    }
    assert_eq!(
        order,
        [
            "1 register null",
            "1 register_rendezvous null",
            "1 ping null",
            "2 register \"token-1\"",
            "2 register_rendezvous null",
            "2 ping null"
        ]
    );
    assert!(matches!(client.next_push().await, Some(Push::Lost { code: 1006, .. })));
    assert_eq!(client.next_push().await, Some(Push::Reconnected));
    assert!(
        matches!(client.next_push().await, Some(Push::Renewed(result)) if result.dead_drops[0].dead_drop == "drop")
    );
}

#[tokio::test]
async fn a_registration_that_cannot_be_renewed_is_told() {
    let (url, _heard) = server(|connection, said| match (connection, said["type"].as_str()) {
        (1, Some("ping")) => close(1001),
        (2, Some("register")) => {
            vec![text(json!({"type": "error", "message": "In use.", "code": "id_in_use"}))]
        }
        _ => plain(connection, said),
    })
    .await;
    let client = eager(&url).connect().await.unwrap();
    client.register(&peer("alice")).await.unwrap();
    client.ping().await.unwrap();
    assert!(matches!(client.next_push().await, Some(Push::Lost { code: 1001, .. })));
    assert_eq!(client.next_push().await, Some(Push::Reconnected));
    let told = Push::NotRenewed { message: "In use.".to_owned(), code: "id_in_use".to_owned() };
    assert_eq!(client.next_push().await, Some(told));
}

#[tokio::test]
async fn a_replaced_connection_is_not_made_again() {
    let (url, _heard) = server(|_, _| close(4409)).await;
    let client = eager(&url).connect().await.unwrap();
    for _ in 0..2 {
        assert!(matches!(client.ping().await, Err(ClientError::Closed { code: 4409, .. })));
    }
    assert_eq!(client.next_push().await, None);
}

#[tokio::test]
async fn without_reconnecting_a_loss_is_the_end() {
    let (url, _heard) = server(|_, _| close(1001)).await;
    let client = eager(&url).reconnect(false).connect().await.unwrap();
    assert!(
        matches!(client.ping().await, Err(ClientError::Closed { code: 1001, reason }) if reason == "because")
    );
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_repeated() {
    let (url, _heard) = server(|connection, said| match said["type"].as_str() {
        Some("heartbeat") => close(1009),
        _ => plain(connection, said),
    })
    .await;
    let client = eager(&url).connect().await.unwrap();
    assert!(matches!(client.heartbeat("alice").await, Err(ClientError::Closed { code: 1009, .. })));
    client.ping().await.unwrap();
}

#[tokio::test]
async fn a_silent_server_is_left() {
    let pong = |_: usize, _: &Value| vec![Message::Pong(Default::default())];
    let (url, _heard) = server(pong).await;
    let client = eager(&url).request_timeout(Duration::from_millis(50)).connect().await.unwrap();
    assert!(matches!(client.ping().await, Err(ClientError::Timeout)));

    // A listener that accepts and upgrades, and then is not heard of again.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let stuck = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        std::future::pending::<()>().await;
        drop(socket);
    });
    let client = eager(&url).probe_every(Duration::from_millis(30)).connect().await.unwrap();
    assert!(matches!(client.next_push().await, Some(Push::Lost { .. })));
    stuck.abort();
}

#[tokio::test]
async fn closing_says_goodbye() {
    let (url, mut heard) = server(plain).await;
    let client = Client::connect(&url).await.unwrap();
    client.ping().await.unwrap();
    client.close().await;
    heard.recv().await.unwrap();
    assert_eq!(heard.recv().await.unwrap().1, json!({"closed": 1000}));
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(Client::connect(format!("ws://{closed}")).await, Err(ClientError::Unreachable(_))));
    assert!(matches!(Client::connect("wss://127.0.0.1").await, Err(ClientError::Unreachable(_))));
}

#[tokio::test]
async fn a_raw_socket_hears_texts_and_the_close() {
    let (url, _heard) = server(|connection, said| match said["type"].as_str() {
        Some("bye") => close(4000),
        _ => plain(connection, said),
    })
    .await;
    let soon = Duration::from_secs(2);
    let mut socket = RawSocket::connect_from(&url, [127, 0, 0, 2].into()).await.unwrap();
    assert_eq!(socket.next_message(soon).await.unwrap()["type"], "server_info");
    socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    assert_eq!(socket.next_text(soon).await.unwrap(), r#"{"type":"pong"}"#);
    assert!(matches!(socket.next_message(Duration::from_millis(20)).await, Err(ClientError::Timeout)));
    socket.send_json(&json!({"type": "bye"})).await.unwrap();
    assert_eq!(socket.closed(soon).await.unwrap(), (4000, "because".to_owned()));
}

#[test]
fn requests_are_what_the_server_reads() {
    use crate::limits::RendezvousRules;
    use crate::wire::signalling::{ClientMessage, decode};
    let read = |request: &Request<'_>| {
        decode(Some(&serde_json::to_string(request).unwrap()), &RendezvousRules::default()).unwrap()
    };
    let rendezvous = Rendezvous {
        peer_id: "alice".into(),
        daily_points: vec!["p".into(), "q".into()],
        hourly_tokens: vec!["t".into()],
        dead_drops: vec![("q".into(), "x".into())],
        ..Rendezvous::default()
    };
    let ClientMessage::RegisterRendezvous(read_rendezvous) = read(&Request::RegisterRendezvous(&rendezvous))
    else {
        panic!("not a rendezvous")
    };
    let payloads: Vec<_> = read_rendezvous.points.iter().map(|point| point.payload).collect();
    assert_eq!((payloads, read_rendezvous.payloads), (vec![None, Some(0)], vec!["x".to_owned()]));
    let register = Register { max_connections: Some(5), ..peer("alice") };
    let ClientMessage::Register(register) = read(&Request::Register(&register)) else {
        panic!("not a register")
    };
    assert_eq!((register.peer_id.as_str(), register.max_connections), ("alice", 5));
    let code = RegisterCode {
        pairing_code: "ABC234".into(),
        public_key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        ..RegisterCode::default()
    };
    assert!(matches!(read(&Request::RegisterCode(&code)), ClientMessage::RegisterCode(_)));
    assert!(matches!(
        read(&Request::UpdateLoad { peer_id: "a", connected_count: 3 }),
        ClientMessage::UpdateLoad(_)
    ));
    assert!(matches!(read(&Request::GetRelays { peer_id: None, count: 3 }), ClientMessage::GetRelays(_)));
    assert_eq!(read(&Request::Heartbeat { peer_id: "a" }), ClientMessage::Heartbeat);
    assert_eq!(read(&Request::Ping {}), ClientMessage::Ping);
}
