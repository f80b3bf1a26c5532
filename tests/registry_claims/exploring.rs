//! Every interleaving of three contenders for one server-id, late exits, sweeps, time and restarts, state by state.
//!
//! Owns the exploration and what must hold in each state. Time and generations are arguments; there is no store here: the
//! number of rows is held against the table, and claims are copied through the records that the fold would read.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use waypost::clock::Millis;
use waypost::id::{Generation, LinkId};
use waypost::registry::Expired;
use waypost::registry::claims::{Claim, Claims, Found, Refused, State};
use waypost::store::{Changes, ClaimRecord};

use super::common::registry::{START, link};
use super::{GRACE, LEAST, grace, held};

const CONTENDERS: usize = 3;

/// A connection of a contender. It knows its generation once it was told that it holds the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Contender {
    Away,
    /// Was told that this generation holds the id, and waits for what the probe says.
    Probing(u64),
    Holding(u64),
    /// Another one took over, and it is still there.
    Displaced(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Claims, or claims again where its probe found the holder silent.
    Claim(usize),
    /// The probed holder has answered: the newcomer is refused, and leaves.
    Answered(usize),
    /// The connection ends; that it has ended is told later, by `Exit`.
    Close(usize),
    Exit(usize),
    Sweep,
    Pass(Millis),
    JustBeforeTheEnd,
    AtTheEnd,
    /// The daemon starts again from the rows.
    Restart,
}

/// Closed connections whose exit is still on its way, at most.
const EXITS: usize = 4;

struct Exploring {
    claims: Claims,
    now: Millis,
    contenders: [Contender; CONTENDERS],
    exits: Vec<u64>,
    /// What should be there, by the protocol.
    plain: Option<Claim>,
    /// The highest generation of this run, and of what stood when it began.
    given: u64,
    /// Graces that have begun, and have neither ended nor led to a reclaim.
    graces: usize,
    path: Vec<Step>,
}

fn home() -> LinkId {
    link("home")
}

fn standing(claims: &Claims) -> Option<Claim> {
    claims.list(None).next().map(|(_, claim)| *claim)
}

/// The same claims as their rows have them, as after opening the store anew.
fn reloaded(claims: &Claims) -> Claims {
    let mut copy = Claims::new(Duration::from_millis(GRACE));
    for (id, claim) in claims.list(None) {
        let until = match claim.state {
            State::Held => None,
            State::Grace { until } => Some(until),
        };
        copy.load(id.clone(), ClaimRecord { generation: claim.generation.0, until });
    }
    assert!(copy.same_as(claims));
    copy
}

/// The same, within the run.
fn copied(claims: &Claims) -> Claims {
    let mut copy = reloaded(claims);
    copy.continue_after(claims.last_generation());
    copy
}

impl Exploring {
    fn new() -> Exploring {
        Exploring {
            claims: Claims::new(Duration::from_millis(GRACE)),
            now: START,
            contenders: [Contender::Away; CONTENDERS],
            exits: Vec::new(),
            plain: None,
            given: 0,
            graces: 0,
            path: Vec::new(),
        }
    }

    fn copy(&self) -> Exploring {
        let (exits, path) = (self.exits.clone(), self.path.clone());
        Exploring { claims: copied(&self.claims), exits, path, ..*self }
    }

    /// What can happen now.
    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Sweep, Step::Restart];
        for (who, contender) in self.contenders.iter().enumerate() {
            match contender {
                Contender::Away => steps.push(Step::Claim(who)),
                Contender::Probing(_) => steps.extend([Step::Claim(who), Step::Answered(who)]),
                Contender::Holding(_) | Contender::Displaced(_) if self.exits.len() < EXITS => {
                    steps.push(Step::Close(who));
                }
                Contender::Holding(_) | Contender::Displaced(_) => {}
            }
        }
        steps.extend((0..self.exits.len()).map(Step::Exit));
        if let Some(Claim { state: State::Grace { until }, .. }) = self.plain {
            steps.extend((until > self.now).then_some(Step::Pass(GRACE - LEAST)));
            steps.extend((until > self.now + 1).then_some(Step::JustBeforeTheEnd));
            steps.extend((until > self.now).then_some(Step::AtTheEnd));
        }
        steps
    }

    fn run(&mut self, step: Step) {
        self.path.push(step);
        match step {
            Step::Claim(who) => self.claim(who),
            Step::Answered(who) => self.contenders[who] = Contender::Away,
            Step::Close(who) => {
                if let Contender::Holding(generation) | Contender::Displaced(generation) =
                    self.contenders[who]
                {
                    self.exits.push(generation);
                }
                self.contenders[who] = Contender::Away;
            }
            Step::Exit(which) => self.exit(which),
            Step::Sweep => self.sweep(),
            Step::Pass(millis) => self.now += millis,
            Step::JustBeforeTheEnd | Step::AtTheEnd => {
                let Some(Claim { state: State::Grace { until }, .. }) = self.plain else { unreachable!() };
                self.now = until - Millis::from(step == Step::JustBeforeTheEnd);
            }
            Step::Restart => self.restart(),
        }
        self.prove();
    }

    fn claim(&mut self, who: usize) {
        let silent = match self.contenders[who] {
            Contender::Probing(generation) => Some(Generation(generation)),
            _ => None,
        };
        let mut changes = Changes::default();
        let answer = self.claims.claim(self.now, &home(), silent, &mut changes);
        let (found, rows) = match self.plain {
            None => (Found::Free, 2),
            Some(Claim { generation, state: State::Held }) if silent != Some(generation) => {
                assert_eq!((answer, changes.rows()), (Err(Refused::Taken(generation)), 0), "{:?}", self.path);
                // It was told whom to probe, and got nothing that it could release.
                self.contenders[who] = Contender::Probing(generation.0);
                return;
            }
            Some(Claim { state: State::Held, .. }) => (Found::Standing, 1),
            Some(Claim { state: State::Grace { until }, .. }) => {
                self.graces -= 1;
                (if until > self.now { Found::Standing } else { Found::Over }, 3)
            }
        };
        let Ok(claimed) = answer else { panic!("{answer:?} after {:?}", self.path) };
        assert_eq!((claimed.found, changes.rows()), (found, rows), "{:?}", self.path);
        assert!(claimed.generation.0 > self.given, "{:?} again after {:?}", claimed.generation, self.path);
        self.given = claimed.generation.0;
        for other in &mut self.contenders {
            if let Contender::Holding(generation) = *other {
                assert_eq!(silent, Some(Generation(generation)), "displaced unasked after {:?}", self.path);
                *other = Contender::Displaced(generation);
            }
        }
        self.contenders[who] = Contender::Holding(claimed.generation.0);
        self.plain = held(claimed.generation.0);
    }

    fn exit(&mut self, which: usize) {
        let generation = self.exits.remove(which);
        let mut changes = Changes::default();
        let released = self.claims.release(self.now, &home(), Generation(generation), &mut changes);
        let holds = self.plain == held(generation);
        assert_eq!((released, changes.rows()), (holds, if holds { 3 } else { 0 }), "{:?}", self.path);
        if released {
            self.graces += 1;
            self.plain = grace(generation, self.now + GRACE);
        }
    }

    fn sweep(&mut self) {
        let mut changes = Changes::default();
        let expired = self.claims.expire(&home(), self.now, &mut changes);
        let over =
            matches!(self.plain, Some(Claim { state: State::Grace { until }, .. }) if until <= self.now);
        let expected = if over { (Expired::Gone, 2) } else { (Expired::Kept, 0) };
        assert_eq!((expired, changes.rows()), expected, "{:?}", self.path);
        if expired == Expired::Gone {
            self.graces -= 1;
            self.plain = None;
        }
    }

    fn restart(&mut self) {
        self.claims = reloaded(&self.claims);
        self.claims.restart(self.now, &mut Changes::default());
        self.contenders = [Contender::Away; CONTENDERS];
        self.exits.clear();
        if let Some(claim) = &mut self.plain {
            let until = match claim.state {
                State::Held => {
                    self.graces += 1;
                    self.now + GRACE
                }
                State::Grace { until } => until.max(self.now + LEAST),
            };
            claim.state = State::Grace { until };
        }
        self.given = self.plain.map_or(0, |claim| claim.generation.0);
    }

    /// What holds in every state.
    fn prove(&self) {
        let path = &self.path;
        assert_eq!(standing(&self.claims), self.plain, "{path:?}");
        let is_over = |state| matches!(state, State::Grace { until } if until <= self.now);
        let counts = self.plain.filter(|claim| !is_over(claim.state));
        assert_eq!(self.claims.get(&home(), self.now), counts, "{path:?}");

        // One holder at a time, and it is the one that the claim names.
        let mut holders = self.contenders.iter().filter_map(|contender| match contender {
            Contender::Holding(generation) => Some(*generation),
            _ => None,
        });
        if let Some(generation) = holders.next() {
            assert_eq!(self.plain, held(generation), "{path:?}");
        }
        assert_eq!(holders.next(), None, "{path:?}");

        // A grace is open exactly while the state is one.
        let in_grace = matches!(self.plain, Some(Claim { state: State::Grace { .. }, .. }));
        assert_eq!(self.graces, usize::from(in_grace), "{path:?}");

        // A late exit changes nothing, whichever it is and how often it comes.
        for generation in (0..=self.given + 1).filter(|generation| self.plain != held(*generation)) {
            let (mut claims, mut changes) = (copied(&self.claims), Changes::default());
            let released = claims.release(self.now + 1, &home(), Generation(generation), &mut changes);
            assert!(!released && changes.is_empty(), "{generation} released after {path:?}");
            assert_eq!(standing(&claims), self.plain, "{generation} released after {path:?}");
        }

        // Whatever there is ends once at most, and a held claim never.
        let (mut claims, mut changes) = (copied(&self.claims), Changes::default());
        let ends = (0..2).filter(|_| claims.expire(&home(), Millis::MAX, &mut changes) == Expired::Gone);
        assert_eq!(ends.count(), self.graces, "{path:?}");
    }

    /// Everything that what comes next depends on: generations by their order, ends by what is left.
    fn canonical(&self) -> impl Eq + std::hash::Hash + use<> {
        let mut known: Vec<u64> = self.exits.clone();
        known.extend(self.plain.map(|claim| claim.generation.0));
        known.extend([0, self.given, self.claims.last_generation()]);
        known.extend(self.contenders.iter().filter_map(|contender| match contender {
            Contender::Away => None,
            Contender::Probing(it) | Contender::Holding(it) | Contender::Displaced(it) => Some(*it),
        }));
        known.sort_unstable();
        known.dedup();
        let rank = |generation: u64| known.partition_point(|other| *other < generation) as u64;
        let contenders = self.contenders.map(|contender| match contender {
            Contender::Away => Contender::Away,
            Contender::Probing(it) => Contender::Probing(rank(it)),
            Contender::Holding(it) => Contender::Holding(rank(it)),
            Contender::Displaced(it) => Contender::Displaced(rank(it)),
        });
        let mut exits: Vec<u64> = self.exits.iter().map(|exit| rank(*exit)).collect();
        exits.sort_unstable();
        let plain = self.plain.map(|claim| match claim.state {
            State::Held => (rank(claim.generation.0), None),
            State::Grace { until } => (rank(claim.generation.0), Some(until.saturating_sub(self.now))),
        });
        (contenders, exits, plain, rank(self.given), rank(self.claims.last_generation()))
    }
}

/// Every state that three contenders can bring about, each once: breadth first, so that a failure shows a shortest path.
#[test]
fn no_interleaving_gives_an_id_to_two_or_ends_a_grace_twice() {
    let start = Exploring::new();
    let mut seen = HashSet::from([start.canonical()]);
    let mut waiting = VecDeque::from([start]);
    while let Some(state) = waiting.pop_front() {
        for step in state.steps() {
            let mut next = state.copy();
            next.run(step);
            if seen.insert(next.canonical()) {
                waiting.push_back(next);
            }
        }
    }
    assert!(seen.len() > 10_000, "{} states are too few to prove anything", seen.len());
}
