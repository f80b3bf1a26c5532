//! Owns HTTP/1.1 by hand, as little of it as the daemon's answers need. Must not know what is asked.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One HTTP/1.1 connection that is kept alive. It takes little of the machine that it shares with the daemon.
pub struct Http {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Http {
    pub async fn connect(address: SocketAddr) -> Http {
        let stream = TcpStream::connect(address).await.expect("the daemon accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        Http { stream, answer: Vec::with_capacity(1 << 18) }
    }

    /// Sends a request and reads its answer, which is 200; tells its body.
    pub async fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.stream.write_all(request).await.expect("the daemon reads");
        self.answer.clear();
        let head = self.line_end(0, b"\r\n\r\n").await;
        let text = std::str::from_utf8(&self.answer[..head]).expect("a head in ASCII");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().expect("a length"))
        });
        if let Some(length) = length {
            self.fill(head + length).await;
            return self.answer[head..].to_vec();
        }
        let (mut body, mut at) = (Vec::new(), head);
        loop {
            let start = self.line_end(at, b"\r\n").await;
            let size = std::str::from_utf8(&self.answer[at..start - 2]).expect("a chunk's size");
            let size = usize::from_str_radix(size, 16).expect("a chunk's size");
            at = start + size + 2;
            self.fill(at).await;
            body.extend_from_slice(&self.answer[start..start + size]);
            if size == 0 {
                return body;
            }
        }
    }

    /// Reads until `end` has come; tells the place behind it.
    async fn line_end(&mut self, from: usize, end: &[u8]) -> usize {
        loop {
            if let Some(at) = self.answer[from..].windows(end.len()).position(|bytes| bytes == end) {
                return from + at + end.len();
            }
            self.fill(self.answer.len() + 1).await;
        }
    }

    async fn fill(&mut self, length: usize) {
        while self.answer.len() < length {
            let read = self.stream.read_buf(&mut self.answer).await.expect("the daemon answers");
            assert!(read > 0, "the daemon keeps the connection");
        }
    }
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

pub fn heartbeat(id: &str) -> Vec<u8> {
    let body = format!(r#"{{"peerId":"{id}"}}"#);
    let length = body.len();
    format!("POST /heartbeat HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}
