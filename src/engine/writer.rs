//! The writer thread, which runs requests and commits.
//!
//! Owns group commit (one transaction a drain) and the way back from a storage failure. Must not know what the requests are.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::flusher::Flusher;
use super::turn::{Core, Effect, Taken, Turn};
use super::{Answer, Command, Ended, Job, Promise, Shared, Unavailable, link};
use crate::clock::JumpWatch;
use crate::id::Kind;
use crate::limits::{ENGINE_DRAIN, Limits, MAX_CLEANED};
use crate::registry::{Boot, Registries};
use crate::store::{Changes, Faults, Store, StoreError};

/// How often a closed store is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// An answer whose rows are committed.
pub(super) struct Pending {
    effects: Vec<Effect>,
    pub taken: Option<Taken>,
    answer: Answer,
}

impl Pending {
    pub fn deliver(self) {
        self.effects.into_iter().for_each(|effect| effect.carry_out(true));
        (self.answer)(Ok(()));
    }

    /// The rows did not last. A socket that was replaced in the hub is closed all the same.
    pub fn fail(self, why: Unavailable) {
        self.effects.into_iter().for_each(|effect| effect.carry_out(false));
        (self.answer)(Err(why));
    }
}

/// What waits for one flush.
pub(super) struct Batch {
    pub epoch: u64,
    pub pending: Vec<Pending>,
}

/// Folds the rows back into registries; tells how many did not decode.
pub(super) fn fold(store: &Store, boot: Boot, limits: &Limits) -> Result<(Registries, usize), StoreError> {
    let mut registries = Registries::new(boot, limits);
    let folded = store.fold(|row| registries.load(row))?;
    // A number that was given is never given again, whether or not its row decodes.
    registries.rendezvous.continue_after(folded.last_sequence);
    for (key, reason) in &folded.undecodable {
        tracing::error!(%key, %reason, "a row does not decode: it is left alone");
    }
    Ok((registries, folded.undecodable.len()))
}

pub(super) fn start(
    shared: Arc<Shared>,
    core: Core,
    inbox: Receiver<Command>,
    path: PathBuf,
    faults: Faults,
) -> Vec<JoinHandle<()>> {
    let (to_flusher, batches) = channel();
    let unflushed = Arc::new(AtomicBool::new(false));
    let flusher = Flusher { shared: shared.clone(), unflushed: unflushed.clone(), failed_epoch: 0 };
    let writer = Writer {
        jumps: JumpWatch::new(&shared.clock),
        shared: shared.clone(),
        core,
        to_flusher,
        unflushed,
        reopen_at: None,
        path,
        faults,
    };
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        Builder::new().name(name.into()).spawn(run).expect("the operating system can start two threads")
    };
    let (writer_ended, flusher_ended) = (Ended(shared.clone()), Ended(shared));
    let run_writer = move || {
        let _ended = writer_ended;
        writer.run(&inbox);
    };
    let run_flusher = move || {
        let _ended = flusher_ended;
        flusher.run(&batches);
    };
    vec![spawn("waypost-writer", Box::new(run_writer)), spawn("waypost-flusher", Box::new(run_flusher))]
}

struct Writer {
    shared: Arc<Shared>,
    core: Core,
    to_flusher: Sender<Batch>,
    /// Something is committed and not flushed.
    unflushed: Arc<AtomicBool>,
    /// Set while the store is closed: when to try it again, in running time.
    reopen_at: Option<Duration>,
    path: PathBuf,
    faults: Faults,
    jumps: JumpWatch,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Command>) {
        self.measure();
        loop {
            let first = match self.reopen_at {
                None => inbox.recv().ok(),
                Some(_) => match inbox.recv_timeout(REOPEN_EVERY) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => {
                        self.reopen();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            let Some(first) = first else { return };
            let started = self.shared.clock.running();
            let mut jobs = Vec::new();
            let mut stopping = false;
            for command in std::iter::once(first).chain(inbox.try_iter()) {
                match command {
                    Command::Run(job) => jobs.push(job),
                    Command::FlushFailed(epoch) if epoch == self.epoch() => self.fail("flush"),
                    Command::FlushFailed(_) => {}
                    Command::Stop => stopping = true,
                }
                if jobs.len() == ENGINE_DRAIN || stopping {
                    break;
                }
            }
            self.drain(jobs);
            self.set_alarm();
            self.core.relieve(&self.shared.budget);
            if self.reopen_at.is_some_and(|at| self.shared.clock.running() >= at) {
                self.reopen();
            }
            let busy = self.shared.clock.running().saturating_sub(started);
            self.shared.metrics.writer_busy.inc_by(busy.as_secs_f64());
            if stopping {
                return;
            }
        }
    }

    /// Runs the jobs and commits what they change as one transaction.
    fn drain(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let metrics = &self.shared.metrics;
        self.shared.waiting.fetch_sub(jobs.len(), Ordering::Relaxed);
        metrics.requests.inc_by(jobs.len() as u64);
        metrics.drains.inc();
        let (now, running) = (self.shared.clock.now(), self.shared.clock.running());
        let mut changes = Changes::default();
        // After a leap ahead of the wall clock requests remove nothing on their way for a while.
        let leapt = self.jumps.jumped_within(self.shared.limits.relays.restart_grace, &self.shared.clock);
        let mut to_clean = if leapt { 0 } else { MAX_CLEANED };
        let (mut at_once, mut after_flush) = (Vec::new(), Vec::new());
        for job in jobs {
            if self.reopen_at.is_some() && job.promise != Promise::None {
                (job.work)(Err(Unavailable::Storage))(Ok(()));
                continue;
            }
            let mut turn = Turn {
                core: &mut self.core,
                now,
                running,
                changes: &mut changes,
                to_clean: &mut to_clean,
                effects: Vec::new(),
                taken: None,
                metrics,
            };
            let answer = (job.work)(Ok(&mut turn));
            let pending = Pending { effects: turn.effects, taken: turn.taken, answer };
            match job.promise {
                Promise::Flushed => after_flush.push(pending),
                Promise::None | Promise::Applied => at_once.push(pending),
            }
        }
        if self.reopen_at.is_some() {
            // Nothing can be written: what is live went on in memory, and is sorted out when the store is back.
            at_once.into_iter().for_each(Pending::deliver);
            return;
        }
        if let Err(error) = self.commit(&changes) {
            tracing::error!(%error, rows = changes.rows(), "a commit failed");
            let failed: Vec<Pending> = at_once.into_iter().chain(after_flush).collect();
            for Taken(socket, generation) in failed.iter().filter_map(|pending| pending.taken) {
                // The rows go with the fold; until then memory is all there is.
                if let Some(id) = self.core.hub.give_back(socket, generation) {
                    self.core.registries.leave_live(&id, &mut Changes::default());
                    let notices = self.core.pairing.leave(&id);
                    self.core.notify(notices).into_iter().for_each(|effect| effect.carry_out(true));
                }
            }
            failed.into_iter().for_each(|pending| pending.fail(Unavailable::Storage));
            self.fail("commit");
            return;
        }
        self.after_commit(&changes);
        if !after_flush.is_empty() {
            let batch = Batch { epoch: self.epoch(), pending: after_flush };
            // Without a flusher nobody can be promised anything: the answers are dropped and their askers told.
            let _ = self.to_flusher.send(batch);
        }
        at_once.into_iter().for_each(Pending::deliver);
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Relaxed)
    }

    fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let store = self.shared.store.read().unwrap_or_else(PoisonError::into_inner);
        let Some(store) = store.as_ref() else {
            return Err(StoreError::Disk(std::io::ErrorKind::NotFound.into()));
        };
        let started = self.shared.clock.running();
        self.core.pins.keep_removed(changes, store)?;
        store.commit(changes)?;
        let took = self.shared.clock.running().saturating_sub(started);
        self.shared.metrics.commit.observe(took.as_secs_f64());
        self.shared.metrics.rows.inc_by(changes.rows() as u64);
        self.unflushed.store(true, Ordering::Release);
        Ok(())
    }

    fn after_commit(&self, changes: &Changes) {
        let sweeper = &self.shared.sweeper;
        if changes.earliest().is_some_and(|end| end < sweeper.wakes_at.load(Ordering::Relaxed)) {
            sweeper.wake.notify_one();
        }
        self.measure();
    }

    /// What is live may end earlier now, or later.
    fn set_alarm(&self) {
        let (pairing, chunks) = (self.core.pairing.next_deadline(), self.core.chunks.next_deadline());
        let next = pairing.into_iter().chain(chunks).min();
        self.shared.next_ring.send_if_modified(|known| std::mem::replace(known, next) != next);
    }

    fn measure(&self) {
        let (metrics, registries) = (&self.shared.metrics, &self.core.registries);
        for kind in Kind::ALL {
            metrics.lease_gauge(kind.name(), registries.count(kind));
        }
        let totals = registries.rendezvous.totals();
        metrics.points.set(totals.points as i64);
        metrics.tokens.set(totals.tokens as i64);
        metrics.drops.set(totals.payload_bytes as i64);
        let (pairing, chunks) = (self.core.pairing.counts(), self.core.chunks.counts());
        metrics.codes.set(pairing.codes as i64);
        metrics.pair_requests.set(pairing.pair_requests as i64);
        metrics.link_requests.set(pairing.link_requests as i64);
        metrics.device_links.set(pairing.links as i64);
        metrics.chunk_sources.set(chunks.sources as i64);
        metrics.chunk_requests.set(chunks.requests as i64);
        metrics.subscriptions.set(chunks.subscriptions as i64);
    }

    /// Nothing since the last good flush counts any more: closes the store and tries to open it anew.
    fn fail(&mut self, what: &'static str) {
        self.shared.metrics.storage_failures.inc();
        self.shared.ready.store(false, Ordering::Relaxed);
        tracing::error!(what, "storage failed: writes are refused until the store has been opened anew");
        let mut store = self.shared.store.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        *store = None;
        drop(store);
        self.reopen_at = Some(self.shared.clock.running());
        self.reopen();
    }

    fn reopen(&mut self) {
        match self.try_reopen() {
            Ok(store) => {
                *self.shared.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
                self.reopen_at = None;
                self.shared.ready.store(true, Ordering::Relaxed);
                tracing::info!("the store is open again");
            }
            Err(error) => {
                tracing::warn!(%error, "the store cannot be opened yet");
                self.reopen_at = Some(self.shared.clock.running() + REOPEN_EVERY);
            }
        }
    }

    /// Opens the store from the disk and folds the registries afresh.
    fn try_reopen(&mut self) -> Result<Store, Box<dyn std::error::Error>> {
        let boot = self.shared.boot;
        let store = Store::reopen(&self.path, self.faults.clone(), boot.number)?;
        let (mut registries, undecodable) = fold(&store, boot, &self.shared.limits)?;
        let mut changes = self.reconcile(&mut registries);
        // One row at least, so that a disk that takes none is not mended.
        changes.live_since(store.live_since()?);
        store.commit(&changes)?;
        store.flush()?;
        self.shared.undecodable.store(undecodable, Ordering::Relaxed);
        self.shared.metrics.undecodable.set(undecodable as i64);
        self.core.registries = registries;
        link::end_what_does_not_stand(&mut self.core, self.shared.clock.now());
        self.measure();
        self.shared.sweeper.held_done.store(false, Ordering::Relaxed);
        self.shared.sweeper.wake.notify_one();
        Ok(store)
    }

    /// The store has what was flushed, the hub knows who is here: whoever left meanwhile leaves the registries too, and
    /// relays that are here stay. Sockets that the daemon closes itself have not left.
    fn reconcile(&self, registries: &mut Registries) -> Changes {
        let mut changes = Changes::default();
        let old = &self.core.registries;
        registries.rendezvous.continue_after(old.rendezvous.last_sequence());
        if self.core.draining {
            return changes;
        }
        let live = registries.relays.live_ids().chain(registries.rendezvous.live_ids());
        let gone: Vec<_> = live.filter(|id| !self.core.hub.is_held(id)).cloned().collect();
        gone.iter().for_each(|id| registries.leave_live(id, &mut changes));
        for id in self.core.hub.held_ids() {
            registries.relays.carry_over(id, &old.relays, &mut changes);
        }
        link::reconcile(&self.core, registries, self.shared.clock.now(), &mut changes);
        changes
    }
}
