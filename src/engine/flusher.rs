//! The flusher thread, which makes commits durable: one flush for all that wait for one.
//!
//! Owns when a flush is due, and telling those who waited how it went. Must not know what was committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::turn::Taken;
use super::writer::{Batch, Pending};
use super::{Command, Promise, Shared, Unavailable};

/// How long an applied change may wait for a flush that nobody waits for; with the flush itself under 500 ms.
const FLUSH_WITHIN: Duration = Duration::from_millis(200);

pub(super) struct Flusher {
    pub shared: Arc<Shared>,
    pub unflushed: Arc<AtomicBool>,
    pub failed_epoch: u64,
}

impl Flusher {
    pub fn run(mut self, batches: &Receiver<Batch>) {
        loop {
            let first = match batches.recv_timeout(FLUSH_WITHIN) {
                Ok(batch) => Some(batch),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush(Vec::new());
                    return;
                }
            };
            let waiting: Vec<Batch> = first.into_iter().chain(batches.try_iter()).collect();
            self.flush(waiting);
        }
    }

    /// One flush for all that wait.
    fn flush(&mut self, waiting: Vec<Batch>) {
        let store = self.shared.store.read().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        let counts = |batch: &Batch| batch.epoch == epoch && batch.epoch > self.failed_epoch;
        let (waiting, lost): (Vec<_>, Vec<_>) = waiting.into_iter().partition(counts);
        self.fail(lost);
        let dirty = self.unflushed.swap(false, Ordering::AcqRel);
        let Some(store) = store.as_ref().filter(|_| dirty) else {
            // Everything that was committed before is on the disk already. Or the store is closed after a failure: then
            // the epoch has risen, and nothing waits here.
            waiting.into_iter().flat_map(|batch| batch.pending).for_each(Pending::deliver);
            return;
        };
        let started = self.shared.clock.running();
        match store.flush() {
            Ok(()) => {
                let took = self.shared.clock.running().saturating_sub(started);
                self.shared.metrics.flush.observe(took.as_secs_f64());
                waiting.into_iter().flat_map(|batch| batch.pending).for_each(Pending::deliver);
            }
            Err(error) => {
                tracing::error!(%error, "a flush failed");
                self.failed_epoch = epoch;
                // Without a writer there is nothing to reopen.
                let _ = self.shared.commands.send(Command::FlushFailed(epoch));
                self.fail(waiting);
            }
        }
    }

    fn fail(&self, batches: Vec<Batch>) {
        let lost: Vec<Pending> = batches.into_iter().flat_map(|batch| batch.pending).collect();
        let taken: Vec<Taken> = lost.iter().filter_map(|pending| pending.taken).collect();
        if !taken.is_empty() {
            // Before the answers, so that a second try finds the ids free.
            self.shared.submit(Promise::None, |turn| turn.give_back(taken));
        }
        lost.into_iter().for_each(|pending| pending.fail(Unavailable::Storage));
    }
}
