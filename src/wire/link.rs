//! Link's messages (protocol: link, sections 3 and 5).
//!
//! Owns the envelope of the binary's leg: frames go into it and come out of it byte for byte. Must not know where they
//! go.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::id::ConnId;

/// Whether a phone's message may be spliced into an envelope.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A phone's message on its way to the binary.
pub fn envelope(conn_id: &ConnId, frame: &str) -> String {
    const AROUND: usize = r#"{"conn_id":"","frame":}"#.len();
    let mut text = String::with_capacity(AROUND + conn_id.as_str().len() + frame.len());
    for part in [r#"{"conn_id":""#, conn_id.as_str(), r#"","frame":"#, frame, "}"] {
        text.push_str(part);
    }
    text
}

/// Tells the binary that a phone has left, and with which close code.
pub fn left(conn_id: &ConnId, code: u16) -> String {
    format!(r#"{{"conn_id":"{}","close_code":{code}}}"#, conn_id.as_str())
}

/// What a binary asks for. Unknown fields are ignored.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    #[serde(borrow)]
    pub conn_id: Cow<'a, str>,
    /// The bytes for the phone; absent and null are none.
    #[serde(borrow, default)]
    pub frame: Option<&'a RawValue>,
    #[serde(borrow, default)]
    close_code: Option<&'a RawValue>,
}

/// The close that a binary asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    None,
    Code(u16),
    /// One that may not be sent.
    Invalid,
}

impl<'a> Envelope<'a> {
    /// `None` is malformed.
    pub fn parse(text: &'a str) -> Option<Envelope<'a>> {
        // Serde takes a list for a struct, too.
        text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
    }

    pub fn close_code(&self) -> CloseCode {
        let Some(number) = self.close_code else { return CloseCode::None };
        match number.get().parse() {
            Ok(0) => CloseCode::None,
            Ok(code @ (1000..=1003 | 1007..=1014 | 3000..=4999)) => CloseCode::Code(code),
            _ => CloseCode::Invalid,
        }
    }
}

/// `GET /healthz` (section 5).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Healthz {
    pub status: String,
    pub version: String,
    /// A binary in its grace does not count.
    pub connected_binaries: u64,
    pub connected_phones: u64,
    pub uptime_seconds: u64,
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_frame_goes_in_and_comes_out_byte_for_byte() {
        let conn_id = ConnId::new(&mut StdRng::seed_from_u64(1));
        for frame in [r#"{"b":1,"a":[1.0,2e5,"\u00e9é"]}"#, " {\n}\t", "null", "\"x\"", "-0"] {
            assert!(is_json(frame));
            let text = envelope(&conn_id, frame);
            assert_eq!(text, format!("{{\"conn_id\":\"{}\",\"frame\":{frame}}}", conn_id.as_str()));
            let back = Envelope::parse(&text).unwrap();
            assert_eq!(back.conn_id, conn_id.as_str());
            assert_eq!(back.frame.map(RawValue::get), (frame != "null").then_some(frame.trim()));
            assert_eq!(back.close_code(), CloseCode::None);
        }
    }

    #[test]
    fn a_frame_cannot_break_out_of_its_envelope() {
        for text in
            ["", "{", r#"1},"conn_id":"x""#, r#"1}{"conn_id":"x","frame":2"#, "\u{feff}1", "nul", "1 2"]
        {
            assert!(!is_json(text), "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(is_json(&deep));
        let text = format!(r#"{{"conn_id":"x","frame":{deep},"more":{deep}}}"#);
        assert_eq!(Envelope::parse(&text).unwrap().frame.map(|frame| frame.get().len()), Some(deep.len()));
    }

    #[test]
    fn only_codes_that_may_be_sent_are_codes() {
        let code = |text: &str| {
            Envelope::parse(&format!(r#"{{"conn_id":"x","close_code":{text}}}"#)).map(|it| it.close_code())
        };
        for none in ["0", "null"] {
            assert_eq!(code(none), Some(CloseCode::None), "{none}");
        }
        for good in [1000, 1003, 1007, 1014, 3000, 4999] {
            assert_eq!(code(&good.to_string()), Some(CloseCode::Code(good)));
        }
        for bad in ["1", "999", "1004", "1005", "1006", "1015", "2000", "5000", "70000", "-1000", "1000.5"] {
            assert_eq!(code(bad), Some(CloseCode::Invalid), "{bad}");
        }
        for bad in ["\"1000\"", "true", "[]", "{}"] {
            assert_eq!(code(bad), Some(CloseCode::Invalid), "{bad}");
        }
        for malformed in ["", "[]", r#"["x",1,1000]"#, "{}", r#"{"conn_id":1}"#, r#"{"conn_id":"x"} 1"#] {
            assert!(Envelope::parse(malformed).is_none(), "{malformed:?}");
        }
    }
}
