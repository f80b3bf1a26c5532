//! The fold: every lease read back, at start and after a failure.
//!
//! Owns how reading and taking what was read go on at once, and what is passed over. Must not know what becomes of the
//! rows.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, scope};

use sled::IVec;

use super::key::{self, LeaseKey, Satellite};
use super::read::{Raw, Row};
use super::record::Undecodable;
use super::{Store, StoreError, guarded};
use crate::clock::Millis;
use crate::id::Kind;

/// Leases that the reading thread hands over at once, and how many such batches may wait.
const BATCH: usize = 256;
const BATCHES_AHEAD: usize = 16;

/// What a fold passed over.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    pub rows: usize,
    pub undecodable: Vec<(String, Undecodable)>,
    /// The highest sequence number of a registration, also of one that does not decode: never to be used again.
    pub last_sequence: u64,
    /// The latest time that a row tells of as past.
    pub newest: Option<Millis>,
}

impl Folded {
    fn take(&mut self, raw: &Raw, visit: &mut impl FnMut(Row<'_>)) {
        self.rows += 1;
        let kind = raw.key.kind();
        if kind == Kind::Registration {
            let number = raw.key.bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            // One that is larger is never come to.
            if number <= key::MOST_SEQUENCE {
                self.last_sequence = self.last_sequence.max(number);
            }
        }
        match raw.decode() {
            Ok(row) => {
                self.newest = self.newest.max(row.told_at());
                visit(row);
            }
            Err(error) => self.undecodable.push((format!("{}/{}", kind.name(), raw.key.text()), error)),
        }
    }
}

impl Store {
    /// Shows every lease to `visit`, registrations mostly in the order they were made. Another thread reads ahead.
    pub fn fold(&self, mut visit: impl FnMut(Row<'_>)) -> Result<Folded, StoreError> {
        scope(|threads| {
            let (to_visitor, batches) = sync_channel(BATCHES_AHEAD);
            let reader = Builder::new().name("waypost-reader".to_owned());
            let reader = reader.spawn_scoped(threads, || guarded(move || self.read_ahead(&to_visitor)))?;
            let folded = guarded(move || {
                let mut folded = Folded::default();
                batches.iter().flatten().for_each(|raw| folded.take(&raw, &mut visit));
                Ok(folded)
            });
            reader.join().expect("a panic is caught within the thread")?;
            folded
        })
    }

    fn read_ahead(&self, to_visitor: &SyncSender<Vec<Raw>>) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH);
        // Nobody takes it any more where the visitor has panicked, which then is what the fold tells.
        let hand_over = |batch: &mut Vec<Raw>| {
            let _ = to_visitor.send(std::mem::replace(batch, Vec::with_capacity(BATCH)));
        };
        for kind in Kind::ALL {
            self.each_raw(kind, &mut |raw| {
                batch.push(raw);
                if batch.len() == BATCH {
                    hand_over(&mut batch);
                }
            })?;
        }
        hand_over(&mut batch);
        Ok(())
    }

    /// Every lease of a kind, its rows together; a row without its lease's first one is shown as a lease of its own
    /// key, which does not decode.
    pub(super) fn each_raw(&self, kind: Kind, visit: &mut dyn FnMut(Raw)) -> Result<(), StoreError> {
        let mut rows = Together { kind, last: None };
        for row in self.lease_tree(kind)?.iter() {
            let (bytes, value) = row?;
            rows.take(bytes, value).map(&mut *visit);
        }
        rows.last.map(visit);
        Ok(())
    }
}

/// Puts the rows of one lease together, which follow each other in its tree.
pub(super) struct Together {
    pub kind: Kind,
    /// The lease whose rows these are so far.
    pub last: Option<Raw>,
}

impl Together {
    /// Takes the next row; tells the lease before where this is one's first.
    pub fn take(&mut self, bytes: IVec, value: IVec) -> Option<Raw> {
        if let Some((owner, what)) = key::satellite(self.kind, &bytes)
            && let Some(raw) = self.last.as_mut().filter(|raw| raw.key.bytes == owner)
        {
            match what {
                Satellite::Amendment => raw.amendment = Some(value),
                Satellite::Part => raw.add_part(&value),
            }
            return None;
        }
        self.last.replace(Raw::new(LeaseKey { kind: self.kind, bytes }, value))
    }
}
