//! Owns the proof of caps that a peer meets and no story of another file reaches: connections before their upgrade, requests
//! that wait for the writer, subscribers of one channel, pair requests and links of one code, nesting of JSON.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/flood.rs"]
mod flood;
#[path = "common/link.rs"]
mod link;

use std::net::IpAddr;
use std::time::Duration;

use daemon::{Process, RawTcp, TestDaemon, ask, connect, hear, hears_nothing, metric, soon};
use flood::{address, connect_from, many, possible};
use futures_util::future::join_all;
use link::HOME;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypost::client::{AdminClient, RawSocket};
use waypost::daemon::ADMIN_TOKEN;
use waypost::id::{PeerId, SocketId};
use waypost::limits::{
    ENGINE_QUEUE, HTTP_CONNECTIONS, HTTP_CONNECTIONS_PER_ADDRESS, MAX_LINKS_PER_CODE,
    MAX_PAIR_REQUESTS_PER_CODE, MAX_SUBSCRIBERS_PER_CHANNEL, PairingRules,
};
use waypost::live::chunks::{ChunkRelay, Full};
use waypost::live::pairing::{Fault, Pairing};
use waypost::wire::signalling::{
    LinkRequest, LinkResponse, PairRequest, PairResponse, Register, ServerMessage,
};

#[tokio::test]
async fn the_65th_connection_of_an_address_that_asks_nothing_is_dropped_and_the_others_stay() {
    let daemon = TestDaemon::start().await;
    let address = daemon.addresses().public;
    let mut socket = daemon.raw().await;
    let mut idle = Vec::new();
    for _ in 0..HTTP_CONNECTIONS_PER_ADDRESS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let refused = "waypost_connections_refused_total{reason=\"address\"}";
    assert_eq!(metric(&daemon.admin().metrics().await.unwrap(), refused), 0.0);
    let mut dropped = TcpStream::connect(address).await.unwrap();
    assert!(matches!(soon(dropped.read(&mut [0])).await, Ok(0) | Err(_)), "it is not answered");
    daemon.until_metric(refused, 1.0).await;
    // A socket is none of these, and others are served.
    hears_nothing(&mut socket).await;
    let url = format!("ws://{address}/ws");
    let mut other = RawSocket::connect_from(&url, IpAddr::from([127, 0, 0, 2])).await.unwrap();
    hear(&mut other).await;
    hears_nothing(&mut other).await;
    // Each of them is still answered.
    for stream in &mut idle {
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    drop(idle);
    hears_nothing(&mut connect(address).await).await;
}

#[tokio::test]
async fn more_requests_than_may_wait_for_the_writer_are_refused_and_the_next_are_served() {
    let daemon = TestDaemon::start().await;
    let engine = daemon.engine().clone();
    let joined = engine.join(IpAddr::from([127, 0, 0, 1]));
    let mut overloaded = 0;
    for _ in 0..20 {
        let asks = (0..3 * ENGINE_QUEUE).map(|_| {
            let register = Register {
                peer_id: code("relay"),
                max_connections: 20,
                public_key: None,
                resume_token: None,
            };
            engine.register(joined.outbox.socket, register)
        });
        for answer in join_all(asks).await {
            match answer {
                ServerMessage::Registered { .. } => {}
                ServerMessage::Error(refusal) => {
                    assert_eq!(refusal.code, "overloaded");
                    overloaded += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        if overloaded > 0 {
            break;
        }
    }
    assert!(overloaded > 0, "the queue was never full");
    let status = daemon.status().await;
    assert_eq!((status.engine.overloaded, status.engine.queue), (overloaded, 0));
    drop(daemon.registered("another").await);
}

#[tokio::test]
async fn the_8193rd_connection_that_asks_nothing_is_dropped_and_sockets_go_on() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let public = daemon.public;
    let token = std::fs::read_to_string(data.path().join(ADMIN_TOKEN)).unwrap().trim().to_owned();
    let admin = AdminClient::new(format!("http://{}", daemon.admin), token).unwrap();
    let mut socket = connect(public).await;
    if possible(HTTP_CONNECTIONS + 1) <= HTTP_CONNECTIONS {
        return eprintln!("skipped: this needs {HTTP_CONNECTIONS} open files and some more");
    }
    let from = |number: usize| address(number / HTTP_CONNECTIONS_PER_ADDRESS);
    let mut silent = many(HTTP_CONNECTIONS, |number| connect_from(from(number), public, None)).await;
    let refused = "waypost_connections_refused_total{reason=\"total\"}";
    assert_eq!(metric(&admin.metrics().await.unwrap(), refused), 0.0);
    let mut dropped = TcpStream::connect(public).await.unwrap();
    assert!(matches!(soon(dropped.read(&mut [0])).await, Ok(0) | Err(_)), "it is not answered");
    assert_eq!(metric(&admin.metrics().await.unwrap(), refused), 1.0);
    hears_nothing(&mut socket).await;
    // One goes, and there is a place for one.
    let mut leaving = silent.pop().unwrap();
    leaving.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(leaving.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // It is free a moment after its answer.
    let url = format!("ws://{public}/ws");
    let newcomer = async {
        loop {
            if let Ok(socket) = RawSocket::connect(&url).await {
                return socket;
            }
        }
    };
    assert_eq!(hear(&mut soon(newcomer).await).await["type"], "server_info");
}

fn code(text: &str) -> PeerId {
    PeerId::parse(text).unwrap()
}

#[test]
fn a_channel_has_1000_subscribers_and_not_one_more() {
    let mut relay = ChunkRelay::new(Duration::from_secs(10));
    let most = MAX_SUBSCRIBERS_PER_CHANNEL as u64;
    for socket in 0..most {
        assert_eq!(relay.subscribe(SocketId(socket), "c"), Ok(()));
    }
    assert_eq!(relay.subscribe(SocketId(most), "c"), Err(Full::All));
    assert_eq!(relay.subscribe(SocketId(7), "c"), Ok(()), "who has subscribed may say so again");
    assert_eq!(relay.counts().subscriptions, MAX_SUBSCRIBERS_PER_CHANNEL);
    relay.leave(Duration::ZERO, SocketId(7));
    assert_eq!(relay.subscribe(SocketId(most), "c"), Ok(()));
}

/// A pairing registry in which these codes are held.
fn pairing(codes: &[PeerId]) -> Pairing {
    let mut pairing = Pairing::new(PairingRules::default());
    codes.iter().for_each(|code| pairing.enter(code, "key".to_owned()));
    pairing
}

fn codes(count: usize) -> Vec<PeerId> {
    (0..count).map(|number| code(&format!("code-{number}"))).collect()
}

#[test]
fn eleven_requests_for_one_code_are_one_too_many_and_asking_again_adds_none() {
    let codes = codes(MAX_PAIR_REQUESTS_PER_CODE + 2);
    let mut pairing = pairing(&codes);
    let mut request = |from: &PeerId| {
        let request = PairRequest { target: codes[0].clone(), proposed_name: None };
        pairing.request(Duration::ZERO, from, request).map(|_| pairing.counts().pair_requests)
    };
    for from in &codes[1..=MAX_PAIR_REQUESTS_PER_CODE] {
        request(from).unwrap();
    }
    assert_eq!(request(&codes[MAX_PAIR_REQUESTS_PER_CODE + 1]), Err(Fault::CannotBeProcessed));
    assert_eq!(request(&codes[1]), Ok(MAX_PAIR_REQUESTS_PER_CODE));
    let rejected = PairResponse { requester: codes[1].clone(), accepted: false };
    pairing.respond(Duration::ZERO, &codes[0], rejected).unwrap();
    let request = PairRequest { target: codes[0].clone(), proposed_name: None };
    pairing.request(Duration::ZERO, &codes[MAX_PAIR_REQUESTS_PER_CODE + 1], request).unwrap();
}

#[test]
fn the_17th_link_of_a_code_ends_its_oldest_one() {
    let codes = codes(MAX_LINKS_PER_CODE + 2);
    let mut pairing = pairing(&codes);
    for web in &codes[1..] {
        let (public_key, device_name) = ("k".to_owned(), "web".to_owned());
        let request = LinkRequest { link_code: codes[0].clone(), public_key, device_name };
        pairing.request_link(Duration::ZERO, web, request).unwrap();
        let response = LinkResponse { link_code: codes[0].clone(), accepted: true, device_id: None };
        pairing.respond_link(Duration::ZERO, response).unwrap();
    }
    assert_eq!(pairing.counts().links, MAX_LINKS_PER_CODE);
    assert_eq!(pairing.linked_to(&codes[1]), None, "the oldest");
    assert_eq!(pairing.linked_to(&codes[2]), Some(&codes[0]));
}

/// A JSON array in an array, so deep.
fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

/// Deeper than a recursive reader has stack for, within the largest message.
const DEEP: usize = 100_000;

#[tokio::test]
async fn json_that_is_nested_deeply_costs_its_sender_an_answer_and_nobody_else_anything() {
    let daemon = link::start().await;
    let address = daemon.addresses().public;
    let [mut attacker, mut victim] = daemon.raws().await;
    let id =
        json!({"type": "register", "pairingCode": "BBB333", "publicKey": format!("{}=", "A".repeat(43))});
    assert_eq!(ask(&mut victim, id).await["type"], "registered");
    let id =
        json!({"type": "register", "pairingCode": "AAA222", "publicKey": format!("{}=", "A".repeat(43))});
    assert_eq!(ask(&mut attacker, id).await["type"], "registered");
    for message in [
        nested(DEEP),
        "[".repeat(2 * DEEP),
        "{\"a\":".repeat(40_000),
        format!(r#"{{"type":"ping","x":{}}}"#, nested(DEEP)),
        format!(r#"{{"type":"offer","target":"BBB333","payload":{}}}"#, nested(DEEP)),
        format!(r#"{{"type":"offer","target":"BBB333","payload":{{"x":{}}}}}"#, nested(DEEP)),
        format!(r#"{{"type":"chunk_push","chunkId":"a","data":{}}}"#, nested(30_000)),
        format!(r#"{{"type":"register_rendezvous","peerId":"AAA222","deadDrops":{}}}"#, nested(DEEP)),
    ] {
        attacker.send_text(message.clone()).await.unwrap();
        assert_eq!(hear(&mut attacker).await["type"], "error", "{}", &message[..60]);
    }
    hears_nothing(&mut victim).await;
    // Over HTTP.
    for path in ["/register", "/servers", "/heartbeat"] {
        for body in [nested(DEEP), format!(r#"{{"peerId":"a","addresses":{}}}"#, nested(2000))] {
            let answer = reqwest::Client::new().post(format!("http://{address}{path}")).body(body).send();
            let status = answer.await.unwrap().status().as_u16();
            assert!([400, 413, 415, 422].contains(&status), "{path}: {status}");
        }
    }
    // Link forwards bytes: a frame that is JSON goes on as it is, and what is none costs its phone the socket.
    let mut binary = link::binary(&daemon, HOME).await;
    let (mut other, mut phone) = (link::phone(&daemon, HOME).await, link::phone(&daemon, HOME).await);
    let conn_id = link::met(&mut binary, &mut other).await;
    other.send_text(nested(DEEP)).await.unwrap();
    assert_eq!(link::hear_frame(&mut binary).await.1, nested(DEEP));
    binary.send_text(format!(r#"{{"conn_id":"{conn_id}","frame":{}}}"#, nested(DEEP))).await.unwrap();
    assert_eq!(link::hear_text(&mut other).await, nested(DEEP));
    phone.send_text("[".repeat(DEEP)).await.unwrap();
    assert_eq!(link::closed(&mut phone).await.0, 1007);
    hears_nothing(&mut victim).await;
}

#[tokio::test]
async fn a_frame_of_a_mebibyte_closes_its_socket_before_it_has_arrived_and_no_other() {
    let daemon = link::start().await;
    let mut honest = daemon.raw().await;
    let mut binary = link::binary(&daemon, HOME).await;
    for path in ["/ws", "/v1/client"] {
        for _ in 0..20 {
            let headers = format!("X-Pyrycode-Server: {HOME}\r\nUser-Agent: test\r\n");
            let mut socket = RawTcp::open(daemon.addresses().public, path, &headers).await;
            if path == "/ws" {
                socket.hear().await;
            }
            // The head alone says how long it is going to be.
            socket.begin(0x81, 1 << 20).await;
            assert_eq!(socket.closed().await.0, 1009, "{path}");
        }
    }
    hears_nothing(&mut honest).await;
    // Nothing of them has reached the binary but that they have left.
    let mut phone = link::phone(&daemon, HOME).await;
    phone.send_text("\"last\"").await.unwrap();
    let mut left = 0;
    loop {
        let heard = link::hear_text(&mut binary).await;
        if heard.ends_with(r#""frame":"last"}"#) {
            break;
        }
        assert!(heard.ends_with(r#""close_code":1009}"#), "{heard}");
        left += 1;
    }
    assert_eq!(left, 20);
}
