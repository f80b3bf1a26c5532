//! One peer as memory has it, and what of it is written.
//!
//! Owns the way between a peer and its record, and what a peer takes in memory. Must not know the other peers.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Millis;
use crate::id::{NodeId, TokenDigest};
use crate::store::{Changes, Indexed, LeaseKey, PeerRecord, Rows, Seen, TurnRecord};
use crate::wire::bootstrap::Peer;
use crate::wire::http::Json;
use crate::wire::turn::TurnOffer;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) peer: Arc<Peer>,
    pub(super) seen: Seen,
    pub(super) token: TokenDigest,
    pub(super) address: IpAddr,
    pub(super) rows: Rows,
}

impl Entry {
    fn record(&self) -> PeerRecord {
        let peer = &*self.peer;
        PeerRecord {
            seen: self.seen,
            token: self.token.0,
            address: self.address,
            addresses: peer.addresses.clone(),
            crypto_ipv6: peer.crypto_ipv6.clone(),
            stores: peer.stores.clone(),
            version: peer.version.clone(),
            privacy_mode: peer.privacy_mode,
            capabilities: peer.capabilities.text().to_owned(),
            turn_capable: peer.turn_capable,
            bootstrap_capable: peer.bootstrap_capable,
            network_id: peer.network_id.clone(),
            software_version: peer.software_version.clone(),
            server_port: peer.server_port,
            node_type: peer.node_type,
            capability_list: peer.capability_list.text().to_owned(),
            turn: peer.turn.as_ref().map(|turn| TurnRecord {
                addresses: turn.addresses.clone(),
                port: turn.port,
                capacity: turn.capacity,
            }),
        }
    }

    pub(super) fn is_live(&self, now: Millis) -> bool {
        now < self.seen.end
    }

    /// Writes the whole record over the `old` rows, if there are any.
    pub(super) fn write(&mut self, id: &NodeId, old: Option<Rows>, changes: &mut Changes) {
        let (key, record, end) = (LeaseKey::peer(id), self.record(), Indexed::at(self.seen.end));
        self.rows = match old {
            Some(old) => changes.replace(&key, &record, old, old.indexed.min(end)),
            None => Rows { parts: changes.put_new(&key, &record, end), amended: false, indexed: end },
        };
    }

    /// The reverse of [`Entry::write`]; `None` where the record's JSON is none.
    pub(super) fn of_record(record: PeerRecord, seen: Option<Seen>, rows: Rows) -> Option<Entry> {
        let json =
            |text: String, default: &str| Json::parse(text).or_else(|| Json::parse(default.to_owned()));
        let (Some(capabilities), Some(capability_list)) =
            (json(record.capabilities, "{}"), json(record.capability_list, "[]"))
        else {
            return None;
        };
        let peer = Peer {
            addresses: record.addresses,
            crypto_ipv6: record.crypto_ipv6,
            stores: record.stores,
            version: record.version,
            privacy_mode: record.privacy_mode,
            capabilities,
            turn_capable: record.turn_capable,
            bootstrap_capable: record.bootstrap_capable,
            network_id: record.network_id,
            software_version: record.software_version,
            server_port: record.server_port,
            node_type: record.node_type,
            capability_list,
            turn: record.turn.map(|turn| TurnOffer {
                addresses: turn.addresses,
                port: turn.port,
                capacity: turn.capacity,
            }),
        };
        Some(Entry {
            peer: Arc::new(peer),
            seen: seen.unwrap_or(record.seen),
            token: TokenDigest(record.token),
            address: record.address,
            rows,
        })
    }
}

/// What a peer takes in memory, by estimate: its texts, and what stands around them and in the facets.
pub(super) fn weight(id: &NodeId, peer: &Peer) -> u64 {
    const PEER: usize = 1000;
    const ADDRESS: usize = 40;
    // A text of its own, and where nobody else has it an entry of its own among the facets.
    const FACET: usize = 320;
    let texts = |list: &[String]| list.iter().map(|text| text.len() + ADDRESS).sum::<usize>();
    let turn = peer.turn.as_ref().map_or(0, |turn| texts(&turn.addresses));
    let stores: usize = peer.stores.iter().map(|store| 2 * store.len() + FACET).sum();
    let single =
        [&peer.crypto_ipv6, &peer.version, &peer.network_id, &peer.network_id, &peer.software_version];
    let single: usize = single.into_iter().map(String::len).sum();
    let json = peer.capabilities.text().len() + peer.capability_list.text().len();
    (PEER + id.as_str().len() + texts(&peer.addresses) + stores + turn + single + json) as u64
}
