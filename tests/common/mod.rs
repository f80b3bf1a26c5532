//! Owns what several test binaries share: one helper per area.
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod registry;
pub mod store;
