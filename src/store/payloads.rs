//! Dead drops on their way out: they stay in the store and are read when they are handed out, outside the writer.
//!
//! Owns the pins that keep a payload readable between the writer's answer and the read, even when its registration is
//! removed in between. Must not know why a payload is handed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sled::IVec;

use super::key::LeaseKey;
use super::record::{self, RegistrationRecord};
use super::{Changes, Store, StoreError, guarded};
use crate::id::Kind;

/// One dead drop: a registration and the position of the point in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRef {
    pub sequence: u64,
    pub point: u16,
}

/// Registrations whose payloads somebody is about to read.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<HashMap<u64, Pin>>>);

#[derive(Default)]
struct Pin {
    readers: usize,
    /// The row, once its registration has been removed from the store.
    kept: Option<IVec>,
}

/// Dead drops that stay readable while this lives.
pub struct Pinned {
    pins: Pins,
    drops: Vec<DropRef>,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the writer before the rows of the drain are committed.
    pub fn pin(&self, drops: Vec<DropRef>) -> Pinned {
        let mut pins = self.lock();
        for drop in &drops {
            pins.entry(drop.sequence).or_default().readers += 1;
        }
        std::mem::drop(pins);
        Pinned { pins: self.clone(), drops }
    }

    /// Called by the writer before a commit: keeps the rows that the commit removes and somebody has pinned.
    pub fn keep_removed(&self, changes: &Changes, store: &Store) -> Result<(), StoreError> {
        let mut pins = self.lock();
        if pins.is_empty() {
            return Ok(());
        }
        guarded(|| {
            for sequence in changes.removed_registrations() {
                if let Some(pin) = pins.get_mut(&sequence) {
                    pin.kept = match changes.written_registration(sequence) {
                        Some(row) => Some(row.clone()),
                        None => store.lease_tree(Kind::Registration)?.get(sequence.to_be_bytes())?,
                    };
                }
            }
            Ok(())
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        for drop in &self.drops {
            if let Some(pin) = pins.get_mut(&drop.sequence) {
                pin.readers -= 1;
                if pin.readers == 0 {
                    pins.remove(&drop.sequence);
                }
            }
        }
    }
}

impl Pinned {
    pub fn is_empty(&self) -> bool {
        self.drops.is_empty()
    }

    /// Reads the point's name and payload of each, in order. Blocks on the disk where the row is not cached.
    pub fn read(&self, store: &Store) -> Result<Vec<String>, StoreError> {
        let tree = store.lease_tree(Kind::Registration)?;
        let mut last: Option<(u64, IVec)> = None;
        let mut payloads = Vec::with_capacity(self.drops.len());
        for drop in &self.drops {
            let row = match last.take() {
                Some((sequence, row)) if sequence == drop.sequence => row,
                _ => {
                    // First the store, then what was kept: a row is kept before it is removed.
                    let stored = tree.get(&LeaseKey::registration(drop.sequence).bytes)?;
                    let kept = || self.pins.lock().get(&drop.sequence).and_then(|pin| pin.kept.clone());
                    match stored.or_else(kept) {
                        Some(row) => row,
                        None => return Err(StoreError::Disk(std::io::ErrorKind::NotFound.into())),
                    }
                }
            };
            payloads.push(payload(&row, drop.point)?);
            last = Some((drop.sequence, row));
        }
        Ok(payloads)
    }
}

fn payload(row: &[u8], point: u16) -> Result<String, StoreError> {
    let found = record::decode::<RegistrationRecord>(row).ok().and_then(|(record, _)| {
        let payload = record.points.get(usize::from(point))?.payload?;
        record.payloads.get(usize::from(payload)).map(|text| text.to_string())
    });
    found.ok_or_else(|| StoreError::Disk(std::io::ErrorKind::InvalidData.into()))
}
