//! What a request changes: rows to write and to remove, kept together until they are one transaction.
//!
//! Owns the rule that whoever writes a lease writes its index row in the same batch, and that every lease is named
//! by exactly one index row, at or before its end. Must not know the registries' rules.

use sled::IVec;

use super::key::{self, HELD, INDEX, LIVE_SINCE, LeaseKey, META};
use super::record::{self, Amendment, Record};
use crate::clock::Millis;
use crate::id::Kind;

/// Where the expiry index has a lease. The registries keep it beside the lease, so that no request reads the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The earliest index row among them, held ones left out.
    pub(super) earliest: Option<Millis>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows this writes or removes.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// When the earliest lease among these may end.
    pub fn earliest(&self) -> Option<Millis> {
        self.earliest
    }

    /// Writes a lease for the first time.
    pub fn put_new<R: Record>(&mut self, key: &LeaseKey, record: &R, end: Indexed) {
        self.write(key, record, end);
        self.index(key, end);
    }

    /// Writes a lease again where it is indexed at or before its end: the index stays as it is.
    pub fn put_again<R: Record>(&mut self, key: &LeaseKey, record: &R, indexed: Indexed) {
        self.write(key, record, indexed);
    }

    /// Nothing that was live before this boot counts any more.
    pub fn live_since(&mut self, boot: u64) {
        self.push(META, LIVE_SINCE.into(), Some(IVec::from(&boot.to_be_bytes())));
    }

    /// Removes a lease and its index row.
    pub fn remove(&mut self, key: &LeaseKey, indexed: Indexed) {
        self.push(key::tree_name(key.kind), key.bytes.clone(), None);
        self.unindex(key, indexed);
    }

    /// Removes a registration, its amendment if it has one, and its index row.
    pub fn remove_registration(&mut self, sequence: u64, amended: bool, indexed: Indexed) {
        self.remove(&LeaseKey::registration(sequence), indexed);
        if amended {
            self.push(key::tree_name(Kind::Registration), key::amendment(sequence), None);
        }
    }

    /// Writes what a registration has lost; where its next end has moved, its index row moves along.
    pub fn amend(&mut self, sequence: u64, amendment: &Amendment, from: Indexed, to: Indexed) {
        let value = record::encode(amendment, to.0);
        self.push(key::tree_name(Kind::Registration), key::amendment(sequence), Some(value.into()));
        if from != to {
            let key = LeaseKey::registration(sequence);
            self.unindex(&key, from);
            self.index(&key, to);
        }
    }

    fn write<R: Record>(&mut self, key: &LeaseKey, record: &R, indexed: Indexed) {
        let value = record::encode(record, indexed.0);
        self.push(key::tree_name(key.kind), key.bytes.clone(), Some(value.into()));
    }

    fn index(&mut self, key: &LeaseKey, at: Indexed) {
        if at.0 != HELD {
            self.earliest = Some(self.earliest.map_or(at.0, |earliest| earliest.min(at.0)));
        }
        self.push(INDEX, key.index_row(at.0), Some(IVec::default()));
    }

    fn unindex(&mut self, key: &LeaseKey, at: Indexed) {
        self.push(INDEX, key.index_row(at.0), None);
    }

    fn push(&mut self, tree: &'static str, key: IVec, value: Option<IVec>) {
        self.rows.push(Row { tree, key, value });
    }

    /// The registrations removed by these.
    pub(super) fn removed_registrations(&self) -> impl Iterator<Item = u64> {
        let removed = self.registration_rows().filter(|row| row.value.is_none());
        removed.filter_map(|row| row.key.as_ref().try_into().ok().map(u64::from_be_bytes))
    }

    /// A registration's record, where these write it.
    pub(super) fn written_registration(&self, sequence: u64) -> Option<&IVec> {
        let key = sequence.to_be_bytes();
        self.registration_rows().filter(|row| row.key == key).find_map(|row| row.value.as_ref())
    }

    fn registration_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.tree == key::tree_name(Kind::Registration))
    }
}
