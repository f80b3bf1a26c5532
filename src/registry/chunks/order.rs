//! The orders that chunks stand in: places in time, and the chunks of each channel by their pushes.
//!
//! Owns what a place is after a restart, and that a channel without chunks takes nothing. Must not know what a chunk is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::Millis;
use crate::id::ChunkKey;

/// When something happened to a chunk, beside the others. Of what was before the start only the ends are known, which
/// stand in the order of the pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Before(Millis),
    Since(u64),
}

#[derive(Debug, Default)]
pub(super) struct Channels(HashMap<Arc<str>, BTreeSet<(Place, ChunkKey)>>);

impl Channels {
    pub(super) fn newest_first(&self, channel: &str) -> impl Iterator<Item = &ChunkKey> + use<'_> {
        self.0.get(channel).into_iter().flatten().rev().map(|(_, key)| key)
    }

    pub(super) fn insert(&mut self, channel: &Arc<str>, place: Place, key: ChunkKey) {
        self.0.entry(channel.clone()).or_default().insert((place, key));
    }

    pub(super) fn remove(&mut self, channel: &Arc<str>, place: Place, key: &ChunkKey) {
        if let Some(chunks) = self.0.get_mut(channel) {
            chunks.remove(&(place, *key));
            if chunks.is_empty() {
                self.0.remove(channel);
            }
        }
    }

    /// Whether both have the same channels, and in each as many chunks.
    pub(super) fn same_as(&self, other: &Channels) -> bool {
        let sizes = |channels: &Channels| -> HashMap<Arc<str>, usize> {
            channels.0.iter().map(|(channel, chunks)| (channel.clone(), chunks.len())).collect()
        };
        sizes(self) == sizes(other)
    }
}
