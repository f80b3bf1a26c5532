//! The sweeper: ends leases whose time is up, in bounded atomic batches, so that the writer serves whoever waits in
//! between.
//!
//! Owns when to look and what to look at: the expiry indexes from their start to now; the one of what requests remove on
//! their way only every now and then. Must not know the rules: the registries decide, in the writer, what has really ended.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Ended, Engine, Promise, Unavailable};
use crate::clock::{Clock, JumpWatch, Millis, Standing, rest};
use crate::id::Kind;
use crate::metrics::KindLabel;
use crate::registry::Expired;
use crate::store::{Due, Index, Store, StoreError};
use crate::wire::admin::Swept;

/// Rest between two sweeps: with leases that end one by one it makes batches of them. No answer depends on a sweep.
const REST: Duration = Duration::from_millis(100);
/// How often it is looked whether time is still held.
const HELD_AGAIN: Duration = Duration::from_secs(1);
/// Rest after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What the sweeper and those who write tell each other.
#[derive(Default)]
pub(super) struct Signals {
    /// What ended with its holder before this boot has been looked at.
    pub held_done: AtomicBool,
    /// When the sweeper means to wake up next.
    pub wakes_at: AtomicU64,
    pub wake: Notify,
}

/// Until when, in running time, a start removes nothing. Rows of which all are old may mean a long rest, or a clock that
/// is ahead; one that is behind the rows ends nothing too early, so it is only told.
pub(super) fn spare(clock: &Clock, newest: Option<Millis>, grace: Duration) -> Duration {
    let Some(newest) = newest else { return Duration::ZERO };
    match clock.stands_to(newest) {
        Standing::Near => Duration::ZERO,
        Standing::Ahead => {
            tracing::warn!(delay = ?grace, newest, "the clock is ahead of all that is stored by more than an hour: sweeping waits");
            clock.running() + grace
        }
        Standing::Behind => {
            tracing::warn!(newest, "the clock is behind what is stored by more than an hour: is it right?");
            Duration::ZERO
        }
    }
}

pub(super) async fn run(engine: Engine) {
    let shared = &engine.0;
    let _ended = Ended(shared.clone());
    let signals = &shared.sweeper;
    let interval = shared.limits.sweep.interval.as_millis() as Millis;
    let grace = shared.limits.relays.restart_grace;
    let mut jumps = JumpWatch::new(&shared.clock);
    // Index rows up to here have been looked at; what is left of them has no lease that can end.
    let mut swept_to: Millis = 0;
    let mut not_before = shared.spared_until;
    let backup = shared.limits.peers.backup_sweep.as_millis() as Millis;
    let mut next_backup = shared.clock.now().saturating_add(backup);
    loop {
        // Whatever is written while the index is being read wakes this up again.
        signals.wakes_at.store(Millis::MAX, Ordering::Relaxed);
        let Ok(next) = engine.read_store(move |store| store.next_expiry(swept_to)).await else {
            rest(RETRY).await;
            continue;
        };
        let held_done = signals.held_done.load(Ordering::Relaxed);
        let grace_end = if held_done { Millis::MAX } else { shared.boot.grace_end };
        let ceiling = shared.clock.now().saturating_add(interval);
        let target = next.unwrap_or(Millis::MAX).min(grace_end).min(ceiling).min(next_backup);
        signals.wakes_at.store(target, Ordering::Relaxed);
        tokio::select! {
            () = shared.clock.sleep_until_wall(target) => {}
            () = signals.wake.notified() => {
                rest(REST).await;
                continue;
            }
        }
        if jumps.jumped(&shared.clock) {
            tracing::warn!(delay = ?grace, "the wall clock leapt ahead by more than an hour: sweeping waits");
            not_before = shared.clock.running() + grace;
        }
        if shared.clock.running() < not_before {
            shared.clock.sleep_until(not_before).await;
        }
        if shared.clock.is_held() {
            // What has ended by a time that may be wrong stays until the wall clock has come to it.
            shared.clock.sleep(HELD_AGAIN).await;
            continue;
        }
        let now = shared.clock.now();
        let done = if now < next_backup { engine.sweep_expiry().await } else { engine.sweep().await };
        match done {
            Ok(_) => {
                swept_to = now;
                if now >= next_backup {
                    next_backup = now.saturating_add(backup);
                }
                rest(REST).await;
            }
            // The writer has logged why.
            Err(_) => rest(RETRY).await,
        }
    }
}

impl Engine {
    /// Ends everything whose time is up, and tells how many of each kind.
    pub async fn sweep(&self) -> Result<Swept, Unavailable> {
        let mut swept = Swept::default();
        let done = async {
            self.end_expired(&mut swept).await?;
            self.sweep_index(Index::OnDemand, &mut swept).await
        };
        let done = done.await;
        self.0.watched.swept(&swept);
        done.map(|()| swept)
    }

    /// As [`Engine::sweep`], without what requests remove on their way: what the sweeper does between two backup sweeps.
    pub async fn sweep_expiry(&self) -> Result<Swept, Unavailable> {
        let mut swept = Swept::default();
        let done = self.end_expired(&mut swept).await;
        self.0.watched.swept(&swept);
        done.map(|()| swept)
    }

    async fn sweep_index(&self, index: Index, swept: &mut Swept) -> Result<(), Unavailable> {
        let now = self.0.clock.now();
        let most = self.0.limits.sweep.max_batch;
        let mut after: Option<Due> = None;
        loop {
            let from = after.take();
            let batch = self.read_store(move |store| store.due(index, now, from.as_ref(), most)).await?;
            let Some(last) = batch.last().cloned() else { return Ok(()) };
            self.expire(batch, swept).await?;
            after = Some(last);
        }
    }

    async fn end_expired(&self, swept: &mut Swept) -> Result<(), Unavailable> {
        let now = self.0.clock.now();
        let most = self.0.limits.sweep.max_batch;
        self.sweep_index(Index::Expiry, swept).await?;
        let epoch = self.0.epoch.load(Ordering::Relaxed);
        if now >= self.0.boot.grace_end && !self.0.sweeper.held_done.load(Ordering::Relaxed) {
            let mut after: Option<Due> = None;
            loop {
                let from = after.take();
                let batch = self.read_store(move |store| store.held(from.as_ref(), most)).await?;
                let Some(last) = batch.last().cloned() else { break };
                self.expire(batch, swept).await?;
                after = Some(last);
            }
            let boot = self.0.boot.number;
            let shared = self.0.clone();
            // Of two sweeps at once one writes it.
            let written = self.run(Promise::Applied, move |turn| {
                if !shared.sweeper.held_done.swap(true, Ordering::Relaxed) {
                    turn.changes.live_since(boot);
                }
            });
            written.await?;
            // After a storage failure it is looked at once more.
            let lasted = self.0.epoch.load(Ordering::Relaxed) == epoch;
            self.0.sweeper.held_done.store(lasted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One atomic batch.
    async fn expire(&self, batch: Vec<Due>, swept: &mut Swept) -> Result<(), Unavailable> {
        let ended = self.run(Promise::Applied, move |turn| {
            let mut ended = Vec::new();
            for due in &batch {
                if turn.core.registries.expire(due, turn.now, turn.changes) == Expired::Gone {
                    ended.push(due.key.kind());
                    if let Some(id) = due.key.claimed() {
                        turn.end_link(&id);
                    }
                }
            }
            ended
        });
        let ended = ended.await?;
        self.0.metrics.sweeps.inc();
        for kind in ended {
            self.0.metrics.swept.get_or_create(&KindLabel { kind: kind.name() }).inc();
            match kind {
                Kind::Relay => swept.relay += 1,
                Kind::Registration => swept.registration += 1,
                Kind::Peer => swept.peer += 1,
                Kind::TurnSession => swept.turn_session += 1,
                Kind::Server => swept.server += 1,
                Kind::Claim => swept.claim += 1,
                Kind::Chunk => swept.chunk += 1,
            }
        }
        Ok(())
    }

    /// Reads the store outside the writer, on a thread that may block.
    pub(super) async fn read_store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let shared = self.0.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let store = shared.store.read().unwrap_or_else(PoisonError::into_inner);
            read(store.as_ref().ok_or(Unavailable::Storage)?).map_err(|error| {
                tracing::error!(%error, "a read of the store failed");
                Unavailable::Storage
            })
        });
        reading.await.unwrap_or(Err(Unavailable::Stopped))
    }
}
