//! The steps of the chunks' model.
//!
//! Owns how often each comes, and that they meet. Must not know what comes of them.

use proptest::prelude::*;

use super::{CHANNELS, NAMES, SIZES};
use crate::peers::PEERS;

#[derive(Clone, Copy, Debug)]
pub struct Push {
    pub peer: usize,
    pub name: usize,
    pub data: usize,
    /// Whether the peer announces the chunk first where it has not.
    pub announces: bool,
}

#[derive(Clone, Debug)]
pub enum ChunkStep {
    /// All of a chunk's channel.
    Announce {
        peer: usize,
        name: usize,
    },
    Push(Push),
    /// Where somebody else is asked for the chunk, that one pushes it.
    Request {
        peer: usize,
        name: usize,
    },
    /// Time passes until exactly the end of the chunk that is pushed, where it is cached.
    PushAtEnd(Push),
    RequestAtEnd {
        peer: usize,
        name: usize,
    },
    Subscribe {
        peer: usize,
        channel: usize,
    },
    Unsubscribe {
        peer: usize,
        channel: usize,
    },
    /// Else all that is pushed in a row would end at once.
    Pass {
        millis: u64,
    },
}

// Mostly the first ones, so that they meet.

fn peer() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..2_usize, 1 => 2..PEERS.len()]
}

fn number() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..3_usize, 1 => 3..NAMES.len()]
}

pub fn push() -> impl Strategy<Value = Push> {
    let announces = prop::bool::weighted(0.9);
    (peer(), number(), 0..SIZES.len(), announces).prop_map(|(peer, name, data, announces)| Push {
        peer,
        name,
        data,
        announces,
    })
}

pub fn chunk_step() -> impl Strategy<Value = ChunkStep> {
    let listener = || (peer(), 0..CHANNELS.len());
    prop_oneof![
        2 => (peer(), number()).prop_map(|(peer, name)| ChunkStep::Announce { peer, name }),
        8 => push().prop_map(ChunkStep::Push),
        5 => (peer(), number()).prop_map(|(peer, name)| ChunkStep::Request { peer, name }),
        1 => push().prop_map(ChunkStep::PushAtEnd),
        1 => (peer(), number()).prop_map(|(peer, name)| ChunkStep::RequestAtEnd { peer, name }),
        2 => listener().prop_map(|(peer, channel)| ChunkStep::Subscribe { peer, channel }),
        1 => listener().prop_map(|(peer, channel)| ChunkStep::Unsubscribe { peer, channel }),
        4 => prop_oneof![3 => Just(1), 1 => Just(60_000)].prop_map(|millis| ChunkStep::Pass { millis }),
    ]
}
