//! What the HTTP dialects share: failures with their literal texts, JSON that is passed on as it came, and reading a body
//! (protocol: bootstrap, first section).
//!
//! Owns the one shape of an HTTP failure. Must not know any single request.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Refusal;

/// A failure: its status, its text and stable code, and what else its body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub refusal: Refusal,
    pub also: Also,
}

/// What a failure's body says beside the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Also {
    Nothing,
    Required(&'static str),
    Suggestion(&'static str),
    /// `success: false`.
    Unsuccessful,
    /// `success: false`, and seconds after which to try again.
    UnsuccessfulUntil(u64),
    /// Seconds after which to try again, as a header alone.
    Later(u64),
}

/// The body of every failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    pub const fn of(status: u16, refusal: Refusal) -> Problem {
        Problem::with(status, refusal, Also::Nothing)
    }

    pub const fn with(status: u16, refusal: Refusal, also: Also) -> Problem {
        Problem { status, refusal, also }
    }

    /// A field of a wrong kind or size.
    pub fn invalid_field(name: &str) -> Problem {
        Problem::of(400, Refusal::new("invalid_field", format!("Invalid field: {name}")))
    }

    pub const INVALID_JSON: Problem = Problem::of(400, Refusal::of("invalid_json", "Invalid JSON body"));
    /// As the documentation shows it.
    pub const INVALID_FIELD: Problem = Problem::of(400, Refusal::of("invalid_field", "Invalid field: NAME"));
    pub const UNAUTHORIZED: Problem = Problem::of(401, Refusal::of("unauthorized", "Unauthorized"));
    pub const NOT_FOUND: Problem = Problem::of(404, Refusal::of("not_found", "Not found"));
    pub const METHOD_NOT_ALLOWED: Problem =
        Problem::of(405, Refusal::of("method_not_allowed", "Method not allowed"));
    pub const TOO_SLOW: Problem = Problem::of(408, Refusal::of("request_timeout", "Request timeout"));
    pub const BODY_TOO_LARGE: Problem =
        Problem::of(413, Refusal::of("body_too_large", "Request body too large"));
    pub const TOO_MANY_REQUESTS: Problem =
        Problem::with(429, Refusal::of("rate_limited", "Too many requests"), Also::Later(1));
    pub const OVERLOADED: Problem = Problem::with(503, Refusal::OVERLOADED, Also::Later(1));
    pub const STORAGE_UNAVAILABLE: Problem = Problem::with(503, Refusal::STORAGE_UNAVAILABLE, Also::Later(5));
    pub const SHUTTING_DOWN: Problem = Problem::with(503, Refusal::SHUTTING_DOWN, Also::Later(5));

    /// What any request to any path may be answered with.
    pub const OF_ALL: [Problem; 4] = [
        Problem::TOO_MANY_REQUESTS,
        Problem::OVERLOADED,
        Problem::STORAGE_UNAVAILABLE,
        Problem::SHUTTING_DOWN,
    ];
    /// What any request with a body may be answered with.
    pub const OF_BODIES: [Problem; 3] = [Problem::INVALID_JSON, Problem::TOO_SLOW, Problem::BODY_TOO_LARGE];

    /// Seconds after which to try again, where that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self.also {
            Also::UnsuccessfulUntil(seconds) | Also::Later(seconds) => Some(seconds),
            _ => None,
        }
    }

    pub fn body(&self) -> ErrorBody {
        let error = self.refusal.message.clone().into_owned();
        let body = ErrorBody { error, ..ErrorBody::default() };
        match self.also {
            Also::Nothing | Also::Later(_) => body,
            Also::Required(text) => ErrorBody { required: Some(text.into()), ..body },
            Also::Suggestion(text) => ErrorBody { suggestion: Some(text.into()), ..body },
            Also::Unsuccessful => ErrorBody { success: Some(false), ..body },
            Also::UnsuccessfulUntil(seconds) => {
                ErrorBody { success: Some(false), retry_after: Some(seconds), ..body }
            }
        }
    }
}

/// Reads a body as the fields of `T`, all of which are optional. Whatever is no object has none.
pub fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut fields = match body.trim_ascii() {
        [] => serde_json::Map::new(),
        text => match serde_json::from_slice(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => serde_json::Map::new(),
            Err(_) => return Err(Problem::INVALID_JSON),
        },
    };
    fields.retain(|_, value| !value.is_null());
    fields.values_mut().for_each(spell_whole);
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        Problem::invalid_field(path.split(['.', '[']).next().unwrap_or_default())
    })
}

/// The largest number up to which all whole ones are told apart as JavaScript has them.
const WHOLE: f64 = 9_007_199_254_740_991.0;

/// A number without a fraction is a whole one, also where it is spelled "20.0", as languages do that have but one kind.
fn spell_whole(value: &mut Value) {
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && number.fract() == 0.0
        && number.abs() <= WHOLE
    {
        *value = Value::from(number as i64);
    }
}

/// JSON that is kept as text and passed on as it came.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct Json(Box<RawValue>);

impl Json {
    /// `None` where the text is no JSON.
    pub fn parse(text: String) -> Option<Json> {
        RawValue::from_string(text).ok().map(Json)
    }

    pub fn of(value: &impl Serialize) -> Json {
        Json(serde_json::value::to_raw_value(value).expect("a JSON value is JSON"))
    }

    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        self.text() == other.text()
    }
}

/// What is done and has nothing else to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    pub success: bool,
}

impl Done {
    pub const DONE: Done = Done { success: true };
}

/// ISO 8601 UTC with milliseconds and Z.
pub fn timestamp(now: u64) -> String {
    let since = std::time::Duration::from_millis(now);
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Fields {
        node_type: Option<u32>,
        stores: Option<Vec<String>>,
    }

    fn read(body: &str) -> Result<Fields, String> {
        read_body::<Fields>(body.as_bytes()).map_err(|problem| problem.refusal.message.into_owned())
    }

    #[test]
    fn whatever_is_no_object_has_no_fields_and_null_is_none() {
        for body in ["", "  ", "null", "7", "[1]", "\"x\"", "{}", "{\"nodeType\":null,\"other\":1}"] {
            assert_eq!(read(body), Ok(Fields::default()), "{body}");
        }
        assert_eq!(read("{\"nodeType\":1,\"nodeType\":2}").unwrap().node_type, Some(2));
    }

    #[test]
    fn a_number_without_a_fraction_is_whole_however_it_is_spelled() {
        for spelled in ["20", "20.0", "2e1", "200e-1"] {
            assert_eq!(
                read(&format!("{{\"nodeType\":{spelled}}}")).unwrap().node_type,
                Some(20),
                "{spelled}"
            );
        }
        for other in ["20.5", "-1.0", "1e10", "1e300", "4294967296.0"] {
            assert!(read(&format!("{{\"nodeType\":{other}}}")).is_err(), "{other}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        assert_eq!(read("{\"nodeType\":\"x\"}"), Err("Invalid field: nodeType".to_owned()));
        assert_eq!(read("{\"stores\":[\"a\",1]}"), Err("Invalid field: stores".to_owned()));
        assert_eq!(read("{\"nodeType\":-1}"), Err("Invalid field: nodeType".to_owned()));
        for body in ["{", "{]", "\u{0}", "nul"] {
            assert_eq!(read(body), Err("Invalid JSON body".to_owned()), "{body}");
        }
        assert!(read(&"[".repeat(1_000)).is_err(), "depth is bounded");
    }
}
