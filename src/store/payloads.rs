//! Dead drops on their way out: they stay in the store and are read when they are handed out, outside the writer.
//!
//! Owns the pins that keep a payload readable between the writer's answer and the read, even when its registration is
//! removed in between. Must not know why a payload is handed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::key::LeaseKey;
use super::record::{self, RegistrationRecord};
use super::{Changes, Store, StoreError, guarded};

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
    kept: Option<Vec<u8>>,
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

    fn kept(&self, sequence: u64) -> Option<Vec<u8>> {
        self.lock().get(&sequence)?.kept.clone()
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
                        Some(row) => Some(row),
                        None => store.registration(sequence)?,
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

    /// Reads the payload of each, in order. Blocks on the disk where the rows are not cached.
    pub fn read(&self, store: &Store) -> Result<Vec<String>, StoreError> {
        let mut last: Option<(u64, Vec<u8>)> = None;
        let mut payloads = Vec::with_capacity(self.drops.len());
        for drop in &self.drops {
            let row = match last.take() {
                Some((sequence, row)) if sequence == drop.sequence => row,
                _ => store.registration(drop.sequence)?.unwrap_or_default(),
            };
            // First the store, then what was kept: rows are kept before they are removed. A removal in the midst of
            // reading the parts leaves something that does not decode.
            let (payload, row) = match payload(&row, drop.point) {
                Ok(payload) => (payload, row),
                Err(error) => {
                    let row = self.pins.kept(drop.sequence).ok_or(error)?;
                    (self::payload(&row, drop.point)?, row)
                }
            };
            payloads.push(payload);
            last = Some((drop.sequence, row));
        }
        Ok(payloads)
    }
}

impl Store {
    /// The bytes of a registration's record, all its parts.
    fn registration(&self, sequence: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.raw(&LeaseKey::registration(sequence))?.map(|raw| raw.value().to_vec()))
    }
}

fn payload(row: &[u8], point: u16) -> Result<String, StoreError> {
    let found = record::decode::<RegistrationRecord>(row).ok().and_then(|(record, _)| {
        let payload = record.points.get(usize::from(point))?.payload?;
        record.payloads.get(usize::from(payload)).map(|text| text.to_string())
    });
    found.ok_or_else(|| StoreError::Disk(std::io::ErrorKind::InvalidData.into()))
}
