//! The flusher thread, which makes commits durable: one flush for all that wait for one.
//!
//! Owns when a flush is due, and telling those who waited how it went. Must not know what was committed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::pending::{Batch, Pending};
use super::turn::Taken;
use super::{Command, Promise, Shared, Unavailable};

/// How long an applied change may wait for a flush that nobody waits for; with the flush itself under 500 ms.
const FLUSH_WITHIN: Duration = Duration::from_millis(200);

/// How far the flusher has come, for the writer.
#[derive(Default)]
pub(super) struct Progress {
    /// Something is committed and not flushed.
    unflushed: AtomicBool,
    /// Batches that were handed over and are not flushed.
    batches: AtomicUsize,
    /// The writer wants to hear when there are none.
    is_awaited: AtomicBool,
}

impl Progress {
    pub fn committed(&self) {
        self.unflushed.store(true, Ordering::Release);
    }

    /// A batch is about to be handed over.
    pub fn begin(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a flush is under way or about to be; then the writer is told when it is over.
    pub fn is_flushing_for_longer(&self) -> bool {
        if self.batches.load(Ordering::SeqCst) == 0 {
            return false;
        }
        self.is_awaited.store(true, Ordering::SeqCst);
        // It may have ended in between, without a word.
        self.batches.load(Ordering::SeqCst) > 0
    }

    /// These batches are flushed, or never will be; whether the writer waits for that.
    fn end(&self, batches: usize) -> bool {
        self.batches.fetch_sub(batches, Ordering::SeqCst) == batches
            && self.is_awaited.swap(false, Ordering::SeqCst)
    }
}

pub(super) struct Flusher {
    pub shared: Arc<Shared>,
    pub progress: Arc<Progress>,
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
        let batches = waiting.len();
        let (waiting, lost): (Vec<_>, Vec<_>) = waiting.into_iter().partition(counts);
        self.fail(lost);
        let dirty = self.progress.unflushed.swap(false, Ordering::AcqRel);
        let Some(store) = store.as_ref().filter(|_| dirty) else {
            // Everything that was committed before is on the disk already. Or the store is closed after a failure: then
            // the epoch has risen, and nothing waits here.
            self.end(batches);
            waiting.into_iter().flat_map(|batch| batch.pending).for_each(Pending::deliver);
            return;
        };
        let started = self.shared.clock.running();
        let flushed = store.flush();
        self.end(batches);
        match flushed {
            Ok(()) => {
                let took = self.shared.clock.running().saturating_sub(started);
                self.shared.metrics.flush.observe(took.as_secs_f64());
                self.shared.watched.flushed(took);
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

    /// The writer may commit meanwhile what has come together.
    fn end(&self, batches: usize) {
        if self.progress.end(batches) {
            // Without a writer nothing has come together.
            let _ = self.shared.commands.send(Command::Flushed);
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
