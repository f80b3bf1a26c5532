//! The bootstrap dialect's TURN half: servers that offer themselves, and sessions on them (protocol: bootstrap, TURN).
//!
//! Owns its requests with their checks and defaults, its answers, and its literal texts. Must not know how anything is
//! stored.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Refusal;
use super::bootstrap::{addresses, node_id};
use super::http::{Also, Problem, read_body};
use crate::id::{NodeId, SessionId};

/// More sessions than any TURN server carries.
const MAX_CAPACITY: u32 = 1_000_000;
const DEFAULT_CAPACITY: u32 = 10;
/// TURN's port (RFC 8656).
pub(super) const DEFAULT_TURN_PORT: u16 = 3478;

pub const MISSING_TURN: Problem = Problem::of(
    400,
    Refusal::of("missing_fields", "Missing required fields: peerId, turnAddresses, turnPort"),
);
pub const REGISTER_PEER_FIRST: Problem =
    Problem::of(404, Refusal::of("peer_not_found", "Peer not found - register peer first"));
pub const MISSING_CALLER: Problem =
    Problem::with(400, Refusal::of("missing_fields", "Missing required field: peerId"), Also::Unsuccessful);
pub const NO_CAPACITY: Problem = Problem::with(
    429,
    Refusal::of("no_turn_capacity", "No TURN capacity available"),
    Also::UnsuccessfulUntil(60),
);
pub const MISSING_SESSION: Problem =
    Problem::of(400, Refusal::of("missing_fields", "Missing required field: sessionId"));
pub const SESSION_NOT_FOUND: Problem =
    Problem::of(404, Refusal::of("session_not_found", "Session not found"));

/// What makes a peer a TURN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnOffer {
    pub addresses: Vec<String>,
    pub port: u16,
    /// Sessions at once.
    pub capacity: u32,
}

/// 10 by default.
pub(super) fn capacity(given: Option<u32>) -> Result<u32, Problem> {
    let capacity = given.unwrap_or(DEFAULT_CAPACITY);
    if capacity > MAX_CAPACITY { Err(Problem::invalid_field("turnCapacity")) } else { Ok(capacity) }
}

/// `POST /register-turn-server`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterTurnBody {
    /// 1 to 128 visible ASCII characters.
    #[schema(value_type = String, required = true, pattern = "^[!-~]{1,128}$", example = "12D3KooWExample")]
    peer_id: Option<Value>,
    /// 1 to 64, up to 512 bytes each.
    #[schema(value_type = Vec<String>, required = true, min_items = 1, max_items = 64,
        example = json!(["turn:198.51.100.7"]))]
    turn_addresses: Option<Vec<String>>,
    #[schema(value_type = u16, required = true, minimum = 1, maximum = 65535, example = 3478)]
    turn_port: Option<u16>,
    /// Sessions at once; 10.
    #[schema(maximum = 1000000)]
    turn_capacity: Option<u32>,
}

/// A peer that offers itself as a TURN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterTurn {
    pub id: NodeId,
    pub offer: TurnOffer,
}

impl RegisterTurn {
    pub fn decode(body: &[u8]) -> Result<RegisterTurn, Problem> {
        let body: RegisterTurnBody = read_body(body)?;
        let id = node_id(body.peer_id.as_ref(), MISSING_TURN)?;
        let (Some(given), Some(port)) = (body.turn_addresses, body.turn_port) else {
            return Err(MISSING_TURN);
        };
        let addresses = addresses("turnAddresses", given)?;
        if addresses.is_empty() {
            return Err(MISSING_TURN);
        }
        if port == 0 {
            return Err(Problem::invalid_field("turnPort"));
        }
        Ok(RegisterTurn { id, offer: TurnOffer { addresses, port, capacity: capacity(body.turn_capacity)? } })
    }
}

/// `POST /release-turn`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseTurnBody {
    #[schema(value_type = String, required = true, min_length = 1)]
    session_id: Option<String>,
}

/// The session to end.
pub fn decode_release(body: &[u8]) -> Result<SessionId, Problem> {
    let body: ReleaseTurnBody = read_body(body)?;
    let text = body.session_id.filter(|text| !text.is_empty()).ok_or(MISSING_SESSION)?;
    SessionId::parse(&text).ok_or(SESSION_NOT_FOUND)
}

/// What `POST /register-turn-server` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TurnRegistered {
    pub success: bool,
    pub turn_servers: usize,
    pub cleaned_expired_peers: usize,
}

/// A TURN server as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TurnServer {
    pub peer_id: String,
    pub turn_addresses: Vec<String>,
    pub turn_port: u16,
    pub turn_capacity: u32,
    /// Sessions it has now.
    pub turn_load: u32,
    #[serde(rename = "cryptoIPv6")]
    pub crypto_ipv6: String,
    pub network_id: String,
}

/// What `GET /turn-servers` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnServers {
    pub servers: Vec<TurnServer>,
    pub total: usize,
    pub timestamp: String,
}

/// What `POST /allocate-turn` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TurnAllocated {
    pub success: bool,
    pub session_id: String,
    pub turn_server: AllocatedServer,
    pub limits: SessionLimits,
    /// Milliseconds since the Unix epoch.
    pub expires_at: u64,
}

/// The server of an allocated session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedServer {
    pub peer_id: String,
    pub turn_addresses: Vec<String>,
    pub turn_port: u16,
}

/// What an allocated session may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionLimits {
    pub max_duration_seconds: u64,
}
