//! How much one socket may say, and how often one address may ask: token buckets, and an end to a socket that goes on
//! regardless (protocol: signalling, sections 1 and 8).
//!
//! Owns one socket's bucket, which ends with the socket, and the table of addresses. Must not know what was said.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::gate::{UNIX_PEER, site_of};
use crate::clock::Clock;
use crate::limits::{ADDRESSES_PER_SITE, DROPPED_MESSAGES_BEFORE_CLOSE, LIMITED_ADDRESSES};

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

/// Addresses in a table below which nobody looks for those to forget.
const FEW_ADDRESSES: usize = 1024;

type Buckets = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, RunningTime, NoOpMiddleware<Nanos>>;

/// How often each address asks: over HTTP, for upgrades, for upgrades of link. An IPv6 /48 has a bucket of its own beside
/// those of its /64s, so that going through these gains little. An address is forgotten once its bucket is full again, so
/// that a table is as large as the requests of a short while; where that is too large still, all begin anew.
pub struct RequestLimiter {
    tables: Mutex<Option<Tables>>,
    clock: Clock,
}

struct Tables {
    per_minute: u32,
    burst: u32,
    networks: Table,
    sites: Table,
}

struct Table {
    quota: Quota,
    buckets: Buckets,
    forget_at: usize,
}

impl RequestLimiter {
    /// Without a limit as yet.
    pub fn new(clock: Clock) -> RequestLimiter {
        RequestLimiter { tables: Mutex::default(), clock }
    }

    /// 0 requests a minute, or a burst of 0, is no limit. Where it is another than before, all begin anew.
    pub fn limit(&self, per_minute: u32, burst: u32) {
        let table = |times: u32| {
            let requests = NonZeroU32::new(per_minute.saturating_mul(times))?;
            let burst = NonZeroU32::new(burst.saturating_mul(times))?;
            Some(Table::new(Quota::per_minute(requests).allow_burst(burst), self.clock.clone()))
        };
        let mut tables = self.lock();
        let is_same = |tables: &Tables| (tables.per_minute, tables.burst) == (per_minute, burst);
        if !tables.as_ref().is_some_and(is_same) {
            *tables = table(1).zip(table(ADDRESSES_PER_SITE as u32)).map(|(networks, sites)| Tables {
                per_minute,
                burst,
                networks,
                sites,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an address, or the /64 of one, may ask; if not, how many seconds it should wait.
    pub fn check(&self, address: IpAddr) -> Result<(), u64> {
        let mut tables = self.lock();
        let Some(tables) = tables.as_mut().filter(|_| address != UNIX_PEER) else { return Ok(()) };
        tables.networks.check(address)?;
        site_of(address).map_or(Ok(()), |site| tables.sites.check(site))
    }
}

impl Table {
    fn new(quota: Quota, clock: Clock) -> Table {
        let buckets = RateLimiter::hashmap_with_clock(quota, RunningTime(clock));
        Table { quota, buckets, forget_at: FEW_ADDRESSES }
    }

    fn check(&mut self, address: IpAddr) -> Result<(), u64> {
        if self.buckets.len() >= self.forget_at {
            self.forget();
        }
        let now = governor::clock::Clock::now(self.buckets.clock());
        let seconds = |wait: Duration| wait.as_millis().div_ceil(1000).max(1) as u64;
        self.buckets.check_key(&address).map_err(|until| seconds(until.wait_time_from(now)))
    }

    fn forget(&mut self) {
        self.buckets.retain_recent();
        // Nearly full, it would be gone through for each newcomer.
        if self.buckets.len() > LIMITED_ADDRESSES / 2 {
            let clock = self.buckets.clock().clone();
            self.buckets = RateLimiter::hashmap_with_clock(self.quota, clock);
        }
        self.forget_at = (2 * self.buckets.len()).clamp(FEW_ADDRESSES, LIMITED_ADDRESSES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(per_minute: u32, burst: u32, clock: Clock) -> RequestLimiter {
        let limiter = RequestLimiter::new(clock);
        limiter.limit(per_minute, burst);
        limiter
    }

    #[test]
    fn an_address_spends_its_burst_and_waits_without_hindering_others() {
        let clock = Clock::manual(0);
        let limiter = limited(60, 60, clock.clone());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        clock.advance(MINUTE);
        (0..60).for_each(|_| assert_eq!(limiter.check(address(1)), Ok(())));
        assert_eq!(limiter.check(address(1)), Err(1));
        assert_eq!(limiter.check(address(2)), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!((limiter.check(address(1)), limiter.check(address(1))), (Ok(()), Err(1)));
        assert_eq!(limited(0, 1, clock).check(address(1)), Ok(()));
    }

    #[test]
    fn addresses_that_ask_no_more_are_forgotten() {
        let clock = Clock::manual(0);
        let limiter = limited(600, 600, clock.clone());
        for number in 0..20_000_u32 {
            clock.advance(Duration::from_micros(100));
            assert_eq!(limiter.check(IpAddr::from(number.to_be_bytes())), Ok(()));
        }
        assert!(known(&limiter).0 < 5000);
    }

    /// Addresses, or /64s, and /48s in the tables.
    fn known(limiter: &RequestLimiter) -> (usize, usize) {
        let tables = limiter.lock();
        let tables = tables.as_ref().unwrap();
        (tables.networks.buckets.len(), tables.sites.buckets.len())
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_tables_past_their_cap() {
        let limiter = limited(1, 1, Clock::manual(0));
        let mut most = (0, 0);
        // Each its own /48, and no time passes in which one could be forgotten.
        for number in 0..3 * LIMITED_ADDRESSES as u128 {
            assert_eq!(limiter.check(IpAddr::from((number << 80).to_be_bytes())), Ok(()));
            let (networks, sites) = known(&limiter);
            most = (most.0.max(networks), most.1.max(sites));
        }
        assert_eq!(most, (LIMITED_ADDRESSES, LIMITED_ADDRESSES));
    }

    #[test]
    fn going_through_the_64s_of_a_48_gains_no_more_than_16_addresses() {
        let clock = Clock::manual(0);
        let limiter = limited(60, 5, clock.clone());
        let ask = |site: u128, network: u128| {
            limiter.check(IpAddr::from(((site << 80) | (network << 64)).to_be_bytes()))
        };
        let passed = (0..1000).filter(|network| ask(1, *network).is_ok()).count();
        assert_eq!(passed, 5 * ADDRESSES_PER_SITE);
        assert_eq!((ask(1, 2000), ask(2, 0)), (Err(1), Ok(())));
        clock.advance(Duration::from_secs(1));
        let passed = (3000..4000).filter(|network| ask(1, *network).is_ok()).count();
        assert_eq!(passed, ADDRESSES_PER_SITE, "as fast as 16 addresses");
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
