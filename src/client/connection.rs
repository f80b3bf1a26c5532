//! The task that keeps one signalling connection.
//!
//! Owns the socket, the order of answers, the pauses between attempts to connect, and what is said again after a
//! reconnect. Must not know what requests and answers mean beyond their `type` and resume token.
#![allow(clippy::disallowed_methods, reason = "a client is an edge: it waits in real time")]

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, protocol::CloseFrame};

use super::signalling::{Match, Push, RendezvousResult, ServerInfo};
use super::{ABNORMAL, ClientError, Refused, Socket, close_of, dial};

/// Requests under way at most; further ones wait.
pub(super) const IN_FLIGHT: usize = 64;
/// The pause before the first attempt to connect again; it doubles from one to the next.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// How long the server may take to answer a close frame.
const GOODBYE: Duration = Duration::from_secs(1);
/// Another connection took the id over: connecting again would take it back, and so forth.
const REPLACED: u16 = 4409;
/// The answers to requests: when one of these is not what is expected, the order is lost.
const ANSWERS: [&str; 6] =
    ["pong", "heartbeat_ack", "registered", "load_updated", "relays", "rendezvous_result"];

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub url: String,
    pub local: Option<IpAddr>,
    pub reconnect: bool,
    pub timeout: Duration,
    pub max_backoff: Duration,
    pub probe_every: Duration,
}

/// What a request registers, and what is registered again after a reconnect, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Peer,
    Code,
    Rendezvous,
}

/// One request on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub text: Utf8Bytes,
    /// The `type` of its answer.
    pub answer: &'static str,
    pub slot: Option<Slot>,
    /// None for what the connection itself says again.
    pub reply: Option<oneshot::Sender<Result<Utf8Bytes, ClientError>>>,
}

/// What the client may look at while the task runs, and after it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub info: Option<ServerInfo>,
    /// Close code and reason.
    pub ended: Option<(u16, String)>,
}

/// Something that was registered: the request as it was made, and the token that stands for it.
struct Standing {
    text: Utf8Bytes,
    answer: &'static str,
    token: Option<String>,
}

/// All that this file needs to know of a message.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "resumeToken", borrow, default)]
    token: Option<Cow<'a, str>>,
}

pub(super) struct Connection {
    options: Options,
    calls: mpsc::Receiver<Call>,
    waiting: VecDeque<Call>,
    standing: [Option<Standing>; 3],
    pushes: broadcast::Sender<Push>,
    state: watch::Sender<State>,
}

impl Connection {
    pub fn new(
        options: Options,
        calls: mpsc::Receiver<Call>,
        pushes: broadcast::Sender<Push>,
        state: watch::Sender<State>,
    ) -> Connection {
        Connection { options, calls, waiting: VecDeque::new(), standing: [None, None, None], pushes, state }
    }

    /// Until the client is dropped, or the connection is lost and is not to be made again.
    pub async fn run(mut self, mut socket: Socket) {
        loop {
            let Some((code, reason)) = self.serve(socket).await else {
                return self.end(1000, "closed by this side");
            };
            if !self.options.reconnect || code == REPLACED {
                return self.end(code, &reason);
            }
            // A violation of the protocol may be one of these requests: repeating it would repeat the close.
            if matches!(code, 1002 | 1003 | 1007..=1009) {
                self.fail_waiting(code, &reason);
            }
            self.push(Push::Lost { code, reason });
            let Some(next) = self.redial().await else { return self.end(1000, "closed by this side") };
            socket = next;
            self.push(Push::Reconnected);
            self.renew();
        }
    }

    /// Serves one socket. None: the client is gone; otherwise the code and reason with which the connection was lost.
    async fn serve(&mut self, socket: Socket) -> Option<(u16, String)> {
        let lost = |error: Error| Some((ABNORMAL, error.to_string()));
        let (mut sink, mut stream) = socket.split();
        let mut probe = tokio::time::interval(self.options.probe_every.max(Duration::from_millis(1)));
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        probe.reset();
        let (mut heard, mut probed) = (true, false);
        let mut unsent = !self.waiting.is_empty();
        let mut spoken = unsent;
        let mut batch = 0;
        for call in &self.waiting {
            if let Err(error) = sink.feed(Message::Text(call.text.clone())).await {
                return lost(error);
            }
        }
        loop {
            tokio::select! {
                frame = stream.next() => {
                    heard = true;
                    match frame {
                        Some(Ok(Message::Text(text))) => {
                            if let Err(complaint) = self.receive(&text) {
                                return Some((CloseCode::Protocol.into(), complaint));
                            }
                        }
                        Some(Ok(Message::Close(frame))) => {
                            let goodbye = async { while let Some(Ok(_)) = stream.next().await {} };
                            let _ = timeout(GOODBYE, goodbye).await;
                            return Some(close_of(frame));
                        }
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return lost(error),
                        None => return Some((ABNORMAL, "the connection broke off".to_owned())),
                    }
                }
                call = self.calls.recv(), if self.waiting.len() < IN_FLIGHT => {
                    if call.is_none() {
                        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
                        let goodbye = async {
                            let _ = sink.send(Message::Close(Some(frame))).await;
                            while let Some(Ok(_)) = stream.next().await {}
                        };
                        let _ = timeout(GOODBYE, goodbye).await;
                        return None;
                    }
                    if batch > 1 || !self.waiting.is_empty() {
                        // Requests are being pipelined: whoever else is about to make one shares this write.
                        tokio::task::yield_now().await;
                    }
                    (unsent, spoken, batch) = (true, true, 0);
                    let mut next = call;
                    while let Some(call) = next {
                        batch += 1;
                        let text = call.text.clone();
                        self.waiting.push_back(call);
                        if let Err(error) = sink.feed(Message::Text(text)).await {
                            return lost(error);
                        }
                        let room = self.waiting.len() < IN_FLIGHT;
                        next = if room { self.calls.try_recv().ok() } else { None };
                    }
                }
                sent = sink.flush(), if unsent => match sent {
                    Ok(()) => unsent = false,
                    Err(error) => return lost(error),
                },
                _ = probe.tick() => {
                    let silent = !std::mem::take(&mut heard);
                    if std::mem::replace(&mut probed, silent) && silent {
                        return Some((ABNORMAL, "the server is silent".to_owned()));
                    }
                    // A server closes a socket that never says anything.
                    if silent || !spoken {
                        let text = Utf8Bytes::from_static(r#"{"type":"ping"}"#);
                        self.waiting.push_back(Call { text: text.clone(), answer: "pong", slot: None, reply: None });
                        if let Err(error) = sink.feed(Message::Text(text)).await {
                            return lost(error);
                        }
                        (unsent, spoken) = (true, true);
                    }
                }
            }
        }
    }

    /// One message of the server. An error is a complaint about it, after which nothing it says can be matched.
    fn receive(&mut self, text: &Utf8Bytes) -> Result<(), String> {
        let envelope: Envelope = decode(text)?;
        let kind = &*envelope.kind;
        match kind {
            "server_info" => {
                let info = decode(text)?;
                self.state.send_modify(|state| state.info = Some(info));
            }
            "rendezvous_match" => {
                #[derive(Deserialize)]
                struct Found {
                    r#match: Match,
                }
                let found: Found = decode(text)?;
                self.push(Push::Match(found.r#match));
            }
            "error" | "code_collision" => {
                let mut refused: Refused = decode(text)?;
                if kind != "error" {
                    refused.code = kind.to_owned();
                }
                // Without an outstanding request it is about nothing that anybody waits for.
                match self.waiting.pop_front() {
                    Some(Call { reply: Some(reply), .. }) => drop(reply.send(Err(refused.into()))),
                    Some(Call { slot: Some(_), .. }) => {
                        self.push(Push::NotRenewed { message: refused.message, code: refused.code });
                    }
                    Some(_) | None => {}
                }
            }
            _ if ANSWERS.contains(&kind) => {
                let token = envelope.token.map(Cow::into_owned);
                let Some(call) = self.waiting.pop_front() else {
                    return Err(format!("\"{kind}\" answers nothing"));
                };
                if call.answer != kind {
                    let complaint = format!("\"{kind}\" in place of \"{}\"", call.answer);
                    if let Some(reply) = call.reply {
                        let _ = reply.send(Err(ClientError::Protocol(complaint.clone())));
                    }
                    return Err(complaint);
                }
                self.answered(call, token, text)?;
            }
            _ => {
                let value = decode(text)?;
                self.push(Push::Other(value));
            }
        }
        Ok(())
    }

    fn answered(&mut self, call: Call, token: Option<String>, text: &Utf8Bytes) -> Result<(), String> {
        let again = call.reply.is_none();
        if let Some(slot) = call.slot {
            let standing = &mut self.standing[slot as usize];
            let token = token.or_else(|| standing.take().and_then(|before| before.token));
            *standing = Some(Standing { text: call.text, answer: call.answer, token });
            if again && matches!(slot, Slot::Rendezvous) {
                let result: RendezvousResult = decode(text)?;
                self.push(Push::Renewed(result));
            }
        }
        if let Some(reply) = call.reply {
            // Whoever asked may have given up.
            let _ = reply.send(Ok(text.clone()));
        }
        Ok(())
    }

    /// Puts what was registered before whatever waits, and drops what nobody waits for any more.
    fn renew(&mut self) {
        self.waiting.retain(|call| call.reply.as_ref().is_some_and(|reply| !reply.is_closed()));
        for slot in [Slot::Rendezvous, Slot::Code, Slot::Peer] {
            let Some(standing) = &self.standing[slot as usize] else { continue };
            let text = with_token(&standing.text, standing.token.as_deref());
            let call = Call { text, answer: standing.answer, slot: Some(slot), reply: None };
            self.waiting.push_front(call);
        }
    }

    /// Until there is a new socket; None when the client is gone.
    async fn redial(&mut self) -> Option<Socket> {
        let mut pause = FIRST_BACKOFF.min(self.options.max_backoff);
        loop {
            self.pause(pause.mul_f64(rand::random_range(0.5..=1.0))).await?;
            pause = (pause * 2).min(self.options.max_backoff);
            let attempt = dial(&self.options.url, self.options.local);
            match timeout(self.options.timeout, attempt).await {
                Ok(Ok(socket)) => return Some(socket),
                Ok(Err(error)) => tracing::debug!(url = self.options.url, %error, "cannot reconnect yet"),
                Err(_) => tracing::debug!(url = self.options.url, "no answer to an attempt to reconnect"),
            }
        }
    }

    /// Waits, collecting requests meanwhile; None when the client is gone.
    async fn pause(&mut self, time: Duration) -> Option<()> {
        let over = tokio::time::sleep(time);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return (!self.calls.is_closed()).then_some(()),
                call = self.calls.recv(), if self.waiting.len() < IN_FLIGHT => self.waiting.push_back(call?),
            }
        }
    }

    fn push(&self, push: Push) {
        // The receiver lives in the client; when it is gone, so is the interest.
        let _ = self.pushes.send(push);
    }

    fn fail_waiting(&mut self, code: u16, reason: &str) {
        for reply in self.waiting.drain(..).filter_map(|call| call.reply) {
            let _ = reply.send(Err(ClientError::Closed { code, reason: reason.to_owned() }));
        }
    }

    fn end(mut self, code: u16, reason: &str) {
        self.state.send_modify(|state| state.ended = Some((code, reason.to_owned())));
        self.calls.close();
        while let Ok(call) = self.calls.try_recv() {
            self.waiting.push_back(call);
        }
        self.fail_waiting(code, reason);
    }
}

fn decode<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The request with this resume token in place of whatever it was made with.
fn with_token(text: &Utf8Bytes, token: Option<&str>) -> Utf8Bytes {
    let request = serde_json::from_str(text).ok();
    let (Some(token), Some(serde_json::Value::Object(mut map))) = (token, request) else {
        return text.clone();
    };
    map.insert("resumeToken".to_owned(), token.into());
    serde_json::Value::Object(map).to_string().into()
}
