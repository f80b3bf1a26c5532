//! One WebSocket, whatever is spoken on it: strict order, bounded output, liveness, and an orderly end.
//!
//! Owns the socket and everything about time on it. Handles one message at a time, reads a few ahead, feeds the answers
//! of one wake-up and flushes once. Must not know what the messages mean: a `Dialect` does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Bytes, Error, Utf8Bytes};

use super::drain::Token;
use super::upgrade::Socket;
use crate::clock::{Clock, rest};
use crate::limits::{ConnectionLimits, Liveness};
use crate::live::outbox::{Close, Outbox};
use crate::metrics::Ending;

/// Messages read while an earlier one is being handled.
const READ_AHEAD: usize = 16;
/// Bytes of them at which no more are read.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// Frames read before what they caused is flushed: answers to pings count nowhere else.
const FRAMES_PER_FLUSH: usize = 64;
/// Unsent bytes at which a session handles no more messages until the socket takes some.
const ENOUGH_UNSENT: usize = 64 * 1024;
/// How long a close frame may take to go out, and the peer to answer it.
const CLOSING: Duration = Duration::from_secs(2);
/// How long the rest of a refused message is read and thrown away, so that the close frame reaches its sender.
const THROWING_AWAY: Duration = Duration::from_secs(10);

const TOO_LARGE: Close = Close { code: 1009, reason: "message too large", ending: Ending::TooLarge };
const NOT_TEXT: Close = Close { code: 1007, reason: "text is not UTF-8", ending: Ending::NotText };
const BROKEN: Close = Close { code: 1002, reason: "protocol error", ending: Ending::Failed };
const NO_FIRST_MESSAGE: Close =
    Close { code: 1008, reason: "no message in time", ending: Ending::NoFirstMessage };

/// A message as it came: `None` is a binary frame that is not UTF-8.
pub type Incoming = Option<Utf8Bytes>;

/// What a dialect makes of one message.
pub enum Reaction {
    Answer(String),
    /// The answer is on its way; the next message waits for it.
    Later(Pin<Box<dyn Future<Output = String> + Send>>),
    Close(Close),
}

pub trait Dialect: Send {
    fn handle(&mut self, message: Incoming) -> Reaction;
}

pub struct Session<'a, D> {
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
    outbox: &'a Outbox,
    dialect: D,
    clock: Clock,
    token: Token,
    ahead: VecDeque<Incoming>,
    ahead_bytes: usize,
    /// Frames read since the last flush.
    frames: usize,
    in_flight: Option<Pin<Box<dyn Future<Output = String> + Send>>>,
    /// An answer that waits until the socket has taken what was fed before.
    answer: Option<Utf8Bytes>,
    /// Bytes fed to the socket and not yet flushed, and whether anything was fed.
    fed: usize,
    unflushed: bool,
    probes: Vec<oneshot::Sender<()>>,
    pulse: Pulse,
}

/// Time on one socket: when it was last heard, when it is pinged next.
struct Pulse {
    liveness: Liveness,
    last_frame: Duration,
    next_ping: Duration,
    /// Until the first complete message has come.
    first_message_by: Option<Duration>,
}

/// What time asks for.
enum Beat {
    Ping,
    Dead,
    NoFirstMessage,
    Nothing,
}

impl Pulse {
    /// When to look next, at the latest.
    fn deadline(&self) -> Duration {
        let dead = self.last_frame + self.liveness.timeout;
        let first = self.first_message_by.unwrap_or(dead);
        dead.min(self.next_ping).min(first)
    }

    fn beat(&mut self, now: Duration) -> Beat {
        if now >= self.last_frame + self.liveness.timeout {
            Beat::Dead
        } else if self.first_message_by.is_some_and(|by| now >= by) {
            Beat::NoFirstMessage
        } else if now >= self.next_ping {
            self.next_ping = now + self.liveness.ping_interval;
            Beat::Ping
        } else {
            Beat::Nothing
        }
    }
}

impl<'a, D: Dialect> Session<'a, D> {
    pub fn new(
        socket: Socket,
        outbox: &'a Outbox,
        dialect: D,
        clock: Clock,
        token: Token,
        limits: &ConnectionLimits,
        liveness: &Liveness,
    ) -> Session<'a, D> {
        let now = clock.running();
        let (sink, stream) = socket.split();
        Session {
            sink,
            stream,
            outbox,
            dialect,
            clock,
            token,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            frames: 0,
            in_flight: None,
            answer: None,
            fed: 0,
            unflushed: false,
            probes: Vec::new(),
            pulse: Pulse {
                liveness: liveness.clone(),
                last_frame: now,
                next_ping: now + liveness.ping_interval,
                first_message_by: Some(now + limits.first_message_timeout),
            },
        }
    }

    /// Until the socket has ended.
    pub async fn run(mut self, greeting: Utf8Bytes) -> Ended {
        // Set once the daemon ends: whoever does not take its answers is not waited for.
        let mut patience: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        let mut alarm = Box::pin(sleep_until(self.clock.clone(), self.pulse.deadline()));
        if self.feed_text(greeting).await.is_err() {
            return Ended::at_once(Ending::Failed);
        }
        loop {
            if let Err(close) = self.work().await {
                return self.finish(close).await;
            }
            let stopping = patience.is_some();
            if stopping && self.in_flight.is_none() && self.answer.is_none() && self.ahead.is_empty() {
                return self.finish(Close::SHUTDOWN).await;
            }
            let may_read = !self.is_ahead() && self.frames < FRAMES_PER_FLUSH && !stopping;
            tokio::select! {
                biased;
                answer = async { self.in_flight.as_mut().expect("checked by the guard").await }, if self.in_flight.is_some() => {
                    self.in_flight = None;
                    self.answer = Some(answer.into());
                }
                () = self.outbox.woken() => {
                    let taken = self.outbox.take();
                    if let Some(close) = taken.close {
                        return self.finish(close).await;
                    }
                    if !taken.probes.is_empty() && self.probe(taken.probes).is_err() {
                        return Ended::at_once(Ending::Failed);
                    }
                }
                frame = self.stream.next(), if may_read => match self.received(frame) {
                    Ok(()) => {}
                    Err(None) => return Ended::at_once(Ending::Closed),
                    Err(Some(close)) => return self.finish(close).await,
                },
                flushed = self.sink.flush(), if self.unflushed => {
                    if flushed.is_err() {
                        return Ended::at_once(Ending::Failed);
                    }
                    self.outbox.sent(std::mem::take(&mut self.fed));
                    (self.unflushed, self.frames) = (false, 0);
                }
                () = alarm.as_mut() => {
                    match self.pulse.beat(self.clock.running()) {
                        Beat::Dead => return Ended::at_once(Ending::Silent),
                        Beat::NoFirstMessage => return self.finish(NO_FIRST_MESSAGE).await,
                        Beat::Ping => if self.ping().is_err() {
                            return Ended::at_once(Ending::Failed);
                        },
                        Beat::Nothing => {}
                    }
                    alarm.set(sleep_until(self.clock.clone(), self.pulse.deadline()));
                }
                () = self.token.stopped(), if !stopping => patience = Some(Box::pin(rest(CLOSING))),
                () = async { patience.as_mut().expect("checked by the guard").await }, if stopping => {
                    return self.finish(Close::SHUTDOWN).await;
                }
            }
        }
    }

    /// Handles what was read, one message at a time, and feeds what others have sent. Only while little is unsent: then
    /// feeding never waits for the socket, and whatever else concerns it is not held up.
    async fn work(&mut self) -> Result<(), Close> {
        let failed = |_| Close { ending: Ending::Failed, ..BROKEN };
        while self.fed < ENOUGH_UNSENT
            && let Some(text) = self.outbox.next()
        {
            let bytes = text.len();
            self.feed(Message::Text(text)).await.map_err(failed)?;
            self.fed += bytes;
        }
        if self.fed < ENOUGH_UNSENT
            && let Some(answer) = self.answer.take()
        {
            self.feed_text(answer).await.map_err(failed)?;
        }
        while self.in_flight.is_none()
            && self.answer.is_none()
            && self.fed < ENOUGH_UNSENT
            && let Some(message) = self.ahead.pop_front()
        {
            self.ahead_bytes -= message.as_ref().map_or(0, |text| text.len());
            match self.dialect.handle(message) {
                Reaction::Answer(answer) => self.feed_text(answer.into()).await.map_err(failed)?,
                Reaction::Later(mut answer) => match answer.as_mut().now_or_never() {
                    Some(answer) => self.feed_text(answer.into()).await.map_err(failed)?,
                    None => self.in_flight = Some(answer),
                },
                Reaction::Close(close) => return Err(close),
            }
        }
        Ok(())
    }

    async fn feed_text(&mut self, text: Utf8Bytes) -> Result<(), Error> {
        let bytes = text.len();
        self.outbox.count(bytes);
        self.fed += bytes;
        self.feed(Message::Text(text)).await
    }

    async fn feed(&mut self, message: Message) -> Result<(), Error> {
        self.unflushed = true;
        self.sink.feed(message).await
    }

    /// Asks the peer for a sign of life; when so much is unread that no pong could be seen, the peer is alive and it is
    /// this side that is behind.
    fn probe(&mut self, probes: Vec<oneshot::Sender<()>>) -> Result<(), Error> {
        let pinged = !self.probes.is_empty();
        self.probes.extend(probes);
        if self.is_ahead() {
            self.answer_probes();
            return Ok(());
        }
        if pinged { Ok(()) } else { self.ping() }
    }

    /// Whether so much was read and not handled that reading stops.
    fn is_ahead(&self) -> bool {
        self.ahead.len() >= READ_AHEAD || self.ahead_bytes >= READ_AHEAD_BYTES
    }

    /// While the socket takes nothing, a ping would only wait behind the rest, and time on this socket with it: it is
    /// left out.
    fn ping(&mut self) -> Result<(), Error> {
        self.unflushed = true;
        self.sink.feed(Message::Ping(Bytes::new())).now_or_never().unwrap_or(Ok(()))
    }

    fn answer_probes(&mut self) {
        for probe in self.probes.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = probe.send(());
        }
    }

    /// One frame or the end of them: `Err(None)` is an end that needs no close of ours.
    fn received(&mut self, frame: Option<Result<Message, Error>>) -> Result<(), Option<Close>> {
        let message = match frame {
            None => return Err(None),
            Some(Ok(message)) => message,
            Some(Err(Error::Capacity(_))) => return Err(Some(TOO_LARGE)),
            Some(Err(Error::Utf8(_))) => return Err(Some(NOT_TEXT)),
            Some(Err(Error::Protocol(_))) => return Err(Some(BROKEN)),
            Some(Err(_)) => return Err(None),
        };
        self.pulse.last_frame = self.clock.running();
        if self.unflushed {
            self.frames += 1;
        }
        self.answer_probes();
        let incoming = match message {
            Message::Text(text) => Some(text),
            Message::Binary(bytes) => Utf8Bytes::try_from(bytes).ok(),
            // Pongs go out and close frames are answered by tungstenite with the next flush or read.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                self.unflushed = true;
                return Ok(());
            }
        };
        self.pulse.first_message_by = None;
        self.ahead_bytes += incoming.as_ref().map_or(0, |text| text.len());
        self.ahead.push_back(incoming);
        Ok(())
    }

    /// Sends what is queued and the close frame.
    async fn finish(mut self, close: Close) -> Ended {
        let closing = async {
            if close.ending != Ending::SlowConsumer {
                while let Some(text) = self.outbox.next() {
                    self.sink.feed(Message::Text(text)).await?;
                }
            }
            let frame = CloseFrame { code: close.code.into(), reason: Utf8Bytes::from_static(close.reason) };
            self.sink.send(Message::Close(Some(frame))).await
        };
        match timeout(CLOSING, closing).await {
            Ok(Ok(())) => Ended { how: close.ending, closing: self.stream.reunite(self.sink).ok() },
            _ => Ended::at_once(close.ending),
        }
    }
}

/// How a socket has ended, and what is left of it while the peer reads its close frame.
pub struct Ended {
    pub how: Ending,
    closing: Option<Socket>,
}

impl Ended {
    fn at_once(how: Ending) -> Ended {
        Ended { how, closing: None }
    }

    /// Waits for the peer's answer to the close. What is still arriving is read and thrown away: closing a connection
    /// with unread input would take the close frame back from under way.
    pub async fn linger(self) {
        let Some(mut socket) = self.closing else { return };
        if self.how == Ending::TooLarge || self.how == Ending::NotText {
            let thrown_away = async {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(Ok(1..)) = timeout(CLOSING, socket.get_mut().read(&mut buffer)).await {}
            };
            // Whoever goes on sending for longer does not listen.
            let _ = timeout(THROWING_AWAY, thrown_away).await;
        } else {
            let answered = async { while let Some(Ok(_)) = socket.next().await {} };
            // A peer that does not answer the close is left all the same.
            let _ = timeout(CLOSING, answered).await;
        }
    }
}

async fn sleep_until(clock: Clock, deadline: Duration) {
    clock.sleep_until(deadline).await;
}
