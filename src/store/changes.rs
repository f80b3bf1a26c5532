//! What a request changes: rows to write and to remove, kept together until they are one transaction.
//!
//! Owns the rule that whoever writes a lease writes its index row in the same batch, and that every lease is named
//! by exactly one index row, at or before its end. Must not know the registries' rules.

use std::ops::Range;

use sled::IVec;

use super::key::{self, HELD, INDEX, LIVE_SINCE, LeaseKey, META, Satellite};
use super::record::{self, Record};
use crate::clock::Millis;
use crate::id::Kind;

/// Bytes of a row; a larger record is written in parts. sled puts a log entry of more than 128 KiB into a
/// file of its own, which a power cut can leave damaged where the log already names it: then nothing can be opened any
/// more. The largest entries are leaves, of up to 20 rows.
pub const PART_BYTES: usize = 4096;

/// Where the expiry index has a lease. The registries keep it beside the lease, so that no request reads the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Indexed(Millis);

impl Indexed {
    /// Ends with its holder.
    pub const HELD: Indexed = Indexed(HELD);

    pub fn at(at: Millis) -> Indexed {
        Indexed(at)
    }

    pub fn millis(self) -> Millis {
        self.0
    }
}

/// Which rows a lease has; the registries keep it beside the lease, so that no request reads the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// How many its record takes.
    pub parts: u16,
    pub amended: bool,
    pub indexed: Indexed,
}

pub(super) struct Row {
    pub tree: &'static str,
    pub key: IVec,
    /// `None` removes.
    pub value: Option<IVec>,
}

/// All rows of one or more requests, in order.
#[derive(Default)]
pub struct Changes {
    pub(super) rows: Vec<Row>,
    /// The earliest row of the index that is swept as leases end, held ones left out.
    pub(super) earliest: Option<Millis>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes another one's rows behind its own.
    pub(super) fn append(&mut self, mut other: Changes) {
        self.rows.append(&mut other.rows);
        self.earliest = self.earliest.into_iter().chain(other.earliest).min();
    }

    /// How many rows this writes or removes.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Each row in order: its tree, its key, and its value; without one it is removed.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &[u8], Option<&[u8]>)> {
        self.rows.iter().map(|row| (row.tree, &*row.key, row.value.as_deref()))
    }

    /// When the earliest lease among these may end.
    pub fn earliest(&self) -> Option<Millis> {
        self.earliest
    }

    /// Writes a lease for the first time; tells in how many parts.
    pub fn put_new<R: Record>(&mut self, key: &LeaseKey, record: &R, end: Indexed) -> u16 {
        self.index(key, end);
        self.write(key, record, end)
    }

    /// Writes a lease again where it is indexed at or before its end: the index stays as it is.
    pub fn put_again<R: Record>(&mut self, key: &LeaseKey, record: &R, indexed: Indexed) {
        self.write(key, record, indexed);
    }

    /// As [`Changes::put_again`], where the index row has to move along.
    pub fn move_to<R: Record>(&mut self, key: &LeaseKey, record: &R, from: Indexed, to: Indexed) {
        self.write(key, record, to);
        self.move_index_row(key, from, to);
    }

    /// As [`Changes::move_to`], for a lease that may have further parts and an amendment, which go. Tells which rows it
    /// has now.
    pub fn replace<R: Record>(&mut self, key: &LeaseKey, record: &R, old: Rows, to: Indexed) -> Rows {
        let parts = self.write(key, record, to);
        self.remove_satellites(key, parts.min(old.parts)..old.parts, old.amended);
        self.move_index_row(key, old.indexed, to);
        Rows { parts, amended: false, indexed: to }
    }

    /// Nothing that was live before this boot counts any more.
    pub fn live_since(&mut self, boot: u64) {
        self.push(META, LIVE_SINCE.into(), Some(IVec::from(&boot.to_be_bytes())));
    }

    /// Removes a lease of one row and its index row.
    pub fn remove(&mut self, key: &LeaseKey, indexed: Indexed) {
        self.push(key::tree_name(key.kind), key.bytes.clone(), None);
        self.unindex(key, indexed);
    }

    /// Removes a lease with all its parts, its amendment if it has one, and its index row.
    pub fn remove_all(&mut self, key: &LeaseKey, rows: Rows) {
        self.remove(key, rows.indexed);
        self.remove_satellites(key, 1..rows.parts, rows.amended);
    }

    fn remove_satellites(&mut self, key: &LeaseKey, parts: Range<u16>, amended: bool) {
        let tree = key::tree_name(key.kind);
        for number in parts {
            self.push(tree, key.part(number), None);
        }
        if amended {
            self.push(tree, key.amendment(), None);
        }
    }

    /// Writes what has changed since a lease was written; where its next end has moved, its index row moves along.
    pub fn amend<R: Record>(&mut self, key: &LeaseKey, amendment: &R, from: Indexed, to: Indexed) {
        let value = record::encode(amendment, to.0);
        self.push(key::tree_name(key.kind), key.amendment(), Some(value.into()));
        self.move_index_row(key, from, to);
    }

    fn move_index_row(&mut self, key: &LeaseKey, from: Indexed, to: Indexed) {
        if from != to {
            self.unindex(key, from);
            self.index(key, to);
        }
    }

    /// A record may be larger than what sled keeps in its log: then it is written in parts.
    fn write<R: Record>(&mut self, key: &LeaseKey, record: &R, indexed: Indexed) -> u16 {
        let value = record::encode(record, indexed.0);
        let tree = key::tree_name(key.kind);
        if value.len() <= PART_BYTES {
            self.push(tree, key.bytes.clone(), Some(value.into()));
            return 1;
        }
        let mut parts = 0;
        for part in value.chunks(PART_BYTES) {
            let key = if parts == 0 { key.bytes.clone() } else { key.part(parts) };
            self.push(tree, key, Some(part.into()));
            parts += 1;
        }
        parts
    }

    fn index(&mut self, key: &LeaseKey, at: Indexed) {
        let index = key::index_name(key.kind);
        if at.0 != HELD && index == INDEX {
            self.earliest = Some(self.earliest.map_or(at.0, |earliest| earliest.min(at.0)));
        }
        self.push(index, key.index_row(at.0), Some(IVec::default()));
    }

    fn unindex(&mut self, key: &LeaseKey, at: Indexed) {
        self.push(key::index_name(key.kind), key.index_row(at.0), None);
    }

    fn push(&mut self, tree: &'static str, key: IVec, value: Option<IVec>) {
        self.rows.push(Row { tree, key, value });
    }

    /// The registrations whose records these write or remove.
    pub(super) fn touched_registrations(&self) -> impl Iterator<Item = u64> {
        let keys = self.registration_rows().map(|row| &row.key);
        keys.filter_map(|key| key.as_ref().try_into().ok().map(u64::from_be_bytes))
    }

    /// Every record that these write under the key of a registration, all the parts of each, in order.
    pub(super) fn written_registrations(&self, sequence: u64) -> Vec<Vec<u8>> {
        let sequence = sequence.to_be_bytes();
        let mut records: Vec<Vec<u8>> = Vec::new();
        for Row { key, value, .. } in self.registration_rows() {
            let Some(value) = value else { continue };
            if *key == sequence {
                records.push(value.to_vec());
            } else if key::satellite(Kind::Registration, key) == Some((&sequence[..], Satellite::Part))
                && let Some(record) = records.last_mut()
            {
                record.extend_from_slice(value);
            }
        }
        records
    }

    fn registration_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.tree == key::tree_name(Kind::Registration))
    }
}
