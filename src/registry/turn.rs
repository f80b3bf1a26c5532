//! TURN sessions, and how busy each TURN server is (protocol: bootstrap, TURN).
//!
//! Owns admission by capacity: a load rises with a session and falls when it ends, to the millisecond. Must not know what
//! else a peer is, sockets, clocks or sled.

use std::collections::{BTreeSet, HashMap};

use super::Expired;
use crate::clock::Millis;
use crate::id::{NodeId, SessionId};
use crate::limits::TurnRules;
use crate::store::{Changes, Indexed, LeaseKey, TurnSessionRecord};

#[derive(Clone, Debug, PartialEq)]
struct Session {
    server: NodeId,
    end: Millis,
}

/// A server, or what sessions are left of one that is gone: they count when it comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Server {
    capacity: u32,
    load: u32,
}

pub struct Turn {
    rules: TurnRules,
    sessions: HashMap<SessionId, Session>,
    /// When each session ends that counts for a load. What has ended leaves this before anybody looks, its rows later.
    ends: BTreeSet<(Millis, SessionId)>,
    servers: HashMap<NodeId, Server>,
    /// Servers below their capacity, the least loaded first.
    available: BTreeSet<(u32, NodeId)>,
}

impl Turn {
    pub fn new(rules: TurnRules) -> Turn {
        Turn {
            rules,
            sessions: HashMap::new(),
            ends: BTreeSet::new(),
            servers: HashMap::new(),
            available: BTreeSet::new(),
        }
    }

    /// Sessions that are stored, ended ones too until they are swept.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many sessions a peer takes now; 0 where it is no server.
    pub fn set_capacity(&mut self, id: &NodeId, capacity: u32) {
        self.change(id, |server| server.capacity = capacity);
    }

    /// Begins a session on the least loaded server for which `is_live`; `None` where there is no capacity.
    pub fn allocate(
        &mut self,
        now: Millis,
        session: SessionId,
        peer: &NodeId,
        is_live: impl Fn(&NodeId) -> bool,
        changes: &mut Changes,
    ) -> Option<(NodeId, Millis)> {
        self.settle(now);
        if self.ends.len() >= self.rules.max_sessions {
            return None;
        }
        let (_, server) = self.available.iter().find(|(_, id)| is_live(id))?;
        let server = server.clone();
        let end = now + self.rules.session_ttl.as_millis() as Millis;
        let record =
            TurnSessionRecord { server: server.as_str().to_owned(), peer: peer.as_str().to_owned(), end };
        changes.put_new(&LeaseKey::turn_session(&session), &record, Indexed::at(end));
        self.enter(session, Session { server: server.clone(), end });
        Some((server, end))
    }

    /// Ends a session; false where there is none.
    pub fn release(&mut self, now: Millis, id: &SessionId, changes: &mut Changes) -> bool {
        let found = self.sessions.get(id).is_some_and(|session| now < session.end);
        if found {
            self.remove(id, changes);
        }
        found
    }

    /// When the next session ends.
    pub fn next_end(&mut self, now: Millis) -> Option<Millis> {
        self.settle(now);
        self.ends.first().map(|(end, _)| *end)
    }

    /// Servers below their capacity with their loads, the least loaded first.
    pub fn available(&mut self, now: Millis) -> impl Iterator<Item = (&NodeId, u32)> {
        self.settle(now);
        self.available.iter().map(|(load, id)| (id, *load))
    }

    /// Removes a session that has ended.
    pub fn expire(&mut self, id: &SessionId, now: Millis, changes: &mut Changes) -> Expired {
        match self.sessions.get(id) {
            Some(session) if session.end <= now => {
                self.remove(id, changes);
                Expired::Gone
            }
            _ => Expired::Kept,
        }
    }

    pub fn load(&mut self, id: SessionId, record: &TurnSessionRecord) {
        if let Some(server) = NodeId::parse(&record.server) {
            self.enter(id, Session { server, end: record.end });
        }
    }

    pub fn same_as(&mut self, other: &mut Turn, now: Millis) -> bool {
        self.settle(now);
        other.settle(now);
        self.sessions == other.sessions
            && self.ends == other.ends
            && self.servers == other.servers
            && self.available == other.available
    }

    fn enter(&mut self, id: SessionId, session: Session) {
        self.ends.insert((session.end, id.clone()));
        self.change(&session.server, |server| server.load += 1);
        self.sessions.insert(id, session);
    }

    /// Tells whether there was one.
    pub fn remove(&mut self, id: &SessionId, changes: &mut Changes) -> bool {
        let Some(session) = self.sessions.remove(id) else { return false };
        changes.remove(&LeaseKey::turn_session(id), Indexed::at(session.end));
        if self.ends.remove(&(session.end, id.clone())) {
            self.change(&session.server, |server| server.load -= 1);
        }
        true
    }

    /// What has ended no longer counts.
    fn settle(&mut self, now: Millis) {
        while let Some((end, id)) = self.ends.first()
            && *end <= now
        {
            let server = self.sessions[id].server.clone();
            self.ends.pop_first();
            self.change(&server, |server| server.load -= 1);
        }
    }

    /// Changes a server and puts it where it belongs.
    fn change(&mut self, id: &NodeId, change: impl FnOnce(&mut Server)) {
        let server = self.servers.entry(id.clone()).or_default();
        self.available.remove(&(server.load, id.clone()));
        change(server);
        if server.load < server.capacity {
            self.available.insert((server.load, id.clone()));
        }
        if *server == Server::default() {
            self.servers.remove(id);
        }
    }
}
