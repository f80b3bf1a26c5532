//! Meeting at points and tokens (protocol: signalling, section 4).
//!
//! Owns `register_rendezvous`, the order of its checks and their literal texts. Must not know who stands where.

use std::collections::HashMap;

use serde_json::Value;

use super::{Fields, peer_id};
use crate::id::{PeerId, is_short_name};
use crate::limits::RendezvousRules;
use crate::wire::Refusal;

/// `register_rendezvous` (section 4), within the per-message limits, each point and token named once.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterRendezvous {
    pub peer_id: PeerId,
    pub relay_id: String,
    pub points: Vec<Point>,
    pub tokens: Vec<String>,
    /// The payloads that points refer to.
    pub payloads: Vec<String>,
    pub resume_token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub name: String,
    /// Its dead drop, by position in the payloads.
    pub payload: Option<u16>,
}

pub(super) fn register(mut fields: Fields, rules: &RendezvousRules) -> Result<RegisterRendezvous, Refusal> {
    let peer_id = peer_id(&mut fields)?;
    let relay_id = fields.string("relayId")?.unwrap_or_default();
    if !is_short_name(&relay_id) {
        return Err(fields.wrong_kind("relayId", "a string of at most 128 characters"));
    }
    let names = fields.take_either("dailyPoints", "daily_points");
    let names = names_of(names, "daily points", "points", rules.max_points)?;
    let tokens = fields.take_either("hourlyTokens", "hourly_tokens");
    let tokens = names_of(tokens, "hourly tokens", "tokens", rules.max_tokens)?;

    let too_large = || {
        let text = format!("Dead drop payload too large (max {}KB)", rules.max_payload_bytes / 1024);
        Refusal::new("payload_too_large", text)
    };
    let mut payloads = Vec::new();
    let mut by_point = HashMap::new();
    let map = match fields.take_either("deadDrops", "dead_drops") {
        None => Default::default(),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fields.wrong_kind("deadDrops", "an object")),
    };
    if map.len() > rules.max_dead_drops {
        return Err(Refusal::of("too_many_dead_drops", "Too many dead drops"));
    }
    let map_decides = !map.is_empty();
    for (point, payload) in map {
        if point.is_empty() || !is_short_name(&point) {
            return Err(Refusal::of("invalid_dead_drop_key", "Invalid dead drop key"));
        }
        match payload {
            Value::Null => {}
            Value::String(text) if text.len() > rules.max_payload_bytes => return Err(too_large()),
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => drop(by_point.insert(point, text)),
            _ => return Err(fields.wrong_kind("deadDrops", "an object of strings")),
        }
    }
    let for_all = fields.string("deadDrop")?.unwrap_or_default();
    if for_all.len() > rules.max_payload_bytes {
        return Err(too_large());
    }
    let shared = !map_decides && !for_all.is_empty() && !names.is_empty();
    if shared {
        payloads.push(for_all);
    }
    let points = names.into_iter().map(|name| {
        let payload = match by_point.remove(&name) {
            Some(payload) => {
                payloads.push(payload);
                Some(payloads.len() as u16 - 1)
            }
            None => shared.then_some(0),
        };
        Point { name, payload }
    });
    let points = points.collect();
    let resume_token = fields.string("resumeToken")?;
    Ok(RegisterRendezvous { peer_id, relay_id, points, tokens, payloads, resume_token })
}

/// A list of point or token names, each once, in order of first mention.
fn names_of(value: Option<Value>, long: &str, short: &str, most: usize) -> Result<Vec<String>, Refusal> {
    let malformed = || {
        Refusal::new(
            if short == "points" { "invalid_points" } else { "invalid_tokens" },
            format!("Invalid {long} format"),
        )
    };
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(malformed()),
    };
    if list.len() > most {
        let code = if short == "points" { "too_many_points" } else { "too_many_tokens" };
        return Err(Refusal::new(code, format!("Too many {long} (max {most})")));
    }
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for value in list {
        match value {
            Value::String(name) if !name.is_empty() && is_short_name(&name) => {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            _ => return Err(malformed()),
        }
    }
    Ok(names)
}
