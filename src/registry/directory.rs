//! The directory: servers that list each other (protocol: directory).
//!
//! Owns who is fresh, who may overwrite, and the ceiling. Must not know sockets, clocks or sled, nor the secret.

use std::collections::{BTreeMap, BTreeSet};

use super::Expired;
use crate::clock::Millis;
use crate::id::{ServerId, TokenDigest};
use crate::limits::{DirectoryRules, MAX_SERVERS, Ownership};
use crate::store::{Changes, Indexed, LeaseKey, Seen, ServerRecord};
use crate::wire::directory::{Counters, RegisterServer, Server, ServerEntry, SomeCounters};

/// Why a request is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Forbidden,
    Full,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    server: Server,
    registered_at: Millis,
    seen: Seen,
    /// Of the token that proves its ownership, if one was given.
    token: Option<TokenDigest>,
    indexed: Indexed,
}

impl Entry {
    fn is_fresh(&self, now: Millis) -> bool {
        now < self.seen.end
    }

    fn shown(&self, id: &ServerId) -> ServerEntry {
        ServerEntry {
            server_id: id.as_str().to_owned(),
            endpoint: self.server.endpoint.clone(),
            public_key: self.server.public_key.clone(),
            region: self.server.region.clone(),
            registered_at: self.registered_at,
            last_seen: self.seen.last_seen,
            counters: self.server.counters,
        }
    }

    fn record(&self) -> ServerRecord {
        let Counters { connections, relay_connections, signaling_connections, active_codes } =
            self.server.counters;
        ServerRecord {
            seen: self.seen,
            token: self.token.map(|token| token.0),
            endpoint: self.server.endpoint.clone(),
            public_key: self.server.public_key.clone(),
            region: self.server.region.clone(),
            registered_at: self.registered_at,
            counters: [connections, relay_connections, signaling_connections, active_codes],
        }
    }
}

pub struct Directory {
    rules: DirectoryRules,
    servers: BTreeMap<ServerId, Entry>,
    /// When each one is stale.
    ends: BTreeSet<(Millis, ServerId)>,
}

impl Directory {
    pub fn new(rules: DirectoryRules) -> Directory {
        Directory { rules, servers: BTreeMap::new(), ends: BTreeSet::new() }
    }

    /// Servers that are stored, stale ones too.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    fn seen(&self, now: Millis) -> Seen {
        Seen { last_seen: now, end: now + self.rules.ttl.as_millis() as Millis }
    }

    /// Stale servers, the longest stale first.
    fn stale(&self, now: Millis) -> impl Iterator<Item = &ServerId> {
        self.ends.iter().take_while(move |(end, _)| *end <= now).map(|(_, id)| id)
    }

    /// Enters a server or overwrites its entry. `fresh` is the token that it is given where nobody has one; whether it was
    /// given is told. A secret stands for all tokens: then there is no `fresh` one.
    pub fn register(
        &mut self,
        now: Millis,
        request: RegisterServer,
        shown_token: Option<&str>,
        fresh: Option<TokenDigest>,
        changes: &mut Changes,
    ) -> Result<(ServerEntry, bool), Refused> {
        let RegisterServer { id, server } = request;
        let live = self.servers.get(&id).filter(|entry| entry.is_fresh(now)).cloned();
        if fresh.is_some() && live.as_ref().is_some_and(|live| !self.may_write(live, shown_token)) {
            return Err(Refused::Forbidden);
        }
        let fresh_entries = self.servers.len() - self.stale(now).count();
        if live.is_none() && fresh_entries >= MAX_SERVERS {
            return Err(Refused::Full);
        }
        if self.servers.len() >= MAX_SERVERS {
            // What is stale is never in the way, nor more than can be listed.
            self.remove_stale(now, changes);
        }
        let owned = live.and_then(|live| live.token);
        let old = self.servers.get(&id).map(|old| (old.indexed, old.registered_at));
        let entry = Entry {
            server,
            registered_at: old.map_or(now, |(_, registered_at)| registered_at),
            seen: self.seen(now),
            token: owned.or(fresh),
            indexed: Indexed::at(now),
        };
        let shown = entry.shown(&id);
        self.write(id, entry, old.map(|(indexed, _)| indexed), changes);
        Ok((shown, owned.is_none() && fresh.is_some()))
    }

    fn may_write(&self, entry: &Entry, shown_token: Option<&str>) -> bool {
        let owned = entry.token.filter(|_| self.rules.ownership == Ownership::Strict);
        owned.is_none_or(|token| shown_token.is_some_and(|shown| token.matches(shown)))
    }

    /// The server is heard, and revived where it was stale; false where it is unknown.
    pub fn heartbeat(
        &mut self,
        now: Millis,
        id: &ServerId,
        counters: SomeCounters,
        changes: &mut Changes,
    ) -> bool {
        let Some(mut entry) = self.servers.get(id).cloned() else { return false };
        entry.server.counters = counters.over(entry.server.counters);
        entry.seen = self.seen(now);
        let old = Some(entry.indexed);
        self.write(id.clone(), entry, old, changes);
        true
    }

    /// Removes a server; `proven` where whoever asks has the secret.
    pub fn leave(
        &mut self,
        now: Millis,
        id: &ServerId,
        shown_token: Option<&str>,
        proven: bool,
        changes: &mut Changes,
    ) -> Result<(), Refused> {
        let live = self.servers.get(id).filter(|entry| entry.is_fresh(now));
        if !proven && live.is_some_and(|live| !self.may_write(live, shown_token)) {
            return Err(Refused::Forbidden);
        }
        self.remove(id, changes);
        Ok(())
    }

    /// All fresh servers, and how many stale ones there are beside them.
    pub fn list(&self, now: Millis) -> (Vec<ServerEntry>, usize) {
        let fresh = self.servers.iter().filter(|(_, entry)| entry.is_fresh(now));
        let fresh: Vec<_> = fresh.map(|(id, entry)| entry.shown(id)).collect();
        let stale = self.servers.len() - fresh.len();
        (fresh, stale)
    }

    /// Removes all stale servers; tells how many.
    pub fn remove_stale(&mut self, now: Millis, changes: &mut Changes) -> usize {
        let stale: Vec<ServerId> = self.stale(now).cloned().collect();
        stale.iter().filter(|id| self.remove(id, changes)).count()
    }

    /// Removes a server that is stale, or files it at its true time.
    pub fn expire(&mut self, id: &ServerId, now: Millis, changes: &mut Changes) -> Expired {
        let Some(entry) = self.servers.get_mut(id) else { return Expired::Kept };
        if !entry.is_fresh(now) {
            self.remove(id, changes);
            return Expired::Gone;
        }
        let end = Indexed::at(entry.seen.end);
        if entry.indexed == end {
            return Expired::Kept;
        }
        changes.move_to(&LeaseKey::server(id), &entry.record(), entry.indexed, end);
        entry.indexed = end;
        Expired::Refiled
    }

    pub fn load(&mut self, id: ServerId, record: ServerRecord, indexed: Indexed) {
        let [connections, relay_connections, signaling_connections, active_codes] = record.counters;
        let entry = Entry {
            server: Server {
                endpoint: record.endpoint,
                public_key: record.public_key,
                region: record.region,
                counters: Counters { connections, relay_connections, signaling_connections, active_codes },
            },
            registered_at: record.registered_at,
            seen: record.seen,
            token: record.token.map(TokenDigest),
            indexed,
        };
        self.insert(id, entry);
    }

    pub fn same_as(&self, other: &Directory) -> bool {
        self.servers == other.servers && self.ends == other.ends
    }

    /// Writes an entry where the index has it already, unless it would be named too late there.
    fn write(&mut self, id: ServerId, mut entry: Entry, old: Option<Indexed>, changes: &mut Changes) {
        let (key, record, end) = (LeaseKey::server(&id), entry.record(), Indexed::at(entry.seen.end));
        entry.indexed = old.map_or(end, |old| old.min(end));
        match old {
            None => {
                changes.put_new(&key, &record, end);
            }
            Some(old) => changes.move_to(&key, &record, old, entry.indexed),
        }
        self.insert(id, entry);
    }

    fn insert(&mut self, id: ServerId, entry: Entry) {
        let end = entry.seen.end;
        if let Some(old) = self.servers.insert(id.clone(), entry) {
            self.ends.remove(&(old.seen.end, id.clone()));
        }
        self.ends.insert((end, id));
    }

    /// Tells whether there was one.
    pub fn remove(&mut self, id: &ServerId, changes: &mut Changes) -> bool {
        let gone = self.servers.remove(id);
        if let Some(entry) = &gone {
            self.ends.remove(&(entry.seen.end, id.clone()));
            changes.remove(&LeaseKey::server(id), entry.indexed);
        }
        gone.is_some()
    }
}
