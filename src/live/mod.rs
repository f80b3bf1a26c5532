//! What exists only while sockets do.
//!
//! Owns who holds which id with which generation, and the bounded outboxes. Must not know the store.

pub mod hub;
pub mod outbox;
