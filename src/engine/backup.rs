//! A backup of the running store.
//!
//! Owns its thread: it reads a little, lets go of the store, and waits for whoever takes the file. Must not know how the file
//! looks, nor where it goes.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Engine, Promise, Shared, Unavailable};
use crate::clock::Millis;
use crate::store::{Backup, BackupError, Made};

/// Pieces that may wait to be taken.
const PIECES_AHEAD: usize = 2;
/// The thread rests this many times as long as it has read, so that it leaves the processor and the store to the writer.
const REST: u32 = 2;

/// Why there is no backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBackup {
    #[error("another one is being made")]
    Running,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The file, piece by piece. It is whole only if no error is among them.
pub type Pieces = mpsc::Receiver<Result<Vec<u8>, BackupError>>;

impl Engine {
    /// Begins a backup, which ends early when nobody takes its pieces any more. Everything that was answered before its last
    /// piece was made is in it. `server_key` goes into the file as it is.
    pub async fn backup(&self, server_key: Vec<u8>) -> Result<Pieces, NoBackup> {
        let now = self.0.clock.now();
        // Refused for being the second is no failure of the store.
        let begun = self.read_store(move |store| match store.begin_backup(now, server_key) {
            Ok(backup) => Ok(Some(backup)),
            Err(BackupError::Store(error)) => Err(error),
            Err(_) => Ok(None),
        });
        let backup = begun.await?.ok_or(NoBackup::Running)?;
        let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || run(&shared, backup, now, &pieces));
        Ok(taken)
    }
}

type Sender = mpsc::Sender<Result<Vec<u8>, BackupError>>;

fn run(shared: &Arc<Shared>, backup: Backup, began: Millis, pieces: &Sender) {
    let started = shared.clock.running();
    match make(shared, backup, pieces) {
        Ok(Some(Made { rows, bytes })) => {
            let seconds = shared.clock.running().saturating_sub(started).as_secs_f64();
            shared.metrics.backup_time.set((began / 1000) as i64);
            shared.metrics.backup_bytes.set(bytes as i64);
            shared.metrics.backup_duration.set(seconds);
            tracing::info!(rows, bytes, seconds, "a backup was made");
        }
        Ok(None) => tracing::warn!("nobody takes the backup any more: it is not whole"),
        Err(error) => {
            tracing::error!(%error, "a backup failed");
            // Who has gone does not need to hear of it.
            let _ = pieces.blocking_send(Err(error));
        }
    }
}

/// `None` where nobody takes it any more.
fn make(shared: &Arc<Shared>, mut backup: Backup, pieces: &Sender) -> Result<Option<Made>, BackupError> {
    loop {
        let before = shared.clock.running();
        let piece = with_store(shared, |store| backup.step(store))?;
        let took = shared.clock.running().saturating_sub(before);
        let Some(piece) = piece else { break };
        if pieces.blocking_send(Ok(piece)).is_err() {
            return Ok(None);
        }
        std::thread::sleep((took * REST).min(Duration::from_millis(100)));
    }
    // What memory alone has, loads of relays, is answered as well.
    let written = shared
        .submit(Promise::Applied, |turn| turn.core.registries.relays.write_loads(usize::MAX, turn.changes));
    match written.blocking_recv() {
        Ok(Ok(_)) => {}
        _ => return Err(BackupError::Closed),
    }
    let (piece, made) = with_store(shared, |store| backup.finish(store))?;
    Ok(pieces.blocking_send(Ok(piece)).is_ok().then_some(made))
}

fn with_store<T>(
    shared: &Shared,
    read: impl FnOnce(&crate::store::Store) -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    let store = shared.store.read().unwrap_or_else(PoisonError::into_inner);
    read(store.as_ref().ok_or(BackupError::Closed)?)
}
