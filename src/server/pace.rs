//! How fast those may go on who are past a limit, or say what makes no sense: each answer to them is held back, and with it
//! whatever else they send. So they cost what a client costs that keeps to its limits, however hard they try.
//!
//! Owns for how long. Must not know who is past which limit.

use std::time::Duration;

use crate::clock::rest;

/// What each message or request past a rate waits for.
const PAST_RATE: Duration = Duration::from_millis(50);
/// What the close of a socket that sent too large a message waits for.
const TOO_LARGE: Duration = Duration::from_millis(500);
/// What bytes that are refused wait for, each KiB: 1 MiB in a second.
const REFUSED_KIB: Duration = Duration::from_millis(1);
const KIB: usize = 1024;

/// Before a message or request past its rate is refused, which has so many bytes.
pub async fn past_rate(bytes: usize) {
    rest(PAST_RATE + for_bytes(bytes)).await;
}

/// Before a socket is closed for the length of a message.
pub async fn too_large() {
    rest(TOO_LARGE).await;
}

/// Before a message is refused that makes no sense, or after it was thrown away.
pub async fn refused(bytes: usize) {
    rest(for_bytes(bytes)).await;
}

/// Whether [`refused`] would take any time: few bytes do not.
pub fn is_long(bytes: usize) -> bool {
    bytes >= KIB
}

fn for_bytes(bytes: usize) -> Duration {
    REFUSED_KIB * (bytes / KIB) as u32
}
