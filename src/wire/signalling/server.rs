//! What the server says (protocol: signalling).
//!
//! Owns every message from the server exactly as it travels. Must not know when one is due.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{ChunkName, Signal};
use crate::wire::Refusal;

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    PairIncoming {
        from_code: String,
        from_public_key: String,
        /// Milliseconds.
        expires_in: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proposed_name: Option<String>,
    },
    PairError {
        error: Cow<'static, str>,
    },
    PairExpiring {
        peer_code: String,
        remaining_seconds: u64,
    },
    PairTimeout {
        peer_code: String,
    },
    PairCancelled {
        peer_code: String,
    },
    PairRejected {
        peer_code: String,
    },
    PairMatched {
        peer_code: String,
        peer_public_key: String,
        is_initiator: bool,
    },
    Offer(Forwarded),
    Answer(Forwarded),
    IceCandidate(Forwarded),
    CallOffer(Forwarded),
    CallAnswer(Forwarded),
    CallReject(Forwarded),
    CallHangup(Forwarded),
    CallIce(Forwarded),
    LinkRequest {
        link_code: String,
        public_key: String,
        device_name: String,
        /// Milliseconds.
        expires_in: u64,
    },
    LinkError {
        error: Cow<'static, str>,
    },
    LinkTimeout {
        link_code: String,
    },
    LinkRejected {
        link_code: String,
    },
    LinkMatched {
        link_code: String,
        peer_public_key: String,
        is_initiator: bool,
        /// To the device that asked, where the other one gave it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_id: Option<String>,
        /// To the device that was asked, like `device_name`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        web_client_code: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_name: Option<String>,
    },
    ChunkAnnounceAck {
        registered: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume_token: Option<String>,
    },
    ChunkAvailable {
        channel_id: String,
        chunk_ids: Vec<String>,
    },
    ChunkPull {
        chunk_id: String,
        channel_id: String,
    },
    ChunkPulling {
        chunk_id: String,
    },
    ChunkData {
        chunk_id: String,
        channel_id: String,
        /// An object or a string, as it was pushed.
        data: Value,
        source: ChunkSource,
    },
    ChunkError {
        chunk_id: String,
        error: Cow<'static, str>,
    },
    ChunkPushAck {
        chunk_id: String,
        cached: bool,
        served_count: usize,
    },
    #[serde(rename = "channel-subscribed")]
    ChannelSubscribed {
        channel_id: String,
    },
    #[serde(rename = "channel-unsubscribed")]
    ChannelUnsubscribed {
        channel_id: String,
    },
    Error(Refusal),
}

impl From<Refusal> for ServerMessage {
    fn from(refusal: Refusal) -> ServerMessage {
        ServerMessage::Error(refusal)
    }
}

impl ServerMessage {
    /// What `from` sends to another, in the shape or the shapes in which it arrives (section 5).
    pub fn forwarded(signal: Signal, from: &str, payload: Map<String, Value>) -> ServerMessage {
        let mut fields = Map::new();
        if signal.is_of_a_call() {
            fields.clone_from(&payload);
            ["type", "from", "payload"].into_iter().for_each(|name| drop(fields.remove(name)));
        }
        let forwarded = Forwarded { from: from.to_owned(), payload, fields };
        match signal {
            Signal::Offer => ServerMessage::Offer(forwarded),
            Signal::Answer => ServerMessage::Answer(forwarded),
            Signal::IceCandidate => ServerMessage::IceCandidate(forwarded),
            Signal::CallOffer => ServerMessage::CallOffer(forwarded),
            Signal::CallAnswer => ServerMessage::CallAnswer(forwarded),
            Signal::CallReject => ServerMessage::CallReject(forwarded),
            Signal::CallHangup => ServerMessage::CallHangup(forwarded),
            Signal::CallIce => ServerMessage::CallIce(forwarded),
        }
    }

    pub fn chunk_data(name: &ChunkName, data: Value, source: ChunkSource) -> ServerMessage {
        ServerMessage::ChunkData {
            chunk_id: name.chunk().to_string(),
            channel_id: name.channel().to_string(),
            data,
            source,
        }
    }
}

/// What another peer has sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Forwarded {
    pub from: String,
    pub payload: Map<String, Value>,
    /// Of a call: the payload's fields once more.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Where a chunk's data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChunkSource {
    Cache,
    /// Somebody has just pushed it.
    Relay,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    pub peer_id: String,
    pub public_key: Option<String>,
    /// connectedCount / maxConnections.
    #[serde(serialize_with = "plain_number")]
    pub capacity: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    pub peer_id: String,
    pub relay_id: String,
    pub meeting_point: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
