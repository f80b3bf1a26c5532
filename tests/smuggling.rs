//! Owns the proof that no request hides in another on either listener: where a length can be read in two ways, by whoever
//! stands in front of the daemon, one request is answered at most, and nothing behind it is taken for the next.

#[path = "common/daemon.rs"]
mod daemon;

use std::net::SocketAddr;

use daemon::{TestDaemon, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What would be answered with a document that nothing else is answered with.
fn hidden(address: SocketAddr) -> String {
    format!("GET /hidden HTTP/1.1\r\nHost: {address}\r\n\r\n")
}

/// All that is answered to these bytes until the daemon closes.
async fn answers(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    // Nothing more is to come; whatever the daemon still waits for is none.
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    // A reset after a refusal ends it as well.
    let _ = soon(stream.read_to_end(&mut heard)).await;
    String::from_utf8_lossy(&heard).into_owned()
}

fn statuses(heard: &str) -> Vec<u16> {
    heard.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

fn listeners(daemon: &TestDaemon) -> [SocketAddr; 2] {
    [daemon.addresses().public, daemon.addresses().admin]
}

/// A path that either listener answers with 200 to a GET.
fn path(daemon: &TestDaemon, address: SocketAddr) -> &'static str {
    if address == daemon.addresses().admin { "/livez" } else { "/health" }
}

#[tokio::test]
async fn the_test_sees_two_requests_where_there_are_two() {
    let daemon = TestDaemon::start().await;
    for address in listeners(&daemon) {
        let first = format!("GET {} HTTP/1.1\r\nHost: {address}\r\n", path(&daemon, address));
        let length = "Content-Length: 2\r\n\r\n{}";
        for plain in
            [format!("{first}\r\n{}", hidden(address)), format!("{first}{length}{}", hidden(address))]
        {
            let heard = answers(address, &plain).await;
            let second = if address == daemon.addresses().admin { 401 } else { 404 };
            assert_eq!(statuses(&heard), [200, second], "{plain}: {heard}");
        }
    }
}

#[tokio::test]
async fn a_body_of_two_lengths_hides_no_request() {
    let daemon = TestDaemon::start().await;
    for address in listeners(&daemon) {
        let hidden = hidden(address);
        let whole = hidden.len();
        let lengths = [
            format!("Content-Length: 0\r\nContent-Length: {whole}\r\n"),
            format!("Content-Length: {whole}\r\nContent-Length: 0\r\n"),
            format!("Content-Length: 0, {whole}\r\n"),
            format!("Content-Length: +{whole}\r\n"),
            format!("Content-Length: 0x{whole:x}\r\n"),
            "Content-Length: -1\r\n".to_owned(),
            "Content-Length: 99999999999999999999\r\n".to_owned(),
            "Content-Length:\r\n".to_owned(),
            "Content-Length : 0\r\n".to_owned(),
            " Content-Length: 0\r\n".to_owned(),
            format!("X: y\r\n Content-Length: {whole}\r\n"),
            "Transfer-Encoding : chunked\r\n".to_owned(),
            "Transfer-Encoding: identity\r\n".to_owned(),
            "Transfer-Encoding: xchunked\r\n".to_owned(),
            "Transfer-Encoding: chunked, identity\r\n".to_owned(),
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
            "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
            "X: y\rTransfer-Encoding: chunked\r\n".to_owned(),
            "X: y\0\r\n".to_owned(),
        ];
        for length in lengths {
            let request = format!("POST / HTTP/1.1\r\nHost: {address}\r\n{length}\r\n{hidden}");
            let heard = answers(address, &request).await;
            assert!(matches!(statuses(&heard)[..], [] | [400]), "{length:?}: {heard}");
        }
    }
}

#[tokio::test]
async fn nothing_behind_a_chunked_body_is_a_request() {
    let daemon = TestDaemon::start().await;
    for address in listeners(&daemon) {
        let hidden = hidden(address);
        let (length, chunked) =
            (format!("Content-Length: {}\r\n", 5 + hidden.len()), "Transfer-Encoding: chunked\r\n");
        for heads in [format!("{length}{chunked}"), format!("{chunked}{length}"), chunked.to_owned()] {
            // By the length all of it is one body; by the chunks it ends before what is hidden.
            let first = format!("POST {} HTTP/1.1\r\nHost: {address}\r\n", path(&daemon, address));
            let heard = answers(address, &format!("{first}{heads}\r\n0\r\n\r\n{hidden}")).await;
            let [status] = statuses(&heard)[..] else { panic!("{heads:?}: {heard}") };
            assert!([400, 401, 405].contains(&status), "{heads:?}: {heard}");
            assert!(heard.to_lowercase().contains("connection: close"), "{heads:?}: {heard}");
        }
        for broken in ["zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "1 \n", "2\r\n{}x\r\n"] {
            let request =
                format!("POST / HTTP/1.1\r\nHost: {address}\r\n{chunked}\r\n{broken}0\r\n\r\n{hidden}");
            let heard = answers(address, &request).await;
            assert!(statuses(&heard).len() <= 1, "{broken:?}: {heard}");
        }
    }
}

#[tokio::test]
async fn an_older_protocol_has_no_chunks_and_an_upgrade_takes_no_body_along() {
    let daemon = TestDaemon::start().await;
    for address in listeners(&daemon) {
        let hidden = hidden(address);
        let old = format!(
            "POST / HTTP/1.0\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        );
        let heard = answers(address, &old).await;
        assert_eq!(heard.matches("HTTP/1.").count(), 1, "{heard}");
        assert!(heard.contains(" 400 "), "{heard}");
    }
    // What follows an upgrade are frames, whatever they look like: these are none.
    let address = daemon.addresses().public;
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{}",
        hidden(address)
    );
    let heard = answers(address, &upgrade).await;
    assert_eq!(statuses(&heard), [101], "{heard}");
}
