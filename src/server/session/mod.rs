//! One WebSocket, whatever is spoken on it: strict order, bounded output, liveness, and an orderly end.
//!
//! Owns the socket and everything about time on it. Handles one message at a time, reads a few ahead, feeds the answers
//! of one wake-up and flushes once. Must not know what the messages mean: a `Dialect` does.

mod dialect;
mod ending;
mod probing;
mod pulse;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::sink::Feed;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::arriving::Share;
use super::drain::Token;
use super::socket::Socket;
use crate::clock::{Clock, rest};
use crate::live::outbox::{Close, GOING_AWAY, Outbox, weight};
use crate::metrics::Ending;
pub use dialect::{Dialect, Incoming, Later, Reaction, Rules, bytes_of};
pub use ending::Ended;
use ending::{CLOSING, Over};
pub use pulse::Patience;
use pulse::{Beat, Pulse};

/// Messages read while an earlier one is being handled.
const READ_AHEAD: usize = 16;
/// Bytes of them at which no more are read.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// Frames read before it is tried to flush what is there to send: whoever goes on sending is to hear as well.
const FRAMES_PER_FLUSH: usize = 64;
/// Pings read before their pongs are flushed: they count nowhere else.
const PINGS_PER_FLUSH: usize = 64;
/// Unsent bytes at which a session sends and answers no more until the socket takes some.
const ENOUGH_UNSENT: usize = 64 * 1024;

const TOO_LARGE: Close = Close { code: 1009, reason: "message too large", ending: Ending::TooLarge };
/// For who is still sending, when all who are have too much.
const TOO_MUCH: Close = Close { code: 1013, reason: "overloaded", ending: Ending::Unavailable };
pub const BROKEN: Close = Close { code: 1002, reason: "protocol error", ending: Ending::Failed };
const NO_FIRST_MESSAGE: Close =
    Close { code: 1008, reason: "no message in time", ending: Ending::NoFirstMessage };

/// Until the socket has room for a message.
type Feeding<'a> = Feed<'a, SplitSink<Socket, Message>, Message>;

pub struct Session<'a, D> {
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
    outbox: &'a Outbox,
    dialect: D,
    clock: Clock,
    token: Token,
    rules: Rules,
    /// Each with the age of what comes behind it.
    ahead: VecDeque<(Incoming, u64)>,
    ahead_bytes: usize,
    share: Arc<Share>,
    /// The bytes of the message that is being handled, and the age of what comes behind it.
    handling: Option<(usize, u64)>,
    /// Frames read since it was last tried to flush, and pings since the last flush.
    frames: usize,
    pinged: usize,
    in_flight: Option<Later>,
    /// What came of it, waiting until the socket has taken what was fed before.
    landed: Option<Reaction>,
    /// Bytes fed to the socket and not yet flushed, and whether anything was fed.
    fed: usize,
    unflushed: bool,
    /// Each with the number of the ping that asks.
    probes: Vec<(u64, oneshot::Sender<()>)>,
    pings: u64,
    /// A ping is due and the socket took none.
    ping_owed: bool,
    pulse: Pulse,
    /// The code of the peer's close frame.
    peer_code: Option<u16>,
    /// Nothing more is read, and this is how it ends once all that was read is handled.
    over: Option<Over>,
}

impl<'a, D: Dialect> Session<'a, D> {
    pub fn new(
        socket: Box<Socket>,
        outbox: &'a Arc<Outbox>,
        dialect: D,
        clock: Clock,
        token: Token,
        rules: Rules,
    ) -> Session<'a, D> {
        let share = socket.share.clone();
        share.evicted_by({
            let outbox = outbox.clone();
            move || outbox.close(TOO_MUCH)
        });
        let (sink, stream) = (*socket).split();
        let Rules { ping_interval, patience, first_message_within, .. } = rules;
        Session {
            sink,
            stream,
            outbox,
            dialect,
            pulse: Pulse::new(clock.running(), ping_interval, patience, first_message_within),
            clock,
            token,
            rules,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            share,
            handling: None,
            frames: 0,
            pinged: 0,
            in_flight: None,
            landed: None,
            fed: 0,
            unflushed: false,
            probes: Vec::new(),
            pings: 0,
            ping_owed: false,
            peer_code: None,
            over: None,
        }
    }

    /// Until the socket has ended. Idle sockets are many, so what one holds is kept small: what is only needed at the end
    /// is boxed then.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds what it is given twice")]
    pub fn run(mut self, greeting: Option<Utf8Bytes>) -> impl Future<Output = Ended> + Send {
        async move {
            let greeted = match greeting {
                Some(greeting) => self.feed_text(greeting).await.is_ok(),
                None => true,
            };
            let over = if greeted { self.talk().await } else { Over::Gone(Ending::Failed) };
            Box::pin(self.end(over)).await
        }
    }

    /// Until it is over, and how.
    async fn talk(&mut self) -> Over {
        // Set once the daemon ends: whoever does not take its answers is not waited for.
        let mut patience: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        let clock = self.clock.clone();
        let mut alarm = Box::pin(clock.sleep_until(self.pulse.deadline()));
        let mut woken = false;
        loop {
            match self.work().await {
                Ok(()) => {}
                Err(Over::Close(close)) => return Over::Close(close),
                Err(gone) => self.over(gone),
            }
            if self.unflushed
                && self.frames >= FRAMES_PER_FLUSH
                && let Some(flushed) = self.sink.flush().now_or_never()
            {
                self.flushed(flushed);
            }
            self.frames %= FRAMES_PER_FLUSH;
            let stopping = patience.is_some();
            if self.is_idle() {
                match self.over {
                    Some(over) => return over,
                    None if stopping => return Over::Close(self.rules.shutdown),
                    None => {}
                }
            }
            // After a wake-up everything else has its turn, however often others wake this.
            let rested = !std::mem::take(&mut woken);
            let may_read = self.may_read() && !stopping && self.over.is_none();
            tokio::select! {
                biased;
                reaction = async { self.in_flight.as_mut().expect("checked by the guard").await }, if self.in_flight.is_some() => {
                    self.in_flight = None;
                    self.handled();
                    self.landed = Some(reaction);
                }
                () = self.outbox.woken(), if rested => {
                    woken = true;
                    if !D::ANSWERS {
                        self.look();
                    }
                    let taken = self.outbox.take();
                    if taken.last_word {
                        self.pulse.end_within(self.rules.ping_interval, self.clock.running());
                    }
                    if let Some(close) = taken.close {
                        return Over::Close(close);
                    }
                    if !taken.probes.is_empty() && self.probe(taken.probes).is_err() {
                        self.over(Over::Gone(Ending::Failed));
                    }
                }
                // Before the socket, which may always have more.
                () = alarm.as_mut() => {
                    match self.pulse.beat(self.clock.running()) {
                        Beat::Dead if self.is_held_up() => self.pulse.heard(self.clock.running()),
                        Beat::Dead => return self.rules.silent.map_or(Over::Gone(Ending::Silent), Over::Close),
                        Beat::NoFirstMessage => return Over::Close(NO_FIRST_MESSAGE),
                        Beat::Ping => if self.ping().is_err() {
                            self.over(Over::Gone(Ending::Failed));
                        },
                        Beat::Nothing => {}
                    }
                    alarm.set(clock.sleep_until(self.pulse.deadline()));
                }
                () = self.token.stopped(), if !stopping => patience = Some(Box::pin(rest(CLOSING))),
                frame = self.stream.next(), if may_read => if let Err(over) = self.received(frame) {
                    self.over(over);
                },
                flushed = self.sink.flush(), if self.unflushed => self.flushed(flushed),
                () = async { patience.as_mut().expect("checked by the guard").await }, if stopping => {
                    return Over::Close(self.rules.shutdown);
                }
                () = std::future::ready(()), if !rested => {}
            }
        }
    }

    /// The socket has taken what was fed, or will take nothing any more.
    fn flushed(&mut self, flushed: Result<(), Error>) {
        self.outbox.sent(std::mem::take(&mut self.fed));
        (self.unflushed, self.frames, self.pinged) = (false, 0, 0);
        if flushed.is_err() || self.catch_up_on_ping().is_err() {
            self.over(Over::Gone(Ending::Failed));
        }
    }

    /// Handles what was read, one message at a time, and feeds what others have sent, that before an answer which came after
    /// it. Only while little is unsent: then feeding never waits for the socket, and nothing else is held up.
    async fn work(&mut self) -> Result<(), Over> {
        loop {
            self.feed_queued().await?;
            if !self.may_handle() || self.in_flight.is_some() {
                break;
            } else if let Some(reaction) = self.landed.take() {
                self.react(reaction).await?;
            } else if let Some((message, age)) = self.ahead.pop_front() {
                let bytes = bytes_of(&message);
                self.ahead_bytes -= bytes;
                self.handling = Some((bytes, age));
                let reaction = self.dialect.handle(message);
                self.react(reaction).await?;
                if self.in_flight.is_none() {
                    self.handled();
                }
            } else {
                break;
            }
        }
        // The last word is said when everything before it is on its way.
        if self.fed == 0
            && let Some(close) = self.outbox.last_word()
        {
            return Err(Over::Close(close));
        }
        Ok(())
    }

    /// What was being handled is.
    fn handled(&mut self) {
        if let Some((bytes, age)) = self.handling.take() {
            self.share.handled(bytes, age);
        }
    }

    async fn feed_queued(&mut self) -> Result<(), Error> {
        while self.may_feed()
            && let Some(text) = self.outbox.next()
        {
            self.fed += weight(&text);
            self.feed(Message::Text(text)).await?;
        }
        while self.may_feed()
            && let Some(text) = self.dialect.next()
        {
            self.feed_text(text).await?;
        }
        Ok(())
    }

    async fn react(&mut self, reaction: Reaction) -> Result<(), Over> {
        match reaction {
            Reaction::Nothing => {}
            Reaction::Answer(answer) => self.feed_text(answer.into()).await?,
            Reaction::Close(close) => return Err(Over::Close(close)),
            Reaction::Later(mut later) => match later.as_mut().now_or_never() {
                Some(at_once) => self.landed = Some(at_once),
                None => self.in_flight = Some(later),
            },
        }
        Ok(())
    }

    /// Whether there is somebody to take more.
    fn may_feed(&self) -> bool {
        self.fed < ENOUGH_UNSENT && self.over.is_none() && self.peer_code.is_none()
    }

    fn may_read(&self) -> bool {
        !self.is_ahead() && self.pinged < PINGS_PER_FLUSH
    }

    fn may_handle(&self) -> bool {
        self.fed < ENOUGH_UNSENT || !D::ANSWERS
    }

    fn feed_text(&mut self, text: Utf8Bytes) -> Feeding<'_> {
        self.outbox.count(weight(&text));
        self.fed += weight(&text);
        self.feed(Message::Text(text))
    }

    fn feed(&mut self, message: Message) -> Feeding<'_> {
        self.unflushed = true;
        self.sink.feed(message)
    }

    /// Whether so much was read and not handled that reading stops.
    fn is_ahead(&self) -> bool {
        self.ahead.len() >= READ_AHEAD || self.ahead_bytes >= READ_AHEAD_BYTES
    }

    /// Whether it is this side that does not read, because others have to take first what was read. A peer that does not
    /// take its own answers is none of that.
    fn is_held_up(&self) -> bool {
        self.in_flight.is_some() && !D::ANSWERS && (self.is_ahead() || self.over.is_some())
    }

    /// Whether everything that was read is handled.
    fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.landed.is_none() && self.ahead.is_empty()
    }

    /// One frame or the end of them.
    fn received(&mut self, frame: Option<Result<Message, Error>>) -> Result<(), Over> {
        let message = match frame {
            Some(Ok(message)) => message,
            Some(Err(Error::Capacity(_))) => return Err(Over::Close(TOO_LARGE)),
            Some(Err(Error::Utf8(_))) => return Err(Over::Close(self.rules.not_text)),
            Some(Err(Error::Protocol(error))) if error != ProtocolError::ResetWithoutClosingHandshake => {
                return Err(Over::Close(BROKEN));
            }
            None | Some(Err(_)) => return Err(Over::Gone(Ending::Closed)),
        };
        self.pulse.heard(self.clock.running());
        self.outbox.hear();
        self.frames += 1;
        let incoming = match message {
            Message::Text(text) => Ok(text),
            Message::Binary(bytes) => {
                let length = bytes.len();
                Utf8Bytes::try_from(bytes).map_err(|_| length)
            }
            Message::Pong(payload) => {
                if let Ok(number) = payload.as_ref().try_into() {
                    self.answer_probes(u64::from_be_bytes(number));
                }
                return Ok(());
            }
            Message::Close(frame) => {
                // Answered by tungstenite with the next flush or read, as pings are.
                self.peer_code = Some(frame.map_or(GOING_AWAY, |frame| frame.code.into()));
                self.unflushed = true;
                return Ok(());
            }
            Message::Ping(_) => {
                self.pinged += 1;
                self.unflushed = true;
                return Ok(());
            }
            // Never read, only made by hand.
            Message::Frame(_) => return Ok(()),
        };
        self.pulse.heard_message();
        self.ahead_bytes += bytes_of(&incoming);
        self.ahead.push_back((incoming, self.share.age()));
        Ok(())
    }

    /// Nothing more is to be read. The first end counts.
    fn over(&mut self, over: Over) {
        if D::ANSWERS {
            self.ahead.clear();
            (self.in_flight, self.landed) = (None, None);
        }
        self.over.get_or_insert(over);
    }
}
