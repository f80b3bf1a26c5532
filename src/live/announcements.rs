//! The pace at which announcements are told to the subscribers of their channels (protocol: signalling, section 5).
//!
//! Owns how much may be told at once, and who waits whose turn it is not yet. Must not know who subscribes to what.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::id::SocketId;
use crate::limits::{TOLD_AT_ONCE, TOLD_PER_SECOND, TOLD_PER_SUBSCRIBER};

/// What waits to be told. It is told once `told` is dropped.
#[derive(Debug)]
pub struct Announcement {
    pub socket: SocketId,
    pub address: IpAddr,
    pub channel: String,
    pub text: Utf8Bytes,
    pub told: oneshot::Sender<()>,
}

/// What one announcement takes of the pace.
pub fn cost(subscribers: usize, text: &Utf8Bytes) -> u64 {
    (subscribers * (text.len() + TOLD_PER_SUBSCRIBER)) as u64
}

/// One that finds the pace exceeded waits, and its socket with it: so a socket has one at most. Those who wait have their turns
/// by address, in proportion to what they tell: whoever tells little does not wait behind somebody who tells much.
#[derive(Debug, Default)]
pub struct Announcements {
    /// When all that has been told is paid for, in running time.
    paid_at: Duration,
    /// By the turn it has.
    waiting: BTreeMap<(u64, u64), Announcement>,
    turn_of: HashMap<SocketId, (u64, u64)>,
    /// The last turn that an address has, where that is yet to come.
    last: HashMap<IpAddr, u64>,
    /// The turn it is.
    now: u64,
    count: u64,
}

impl Announcements {
    /// Whether one may be told without waiting.
    pub fn is_free(&self, now: Duration) -> bool {
        self.waiting.is_empty() && self.free_at() <= now
    }

    fn free_at(&self) -> Duration {
        self.paid_at.saturating_sub(taking(TOLD_AT_ONCE))
    }

    /// So much is told.
    pub fn pay(&mut self, now: Duration, cost: u64) {
        self.paid_at = self.paid_at.max(now) + taking(cost);
    }

    pub fn wait(&mut self, announcement: Announcement, cost: u64) {
        let last = self.last.entry(announcement.address).or_default();
        *last = self.now.max(*last) + cost;
        self.count += 1;
        let turn = (*last, self.count);
        self.turn_of.insert(announcement.socket, turn);
        self.waiting.insert(turn, announcement);
    }

    /// When the next one may be told.
    pub fn next_deadline(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then(|| self.free_at())
    }

    /// The next one, where it may be told now.
    pub fn next(&mut self, now: Duration) -> Option<Announcement> {
        if self.free_at() > now {
            return None;
        }
        let ((turn, _), next) = self.waiting.pop_first()?;
        self.turn_of.remove(&next.socket);
        self.now = turn;
        if self.last.get(&next.address) == Some(&turn) {
            self.last.remove(&next.address);
        }
        self.forget_turns();
        Some(next)
    }

    /// A socket has ended: nobody is told any more what it has.
    pub fn leave(&mut self, socket: SocketId) {
        if let Some(turn) = self.turn_of.remove(&socket) {
            self.waiting.remove(&turn);
            self.forget_turns();
        }
    }

    /// Those of sockets that have ended are still there.
    fn forget_turns(&mut self) {
        if self.waiting.is_empty() {
            self.last.clear();
        }
    }

    /// The daemon ends: nobody waits any more.
    pub fn clear(&mut self) {
        *self = Announcements::default();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.turn_of.is_empty() && self.last.is_empty()
    }
}

fn taking(cost: u64) -> Duration {
    Duration::from_secs_f64(cost as f64 / TOLD_PER_SECOND as f64)
}
