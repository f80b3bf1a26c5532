//! Link's two legs (protocol: link, sections 2 to 4).
//!
//! Owns what becomes of each frame: a phone's goes into an envelope, a binary's comes out of one. Must not know who may
//! hold a server-id, nor what waits for whom: the engine and the slot do. No body, token or id is ever logged.

use std::net::IpAddr;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::super::App;
use super::super::drain::Token;
use super::super::session::{Dialect, Ended, Incoming, Patience, Reaction, Rules, Session};
use super::super::socket::Socket;
use crate::engine::{Held, Unavailable};
use crate::id::{LinkId, SocketId};
use crate::limits::LinkRules;
use crate::live::link::{Attached, Delivered, Forwarded};
use crate::live::outbox::{Close, GOING_AWAY};
use crate::metrics::{Counted, Dropped, DroppedLabel, Ending, EndingLabel};
use crate::wire::link::{CloseCode, Envelope, envelope, is_json};

const NOT_TEXT: Close = Close { code: 1007, reason: "text is not UTF-8", ending: Ending::NotText };
const NOT_JSON: Close = Close { code: 1007, reason: "frame is not JSON", ending: Ending::NotJson };
const OVERLOADED: Close = Close { code: 1013, reason: "overloaded", ending: Ending::Unavailable };
const STORAGE_UNAVAILABLE: Close =
    Close { code: 1013, reason: "storage unavailable", ending: Ending::Unavailable };

fn rules(link: &LinkRules, not_text: Close) -> Rules {
    Rules {
        ping_interval: link.ping_interval,
        patience: Patience::SincePing(link.pong_timeout),
        first_message_within: None,
        silent: Some(Close::HEARTBEAT_TIMEOUT),
        not_text,
        shutdown: Close::SHUTTING_DOWN,
    }
}

/// How a socket is closed that gets nothing.
fn refusal(why: Result<Close, Unavailable>) -> Close {
    match why {
        Ok(close) => close,
        Err(Unavailable::Overloaded) => OVERLOADED,
        Err(Unavailable::Storage) => STORAGE_UNAVAILABLE,
        Err(Unavailable::Stopped) => Close::SHUTTING_DOWN,
    }
}

fn note(app: &App, socket: SocketId, address: IpAddr, ended: &Ended) {
    app.metrics.ended.get_or_create(&EndingLabel { reason: ended.how }).inc();
    app.abuse.ended(ended, address);
    tracing::debug!(socket = socket.0, how = ?ended.how, "a socket ended");
}

/// One binary from its upgrade to its end.
pub async fn serve_binary(socket: Box<Socket>, app: &App, address: IpAddr, id: LinkId, mut token: Token) {
    let (joined, counted) = (app.engine.join(address), Counted::one(&app.metrics.connections));
    // Shutting down waits until the peer has read why, too.
    let _lingering = token.clone();
    let claimed = tokio::select! {
        claimed = app.engine.claim(&joined.outbox, &id) => claimed.map_err(refusal),
        () = token.stopped() => Err(Close::SHUTTING_DOWN),
    };
    let rules = rules(&app.limits.link, NOT_TEXT);
    let clock = app.clock.clone();
    let ended = match claimed {
        Ok(held) => {
            let _connected = Counted::one(&app.metrics.binaries);
            held.slot.open(held.generation);
            let leg = Binary { app, held, socket: joined.outbox.socket, told: false };
            Session::new(socket, &joined.outbox, leg, clock, token, rules).run(None).await
        }
        Err(close) => Session::new(socket, &joined.outbox, Nobody, clock, token, rules).refuse(close).await,
    };
    note(app, joined.outbox.socket, address, &ended);
    // The grace begins before the peer has read why.
    drop((joined, counted));
    ended.linger().await;
}

/// One phone from its upgrade to its end.
pub async fn serve_phone(socket: Box<Socket>, app: &App, address: IpAddr, id: LinkId, token: Token) {
    let (joined, counted) = (app.engine.join_phone(address), Counted::one(&app.metrics.connections));
    let _lingering = token.clone();
    let attached = app.engine.attach(&joined.outbox, &id).await.map_err(refusal);
    let rules = rules(&app.limits.link, Close { reason: NOT_JSON.reason, ..NOT_TEXT });
    let clock = app.clock.clone();
    let ended = match attached {
        Ok(attached) => {
            let _connected = Counted::one(&app.metrics.phones);
            let leg = Phone { app, attached: &attached };
            let ended = Session::new(socket, &joined.outbox, leg, clock, token, rules).run(None).await;
            attached.leave(ended.code.unwrap_or(GOING_AWAY));
            ended
        }
        Err(close) => Session::new(socket, &joined.outbox, Nobody, clock, token, rules).refuse(close).await,
    };
    note(app, joined.outbox.socket, address, &ended);
    drop((joined, counted));
    ended.linger().await;
}

/// The leg of a socket that is closed before anything is said on it.
struct Nobody;

impl Dialect for Nobody {
    const ANSWERS: bool = false;

    fn handle(&mut self, _: Incoming) -> Reaction {
        Reaction::Nothing
    }
}

struct Binary<'a> {
    app: &'a App,
    held: Held,
    socket: SocketId,
    /// Whether the log has been told of something that was dropped.
    told: bool,
}

impl Dialect for Binary<'_> {
    const ANSWERS: bool = false;

    fn handle(&mut self, message: Incoming) -> Reaction {
        match message.as_deref().ok().and_then(Envelope::parse) {
            Some(envelope) => self.open(&envelope),
            None => self.dropped(Dropped::Malformed),
        }
        self.app.engine.relieve();
        Reaction::Nothing
    }

    fn next(&mut self) -> Option<Utf8Bytes> {
        self.held.slot.next(self.held.generation)
    }
}

impl Binary<'_> {
    fn open(&mut self, envelope: &Envelope<'_>) {
        let Held { slot, generation } = &self.held;
        let conn_id = &*envelope.conn_id;
        let frame = envelope.frame.map(|frame| slot.deliver(*generation, conn_id, frame.get()));
        let close = match envelope.close_code() {
            CloseCode::None => None,
            CloseCode::Code(code) => {
                let close = Close { code, reason: "", ending: Ending::ByBinary };
                Some(slot.dismiss(*generation, conn_id, close))
            }
            CloseCode::Invalid => {
                self.dropped(Dropped::CloseCode);
                None
            }
        };
        // A phone that is being closed for its backlog is counted there.
        if frame.or(close) == Some(Delivered::Unknown) {
            self.dropped(Dropped::UnknownConnId);
        }
    }

    /// Logged once for each socket, counted always.
    fn dropped(&mut self, what: Dropped) {
        self.app.metrics.dropped.get_or_create(&DroppedLabel { what }).inc();
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(socket = self.socket.0, ?what, "something that a binary sent was dropped");
        }
    }
}

struct Phone<'a> {
    app: &'a App,
    attached: &'a Attached,
}

impl Dialect for Phone<'_> {
    const ANSWERS: bool = false;

    fn handle(&mut self, message: Incoming) -> Reaction {
        let Some(frame) = message.ok().filter(|text| is_json(text)) else { return Reaction::Close(NOT_JSON) };
        let Attached { slot, conn_id, .. } = self.attached;
        let text = Utf8Bytes::from(envelope(conn_id, &frame));
        let reaction = match slot.forward(conn_id, &text, frame.len()) {
            Forwarded::Done | Forwarded::Gone => Reaction::Nothing,
            Forwarded::Full => Reaction::Close(Close::BACKLOG_FULL),
            Forwarded::Wait(room) => {
                let (slot, conn_id, bytes) = (slot.clone(), conn_id.clone(), frame.len());
                Reaction::Later(Box::pin(async move {
                    let mut room = room;
                    loop {
                        room.notified().await;
                        room = match slot.forward(&conn_id, &text, bytes) {
                            Forwarded::Done | Forwarded::Gone => return Reaction::Nothing,
                            Forwarded::Full => return Reaction::Close(Close::BACKLOG_FULL),
                            Forwarded::Wait(room) => room,
                        };
                    }
                }))
            }
        };
        self.app.engine.relieve();
        reaction
    }
}
