//! Faults that a test asks for: the n-th write, flush or step of a compaction from now fails; a slow disk; a full disk; a
//! file system that cannot exchange two names.
//!
//! Owns countdowns and switches, which stand at "never" unless a test sets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::StoreError;

/// Cheap to clone; all clones share the countdowns.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Countdowns>);

#[derive(Debug)]
struct Countdowns {
    writes: AtomicI64,
    flushes: AtomicI64,
    steps: AtomicI64,
    /// Microseconds that each write and each flush takes longer.
    delay: AtomicU64,
    /// Bytes that are free on the disk.
    free: AtomicU64,
    no_exchange: AtomicBool,
}

const NEVER: i64 = i64::MAX;
const UNKNOWN: u64 = u64::MAX;

impl Default for Faults {
    fn default() -> Faults {
        Faults(Arc::new(Countdowns {
            writes: AtomicI64::new(NEVER),
            flushes: AtomicI64::new(NEVER),
            steps: AtomicI64::new(NEVER),
            delay: AtomicU64::new(0),
            free: AtomicU64::new(UNKNOWN),
            no_exchange: AtomicBool::new(false),
        }))
    }
}

impl Faults {
    /// The `n`-th commit from now fails without writing anything; 1 is the next.
    pub fn fail_write(&self, n: i64) {
        self.0.writes.store(n, Ordering::SeqCst);
    }

    /// The `n`-th flush from now fails; what it would have made durable may or may not be on the disk.
    pub fn fail_flush(&self, n: i64) {
        self.0.flushes.store(n, Ordering::SeqCst);
    }

    /// The `n`-th step of a compaction from now fails and leaves everything as a kill would.
    pub fn fail_step(&self, n: i64) {
        self.0.steps.store(n, Ordering::SeqCst);
    }

    /// Each write and each flush takes so much longer.
    pub fn slow_down(&self, by: Duration) {
        self.0.delay.store(by.as_micros() as u64, Ordering::SeqCst);
    }

    /// So many bytes are free on the disk.
    pub fn set_free(&self, bytes: u64) {
        self.0.free.store(bytes, Ordering::SeqCst);
    }

    /// The file system cannot exchange two names.
    pub fn deny_exchange(&self) {
        self.0.no_exchange.store(true, Ordering::SeqCst);
    }

    pub(super) fn on_step(&self) -> Result<(), StoreError> {
        count_down(&self.0.steps)
    }

    pub(super) fn free(&self) -> Option<u64> {
        Some(self.0.free.load(Ordering::SeqCst)).filter(|bytes| *bytes != UNKNOWN)
    }

    pub(super) fn cannot_exchange(&self) -> bool {
        self.0.no_exchange.load(Ordering::SeqCst)
    }

    pub(super) fn on_write(&self) -> Result<(), StoreError> {
        self.delay();
        count_down(&self.0.writes)
    }

    pub(super) fn on_flush(&self) -> Result<(), StoreError> {
        self.delay();
        count_down(&self.0.flushes)
    }

    fn delay(&self) {
        let micros = self.0.delay.load(Ordering::Relaxed);
        if micros > 0 {
            std::thread::sleep(Duration::from_micros(micros));
        }
    }
}

fn count_down(countdown: &AtomicI64) -> Result<(), StoreError> {
    if countdown.load(Ordering::Relaxed) == NEVER {
        return Ok(());
    }
    if countdown.fetch_sub(1, Ordering::SeqCst) == 1 {
        countdown.store(NEVER, Ordering::SeqCst);
        return Err(StoreError::Injected);
    }
    Ok(())
}
