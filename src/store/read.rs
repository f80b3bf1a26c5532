//! Reading rows back: all of them at start (the fold), the due ones for the sweeper, single ones for inspection.
//!
//! Owns how a lease's rows become one `Row`. A row that does not decode is reported and left alone. Must not know
//! what becomes of the rows.

use std::ops::Bound;

use sled::IVec;

use super::key::{self, HELD, INDEX, LeaseKey, Satellite};
use super::record::{self, Amendment, RegistrationRecord, RelayRecord, Undecodable};
use super::{Store, StoreError, guarded};
use crate::clock::Millis;
use crate::id::{Kind, PeerId};

/// A lease as its rows have it.
#[derive(Clone, Debug, PartialEq)]
pub enum Row<'a> {
    Relay {
        id: PeerId,
        record: RelayRecord,
    },
    Registration {
        sequence: u64,
        record: RegistrationRecord<'a>,
        amendment: Option<Amendment>,
        indexed: Millis,
        /// How many rows the record takes.
        parts: u16,
    },
}

/// What a fold passed over.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    pub rows: usize,
    pub undecodable: Vec<(String, Undecodable)>,
    /// The highest sequence number of a registration, also of one that does not decode: never to be used again.
    pub last_sequence: u64,
}

/// An index row that the sweeper is to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub at: Millis,
    pub key: LeaseKey,
}

/// The raw rows of one lease.
pub(super) struct Raw {
    pub key: LeaseKey,
    pub first: IVec,
    /// All parts together, where there are more than one.
    pub joined: Vec<u8>,
    pub parts: u16,
    pub amendment: Option<IVec>,
}

impl Raw {
    fn new(key: LeaseKey, first: IVec) -> Raw {
        Raw { key, first, joined: Vec::new(), parts: 1, amendment: None }
    }

    fn add_part(&mut self, part: &[u8]) {
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(part);
        self.parts += 1;
    }

    pub fn value(&self) -> &[u8] {
        if self.parts == 1 { &self.first } else { &self.joined }
    }

    pub fn decode(&self) -> Result<Row<'_>, Undecodable> {
        let bad_key = || Undecodable::Codec("the key is malformed".into());
        match self.key.kind() {
            Kind::Relay => {
                let id = self.key.id().ok_or_else(bad_key)?;
                Ok(Row::Relay { id, record: record::decode(self.value())?.0 })
            }
            Kind::Registration => {
                let sequence = self.key.sequence().ok_or_else(bad_key)?;
                let (record, mut indexed) = record::decode::<RegistrationRecord>(self.value())?;
                let mut amendment = None;
                if let Some(bytes) = &self.amendment {
                    let (decoded, at) = record::decode::<Amendment>(bytes)?;
                    (amendment, indexed) = (Some(decoded), at);
                }
                Ok(Row::Registration { sequence, record, amendment, indexed, parts: self.parts })
            }
        }
    }
}

impl Row<'_> {
    /// Where the index has it.
    pub fn indexed(&self) -> Millis {
        match self {
            Row::Relay { .. } => HELD,
            Row::Registration { indexed, .. } => *indexed,
        }
    }

    /// When all of it has ended; `None` where its holder decides.
    pub fn end(&self) -> Option<Millis> {
        match self {
            Row::Relay { .. } => None,
            Row::Registration { record, amendment, .. } => {
                let gone =
                    |pick: fn(&Amendment) -> &Vec<u16>| amendment.as_ref().map_or(0, |lost| pick(lost).len());
                let points = record.points.len() > gone(|lost| &lost.points_gone);
                let tokens = record.tokens.len() > gone(|lost| &lost.tokens_gone);
                points.then_some(record.points_end).max(tokens.then_some(record.tokens_end)).or(Some(0))
            }
        }
    }
}

impl Store {
    /// Shows every lease to `visit`, registrations in the order they were made.
    pub fn fold(&self, mut visit: impl FnMut(Row<'_>)) -> Result<Folded, StoreError> {
        guarded(|| {
            let mut folded = Folded::default();
            for kind in Kind::ALL {
                self.each_raw(kind, &mut |raw| {
                    folded.rows += 1;
                    if kind == Kind::Registration {
                        let sequence = raw.key.sequence().or_else(|| Some(key::satellite(&raw.key.bytes)?.0));
                        folded.last_sequence = folded.last_sequence.max(sequence.unwrap_or(0));
                    }
                    match raw.decode() {
                        Ok(row) => visit(row),
                        Err(error) => {
                            folded.undecodable.push((format!("{}/{}", kind.name(), raw.key.text()), error))
                        }
                    }
                })?;
            }
            Ok(folded)
        })
    }

    /// Every lease of a kind, its rows together; a row without its registration is shown as a lease of its own
    /// key, which does not decode.
    pub(super) fn each_raw(&self, kind: Kind, visit: &mut dyn FnMut(Raw)) -> Result<(), StoreError> {
        let mut last: Option<Raw> = None;
        for row in self.lease_tree(kind)?.iter() {
            let (bytes, value) = row?;
            let satellite = key::satellite(&bytes).filter(|_| kind == Kind::Registration);
            if let Some((sequence, what)) = satellite
                && let Some(raw) = last.as_mut().filter(|raw| raw.key.sequence() == Some(sequence))
            {
                match what {
                    Satellite::Amendment => raw.amendment = Some(value),
                    Satellite::Part => raw.add_part(&value),
                }
                continue;
            }
            last.replace(Raw::new(LeaseKey { kind, bytes }, value)).map(&mut *visit);
        }
        last.map(visit);
        Ok(())
    }

    /// Index rows from `after` on that end at or before `until`; the ones that end with their holder are left out.
    pub fn due(&self, until: Millis, after: Option<&Due>, most: usize) -> Result<Vec<Due>, StoreError> {
        self.index_rows(HELD + 1, until, after, most)
    }

    /// Index rows of what ends with its holder.
    pub fn held(&self, after: Option<&Due>, most: usize) -> Result<Vec<Due>, StoreError> {
        self.index_rows(HELD, HELD, after, most)
    }

    /// When the first lease after `after` may end, those left out that end with their holder.
    pub fn next_expiry(&self, after: Millis) -> Result<Option<Millis>, StoreError> {
        let first = self.index_rows(after.saturating_add(1), Millis::MAX, None, 1)?;
        Ok(first.first().map(|due| due.at))
    }

    fn index_rows(
        &self,
        from: Millis,
        until: Millis,
        after: Option<&Due>,
        most: usize,
    ) -> Result<Vec<Due>, StoreError> {
        let start = match after {
            Some(due) => Bound::Excluded(due.key.index_row(due.at)),
            None => Bound::Included(IVec::from(&from.to_be_bytes())),
        };
        let end = Bound::Excluded(IVec::from(&until.saturating_add(1).to_be_bytes()));
        guarded(|| {
            let mut found = Vec::new();
            for row in self.tree(INDEX)?.range((start, end)).keys() {
                if found.len() == most {
                    break;
                }
                if let Some((at, key)) = key::parse_index_row(&row?) {
                    found.push(Due { at, key });
                }
            }
            Ok(found)
        })
    }

    /// Shows one lease to `show`.
    pub fn inspect<T>(
        &self,
        key: &LeaseKey,
        show: impl FnOnce(Row<'_>) -> T,
    ) -> Result<Option<T>, StoreError> {
        guarded(|| Ok(self.raw(key)?.and_then(|raw| raw.decode().ok().map(show))))
    }

    pub(super) fn raw(&self, key: &LeaseKey) -> Result<Option<Raw>, StoreError> {
        let tree = self.lease_tree(key.kind())?;
        let Some(first) = tree.get(&key.bytes)? else { return Ok(None) };
        let mut raw = Raw::new(key.clone(), first);
        if let Some(sequence) = key.sequence() {
            raw.amendment = tree.get(key::amendment(sequence))?;
            while let Some(part) = tree.get(key::part(sequence, raw.parts))? {
                raw.add_part(&part);
            }
        }
        Ok(Some(raw))
    }

    /// Shows up to `most` leases of a kind whose key starts with `prefix`, from behind `after` on; tells the last key
    /// where there may be more.
    pub fn page(
        &self,
        kind: Kind,
        prefix: &str,
        after: Option<&LeaseKey>,
        most: usize,
        mut show: impl FnMut(&LeaseKey, Row<'_>),
    ) -> Result<Option<LeaseKey>, StoreError> {
        let start = match after {
            // Behind the key and, for a registration, behind its amendment.
            Some(key) => Bound::Excluded(key.sequence().map_or_else(|| key.bytes.clone(), key::amendment)),
            None => Bound::Unbounded,
        };
        guarded(|| {
            let mut shown = 0;
            let mut last = None;
            for bytes in self.lease_tree(kind)?.range::<IVec, _>((start, Bound::Unbounded)).keys() {
                let key = LeaseKey { kind, bytes: bytes? };
                if kind == Kind::Registration && key::satellite(&key.bytes).is_some() {
                    continue;
                }
                if !key.text().starts_with(prefix) {
                    continue;
                }
                if shown == most {
                    return Ok(last);
                }
                if let Some(raw) = self.raw(&key)?
                    && let Ok(row) = raw.decode()
                {
                    show(&key, row);
                    shown += 1;
                    last = Some(key);
                }
            }
            Ok(None)
        })
    }
}
