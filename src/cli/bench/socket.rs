//! A connection that costs little: requests are bytes made beforehand, answers are looked at and not decoded.
//!
//! Owns the bytes of one connection, of a WebSocket or of HTTP/1.1, and the frames of the former; pings are answered as
//! they are read. Must not know what is asked.

use std::future::poll_fn;
use std::io::{self, Cursor};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::task::ready;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_request;
use tokio_tungstenite::tungstenite::http::{Request, StatusCode, Uri};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::http::Answer;
use crate::client::{ClientError, connect};
use crate::wire::http::ErrorBody;

/// Read at once, into the stack: a socket that waits holds no buffer.
const READ_BYTES: usize = 16 * 1024;
/// More than any answer takes.
const LARGEST: u64 = 64 << 20;
/// What hides nothing leaves the bytes as they are; the server unmasks all the same.
const MASK: [u8; 4] = [0; 4];
/// A connection that ended without a close frame, and one whose close frame has no code (RFC 6455).
const ABNORMAL: u16 = 1006;
const NO_CODE: u16 = 1005;

/// What comes without being asked for.
const PUSHES: [&str; 2] = ["rendezvous_match", "server_info"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    WebSocket,
    Http,
}

/// See the module.
pub struct Socket {
    stream: TcpStream,
    framing: Framing,
    /// What has come, of which the first `taken` bytes are done with.
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Socket {
    /// Makes an upgrade, from the given local address if there is one. A refusal has its status as its code.
    pub async fn upgrade(request: Request<()>, local: Option<IpAddr>) -> Result<Socket, ClientError> {
        let mut socket = Socket::open(request.uri(), local, Framing::WebSocket).await?;
        let (bytes, _) = generate_request(request).map_err(|error| ClientError::Unreachable(error.into()))?;
        socket.put(&bytes);
        socket.flush().await?;
        loop {
            socket.fill().await?;
            let Some(head) = Answer::head_at_start(&socket.input)? else { continue };
            if head.status != StatusCode::SWITCHING_PROTOCOLS {
                let message = format!("the server refused the upgrade with status {}", head.status);
                return Err(ClientError::Refused { message, code: head.status.to_string() });
            }
            socket.taken = head.length;
            return Ok(socket);
        }
    }

    /// Connects to the server of an `http://` address.
    pub async fn http(uri: &Uri, local: Option<IpAddr>) -> Result<Socket, ClientError> {
        Socket::open(uri, local, Framing::Http).await
    }

    async fn open(uri: &Uri, local: Option<IpAddr>, framing: Framing) -> Result<Socket, ClientError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = connect(host, uri.port_u16().unwrap_or(80), local).await;
        let stream = stream.map_err(|error| ClientError::Unreachable(error.into()))?;
        Ok(Socket { stream, framing, input: Vec::new(), taken: 0, output: Vec::new() })
    }

    /// Has bytes sent with the next flush, as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends all that was put.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        if self.output.is_empty() {
            return Ok(());
        }
        // Nearly always there is room for all of it.
        match self.stream.try_write(&self.output) {
            Ok(sent) if sent == self.output.len() => {}
            Ok(sent) => self.stream.write_all(&self.output[sent..]).await.map_err(broken)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.stream.write_all(&self.output).await.map_err(broken)?;
            }
            Err(error) => return Err(broken(error)),
        }
        self.output.clear();
        Ok(())
    }

    /// Waits until more has come. Nothing is lost when it is dropped before.
    pub async fn fill(&mut self) -> Result<(), ClientError> {
        if self.taken == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..self.taken);
        }
        self.taken = 0;
        poll_fn(|context| {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read)).map_err(broken)?;
            if read.filled().is_empty() {
                let reason = "the connection broke off".to_owned();
                return Err(ClientError::Closed { code: ABNORMAL, reason }).into();
            }
            self.input.extend_from_slice(read.filled());
            Ok(()).into()
        })
        .await
    }

    /// The next message, or body of an answer, among what has come; [`Socket::text`] has it until the next fill. A
    /// refusal by HTTP status is an error.
    pub fn next(&mut self) -> Result<Option<Range<usize>>, ClientError> {
        match self.framing {
            Framing::WebSocket => self.next_message(),
            Framing::Http => self.next_body(),
        }
    }

    pub fn text(&self, range: Range<usize>) -> &[u8] {
        &self.input[range]
    }

    fn next_message(&mut self) -> Result<Option<Range<usize>>, ClientError> {
        loop {
            let mut cursor = Cursor::new(&self.input[self.taken..]);
            let header = FrameHeader::parse(&mut cursor);
            let header = header.map_err(|error| ClientError::Protocol(error.to_string()))?;
            let Some((header, length)) = header else { return Ok(None) };
            if length > LARGEST {
                return Err(ClientError::Protocol(format!("a message of {length} bytes")));
            }
            let start = self.taken + cursor.position() as usize;
            let payload = start..start + length as usize;
            if payload.end > self.input.len() {
                return Ok(None);
            }
            self.taken = payload.end;
            match header.opcode {
                OpCode::Data(Data::Text) if header.is_final => return Ok(Some(payload)),
                OpCode::Control(Control::Ping) => {
                    frame(OpCode::Control(Control::Pong), &self.input[payload], &mut self.output);
                }
                OpCode::Control(Control::Pong) => {}
                OpCode::Control(Control::Close) => return Err(closed(&self.input[payload])),
                _ => return Err(ClientError::Protocol("a message in parts, or not of text".to_owned())),
            }
        }
    }

    fn next_body(&mut self) -> Result<Option<Range<usize>>, ClientError> {
        let bytes = &self.input[self.taken..];
        let Some(answer) = Answer::at_start(bytes)? else { return Ok(None) };
        if !(200..300).contains(&answer.status) {
            let error: ErrorBody = serde_json::from_slice(&bytes[answer.body.clone()]).unwrap_or_default();
            let code = answer.header("x-error-code").unwrap_or_default().to_owned();
            let message = format!("status {}: {}", answer.status, error.error);
            return Err(ClientError::Refused { message, code });
        }
        let body = self.taken + answer.body.start..self.taken + answer.body.end;
        self.taken += answer.length;
        Ok(Some(body))
    }

    /// Sends bytes, and waits for the message that answers them.
    pub async fn ask(&mut self, request: &[u8], answer: Answered) -> Result<Range<usize>, ClientError> {
        self.put(request);
        self.flush().await?;
        loop {
            while let Some(heard) = self.next()? {
                if answer.by(&self.input[heard.clone()])? {
                    return Ok(heard);
                }
            }
            self.flush().await?;
            self.fill().await?;
        }
    }

    /// Says goodbye, and waits until the server has hung up, however it does that.
    pub async fn close(mut self) {
        if self.framing == Framing::WebSocket {
            let normal = 1000u16.to_be_bytes();
            frame(OpCode::Control(Control::Close), &normal, &mut self.output);
        }
        if self.flush().await.is_ok() && self.stream.shutdown().await.is_ok() {
            while self.fill().await.is_ok() {
                self.taken = self.input.len();
            }
        }
    }
}

/// What the answer to a request is.
#[derive(Clone, Copy, Debug)]
pub enum Answered {
    /// Whatever comes next.
    ByAnything,
    /// A message of this `type`.
    By(&'static str),
}

impl Answered {
    /// Whether this message is the answer; if not, it is a push. Complaints, and answers to something else, are errors.
    pub fn by(self, text: &[u8]) -> Result<bool, ClientError> {
        let Answered::By(kind) = self else { return Ok(true) };
        // As most servers write it.
        let begins = |kind: &str| {
            let rest = text.strip_prefix(br#"{"type":""#).and_then(|rest| rest.strip_prefix(kind.as_bytes()));
            rest.is_some_and(|rest| rest.starts_with(b"\""))
        };
        if begins(kind) {
            return Ok(true);
        }
        if PUSHES.iter().any(|push| begins(push)) {
            return Ok(false);
        }
        #[derive(Deserialize)]
        struct Envelope {
            r#type: String,
            #[serde(default)]
            message: String,
            #[serde(default)]
            code: String,
        }
        let said: Envelope =
            serde_json::from_slice(text).map_err(|error| ClientError::Protocol(error.to_string()))?;
        match said.r#type.as_str() {
            said if said == kind => Ok(true),
            said if PUSHES.contains(&said) => Ok(false),
            "error" | "code_collision" => {
                Err(ClientError::Refused { message: said.message, code: said.code })
            }
            other => Err(ClientError::Protocol(format!("\"{other}\" in place of \"{kind}\""))),
        }
    }
}

/// Appends a text message as a client sends it.
pub fn text_frame(text: &[u8], to: &mut Vec<u8>) {
    frame(OpCode::Data(Data::Text), text, to);
}

fn frame(opcode: OpCode, payload: &[u8], to: &mut Vec<u8>) {
    let header = FrameHeader { opcode, mask: Some(MASK), ..FrameHeader::default() };
    header.format(payload.len() as u64, to).expect("writing to memory does not fail");
    to.extend_from_slice(payload);
}

fn closed(payload: &[u8]) -> ClientError {
    let (code, reason) = match payload {
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        _ => (NO_CODE, &[][..]),
    };
    ClientError::Closed { code, reason: String::from_utf8_lossy(reason).into_owned() }
}

fn broken(error: io::Error) -> ClientError {
    ClientError::Closed { code: ABNORMAL, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_pushes_and_complaints_however_it_is_written() {
        let pong = Answered::By("pong");
        let by = |text: &str| pong.by(text.as_bytes());
        assert!(by(r#"{"type":"pong"}"#).unwrap() && by(r#"{ "x": 1, "type": "pong" }"#).unwrap());
        assert!(!by(r#"{"type":"rendezvous_match","match":{}}"#).unwrap());
        assert!(!by(r#"{"serverId": "s", "type": "server_info"}"#).unwrap());
        let refused = by(r#"{"type":"error","message":"No.","code":"no"}"#);
        assert!(
            matches!(refused, Err(ClientError::Refused { message, code }) if message == "No." && code == "no")
        );
        for text in ["", "[]", r#"{"type":"pongs"}"#, r#"{"type":"registered"}"#] {
            assert!(matches!(by(text), Err(ClientError::Protocol(_))), "{text}");
        }
        assert!(Answered::ByAnything.by(b"7").unwrap());
    }
}
