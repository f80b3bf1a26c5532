//! Owns the proof that messages and bodies which are never finished take no more memory in all than the operator has allowed:
//! past that whoever has taken longest goes, and honest ones of any size pass. `tests/abuse_sockets.rs` shows the memory.

#[path = "common/daemon.rs"]
mod daemon;

use daemon::{RawTcp, TestDaemon, ask, metric, soon};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KIB: usize = 1024;
/// What one of eight unfinished ones counts for is 120 KiB: eight of them fit.
const MOST: usize = 1024 * KIB;
const LARGE: usize = 128 * KIB;
/// What all but the last byte of a large one counts for.
const COUNTS: f64 = (LARGE - 1 - 8 * KIB) as f64;
const ARRIVING: &str = "waypost_arriving_bytes";

async fn start() -> TestDaemon {
    TestDaemon::start_with(|settings| settings.connections.arriving_total_bytes = MOST).await
}

async fn arriving(daemon: &TestDaemon) -> f64 {
    metric(&daemon.admin().metrics().await.unwrap(), ARRIVING)
}

async fn until_arriving(daemon: &TestDaemon, is: impl Fn(f64) -> bool) {
    let waited = async { while !is(arriving(daemon).await) {} };
    soon(waited).await;
}

/// A socket that has been greeted.
async fn open(daemon: &TestDaemon) -> RawTcp {
    let mut socket = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    socket.hear().await;
    socket
}

/// A socket that has sent all but the last byte of a large message, and every byte of it is there.
async fn unfinished(daemon: &TestDaemon) -> RawTcp {
    let mut socket = open(daemon).await;
    let before = arriving(daemon).await;
    socket.begin(0x81, LARGE).await;
    socket.stream.write_all(&vec![b' '; LARGE - 1]).await.unwrap();
    until_arriving(daemon, |now| now >= (before + COUNTS).min(MOST as f64 - COUNTS)).await;
    socket
}

/// The last byte makes it a message that is none.
async fn finish(socket: &mut RawTcp) {
    socket.stream.write_all(b" ").await.unwrap();
    assert_eq!(socket.hear().await["code"], "invalid_json");
}

#[tokio::test]
async fn past_the_ceiling_the_message_that_has_taken_longest_costs_its_sender_the_socket() {
    let daemon = start().await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(unfinished(&daemon).await);
    }
    let mut late = unfinished(&daemon).await;
    assert_eq!(held.remove(0).closed().await, (1013, "overloaded".to_owned()));
    // Whoever is large and honest costs the next oldest its place, and is answered.
    let mut honest = daemon.raw().await;
    let large = json!({"type": "register_rendezvous", "peerId": "ann", "dailyPoints": ["p"], "deadDrop": "d",
        "padding": "x".repeat(LARGE)});
    assert_eq!(ask(&mut honest, large).await["type"], "rendezvous_result");
    assert_eq!(held.remove(0).closed().await.0, 1013);
    for socket in held.iter_mut().chain([&mut late]) {
        finish(socket).await;
        socket.send_json(json!({"type": "ping"})).await;
        assert_eq!(socket.hear().await["type"], "pong", "it goes on");
    }
    assert_eq!(arriving(&daemon).await, 0.0, "nothing is counted that is handled");
}

#[tokio::test]
async fn pings_and_heads_of_frames_neither_count_nor_hide_what_does() {
    let daemon = start().await;
    let mut socket = unfinished(&daemon).await;
    // A control frame cannot stand within a frame: this one is whole, and the next one of its message has not come.
    let mut fragmented = open(&daemon).await;
    fragmented.begin(0x01, LARGE).await;
    fragmented.stream.write_all(&vec![b' '; LARGE]).await.unwrap();
    let both = 2.0 * COUNTS + 1.0;
    until_arriving(&daemon, |now| now == both).await;
    for _ in 0..3000 {
        fragmented.send(9, &[b'p'; 125]).await;
        assert_eq!(soon(fragmented.frame()).await.unwrap().0, 10);
    }
    assert_eq!(arriving(&daemon).await, both);
    // Heads without a payload, 3 MiB of them, of which nothing is kept.
    fragmented.stream.write_all(&[0x00, 0x80, 0, 0, 0, 0].repeat(512 * KIB)).await.unwrap();
    fragmented.send(9, b"last").await;
    assert_eq!(soon(fragmented.frame()).await.unwrap().1, b"last");
    assert_eq!(arriving(&daemon).await, both);
    fragmented.stream.write_all(&[0x80, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(fragmented.hear().await["code"], "invalid_json");
    finish(&mut socket).await;
    assert_eq!(arriving(&daemon).await, 0.0);
}

#[tokio::test]
async fn what_is_thrown_away_counts_nothing() {
    let daemon = start().await;
    let mut oldest = unfinished(&daemon).await;
    let mut large = open(&daemon).await;
    large.begin(0x81, 4 * MOST).await;
    assert_eq!(large.closed().await.0, 1009);
    large.stream.write_all(&vec![b' '; 2 * MOST]).await.unwrap();
    large.stream.shutdown().await.unwrap();
    // Until it has all been read.
    assert_eq!(soon(large.stream.read(&mut [0])).await.unwrap(), 0);
    finish(&mut oldest).await;
}

/// A message in one frame or more, with pings between them.
fn framed(text: &str, random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = text.as_bytes();
    let mut opcode = 1;
    loop {
        let (part, behind) = rest.split_at(if random.random_bool(0.6) { rest.len() } else { rest.len() / 3 });
        let last = if behind.is_empty() { 0x80 } else { 0 };
        let mask: [u8; 4] = random.random();
        let mut bytes = Vec::new();
        match part.len() {
            0..126 => bytes.extend([last | opcode, 0x80 | part.len() as u8]),
            126..65_536 => {
                bytes.extend([&[last | opcode, 0xfe][..], &(part.len() as u16).to_be_bytes()].concat())
            }
            _ => bytes.extend([&[last | opcode, 0xff][..], &(part.len() as u64).to_be_bytes()].concat()),
        }
        bytes.extend(mask);
        bytes.extend(part.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frames.push(bytes);
        if last != 0 {
            return frames;
        }
        if random.random_bool(0.2) {
            frames.push(vec![0x89, 0x82, 0, 0, 0, 0, b'h', b'i']);
        }
        (rest, opcode) = (behind, 0);
    }
}

/// A socket gets new buffers between two messages, and nothing of them may be in the old ones.
#[tokio::test]
async fn nothing_is_lost_however_large_messages_come_and_in_whatever_pieces() {
    let mut random = StdRng::seed_from_u64(7);
    let daemon = TestDaemon::start_with(|settings| settings.connections.messages_per_minute = 0).await;
    let mut socket = open(&daemon).await;
    for _ in 0..100 {
        let mut frames = Vec::new();
        let count = random.random_range(1..6);
        for _ in 0..count {
            let length = [0, 100, 20_000, 100_000][random.random_range(0..4)];
            let text = json!({"type": "ping", "padding": "x".repeat(length)}).to_string();
            frames.extend(framed(&text, &mut random));
        }
        if random.random() {
            let size = random.random_range(1000..80_000);
            frames = frames.concat().chunks(size).map(<[u8]>::to_vec).collect();
        }
        for piece in frames {
            socket.stream.write_all(&piece).await.unwrap();
            // So that it is read before the next one comes.
            if random.random_bool(0.3) {
                daemon.status().await;
            }
        }
        let mut heard = 0;
        while heard < count {
            match soon(socket.frame()).await.unwrap() {
                (1, text) => {
                    assert_eq!(text, br#"{"type":"pong"}"#);
                    heard += 1;
                }
                (10, payload) => assert_eq!(payload, b"hi"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(arriving(&daemon).await, 0.0);
}

#[tokio::test]
async fn whoever_leaves_counts_no_more() {
    let daemon = start().await;
    let sockets = [unfinished(&daemon).await, unfinished(&daemon).await];
    drop(sockets);
    until_arriving(&daemon, |now| now == 0.0).await;
}

/// A registration whose body has come but for its last byte.
async fn unfinished_body(daemon: &TestDaemon) -> TcpStream {
    let address = daemon.addresses().public;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /register HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n");
    stream.write_all(format!("{head}Content-Length: {LARGE}\r\n\r\n").as_bytes()).await.unwrap();
    let before = arriving(daemon).await;
    stream.write_all(&vec![b' '; LARGE - 1]).await.unwrap();
    until_arriving(daemon, |now| now >= (before + COUNTS).min(MOST as f64 - COUNTS)).await;
    stream
}

async fn status(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 12];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()[9..].to_owned()
}

#[tokio::test]
async fn bodies_count_beside_messages_and_the_oldest_is_told_to_come_again() {
    let daemon = start().await;
    let mut oldest = unfinished_body(&daemon).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(unfinished(&daemon).await);
    }
    assert_eq!(status(&mut oldest).await, "503");
    let mut body = unfinished_body(&daemon).await;
    assert_eq!(held.remove(0).closed().await.0, 1013);
    body.write_all(b" ").await.unwrap();
    assert_eq!(status(&mut body).await, "400");
    for socket in &mut held {
        finish(socket).await;
    }
    assert_eq!(arriving(&daemon).await, 0.0);
}
