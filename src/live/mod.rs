//! What exists only while sockets do.
//!
//! Owns who holds which id with which generation, the slots of link with their phones, and the bounded outboxes. Must not
//! know the store.

pub mod hub;
pub mod link;
pub mod outbox;
