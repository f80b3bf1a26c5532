//! The signalling dialect's sessions (protocol: signalling).
//!
//! Owns which message goes where and the socket's rate. Must not know registries: it asks the engine.

use std::net::IpAddr;
use std::sync::Arc;

use super::arriving::FREE;
use super::drain::Token;
use super::gate::Permit;
use super::limiter::{Limiter, Verdict};
use super::session::{Dialect, Incoming, Patience, Reaction, Rules, Session, bytes_of};
use super::upgrade::Opening;
use super::{App, pace};
use crate::engine::Engine;
use crate::id::SocketId;
use crate::live::outbox::Close;
use crate::metrics::{Counted, Ending, EndingLabel, ErrorLabel, MessageLabel, Metrics};
use crate::wire::Refusal;
use crate::wire::signalling::{ClientMessage, OfRegistered, ServerMessage, decode, encode};

const RATE_LIMITED: Refusal = Refusal::of("rate_limited", "Rate limit exceeded. Please slow down.");
const TOO_MANY_PAIR_REQUESTS: Refusal =
    Refusal::of("too_many_pair_requests", "Too many pair requests. Please slow down.");
const NOT_TEXT: Close = Close { code: 1007, reason: "text is not UTF-8", ending: Ending::NotText };
const ABUSE: Close = Close { code: 1008, reason: "rate limit exceeded", ending: Ending::Abuse };

/// One socket from its upgrade to its end; until then it has its place among all.
pub async fn serve(opening: Opening, app: Arc<App>, address: IpAddr, token: Token, _permit: Permit) {
    let Some(socket) = opening.socket(&app.arriving, FREE).await else { return };
    let joined = app.engine.join(address);
    let counted = Counted::one(&app.metrics.connections);
    let (messages_per_minute, pair_requests_per_minute) = {
        let connections = &app.changing.load().connections;
        (connections.messages_per_minute, connections.pair_requests_per_minute)
    };
    let dialect = Signalling {
        limiter: Limiter::new(messages_per_minute, app.clock.clone()),
        pair_requests_per_minute,
        pair_limiter: None,
        socket: joined.outbox.socket,
        app: app.clone(),
    };
    let (limits, clock) = (&app.limits, app.clock.clone());
    let rules = Rules {
        ping_interval: limits.liveness.ping_interval,
        patience: Patience::SinceFrame(limits.liveness.timeout),
        first_message_within: Some(limits.connections.first_message_timeout),
        silent: None,
        not_text: NOT_TEXT,
        shutdown: Close::SHUTDOWN,
    };
    // Shutting down waits until the peer has read why, too.
    let _lingering = token.clone();
    let session = Session::new(socket, &joined.outbox, dialect, clock, token, rules);
    let ended = session.run(Some(app.server_info.clone())).await;
    app.metrics.ended.get_or_create(&EndingLabel { reason: ended.how }).inc();
    app.abuse.ended(&ended, address);
    tracing::debug!(socket = joined.outbox.socket.0, how = ?ended.how, "a socket ended");
    // The id is free before the peer has read why.
    drop((joined, counted));
    ended.linger().await;
}

struct Signalling {
    app: Arc<App>,
    socket: SocketId,
    limiter: Limiter,
    pair_requests_per_minute: u32,
    /// Made with the first such request: most sockets never ask to pair.
    pair_limiter: Option<Box<Limiter>>,
}

impl Dialect for Signalling {
    const ANSWERS: bool = true;

    fn handle(&mut self, message: Incoming) -> Reaction {
        let metrics = &self.app.metrics;
        let bytes = bytes_of(&message);
        match self.limiter.check() {
            Verdict::Pass => {}
            Verdict::Drop => {
                let refusal = answer(metrics, RATE_LIMITED.into());
                return Reaction::after(pace::past_rate(bytes), refusal);
            }
            Verdict::Close => return Reaction::Close(ABUSE),
        }
        self.app.handled.inc();
        let message = match decode(message.as_deref().ok(), &self.app.limits.rendezvous) {
            Ok(message) => message,
            Err(refusal) => {
                metrics.messages.get_or_create(&MessageLabel { r#type: "invalid" }).inc();
                let refusal = answer(metrics, refusal.into());
                return if pace::is_long(bytes) {
                    Reaction::after(pace::refused(bytes), refusal)
                } else {
                    Reaction::Answer(refusal)
                };
            }
        };
        metrics.messages.get_or_create(&MessageLabel { r#type: message.kind() }).inc();
        match message {
            ClientMessage::Ping => Reaction::Answer(encode(&ServerMessage::Pong {})),
            ClientMessage::Heartbeat => {
                Reaction::Answer(encode(&ServerMessage::HeartbeatAck { timestamp: self.app.clock.now() }))
            }
            ClientMessage::Register(it) => self.ask(|to, own| async move { to.register(own, it).await }),
            ClientMessage::RegisterCode(it) => {
                self.ask(|to, own| async move { to.register_code(own, it).await })
            }
            ClientMessage::UpdateLoad(it) => self.ask(|to, own| async move { to.update_load(own, it).await }),
            ClientMessage::GetRelays(it) => self.ask(|to, _| async move { to.get_relays(it).await }),
            ClientMessage::RegisterRendezvous(it) => {
                self.ask(|to, own| async move { to.register_rendezvous(own, it).await })
            }
            ClientMessage::PairRequest(it) => {
                let it = self.admit_pairing(it);
                self.ask(|to, own| async move { to.pair_request(own, it).await })
            }
            ClientMessage::PairResponse(it) => {
                self.ask(|to, own| async move { to.pair_response(own, it).await })
            }
            ClientMessage::Forward(signal, it) => {
                self.ask(move |to, own| async move { to.forward(own, signal, it).await })
            }
            ClientMessage::LinkRequest(it) => {
                let it = self.admit_pairing(it);
                self.ask(|to, own| async move { to.link_request(own, it).await })
            }
            ClientMessage::LinkResponse(it) => {
                self.ask(|to, own| async move { to.link_response(own, it).await })
            }
            ClientMessage::ChunkAnnounce(it) => {
                self.ask(|to, own| async move { to.chunk_announce(own, it).await })
            }
            ClientMessage::ChunkRequest(it) => {
                self.ask(|to, own| async move { to.chunk_request(own, it).await })
            }
            ClientMessage::ChunkPush(it) => self.ask(|to, own| async move { to.chunk_push(own, it).await }),
            ClientMessage::ChannelSubscribe(it) => {
                self.ask(|to, own| async move { to.channel_subscribe(own, it).await })
            }
            ClientMessage::ChannelUnsubscribe(it) => {
                self.ask(|to, own| async move { to.channel_unsubscribe(own, it).await })
            }
        }
    }
}

impl Signalling {
    /// Whether nothing is wrong with a pair or link request, its socket's rate included; whether the sender is registered is
    /// looked at before that is told.
    fn admit_pairing<T>(&mut self, request: OfRegistered<T>) -> OfRegistered<T> {
        let limiter = self.pair_limiter.get_or_insert_with(|| {
            Box::new(Limiter::new(self.pair_requests_per_minute, self.app.clock.clone()))
        });
        request.and_then(|request| match limiter.check() {
            Verdict::Pass => Ok(request),
            Verdict::Drop | Verdict::Close => Err(TOO_MANY_PAIR_REQUESTS),
        })
    }

    fn ask<A: Into<Option<ServerMessage>>, F: Future<Output = A> + Send + 'static>(
        &self,
        request: impl FnOnce(Engine, SocketId) -> F,
    ) -> Reaction {
        let metrics = self.app.metrics.clone();
        let asked = request(self.app.engine.clone(), self.socket);
        Reaction::Later(Box::pin(async move {
            match asked.await.into() {
                Some(message) => Reaction::Answer(answer(&metrics, message)),
                None => Reaction::Nothing,
            }
        }))
    }
}

/// Encodes an answer; a refusal is counted.
fn answer(metrics: &Metrics, message: ServerMessage) -> String {
    if let ServerMessage::Error(refusal) = &message {
        let code = match &refusal.code {
            std::borrow::Cow::Borrowed(code) => code,
            std::borrow::Cow::Owned(_) => "other",
        };
        metrics.errors.get_or_create(&ErrorLabel { code }).inc();
    }
    encode(&message)
}
