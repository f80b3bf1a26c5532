//! What the signalling dialect asks of the engine: taking ids, the relay registry, rendezvous.
//!
//! Owns the order of identity first, registry second, within one turn of the writer, so that races are decided there.
//! Must not know sockets beyond their outboxes.

use std::sync::Arc;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Effect, Engine, Promise, Taken, Turn};
use crate::id::{Generation, PeerId, SocketId, TokenDigest, new_token};
use crate::limits::RELAYS_ON_REGISTER;
use crate::live::hub::Claim;
use crate::live::outbox::{Close, Outbox};
use crate::registry::relays::{self, Offer};
use crate::registry::rendezvous::{Found, Meeting, Refused};
use crate::store::Pinned;
use crate::wire::Refusal;
use crate::wire::signalling::{
    DeadDrop, GetRelays, Match, Register, RegisterCode, RegisterRendezvous, Relay, ServerMessage, encode,
};

/// How often a newcomer probes when the id changes hands under it.
const PROBES: usize = 3;

pub(super) const ID_IN_USE: Refusal =
    Refusal::of("id_in_use", "Peer ID already in use by another connection");

/// Why a turn does not get the id that it is about.
pub(super) enum Barred {
    Refused(Refusal),
    /// The id is held: it is free for the newcomer only if the holder is silent.
    Taken {
        generation: Generation,
        holder: Arc<Outbox>,
    },
}

pub(super) type Claimed<T> = Result<T, Barred>;

/// How a socket comes by an id.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    /// The id was held without a break until now.
    unbroken: bool,
    /// Nobody who was merely silent is replaced.
    is_same: bool,
}

impl From<Refusal> for Barred {
    fn from(refusal: Refusal) -> Barred {
        Barred::Refused(refusal)
    }
}

const MISMATCH: Refusal = Refusal::of("peer_mismatch", "peerId mismatch with registered identity");

impl Engine {
    /// `register` with a peerId (section 3). Promise: `Applied`.
    pub async fn register(&self, socket: SocketId, request: Register) -> ServerMessage {
        self.claiming(Promise::Applied, ID_IN_USE.into(), move |turn, silent| {
            turn.register(socket, &request, silent)
        })
        .await
        .map_or_else(
            |answer| answer,
            |(peer, offers, token)| ServerMessage::Registered {
                peer_id: Some(peer.as_str().to_owned()),
                pairing_code: None,
                server_id: self.0.server_id.clone(),
                relays: Some(offers.into_iter().map(relay).collect()),
                resume_token: token,
            },
        )
    }

    /// `register` with a pairing code (section 5): the code is held like a peerId, and ends with its socket.
    pub async fn register_code(&self, socket: SocketId, request: RegisterCode) -> ServerMessage {
        let collision = "Pairing code already in use. Please reconnect with a new code.";
        let collision = ServerMessage::CodeCollision { message: collision.into() };
        let code = request.code.as_str().to_owned();
        self.claiming(Promise::Applied, collision, move |turn, silent| {
            turn.register_code(socket, &request, silent)
        })
        .await
        .map_or_else(
            |answer| answer,
            |token| ServerMessage::Registered {
                peer_id: None,
                pairing_code: Some(code),
                server_id: self.0.server_id.clone(),
                relays: None,
                resume_token: token,
            },
        )
    }

    /// `get_relays` (section 3).
    pub async fn get_relays(&self, request: GetRelays) -> ServerMessage {
        let sample = self.look(move |turn| {
            let core = &mut *turn.core;
            core.registries.relays.sample(turn.now, request.peer_id.as_deref(), request.count, &mut core.rng)
        });
        match sample.await {
            Ok(offers) => ServerMessage::Relays { relays: offers.into_iter().map(relay).collect() },
            Err(why) => Refusal::from(why).into(),
        }
    }

    /// `register_rendezvous` (section 4). Promise: `Flushed`.
    pub async fn register_rendezvous(&self, socket: SocketId, request: RegisterRendezvous) -> ServerMessage {
        let met = self
            .claiming(Promise::Flushed, ID_IN_USE.into(), move |turn, silent| {
                turn.rendezvous(socket, &request, silent)
            })
            .await;
        let (found, pinned, resume_token) = match met {
            Ok(met) => met,
            Err(answer) => return answer,
        };
        let payloads = if pinned.is_empty() {
            Ok(Vec::new())
        } else {
            self.read_store(move |store| pinned.read(store)).await
        };
        let payloads = match payloads {
            Ok(payloads) => payloads,
            Err(why) => return Refusal::from(why).into(),
        };
        let drops = found.drops.into_iter().zip(payloads);
        let dead_drops = drops.map(|(drop, dead_drop)| DeadDrop {
            peer_id: drop.from.peer.as_str().to_owned(),
            dead_drop,
            relay_id: drop.from.relay_id,
            meeting_point: drop.from.meeting_point,
        });
        ServerMessage::RendezvousResult {
            live_matches: found.live.into_iter().map(live_match).collect(),
            dead_drops: dead_drops.collect(),
            truncated: found.truncated,
            resume_token,
        }
    }

    /// Runs a turn that takes an id, probing its holder where there is one. Neither the holder nor other sockets wait
    /// meanwhile.
    pub(super) async fn claiming<T: Send + 'static>(
        &self,
        promise: Promise,
        in_use: ServerMessage,
        turn: impl Fn(&mut Turn<'_>, Option<Generation>) -> Claimed<T> + Send + Sync + 'static,
    ) -> Result<T, ServerMessage> {
        let turn = Arc::new(turn);
        let mut silent = None;
        for _ in 0..PROBES {
            let turn = turn.clone();
            match self.run(promise, move |it| turn(it, silent)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Barred::Refused(refusal))) => return Err(refusal.into()),
                Ok(Err(Barred::Taken { generation, holder })) => {
                    if self.is_alive(&holder, self.0.limits.liveness.takeover_probe).await {
                        return Err(in_use);
                    }
                    silent = Some(generation);
                }
                Err(why) => return Err(Refusal::from(why).into()),
            }
        }
        Err(in_use)
    }

    /// Pings a socket and waits for its pong, or for any other frame if there is none. One that ends meanwhile is not
    /// alive.
    pub(super) async fn is_alive(&self, holder: &Outbox, patience: Duration) -> bool {
        let before = holder.heard();
        let answer = holder.probe();
        tokio::select! {
            heard = answer => heard.is_ok(),
            () = self.0.clock.sleep(patience) => holder.heard() != before,
        }
    }
}

impl Turn<'_> {
    /// Identity: whether the socket may have the id; and if so, how.
    pub(super) fn may_take(
        &self,
        socket: SocketId,
        id: &PeerId,
        token: Option<&str>,
        silent: Option<Generation>,
    ) -> Claimed<Standing> {
        let standing = |unbroken| Standing { unbroken, is_same: silent.is_none() };
        match self.core.hub.claim(socket, id, token, silent) {
            Claim::Free => Ok(standing(false)),
            Claim::Held | Claim::TakeOver => Ok(standing(true)),
            Claim::Taken { generation, holder } => Err(Barred::Taken { generation, holder }),
            Claim::HoldsOther => Err(MISMATCH.into()),
        }
    }

    /// What [`Turn::may_take`] has allowed, for a message that is not a `register`. Tells the new resume token.
    pub(super) fn take_unless_held(
        &mut self,
        socket: SocketId,
        id: &PeerId,
        standing: Standing,
    ) -> Option<String> {
        if self.core.hub.holds(socket) == Some(id) {
            return None;
        }
        let (token, resume) = self.take(socket, id, standing.is_same);
        if standing.unbroken {
            self.core.registries.relays.renew_token(id, resume, self.changes);
        }
        Some(token)
    }

    /// Gives the id to the socket under a new resume token, and closes the socket that it replaces. Its key and its links go
    /// along only for who has shown to be the same.
    fn take(&mut self, socket: SocketId, id: &PeerId, is_same: bool) -> (String, TokenDigest) {
        let token = new_token(&mut self.core.rng);
        let digest = TokenDigest::of(&token);
        let (generation, replaced) = self.core.hub.take(socket, id, digest);
        self.taken = generation.map(|generation| Taken(socket, generation));
        if let Some(replaced) = replaced {
            self.metrics.takeovers.inc();
            if is_same {
                self.end_requests(id)
            } else {
                self.leave_pairing(id)
            }
            self.effects.push(Effect::Close(replaced, Close::REPLACED));
        }
        (token, digest)
    }

    fn register(
        &mut self,
        socket: SocketId,
        request: &Register,
        silent: Option<Generation>,
    ) -> Claimed<(PeerId, Vec<Offer>, String)> {
        if self.core.hub.holds(socket).is_some_and(|held| *held != request.peer_id) {
            let other = Refusal::of("already_registered", "Cannot re-register with a different peerId");
            return Err(other.into());
        }
        let shown_token = request.resume_token.clone();
        let standing = self.may_take(socket, &request.peer_id, shown_token.as_deref(), silent)?;
        let (token, resume) = self.take(socket, &request.peer_id, standing.is_same);
        let registration = relays::Registration {
            id: request.peer_id.clone(),
            max_connections: request.max_connections,
            public_key: request.public_key.clone(),
            resume,
            shown_token,
            unbroken: standing.unbroken,
        };
        let core = &mut *self.core;
        core.registries.relays.register(self.now, registration, self.changes);
        let own = Some(request.peer_id.as_str());
        let offers = core.registries.relays.sample(self.now, own, RELAYS_ON_REGISTER, &mut core.rng);
        Ok((request.peer_id.clone(), offers, token))
    }

    fn register_code(
        &mut self,
        socket: SocketId,
        request: &RegisterCode,
        silent: Option<Generation>,
    ) -> Claimed<String> {
        let (code, token) = (&request.code, request.resume_token.as_deref());
        let unbroken = match self.core.hub.claim(socket, code, token, silent) {
            // Another code of the same socket is freed, once it is sure that the new one can be had.
            Claim::HoldsOther => match self.core.hub.stand(code, token, silent) {
                Claim::Taken { generation, holder } => return Err(Barred::Taken { generation, holder }),
                claim => {
                    if let Some(freed) = self.core.hub.release(socket) {
                        self.free(&freed);
                    }
                    matches!(claim, Claim::TakeOver)
                }
            },
            Claim::Taken { generation, holder } => return Err(Barred::Taken { generation, holder }),
            Claim::Free => false,
            Claim::Held | Claim::TakeOver => true,
        };
        let is_same = silent.is_none() || self.core.pairing.has_key(code, &request.public_key);
        let (token, resume) = self.take(socket, code, is_same);
        if unbroken {
            self.core.registries.relays.renew_token(code, resume, self.changes);
        }
        self.core.pairing.enter(code, request.public_key.clone());
        Ok(token)
    }

    fn rendezvous(
        &mut self,
        socket: SocketId,
        request: &RegisterRendezvous,
        silent: Option<Generation>,
    ) -> Claimed<(Found, Pinned, Option<String>)> {
        let id = &request.peer_id;
        let standing = self.may_take(socket, id, request.resume_token.as_deref(), silent)?;
        let rendezvous = &mut self.core.registries.rendezvous;
        let found = rendezvous.register(self.now, request, self.changes).map_err(refusal)?;
        let token = self.take_unless_held(socket, id, standing);
        self.tell_of(request, &found.live);
        let pinned = self.core.pins.pin(found.drops.iter().map(|drop| drop.at).collect());
        Ok((found, pinned, token))
    }

    /// Tells the peers at shared tokens of the newcomer, before it has its own answer.
    fn tell_of(&mut self, newcomer: &RegisterRendezvous, live: &[Meeting]) {
        for at_one_token in live.chunk_by(|one, next| one.meeting_point == next.meeting_point) {
            let push = ServerMessage::RendezvousMatch {
                r#match: Match {
                    peer_id: newcomer.peer_id.as_str().to_owned(),
                    relay_id: newcomer.relay_id.clone(),
                    meeting_point: at_one_token[0].meeting_point.clone(),
                },
            };
            let text = Utf8Bytes::from(encode(&push));
            for meeting in at_one_token.iter().filter(|meeting| meeting.of_this_boot) {
                if let Some(outbox) = self.core.hub.outbox(&meeting.peer) {
                    self.effects.push(Effect::Send(outbox.clone(), text.clone()));
                }
            }
        }
    }
}

fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::PointFull => Refusal::of("point_full", "Meeting point is full"),
        Refused::PeerQuota => Refusal::of("peer_quota", "Too many points for this peer"),
        Refused::RegistryFull => Refusal::of("registry_full", "Registry full"),
    }
}

fn relay(offer: Offer) -> Relay {
    Relay {
        peer_id: offer.id.as_str().to_owned(),
        public_key: offer.public_key.map(|key| key.to_string()),
        capacity: offer.capacity,
    }
}

fn live_match(meeting: Meeting) -> Match {
    Match {
        peer_id: meeting.peer.as_str().to_owned(),
        relay_id: meeting.relay_id,
        meeting_point: meeting.meeting_point,
    }
}
