//! Messages exactly as they travel.
//!
//! Owns decoding, validation, encoding and the literal texts of the protocol; decoding never panics. Must not know
//! how anything is stored or who asks.

pub mod admin;
pub mod bootstrap;
pub mod directory;
pub mod fields;
pub mod http;
pub mod link;
pub mod signalling;
pub mod turn;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A refusal as a client sees it: a text that existing clients match and a code that never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    pub message: Cow<'static, str>,
    pub code: Cow<'static, str>,
}

impl Refusal {
    pub const fn of(code: &'static str, message: &'static str) -> Refusal {
        Refusal { message: Cow::Borrowed(message), code: Cow::Borrowed(code) }
    }

    pub fn new(code: &'static str, message: String) -> Refusal {
        Refusal { message: Cow::Owned(message), code: Cow::Borrowed(code) }
    }

    pub const STORAGE_UNAVAILABLE: Refusal =
        Refusal::of("storage_unavailable", "Storage is unavailable. Please try again.");
    pub const OVERLOADED: Refusal = Refusal::of("overloaded", "Server is overloaded. Please try again.");
    pub const SHUTTING_DOWN: Refusal = Refusal::of("shutting_down", "Server shutting down");
}
