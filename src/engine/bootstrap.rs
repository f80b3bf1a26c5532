//! What the bootstrap dialect asks of the engine: peers and TURN.
//!
//! Owns the order of cleaning first, the caller's own change second, within one turn of the writer and so in one atomic
//! batch; and lists that are taken from the writer stretch by stretch. Must not know HTTP.

use std::sync::Arc;

use crate::clock::Millis;
use crate::id::{Kind, NodeId, SessionId, TokenDigest, new_token};
use crate::limits::{LISTED_PER_TURN, TURN_LIST_BYTES};
use crate::metrics::KindLabel;
use crate::registry::peers::{Claimant, Filter, Listed, Refused};
use crate::wire::bootstrap::{
    Heard, PEER_NOT_FOUND, Peer, REGISTERED_ELSEWHERE, REGISTRY_FULL, Register, Registered, Stats,
    UNKNOWN_PEER,
};
use crate::wire::http::{Also, Done, Problem, timestamp};
use crate::wire::turn::{
    AllocatedServer, NO_CAPACITY, REGISTER_PEER_FIRST, RegisterTurn, SESSION_NOT_FOUND, SessionLimits,
    TurnAllocated, TurnRegistered,
};

use super::{Engine, Promise, Turn, Unavailable};

/// How many heartbeats fit into the TTL of a peer.
const HEARTBEATS_PER_TTL: u64 = 5;
/// Seconds after which to ask again for a TURN session where no server is known.
const NO_SERVER_RETRY: u64 = 60;

/// Which peers to list.
#[derive(Clone, Debug, Default)]
pub struct PeerPage {
    pub filter: Filter,
    pub after: Option<NodeId>,
    /// `None` is all of them.
    pub limit: Option<usize>,
}

/// The peers of a list so far: one stretch of it, taken in one turn of the writer.
#[derive(Clone, Debug)]
pub struct PeerStretch {
    pub peers: Vec<Listed>,
    pub now: Millis,
    /// Peers that are stored, expired ones too.
    pub registered: usize,
    /// Where to go on for the rest of the list.
    pub rest: Option<NodeId>,
}

/// A TURN server as it is listed.
#[derive(Clone, Debug)]
pub struct ListedTurn {
    pub id: NodeId,
    pub peer: Arc<Peer>,
    pub load: u32,
}

impl From<Unavailable> for Problem {
    fn from(why: Unavailable) -> Problem {
        match why {
            Unavailable::Overloaded => Problem::OVERLOADED,
            Unavailable::Storage => Problem::STORAGE_UNAVAILABLE,
            Unavailable::Stopped => Problem::SHUTTING_DOWN,
        }
    }
}

/// The refusal of a request about a peer; what an unknown one is told differs.
fn problem(refused: Refused, unknown: Problem) -> Problem {
    match refused {
        Refused::Elsewhere => REGISTERED_ELSEWHERE,
        Refused::Full => REGISTRY_FULL,
        Refused::Unauthorized => Problem::UNAUTHORIZED,
        Refused::Unknown => unknown,
    }
}

impl Engine {
    /// `POST /register` (bootstrap, Peers). Promise: `Flushed`.
    pub async fn register_peer(&self, request: Register, claimant: Claimant) -> Result<Registered, Problem> {
        let ttl = self.0.limits.peers.ttl.as_millis() as u64;
        let registered = self.run(Promise::Flushed, move |turn| {
            let Register { id, peer } = request;
            let cleaned = turn.clean(Some(&id));
            let token = new_token(&mut turn.core.rng);
            let (registries, fresh) = (&mut turn.core.registries, TokenDigest::of(&token));
            let is_new =
                registries.register_peer(turn.now, (id.clone(), peer), &claimant, fresh, turn.changes);
            Ok(Registered {
                success: true,
                peer_id: id.as_str().to_owned(),
                total_peers: registries.peers.len(),
                cleaned_expired_peers: cleaned,
                timestamp: timestamp(turn.now),
                heartbeat_interval_ms: ttl / HEARTBEATS_PER_TTL,
                registration_token: is_new?.then_some(token),
            })
        });
        registered.await?.map_err(|refused| problem(refused, PEER_NOT_FOUND))
    }

    /// `POST /heartbeat` (bootstrap, Peers). Promise: `Applied`.
    pub async fn hear_peer(&self, id: NodeId) -> Result<Heard, Problem> {
        let heard = self.run(Promise::Applied, move |turn| {
            let cleaned = turn.clean(Some(&id));
            let peers = &mut turn.core.registries.peers;
            peers.heartbeat(turn.now, &id, turn.changes).then(|| Heard {
                success: true,
                peer_id: id.as_str().to_owned(),
                last_seen: turn.now,
                total_peers: peers.len(),
                cleaned_expired_peers: cleaned,
                timestamp: timestamp(turn.now),
            })
        });
        heard.await?.ok_or(UNKNOWN_PEER)
    }

    /// `DELETE /peers/:peerId` (bootstrap, Peers). Promise: `Flushed`.
    pub async fn leave_peer(&self, id: NodeId, token: Option<String>) -> Result<Done, Problem> {
        let left = self.run(Promise::Flushed, move |turn| {
            turn.core.registries.leave_peer(turn.now, &id, token.as_deref(), turn.changes)
        });
        left.await?.map(|()| Done::DONE).map_err(|refused| problem(refused, PEER_NOT_FOUND))
    }

    /// The next stretch of `GET /peers` (bootstrap, Peers). Changes nothing.
    pub async fn list_peers(&self, page: &PeerPage) -> Result<PeerStretch, Problem> {
        let PeerPage { filter, after, limit } = page.clone();
        let stretch = self.run(Promise::None, move |turn| {
            let peers = &turn.core.registries.peers;
            let most = limit.unwrap_or(LISTED_PER_TURN);
            let stretch = peers.list(turn.now, &filter, after.as_ref(), most);
            PeerStretch {
                peers: stretch.peers,
                now: turn.now,
                registered: peers.len(),
                rest: stretch.reached,
            }
        });
        Ok(stretch.await?)
    }

    /// How many active peers match. Where no count is kept, they are looked at stretch by stretch.
    pub async fn count_peers(&self, filter: Filter) -> Result<usize, Problem> {
        let known = filter.clone();
        let known = self.run(Promise::None, move |turn| turn.core.registries.peers.total(turn.now, &known));
        if let Some(total) = known.await? {
            return Ok(total);
        }
        let mut page = PeerPage { filter, ..PeerPage::default() };
        let mut total = 0;
        loop {
            let stretch = self.list_peers(&page).await?;
            total += stretch.peers.len();
            page.after = stretch.rest;
            if page.after.is_none() {
                return Ok(total);
            }
        }
    }

    /// `GET /stats` (bootstrap, Peers), but for what the server counts.
    pub async fn peer_stats(&self, socket_connections: usize) -> Result<Stats, Problem> {
        let uptime = self.0.clock.running().as_secs_f64();
        let stats = self.run(Promise::None, move |turn| {
            let peers = &turn.core.registries.peers;
            Stats {
                total_peers: peers.len(),
                active_peers: peers.total(turn.now, &Filter::default()).unwrap_or_default(),
                turn_servers: peers.turn_servers(turn.now),
                socket_connections,
                uptime,
                timestamp: timestamp(turn.now),
            }
        });
        Ok(stats.await?)
    }

    /// `POST /register-turn-server` (bootstrap, TURN). Promise: `Flushed`.
    pub async fn register_turn(
        &self,
        request: RegisterTurn,
        claimant: Claimant,
    ) -> Result<TurnRegistered, Problem> {
        let registered = self.run(Promise::Flushed, move |turn| {
            let cleaned = turn.clean(None);
            let (registries, RegisterTurn { id, offer }) = (&mut turn.core.registries, request);
            registries.set_turn(turn.now, &id, Some(offer), &claimant, turn.changes)?;
            let turn_servers = registries.peers.turn_servers(turn.now);
            Ok(TurnRegistered { success: true, turn_servers, cleaned_expired_peers: cleaned })
        });
        registered.await?.map_err(|refused| problem(refused, REGISTER_PEER_FIRST))
    }

    /// `POST /unregister-turn-server` (bootstrap, Peers). Promise: `Flushed`.
    pub async fn unregister_turn(&self, id: NodeId, claimant: Claimant) -> Result<Done, Problem> {
        let done = self.run(Promise::Flushed, move |turn| {
            turn.core.registries.set_turn(turn.now, &id, None, &claimant, turn.changes)
        });
        done.await?.map(|()| Done::DONE).map_err(|refused| problem(refused, REGISTER_PEER_FIRST))
    }

    /// `GET /turn-servers` (bootstrap, TURN), the least loaded first, cut where it gets too long. Changes nothing.
    pub async fn turn_servers(&self) -> Result<(Vec<ListedTurn>, Millis), Problem> {
        let listed = self.run(Promise::None, |turn| {
            let (registries, now) = (&mut turn.core.registries, turn.now);
            let (peers, available) = (&registries.peers, registries.turn.available(now));
            let live = available.filter(|(id, _)| peers.is_live(id, now));
            let listed = live.filter_map(|(id, load)| {
                Some(ListedTurn { id: id.clone(), peer: peers.get(id)?.clone(), load })
            });
            let mut bytes = 0;
            let within = |listed: &ListedTurn| {
                let addresses = listed.peer.turn.iter().flat_map(|turn| &turn.addresses);
                bytes += 256 + addresses.map(|address| address.len() as u64).sum::<u64>();
                bytes <= TURN_LIST_BYTES
            };
            (listed.take_while(within).collect(), now)
        });
        Ok(listed.await?)
    }

    /// `POST /allocate-turn` (bootstrap, TURN). Promise: `Flushed`.
    pub async fn allocate_turn(&self, caller: NodeId) -> Result<TurnAllocated, Problem> {
        let max_duration_seconds = self.0.limits.turn.session_ttl.as_secs();
        let allocated = self.run(Promise::Flushed, move |turn| {
            let session = SessionId::new(&mut turn.core.rng);
            let (registries, now) = (&mut turn.core.registries, turn.now);
            let (peers, sessions) = (&registries.peers, &mut registries.turn);
            let is_live = |id: &NodeId| peers.is_live(id, now);
            let begun = sessions.allocate(now, session.clone(), &caller, is_live, turn.changes);
            let offered = begun.and_then(|(server, end)| {
                let offer = peers.get(&server)?.turn.clone()?;
                Some((server, offer, end))
            });
            let Some((server, offer, expires_at)) = offered else {
                let until = sessions.next_end(now).map(|end| (end - now).div_ceil(1000));
                let also = Also::UnsuccessfulUntil(until.unwrap_or(NO_SERVER_RETRY));
                return Err(Problem { also, ..NO_CAPACITY });
            };
            Ok(TurnAllocated {
                success: true,
                session_id: session.as_str().to_owned(),
                turn_server: AllocatedServer {
                    peer_id: server.as_str().to_owned(),
                    turn_addresses: offer.addresses,
                    turn_port: offer.port,
                },
                limits: SessionLimits { max_duration_seconds },
                expires_at,
            })
        });
        allocated.await?
    }

    /// `POST /release-turn` (bootstrap, TURN). Promise: `Flushed`.
    pub async fn release_turn(&self, session: SessionId) -> Result<Done, Problem> {
        let released = self.run(Promise::Flushed, move |turn| {
            turn.core.registries.turn.release(turn.now, &session, turn.changes)
        });
        if released.await? { Ok(Done::DONE) } else { Err(SESSION_NOT_FOUND) }
    }
}

impl Turn<'_> {
    /// Removes what has expired (bootstrap, Expiry); tells how many peers.
    fn clean(&mut self, except: Option<&NodeId>) -> usize {
        let cleaned = self.core.registries.clean_peers(self.now, except, *self.to_clean, self.changes);
        *self.to_clean -= cleaned;
        self.metrics.cleaned.get_or_create(&KindLabel { kind: Kind::Peer.name() }).inc_by(cleaned as u64);
        cleaned
    }
}
