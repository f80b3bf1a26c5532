//! The peers of the random-operation model: the sockets they come on, and the ids that these have taken.
//!
//! Owns what a peer is told on its socket of its own accord. Must not know what the peers are up to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use waypost::engine::{Engine, Joined};
use waypost::id::{PeerId, SocketId};
use waypost::live::outbox::weight;
use waypost::wire::signalling::ServerMessage;

pub const PEERS: [&str; 4] = ["ann", "bob", "cat", "dan"];

#[derive(Default)]
pub struct Peers {
    /// Each with the resume token that it was given last.
    pub sockets: BTreeMap<usize, (Joined, Option<String>)>,
    /// Peers whose socket has taken its id.
    pub held: BTreeSet<usize>,
}

pub fn id(peer: usize) -> PeerId {
    PeerId::parse(PEERS[peer]).unwrap()
}

pub fn join(engine: &Engine) -> Joined {
    engine.join(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// What the socket was told of chunks since the last look.
pub fn told_of_chunks(joined: &Joined) -> Vec<ServerMessage> {
    let texts = std::iter::from_fn(|| joined.outbox.next());
    let told = texts.map(|text| {
        joined.outbox.sent(weight(&text));
        serde_json::from_str(&text).unwrap()
    });
    told.filter(|message| !matches!(message, ServerMessage::RendezvousMatch { .. })).collect()
}

impl Peers {
    /// The socket of a peer, which comes where it is not here.
    pub fn socket(&mut self, engine: &Engine, peer: usize) -> SocketId {
        self.sockets.entry(peer).or_insert_with(|| (join(engine), None)).0.outbox.socket
    }

    /// The peer's socket was told that it holds the id, under a new token where there is one.
    pub fn took(&mut self, peer: usize, token: Option<String>) {
        self.held.insert(peer);
        if let (Some(token), Some(socket)) = (token, self.sockets.get_mut(&peer)) {
            socket.1 = Some(token);
        }
    }

    /// As [`told_of_chunks`], for a peer that may not be here.
    pub fn told(&self, peer: usize) -> Vec<ServerMessage> {
        self.sockets.get(&peer).map(|(joined, _)| told_of_chunks(joined)).unwrap_or_default()
    }

    pub fn clear(&mut self) {
        self.sockets.clear();
        self.held.clear();
    }
}
