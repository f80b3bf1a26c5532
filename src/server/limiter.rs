//! How much one socket may say, and how often one address may ask: token buckets, and an end to a socket that goes on
//! regardless (protocol: signalling, sections 1 and 8).
//!
//! Owns one socket's bucket, which ends with the socket, and the table of addresses. Must not know what was said.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
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

/// Addresses in the table below which nobody looks for those to forget.
const FEW_ADDRESSES: usize = 1024;

/// How often each address asks over HTTP, or for upgrades of link. An address is forgotten once its bucket is full again,
/// so that the table is as large as the requests of a short while.
pub struct RequestLimiter {
    buckets: Option<RateLimiter<IpAddr, HashMapStateStore<IpAddr>, RunningTime, NoOpMiddleware<Nanos>>>,
    forget_at: AtomicUsize,
}

impl RequestLimiter {
    /// 0 requests a minute, or a burst of 0, is no limit.
    pub fn new(requests_per_minute: u32, burst: u32, clock: Clock) -> RequestLimiter {
        let quota = NonZeroU32::new(requests_per_minute).zip(NonZeroU32::new(burst));
        let quota = quota.map(|(requests, burst)| Quota::per_minute(requests).allow_burst(burst));
        let buckets = quota.map(|quota| RateLimiter::hashmap_with_clock(quota, RunningTime(clock)));
        RequestLimiter { buckets, forget_at: AtomicUsize::new(FEW_ADDRESSES) }
    }

    /// Whether an address, or the /64 of one, may ask; if not, how many seconds it should wait.
    pub fn check(&self, address: IpAddr) -> Result<(), u64> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        if buckets.len() >= self.forget_at.load(Ordering::Relaxed) {
            buckets.retain_recent();
            self.forget_at.store(FEW_ADDRESSES.max(2 * buckets.len()), Ordering::Relaxed);
        }
        let now = governor::clock::Clock::now(buckets.clock());
        let seconds = |wait: Duration| wait.as_millis().div_ceil(1000).max(1) as u64;
        buckets.check_key(&address).map_err(|until| seconds(until.wait_time_from(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_spends_its_burst_and_waits_without_hindering_others() {
        let clock = Clock::manual(0);
        let limiter = RequestLimiter::new(60, 60, clock.clone());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        clock.advance(MINUTE);
        (0..60).for_each(|_| assert_eq!(limiter.check(address(1)), Ok(())));
        assert_eq!(limiter.check(address(1)), Err(1));
        assert_eq!(limiter.check(address(2)), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!((limiter.check(address(1)), limiter.check(address(1))), (Ok(()), Err(1)));
        assert_eq!(RequestLimiter::new(0, 1, clock).check(address(1)), Ok(()));
    }

    #[test]
    fn addresses_that_ask_no_more_are_forgotten() {
        let clock = Clock::manual(0);
        let limiter = RequestLimiter::new(600, 600, clock.clone());
        for number in 0..20_000_u32 {
            clock.advance(Duration::from_micros(100));
            assert_eq!(limiter.check(IpAddr::from(number.to_be_bytes())), Ok(()));
        }
        assert!(limiter.buckets.unwrap().len() < 5000);
    }

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
