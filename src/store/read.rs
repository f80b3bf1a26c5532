//! Reading rows back: the due ones for the sweeper, single ones for inspection.
//!
//! Owns how a lease's rows become one `Row`. A row that does not decode is reported and left alone. Must not know
//! what becomes of the rows.

use std::ops::Bound;

use sled::IVec;

use super::changes::{Indexed, Rows};
use super::key::{self, HELD, INDEX, LeaseKey, MOST_GENERATION, MOST_SEQUENCE, ON_DEMAND};
use super::record::{
    self, Amendment, ChunkRecord, ClaimRecord, PeerRecord, Record, RegistrationRecord, RelayRecord, Seen,
    ServerRecord, TurnSessionRecord, Undecodable,
};
use super::{Store, StoreError, guarded};
use crate::clock::Millis;
use crate::id::{ChunkKey, ChunkName, Kind, LinkId, NodeId, PeerId, ServerId, SessionId};

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
    Peer {
        id: NodeId,
        record: PeerRecord,
        /// What its heartbeats have written since.
        seen: Option<Seen>,
        rows: Rows,
    },
    TurnSession {
        id: SessionId,
        record: TurnSessionRecord,
    },
    Server {
        id: ServerId,
        record: ServerRecord,
        indexed: Millis,
    },
    Claim {
        id: LinkId,
        record: ClaimRecord,
    },
    Chunk {
        key: ChunkKey,
        record: ChunkRecord<'a>,
        rows: Rows,
    },
}

/// Which leases a sweep looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Those that are swept as they end.
    Expiry,
    /// Those that requests remove on their way.
    OnDemand,
}

impl Index {
    fn tree(self) -> &'static str {
        match self {
            Index::Expiry => INDEX,
            Index::OnDemand => ON_DEMAND,
        }
    }
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
    pub fn new(key: LeaseKey, first: IVec) -> Raw {
        Raw { key, first, joined: Vec::new(), parts: 1, amendment: None }
    }

    pub fn add_part(&mut self, part: &[u8]) {
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(part);
        self.parts += 1;
    }

    /// The keys of its rows.
    pub fn keys(&self) -> Vec<IVec> {
        let amendment = self.amendment.iter().map(|_| self.key.amendment());
        let parts = (1..self.parts).map(|number| self.key.part(number));
        std::iter::once(self.key.bytes.clone()).chain(amendment).chain(parts).collect()
    }

    pub fn value(&self) -> &[u8] {
        if self.parts == 1 { &self.first } else { &self.joined }
    }

    pub fn decode(&self) -> Result<Row<'_>, Undecodable> {
        match self.key.kind() {
            Kind::Relay => {
                let id = self.id(PeerId::parse)?;
                Ok(Row::Relay { id, record: record::decode(self.value())?.0 })
            }
            Kind::Registration => {
                let sequence = self.key.sequence().ok_or_else(bad_key)?;
                let (record, indexed) = record::decode_registration(sequence, self.value())?;
                let (amendment, indexed) = self.amendment(indexed)?;
                // Memory counts a registration's points and tokens in 16 bits.
                let named = record.points.len() + record.tokens.len();
                if record.order > MOST_SEQUENCE || u16::try_from(named).is_err() {
                    return Err(out_of_range());
                }
                Ok(Row::Registration { sequence, record, amendment, indexed, parts: self.parts })
            }
            Kind::Peer => {
                let id = self.id(NodeId::parse)?;
                let (record, seen, indexed) = self.amended()?;
                let indexed = Indexed::at(indexed);
                let rows = Rows { parts: self.parts, amended: seen.is_some(), indexed };
                Ok(Row::Peer { id, record, seen, rows })
            }
            Kind::TurnSession => {
                let id = self.id(SessionId::parse)?;
                Ok(Row::TurnSession { id, record: record::decode(self.value())?.0 })
            }
            Kind::Server => {
                let id = self.id(ServerId::parse)?;
                let (record, indexed) = record::decode(self.value())?;
                Ok(Row::Server { id, record, indexed })
            }
            Kind::Claim => {
                let id = self.id(LinkId::parse)?;
                let record: ClaimRecord = record::decode(self.value())?.0;
                if record.generation > MOST_GENERATION {
                    return Err(out_of_range());
                }
                Ok(Row::Claim { id, record })
            }
            Kind::Chunk => {
                let key = self.id(ChunkKey::parse)?;
                let (record, indexed): (ChunkRecord<'_>, _) = record::decode(self.value())?;
                // Whoever asks for the names in the record asks for their key: under another one it is nobody's.
                let name = ChunkName::parse(&record.channel, &record.chunk);
                if name.is_none_or(|name| name.key() != key) || PeerId::parse(&record.owner).is_none() {
                    return Err(bad_key());
                }
                let rows = Rows { parts: self.parts, amended: false, indexed: Indexed::at(indexed) };
                Ok(Row::Chunk { key, record, rows })
            }
        }
    }

    fn id<T>(&self, parse: fn(&str) -> Option<T>) -> Result<T, Undecodable> {
        self.key.name().and_then(parse).ok_or_else(bad_key)
    }

    /// The record, its amendment, and where the index has it: the amendment knows best.
    fn amended<'a, R, A>(&'a self) -> Result<(R, Option<A>, Millis), Undecodable>
    where
        R: Record + serde::Deserialize<'a>,
        A: Record + serde::Deserialize<'a>,
    {
        let (record, indexed) = record::decode(self.value())?;
        let (amendment, indexed) = self.amendment(indexed)?;
        Ok((record, amendment, indexed))
    }

    fn amendment<'a, A: Record + serde::Deserialize<'a>>(
        &'a self,
        indexed: Millis,
    ) -> Result<(Option<A>, Millis), Undecodable> {
        let Some(bytes) = &self.amendment else { return Ok((None, indexed)) };
        let (amendment, indexed) = record::decode(bytes)?;
        Ok((Some(amendment), indexed))
    }
}

fn bad_key() -> Undecodable {
    Undecodable::Codec("the key is malformed".into())
}

fn out_of_range() -> Undecodable {
    Undecodable::Codec("a number is out of range".into())
}

impl Row<'_> {
    /// Where the index has it.
    pub fn indexed(&self) -> Millis {
        match self {
            Row::Relay { .. } => HELD,
            Row::Registration { indexed, .. } | Row::Server { indexed, .. } => *indexed,
            Row::Peer { rows, .. } | Row::Chunk { rows, .. } => rows.indexed.millis(),
            Row::TurnSession { record, .. } => record.end,
            Row::Claim { record, .. } => record.until.unwrap_or(HELD),
        }
    }

    /// The latest time that it tells of as past.
    pub fn told_at(&self) -> Option<Millis> {
        match self {
            Row::Relay { record, .. } => Some(record.registered_at),
            Row::Registration { record, .. } => Some(record.registered_at),
            Row::Peer { record, seen, .. } => Some(seen.unwrap_or(record.seen).last_seen),
            Row::Server { record, .. } => Some(record.seen.last_seen),
            Row::TurnSession { .. } | Row::Claim { .. } | Row::Chunk { .. } => None,
        }
    }

    /// When all of it has ended; `None` where its holder decides.
    pub fn end(&self) -> Option<Millis> {
        match self {
            Row::Relay { .. } => None,
            Row::Peer { record, seen, .. } => Some(seen.unwrap_or(record.seen).end),
            Row::TurnSession { record, .. } => Some(record.end),
            Row::Server { record, .. } => Some(record.seen.end),
            Row::Claim { record, .. } => record.until,
            Row::Chunk { record, .. } => Some(record.end),
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
    /// Rows of an index from `after` on that end at or before `until`; the ones that end with their holder are left out.
    pub fn due(
        &self,
        index: Index,
        until: Millis,
        after: Option<&Due>,
        most: usize,
    ) -> Result<Vec<Due>, StoreError> {
        self.index_rows(index, HELD + 1, until, after, most)
    }

    /// Index rows of what ends with its holder.
    pub fn held(&self, after: Option<&Due>, most: usize) -> Result<Vec<Due>, StoreError> {
        self.index_rows(Index::Expiry, HELD, HELD, after, most)
    }

    /// When the first lease after `after` may end, those left out that end with their holder or are removed on demand.
    pub fn next_expiry(&self, after: Millis) -> Result<Option<Millis>, StoreError> {
        let first = self.index_rows(Index::Expiry, after.saturating_add(1), Millis::MAX, None, 1)?;
        Ok(first.first().map(|due| due.at))
    }

    fn index_rows(
        &self,
        index: Index,
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
            for row in self.tree(index.tree())?.range((start, end)).keys() {
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
        if matches!(key.kind(), Kind::Registration | Kind::Peer | Kind::Chunk) {
            raw.amendment = tree.get(key.amendment())?;
            while let Some(part) = tree.get(key.part(raw.parts))? {
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
            // Behind the key and its amendment.
            Some(key) => Bound::Excluded(key.amendment()),
            None => Bound::Unbounded,
        };
        guarded(|| {
            let mut shown = 0;
            let mut last = None;
            for bytes in self.lease_tree(kind)?.range::<IVec, _>((start, Bound::Unbounded)).keys() {
                let key = LeaseKey { kind, bytes: bytes? };
                if key::satellite(kind, &key.bytes).is_some() {
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
