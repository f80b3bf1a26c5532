//! The AsyncAPI document as tests hold messages against it. Owns the proof that whatever is said stands in it. Must not know
//! any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};
use waypost::limits::RendezvousRules;
use waypost::server::asyncapi;

pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| asyncapi::document(&RendezvousRules::default()));
static CLIENT: LazyLock<Validator> = LazyLock::new(|| of("hear"));
static SERVER: LazyLock<Validator> = LazyLock::new(|| of("say"));

/// A validator for the messages of an operation.
fn of(operation: &str) -> Validator {
    let listed = &DOCUMENT["operations"][operation]["messages"];
    let payloads = listed.as_array().unwrap().iter().map(|listed| {
        let mut payload = resolve(&DOCUMENT, resolve(&DOCUMENT, listed))["payload"].clone();
        // Clients are to overlook fields that they do not know; here nothing is said that is not documented.
        if operation == "say" && payload.get("allOf").is_none() {
            payload["additionalProperties"] = false.into();
        }
        payload
    });
    let any: Vec<Value> = payloads.collect();
    let draft = "http://json-schema.org/draft-07/schema#";
    let schema = json!({"$schema": draft, "anyOf": any, "components": DOCUMENT["components"]});
    jsonschema::validator_for(&schema).unwrap()
}

pub fn resolve<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} resolves to nothing"))
}

/// Whether the document has a message that a client may send like this.
pub fn may_be_said(message: &Value) -> bool {
    CLIENT.is_valid(message)
}

/// Whether the document has a message from the server like this.
pub fn may_be_heard(message: &Value) -> bool {
    SERVER.is_valid(message)
}

/// What the server has said stands in the document.
#[track_caller]
pub fn is_documented(heard: &Value) {
    assert!(may_be_heard(heard), "no such message of the server is documented: {heard}");
}
