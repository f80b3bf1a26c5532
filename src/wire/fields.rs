//! Reading fields out of a JSON object the way the protocol says (signalling, section 1): null counts as absent,
//! unknown fields are ignored, camelCase wins over a snake_case spelling.
//!
//! Owns the text "`<type>`: `<field>` must be a `<kind>`". Must not know any single message.

use serde_json::{Map, Value};

use super::Refusal;

/// The fields of one message.
pub struct Fields {
    pub kind: String,
    map: Map<String, Value>,
}

impl Fields {
    pub fn new(kind: String, map: Map<String, Value>) -> Fields {
        Fields { kind, map }
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Whether a field is there; null is none.
    pub fn is_given(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Takes a field out; null is none.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that has two spellings.
    pub fn take_either(&mut self, camel: &str, snake: &str) -> Option<Value> {
        self.take(camel).or_else(|| self.take(snake))
    }

    pub fn wrong_kind(&self, name: &str, kind: &str) -> Refusal {
        Refusal::new("invalid_field", format!("Invalid message: {}: {name} must be {kind}", self.kind))
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_kind(name, "a string")),
        }
    }

    pub fn number(&mut self, name: &str) -> Result<Option<f64>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.wrong_kind(name, "a number")),
        }
    }
}
