//! What is told as it happens to whoever watches the daemon: sweeps that removed something, and how long flushes took.
//!
//! Owns both until they are fetched; with nobody there it keeps a bounded histogram and nothing else. Must not know who
//! watches, nor how.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::broadcast;

use super::Engine;
use crate::wire::admin::{StoreEvent, Swept};

/// Sweeps that a watcher may be behind by; past it the oldest are not told.
const SWEEPS_KEPT: usize = 64;
/// Flushes that take longer count as this.
const LONGEST_FLUSH_MICROS: u64 = 60_000_000;

pub(super) struct Watched {
    swept: broadcast::Sender<Swept>,
    /// Microseconds of each flush since the last look.
    flushes: Mutex<Histogram<u64>>,
}

impl Default for Watched {
    fn default() -> Watched {
        let flushes =
            Histogram::new_with_bounds(1, LONGEST_FLUSH_MICROS, 2).expect("the bounds are constants");
        Watched { swept: broadcast::Sender::new(SWEEPS_KEPT), flushes: Mutex::new(flushes) }
    }
}

impl Watched {
    pub fn swept(&self, swept: &Swept) {
        if *swept != Swept::default() {
            // Mostly nobody watches.
            let _ = self.swept.send(swept.clone());
        }
    }

    pub fn flushed(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }
}

impl Engine {
    /// Sweeps that remove something from now on.
    pub fn sweeps(&self) -> broadcast::Receiver<Swept> {
        self.0.watched.swept.subscribe()
    }

    /// The store's size, and how long the flushes took that there were since the last call.
    pub async fn watch_store(&self) -> StoreEvent {
        // While it is closed after a failure its size is unknown.
        let bytes_on_disk = self.read_store(|store| Ok(store.size_on_disk())).await.ok();
        let mut flushes = self.0.watched.flushes.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |quantile: f64| {
            (!flushes.is_empty()).then(|| flushes.value_at_quantile(quantile) as f64 / 1_000_000.0)
        };
        let event = StoreEvent {
            bytes_on_disk,
            flushes: flushes.len(),
            flush_p50_seconds: seconds(0.5),
            flush_p99_seconds: seconds(0.99),
        };
        flushes.reset();
        event
    }
}
