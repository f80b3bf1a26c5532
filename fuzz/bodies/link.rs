//! Owns what must hold of link's frames in both directions: a phone's goes into an envelope and comes out of it byte for
//! byte, and whatever a binary sends, a phone gets JSON and a close that may be sent.

use serde_json::Value;
use serde_json::value::RawValue;
use waypost::id::ConnId;
use waypost::wire::link::{CloseCode, Envelope, envelope, is_json, left};

/// The first byte: whether it is a phone or a binary that speaks. The rest is what it says.
pub fn link(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match first & 1 {
        0 => from_phone(text),
        _ => from_binary(text),
    }
}

fn conn_id() -> ConnId {
    ConnId::parse("AbC-_9").expect("of its alphabet")
}

fn from_phone(text: &str) {
    let spliced = envelope(&conn_id(), text);
    if !is_json(text) {
        // It is never spliced in. What is not JSON by itself must not look like a whole one there either, or the check
        // could be left out without anybody noticing.
        assert!(serde_json::from_str::<Value>(text).is_err());
        return;
    }
    let back = Envelope::parse(&spliced).expect("a frame that is JSON does not break its envelope");
    assert_eq!(back.conn_id, conn_id().as_str());
    let frame = text.trim_matches([' ', '\t', '\n', '\r']);
    assert_eq!(back.frame.map(RawValue::get), (frame != "null").then_some(frame));
    assert_eq!(back.close_code(), CloseCode::None);
}

fn from_binary(text: &str) {
    let Some(asked) = Envelope::parse(text) else { return };
    if let CloseCode::Code(code) = asked.close_code() {
        // RFC 6455, 7.4: those that no endpoint may send are 1004, 1005, 1006 and 1015.
        assert!(matches!(code, 1000..=1014 | 3000..=4999) && !(1004..=1006).contains(&code), "{code}");
        let told = left(&conn_id(), code);
        let told = Envelope::parse(&told).expect("a notice is an envelope");
        assert!(told.frame.is_none() && told.conn_id == conn_id().as_str());
        assert_eq!(told.close_code(), CloseCode::Code(code));
    }
    let Some(frame) = asked.frame.map(RawValue::get) else { return };
    assert!(is_json(frame) && frame != "null" && text.contains(frame));
    // On its way back it is the same frame.
    from_phone(frame);
}
