//! The AsyncAPI document of the public address: the signalling dialect.
//!
//! Owns how its messages are published. Must not know any single message.

use serde_json::{Map, Value, json};

use crate::limits::RendezvousRules;
use crate::wire::signalling::schema::{Described, SHARED, client_messages, server_messages};

/// The document, with the limits that this daemon has.
pub fn document(rules: &RendezvousRules) -> Value {
    let (from_server, shared) = server_messages();
    let mut messages = Map::new();
    let mut in_channel = Map::new();
    let mut list = |side: &str, described: Vec<Described>| -> Vec<Value> {
        let mut listed = Vec::new();
        for Described { kind, variant, schema } in described {
            let key = std::iter::once(side).chain([&*kind]).chain(variant).collect::<Vec<_>>().join(".");
            listed.push(reference(&format!("/channels/signalling/messages/{key}")));
            in_channel.insert(key.clone(), reference(&format!("/components/messages/{key}")));
            messages.insert(key, json!({"name": kind, "contentType": "application/json", "payload": schema}));
        }
        listed
    };
    let heard = list("client", client_messages(rules));
    let said = list("server", from_server);
    let about = "What peers and this server say to each other: one JSON object per message. /openapi.json describes what is \
                 spoken over HTTP.";
    let address = "A WebSocket on this path, on /, and on any other path that no HTTP route owns.";
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "waypost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": about,
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "channels": {
            "signalling": {"address": "/ws", "description": address, "messages": in_channel},
        },
        "operations": {
            "hear": {
                "action": "receive",
                "channel": reference("/channels/signalling"),
                "summary": "What a client may say.",
                "messages": heard,
            },
            "say": {
                "action": "send",
                "channel": reference("/channels/signalling"),
                "summary": "What the server says.",
                "messages": said,
            },
        },
        "components": {"messages": messages, shared_key(): shared},
    })
}

fn shared_key() -> &'static str {
    SHARED.trim_start_matches("/components/")
}

fn reference(to: &str) -> Value {
    json!({"$ref": format!("#{to}")})
}
