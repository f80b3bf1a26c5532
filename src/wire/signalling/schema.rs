//! The dialect as JSON Schema: every message that a client may send and every one that the server sends.
//!
//! Owns the description only. What the server says is read off the types that are encoded; what a client may say stands here
//! beside the decoders, which are written by hand for their order of checks and their texts, and a test holds one against the
//! other. Must not know where the description is published.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{MAX_PUBLIC_KEY_BYTES, ServerMessage, Signal};
use crate::id::{CHUNK_ID_CHARACTERS, SHORT_NAME_CHARACTERS};
use crate::limits::{
    MAX_CANDIDATE_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS_PER_ANNOUNCE, MAX_DEVICE_ID_CHARACTERS, MAX_SDP_BYTES,
    RendezvousRules,
};

/// One message, and the JSON Schema (draft 7) of the whole of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its `type`.
    pub kind: String,
    /// What tells it from others of the same type; mostly nothing.
    pub variant: Option<&'static str>,
    pub schema: Value,
}

/// Where the schema of the server's messages expects what they share.
pub const SHARED: &str = "/components/schemas";

const PEER_ID: &str = "^[A-Za-z0-9_-]{1,128}$";
const PAIRING_CODE: &str = "^[A-HJ-NP-Z2-9]{6}$";
/// 32 bytes in standard base64, whose last character has two bits to spare.
const KEY_OF_32_BYTES: &str = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=?$";
const UUID_V4: &str =
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$";

/// What a client may say. A field that is null counts as absent, and others than these are ignored.
pub fn client_messages(rules: &RendezvousRules) -> Vec<Described> {
    let code = || pattern(PAIRING_CODE);
    let peer_id = || pattern(PEER_ID);
    let channel = || string(1, CHUNK_ID_CHARACTERS);
    let any = || json!({"type": "string"});
    let token = || ("resumeToken", described(any(), "What `registered` told whoever held the id."));

    let mut register = object(
        "register",
        [("peerId", peer_id())],
        [
            ("maxConnections", json!({"type": "number", "minimum": 1, "maximum": 1000, "default": 20})),
            ("publicKey", string(0, MAX_PUBLIC_KEY_BYTES)),
            token(),
        ],
    );
    register["not"] = json!({"required": ["pairingCode"]});
    let key = pattern(KEY_OF_32_BYTES);
    let register_code = object("register", [("pairingCode", code()), ("publicKey", key)], [token()]);

    let names =
        |most: usize| json!({"type": "array", "maxItems": most, "items": string(1, SHORT_NAME_CHARACTERS)});
    let (points, tokens) = (names(rules.max_points), names(rules.max_tokens));
    let payload = string(0, rules.max_payload_bytes);
    let drops = json!({
        "type": "object",
        "maxProperties": rules.max_dead_drops,
        "propertyNames": string(1, SHORT_NAME_CHARACTERS),
        "additionalProperties": or_null(payload.clone()),
    });
    let second = |schema: Value| described(schema, "Another spelling; the camelCase one wins.");
    let rendezvous = object(
        "register_rendezvous",
        [("peerId", peer_id())],
        [
            ("relayId", string(0, SHORT_NAME_CHARACTERS)),
            ("dailyPoints", points.clone()),
            ("daily_points", second(points)),
            ("hourlyTokens", tokens.clone()),
            ("hourly_tokens", second(tokens)),
            ("deadDrops", described(drops.clone(), "By point.")),
            ("dead_drops", second(drops)),
            ("deadDrop", described(payload, "For all points, where `deadDrops` is empty.")),
            token(),
        ],
    );

    let key =
        described(json!({"type": "string", "minLength": 1, "maxLength": MAX_PUBLIC_KEY_BYTES}), "Any text.");
    let link_code = described(code(), "The pairing code of the device to link to.");
    let accepted = json!({"type": "boolean"});
    let entry = json!({
        "type": "object",
        "required": ["chunkId"],
        "properties": {"chunkId": channel(), "routingHash": described(json!({}), "Ignored.")},
    });
    let chunks = json!({"type": "array", "minItems": 1, "maxItems": MAX_CHUNKS_PER_ANNOUNCE, "items": entry});
    let within = string(0, CHUNK_ID_CHARACTERS);
    let data = json!({
        "type": ["object", "string"],
        "description": format!("{MAX_CHUNK_BYTES} bytes at most, as JSON."),
    });
    let count = json!({"type": "number", "default": 10, "description": "Clamped to 1 to 100."});
    let load = json!({"type": "number", "minimum": 0, "maximum": 10_000});
    let leave_out = described(any(), "The one to leave out.");

    let device_id = string(0, MAX_DEVICE_ID_CHARACTERS);

    let plain = [
        object("ping", [], []),
        object("heartbeat", [], [("peerId", any())]),
        register,
        object("update_load", [("peerId", peer_id()), ("connectedCount", load)], []),
        object("get_relays", [], [("peerId", leave_out), ("count", count)]),
        rendezvous,
        object("pair_request", [("targetCode", code())], [("proposedName", any())]),
        object("pair_response", [("targetCode", code()), ("accepted", accepted.clone())], []),
        object("link_request", [("linkCode", link_code), ("publicKey", key)], [("deviceName", any())]),
        object("link_response", [("linkCode", code()), ("accepted", accepted)], [("deviceId", device_id)]),
        object(
            "chunk_announce",
            [("peerId", peer_id()), ("chunks", chunks)],
            [("channelId", within.clone()), token()],
        ),
        object("chunk_request", [("chunkId", channel())], [("channelId", within.clone())]),
        object("chunk_push", [("chunkId", channel()), ("data", data)], [("channelId", within)]),
        object("channel-subscribe", [("channelId", channel())], []),
        object("channel-unsubscribe", [("channelId", channel())], []),
    ];
    let described = |variant, schema: Value| {
        let kind = schema["properties"]["type"]["const"].as_str().unwrap_or_default().to_owned();
        Described { kind, variant, schema }
    };
    let mut all: Vec<Described> = plain.into_iter().map(|schema| described(None, schema)).collect();
    all.push(described(Some("pairingCode"), register_code));
    all.extend(Signal::ALL.into_iter().map(|signal| described(None, forward(signal))));
    all
}

/// What the server says, and what these messages share, which they look for at [`SHARED`].
pub fn server_messages() -> (Vec<Described>, Map<String, Value>) {
    let settings = SchemaSettings::draft07().for_serialize().with(|settings| {
        settings.definitions_path = SHARED.into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let all = generator.root_schema_for::<ServerMessage>().to_value();
    let messages = all["oneOf"].as_array().into_iter().flatten().map(|schema| {
        let kind = schema["properties"]["type"]["const"].as_str().unwrap_or_default().to_owned();
        Described { kind, variant: None, schema: schema.clone() }
    });
    (messages.collect(), generator.take_definitions(true))
}

/// What is forwarded; a call comes in either of two shapes.
fn forward(signal: Signal) -> Value {
    let code = || pattern(PAIRING_CODE);
    let kind = signal.kind();
    if !signal.is_of_a_call() {
        let target = "The other end of the sender's link where it is left out.";
        // Empty is absent, too.
        let target = json!({"anyOf": [code(), {"enum": ["", null]}], "description": target});
        let mut message = object(kind, [("payload", json!({"type": "object"}))], []);
        message["properties"]["target"] = target;
        return message;
    }
    let mut of_call = Map::from_iter([("callId".to_owned(), pattern(UUID_V4))]);
    let mut required = vec!["callId"];
    let own = match signal {
        Signal::CallOffer | Signal::CallAnswer => Some(("sdp", MAX_SDP_BYTES)),
        Signal::CallIce => Some(("candidate", MAX_CANDIDATE_BYTES)),
        _ => None,
    };
    if let Some((name, most)) = own {
        of_call.insert(name.to_owned(), string(1, most));
        required.push(name);
    }
    let call = json!({"type": "object", "required": required, "properties": of_call});
    let nested = json!({"type": "object", "required": ["payload"], "properties": {"payload": call.clone()}});
    let mut flat = call;
    flat["properties"]["payload"] = json!({"type": "null"});
    let named = |name: &str| json!({"type": "object", "required": [name], "properties": {name: code()}});
    let mut by_id = named("targetId");
    by_id["properties"]["target"] = json!({"type": "null"});
    let mut message = object(kind, [], []);
    message["allOf"] = json!([{"anyOf": [named("target"), by_id]}, {"anyOf": [nested, flat]}]);
    message
}

fn object<const R: usize, const O: usize>(
    kind: &str,
    required: [(&str, Value); R],
    optional: [(&str, Value); O],
) -> Value {
    let names: Vec<&str> = std::iter::once("type").chain(required.iter().map(|(name, _)| *name)).collect();
    let kind = ("type", json!({"type": "string", "const": kind}));
    let optional = optional.into_iter().map(|(name, schema)| (name, or_null(schema)));
    let fields = std::iter::once(kind).chain(required).chain(optional);
    let fields: Map<String, Value> = fields.map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "required": names, "properties": fields})
}

fn or_null(mut schema: Value) -> Value {
    let kind = schema["type"].take();
    schema["type"] = json!([kind, "null"]);
    schema
}

/// Lengths count characters, as JSON Schema has it; a ceiling in bytes lets fewer pass.
fn string(least: usize, most: usize) -> Value {
    json!({"type": "string", "minLength": least, "maxLength": most})
}

fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

fn described(mut schema: Value, about: &str) -> Value {
    schema["description"] = about.into();
    schema
}
