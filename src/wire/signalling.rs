//! The signalling dialect: JSON over WebSocket (protocol: signalling, sections 1 to 4).
//!
//! Owns both directions' messages, the order of their checks and their literal texts. Must not know sockets, stores
//! or who holds what.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::Refusal;
use super::fields::Fields;
use crate::id::{PeerId, is_pairing_code, is_short_name};
use crate::limits::RendezvousRules;

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
        }
    }
}

/// `register` with a peerId (section 3).
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    pub peer_id: PeerId,
    pub max_connections: u32,
    pub public_key: Option<String>,
    pub resume_token: Option<String>,
}

/// `register` with a pairing code (section 5): holds the id, enters no registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterCode {
    pub code: PeerId,
    pub public_key: [u8; 32],
    pub resume_token: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpdateLoad {
    pub peer_id: String,
    pub connected_count: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GetRelays {
    /// The one to leave out.
    pub peer_id: Option<String>,
    /// Already clamped to 1..=100.
    pub count: usize,
}

/// `register_rendezvous` (section 4), within the per-message limits, each point and token named once.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterRendezvous {
    pub peer_id: PeerId,
    pub relay_id: String,
    pub points: Vec<Point>,
    pub tokens: Vec<String>,
    /// The payloads that points refer to.
    pub payloads: Vec<String>,
    pub resume_token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub name: String,
    /// Its dead drop, by position in the payloads.
    pub payload: Option<u16>,
}

const MISSING_PEER_ID: Refusal = Refusal::of("missing_field", "Missing required field: peerId");
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
    match fields.kind.as_str() {
        "ping" => Ok(ClientMessage::Ping),
        "heartbeat" => fields.string("peerId").map(|_| ClientMessage::Heartbeat),
        "register" if fields.has("pairingCode") => register_code(fields).map(ClientMessage::RegisterCode),
        "register" => register(fields).map(ClientMessage::Register),
        "update_load" => update_load(fields).map(ClientMessage::UpdateLoad),
        "get_relays" => get_relays(fields).map(ClientMessage::GetRelays),
        "register_rendezvous" => rendezvous(fields, rules).map(ClientMessage::RegisterRendezvous),
        other => {
            let cut: String = other.chars().take(64).collect();
            Err(Refusal::new("unknown_type", format!("Unknown message type: {cut}")))
        }
    }
}

fn peer_id(fields: &mut Fields) -> Result<PeerId, Refusal> {
    match fields.take("peerId") {
        None => Err(MISSING_PEER_ID),
        Some(Value::String(text)) if text.is_empty() => Err(MISSING_PEER_ID),
        Some(Value::String(text)) => PeerId::parse(&text).ok_or(INVALID_PEER_ID),
        Some(_) => Err(INVALID_PEER_ID),
    }
}

fn register(mut fields: Fields) -> Result<Register, Refusal> {
    let peer_id = peer_id(&mut fields)?;
    let max_connections = match fields.take("maxConnections") {
        None => 20.0,
        Some(value) => value.as_f64().filter(|number| (1.0..=1000.0).contains(number)).ok_or(Refusal::of(
            "invalid_max_connections",
            "maxConnections must be a finite number between 1 and 1000",
        ))?,
    };
    let public_key = fields.string("publicKey")?;
    if public_key.as_ref().is_some_and(|key| key.len() > MAX_PUBLIC_KEY_BYTES) {
        return Err(INVALID_PUBLIC_KEY);
    }
    let resume_token = fields.string("resumeToken")?;
    Ok(Register { peer_id, max_connections: max_connections as u32, public_key, resume_token })
}

fn register_code(mut fields: Fields) -> Result<RegisterCode, Refusal> {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let invalid_code = Refusal::of("invalid_pairing_code", "Invalid pairing code format");
    let code = match fields.take("pairingCode") {
        None => return Err(Refusal::of("missing_field", "Missing required field: pairingCode")),
        Some(Value::String(text)) if text.is_empty() => {
            return Err(Refusal::of("missing_field", "Missing required field: pairingCode"));
        }
        Some(Value::String(text)) if is_pairing_code(&text) => PeerId::parse(&text).ok_or(invalid_code)?,
        Some(_) => return Err(invalid_code),
    };
    let public_key = match fields.take("publicKey") {
        None => return Err(Refusal::of("missing_field", "Missing required field: publicKey")),
        Some(Value::String(text)) if text.is_empty() => {
            return Err(Refusal::of("missing_field", "Missing required field: publicKey"));
        }
        Some(Value::String(text)) => LENIENT.decode(text).map_err(|_| INVALID_PUBLIC_KEY)?,
        Some(_) => return Err(INVALID_PUBLIC_KEY),
    };
    let public_key = public_key
        .try_into()
        .map_err(|_| Refusal::of("invalid_public_key_length", "Invalid public key length"))?;
    Ok(RegisterCode { code, public_key, resume_token: fields.string("resumeToken")? })
}

fn update_load(mut fields: Fields) -> Result<UpdateLoad, Refusal> {
    let peer_id = peer_id(&mut fields)?;
    let connected_count = fields
        .take("connectedCount")
        .and_then(|value| value.as_f64())
        .filter(|number| (0.0..=10_000.0).contains(number))
        .ok_or(Refusal::of("invalid_connected_count", "Invalid connectedCount"))?;
    Ok(UpdateLoad { peer_id: peer_id.as_str().to_owned(), connected_count })
}

fn get_relays(mut fields: Fields) -> Result<GetRelays, Refusal> {
    let peer_id = fields.string("peerId")?;
    let most = crate::limits::MAX_RELAYS_PER_ANSWER as f64;
    let count = fields.number("count")?.unwrap_or(10.0).clamp(1.0, most) as usize;
    Ok(GetRelays { peer_id, count })
}

fn rendezvous(mut fields: Fields, rules: &RendezvousRules) -> Result<RegisterRendezvous, Refusal> {
    let peer_id = peer_id(&mut fields)?;
    let relay_id = fields.string("relayId")?.unwrap_or_default();
    if !is_short_name(&relay_id) {
        return Err(fields.wrong_kind("relayId", "a string of at most 128 characters"));
    }
    let names = fields.take_either("dailyPoints", "daily_points");
    let names = names_of(names, "daily points", "points", rules.max_points)?;
    let tokens = fields.take_either("hourlyTokens", "hourly_tokens");
    let tokens = names_of(tokens, "hourly tokens", "tokens", rules.max_tokens)?;

    let too_large = || {
        let text = format!("Dead drop payload too large (max {}KB)", rules.max_payload_bytes / 1024);
        Refusal::new("payload_too_large", text)
    };
    let mut payloads = Vec::new();
    let mut by_point = HashMap::new();
    let map = match fields.take_either("deadDrops", "dead_drops") {
        None => Default::default(),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fields.wrong_kind("deadDrops", "an object")),
    };
    if map.len() > rules.max_dead_drops {
        return Err(Refusal::of("too_many_dead_drops", "Too many dead drops"));
    }
    let map_decides = !map.is_empty();
    for (point, payload) in map {
        if point.is_empty() || !is_short_name(&point) {
            return Err(Refusal::of("invalid_dead_drop_key", "Invalid dead drop key"));
        }
        match payload {
            Value::Null => {}
            Value::String(text) if text.len() > rules.max_payload_bytes => return Err(too_large()),
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => drop(by_point.insert(point, text)),
            _ => return Err(fields.wrong_kind("deadDrops", "an object of strings")),
        }
    }
    let for_all = fields.string("deadDrop")?.unwrap_or_default();
    if for_all.len() > rules.max_payload_bytes {
        return Err(too_large());
    }
    let shared = !map_decides && !for_all.is_empty() && !names.is_empty();
    if shared {
        payloads.push(for_all);
    }
    let points = names.into_iter().map(|name| {
        let payload = match by_point.remove(&name) {
            Some(payload) => {
                payloads.push(payload);
                Some(payloads.len() as u16 - 1)
            }
            None => shared.then_some(0),
        };
        Point { name, payload }
    });
    let points = points.collect();
    let resume_token = fields.string("resumeToken")?;
    Ok(RegisterRendezvous { peer_id, relay_id, points, tokens, payloads, resume_token })
}

/// A list of point or token names, each once, in order of first mention.
fn names_of(value: Option<Value>, long: &str, short: &str, most: usize) -> Result<Vec<String>, Refusal> {
    let malformed = || {
        Refusal::new(
            if short == "points" { "invalid_points" } else { "invalid_tokens" },
            format!("Invalid {long} format"),
        )
    };
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(malformed()),
    };
    if list.len() > most {
        let code = if short == "points" { "too_many_points" } else { "too_many_tokens" };
        return Err(Refusal::new(code, format!("Too many {long} (max {most})")));
    }
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for value in list {
        match value {
            Value::String(name) if !name.is_empty() && is_short_name(&name) => {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            _ => return Err(malformed()),
        }
    }
    Ok(names)
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ServerMessage {
    ServerInfo {
        server_id: String,
        endpoint: String,
        region: Option<String>,
    },
    Pong {},
    HeartbeatAck {
        timestamp: u64,
    },
    Registered {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pairing_code: Option<String>,
        server_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relays: Option<Vec<Relay>>,
        resume_token: String,
    },
    LoadUpdated {
        peer_id: String,
        #[serde(serialize_with = "plain_number")]
        connected_count: f64,
    },
    Relays {
        relays: Vec<Relay>,
    },
    RendezvousResult {
        live_matches: Vec<Match>,
        dead_drops: Vec<DeadDrop>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume_token: Option<String>,
    },
    RendezvousMatch {
        r#match: Match,
    },
    CodeCollision {
        message: Cow<'static, str>,
    },
    Error(Refusal),
}

impl From<Refusal> for ServerMessage {
    fn from(refusal: Refusal) -> ServerMessage {
        ServerMessage::Error(refusal)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    pub peer_id: String,
    pub public_key: Option<String>,
    /// connectedCount / maxConnections.
    #[serde(serialize_with = "plain_number")]
    pub capacity: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    pub peer_id: String,
    pub relay_id: String,
    pub meeting_point: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadDrop {
    pub peer_id: String,
    pub dead_drop: String,
    pub relay_id: String,
    pub meeting_point: String,
}

/// A whole number travels without a decimal point, as existing clients expect.
fn plain_number<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && (0.0..=9e15).contains(number) {
        to.serialize_u64(*number as u64)
    } else {
        to.serialize_f64(*number)
    }
}

pub fn encode(message: &ServerMessage) -> String {
    serde_json::to_string(message)
        .expect("messages are strings, numbers and lists: nothing that JSON cannot hold")
}
