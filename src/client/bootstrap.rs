//! The client of the bootstrap dialect (protocol: bootstrap).
//!
//! Owns its paths and what requests look like; answers are those of the wire. Must not know when to ask: that is
//! `node.rs`.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ClientError;
use super::http::{Http, TIMEOUT, segment};
pub use crate::wire::bootstrap::{Heard, PeerEntry, PeerList, Registered, Stats};
use crate::wire::http::Done;
pub use crate::wire::turn::{TurnAllocated, TurnRegistered, TurnServer, TurnServers};

/// `POST /register`. Absent fields are left to the server's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRegistration {
    /// 1 to 128 visible ASCII characters.
    pub peer_id: String,
    /// 1 to 64, up to 512 bytes each.
    pub addresses: Vec<String>,
    #[serde(rename = "cryptoIPv6", skip_serializing_if = "Option::is_none")]
    pub crypto_ipv6: Option<String>,
    /// Up to 1000, up to 128 bytes each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_mode: Option<bool>,
    /// Up to 8 KiB as JSON.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub capabilities: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_capable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_capable: Option<bool>,
    /// When there are none, what the server knows of this peer's TURN server stays as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub turn_addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_port: Option<u16>,
    /// Sessions at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_capacity: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_type: Option<u32>,
    /// Up to 8 KiB as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_list: Vec<Value>,
}

/// Which peers to list, and what of each; the default is all of them, without stores and capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeersQuery {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_stores: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_capabilities: bool,
    /// Peers on a page at most; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where the page before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only peers of this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,
    /// Only peers that have this store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Only peers that are TURN servers, or that are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_capable: Option<bool>,
}

/// `POST /register-turn-server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TurnRegistration {
    /// A peer that is registered.
    pub peer_id: String,
    /// 1 to 64, up to 512 bytes each.
    pub turn_addresses: Vec<String>,
    /// At least 1.
    pub turn_port: u16,
    /// Sessions at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_capacity: Option<u32>,
}

/// Asks one server for its peers and TURN servers. Cheap to clone.
///
/// Every request fails with [`ClientError::Refused`] or, where the server says when to come again,
/// [`ClientError::Busy`]; with [`ClientError::Unreachable`] and [`ClientError::Timeout`] when there is no answer, and
/// with [`ClientError::Protocol`] when the answer is none of the dialect.
#[derive(Clone, Debug)]
pub struct BootstrapClient {
    http: Http,
}

impl BootstrapClient {
    /// `base` is the server's address, such as `http://127.0.0.1:9000`. A request may take 30 s.
    pub fn new(base: impl AsRef<str>) -> Result<BootstrapClient, ClientError> {
        BootstrapClient::with_timeout(base, TIMEOUT)
    }

    /// With another limit to the time that one request may take, its answer included.
    pub fn with_timeout(base: impl AsRef<str>, timeout: Duration) -> Result<BootstrapClient, ClientError> {
        Ok(BootstrapClient { http: Http::new(base.as_ref(), timeout)? })
    }

    /// The address it asks.
    pub fn base(&self) -> &str {
        self.http.base()
    }

    /// Enters a peer, or replaces its record; `token` is the registrationToken of an earlier answer, if there is one.
    /// When the answer is here, the record is on the server's disk. A peer that is registered elsewhere is refused with
    /// code `registered_elsewhere` where the server is strict.
    pub async fn register(
        &self,
        peer: &PeerRegistration,
        token: Option<&str>,
    ) -> Result<Registered, ClientError> {
        Http::ask(self.http.request(Method::POST, &["register"], token).json(peer)).await
    }

    /// Keeps a peer from expiring. One that is not registered is refused with code `peer_not_found`.
    pub async fn heartbeat(&self, peer_id: &str) -> Result<Heard, ClientError> {
        Http::ask(self.post("heartbeat", None, &json!({ "peerId": peer_id }))).await
    }

    /// [`BootstrapClient::heartbeat`]; none where the answer is 404, whichever code and text it has.
    pub(super) async fn heard(&self, peer_id: &str) -> Result<Option<Heard>, ClientError> {
        Http::find(self.post("heartbeat", None, &json!({ "peerId": peer_id }))).await
    }

    /// One page of active peers; go on from its cursor.
    pub async fn peers(&self, query: &PeersQuery) -> Result<PeerList, ClientError> {
        Http::ask(self.http.request(Method::GET, &["peers"], None).query(query)).await
    }

    /// All pages from the query's cursor on, one request for each; `limit` is the size of a page. Peers that come and
    /// go meanwhile may be among them or not.
    pub async fn all_peers(&self, query: &PeersQuery) -> Result<Vec<PeerEntry<'static>>, ClientError> {
        let mut query = query.clone();
        let mut all = Vec::new();
        loop {
            let page = self.peers(&query).await?;
            all.extend(page.peers);
            if page.cursor.is_none() {
                return Ok(all);
            }
            if page.cursor == query.cursor {
                return Err(ClientError::Protocol("a page ends where it began".to_owned()));
            }
            query.cursor = page.cursor;
        }
    }

    /// Removes a peer at once. A wrong token is refused with code `unauthorized`, an unknown peer with
    /// `peer_not_found`. The ids "." and ".." cannot be named in a URL: they are left to expire.
    pub async fn leave(&self, peer_id: &str, token: &str) -> Result<(), ClientError> {
        let path = ["peers", segment(peer_id)?];
        Http::ask::<Done>(self.http.request(Method::DELETE, &path, Some(token))).await.map(drop)
    }

    /// [`BootstrapClient::leave`], to which an unknown peer has left already.
    pub(super) async fn gone(&self, peer_id: &str, token: &str) -> Result<(), ClientError> {
        let path = ["peers", segment(peer_id)?];
        Http::find::<Done>(self.http.request(Method::DELETE, &path, Some(token))).await.map(drop)
    }

    /// Counts.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        Http::ask(self.http.request(Method::GET, &["stats"], None)).await
    }

    /// Makes a registered peer a TURN server; counts as a heartbeat. `token` is the peer's registrationToken, which a
    /// strict server asks for elsewhere than where the peer registered. A peer that is not registered is refused with
    /// code `peer_not_found`.
    pub async fn register_turn(
        &self,
        turn: &TurnRegistration,
        token: Option<&str>,
    ) -> Result<TurnRegistered, ClientError> {
        Http::ask(self.http.request(Method::POST, &["register-turn-server"], token).json(turn)).await
    }

    /// Makes a peer no TURN server any more; counts as a heartbeat. Otherwise as [`BootstrapClient::register_turn`].
    pub async fn unregister_turn(&self, peer_id: &str, token: Option<&str>) -> Result<(), ClientError> {
        let body = json!({ "peerId": peer_id });
        Http::ask::<Done>(self.post("unregister-turn-server", token, &body)).await.map(drop)
    }

    /// TURN servers below their capacity, the least loaded first.
    pub async fn turn_servers(&self) -> Result<TurnServers, ClientError> {
        Http::ask(self.http.request(Method::GET, &["turn-servers"], None)).await
    }

    /// Begins a session on the least loaded TURN server; `peer_id` need not be registered. Where all are full the
    /// refusal is [`ClientError::Busy`] with code `no_turn_capacity`.
    pub async fn allocate_turn(&self, peer_id: &str) -> Result<TurnAllocated, ClientError> {
        Http::ask(self.post("allocate-turn", None, &json!({ "peerId": peer_id }))).await
    }

    /// Ends a session. One that is unknown, or has ended, is refused with code `session_not_found`.
    pub async fn release_turn(&self, session_id: &str) -> Result<(), ClientError> {
        let body = json!({ "sessionId": session_id });
        Http::ask::<Done>(self.post("release-turn", None, &body)).await.map(drop)
    }

    fn post(&self, path: &str, token: Option<&str>, body: &Value) -> reqwest::RequestBuilder {
        self.http.request(Method::POST, &[path], token).json(body)
    }
}
