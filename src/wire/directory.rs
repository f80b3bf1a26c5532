//! The directory dialect: servers list each other over HTTP (protocol: directory).
//!
//! Owns its requests with their checks, its answers, its literal texts, and which endpoints are private. Must not know
//! how anything is stored.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::{Host, Url};
use utoipa::ToSchema;

use super::Refusal;
use super::http::{Problem, read_body};
use crate::id::ServerId;

const MAX_ENDPOINT_BYTES: usize = 2048;
const MAX_KEY_BYTES: usize = 1024;
const MAX_REGION_BYTES: usize = 64;
/// The largest whole number that JavaScript counts to without gaps.
const MAX_COUNTER: u64 = (1 << 53) - 1;

pub const MISSING_SERVER: Problem =
    Problem::of(400, Refusal::of("missing_fields", "Missing required fields: serverId, endpoint, publicKey"));
pub const MISSING_SERVER_ID: Problem = Problem::of(400, Refusal::of("missing_fields", "Missing serverId"));
pub const INVALID_SERVER_ID: Problem =
    Problem::of(400, Refusal::of("invalid_server_id", "Invalid serverId format"));
pub const INVALID_ENDPOINT: Problem = Problem::of(400, Refusal::of("invalid_endpoint", "Invalid endpoint"));
pub const INVALID_PUBLIC_KEY: Problem =
    Problem::of(400, Refusal::of("invalid_public_key", "Invalid publicKey"));
pub const FORBIDDEN: Problem = Problem::of(403, Refusal::of("forbidden", "Forbidden"));
pub const SERVER_NOT_REGISTERED: Problem =
    Problem::of(404, Refusal::of("server_not_registered", "Server not registered"));
pub const DIRECTORY_FULL: Problem = Problem::of(503, Refusal::of("registry_full", "Server registry full"));

/// How busy a server says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    pub connections: u64,
    pub relay_connections: u64,
    pub signaling_connections: u64,
    pub active_codes: u64,
}

/// Those of the counters that a request names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SomeCounters {
    connections: Option<u64>,
    relay_connections: Option<u64>,
    signaling_connections: Option<u64>,
    active_codes: Option<u64>,
}

impl SomeCounters {
    /// The others stay as they are in `old`.
    pub fn over(self, old: Counters) -> Counters {
        Counters {
            connections: self.connections.unwrap_or(old.connections),
            relay_connections: self.relay_connections.unwrap_or(old.relay_connections),
            signaling_connections: self.signaling_connections.unwrap_or(old.signaling_connections),
            active_codes: self.active_codes.unwrap_or(old.active_codes),
        }
    }

    /// In the order of the fields.
    fn checked(counters: [Option<u64>; 4]) -> Result<SomeCounters, Problem> {
        const NAMES: [&str; 4] = ["connections", "relayConnections", "signalingConnections", "activeCodes"];
        let too_large = |count: &Option<u64>| count.is_some_and(|count| count > MAX_COUNTER);
        if let Some(at) = counters.iter().position(too_large) {
            return Err(Problem::invalid_field(NAMES[at]));
        }
        let [connections, relay_connections, signaling_connections, active_codes] = counters;
        Ok(SomeCounters { connections, relay_connections, signaling_connections, active_codes })
    }
}

/// A server as it described itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub endpoint: String,
    pub public_key: String,
    pub region: String,
    pub counters: Counters,
}

/// `POST /servers`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterServerBody {
    /// 1 to 128 of letters, digits and `_:.+/=-`.
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9_:.+/=-]{1,128}$",
        example = "ed25519:example")]
    server_id: Option<Value>,
    /// A ws, wss, http or https URL of a public host, up to 2048 bytes.
    #[schema(value_type = String, required = true, pattern = "^(ws|wss|http|https)://[!-~]{1,2000}$",
        example = "wss://relay.example.org/ws")]
    endpoint: Option<Value>,
    /// Up to 1024 bytes.
    #[schema(value_type = String, required = true, min_length = 1, max_length = 1024, example = "key")]
    public_key: Option<Value>,
    /// Up to 64 of letters, digits and `._-`, else "unknown".
    #[schema(value_type = Option<String>)]
    region: Option<Value>,
    #[schema(maximum = 9007199254740991u64)]
    connections: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    relay_connections: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    signaling_connections: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    active_codes: Option<u64>,
}

/// A server's registration as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterServer {
    pub id: ServerId,
    pub server: Server,
}

impl RegisterServer {
    pub fn decode(body: &[u8], allow_private: bool) -> Result<RegisterServer, Problem> {
        let body: RegisterServerBody = read_body(body)?;
        let is_there = |value: &Option<Value>| value.as_ref().is_some_and(|value| value.as_str() != Some(""));
        if ![&body.server_id, &body.endpoint, &body.public_key].into_iter().all(is_there) {
            return Err(MISSING_SERVER);
        }
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let id = text(body.server_id).and_then(|text| ServerId::parse(&text)).ok_or(INVALID_SERVER_ID)?;
        let endpoint = text(body.endpoint).filter(|text| is_endpoint(text, allow_private));
        let endpoint = endpoint.ok_or(INVALID_ENDPOINT)?;
        let public_key = text(body.public_key).filter(|text| text.len() <= MAX_KEY_BYTES);
        let public_key = public_key.ok_or(INVALID_PUBLIC_KEY)?;
        let region = text(body.region).filter(|text| is_region(text));
        let region = region.unwrap_or_else(|| "unknown".to_owned());
        let counters =
            [body.connections, body.relay_connections, body.signaling_connections, body.active_codes];
        let counters = SomeCounters::checked(counters)?.over(Counters::default());
        Ok(RegisterServer { id, server: Server { endpoint, public_key, region, counters } })
    }
}

fn is_region(text: &str) -> bool {
    (1..=MAX_REGION_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether others may be sent to an endpoint: a URL that hides nothing, of a public host unless private ones are allowed.
/// Names are not resolved: what a name stands for may change later anyway.
fn is_endpoint(text: &str, allow_private: bool) -> bool {
    let plain =
        text.len() <= MAX_ENDPOINT_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let Some(url) = Url::parse(text).ok().filter(|_| plain) else { return false };
    // The parser forgives missing and additional slashes and an empty user; others may not.
    let rest = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let spoken = matches!(url.scheme(), "ws" | "wss" | "http" | "https");
    let is_private = match url.host() {
        None => return false,
        Some(Host::Domain(name)) => is_private_name(name),
        Some(Host::Ipv4(address)) => is_private_v4(address),
        Some(Host::Ipv6(address)) => is_private_v6(address),
    };
    spoken && !authority.is_empty() && !authority.contains('@') && (allow_private || !is_private)
}

/// Names that no public resolver answers, or that mean this host or network.
fn is_private_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    let private =
        ["localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "localdomain"];
    !name.contains('.') || private.contains(&last) || name.ends_with(".home.arpa")
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || first == 0
        // Shared by carriers (RFC 6598), protocol assignments (RFC 6890), benchmarks (RFC 2544).
        || (first == 100 && (64..128).contains(&second))
        || (first == 192 && second == 0 && third == 0)
        || (first == 198 && (second == 18 || second == 19))
        // Multicast, reserved, broadcast.
        || first >= 224
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Unspecified, loopback, and addresses that stand for an IPv4 one: compatible, mapped, translated, 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // Locally translated, Teredo, unique local, link local, site local, multicast.
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => true,
        [first, ..] => (0xfc00..0xfe00).contains(&first) || first >= 0xfe80,
    }
}

/// `POST /servers/heartbeat`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerHeartbeatBody {
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9_:.+/=-]{1,128}$",
        example = "ed25519:example")]
    server_id: Option<Value>,
    #[schema(maximum = 9007199254740991u64)]
    connections: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    relay_connections: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    signaling_connections: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    active_codes: Option<u64>,
}

/// A server that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHeartbeat {
    pub id: ServerId,
    pub counters: SomeCounters,
}

impl ServerHeartbeat {
    pub fn decode(body: &[u8]) -> Result<ServerHeartbeat, Problem> {
        let body: ServerHeartbeatBody = read_body(body)?;
        let Some(Value::String(text)) = body.server_id.filter(|value| value.as_str() != Some("")) else {
            return Err(MISSING_SERVER_ID);
        };
        let id = ServerId::parse(&text).ok_or(INVALID_SERVER_ID)?;
        let counters =
            [body.connections, body.relay_connections, body.signaling_connections, body.active_codes];
        Ok(ServerHeartbeat { id, counters: SomeCounters::checked(counters)? })
    }
}

/// A server as others see it. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerEntry {
    pub server_id: String,
    pub endpoint: String,
    pub public_key: String,
    pub region: String,
    pub registered_at: u64,
    pub last_seen: u64,
    #[serde(flatten)]
    pub counters: Counters,
}

/// What `POST /servers` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerRegistered {
    pub success: bool,
    pub server: ServerEntry,
    /// Proves the ownership of the entry; only with the first registration, and where the directory has no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_token: Option<String>,
}

/// What `POST /servers/heartbeat` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerPeers {
    pub success: bool,
    /// The other servers.
    pub peers: Vec<ServerEntry>,
}

/// What `GET /servers` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerList {
    pub servers: Vec<ServerEntry>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
}

/// What `GET /servers/key` is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerKey {
    /// Standard base64 of the 32 raw bytes.
    pub public_key: String,
    pub algorithm: String,
}

/// What `GET /health` is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    pub status: String,
    pub service: String,
    pub server_id: String,
    pub version: String,
    /// Seconds.
    pub uptime: f64,
    pub timestamp: String,
}

#[cfg(test)]
mod tests {
    use super::is_endpoint;

    #[test]
    fn endpoints_are_public_urls_that_hide_nothing() {
        for good in [
            "wss://relay.example.org/ws?x=1",
            "http://198.51.100.7:9000",
            "https://[2600::1]:8443/a",
            "ws://a.b.c.",
            "ws://[::ffff:8.8.8.8]",
            "http://172.15.0.1",
            "http://100.128.0.1",
        ] {
            assert!(is_endpoint(good, false), "{good}");
        }
        for bad in [
            "",
            "relay.example.org",
            "ftp://example.org",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "ws://",
            "ws:example.org",
            "http:///example.org",
            "ws://user@example.org",
            "ws://user:pw@example.org",
            "ws://@example.org",
            "ws:/user:pw@example.org://x",
            "ws:example.org://x",
            "ws://exam ple.org",
            "ws://example.org/\n",
            " ws://example.org",
            "ws:\\\\example.org",
            "ws://example.org:99999",
            &format!("ws://example.org/{}", "x".repeat(2048)),
        ] {
            assert!(!is_endpoint(bad, true), "{bad}");
        }
    }

    #[test]
    fn loopback_and_private_hosts_are_told_in_every_spelling() {
        for private in [
            "ws://localhost",
            "ws://LOCALHOST:1",
            "ws://x.localhost.",
            "ws://127.0.0.1",
            "ws://127.1",
            "ws://2130706433",
            "ws://0x7f.0.0.1",
            "ws://0177.0.0.1",
            "ws://0.0.0.0",
            "ws://10.1.2.3",
            "ws://172.31.255.255",
            "ws://192.168.0.1",
            "ws://169.254.169.254/latest/meta-data",
            "ws://100.64.0.1",
            "ws://224.0.0.1",
            "ws://255.255.255.255",
            "ws://[::1]",
            "ws://[::]",
            "ws://[::ffff:127.0.0.1]",
            "ws://[::ffff:a00:1]",
            "ws://[::127.0.0.1]",
            "ws://[64:ff9b::10.0.0.1]",
            "ws://[2002:7f00:1::]",
            "ws://[2001:0:1::]",
            "ws://[fc00::1]",
            "ws://[fd12::1]",
            "ws://[fe80::1]",
            "ws://[ff02::1]",
            "ws://printer",
            "ws://nas.local",
            "ws://db.internal",
            "ws://box.home.arpa",
            "ws://%6c%6fcalhost",
        ] {
            assert!(!is_endpoint(private, false), "{private}");
            assert!(is_endpoint(private, true), "{private}");
        }
    }
}
