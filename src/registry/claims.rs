//! Claims: which server-id a binary holds, and for how long after it is gone (protocol: link, section 4).
//!
//! Owns the table of transitions, below. Must not know sockets, phones, clocks or sled, nor how a holder is found silent.
//!
//! | state | claim | release(g) | end of grace | restart |
//! |---|---|---|---|---|
//! | Free | Held(new g) | | | |
//! | Held(g) | refused; if g was found silent: Held(new g) | Grace(g, now + grace); withdrawn: Free | | Grace(g, now + grace) |
//! | Grace(g, until) | Held(new g) | | Free | Grace(g, until, but neither too short nor longer than a full one) |
//!
//! What a transition names by another generation does nothing. Free is no entry at all.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::{Ended, Expired};
use crate::clock::Millis;
use crate::id::{Generation, LinkId};
use crate::limits::{LEAST_GRACE_LEFT, MAX_CLAIMS};
use crate::store::{Changes, ClaimRecord, Indexed, LeaseKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Held,
    /// The binary is gone, and may come back until then.
    Grace {
        until: Millis,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub generation: Generation,
    pub state: State,
}

impl Claim {
    fn is_over(&self, now: Millis) -> bool {
        matches!(self.state, State::Grace { until } if until <= now)
    }

    fn indexed(&self) -> Indexed {
        match self.state {
            State::Held => Indexed::HELD,
            State::Grace { until } => Indexed::at(until),
        }
    }

    fn record(&self) -> ClaimRecord {
        let until = match self.state {
            State::Held => None,
            State::Grace { until } => Some(until),
        };
        ClaimRecord { generation: self.generation.0, until }
    }
}

/// What a successful claim found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub generation: Generation,
    pub found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Free,
    /// A grace that was over and not yet removed: free as well, and this is its end.
    Over,
    /// A silent holder, or a grace: its phones stay.
    Standing,
}

/// Why an id is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another binary holds it under this generation.
    Taken(Generation),
    /// It is free, and there are too many claims.
    Full,
}

#[derive(Debug)]
pub struct Claims {
    grace: Duration,
    claims: BTreeMap<LinkId, Claim>,
    /// Generations rise over all ids, so that an id that was free in between does not see one again.
    last_generation: u64,
}

impl Claims {
    pub fn new(grace: Duration) -> Claims {
        Claims { grace, claims: BTreeMap::new(), last_generation: 0 }
    }

    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// `None` is Free.
    pub fn get(&self, id: &LinkId, now: Millis) -> Option<Claim> {
        self.claims.get(id).copied().filter(|claim| !claim.is_over(now))
    }

    /// Every claim behind `after`, in the order of the ids.
    pub fn list(&self, after: Option<&LinkId>) -> impl Iterator<Item = (&LinkId, &Claim)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.claims.range::<LinkId, _>((start, Bound::Unbounded))
    }

    /// `silent` is a generation whose holder did not answer a probe.
    pub fn claim(
        &mut self,
        now: Millis,
        id: &LinkId,
        silent: Option<Generation>,
        changes: &mut Changes,
    ) -> Result<Claimed, Refused> {
        let old = self.claims.get(id).copied();
        if let Some(Claim { generation, state: State::Held }) = old
            && silent != Some(generation)
        {
            return Err(Refused::Taken(generation));
        }
        if old.is_none() && self.claims.len() >= MAX_CLAIMS {
            return Err(Refused::Full);
        }
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        self.put(id, Claim { generation, state: State::Held }, changes);
        let found = match old {
            None => Found::Free,
            Some(claim) if claim.is_over(now) => Found::Over,
            Some(_) => Found::Standing,
        };
        Ok(Claimed { generation, found })
    }

    /// The holder of `generation` is gone: deferred release. Tells whether it held the id until now.
    pub fn release(
        &mut self,
        now: Millis,
        id: &LinkId,
        generation: Generation,
        changes: &mut Changes,
    ) -> bool {
        let held = Claim { generation, state: State::Held };
        let releases = self.claims.get(id) == Some(&held);
        if releases {
            let until = now.saturating_add(self.grace.as_millis() as Millis);
            self.put(id, Claim { state: State::Grace { until }, ..held }, changes);
        }
        releases
    }

    /// A claim of a free id that came to nothing: it is free again. Tells whether it was held so until now.
    pub fn withdraw(&mut self, id: &LinkId, generation: Generation, changes: &mut Changes) -> bool {
        let held = Claim { generation, state: State::Held };
        let withdraws = self.claims.get(id) == Some(&held);
        if withdraws {
            changes.remove(&LeaseKey::claim(id), held.indexed());
            self.claims.remove(id);
        }
        withdraws
    }

    /// Frees an id before its grace is over.
    pub fn end(&mut self, id: &LinkId, changes: &mut Changes) -> Ended {
        match self.claims.get(id) {
            None => Ended::Unknown,
            Some(Claim { state: State::Held, .. }) => Ended::Held,
            Some(claim) => {
                changes.remove(&LeaseKey::claim(id), claim.indexed());
                self.claims.remove(id);
                Ended::Gone
            }
        }
    }

    /// Frees an id whose grace is over.
    pub fn expire(&mut self, id: &LinkId, now: Millis, changes: &mut Changes) -> Expired {
        match self.claims.get(id) {
            Some(claim) if claim.is_over(now) => {
                changes.remove(&LeaseKey::claim(id), claim.indexed());
                self.claims.remove(id);
                Expired::Gone
            }
            _ => Expired::Kept,
        }
    }

    /// The daemon has started: no binary is connected, and each gets the time to come back.
    pub fn restart(&mut self, now: Millis, changes: &mut Changes) {
        let least = self.grace.min(LEAST_GRACE_LEFT).as_millis() as Millis;
        let full = now.saturating_add(self.grace.as_millis() as Millis);
        let all: Vec<_> = self.claims.iter().map(|(id, claim)| (id.clone(), *claim)).collect();
        for (id, claim) in all {
            let until = match claim.state {
                State::Held => full,
                // No longer than a full one either: the wall clock may have been set back, or the grace shortened.
                State::Grace { until } => until.clamp(now.saturating_add(least), full),
            };
            let kept = Claim { state: State::Grace { until }, ..claim };
            if kept != claim {
                self.put(&id, kept, changes);
            }
        }
    }

    fn put(&mut self, id: &LinkId, claim: Claim, changes: &mut Changes) {
        let key = LeaseKey::claim(id);
        match self.claims.insert(id.clone(), claim) {
            None => {
                changes.put_new(&key, &claim.record(), claim.indexed());
            }
            Some(old) => changes.move_to(&key, &claim.record(), old.indexed(), claim.indexed()),
        }
    }

    pub fn load(&mut self, id: LinkId, record: ClaimRecord) {
        let state = record.until.map_or(State::Held, |until| State::Grace { until });
        self.continue_after(record.generation);
        self.claims.insert(id, Claim { generation: Generation(record.generation), state });
    }

    /// No generation up to this one is given again.
    pub fn continue_after(&mut self, generation: u64) {
        self.last_generation = self.last_generation.max(generation);
    }

    pub fn last_generation(&self) -> u64 {
        self.last_generation
    }

    pub fn same_as(&self, other: &Claims) -> bool {
        self.claims == other.claims
    }
}
