//! What relays say (protocol: signalling, section 3).
//!
//! Owns these messages, the order of their checks and their literal texts. Must not know who is a relay.

use super::{Fields, INVALID_PUBLIC_KEY, MAX_PUBLIC_KEY_BYTES, peer_id};
use crate::id::PeerId;
use crate::wire::Refusal;

/// `register` with a peerId (section 3).
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    pub peer_id: PeerId,
    pub max_connections: u32,
    pub public_key: Option<String>,
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

pub(super) fn register(mut fields: Fields) -> Result<Register, Refusal> {
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

pub(super) fn update_load(mut fields: Fields) -> Result<UpdateLoad, Refusal> {
    let peer_id = peer_id(&mut fields)?;
    let connected_count = fields
        .take("connectedCount")
        .and_then(|value| value.as_f64())
        .filter(|number| (0.0..=10_000.0).contains(number))
        .ok_or(Refusal::of("invalid_connected_count", "Invalid connectedCount"))?;
    Ok(UpdateLoad { peer_id: peer_id.as_str().to_owned(), connected_count })
}

pub(super) fn get_relays(mut fields: Fields) -> Result<GetRelays, Refusal> {
    let peer_id = fields.string("peerId")?;
    let most = crate::limits::MAX_RELAYS_PER_ANSWER as f64;
    let count = fields.number("count")?.unwrap_or(10.0).clamp(1.0, most) as usize;
    Ok(GetRelays { peer_id, count })
}
