//! What an answer of the engine stands for.
//!
//! Owns what it promises, and why there may be none. Must not know how a promise is kept.

use crate::wire::Refusal;

/// What an answer promises. docs/storage.md lists who has which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing is written, or nobody waits for what is.
    None,
    /// Written before the answer; on the disk within 500 ms.
    Applied,
    /// On the disk before the answer.
    Flushed,
}

/// Why the engine did not do what was asked. Nothing of it was promised; what a failed flush leaves on the disk may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("too many requests are waiting")]
    Overloaded,
    #[error("the storage is unavailable")]
    Storage,
    #[error("the engine has stopped")]
    Stopped,
}

impl From<Unavailable> for Refusal {
    fn from(why: Unavailable) -> Refusal {
        match why {
            Unavailable::Overloaded => Refusal::OVERLOADED,
            Unavailable::Storage => Refusal::STORAGE_UNAVAILABLE,
            Unavailable::Stopped => Refusal::SHUTTING_DOWN,
        }
    }
}
