//! What link asks of the engine: claims, phones that attach, and the end of either.
//!
//! Owns the order of claim first, slot second, within one turn of the writer, so that races are decided there. Must not
//! know frames: they go from socket to socket through the slot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Core, Effect, Engine, Promise, Turn, Unavailable};
use crate::clock::Millis;
use crate::id::{ConnId, Generation, LinkId, SocketId};
use crate::live::link::{Attached, Holding, Slot};
use crate::live::outbox::{Budget, Close, Outbox};
use crate::registry::Registries;
use crate::registry::claims::{Found, Refused, State};
use crate::store::Changes;
use crate::wire::admin::{Claim, ClaimPage};

/// How often a claimant probes when the id changes hands under it.
const PROBES: usize = 3;

/// A claim that is on the disk.
pub struct Held {
    pub slot: Arc<Slot>,
    pub generation: Generation,
}

/// Which claims to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimQuery {
    pub prefix: String,
    /// The last id of the page before.
    pub after: Option<LinkId>,
    pub limit: usize,
}

/// Why an id is not to be had.
enum NotHeld {
    /// Another binary holds it; only if that one is silent can it be had.
    By { generation: Generation, holder: Arc<Outbox> },
    /// There are too many claims.
    Full,
}

impl Engine {
    /// A binary claims a server-id (link, section 4); `Err(Ok(_))` is how its socket is to be closed. Neither the holder
    /// nor its phones notice a claim that is refused. Promise: `Flushed`.
    pub async fn claim(&self, outbox: &Arc<Outbox>, id: &LinkId) -> Result<Held, Result<Close, Unavailable>> {
        let mut silent = None;
        for _ in 0..PROBES {
            let (newcomer, id) = (outbox.clone(), id.clone());
            let claimed = self.run(Promise::Flushed, move |turn| turn.claim(newcomer, &id, silent));
            match claimed.await.map_err(Err)? {
                Ok(held) => return Ok(held),
                Err(NotHeld::Full) => return Err(Err(Unavailable::Overloaded)),
                Err(NotHeld::By { generation, holder }) => {
                    if self.is_alive(&holder, self.0.limits.link.probe).await {
                        break;
                    }
                    silent = Some(generation);
                }
            }
        }
        Err(Ok(Close::SERVER_ID_CLAIMED))
    }

    /// A phone attaches to a server-id that is held or in its grace; `Err(Ok(_))` is how its socket is to be closed.
    pub async fn attach(
        &self,
        outbox: &Arc<Outbox>,
        id: &LinkId,
    ) -> Result<Attached, Result<Close, Unavailable>> {
        let (outbox, id) = (outbox.clone(), id.clone());
        let attached = self.run(Promise::None, move |turn| {
            let core = &mut *turn.core;
            core.registries.claims.get(&id, turn.now).ok_or(Close::NO_SERVER)?;
            let conn_id = ConnId::new(&mut core.rng);
            core.links.attach(&id, conn_id, outbox).ok_or(Close::TOO_MANY_PHONES)
        });
        attached.await.map_err(Err)?.map_err(Ok)
    }

    /// One page of claims, in the order of the ids, those over and not yet removed left out.
    pub async fn claims(&self, query: ClaimQuery) -> Result<ClaimPage, Unavailable> {
        self.run(Promise::None, move |turn| {
            let (registry, links, now) = (&turn.core.registries.claims, &turn.core.links, turn.now);
            let mut claims = Vec::new();
            for (id, claim) in registry.list(query.after.as_ref()) {
                if !id.as_str().starts_with(&query.prefix) {
                    continue;
                }
                let (state, ends) = match claim.state {
                    State::Held => ("held", None),
                    State::Grace { until } if until > now => ("grace", Some(until)),
                    State::Grace { .. } => continue,
                };
                if claims.len() == query.limit {
                    let cursor = claims.last().map(|last: &Claim| last.server_id.clone());
                    return ClaimPage { claims, cursor };
                }
                let (phones, waiting_bytes) = links.phones(id);
                claims.push(Claim {
                    server_id: id.as_str().to_owned(),
                    state: state.into(),
                    generation: claim.generation.0,
                    ends,
                    left_ms: ends.map(|ends| ends - now),
                    socket: links.holder(id).map(|(_, outbox)| outbox.socket.0),
                    phones,
                    waiting_bytes,
                });
            }
            ClaimPage { claims, cursor: None }
        })
        .await
    }

    /// Closes the slowest socket, if all together have too much unsent: for what sockets queue for each other past the
    /// writer, which looks by itself after each drain.
    pub fn relieve(&self) {
        if self.0.budget.is_exceeded() && !self.0.relieving.swap(true, Ordering::Relaxed) {
            let shared = self.0.clone();
            self.0.submit(Promise::None, move |_| shared.relieving.store(false, Ordering::Relaxed));
        }
    }
}

impl Core {
    /// Where all together have too much unsent: what phones that have left have said goes first, then the slowest socket.
    pub(super) fn relieve(&mut self, budget: &Budget) {
        if budget.is_exceeded() {
            self.links.forget_departed();
            self.hub.close_slowest(budget);
        }
    }
}

impl Turn<'_> {
    fn claim(
        &mut self,
        newcomer: Arc<Outbox>,
        id: &LinkId,
        silent: Option<Generation>,
    ) -> Result<Held, NotHeld> {
        let core = &mut *self.core;
        let claimed = match core.registries.claims.claim(self.now, id, silent, self.changes) {
            Ok(claimed) => claimed,
            Err(Refused::Full) => return Err(NotHeld::Full),
            Err(Refused::Taken(generation)) => {
                let holder = core.links.holder(id).filter(|(held, _)| *held == generation);
                match holder {
                    Some((generation, holder)) => return Err(NotHeld::By { generation, holder }),
                    // Its socket is gone already.
                    None => return self.claim(newcomer, id, Some(generation)),
                }
            }
        };
        match claimed.found {
            Found::Free => {}
            Found::Over => self.end_link(id),
            Found::Standing => {
                let phones = self.core.links.evict(id);
                self.effects.extend(phones.into_iter().map(|phone| Effect::Close(phone, Close::RECLAIMED)));
            }
        }
        let afresh = claimed.found != Found::Standing;
        let holding = Holding { id: id.clone(), generation: claimed.generation, afresh };
        let (slot, replaced) = self.core.links.hold(holding, newcomer);
        if let Some(replaced) = replaced {
            self.metrics.takeovers.inc();
            self.effects.push(Effect::Close(replaced, Close::HEARTBEAT_TIMEOUT));
        }
        Ok(Held { slot, generation: claimed.generation })
    }

    /// A socket has ended: deferred release of what it held. A claim that was refused in the end, as its flush failed, arms
    /// none.
    pub(super) fn leave_link(&mut self, socket: SocketId) {
        // The daemon closes all sockets itself: then neither phones nor claims are to notice who goes first.
        if self.core.draining {
            return;
        }
        let Some((Holding { id, generation, afresh }, opened)) = self.core.links.leave(socket) else {
            return;
        };
        let claims = &mut self.core.registries.claims;
        if opened || !afresh {
            claims.release(self.now, &id, generation, self.changes);
        } else if claims.withdraw(&id, generation, self.changes) {
            self.end_slot(&id);
        }
    }

    /// A grace is over.
    pub(super) fn end_link(&mut self, id: &LinkId) {
        self.metrics.graces_ended.inc();
        self.end_slot(id);
    }

    fn end_slot(&mut self, id: &LinkId) {
        let phones = self.core.links.end(id);
        self.effects.extend(phones.into_iter().map(|phone| Effect::Close(phone, Close::GRACE_ENDED)));
    }
}

/// After a storage failure: the store has what was flushed, the links know who is here. A claim whose binary is not here
/// goes into its grace, and phones of a claim that does not stand are told so.
pub(super) fn reconcile(core: &Core, registries: &mut Registries, now: Millis, changes: &mut Changes) {
    registries.claims.continue_after(core.registries.claims.last_generation());
    let held = registries.claims.list(None).filter(|(_, claim)| claim.state == State::Held);
    let gone: Vec<_> = held
        .filter(|(id, claim)| {
            core.links.holder(id).is_none_or(|(generation, _)| generation != claim.generation)
        })
        .map(|(id, claim)| (id.clone(), claim.generation))
        .collect();
    for (id, generation) in gone {
        registries.claims.release(now, &id, generation, changes);
    }
}

/// As [`reconcile`], once the store is open again.
pub(super) fn end_what_does_not_stand(core: &mut Core, now: Millis) {
    let claims = &core.registries.claims;
    let ended: Vec<_> = core.links.ids().filter(|id| claims.get(id, now).is_none()).cloned().collect();
    for id in ended {
        for phone in core.links.end(&id) {
            phone.close(Close::GRACE_ENDED);
        }
    }
}
