//! What peers can be found by: their network, their stores, and whether they are TURN servers, so that a filtered list
//! pays for what it returns.
//!
//! Owns the sets of ids by each of these. Must not know who has expired.

use std::collections::{BTreeSet, HashMap};

use crate::id::NodeId;
use crate::wire::bootstrap::Peer;

/// Which peers to list; the default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub network: Option<String>,
    pub store: Option<String>,
    pub turn_capable: Option<bool>,
}

impl Filter {
    pub fn is_any(&self) -> bool {
        *self == Filter::default()
    }

    pub fn matches(&self, peer: &Peer) -> bool {
        self.network.as_ref().is_none_or(|network| peer.network_id == *network)
            && self.store.as_ref().is_none_or(|store| peer.stores.contains(store))
            && self.turn_capable.is_none_or(|capable| peer.turn_capable == capable)
    }
}

/// The peers among which all that match are.
pub(super) enum Narrowed<'a> {
    All,
    To(&'a BTreeSet<NodeId>),
    None,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Facets {
    networks: HashMap<Box<str>, BTreeSet<NodeId>>,
    stores: HashMap<Box<str>, BTreeSet<NodeId>>,
    turn_capable: BTreeSet<NodeId>,
    turn_servers: usize,
}

impl Facets {
    pub(super) fn add(&mut self, id: &NodeId, peer: &Peer) {
        enter(&mut self.networks, &peer.network_id, id);
        for store in &peer.stores {
            enter(&mut self.stores, store, id);
        }
        if peer.turn_capable {
            self.turn_capable.insert(id.clone());
        }
        self.turn_servers += usize::from(peer.turn.is_some());
    }

    pub(super) fn remove(&mut self, id: &NodeId, peer: &Peer) {
        take(&mut self.networks, &peer.network_id, id);
        for store in &peer.stores {
            take(&mut self.stores, store, id);
        }
        self.turn_capable.remove(id);
        self.turn_servers -= usize::from(peer.turn.is_some());
    }

    pub(super) fn turn_servers(&self) -> usize {
        self.turn_servers
    }

    /// The smallest set that has all that match.
    pub(super) fn narrowest(&self, filter: &Filter) -> Narrowed<'_> {
        let network = filter.network.as_ref().map(|network| self.networks.get(network.as_str()));
        let store = filter.store.as_ref().map(|store| self.stores.get(store.as_str()));
        let turn = (filter.turn_capable == Some(true)).then_some(Some(&self.turn_capable));
        let sets: Vec<_> = [network, store, turn].into_iter().flatten().collect();
        if sets.contains(&None) {
            return Narrowed::None;
        }
        let smallest = sets.into_iter().flatten().min_by_key(|ids| ids.len());
        smallest.map_or(Narrowed::All, Narrowed::To)
    }

    /// How many match, of `all` peers; `None` where only looking at each one would tell.
    pub(super) fn count(&self, filter: &Filter, all: usize) -> Option<usize> {
        let of =
            |sets: &HashMap<Box<str>, BTreeSet<NodeId>>, name: &str| sets.get(name).map_or(0, BTreeSet::len);
        match (&filter.network, &filter.store, filter.turn_capable) {
            (None, None, None) => Some(all),
            (Some(network), None, None) => Some(of(&self.networks, network)),
            (None, Some(store), None) => Some(of(&self.stores, store)),
            (None, None, Some(true)) => Some(self.turn_capable.len()),
            (None, None, Some(false)) => Some(all - self.turn_capable.len()),
            _ => None,
        }
    }
}

fn enter(sets: &mut HashMap<Box<str>, BTreeSet<NodeId>>, name: &str, id: &NodeId) {
    match sets.get_mut(name) {
        Some(ids) => {
            ids.insert(id.clone());
        }
        None => {
            sets.insert(name.into(), BTreeSet::from([id.clone()]));
        }
    }
}

fn take(sets: &mut HashMap<Box<str>, BTreeSet<NodeId>>, name: &str, id: &NodeId) {
    if let Some(ids) = sets.get_mut(name) {
        ids.remove(id);
        if ids.is_empty() {
            sets.remove(name);
        }
    }
}
