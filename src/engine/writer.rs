//! The writer thread, which runs requests and commits.
//!
//! Owns group commit (what may share a transaction, and when it is due) and the way back from a storage failure. Must not
//! know what the requests are.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::flusher::{Flusher, Progress};
use super::pending::{Batch, Open, Pending};
use super::turn::{Core, Taken, Turn};
use super::{Command, Ended, Job, Promise, Shared, Unavailable, link};
use crate::clock::{JumpWatch, Millis};
use crate::id::Kind;
use crate::limits::{COMMIT_AT, ENGINE_DRAIN, Limits};
use crate::logging::Blur;
use crate::registry::{Boot, Registries};
use crate::store::{Changes, Faults, Folded, Pins, Store, StoreError};

/// How often a closed store is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// Folds the rows back into registries.
pub(super) fn fold(
    store: &Store,
    boot: Boot,
    limits: &Limits,
    blur: &Blur,
    now: Millis,
) -> Result<(Registries, Folded), StoreError> {
    let mut registries = Registries::new(boot, limits);
    let folded = store.fold(|row| registries.load(row))?;
    // A number that was given is never given again, whether or not its row decodes.
    registries.rendezvous.continue_after(folded.last_sequence);
    for (key, reason) in &folded.undecodable {
        let (kind, id) = key.split_once('/').unwrap_or(("", key));
        let key = format!("{kind}/{}", blur.id(id, now));
        tracing::error!(%key, %reason, "a row does not decode: it is left alone");
    }
    Ok((registries, folded))
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn start(
    shared: Arc<Shared>,
    inbox: Receiver<Command>,
    path: PathBuf,
    faults: Faults,
) -> Vec<JoinHandle<()>> {
    let (to_flusher, batches) = channel();
    let progress = Arc::new(Progress::default());
    let flusher = Flusher { shared: shared.clone(), progress: progress.clone(), failed_epoch: 0 };
    let writer = Writer {
        jumps: JumpWatch::new(&shared.clock),
        core: shared.core.clone(),
        pins: lock(&shared.core).pins.clone(),
        shared: shared.clone(),
        to_flusher,
        progress,
        open: Open::new(),
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
    /// Held while turns are taken, and never while the store is written.
    core: Arc<Mutex<Core>>,
    pins: Pins,
    to_flusher: Sender<Batch>,
    progress: Arc<Progress>,
    open: Open,
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
                    Command::FlushFailed(_) | Command::Flushed => {}
                    Command::Stop => stopping = true,
                }
                if jobs.len() == ENGINE_DRAIN || stopping {
                    break;
                }
            }
            let answers = self.take_turns(jobs);
            if stopping {
                lock(&self.core).registries.relays.write_loads(usize::MAX, &mut self.open.changes);
            }
            if stopping || self.is_due() {
                self.commit_open(answers);
            } else {
                answers.into_iter().for_each(Pending::deliver);
            }
            self.set_alarm();
            lock(&self.core).relieve(&self.shared.budget);
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

    /// Runs the jobs; tells who is answered without a flush.
    fn take_turns(&mut self, jobs: Vec<Job>) -> Vec<Pending> {
        let mut answers = Vec::new();
        if jobs.is_empty() {
            return answers;
        }
        let metrics = &self.shared.metrics;
        let bounded = jobs.iter().filter(|job| job.bounded).count();
        self.shared.waiting.fetch_sub(bounded, Ordering::Relaxed);
        metrics.requests.inc_by(jobs.len() as u64);
        metrics.drains.inc();
        let (now, running) = (self.shared.clock.now(), self.shared.clock.running());
        // While the wall clock is in doubt requests remove nothing on their way.
        let leapt = self.jumps.jumped_within(self.shared.limits.relays.restart_grace, &self.shared.clock);
        if leapt || running < self.shared.spared_until || self.shared.clock.is_held() {
            self.open.to_clean = 0;
        }
        let mut core = lock(&self.core);
        for job in jobs {
            if self.reopen_at.is_some() && job.promise != Promise::None {
                (job.work)(Err(Unavailable::Storage))(Ok(()));
                continue;
            }
            let mut turn = Turn {
                core: &mut core,
                now,
                running,
                changes: &mut self.open.changes,
                to_clean: &mut self.open.to_clean,
                effects: Vec::new(),
                taken: None,
                metrics,
            };
            let answer = (job.work)(Ok(&mut turn));
            let (promise, effects, taken) = (job.promise, turn.effects, turn.taken);
            let pending = Pending { promise, effects, taken, answer };
            self.open.is_awaited |= promise == Promise::Applied;
            match promise {
                Promise::Flushed => self.open.pending.push(pending),
                Promise::None | Promise::Applied => answers.push(pending),
            }
        }
        answers
    }

    /// Whether it is time to commit. Each transaction has its price, whatever is in it; so while a flush is under way, after
    /// which nobody who waits for one could be answered any sooner, more is let come together.
    fn is_due(&self) -> bool {
        let open = &self.open;
        self.reopen_at.is_some()
            || open.is_awaited
            || open.pending.len() >= COMMIT_AT
            || !self.progress.is_flushing_for_longer()
    }

    /// Commits what is open as one transaction.
    fn commit_open(&mut self, answers: Vec<Pending>) {
        let Open { changes, mut pending, .. } = std::mem::replace(&mut self.open, Open::new());
        if self.reopen_at.is_some() {
            // Nothing can be written: what is live went on in memory, and is sorted out when the store is back.
            answers.into_iter().for_each(Pending::deliver);
            return;
        }
        if let Err(error) = self.commit(&changes) {
            tracing::error!(%error, rows = changes.rows(), "a commit failed");
            self.refuse(answers.into_iter().chain(pending).collect());
            self.fail("commit");
            return;
        }
        self.after_commit(&changes);
        pending.iter_mut().for_each(Pending::begin);
        if !pending.is_empty() {
            self.progress.begin();
            let batch = Batch { epoch: self.epoch(), pending };
            // Without a flusher nobody can be promised anything: the answers are dropped and their askers told.
            let _ = self.to_flusher.send(batch);
        }
        answers.into_iter().for_each(Pending::deliver);
    }

    /// Their rows will not be: gives back what they took, and tells those who were to have rows.
    fn refuse(&mut self, failed: Vec<Pending>) {
        let running = self.shared.clock.running();
        let mut core = lock(&self.core);
        for Taken(socket, generation) in failed.iter().filter_map(|pending| pending.taken) {
            // The rows go with the fold; until then memory is all there is.
            if let Some(id) = core.hub.give_back(socket, generation) {
                core.registries.leave_live(&id, &mut Changes::default());
                let notices = core.pairing.leave(&id);
                core.notify(notices).into_iter().for_each(|effect| effect.carry_out(true));
                let notices = core.chunks.withdraw(running, socket);
                core.notify_sockets(notices).into_iter().for_each(|effect| effect.carry_out(true));
            }
        }
        drop(core);
        for pending in failed {
            // What is live has happened, whatever becomes of others' rows.
            match pending.promise {
                Promise::None => pending.deliver(),
                Promise::Applied | Promise::Flushed => pending.fail(Unavailable::Storage),
            }
        }
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
        self.pins.keep_removed(changes, store)?;
        store.commit(changes)?;
        let took = self.shared.clock.running().saturating_sub(started);
        self.shared.metrics.commit.observe(took.as_secs_f64());
        self.shared.metrics.rows.inc_by(changes.rows() as u64);
        self.progress.committed();
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
        let core = lock(&self.core);
        let (pairing, chunks) = (core.pairing.next_deadline(), core.chunks.next_deadline());
        let announcements = core.announcements.next_deadline();
        drop(core);
        let next = pairing.into_iter().chain(chunks).chain(announcements).min();
        self.shared.next_ring.send_if_modified(|known| std::mem::replace(known, next) != next);
    }

    fn measure(&self) {
        let core = lock(&self.core);
        let (metrics, registries) = (&self.shared.metrics, &core.registries);
        for kind in Kind::ALL {
            metrics.lease_gauge(kind.name(), registries.count(kind));
        }
        let totals = registries.rendezvous.totals();
        metrics.points.set(totals.points as i64);
        metrics.tokens.set(totals.tokens as i64);
        metrics.drops.set(totals.payload_bytes as i64);
        let (pairing, chunks) = (core.pairing.counts(), core.chunks.counts());
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
        // What was decided and not committed is not in what is folded next.
        let open = std::mem::replace(&mut self.open, Open::new());
        self.refuse(open.pending);
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
        let Shared { limits, blur, clock, .. } = &*self.shared;
        let (mut registries, folded) = fold(&store, boot, limits, blur, clock.now())?;
        let undecodable = folded.undecodable.len();
        let mut core = lock(&self.core);
        let mut changes = self.reconcile(&core, &mut registries);
        // One row at least, so that a disk that takes none is not mended.
        changes.live_since(store.live_since()?);
        store.commit(&changes)?;
        store.flush()?;
        self.shared.undecodable.store(undecodable, Ordering::Relaxed);
        self.shared.metrics.undecodable.set(undecodable as i64);
        core.registries = registries;
        link::end_what_does_not_stand(&mut core, self.shared.clock.now());
        drop(core);
        self.measure();
        self.shared.sweeper.held_done.store(false, Ordering::Relaxed);
        self.shared.sweeper.wake.notify_one();
        Ok(store)
    }

    /// The store has what was flushed, the hub knows who is here: whoever left meanwhile leaves the registries too, and
    /// relays that are here stay. Sockets that the daemon closes itself have not left.
    fn reconcile(&self, core: &Core, registries: &mut Registries) -> Changes {
        let mut changes = Changes::default();
        let old = &core.registries;
        registries.rendezvous.continue_after(old.rendezvous.last_sequence());
        if core.draining {
            return changes;
        }
        let live = registries.relays.live_ids().chain(registries.rendezvous.live_ids());
        let gone: Vec<_> = live.filter(|id| !core.hub.is_held(id)).cloned().collect();
        gone.iter().for_each(|id| registries.leave_live(id, &mut changes));
        for id in core.hub.held_ids() {
            registries.relays.carry_over(id, &old.relays, &mut changes);
        }
        link::reconcile(core, registries, self.shared.clock.now(), &mut changes);
        changes
    }
}
