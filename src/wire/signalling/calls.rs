//! What two paired devices say to each other through the server: offers, answers, candidates and calls (protocol:
//! signalling, section 5).
//!
//! Owns these messages in both of their shapes, the order of their checks and their literal texts. Must not know who holds
//! which code.

use serde_json::{Map, Value};

use super::{Fields, OfRegistered, missing, pairing_code, payload};
use crate::id::PeerId;
use crate::limits::{MAX_CANDIDATE_BYTES, MAX_SDP_BYTES};
use crate::wire::Refusal;

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Offer,
    Answer,
    IceCandidate,
    CallOffer,
    CallAnswer,
    CallReject,
    CallHangup,
    CallIce,
}

impl Signal {
    pub(super) const ALL: [Signal; 8] = [
        Signal::Offer,
        Signal::Answer,
        Signal::IceCandidate,
        Signal::CallOffer,
        Signal::CallAnswer,
        Signal::CallReject,
        Signal::CallHangup,
        Signal::CallIce,
    ];

    pub(super) fn of(kind: &str) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.kind() == kind)
    }

    /// The `type` of the message.
    pub fn kind(self) -> &'static str {
        match self {
            Signal::Offer => "offer",
            Signal::Answer => "answer",
            Signal::IceCandidate => "ice_candidate",
            Signal::CallOffer => "call_offer",
            Signal::CallAnswer => "call_answer",
            Signal::CallReject => "call_reject",
            Signal::CallHangup => "call_hangup",
            Signal::CallIce => "call_ice",
        }
    }

    /// Whether it belongs to a call, and therefore travels in both shapes.
    pub fn is_of_a_call(self) -> bool {
        !matches!(self, Signal::Offer | Signal::Answer | Signal::IceCandidate)
    }
}

/// One message to be forwarded.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// `None`: the other end of the sender's link. One that has none hears of that before it hears of the payload.
    pub target: Option<PeerId>,
    pub payload: Result<Map<String, Value>, Refusal>,
}

/// The fields that a call's message has at its top level in the flat shape.
const FLAT: [&str; 5] = ["callId", "sdp", "candidate", "reason", "withVideo"];

const INVALID_TARGET: Refusal = Refusal::of("invalid_target_code", "Invalid target code format");

pub(super) fn forward(signal: Signal, mut fields: Fields) -> OfRegistered<Forward> {
    if signal.is_of_a_call() {
        return call(signal, fields);
    }
    let target = match fields.take("target") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        given => Some(pairing_code(given, "target", INVALID_TARGET)?),
    };
    Ok(Forward { target, payload: payload(&mut fields) })
}

fn call(signal: Signal, mut fields: Fields) -> OfRegistered<Forward> {
    let is_flat = !fields.is_given("payload");
    let target = fields.take_either("target", "targetId");
    let target = target.ok_or_else(|| missing("target"))?;
    let target = pairing_code(Some(target), "target", INVALID_TARGET)?;
    let payload = if is_flat { flat(&mut fields) } else { payload(&mut fields) }?;
    check(signal, &payload)?;
    Ok(Forward { target: Some(target), payload: Ok(payload) })
}

/// The payload of a flat message; one without any of its fields has none.
fn flat(fields: &mut Fields) -> Result<Map<String, Value>, Refusal> {
    let given = FLAT.into_iter().filter_map(|name| Some((name.to_owned(), fields.take(name)?)));
    let collected: Map<String, Value> = given.collect();
    if collected.is_empty() { payload(fields) } else { Ok(collected) }
}

fn check(signal: Signal, payload: &Map<String, Value>) -> Result<(), Refusal> {
    let text = |name: &str| payload.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if !text("callId").is_some_and(is_uuid_v4) {
        return Err(Refusal::of("invalid_call_id", "Invalid or missing callId (must be UUID v4 format)"));
    }
    match signal {
        Signal::CallOffer | Signal::CallAnswer => {
            let invalid =
                || Refusal::new("invalid_sdp", format!("Missing or invalid sdp in {}", signal.kind()));
            if text("sdp").ok_or_else(invalid)?.len() > MAX_SDP_BYTES {
                let message = format!("SDP too large (max {MAX_SDP_BYTES} bytes)");
                return Err(Refusal::new("sdp_too_large", message));
            }
        }
        Signal::CallIce => {
            let invalid = Refusal::of("invalid_candidate", "Missing or invalid candidate in call_ice");
            if text("candidate").ok_or(invalid)?.len() > MAX_CANDIDATE_BYTES {
                let message = format!("ICE candidate too large (max {MAX_CANDIDATE_BYTES} bytes)");
                return Err(Refusal::new("candidate_too_large", message));
            }
        }
        _ => {}
    }
    Ok(())
}

/// In either case of letters, as RFC 9562 wants it read.
fn is_uuid_v4(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => matches!(byte.to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b'),
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_4_of_the_right_variant_is_a_call_id() {
        for good in ["0f8fad5b-d9cb-469f-a165-70867728950e", "0F8FAD5B-D9CB-469F-B165-70867728950E"] {
            assert!(is_uuid_v4(good), "{good}");
        }
        for bad in [
            "",
            "0f8fad5b-d9cb-169f-a165-70867728950e",
            "0f8fad5b-d9cb-469f-c165-70867728950e",
            "0f8fad5bd9cb469fa16570867728950e",
            "0f8fad5b-d9cb-469f-a165-70867728950",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
            "0f8fad5b-d9cb-469f-a165-7086772895\u{e9}",
        ] {
            assert!(!is_uuid_v4(bad), "{bad:?}");
        }
    }
}
