//! What of a lease the admin endpoint shows.
//!
//! Owns turning records into what may be shown: dead drops and chunks as size and digest, never as content,
//! tokens not at all. Must not know who asks.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::store::{LeaseKey, Row};
use crate::wire::admin::Lease;

pub(super) fn lease(key: &LeaseKey, row: &Row<'_>) -> Lease {
    let (peer_id, record) = match row {
        Row::Relay { id, record } => (
            id.as_str().to_owned(),
            json!({
                "boot": record.boot,
                "publicKey": record.public_key,
                "maxConnections": record.max_connections,
                "connectedCount": record.connected,
                "registeredAt": record.registered_at,
            }),
        ),
        Row::Registration { record, amendment, .. } => {
            let lost = amendment.clone().unwrap_or_default();
            let left = |gone: &[u16], place: usize| !gone.contains(&(place as u16));
            let points =
                record.points.iter().enumerate().filter(|(place, _)| left(&lost.points_gone, *place));
            let points = points.map(|(_, point)| {
                let payload = point.payload.and_then(|at| record.payloads.get(usize::from(at)));
                json!({
                    "point": point.name,
                    "deadDrop": payload.map(|text| json!({ "bytes": text.len(), "sha256": digest(text) })),
                })
            });
            let tokens =
                record.tokens.iter().enumerate().filter(|(place, _)| left(&lost.tokens_gone, *place));
            let shown = json!({
                "boot": record.boot,
                "relayId": record.relay_id,
                "registeredAt": record.registered_at,
                "pointsEnd": record.points_end,
                "tokensEnd": record.tokens_end,
                "points": points.collect::<Vec<_>>(),
                "tokens": tokens.map(|(_, token)| token.as_ref()).collect::<Vec<_>>(),
            });
            (record.peer.to_string(), shown)
        }
        Row::Peer { id, record, seen, .. } => {
            let turn = record.turn.as_ref();
            let shown = json!({
                "lastSeen": seen.unwrap_or(record.seen).last_seen,
                "registeredFrom": record.address,
                "addresses": record.addresses,
                "cryptoIPv6": record.crypto_ipv6,
                "stores": record.stores,
                "version": record.version,
                "privacyMode": record.privacy_mode,
                "capabilities": parsed(&record.capabilities),
                "turnCapable": record.turn_capable,
                "bootstrapCapable": record.bootstrap_capable,
                "networkId": record.network_id,
                "softwareVersion": record.software_version,
                "serverPort": record.server_port,
                "nodeType": record.node_type,
                "capabilityList": parsed(&record.capability_list),
                "turnAddresses": turn.map(|turn| &turn.addresses),
                "turnPort": turn.map(|turn| turn.port),
                "turnCapacity": turn.map(|turn| turn.capacity),
            });
            (id.as_str().to_owned(), shown)
        }
        Row::TurnSession { record, .. } => (record.peer.clone(), json!({ "turnServer": record.server })),
        Row::Server { id, record, .. } => {
            let [connections, relay, signaling, codes] = record.counters;
            let shown = json!({
                "lastSeen": record.seen.last_seen,
                "registeredAt": record.registered_at,
                "endpoint": record.endpoint,
                "publicKey": record.public_key,
                "region": record.region,
                "connections": connections,
                "relayConnections": relay,
                "signalingConnections": signaling,
                "activeCodes": codes,
            });
            (id.as_str().to_owned(), shown)
        }
        Row::Claim { id, record } => {
            let state = if record.until.is_some() { "grace" } else { "held" };
            (id.as_str().to_owned(), json!({ "generation": record.generation, "state": state }))
        }
        Row::Chunk { record, .. } => {
            let shown = json!({
                "channelId": record.channel,
                "chunkId": record.chunk,
                "bytes": record.data.len(),
                "sha256": hex(&record.digest),
            });
            (record.owner.to_string(), shown)
        }
    };
    Lease {
        kind: key.kind().name().into(),
        key: key.text(),
        peer_id,
        ends: row.end(),
        indexed: row.indexed(),
        record,
    }
}

fn digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON that was stored as text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
