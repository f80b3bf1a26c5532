//! The signalling dialect: JSON over WebSocket (protocol: signalling).
//!
//! Owns which messages a client may send and how one is told from another; a file each has the messages of one part of the
//! dialect with the order of their checks and their literal texts, and `server.rs` what is answered. Must not know sockets,
//! stores or who holds what.

mod calls;
mod chunks;
mod pairing;
mod relays;
mod rendezvous;
pub mod schema;
mod server;

use serde_json::{Map, Value};

use super::Refusal;
use super::fields::Fields;
use crate::id::{ChunkName, PeerId, is_pairing_code};
use crate::limits::RendezvousRules;

pub use calls::{Forward, Signal};
pub use chunks::{ChunkAnnounce, ChunkPush};
pub use pairing::{LinkRequest, LinkResponse, PairRequest, PairResponse, RegisterCode};
pub use relays::{GetRelays, Register, UpdateLoad};
pub use rendezvous::{Point, RegisterRendezvous};
pub use server::{ChunkSource, DeadDrop, Forwarded, Match, Relay, ServerMessage, encode};

/// A request that only somebody who is registered may make (section 5): that is looked at first, and only then what may be
/// wrong with the request.
pub type OfRegistered<T> = Result<T, Refusal>;

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    Ping,
    Heartbeat,
    Register(Register),
    RegisterCode(RegisterCode),
    UpdateLoad(UpdateLoad),
    GetRelays(GetRelays),
    RegisterRendezvous(RegisterRendezvous),
    PairRequest(OfRegistered<PairRequest>),
    PairResponse(OfRegistered<PairResponse>),
    Forward(Signal, OfRegistered<Forward>),
    LinkRequest(OfRegistered<LinkRequest>),
    LinkResponse(OfRegistered<LinkResponse>),
    ChunkAnnounce(ChunkAnnounce),
    ChunkRequest(ChunkName),
    ChunkPush(ChunkPush),
    ChannelSubscribe(String),
    ChannelUnsubscribe(String),
}

impl ClientMessage {
    /// The `type` it came with.
    pub fn kind(&self) -> &'static str {
        match self {
            ClientMessage::Ping => "ping",
            ClientMessage::Heartbeat => "heartbeat",
            ClientMessage::Register(_) | ClientMessage::RegisterCode(_) => "register",
            ClientMessage::UpdateLoad(_) => "update_load",
            ClientMessage::GetRelays(_) => "get_relays",
            ClientMessage::RegisterRendezvous(_) => "register_rendezvous",
            ClientMessage::PairRequest(_) => "pair_request",
            ClientMessage::PairResponse(_) => "pair_response",
            ClientMessage::Forward(signal, _) => signal.kind(),
            ClientMessage::LinkRequest(_) => "link_request",
            ClientMessage::LinkResponse(_) => "link_response",
            ClientMessage::ChunkAnnounce(_) => "chunk_announce",
            ClientMessage::ChunkRequest(_) => "chunk_request",
            ClientMessage::ChunkPush(_) => "chunk_push",
            ClientMessage::ChannelSubscribe(_) => "channel-subscribe",
            ClientMessage::ChannelUnsubscribe(_) => "channel-unsubscribe",
        }
    }
}

const INVALID_PEER_ID: Refusal = Refusal::of(
    "invalid_peer_id",
    "Invalid peerId: must be 1-128 alphanumeric characters, hyphens, or underscores",
);
const INVALID_PUBLIC_KEY: Refusal = Refusal::of("invalid_public_key", "Invalid public key format");
const MAX_PUBLIC_KEY_BYTES: usize = 1024;

/// Decodes one message; `text` is `None` for a binary frame that was not UTF-8.
pub fn decode(text: Option<&str>, rules: &RendezvousRules) -> Result<ClientMessage, Refusal> {
    let not_json = Refusal::of("invalid_json", "Invalid message format: JSON parse error");
    let value = text.and_then(|text| serde_json::from_str::<Value>(text).ok()).ok_or(not_json)?;
    let Value::Object(mut map) = value else {
        return Err(Refusal::of("not_an_object", "Invalid message: Message must be a JSON object"));
    };
    let Some(Value::String(kind)) = map.remove("type") else {
        return Err(Refusal::of("missing_type", "Invalid message: Missing or invalid \"type\" field"));
    };
    let mut fields = Fields::new(kind, map);
    Ok(match fields.kind.as_str() {
        "ping" => ClientMessage::Ping,
        "heartbeat" => fields.string("peerId").map(|_| ClientMessage::Heartbeat)?,
        "register" if fields.has("pairingCode") => ClientMessage::RegisterCode(pairing::register(fields)?),
        "register" => ClientMessage::Register(relays::register(fields)?),
        "update_load" => ClientMessage::UpdateLoad(relays::update_load(fields)?),
        "get_relays" => ClientMessage::GetRelays(relays::get_relays(fields)?),
        "register_rendezvous" => ClientMessage::RegisterRendezvous(rendezvous::register(fields, rules)?),
        "pair_request" => ClientMessage::PairRequest(pairing::pair_request(fields)),
        "pair_response" => ClientMessage::PairResponse(pairing::pair_response(fields)),
        "link_request" => ClientMessage::LinkRequest(pairing::link_request(fields)),
        "link_response" => ClientMessage::LinkResponse(pairing::link_response(fields)),
        "chunk_announce" => ClientMessage::ChunkAnnounce(chunks::announce(fields)?),
        "chunk_request" => ClientMessage::ChunkRequest(chunks::name(&mut fields)?),
        "chunk_push" => ClientMessage::ChunkPush(chunks::push(fields)?),
        "channel-subscribe" => ClientMessage::ChannelSubscribe(chunks::channel(fields)?),
        "channel-unsubscribe" => ClientMessage::ChannelUnsubscribe(chunks::channel(fields)?),
        other => match Signal::of(other) {
            Some(signal) => ClientMessage::Forward(signal, calls::forward(signal, fields)),
            None => {
                let cut: String = other.chars().take(64).collect();
                return Err(Refusal::new("unknown_type", format!("Unknown message type: {cut}")));
            }
        },
    })
}

fn missing(name: &str) -> Refusal {
    Refusal::new("missing_field", format!("Missing required field: {name}"))
}

/// A string that must be there and not empty; `invalid` is what one of another kind is.
fn required(value: Option<Value>, name: &str, invalid: Refusal) -> Result<String, Refusal> {
    match value {
        None => Err(missing(name)),
        Some(Value::String(text)) if text.is_empty() => Err(missing(name)),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid),
    }
}

fn peer_id(fields: &mut Fields) -> Result<PeerId, Refusal> {
    let text = required(fields.take("peerId"), "peerId", INVALID_PEER_ID)?;
    PeerId::parse(&text).ok_or(INVALID_PEER_ID)
}

/// A pairing code that must be there.
fn pairing_code(value: Option<Value>, name: &str, invalid: Refusal) -> Result<PeerId, Refusal> {
    let text = required(value, name, invalid.clone())?;
    if is_pairing_code(&text) { PeerId::parse(&text).ok_or(invalid) } else { Err(invalid) }
}

fn payload(fields: &mut Fields) -> Result<Map<String, Value>, Refusal> {
    match fields.take("payload") {
        Some(Value::Object(payload)) => Ok(payload),
        _ => Err(Refusal::of("invalid_payload", "Missing or invalid payload")),
    }
}
