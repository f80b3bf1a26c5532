//! The signalling client: requests, answers and pushes as plain structs.
//!
//! Owns what a caller sees. Must not know how the connection is kept: that is `connection.rs`.

use std::net::IpAddr;
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connection::{Call, Connection, IN_FLIGHT, Options, Slot, State};
use super::{ABNORMAL, ClientError, dial};
pub use crate::wire::signalling::{DeadDrop, Match, Relay};

/// Pushes kept for a caller who does not fetch them; older ones are dropped and counted.
const PUSHES: usize = 256;
/// How long [`Client::close`] waits for the server's half of the goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// `register` with a peerId (section 3). Absent fields are left to the server's defaults.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    pub peer_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// From an earlier connection, to take the id over at once (section 6).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
}

/// `register` with a pairing code (section 5).
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterCode {
    pub pairing_code: String,
    /// Standard base64 of 32 bytes.
    pub public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
}

/// `register_rendezvous` (section 4).
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendezvous {
    pub peer_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub relay_id: String,
    pub daily_points: Vec<String>,
    pub hourly_tokens: Vec<String>,
    /// (point, payload); when there are any, `dead_drop` is not used.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub dead_drops: Vec<(String, String)>,
    /// One payload for all points.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dead_drop: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
}

fn as_map<S: Serializer>(pairs: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// The server's first message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    pub server_id: String,
    #[serde(default)]
    pub endpoint: String,
    #[serde(default)]
    pub region: Option<String>,
}

/// The answer to both kinds of `register`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The peer id, or the pairing code.
    #[serde(alias = "pairingCode")]
    pub peer_id: String,
    #[serde(default)]
    pub server_id: String,
    /// At most 10, never the caller; none for a pairing code.
    #[serde(default)]
    pub relays: Vec<Relay>,
    /// Takes the id over from another connection; kept and used by the client itself when it reconnects.
    #[serde(default)]
    pub resume_token: Option<String>,
}

/// The answer to `register_rendezvous`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RendezvousResult {
    pub live_matches: Vec<Match>,
    pub dead_drops: Vec<DeadDrop>,
    /// Whether dead drops were left out because the answer had become too long.
    #[serde(default)]
    pub truncated: bool,
    /// Present when this very message took the id.
    #[serde(default)]
    pub resume_token: Option<String>,
}

#[derive(Deserialize)]
struct Relays {
    relays: Vec<Relay>,
}

#[derive(Deserialize)]
struct HeartbeatAck {
    timestamp: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoadUpdated {
    connected_count: f64,
}

/// What comes without being asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Push {
    /// Another peer registered a token of ours.
    Match(Match),
    /// The connection was lost and is being made again.
    Lost { code: u16, reason: String },
    /// The connection stands again; what was registered is being registered again.
    Reconnected,
    /// The last rendezvous, registered again after a reconnect, and whom and what it found.
    Renewed(RendezvousResult),
    /// Something that was registered before could not be registered again.
    NotRenewed { message: String, code: String },
    /// A message of another part of the dialect.
    Other(serde_json::Value),
    /// So many pushes were dropped, because nobody fetched them.
    Missed(u64),
}

/// A request as it travels.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(crate) enum Request<'a> {
    Ping {},
    Heartbeat {
        peer_id: &'a str,
    },
    Register(&'a Register),
    #[serde(rename = "register")]
    RegisterCode(&'a RegisterCode),
    UpdateLoad {
        peer_id: &'a str,
        connected_count: u32,
    },
    GetRelays {
        #[serde(skip_serializing_if = "Option::is_none")]
        peer_id: Option<&'a str>,
        count: usize,
    },
    RegisterRendezvous(&'a Rendezvous),
}

/// How a [`Client`] connects and what it does when the connection is lost.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    options: Options,
}

impl ClientBuilder {
    /// For a `ws://` URL: reconnecting, 30 s for a request, at most 30 s between two attempts to connect.
    pub fn new(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            options: Options {
                url: url.into(),
                local: None,
                reconnect: true,
                timeout: Duration::from_secs(30),
                max_backoff: Duration::from_secs(30),
                probe_every: Duration::from_secs(20),
            },
        }
    }

    /// The local address to connect from.
    pub fn local_address(mut self, address: IpAddr) -> ClientBuilder {
        self.options.local = Some(address);
        self
    }

    /// Whether a lost connection is made again; if not, every request after it fails with `Closed`.
    pub fn reconnect(mut self, reconnect: bool) -> ClientBuilder {
        self.options.reconnect = reconnect;
        self
    }

    /// How long a request may take, reconnecting included; also how long one attempt to connect may take.
    pub fn request_timeout(mut self, time: Duration) -> ClientBuilder {
        self.options.timeout = time;
        self
    }

    /// The longest pause between two attempts to connect.
    pub fn max_backoff(mut self, time: Duration) -> ClientBuilder {
        self.options.max_backoff = time;
        self
    }

    /// After this much silence the server is pinged; after as much again the connection counts as lost.
    pub fn probe_every(mut self, time: Duration) -> ClientBuilder {
        self.options.probe_every = time;
        self
    }

    /// Connects once: a first attempt that fails is an error, whether or not reconnecting is on.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let ClientBuilder { options } = self;
        let request_timeout = options.timeout;
        let dialled = timeout(options.timeout, dial(&options.url, options.local)).await;
        let socket = dialled.map_err(|_| ClientError::Timeout)??;
        let (calls, queue) = mpsc::channel(IN_FLIGHT);
        let (push, pushes) = broadcast::channel(PUSHES);
        let (state, seen) = watch::channel(State::default());
        let task = tokio::spawn(Connection::new(options, queue, push, state).run(socket));
        Ok(Client { calls, pushes: Mutex::new(pushes), state: seen, task, timeout: request_timeout })
    }
}

/// One peer's connection. Requests may be made concurrently; they reach the server in the order in which they were
/// made and are answered in it. Dropping it closes the connection.
///
/// When the connection is lost, it is made again after a pause that grows; what was registered (peer id, pairing code,
/// the last rendezvous) is registered again under its resume token, and unanswered requests are repeated. A connection
/// that another one replaced (close code 4409) is not made again.
#[derive(Debug)]
pub struct Client {
    calls: mpsc::Sender<Call>,
    pushes: Mutex<broadcast::Receiver<Push>>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
    timeout: Duration,
}

impl Client {
    /// Connects to a `ws://` URL with the defaults of [`ClientBuilder`].
    pub async fn connect(url: impl Into<String>) -> Result<Client, ClientError> {
        ClientBuilder::new(url).connect().await
    }

    /// Who the server is; waits for its first message if need be.
    pub async fn server_info(&self) -> Result<ServerInfo, ClientError> {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| state.info.is_some() || state.ended.is_some());
        let state = timeout(self.timeout, known).await.map_err(|_| ClientError::Timeout)?;
        let info = state.ok().and_then(|state| state.info.clone());
        info.ok_or_else(|| self.ended())
    }

    /// A round trip through the server, at the dialect's level.
    pub async fn ping(&self) -> Result<(), ClientError> {
        self.ask("pong", None, &Request::Ping {}).await.map(|_: IgnoredAny| ())
    }

    /// Returns the server's time in milliseconds since the Unix epoch.
    pub async fn heartbeat(&self, peer_id: &str) -> Result<u64, ClientError> {
        let request = Request::Heartbeat { peer_id };
        self.ask("heartbeat_ack", None, &request).await.map(|ack: HeartbeatAck| ack.timestamp)
    }

    /// Takes the id and enters the relay registry. An id that another live connection holds is refused with code
    /// `id_in_use`, unless its resume token is shown.
    pub async fn register(&self, register: &Register) -> Result<Registered, ClientError> {
        self.ask("registered", Some(Slot::Peer), &Request::Register(register)).await
    }

    /// A code that another live connection holds is refused with code `code_collision`.
    pub async fn register_code(&self, register: &RegisterCode) -> Result<Registered, ClientError> {
        self.ask("registered", Some(Slot::Code), &Request::RegisterCode(register)).await
    }

    /// Returns the count as the server has it now.
    pub async fn update_load(&self, peer_id: &str, connected_count: u32) -> Result<f64, ClientError> {
        let request = Request::UpdateLoad { peer_id, connected_count };
        self.ask("load_updated", None, &request).await.map(|answer: LoadUpdated| answer.connected_count)
    }

    /// A random sample of relays with room, without `except`; the server clamps `count` to 1..=100.
    pub async fn get_relays(&self, except: Option<&str>, count: usize) -> Result<Vec<Relay>, ClientError> {
        let request = Request::GetRelays { peer_id: except, count };
        self.ask("relays", None, &request).await.map(|answer: Relays| answer.relays)
    }

    /// When the answer is here, the registration is on the server's disk.
    pub async fn register_rendezvous(
        &self,
        rendezvous: &Rendezvous,
    ) -> Result<RendezvousResult, ClientError> {
        let request = Request::RegisterRendezvous(rendezvous);
        self.ask("rendezvous_result", Some(Slot::Rendezvous), &request).await
    }

    /// The next push, in order of arrival; none when the connection has ended for good.
    pub async fn next_push(&self) -> Option<Push> {
        match self.pushes.lock().await.recv().await {
            Ok(push) => Some(push),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Push::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// Closes with code 1000 and waits, at most 3 s, for the server's half of the goodbye.
    pub async fn close(self) {
        drop(self.calls);
        let abort = self.task.abort_handle();
        if timeout(GOODBYE, self.task).await.is_err() {
            abort.abort();
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        answer: &'static str,
        slot: Option<Slot>,
        request: &Request<'_>,
    ) -> Result<T, ClientError> {
        let text =
            serde_json::to_string(request).map_err(|error| ClientError::Protocol(error.to_string()))?;
        let (reply, answered) = oneshot::channel();
        let exchange = async {
            let call = Call { text: text.into(), answer, slot, reply: Some(reply) };
            self.calls.send(call).await.map_err(|_| self.ended())?;
            answered.await.map_err(|_| self.ended())?
        };
        let text = timeout(self.timeout, exchange).await.map_err(|_| ClientError::Timeout)??;
        serde_json::from_str(&text).map_err(|error| ClientError::Protocol(error.to_string()))
    }

    fn ended(&self) -> ClientError {
        let ended = self.state.borrow().ended.clone();
        let (code, reason) = ended.unwrap_or((ABNORMAL, "the connection has ended".to_owned()));
        ClientError::Closed { code, reason }
    }
}
