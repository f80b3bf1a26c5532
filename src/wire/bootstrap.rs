//! The bootstrap dialect: peers over HTTP (protocol: bootstrap, Peers). Its TURN half is in `turn.rs`.
//!
//! Owns its requests with their checks and defaults, its answers, and its literal texts. Must not know how anything is
//! stored.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::Refusal;
use super::http::{Also, Json, Problem, read_body};
use super::turn::{DEFAULT_TURN_PORT, TurnOffer, capacity};
use crate::id::NodeId;

const MAX_ADDRESSES: usize = 64;
const MAX_ADDRESS_BYTES: usize = 512;
const MAX_STORES: usize = 1000;
const MAX_STORE_BYTES: usize = 128;
const MAX_TEXT_BYTES: usize = 256;
const MAX_CAPABILITIES_BYTES: usize = 8 * 1024;
pub const MISSING_PEER: Problem =
    Problem::of(400, Refusal::of("missing_fields", "Missing required fields: peerId, addresses"));
pub const NO_ADDRESSES: Problem = Problem::with(
    400,
    Refusal::of("no_valid_addresses", "No valid addresses provided for peer registration"),
    Also::Required("At least one LibP2P address is required"),
);
pub const REGISTRY_FULL: Problem = Problem::of(503, Refusal::of("registry_full", "Registry full"));
pub const REGISTERED_ELSEWHERE: Problem =
    Problem::of(409, Refusal::of("registered_elsewhere", "Peer ID is registered elsewhere"));
pub const MISSING_PEER_ID: Problem =
    Problem::of(400, Refusal::of("missing_fields", "Missing required field: peerId"));
pub const UNKNOWN_PEER: Problem = Problem::with(
    404,
    Refusal::of("peer_not_found", "Peer not found - please register first"),
    Also::Suggestion("Use POST /register to register this peer"),
);
pub const PEER_NOT_FOUND: Problem = Problem::of(404, Refusal::of("peer_not_found", "Peer not found"));
/// A peer as it described itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub addresses: Vec<String>,
    pub crypto_ipv6: String,
    pub stores: Vec<String>,
    pub version: String,
    pub privacy_mode: bool,
    /// A JSON object.
    pub capabilities: Json,
    pub turn_capable: bool,
    pub bootstrap_capable: bool,
    pub network_id: String,
    pub software_version: String,
    pub server_port: u16,
    pub node_type: u32,
    /// A JSON array.
    pub capability_list: Json,
    pub turn: Option<TurnOffer>,
}

/// `POST /register`. What is absent has the default that the protocol names.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBody {
    /// 1 to 128 visible ASCII characters.
    #[schema(value_type = String, required = true, pattern = "^[!-~]{1,128}$", example = "12D3KooWExample")]
    peer_id: Option<Value>,
    /// 1 to 64, up to 512 bytes each.
    #[schema(value_type = Vec<String>, required = true, min_items = 1, max_items = 64,
        example = json!(["/ip4/198.51.100.7/tcp/4001"]))]
    addresses: Option<Value>,
    /// Up to 256 bytes, as the other texts.
    #[serde(rename = "cryptoIPv6")]
    #[schema(max_length = 256)]
    crypto_ipv6: Option<String>,
    /// Up to 1000, up to 128 bytes each.
    #[schema(max_items = 1000)]
    stores: Option<Vec<String>>,
    #[schema(max_length = 256)]
    version: Option<String>,
    privacy_mode: Option<bool>,
    /// Up to 8 KiB.
    #[schema(value_type = Option<Object>)]
    capabilities: Option<Map<String, Value>>,
    turn_capable: Option<bool>,
    bootstrap_capable: Option<bool>,
    #[schema(max_items = 64)]
    turn_addresses: Option<Vec<String>>,
    #[schema(maximum = 65535)]
    turn_port: Option<u16>,
    /// Sessions at once; 10.
    #[schema(maximum = 1000000)]
    turn_capacity: Option<u32>,
    #[schema(max_length = 256)]
    network_id: Option<String>,
    #[schema(max_length = 256)]
    software_version: Option<String>,
    #[schema(maximum = 65535)]
    server_port: Option<u16>,
    #[schema(maximum = 4294967295u32)]
    node_type: Option<u32>,
    /// Up to 8 KiB.
    #[schema(value_type = Option<Vec<Object>>)]
    capability_list: Option<Vec<Value>>,
}

/// A registration as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    pub id: NodeId,
    pub peer: Peer,
}

impl Register {
    pub fn decode(body: &[u8]) -> Result<Register, Problem> {
        let body: RegisterBody = read_body(body)?;
        let addresses = match &body.addresses {
            Some(Value::Array(addresses)) => addresses,
            _ => return Err(MISSING_PEER),
        };
        let id = node_id(body.peer_id.as_ref(), MISSING_PEER)?;
        let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        if !addresses.iter().any(is_text) {
            return Err(NO_ADDRESSES);
        }
        let addresses = addresses.iter().map(|value| value.as_str().map(str::to_owned));
        let addresses =
            addresses.collect::<Option<Vec<_>>>().ok_or_else(|| Problem::invalid_field("addresses"))?;
        let addresses = self::addresses("addresses", addresses)?;
        let stores = list("stores", body.stores.unwrap_or_default(), MAX_STORES, MAX_STORE_BYTES)?;
        let capabilities = body.capabilities.unwrap_or_default();
        let says = |name: &str| capabilities.get(name) == Some(&Value::Bool(true));
        let turn_capable = body.turn_capable.unwrap_or(false) || says("turnServer");
        let bootstrap_capable = body.bootstrap_capable.unwrap_or(false) || says("bootstrapServer");
        let turn_addresses = body.turn_addresses.unwrap_or_default();
        let turn_addresses = self::addresses("turnAddresses", turn_addresses)?;
        let capacity = capacity(body.turn_capacity)?;
        let turn = (turn_capable && !turn_addresses.is_empty()).then(|| TurnOffer {
            addresses: turn_addresses,
            // Existing nodes send 0 for none.
            port: body.turn_port.filter(|port| *port > 0).unwrap_or(DEFAULT_TURN_PORT),
            capacity,
        });
        let crypto_ipv6 = match body.crypto_ipv6 {
            Some(text) => self::text("cryptoIPv6", Some(text), "")?,
            None => {
                let name = id.as_str();
                format!("fd00:{}", &name[name.len().saturating_sub(32)..])
            }
        };
        let peer = Peer {
            addresses,
            crypto_ipv6,
            stores,
            version: text("version", body.version, "1.0.0")?,
            privacy_mode: body.privacy_mode.unwrap_or(true),
            capabilities: json("capabilities", &capabilities)?,
            turn_capable,
            bootstrap_capable,
            network_id: text("networkId", body.network_id, "mainnet")?,
            software_version: text("softwareVersion", body.software_version, "1.0.0")?,
            server_port: body.server_port.unwrap_or(4001),
            node_type: body.node_type.unwrap_or(0),
            capability_list: json("capabilityList", &body.capability_list.unwrap_or_default())?,
            turn,
        };
        Ok(Register { id, peer })
    }
}

/// An id that has to be there: absent or empty is `missing`.
pub(super) fn node_id(value: Option<&Value>, missing: Problem) -> Result<NodeId, Problem> {
    match value {
        None => Err(missing),
        Some(Value::String(text)) if text.is_empty() => Err(missing),
        Some(Value::String(text)) => NodeId::parse(text).ok_or_else(|| Problem::invalid_field("peerId")),
        Some(_) => Err(Problem::invalid_field("peerId")),
    }
}

/// A list without its empty texts; one that is too long, or has a text that is, is refused whole.
fn list(name: &str, mut texts: Vec<String>, most: usize, bytes: usize) -> Result<Vec<String>, Problem> {
    if texts.len() > most || texts.iter().any(|text| text.len() > bytes) {
        return Err(Problem::invalid_field(name));
    }
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}

pub(super) fn addresses(name: &str, texts: Vec<String>) -> Result<Vec<String>, Problem> {
    list(name, texts, MAX_ADDRESSES, MAX_ADDRESS_BYTES)
}

fn text(name: &str, given: Option<String>, default: &str) -> Result<String, Problem> {
    let text = given.unwrap_or_else(|| default.to_owned());
    if text.len() > MAX_TEXT_BYTES { Err(Problem::invalid_field(name)) } else { Ok(text) }
}

fn json(name: &str, value: &impl Serialize) -> Result<Json, Problem> {
    let json = Json::of(value);
    if json.text().len() > MAX_CAPABILITIES_BYTES { Err(Problem::invalid_field(name)) } else { Ok(json) }
}

/// `POST /heartbeat`, `POST /unregister-turn-server` and `POST /allocate-turn`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CallerBody {
    /// 1 to 128 visible ASCII characters.
    #[schema(value_type = String, required = true, pattern = "^[!-~]{1,128}$", example = "12D3KooWExample")]
    peer_id: Option<Value>,
}

/// Whose request it is.
pub fn decode_caller(body: &[u8], missing: Problem) -> Result<NodeId, Problem> {
    let body: CallerBody = read_body(body)?;
    node_id(body.peer_id.as_ref(), missing)
}

/// The query of `GET /peers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub struct PeerQuery {
    /// "true": tell each peer's stores.
    pub include_stores: Option<String>,
    /// "true": tell each peer's capabilities.
    pub include_capabilities: Option<String>,
    /// Peers on the page at most; all of them by default.
    #[param(pattern = "^([1-9][0-9]{0,17})?$")]
    pub limit: Option<String>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Only peers of this network.
    pub network_id: Option<String>,
    /// Only peers that have this store.
    pub store: Option<String>,
    /// "true" or "false": only peers that are TURN servers, or that are not.
    #[param(pattern = "^(true|false)$")]
    pub turn_capable: Option<String>,
}

/// What `POST /register` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    pub success: bool,
    pub peer_id: String,
    pub total_peers: usize,
    pub cleaned_expired_peers: usize,
    pub timestamp: String,
    /// How often a heartbeat is advised.
    pub heartbeat_interval_ms: u64,
    /// Proves the ownership of the peerId; only where it was free or expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_token: Option<String>,
}

/// What `POST /heartbeat` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    pub success: bool,
    pub peer_id: String,
    pub last_seen: u64,
    pub total_peers: usize,
    pub cleaned_expired_peers: usize,
    pub timestamp: String,
}

/// A peer as others see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerEntry<'a> {
    pub peer_id: Cow<'a, str>,
    pub addresses: Cow<'a, [String]>,
    #[serde(rename = "cryptoIPv6")]
    pub crypto_ipv6: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<Cow<'a, [String]>>,
    pub last_seen: u64,
    pub version: Cow<'a, str>,
    pub turn_capable: bool,
    pub bootstrap_capable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Cow<'a, Json>>,
    pub privacy_mode: bool,
}

/// What `GET /peers` is answered with.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerList {
    pub peers: Vec<PeerEntry<'static>>,
    /// Active peers that match, over all pages.
    pub total: usize,
    /// Peers that are stored, expired ones too.
    pub total_registered: usize,
    pub timestamp: String,
    /// Where to go on; absent on the last page.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// What `GET /stats` is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Peers that are stored, expired ones too.
    pub total_peers: usize,
    pub active_peers: usize,
    pub turn_servers: usize,
    pub socket_connections: usize,
    /// Seconds.
    pub uptime: f64,
    pub timestamp: String,
}
