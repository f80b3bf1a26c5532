//! The client of the directory dialect (protocol: directory).
//!
//! Owns its paths, what requests look like, and the verification of a signed listing; answers are those of the wire.
//! Must not know when to ask, nor which of several servers to believe.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use reqwest::Method;
use serde::Serialize;

use super::ClientError;
use super::http::{Http, TIMEOUT, accepted, segment, unread};
use crate::wire::directory::ServerPeers;
pub use crate::wire::directory::{Counters, ServerEntry, ServerKey, ServerList, ServerRegistered};
use crate::wire::http::Done;

/// The signature of a listing.
const SIGNATURE: &str = "x-bootstrap-signature";

/// `POST /servers`. Absent fields are left to the server's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerRegistration {
    /// 1 to 128 of letters, digits and `_:.+/=-`.
    pub server_id: String,
    /// A ws, wss, http or https URL, up to 2048 bytes.
    pub endpoint: String,
    /// Up to 1024 bytes.
    pub public_key: String,
    /// Up to 64 of letters, digits and `._-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(flatten)]
    pub counters: Counters,
}

/// `POST /servers/heartbeat`. Counters that are absent stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerHeartbeat {
    pub server_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signaling_connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_codes: Option<u64>,
}

/// Asks one directory of servers. Cheap to clone.
///
/// Every request fails with [`ClientError::Refused`] or, where the directory says when to come again,
/// [`ClientError::Busy`]; with [`ClientError::Unreachable`] and [`ClientError::Timeout`] when there is no answer, and
/// with [`ClientError::Protocol`] when the answer is none of the dialect. A write without the right secret is refused
/// with code `unauthorized`.
#[derive(Clone)]
pub struct DirectoryClient {
    http: Http,
    secret: Option<String>,
}

impl DirectoryClient {
    /// `base` is the directory's address, such as `http://127.0.0.1:9000`. A request may take 30 s.
    pub fn new(base: impl AsRef<str>) -> Result<DirectoryClient, ClientError> {
        DirectoryClient::with_timeout(base, TIMEOUT)
    }

    /// With another limit to the time that one request may take, its answer included.
    pub fn with_timeout(base: impl AsRef<str>, timeout: Duration) -> Result<DirectoryClient, ClientError> {
        Ok(DirectoryClient { http: Http::new(base.as_ref(), timeout)?, secret: None })
    }

    /// Shows this secret with every write, in place of an owner's token.
    pub fn secret(self, secret: impl Into<String>) -> DirectoryClient {
        DirectoryClient { secret: Some(secret.into()), ..self }
    }

    /// The address it asks.
    pub fn base(&self) -> &str {
        self.http.base()
    }

    /// Enters a server, or overwrites its entry; `owner` is the ownerToken of the first registration. When the answer
    /// is here, the entry is on the directory's disk. Somebody else's live entry is refused with code `forbidden` where
    /// the directory is strict.
    pub async fn register(
        &self,
        server: &ServerRegistration,
        owner: Option<&str>,
    ) -> Result<ServerRegistered, ClientError> {
        Http::ask(self.write(Method::POST, &["servers"], owner).json(server)).await
    }

    /// Keeps a server from getting stale and returns the others. One that is not registered is refused with code
    /// `server_not_registered`.
    pub async fn heartbeat(&self, heartbeat: &ServerHeartbeat) -> Result<Vec<ServerEntry>, ClientError> {
        let request = self.write(Method::POST, &["servers", "heartbeat"], None).json(heartbeat);
        Http::ask(request).await.map(|answer: ServerPeers| answer.peers)
    }

    /// The fresh servers, taken on trust.
    pub async fn list(&self) -> Result<ServerList, ClientError> {
        self.signed_list().await.and_then(|(body, _)| read(&body))
    }

    /// The fresh servers, signed by `key`; none: by what the directory says now is its key. That proves that the
    /// listing came whole; only a key that is known from elsewhere, or from before, proves whose it is. A listing
    /// without that key's signature is [`ClientError::Protocol`].
    pub async fn verified_list(&self, key: Option<&ServerKey>) -> Result<ServerList, ClientError> {
        let key = match key {
            Some(key) => verifying(key)?,
            None => verifying(&self.key().await?)?,
        };
        let (body, signature) = self.signed_list().await?;
        verify(&key, &body, signature.as_deref())?;
        read(&body)
    }

    /// The key that the directory signs its listings with.
    pub async fn key(&self) -> Result<ServerKey, ClientError> {
        Http::ask(self.http.request(Method::GET, &["servers", "key"], None)).await
    }

    /// Removes a server; one that is unknown is gone already. Somebody else's live entry is refused as by
    /// [`DirectoryClient::register`]. The ids "." and ".." cannot be named in a URL: they are left to get stale.
    pub async fn leave(&self, server_id: &str, owner: Option<&str>) -> Result<(), ClientError> {
        let path = ["servers", segment(server_id)?];
        Http::ask::<Done>(self.write(Method::DELETE, &path, owner)).await.map(drop)
    }

    fn write(&self, method: Method, path: &[&str], owner: Option<&str>) -> reqwest::RequestBuilder {
        self.http.request(method, path, self.secret.as_deref().or(owner))
    }

    /// A listing's bytes and the signature that came with them.
    async fn signed_list(&self) -> Result<(Vec<u8>, Option<String>), ClientError> {
        let answer = Http::send(self.http.request(Method::GET, &["servers"], None)).await?;
        let answer = accepted(answer).await?;
        let signature = answer.headers().get(SIGNATURE).and_then(|text| text.to_str().ok());
        let signature = signature.map(str::to_owned);
        let body = answer.bytes().await.map_err(|error| unread(&error))?;
        Ok((body.into(), signature))
    }
}

fn read(body: &[u8]) -> Result<ServerList, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Protocol(error.to_string()))
}

fn verifying(key: &ServerKey) -> Result<VerifyingKey, ClientError> {
    let bytes = STANDARD.decode(&key.public_key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let key =
        bytes.filter(|_| key.algorithm == "ed25519").and_then(|raw| VerifyingKey::from_bytes(&raw).ok());
    key.ok_or_else(|| ClientError::Protocol("the directory's key is no Ed25519 key".to_owned()))
}

fn verify(key: &VerifyingKey, body: &[u8], signature: Option<&str>) -> Result<(), ClientError> {
    let signature = signature.ok_or_else(|| ClientError::Protocol("the listing is not signed".to_owned()))?;
    let raw = STANDARD.decode(signature).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    let verified = raw.is_some_and(|raw| key.verify_strict(body, &Signature::from_bytes(&raw)).is_ok());
    let foreign = "the listing's signature is not by the directory's key";
    if verified { Ok(()) } else { Err(ClientError::Protocol(foreign.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::directory::{RegisterServer, ServerHeartbeat as ReadHeartbeat};

    #[test]
    fn requests_are_what_the_server_reads() {
        let server = ServerRegistration {
            server_id: "s".to_owned(),
            endpoint: "wss://relay.example.org".to_owned(),
            public_key: "k".to_owned(),
            counters: Counters { active_codes: 4, ..Counters::default() },
            ..ServerRegistration::default()
        };
        let read = RegisterServer::decode(&serde_json::to_vec(&server).unwrap(), false);
        let read = read.unwrap();
        assert_eq!(read.server.counters, server.counters);

        let heartbeat =
            ServerHeartbeat { server_id: "s".to_owned(), connections: Some(9), ..ServerHeartbeat::default() };
        let read = ReadHeartbeat::decode(&serde_json::to_vec(&heartbeat).unwrap());
        let read = read.unwrap().counters.over(server.counters);
        assert_eq!((read.connections, read.active_codes), (9, 4));
    }
}
