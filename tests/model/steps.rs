//! The steps of the random-operation model, in all of its parts, and the faults between them.
//!
//! Owns how often each comes. Must not know what comes of them.

use proptest::prelude::*;

use crate::chunks::{ChunkStep, Push, chunk_step, push};
use crate::elsewhere::Way;
use crate::http::{HttpStep, http_step};
use crate::link::{LinkStep, link_step};
use crate::peers::PEERS;
use crate::rendezvous::{Meet, meet};

#[derive(Clone, Debug)]
pub enum Step {
    Register {
        peer: usize,
        max: u32,
        key: Option<u8>,
    },
    Load {
        peer: usize,
        count: u32,
    },
    Meet(Meet),
    Leave {
        peer: usize,
    },
    /// Another socket with the resume token, if the peer is here.
    TakeOver {
        peer: usize,
    },
    Advance {
        minutes: u64,
    },
    /// As `Advance`, without a backup sweep.
    Wait {
        minutes: u64,
    },
    Http(HttpStep),
    /// The next commit fails: a peer's registration is refused, and nothing is cleaned.
    FailingPeer {
        node: usize,
    },
    Link(LinkStep),
    /// The next commit fails: a binary is not told that it holds the id.
    FailingClaim {
        id: usize,
    },
    /// The next flush fails: the same, but the rows may have lasted.
    UnflushedClaim {
        id: usize,
    },
    /// The next commit fails: that of a binary's end.
    FailingClose {
        id: usize,
    },
    /// One after the other: alone they would rarely meet before the chunks end.
    Chunks(Vec<ChunkStep>),
    /// With a restart in between, which only the order of their ends survives.
    ChunksOverRestart(Vec<ChunkStep>, Vec<ChunkStep>),
    /// The next commit fails: a push is refused, and what it was to drive out stays.
    FailingPush(Push),
    /// The next flush fails: the same, but the rows may have lasted.
    UnflushedPush(Push),
    Sweep,
    Restart,
    /// On a store that was restored or imported.
    Elsewhere(Way),
    /// The next commit fails: a registration is refused whole.
    FailingMeet(Meet),
    /// The next flush fails: nothing was promised, but the rows may have lasted.
    FailingFlush(Meet),
}

pub fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..PEERS.len();
    let chunks = || proptest::collection::vec(chunk_step(), 1..10);
    prop_oneof![
        4 => (peer(), 1..5_u32, proptest::option::of(0..2_u8))
            .prop_map(|(peer, max, key)| Step::Register { peer, max, key }),
        2 => (peer(), 0..4_u32).prop_map(|(peer, count)| Step::Load { peer, count }),
        8 => meet().prop_map(Step::Meet),
        3 => peer().prop_map(|peer| Step::Leave { peer }),
        1 => peer().prop_map(|peer| Step::TakeOver { peer }),
        3 => prop_oneof![Just(0), Just(1), Just(179), Just(181), Just(47 * 60), Just(49 * 60)]
            .prop_map(|minutes| Step::Advance { minutes }),
        3 => prop_oneof![Just(1), Just(4), Just(6), Just(9), Just(11), Just(29)]
            .prop_map(|minutes| Step::Wait { minutes }),
        12 => http_step().prop_map(Step::Http),
        1 => (0..4_usize).prop_map(|node| Step::FailingPeer { node }),
        14 => link_step().prop_map(Step::Link),
        2 => (0..3_usize).prop_map(|id| Step::FailingClaim { id }),
        1 => (0..3_usize).prop_map(|id| Step::UnflushedClaim { id }),
        1 => (0..3_usize).prop_map(|id| Step::FailingClose { id }),
        9 => chunks().prop_map(Step::Chunks),
        2 => (chunks(), chunks()).prop_map(|(before, after)| Step::ChunksOverRestart(before, after)),
        2 => push().prop_map(Step::FailingPush),
        2 => push().prop_map(Step::UnflushedPush),
        2 => Just(Step::Sweep),
        2 => Just(Step::Restart),
        1 => prop_oneof![Just(Way::Backup), Just(Way::Export)].prop_map(Step::Elsewhere),
        1 => meet().prop_map(Step::FailingMeet),
        1 => meet().prop_map(Step::FailingFlush),
    ]
}
