//! The admin endpoint's JSON, as the daemon writes it and the CLI reads it.
//!
//! Owns the shapes. Must not know how they are gathered or shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /admin/api/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub server_id: String,
    /// How often this data directory has been started.
    pub boot: u64,
    pub schema: u32,
    pub uptime_seconds: u64,
    /// Milliseconds since the Unix epoch.
    pub now: u64,
    /// Whether writes are taken.
    pub ready: bool,
    pub leases: Leases,
    /// When the next lease ends, as far as the expiry index knows; milliseconds since the Unix epoch.
    pub next_expiry: Option<u64>,
    pub store: StoreStatus,
    pub engine: EngineStatus,
    pub connections: ConnectionCounts,
    pub live: LiveCounts,
    #[serde(default)]
    pub handled: Handled,
}

/// Messages, frames and HTTP requests handled since the start, by dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    pub signalling: u64,
    pub link: u64,
    /// TURN included.
    pub bootstrap: u64,
    pub directory: u64,
}

/// Counts by kind, and what the registrations hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Leases {
    pub relay: usize,
    pub registration: usize,
    pub peer: usize,
    pub turn_session: usize,
    pub server: usize,
    pub claim: usize,
    pub chunk: usize,
    pub points: usize,
    pub tokens: usize,
    pub dead_drop_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    pub bytes_on_disk: u64,
    /// Rows written or removed since the start.
    pub rows: u64,
    pub undecodable_rows: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Requests waiting for the writer now.
    pub queue: usize,
    pub requests: u64,
    pub drains: u64,
    pub writer_busy_seconds: f64,
    pub overloaded: u64,
    pub swept: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionCounts {
    pub open: usize,
    /// Distinct addresses among them (IPv6: /64 networks).
    pub addresses: usize,
    /// Ids held.
    pub ids: usize,
    /// Binaries connected, those in their grace left out.
    pub binaries: usize,
    pub phones: usize,
    pub unsent_bytes: usize,
}

/// What ends with the sockets it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCounts {
    pub pairing_codes: usize,
    /// Pair requests and link requests that wait for an answer.
    pub pair_requests: usize,
    pub link_requests: usize,
    /// Links between two devices.
    pub device_links: usize,
    pub chunk_sources: usize,
    /// Requests that wait for a chunk.
    pub chunk_requests: usize,
    pub subscriptions: usize,
}

/// `GET /admin/api/leases`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasePage {
    pub leases: Vec<Lease>,
    /// Where to go on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One lease for inspection. Dead drops and chunks are shown by size and digest, never by content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lease {
    pub kind: String,
    pub key: String,
    /// The id it belongs to.
    pub peer_id: String,
    /// Milliseconds since the Unix epoch; absent while it ends with its holder.
    pub ends: Option<u64>,
    /// Where the expiry index has it; 0 = ends with its holder.
    pub indexed: u64,
    pub record: serde_json::Value,
}

/// The least level that is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    pub level: String,
}

/// `POST /admin/api/sweep`: how many leases of each kind ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    pub relay: usize,
    pub registration: usize,
    pub peer: usize,
    pub turn_session: usize,
    pub server: usize,
    pub claim: usize,
    pub chunk: usize,
}

/// `POST /admin/api/check`, and `waypost check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// How many of each kind.
    pub leases: BTreeMap<String, usize>,
    pub index_rows: usize,
    pub problems: Vec<String>,
    /// Whether a restart would change no answer; absent where no daemon runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_agrees: Option<bool>,
}

/// `store` of `GET /admin/api/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreEvent {
    /// Absent while the store is closed after a failure.
    pub bytes_on_disk: Option<u64>,
    /// Flushes since the event before; without any there are no times.
    pub flushes: u64,
    pub flush_p50_seconds: Option<f64>,
    pub flush_p99_seconds: Option<f64>,
}

/// What an action answers that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub done: bool,
}

/// `GET /admin/api/claims`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimPage {
    pub claims: Vec<Claim>,
    /// Where to go on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One claim of link and what lives by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub server_id: String,
    /// "held" or "grace".
    pub state: String,
    pub generation: u64,
    /// When its grace ends; milliseconds since the Unix epoch; absent while a binary holds it.
    pub ends: Option<u64>,
    /// The same as time left, in milliseconds.
    pub left_ms: Option<u64>,
    /// The binary's socket.
    pub socket: Option<u64>,
    /// Phones attached.
    pub phones: usize,
    /// Bytes of phones' frames that wait for the binary.
    pub waiting_bytes: usize,
}

/// `GET /admin/api/connections`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connections {
    pub connections: Vec<Connection>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    pub socket: u64,
    pub address: String,
    /// "peer", or "binary" or "phone" of link.
    pub role: String,
    /// The id that it holds; of a binary or a phone the server-id.
    pub id: Option<String>,
    pub age_seconds: u64,
    pub unsent_bytes: usize,
}

/// The body of every admin failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdminError {
    pub error: String,
    pub code: String,
}
