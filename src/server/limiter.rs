//! How much one socket may say: a token bucket, and an end to whoever goes on regardless (protocol: signalling,
//! sections 1 and 8).
//!
//! Owns one socket's bucket, which ends with the socket. Must not know what was said.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::limits::DROPPED_MESSAGES_BEFORE_CLOSE;

const MINUTE: Duration = Duration::from_secs(60);

/// Our clock, as the bucket reads it.
#[derive(Clone, Debug)]
struct RunningTime(Clock);

impl governor::clock::Clock for RunningTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.running().into()
    }
}

pub struct Limiter {
    bucket: Option<RateLimiter<NotKeyed, InMemoryState, RunningTime, NoOpMiddleware<Nanos>>>,
    clock: Clock,
    /// When the latest messages were dropped, the oldest first.
    dropped: VecDeque<Duration>,
}

/// What becomes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
    /// Too many were dropped within a minute.
    Close,
}

impl Limiter {
    /// 0 messages a minute is no limit.
    pub fn new(messages_per_minute: u32, clock: Clock) -> Limiter {
        let bucket = NonZeroU32::new(messages_per_minute)
            .map(|most| RateLimiter::direct_with_clock(Quota::per_minute(most), RunningTime(clock.clone())));
        Limiter { bucket, clock, dropped: VecDeque::new() }
    }

    pub fn check(&mut self) -> Verdict {
        let Some(bucket) = &self.bucket else { return Verdict::Pass };
        if bucket.check().is_ok() {
            return Verdict::Pass;
        }
        let now = self.clock.running();
        let most = DROPPED_MESSAGES_BEFORE_CLOSE as usize;
        self.dropped.push_back(now);
        if self.dropped.len() < most {
            return Verdict::Drop;
        }
        let since = self.dropped.pop_front().map_or(Duration::MAX, |first| now - first);
        if since < MINUTE { Verdict::Close } else { Verdict::Drop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_for_each_share_of_the_minute() {
        let clock = Clock::manual(0);
        let mut limiter = Limiter::new(100, clock.clone());
        clock.advance(Duration::from_secs(1));
        for _ in 0..100 {
            assert_eq!(limiter.check(), Verdict::Pass);
        }
        assert_eq!(limiter.check(), Verdict::Drop);
        clock.advance(Duration::from_millis(600));
        assert_eq!(limiter.check(), Verdict::Pass);
        assert_eq!(limiter.check(), Verdict::Drop);
    }

    #[test]
    fn the_300th_message_dropped_within_a_minute_closes() {
        let clock = Clock::manual(0);
        let mut limiter = Limiter::new(1, clock.clone());
        assert_eq!(limiter.check(), Verdict::Pass);
        for _ in 0..200 {
            assert_eq!(limiter.check(), Verdict::Drop);
        }
        // These 200 are forgotten after their minute; one message passes in each.
        clock.advance(MINUTE);
        assert_eq!(limiter.check(), Verdict::Pass);
        for _ in 0..299 {
            assert_eq!(limiter.check(), Verdict::Drop);
        }
        assert_eq!(limiter.check(), Verdict::Close);
        assert_eq!(Limiter::new(0, clock).check(), Verdict::Pass);
    }
}
