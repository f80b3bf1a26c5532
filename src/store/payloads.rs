//! Dead drops on their way out: they stay in the store and are read when they are handed out, outside the writer.
//!
//! Owns the pins that keep a payload readable between the writer's answer and the read, even when its registration is
//! removed or overwritten in between. Must not know why a payload is handed out.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::key::LeaseKey;
use super::record;
use super::{Changes, Store, StoreError, guarded};

/// One dead drop: a registration and the position of the point in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRef {
    pub sequence: u64,
    /// The key may have been another registration's before, and may be one's again: this tells which is meant.
    pub order: u64,
    pub point: u16,
}

/// Registrations whose payloads somebody is about to read, by their order.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<HashMap<u64, Pin>>>);

struct Pin {
    sequence: u64,
    readers: usize,
    /// The row, once its registration is not in the store any more.
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
            let pin = Pin { sequence: drop.sequence, readers: 0, kept: None };
            pins.entry(drop.order).or_insert(pin).readers += 1;
        }
        std::mem::drop(pins);
        Pinned { pins: self.clone(), drops }
    }

    fn kept(&self, order: u64) -> Option<Vec<u8>> {
        self.lock().get(&order)?.kept.clone()
    }

    /// Called by the writer before a commit: keeps the rows that the commit removes or overwrites and somebody has pinned.
    pub fn keep_removed(&self, changes: &Changes, store: &Store) -> Result<(), StoreError> {
        let mut pins = self.lock();
        if pins.is_empty() {
            return Ok(());
        }
        guarded(|| {
            let touched: HashSet<u64> = changes.touched_registrations().collect();
            for (order, pin) in pins.iter_mut() {
                if pin.kept.is_none() && touched.contains(&pin.sequence) {
                    let written = changes.written_registrations(pin.sequence).into_iter();
                    let mut all = written.chain(store.registration(pin.sequence)?);
                    pin.kept = all.find(|row| is_of(row, pin.sequence, *order));
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
            if let Some(pin) = pins.get_mut(&drop.order) {
                pin.readers -= 1;
                if pin.readers == 0 {
                    pins.remove(&drop.order);
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
        let mut last: Option<(DropRef, Vec<u8>)> = None;
        let mut payloads = Vec::with_capacity(self.drops.len());
        for drop in &self.drops {
            let row = match last.take() {
                Some((before, row)) if before.order == drop.order => row,
                _ => store.registration(drop.sequence)?.unwrap_or_default(),
            };
            // First the store, then what was kept: rows are kept before they go. A change in the midst of reading the
            // parts leaves something that does not decode.
            let (payload, row) = match payload(&row, drop) {
                Ok(payload) => (payload, row),
                Err(error) => {
                    let row = self.pins.kept(drop.order).ok_or(error)?;
                    (self::payload(&row, drop)?, row)
                }
            };
            payloads.push(payload);
            last = Some((*drop, row));
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

fn is_of(row: &[u8], sequence: u64, order: u64) -> bool {
    record::decode_registration(sequence, row).is_ok_and(|(record, _)| record.order == order)
}

fn payload(row: &[u8], drop: &DropRef) -> Result<String, StoreError> {
    let record = record::decode_registration(drop.sequence, row).ok().map(|(record, _)| record);
    let found = record.filter(|record| record.order == drop.order).and_then(|record| {
        let payload = record.points.get(usize::from(drop.point))?.payload?;
        record.payloads.get(usize::from(payload)).map(|text| text.to_string())
    });
    found.ok_or_else(|| StoreError::Disk(std::io::ErrorKind::InvalidData.into()))
}
