//! Owns the proof that nobody gets more by coming again and again, under other addresses, or under forged ones; and that an
//! answer which nobody reads ends its connection; nor by going on past a limit.

#[path = "common/daemon.rs"]
mod daemon;

use std::net::IpAddr;
use std::time::Duration;

use daemon::{RawTcp, SECOND, TestDaemon, connect, hear, hears_nothing, metric, soon};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use waypost::client::RawSocket;
use waypost::clock::Clock;
use waypost::config::Settings;
use waypost::limits::ADDRESSES_PER_SITE;

const FEW: usize = 5;

/// A daemon behind a proxy on loopback, or without one.
async fn start(behind_a_proxy: bool, adjust: impl FnOnce(&mut Settings)) -> TestDaemon {
    TestDaemon::start_with(|settings| {
        settings.connections.http_requests_per_minute = 0;
        if behind_a_proxy {
            settings.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        }
        adjust(settings);
    })
    .await
}

fn forwarded(for_whom: &str) -> String {
    format!("X-Forwarded-For: {for_whom}\r\n")
}

/// The status of one upgrade. The socket ends with it.
async fn upgrade(daemon: &TestDaemon, headers: &str) -> u16 {
    RawTcp::open(daemon.addresses().public, "/ws", headers).await.status()
}

/// The status of one HTTP request.
async fn request(daemon: &TestDaemon, headers: &str) -> u16 {
    let address = daemon.addresses().public;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn coming_again_and_again_gives_no_new_messages_without_end() {
    let most = Settings::default().connections.upgrades_per_minute;
    let daemon = start(false, |settings| settings.connections.upgrades_per_minute = most).await;
    let address = daemon.addresses().public;
    let mut first = daemon.raw().await;
    for _ in 1..most {
        drop(daemon.raw().await);
    }
    for _ in 0..3 {
        let mut refused = RawTcp::open(address, "/ws", "").await;
        assert_eq!(refused.status(), 429);
        let head = refused.head.to_lowercase();
        assert!(head.contains("retry-after: 1\r\n") || head.contains("retry-after: 2\r\n"), "{head}");
        let text = r#"{"error":"Too many upgrades from this address"}"#;
        let mut body = vec![0; text.len()];
        soon(refused.stream.read_exact(&mut body)).await.unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), text);
    }
    // It alone pays: who is connected stays, others come, and whatever is no upgrade is answered.
    hears_nothing(&mut first).await;
    let url = format!("ws://{address}/ws");
    let mut other = RawSocket::connect_from(&url, IpAddr::from([127, 0, 0, 2])).await.unwrap();
    assert_eq!(hear(&mut other).await["type"], "server_info");
    assert_eq!(request(&daemon, "").await, 200);
    let metrics = daemon.admin().metrics().await.unwrap();
    assert_eq!(metric(&metrics, "waypost_connections_refused_total{reason=\"rate\"}"), 3.0);
    daemon.advance(SECOND / 2);
    hears_nothing(&mut connect(address).await).await;
    assert_eq!(upgrade(&daemon, "").await, 429);
}

#[tokio::test]
async fn no_limit_on_upgrades_is_no_limit() {
    let daemon = start(false, |settings| settings.connections.upgrades_per_minute = 0).await;
    for _ in 0..200 {
        assert_eq!(upgrade(&daemon, "").await, 101);
    }
}

/// How many of so many pass, each with what it says of where it comes from.
async fn passed(daemon: &TestDaemon, count: usize, from: impl Fn(usize) -> String) -> [usize; 2] {
    let mut passed = [0; 2];
    for number in 0..count {
        let headers = from(number);
        passed[0] += usize::from(upgrade(daemon, &headers).await == 101);
        passed[1] += usize::from(request(daemon, &headers).await == 200);
    }
    passed
}

fn few(settings: &mut Settings) {
    settings.connections.upgrades_per_minute = FEW as u32;
    settings.connections.http_requests_per_minute = FEW as u32;
}

#[tokio::test]
async fn a_stranger_forges_addresses_in_vain() {
    let daemon = start(false, few).await;
    let forged = |number| {
        format!("{}Forwarded: for=198.51.100.{number}\r\n", forwarded(&format!("203.0.113.{number}")))
    };
    assert_eq!(passed(&daemon, 20, forged).await, [FEW; 2]);
}

#[tokio::test]
async fn hops_before_a_trusted_proxy_are_forged_in_vain() {
    let daemon = start(true, few).await;
    // What the attacker sent itself stands left of its address, which the proxy has added; a second proxy right of that.
    let forged = |number| forwarded(&format!("127.0.0.9, 203.0.113.{number}, 192.0.2.1, 127.0.0.7"));
    assert_eq!(passed(&daemon, 20, forged).await, [FEW; 2]);
    // In lines of their own.
    let lines = |number| forwarded(&format!("203.0.113.{number}")) + &forwarded("192.0.2.1");
    assert_eq!(passed(&daemon, 20, lines).await, [0; 2]);
    // What is no address counts for the proxy, which is one address.
    let garbled = |number| forwarded(&format!("203.0.113.{number}, no address"));
    assert_eq!(passed(&daemon, 20, garbled).await, [FEW; 2]);
    assert_eq!(passed(&daemon, 1, |_| forwarded("192.0.2.2")).await, [1; 2]);
}

#[tokio::test]
async fn ipv6_addresses_are_changed_in_vain_within_a_64_and_gain_little_within_a_48() {
    let daemon = start(true, few).await;
    let within_64 = |number| forwarded(&format!("2001:db8:1:2:{number:x}::{number:x}"));
    assert_eq!(passed(&daemon, 40, within_64).await, [FEW; 2]);
    let within_48 = |number| forwarded(&format!("2001:db8:2:{number:x}::1"));
    assert_eq!(
        passed(&daemon, 40 + FEW * ADDRESSES_PER_SITE, within_48).await,
        [FEW * ADDRESSES_PER_SITE; 2]
    );
    // Others are not touched by it.
    let honest = |number| forwarded(&format!("2001:db8:{:x}::1", 3 + number));
    assert_eq!(passed(&daemon, 40, honest).await, [40; 2]);
}

#[tokio::test]
async fn a_48_holds_no_more_sockets_than_16_addresses() {
    let daemon = start(true, |settings| {
        settings.connections.max_connections_per_address = 2;
        settings.connections.max_connections = 2 * ADDRESSES_PER_SITE + 1;
    })
    .await;
    let mut held = Vec::new();
    let mut refused = 0;
    for number in 0..200 {
        let headers = forwarded(&format!("2001:db8:2:{number:x}::1"));
        let socket = RawTcp::open(daemon.addresses().public, "/ws", &headers).await;
        match socket.status() {
            101 => held.push(socket),
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((held.len(), refused), (2 * ADDRESSES_PER_SITE, 200 - 2 * ADDRESSES_PER_SITE));
    // The last place in all is left for somebody else.
    let mut honest = RawTcp::open(daemon.addresses().public, "/ws", &forwarded("192.0.2.1")).await;
    assert_eq!(honest.hear().await["type"], "server_info");
}

/// Asks for more answers than the kernel takes, and reads none.
async fn deaf(daemon: &TestDaemon) -> TcpStream {
    let address = daemon.addresses().public;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let many = format!("GET /openapi.json HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(1000);
    let asking = async {
        loop {
            stream.write_all(many.as_bytes()).await.unwrap();
        }
    };
    assert!(timeout(3 * SECOND, asking).await.is_err(), "the daemon reads no further");
    stream
}

/// Reads so many bytes; false where the connection ends before.
async fn read(stream: &mut TcpStream, bytes: usize) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        match soon(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => left = left.saturating_sub(read),
        }
    }
    true
}

/// More than the kernel keeps in both directions, so that the daemon has written some of it since.
const PAST_BUFFERS: usize = 32 << 20;

#[tokio::test]
async fn an_answer_that_nobody_reads_ends_its_connection_and_one_that_is_read_slowly_does_not() {
    let daemon = start(false, |_| {}).await;
    let mut stream = deaf(&daemon).await;
    for _ in 0..3 {
        daemon.advance(20 * SECOND);
        assert!(read(&mut stream, PAST_BUFFERS).await, "it is read now and then");
    }
    // Until it does not read any more: then the daemon breaks off.
    let ended = async {
        loop {
            daemon.advance(10 * SECOND);
            if timeout(Duration::from_millis(100), stream.ready(Interest::ERROR)).await.is_ok() {
                return;
            }
        }
    };
    soon(ended).await;
    assert!(!read(&mut stream, 100 * PAST_BUFFERS).await);
    let health: Value = reqwest::get(format!("http://{}/health", daemon.addresses().public))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(health["status"], "healthy");
}

#[tokio::test]
async fn a_socket_has_its_own_time_to_read() {
    let daemon = start(false, |_| {}).await;
    let mut socket = RawTcp::open(daemon.addresses().public, "/ws", "").await;
    socket.hear().await;
    // Not JSON, so that each is answered.
    let many = [0x81, 0x80, 0, 0, 0, 0].repeat(10_000);
    let asking = async {
        loop {
            socket.stream.write_all(&many).await.unwrap();
        }
    };
    assert!(timeout(3 * SECOND, asking).await.is_err(), "the daemon reads no further");
    daemon.advance(50 * SECOND);
    assert!(read(&mut socket.stream, PAST_BUFFERS).await, "the deadline of HTTP is none of its");
}

/// What came of it, and whether it took so long at least: a rest never ends early, whatever else the machine does.
async fn after<T>(least: Duration, done: impl Future<Output = T>) -> T {
    let clock = Clock::system();
    let began = clock.running();
    let done = done.await;
    let took = clock.running() - began;
    assert!(took >= least, "it took {took:?}");
    done
}

/// So that they gain nothing by trying on.
#[tokio::test]
async fn whoever_is_past_a_limit_or_talks_nonsense_at_length_waits_for_each_answer() {
    let daemon = start(false, |settings| {
        settings.connections.messages_per_minute = 2;
        settings.connections.http_requests_per_minute = 1;
        settings.connections.upgrades_per_minute = 4;
    })
    .await;
    let [mut hasty, mut long, mut large, mut honest] = daemon.raws().await;
    let ping = r#"{"type":"ping"}"#;
    for answer in ["pong", "pong"] {
        hasty.send_text(ping).await.unwrap();
        assert_eq!(hear(&mut hasty).await["type"], answer);
    }
    let refused = after(Duration::from_millis(20 * 50), async {
        for _ in 0..20 {
            hasty.send_text(ping).await.unwrap();
        }
        hears_nothing(&mut honest).await;
        for _ in 0..20 {
            assert_eq!(hear(&mut hasty).await["code"], "rate_limited");
        }
    });
    refused.await;
    let nonsense = after(Duration::from_millis(200), async {
        long.send_text("[".repeat(200 * 1024)).await.unwrap();
        assert_eq!(hear(&mut long).await["code"], "invalid_json");
    });
    nonsense.await;
    let too_large = after(Duration::from_millis(500), async {
        large.send_text(" ".repeat(512 * 1024)).await.unwrap();
        assert_eq!(large.closed(SECOND * 10).await.unwrap().0, 1009);
    });
    too_large.await;
    assert_eq!(request(&daemon, "").await, 200);
    assert_eq!(after(Duration::from_millis(50), request(&daemon, "")).await, 429);
    assert_eq!(after(Duration::from_millis(50), upgrade(&daemon, "")).await, 429);
}
