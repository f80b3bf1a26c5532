//! Trees and keys: built and taken apart here and nowhere else.
//!
//! Owns the names of the trees and the byte layout of every key. Must not know what the records say.

use sled::IVec;

use crate::clock::Millis;
use crate::id::{ChunkKey, Kind, LinkId, NodeId, PeerId, ServerId, SessionId};

/// The expiry indexes: `end (u64, big-endian milliseconds) · kind (u8) · key`, with empty values. The first is swept as
/// leases end; the second has what requests remove on their way, and is swept for what they have left.
pub(super) const INDEX: &str = "index.expiry";
pub(super) const ON_DEMAND: &str = "index.on_demand";
/// Schema, boot number, the earliest boot that counts.
pub(super) const META: &str = "meta";
pub(super) const SCHEMA: &str = "schema";
pub(super) const BOOT: &str = "boot";
pub(super) const LIVE_SINCE: &str = "live_since";

/// Numbers of registrations and generations of claims that a row may have: as many again are left to be given. Memory has
/// 48 bits for the first, and one that is larger has been damaged.
pub(super) const MOST_SEQUENCE: u64 = (1 << 47) - 1;
pub(super) const MOST_GENERATION: u64 = u64::MAX / 2;

/// Where the index has what ends with its holder rather than at a time.
pub const HELD: Millis = 0;

/// What follows a lease's key in the key of its amendment.
const AMENDMENT: u8 = 1;
/// What follows it in the keys of its further parts, before their number (u16, big-endian).
const PART: u8 = 2;
/// Names have no bytes below this one, so that what follows a name in a key can be told from it.
const FIRST_OF_NAMES: u8 = b' ';

/// A row that belongs to a lease beside its first one.
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
        Kind::Peer => "lease.peer",
        Kind::TurnSession => "lease.turn_session",
        Kind::Server => "lease.server",
        Kind::Claim => "lease.claim",
        Kind::Chunk => "lease.chunk",
    }
}

/// The index that names the leases of a kind.
pub(super) const fn index_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Relay | Kind::Registration | Kind::TurnSession | Kind::Claim | Kind::Chunk => INDEX,
        Kind::Peer | Kind::Server => ON_DEMAND,
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
        LeaseKey::named(Kind::Relay, id.as_str())
    }

    pub fn registration(sequence: u64) -> LeaseKey {
        LeaseKey { kind: Kind::Registration, bytes: IVec::from(&sequence.to_be_bytes()) }
    }

    pub fn peer(id: &NodeId) -> LeaseKey {
        LeaseKey::named(Kind::Peer, id.as_str())
    }

    pub fn turn_session(id: &SessionId) -> LeaseKey {
        LeaseKey::named(Kind::TurnSession, id.as_str())
    }

    pub fn server(id: &ServerId) -> LeaseKey {
        LeaseKey::named(Kind::Server, id.as_str())
    }

    pub fn claim(id: &LinkId) -> LeaseKey {
        LeaseKey::named(Kind::Claim, id.as_str())
    }

    /// As text, so that these names, too, have no bytes that may follow a name.
    pub fn chunk(key: &ChunkKey) -> LeaseKey {
        LeaseKey::named(Kind::Chunk, &key.text())
    }

    fn named(kind: Kind, name: &str) -> LeaseKey {
        LeaseKey { kind, bytes: name.as_bytes().into() }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name, for kinds that are keyed by one: all but registrations.
    pub fn name(&self) -> Option<&str> {
        if self.kind == Kind::Registration { None } else { std::str::from_utf8(&self.bytes).ok() }
    }

    /// The server-id, for claims.
    pub fn claimed(&self) -> Option<LinkId> {
        if self.kind == Kind::Claim { self.name().and_then(LinkId::parse) } else { None }
    }

    /// The sequence number, for registrations.
    pub fn sequence(&self) -> Option<u64> {
        let number = || self.bytes.as_ref().try_into().ok().map(u64::from_be_bytes);
        if self.kind == Kind::Registration {
            number().filter(|number| *number <= MOST_SEQUENCE)
        } else {
            None
        }
    }

    /// As the admin endpoint and the log write it.
    pub fn text(&self) -> String {
        match self.kind {
            Kind::Registration => {
                self.sequence().map_or_else(|| hex(&self.bytes), |number| number.to_string())
            }
            _ => String::from_utf8_lossy(&self.bytes).into_owned(),
        }
    }

    /// The reverse of [`LeaseKey::text`]; `None` where the text names no possible key.
    pub fn parse(kind: Kind, text: &str) -> Option<LeaseKey> {
        match kind {
            Kind::Relay => PeerId::parse(text).map(|id| LeaseKey::relay(&id)),
            Kind::Registration => {
                let number = text.parse().ok().filter(|number| *number <= MOST_SEQUENCE);
                number.map(LeaseKey::registration)
            }
            Kind::Peer => NodeId::parse(text).map(|id| LeaseKey::peer(&id)),
            Kind::TurnSession => SessionId::parse(text).map(|id| LeaseKey::turn_session(&id)),
            Kind::Server => ServerId::parse(text).map(|id| LeaseKey::server(&id)),
            Kind::Claim => LinkId::parse(text).map(|id| LeaseKey::claim(&id)),
            Kind::Chunk => ChunkKey::parse(text).map(|key| LeaseKey::chunk(&key)),
        }
    }

    /// The key of what has changed since the lease was written: it sorts right behind the lease's own.
    pub(super) fn amendment(&self) -> IVec {
        [&self.bytes, &[AMENDMENT][..]].concat().into()
    }

    /// The key of the `number`-th further part, from 1 on: they sort behind the amendment, in order.
    pub(super) fn part(&self, number: u16) -> IVec {
        [&self.bytes, &[PART][..], &number.to_be_bytes()].concat().into()
    }

    pub(super) fn index_row(&self, at: Millis) -> IVec {
        let mut row = Vec::with_capacity(9 + self.bytes.len());
        row.extend_from_slice(&at.to_be_bytes());
        row.push(self.kind.number());
        row.extend_from_slice(&self.bytes);
        row.into()
    }
}

/// How much of a row's key is the key of its lease, and what the row is to it; `None` for its first row.
pub(super) fn satellite(kind: Kind, key: &[u8]) -> Option<(&[u8], Satellite)> {
    let (owner, rest) = match kind {
        Kind::Registration => key.split_at_checked(8)?,
        _ => key.split_at(key.iter().position(|byte| *byte < FIRST_OF_NAMES)?),
    };
    let what = match rest {
        [AMENDMENT] => Satellite::Amendment,
        [PART, _, _] => Satellite::Part,
        _ => return None,
    };
    Some((owner, what))
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
    use crate::id::ChunkName;

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
    fn what_belongs_to_a_lease_sorts_between_it_and_the_next() {
        let node = |text| LeaseKey::peer(&NodeId::parse(text).unwrap());
        for (this, next) in [(LeaseKey::registration(7), LeaseKey::registration(8)), (node("a"), node("a!"))]
        {
            let kind = this.kind();
            assert!(
                [&this.bytes, &this.amendment(), &this.part(1), &this.part(256), &next.bytes].is_sorted()
            );
            assert_eq!(satellite(kind, &this.amendment()), Some((&*this.bytes, Satellite::Amendment)));
            assert_eq!(satellite(kind, &this.part(300)), Some((&*this.bytes, Satellite::Part)));
            assert_eq!(satellite(kind, &this.bytes), None);
        }
    }

    #[test]
    fn keys_travel_as_text() {
        for key in [
            LeaseKey::relay(&PeerId::parse("a_b-C").unwrap()),
            LeaseKey::registration(MOST_SEQUENCE),
            LeaseKey::peer(&NodeId::parse("~12/3!").unwrap()),
            LeaseKey::turn_session(&SessionId::parse("a_b-C").unwrap()),
            LeaseKey::server(&ServerId::parse("ed25519:a/b=").unwrap()),
            LeaseKey::claim(&LinkId::parse("my home").unwrap()),
            LeaseKey::chunk(&ChunkName::parse("\0", "my chunk").unwrap().key()),
        ] {
            assert_eq!(LeaseKey::parse(key.kind(), &key.text()), Some(key));
        }
        for malformed in ["x", "-1", "140737488355328", "18446744073709551615"] {
            assert_eq!(LeaseKey::parse(Kind::Registration, malformed), None);
        }
        assert_eq!(LeaseKey::parse(Kind::Chunk, "my chunk"), None);
    }
}
