//! Trees and keys: built and taken apart here and nowhere else.
//!
//! Owns the names of the trees and the byte layout of every key. Must not know what the records say.

use sled::IVec;

use crate::clock::Millis;
use crate::id::{Kind, PeerId};

/// The expiry index: `end (u64, big-endian milliseconds) · kind (u8) · key`, with empty values.
pub(super) const INDEX: &str = "index.expiry";
/// Schema, boot number, the earliest boot that counts.
pub(super) const META: &str = "meta";
pub(super) const SCHEMA: &str = "schema";
pub(super) const BOOT: &str = "boot";
pub(super) const LIVE_SINCE: &str = "live_since";

/// Where the index has what ends with its holder rather than at a time.
pub const HELD: Millis = 0;

/// What follows a registration's key in the key of its amendment.
const AMENDMENT: u8 = 1;
/// What follows it in the keys of its further parts, before their number (u16, big-endian).
const PART: u8 = 2;

/// A row that belongs to a registration beside its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Satellite {
    Amendment,
    Part,
}

/// The tree of a kind.
pub(super) const fn tree_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Relay => "lease.relay",
        Kind::Registration => "lease.registration",
    }
}

/// Names one lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    pub(super) kind: Kind,
    pub(super) bytes: IVec,
}

impl LeaseKey {
    pub fn relay(id: &PeerId) -> LeaseKey {
        LeaseKey { kind: Kind::Relay, bytes: id.as_str().as_bytes().into() }
    }

    pub fn registration(sequence: u64) -> LeaseKey {
        LeaseKey { kind: Kind::Registration, bytes: IVec::from(&sequence.to_be_bytes()) }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The peer id, for kinds keyed by one.
    pub fn id(&self) -> Option<PeerId> {
        match self.kind {
            Kind::Relay => std::str::from_utf8(&self.bytes).ok().and_then(PeerId::parse),
            Kind::Registration => None,
        }
    }

    /// The sequence number, for registrations.
    pub fn sequence(&self) -> Option<u64> {
        match self.kind {
            Kind::Registration => self.bytes.as_ref().try_into().ok().map(u64::from_be_bytes),
            Kind::Relay => None,
        }
    }

    /// As the admin endpoint and the log write it.
    pub fn text(&self) -> String {
        match self.kind {
            Kind::Relay => String::from_utf8_lossy(&self.bytes).into_owned(),
            Kind::Registration => {
                self.sequence().map_or_else(|| hex(&self.bytes), |number| number.to_string())
            }
        }
    }

    /// The reverse of [`LeaseKey::text`]; `None` where the text names no possible key.
    pub fn parse(kind: Kind, text: &str) -> Option<LeaseKey> {
        match kind {
            Kind::Relay => PeerId::parse(text).map(|id| LeaseKey::relay(&id)),
            Kind::Registration => text.parse().ok().map(LeaseKey::registration),
        }
    }

    pub(super) fn index_row(&self, at: Millis) -> IVec {
        let mut row = Vec::with_capacity(9 + self.bytes.len());
        row.extend_from_slice(&at.to_be_bytes());
        row.push(self.kind.number());
        row.extend_from_slice(&self.bytes);
        row.into()
    }
}

/// The key of a registration's amendment: it sorts right behind the registration's own.
pub(super) fn amendment(sequence: u64) -> IVec {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&sequence.to_be_bytes());
    key[8] = AMENDMENT;
    IVec::from(&key)
}

/// The key of a registration's `number`-th further part, from 1 on: they sort behind its amendment, in order.
pub(super) fn part(sequence: u64, number: u16) -> IVec {
    let mut key = [0; 11];
    key[..8].copy_from_slice(&sequence.to_be_bytes());
    key[8] = PART;
    key[9..].copy_from_slice(&number.to_be_bytes());
    IVec::from(&key)
}

/// The registration that a row belongs to, and as what; `None` for its first row.
pub(super) fn satellite(key: &[u8]) -> Option<(u64, Satellite)> {
    let (sequence, rest) = key.split_first_chunk::<8>()?;
    let what = match rest {
        [AMENDMENT] => Satellite::Amendment,
        [PART, _, _] => Satellite::Part,
        _ => return None,
    };
    Some((u64::from_be_bytes(*sequence), what))
}

/// Takes an index row apart.
pub(super) fn parse_index_row(row: &[u8]) -> Option<(Millis, LeaseKey)> {
    let (at, rest) = row.split_first_chunk::<8>()?;
    let (kind, key) = rest.split_first()?;
    let kind = Kind::from_number(*kind)?;
    Some((u64::from_be_bytes(*at), LeaseKey { kind, bytes: key.into() }))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_rows_sort_by_time_and_come_apart_again() {
        let alice = LeaseKey::relay(&PeerId::parse("alice").unwrap());
        let seventh = LeaseKey::registration(7);
        let rows =
            [alice.index_row(HELD), seventh.index_row(255), seventh.index_row(256), alice.index_row(1 << 40)];
        assert!(rows.is_sorted());
        assert_eq!(parse_index_row(&rows[0]), Some((HELD, alice)));
        assert_eq!(parse_index_row(&rows[2]), Some((256, seventh)));
        for cut in [&[][..], &[0; 8], &[0, 0, 0, 0, 0, 0, 0, 0, 99]] {
            assert_eq!(parse_index_row(cut), None);
        }
    }

    #[test]
    fn what_belongs_to_a_registration_sorts_between_it_and_the_next() {
        let (this, next) = (LeaseKey::registration(7), LeaseKey::registration(8));
        assert!([&this.bytes, &amendment(7), &part(7, 1), &part(7, 256), &next.bytes].is_sorted());
        assert_eq!(satellite(&amendment(7)), Some((7, Satellite::Amendment)));
        assert_eq!(satellite(&part(7, 300)), Some((7, Satellite::Part)));
        assert_eq!(satellite(&this.bytes), None);
    }

    #[test]
    fn keys_travel_as_text() {
        for key in [LeaseKey::relay(&PeerId::parse("a_b-C").unwrap()), LeaseKey::registration(u64::MAX)] {
            assert_eq!(LeaseKey::parse(key.kind(), &key.text()), Some(key));
        }
        assert_eq!(LeaseKey::parse(Kind::Registration, "x"), None);
    }
}
