//! What exists only while sockets do.
//!
//! Owns who holds which id with which generation, pairing codes with the requests between them, the chunk relay, the slots
//! of link with their phones, and the bounded outboxes. Must not know the store.

pub mod announcements;
pub mod chunks;
pub mod hub;
pub mod link;
pub mod outbox;
pub mod pairing;
