//! What a row says: records and their bytes.
//!
//! Owns the codec (the only place that names bincode) and the layout of every record. A row is `version (u8) ·
//! where the index has it (u64, big-endian milliseconds) · the record`; trailing bytes are an error. Must not know
//! keys or trees.

use std::borrow::Cow;
use std::net::IpAddr;

use bincode::Options;
use serde::{Deserialize, Serialize};

use crate::clock::Millis;

/// A row that does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    #[error("version {0} is not known")]
    Version(u8),
    #[error("cut short")]
    Short,
    #[error("{0}")]
    Codec(String),
}

/// A record with its version. A change of layout is a new version and a migration.
pub trait Record: Serialize {
    const VERSION: u8 = 1;

    /// The bytes of an older version, as today's record.
    fn older(version: u8, _bytes: &[u8]) -> Result<Self, Undecodable>
    where
        Self: Sized,
    {
        Err(Undecodable::Version(version))
    }
}

/// A relay entry. It ends with its holder: see `boot`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// The boot in which its holder was last known to live. An older one counts for the restart grace only.
    pub boot: u64,
    pub public_key: Option<String>,
    pub max_connections: u32,
    pub connected: f64,
    pub registered_at: Millis,
    /// SHA-256 of the resume token.
    pub resume: [u8; 32],
}

impl Record for RelayRecord {}

/// One `register_rendezvous`: written once, amended by an [`Amendment`] beside it, deleted with it or overwritten by the one
/// that takes its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistrationRecord<'a> {
    /// The boot its tokens were live in. An older one counts for the restart grace only.
    pub boot: u64,
    #[serde(borrow)]
    pub peer: Cow<'a, str>,
    #[serde(borrow)]
    pub relay_id: Cow<'a, str>,
    pub registered_at: Millis,
    pub points_end: Millis,
    pub tokens_end: Millis,
    #[serde(borrow)]
    pub points: Vec<PointRecord<'a>>,
    #[serde(borrow)]
    pub tokens: Vec<Cow<'a, str>>,
    /// Dead drops, named by position from the points.
    #[serde(borrow)]
    pub payloads: Vec<Cow<'a, str>>,
    /// Which was registered before which. Never given twice, and never 0.
    pub order: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointRecord<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    pub payload: Option<u16>,
}

impl Record for RegistrationRecord<'_> {
    const VERSION: u8 = 2;

    fn older(version: u8, bytes: &[u8]) -> Result<Self, Undecodable> {
        if version != 1 {
            return Err(Undecodable::Version(version));
        }
        let old: Registration1 = deserialize(bytes)?;
        let point = |PointRecord { name, payload }: PointRecord<'_>| PointRecord {
            name: name.into_owned().into(),
            payload,
        };
        Ok(RegistrationRecord {
            boot: old.boot,
            peer: old.peer.into(),
            relay_id: old.relay_id.into(),
            registered_at: old.registered_at,
            points_end: old.points_end,
            tokens_end: old.tokens_end,
            points: old.points.into_iter().map(point).collect(),
            tokens: old.tokens.into_iter().map(Cow::Owned).collect(),
            payloads: old.payloads.into_iter().map(Cow::Owned).collect(),
            order: 0,
        })
    }
}

/// As schema 1 to 4 wrote it: in the order of the keys, which were never used again.
#[derive(Deserialize)]
struct Registration1<'a> {
    boot: u64,
    peer: String,
    relay_id: String,
    registered_at: Millis,
    points_end: Millis,
    tokens_end: Millis,
    #[serde(borrow)]
    points: Vec<PointRecord<'a>>,
    tokens: Vec<String>,
    payloads: Vec<String>,
}

/// What a registration has lost since it was written: points and tokens, by their position in it. Small, so that
/// losing something never reads or rewrites the payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    pub points_gone: Vec<u16>,
    pub tokens_gone: Vec<u16>,
}

impl Record for Amendment {}

/// A bootstrap peer as it registered. What its heartbeats say is in [`Seen`] beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRecord {
    pub seen: Seen,
    /// SHA-256 of its registration token.
    pub token: [u8; 32],
    /// The address it registered from, or the /64 of that.
    pub address: IpAddr,
    pub addresses: Vec<String>,
    pub crypto_ipv6: String,
    pub stores: Vec<String>,
    pub version: String,
    pub privacy_mode: bool,
    /// JSON.
    pub capabilities: String,
    pub turn_capable: bool,
    pub bootstrap_capable: bool,
    pub network_id: String,
    pub software_version: String,
    pub server_port: u16,
    pub node_type: u32,
    /// JSON.
    pub capability_list: String,
    pub turn: Option<TurnRecord>,
}

impl Record for PeerRecord {}

/// What makes a peer a TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRecord {
    pub addresses: Vec<String>,
    pub port: u16,
    pub capacity: u32,
}

/// When a peer was last heard, and when it expires unless it is heard again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub last_seen: Millis,
    pub end: Millis,
}

impl Record for Seen {}

/// A TURN session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnSessionRecord {
    /// The peerId of its TURN server.
    pub server: String,
    /// The peerId that asked for it.
    pub peer: String,
    pub end: Millis,
}

impl Record for TurnSessionRecord {}

/// An entry of the directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerRecord {
    pub seen: Seen,
    /// SHA-256 of the owner token.
    pub token: Option<[u8; 32]>,
    pub endpoint: String,
    pub public_key: String,
    pub region: String,
    pub registered_at: Millis,
    /// connections, relayConnections, signalingConnections, activeCodes.
    pub counters: [u64; 4],
}

impl Record for ServerRecord {}

/// A claim of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    pub generation: u64,
    /// When its grace ends; `None` while a binary holds it.
    pub until: Option<Millis>,
}

impl Record for ClaimRecord {}

/// A chunk that is cached, in as many parts as its data take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord<'a> {
    /// The peerId that pushed it.
    #[serde(borrow)]
    pub owner: Cow<'a, str>,
    /// Empty where it is in no channel.
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
    #[serde(borrow)]
    pub chunk: Cow<'a, str>,
    pub end: Millis,
    /// SHA-256 of the data, so that the data need not be looked at to be compared.
    pub digest: [u8; 32],
    /// JSON.
    #[serde(borrow)]
    pub data: Cow<'a, str>,
}

impl Record for ChunkRecord<'_> {}

fn codec() -> impl Options {
    bincode::DefaultOptions::new()
}

pub(super) fn encode<R: Record>(record: &R, indexed: Millis) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(R::VERSION);
    bytes.extend_from_slice(&indexed.to_be_bytes());
    codec().serialize_into(&mut bytes, record).expect("writing strings and numbers into a Vec does not fail");
    bytes
}

/// The record and where the index has it.
pub(super) fn decode<'a, R: Record + Deserialize<'a>>(bytes: &'a [u8]) -> Result<(R, Millis), Undecodable> {
    let (version, rest) = bytes.split_first().ok_or(Undecodable::Short)?;
    let short = if *version == R::VERSION { Undecodable::Short } else { Undecodable::Version(*version) };
    let (indexed, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let record = if *version == R::VERSION { deserialize(rest) } else { R::older(*version, rest) };
    Ok((record?, u64::from_be_bytes(*indexed)))
}

/// A registration with the order that it has: its key, where an older version wrote it.
pub(super) fn decode_registration(
    sequence: u64,
    bytes: &[u8],
) -> Result<(RegistrationRecord<'_>, Millis), Undecodable> {
    let (mut record, indexed) = decode::<RegistrationRecord<'_>>(bytes)?;
    if record.order == 0 {
        record.order = sequence;
    }
    Ok((record, indexed))
}

fn deserialize<'a, R: Deserialize<'a>>(bytes: &'a [u8]) -> Result<R, Undecodable> {
    codec().deserialize(bytes).map_err(|error| Undecodable::Codec(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> RelayRecord {
        RelayRecord {
            boot: 3,
            public_key: Some("key".into()),
            max_connections: 20,
            connected: 4.5,
            registered_at: 1_700_000_000_000,
            resume: [7; 32],
        }
    }

    #[test]
    fn a_record_comes_back_with_its_place_in_the_index() {
        assert_eq!(decode::<RelayRecord>(&encode(&relay(), 99)), Ok((relay(), 99)));
    }

    #[test]
    fn cut_flipped_and_trailing_bytes_are_errors_or_other_records_but_never_a_panic() {
        let bytes = encode(&relay(), 99);
        for length in 0..bytes.len() {
            assert!(decode::<RelayRecord>(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<RelayRecord>(&longer).is_err(), "trailing byte");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = decode::<RelayRecord>(&flipped);
                let _ = decode::<RegistrationRecord>(&flipped);
                let _ = decode::<Amendment>(&flipped);
            }
        }
        assert_eq!(decode::<RelayRecord>(&[2]), Err(Undecodable::Version(2)));
    }

    /// Byte for byte: a change here needs a migration.
    #[test]
    fn the_layouts_of_registrations_are_pinned() {
        let record = RegistrationRecord {
            boot: 1,
            peer: "a".into(),
            relay_id: "".into(),
            registered_at: 2,
            points_end: 3,
            tokens_end: 4,
            points: vec![PointRecord { name: "p".into(), payload: Some(0) }],
            tokens: vec!["t".into()],
            payloads: vec!["x".into()],
            order: 7,
        };
        let bytes =
            [0, 0, 0, 0, 0, 0, 0, 4, 1, 1, b'a', 0, 2, 3, 4, 1, 1, b'p', 1, 0, 1, 1, b't', 1, 1, b'x'];
        assert_eq!(encode(&record, 4), [&[2], &bytes[..], &[7]].concat());
        let older = [&[1], &bytes[..]].concat();
        assert_eq!(decode_registration(9, &older), Ok((RegistrationRecord { order: 9, ..record }, 4)));
        assert_eq!(decode::<RegistrationRecord>(&[3; 20]), Err(Undecodable::Version(3)));
        let amendment = Amendment { points_gone: vec![0], tokens_gone: vec![] };
        assert_eq!(encode(&amendment, 3), [1, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0]);
    }
}
