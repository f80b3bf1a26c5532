//! What has arrived of messages and bodies and is not handled yet, of all clients together: memory that strangers fill.
//!
//! Owns the count and its ceiling. Past it whoever has taken longest has to go: an honest message is whole before long. Must
//! not know what arrives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::metrics::Metrics;

/// Bytes of one client that do not count: most have no more, and ask nobody. Where more is read at once, that is free as well.
pub const FREE: usize = 8 * 1024;
/// The place of who had to go.
const EVICTED: u64 = u64::MAX;

pub struct Arriving {
    most: usize,
    /// How often somebody has begun to count.
    age: AtomicU64,
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    used: usize,
    /// Who has more than is free, and how many bytes that counts for; the oldest first, by age and then by address in memory.
    places: BTreeMap<(u64, usize), (Weak<Share>, usize)>,
}

/// What one client has sent that is not handled yet, until it is dropped.
pub struct Share {
    all: Arc<Arriving>,
    free: usize,
    waiting: AtomicUsize,
    /// The age of its place in the table; 0 = none.
    place: AtomicU64,
    /// Makes its client go.
    evict: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Arriving {
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Arc<Arriving> {
        Arc::new(Arriving { most, age: AtomicU64::new(1), table: Mutex::default(), metrics })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this one has so many bytes that count. Where it had none, they are of this age, or new.
    fn count(&self, share: &Arc<Share>, bytes: usize, age: Option<u64>) {
        let mut table = self.lock();
        let place = match share.place.load(Ordering::Relaxed) {
            EVICTED => return,
            0 => age.unwrap_or_else(|| self.age.fetch_add(1, Ordering::Relaxed)),
            place => place,
        };
        share.place.store(place, Ordering::Relaxed);
        let before = table.places.insert(share.key(place), (Arc::downgrade(share), bytes));
        table.used = table.used + bytes - before.map_or(0, |(_, counted)| counted);
        let mut evicted = Vec::new();
        while table.used > self.most
            && let Some((_, (share, counted))) = table.places.pop_first()
        {
            table.used -= counted;
            // One that is just being dropped is gone without a word.
            let Some(share) = share.upgrade() else { continue };
            share.place.store(EVICTED, Ordering::Relaxed);
            evicted.push(share);
        }
        self.metrics.arriving.set(table.used as i64);
        drop(table);
        evicted.iter().filter_map(|share| share.evict.get()).for_each(|evict| evict());
    }

    /// This one counts no more; 0 = for now.
    fn forget(&self, share: &Share, becomes: u64) {
        let mut table = self.lock();
        let place = share.place.load(Ordering::Relaxed);
        if place == EVICTED {
            return;
        }
        share.place.store(becomes, Ordering::Relaxed);
        if let Some((_, counted)) = table.places.remove(&share.key(place)) {
            table.used -= counted;
            self.metrics.arriving.set(table.used as i64);
        }
    }
}

impl Share {
    pub fn new(all: Arc<Arriving>, free: usize) -> Arc<Share> {
        let (waiting, place) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Share { all, free, waiting, place, evict: OnceLock::new() })
    }

    fn key(&self, place: u64) -> (u64, usize) {
        (place, std::ptr::from_ref(self).addr())
    }

    /// What makes its client go, where all together have too much. Once.
    pub fn evicted_by(&self, evict: impl Fn() + Send + Sync + 'static) {
        let _ = self.evict.set(Box::new(evict));
    }

    /// So many bytes have come.
    pub fn arrived(self: &Arc<Share>, bytes: usize) {
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > self.free {
            self.all.count(self, waiting - self.free, None);
        }
    }

    /// How old is what comes next, for [`Share::handled`].
    pub fn age(&self) -> u64 {
        self.all.age.load(Ordering::Relaxed)
    }

    /// The first bytes are handled; what has come behind them is of this age.
    pub fn handled(self: &Arc<Share>, bytes: usize, age: u64) {
        let waiting = self.waiting.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        if self.place.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.all.forget(self, 0);
        if waiting > self.free {
            self.all.count(self, waiting - self.free, Some(age));
        }
    }

    /// Whether its client had to go.
    pub fn is_evicted(&self) -> bool {
        self.place.load(Ordering::Relaxed) == EVICTED
    }

    /// Counts nothing any more.
    pub fn end(&self) {
        if self.place.load(Ordering::Relaxed) != 0 {
            self.all.forget(self, EVICTED);
        }
        self.place.store(EVICTED, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn client(all: &Arc<Arriving>) -> (Arc<Share>, Arc<AtomicBool>) {
        let (share, gone) = (Share::new(all.clone(), FREE), Arc::new(AtomicBool::new(false)));
        share.evicted_by({
            let gone = gone.clone();
            move || gone.store(true, Ordering::Relaxed)
        });
        (share, gone)
    }

    fn are_gone<const N: usize>(gone: [&AtomicBool; N]) -> [bool; N] {
        gone.map(|gone| gone.load(Ordering::Relaxed))
    }

    #[test]
    fn whoever_sends_one_message_after_the_other_has_not_taken_longest() {
        let all = Arriving::new(5 * FREE, Arc::default());
        let [(busy, busy_gone), (slow, slow_gone), (late, _)] = [(); 3].map(|()| client(&all));
        busy.arrived(2 * FREE);
        slow.arrived(2 * FREE);
        let age = busy.age();
        busy.arrived(2 * FREE);
        // Until then it was the oldest.
        busy.handled(2 * FREE, age);
        late.arrived(5 * FREE);
        assert_eq!(are_gone([&busy_gone, &slow_gone]), [false, true]);
        assert_eq!(all.metrics.arriving.get(), 5 * FREE as i64);
        drop((busy, slow, late));
        assert_eq!(all.metrics.arriving.get(), 0);
    }

    #[test]
    fn small_messages_before_a_large_one_make_it_no_younger_than_it_is() {
        let all = Arriving::new(5 * FREE, Arc::default());
        let [(sly, sly_gone), (honest, honest_gone), (late, _)] = [(); 3].map(|()| client(&all));
        sly.arrived(10);
        let age = sly.age();
        sly.arrived(3 * FREE);
        honest.arrived(3 * FREE);
        sly.handled(10, age);
        late.arrived(3 * FREE);
        assert_eq!(are_gone([&sly_gone, &honest_gone]), [true, false]);
    }
}
