//! Clients of all dialects that ask until the daemon is cut off. Owns what was acknowledged to them, and the proof that it
//! is there afterwards, whole. Must not know what cut the daemon off.
#![allow(dead_code, reason = "each test file uses its share")]

pub mod chunks;
pub mod crowd;
pub mod http;
pub mod link;
pub mod rendezvous;

use std::path::Path;

use waypost::client::AdminClient;
use waypost::daemon::ADMIN_TOKEN;
use waypost::store::{Faults, Store};

use crate::daemon::Process;

/// A number in the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Nothing is wrong in the store, which nobody has open.
pub fn check(data: &Path) {
    let store = Store::open(&Process::store(data), Faults::default()).unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}

pub fn admin(daemon: &Process, data: &Path) -> AdminClient {
    let token = std::fs::read_to_string(data.join(ADMIN_TOKEN)).unwrap();
    AdminClient::new(format!("http://{}", daemon.admin), token).unwrap()
}
