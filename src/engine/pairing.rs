//! What paired devices ask of the engine: pair and link requests, and what they say to each other (protocol: signalling,
//! section 5).
//!
//! Owns who may ask, and in which order everybody is told. Nothing here is ever written. Must not know sockets beyond their
//! outboxes.

use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Core, Effect, Engine, Promise, Turn};
use crate::id::{PeerId, SocketId, is_pairing_code};
use crate::live::pairing::{Fault, Notice};
use crate::metrics::Undelivered;
use crate::wire::Refusal;
use crate::wire::signalling::{
    Forward, LinkRequest, LinkResponse, OfRegistered, PairRequest, PairResponse, ServerMessage, Signal,
    encode,
};

const NOT_REGISTERED: Refusal = Refusal::of("not_registered", "Not registered. Send register message first.");

const PEER_BUSY: Refusal = Refusal::of("peer_busy", "Peer is busy. Please try again.");

/// What the asker hears, if anything.
type Answer = Result<Option<ServerMessage>, Refusal>;

impl Engine {
    /// `pair_request` (section 5).
    pub async fn pair_request(
        &self,
        socket: SocketId,
        request: OfRegistered<PairRequest>,
    ) -> Option<ServerMessage> {
        self.signal(move |turn| {
            let (own, request) = (turn.registered_code(socket)?, request?);
            let asked = turn.has_room(&request.target);
            let asked = asked.and_then(|()| turn.core.pairing.request(turn.running, &own, request));
            Ok(turn.pass(asked.map(|notice| (notice, None)), pair_error))
        })
        .await
    }

    /// `pair_response` (section 5).
    pub async fn pair_response(
        &self,
        socket: SocketId,
        response: OfRegistered<PairResponse>,
    ) -> Option<ServerMessage> {
        self.signal(move |turn| {
            let own = turn.registered_code(socket)?;
            let answered = turn.core.pairing.respond(turn.running, &own, response?);
            Ok(turn.pass(answered, pair_error))
        })
        .await
    }

    /// `link_request` (section 5).
    pub async fn link_request(
        &self,
        socket: SocketId,
        request: OfRegistered<LinkRequest>,
    ) -> Option<ServerMessage> {
        self.signal(move |turn| {
            let (own, request) = (turn.registered_code(socket)?, request?);
            let asked = turn.has_room(&request.link_code);
            let asked = asked.and_then(|()| turn.core.pairing.request_link(turn.running, &own, request));
            Ok(turn.pass(asked.map(|notice| (notice, None)), link_error))
        })
        .await
    }

    /// `link_response` (section 5).
    pub async fn link_response(
        &self,
        socket: SocketId,
        response: OfRegistered<LinkResponse>,
    ) -> Option<ServerMessage> {
        self.signal(move |turn| {
            let own = turn.registered_code(socket)?;
            let response = response?;
            if response.link_code != own {
                let text = "Cannot respond to link request for another device";
                return Err(Refusal::of("not_your_link", text));
            }
            let answered = turn.core.pairing.respond_link(turn.running, response);
            Ok(turn.pass(answered, link_error))
        })
        .await
    }

    /// `offer`, `answer`, `ice_candidate` and what belongs to calls (section 5). What finds no room at the other end is
    /// refused: nobody is to lose the socket for what others send.
    pub async fn forward(
        &self,
        socket: SocketId,
        signal: Signal,
        request: OfRegistered<Forward>,
    ) -> Option<ServerMessage> {
        self.signal(move |turn| {
            let own = turn.code(socket)?;
            let Forward { target, payload } = request?;
            let target = target.or_else(|| turn.core.pairing.linked_to(&own).cloned());
            let target = target.ok_or(Refusal::of("missing_field", "Missing required field: target"))?;
            turn.forward(signal, (socket, &own), &target, payload?)?;
            Ok(None)
        })
        .await
    }

    async fn signal(
        &self,
        request: impl FnOnce(&mut Turn<'_>) -> Answer + Send + 'static,
    ) -> Option<ServerMessage> {
        match self.run(Promise::None, request).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(refusal)) => Some(refusal.into()),
            Err(why) => Some(Refusal::from(why).into()),
        }
    }
}

impl Turn<'_> {
    /// The pairing code that a socket holds, registered as such or as a peerId.
    fn code(&self, socket: SocketId) -> Result<PeerId, Refusal> {
        let held = self.core.hub.holds(socket).filter(|id| is_pairing_code(id.as_str()));
        held.cloned().ok_or(NOT_REGISTERED)
    }

    /// The same, registered with a public key.
    fn registered_code(&self, socket: SocketId) -> Result<PeerId, Refusal> {
        self.code(socket).and_then(|code| {
            if self.core.pairing.is_registered(&code) { Ok(code) } else { Err(NOT_REGISTERED) }
        })
    }

    /// Whether somebody can be asked for something: whoever does not read what others send is asked for nothing more.
    fn has_room(&self, target: &PeerId) -> Result<(), Fault> {
        let outbox = self.core.hub.outbox(target).ok_or(Fault::CannotBeProcessed)?;
        outbox.has_room(0).map_err(|_| Fault::CannotBeProcessed)
    }

    /// Tells the other side; what is left is for the asker.
    fn pass(
        &mut self,
        done: Result<(Notice, Option<ServerMessage>), Fault>,
        error: fn(Fault) -> ServerMessage,
    ) -> Option<ServerMessage> {
        match done {
            Ok((notice, answer)) => {
                self.effects.extend(self.core.notify(vec![notice]));
                answer
            }
            Err(fault) => Some(error(fault)),
        }
    }

    fn forward(
        &mut self,
        signal: Signal,
        (socket, from): (SocketId, &PeerId),
        target: &PeerId,
        payload: Map<String, Value>,
    ) -> Result<(), Refusal> {
        let not_found = || Refusal::new("peer_not_found", format!("Peer not found: {}", target.as_str()));
        let outbox = self.core.hub.outbox(target).ok_or_else(not_found)?;
        let text = Utf8Bytes::from(encode(&ServerMessage::forwarded(signal, from.as_str(), payload)));
        match outbox.has_room(text.len()) {
            Ok(()) => {
                // Others may take the room in the same drain.
                let busy = || encode(&ServerMessage::from(PEER_BUSY)).into();
                let otherwise = self.core.hub.outbox_of(socket).map(|own| (own.clone(), busy()));
                self.effects.push(Effect::Pass { to: outbox.clone(), text, otherwise });
                Ok(())
            }
            Err(Undelivered::Gone) => Err(not_found()),
            Err(Undelivered::Full) => Err(PEER_BUSY),
        }
    }

    /// Nobody holds the id any more: what was pending ends, and the other sides are told.
    pub(super) fn leave_pairing(&mut self, id: &PeerId) {
        let notices = self.core.pairing.leave(id);
        self.effects.extend(self.core.notify(notices));
    }

    /// Another socket holds the id now.
    pub(super) fn end_requests(&mut self, id: &PeerId) {
        let notices = self.core.pairing.end_requests(id);
        self.effects.extend(self.core.notify(notices));
    }
}

impl Core {
    pub(super) fn notify(&self, notices: Vec<Notice>) -> Vec<Effect> {
        let effect = |Notice { to, message }: Notice| {
            self.hub.outbox(&to).map(|outbox| Effect::Notify(outbox.clone(), encode(&message).into()))
        };
        notices.into_iter().filter_map(effect).collect()
    }
}

fn pair_error(fault: Fault) -> ServerMessage {
    let error = match fault {
        Fault::CannotBeProcessed => "Pair request could not be processed",
        Fault::NothingPending => "No pending request from this peer",
    };
    ServerMessage::PairError { error: error.into() }
}

fn link_error(fault: Fault) -> ServerMessage {
    let error = match fault {
        Fault::CannotBeProcessed => "Link request could not be processed",
        Fault::NothingPending => "No pending link request found",
    };
    ServerMessage::LinkError { error: error.into() }
}
