//! Faults that a test asks for: the n-th write or flush from now fails.
//!
//! Owns two countdowns, which stand at "never" unless a test sets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::StoreError;

/// Cheap to clone; all clones share the countdowns.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Countdowns>);

#[derive(Debug)]
struct Countdowns {
    writes: AtomicI64,
    flushes: AtomicI64,
}

const NEVER: i64 = i64::MAX;

impl Default for Faults {
    fn default() -> Faults {
        Faults(Arc::new(Countdowns { writes: AtomicI64::new(NEVER), flushes: AtomicI64::new(NEVER) }))
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

    pub(super) fn on_write(&self) -> Result<(), StoreError> {
        count_down(&self.0.writes)
    }

    pub(super) fn on_flush(&self) -> Result<(), StoreError> {
        count_down(&self.0.flushes)
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
