//! Link's part of the random-operation model: claims, their graces, phones and what waits for a binary.
//!
//! Owns a naive model of each server-id, the sockets that take part, and the comparison with what the engine says. Must not
//! know the other parts.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use waypost::clock::Clock;
use waypost::engine::{ClaimQuery, Engine, Held, Joined};
use waypost::id::LinkId;
use waypost::live::link::{Attached, Delivered, Forwarded};
use waypost::live::outbox::{Close, weight};
use waypost::wire::link::left;

/// In their order.
const IDS: [&str; 3] = ["home", "my home", "z"];
const GRACE: u64 = 30_000;
const LEAST: u64 = 5_000;
const PROBE: Duration = Duration::from_secs(10);
/// Phones of one server-id; the engine of the model is started with it.
pub const MAX_PHONES: usize = 3;

#[derive(Clone, Debug)]
pub enum LinkStep {
    /// A binary comes; if there is one, that one answers its probe.
    Claim {
        id: usize,
    },
    /// A binary comes; if there is one, it is silent, or its session ends as it is asked.
    TakeOver {
        id: usize,
        waits: bool,
    },
    /// The binary's connection ends.
    Close {
        id: usize,
    },
    /// Sockets of binaries that were displaced end at last.
    LateExits,
    Attach {
        id: usize,
    },
    Detach {
        id: usize,
        which: usize,
    },
    /// A phone sends a frame.
    Send {
        id: usize,
        which: usize,
    },
    /// The binary reads what there is, and writes to each phone.
    Read {
        id: usize,
    },
    Pass {
        millis: u64,
    },
}

pub fn link_step() -> impl Strategy<Value = LinkStep> {
    // Mostly one, so that much happens to it.
    let id = || prop_oneof![3 => Just(0), 1 => 1..IDS.len()];
    let which = || 0..MAX_PHONES;
    let millis = prop_oneof![Just(1), Just(LEAST), Just(GRACE - LEAST), Just(GRACE - 1), Just(GRACE)];
    prop_oneof![
        6 => id().prop_map(|id| LinkStep::Claim { id }),
        4 => (id(), any::<bool>()).prop_map(|(id, waits)| LinkStep::TakeOver { id, waits }),
        4 => id().prop_map(|id| LinkStep::Close { id }),
        1 => Just(LinkStep::LateExits),
        5 => id().prop_map(|id| LinkStep::Attach { id }),
        2 => (id(), which()).prop_map(|(id, which)| LinkStep::Detach { id, which }),
        6 => (id(), which()).prop_map(|(id, which)| LinkStep::Send { id, which }),
        3 => id().prop_map(|id| LinkStep::Read { id }),
        3 => millis.prop_map(|millis| LinkStep::Pass { millis }),
    ]
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Held,
    Grace(u64),
}

/// One server-id.
#[derive(Default)]
struct Id {
    state: State,
    /// `None` where nobody was told: it is learnt when it is shown.
    generation: Option<u64>,
    holder: Option<(Joined, Held)>,
    phones: Vec<(Joined, Attached)>,
    /// What the binary is to read next, and how many of the bytes are a frame's.
    waiting: VecDeque<(String, usize)>,
    /// Phones that have left and of whom the binary has not read.
    departed: usize,
}

pub struct LinkModel {
    clock: Clock,
    ids: [Id; IDS.len()],
    displaced: Vec<(Joined, Held)>,
    /// Binaries that could not be told that they hold the id: their sockets end after the next claim of it.
    failed: Vec<(usize, Joined)>,
    /// Phones whose binary did not come back.
    cut_off: Vec<(Joined, Attached)>,
    /// The highest generation of this run.
    highest: u64,
    sent: u32,
}

fn link(id: usize) -> LinkId {
    LinkId::parse(IDS[id]).unwrap()
}

fn join(engine: &Engine) -> Joined {
    engine.join_phone(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

impl LinkModel {
    pub fn new(clock: &Clock) -> LinkModel {
        LinkModel {
            clock: clock.clone(),
            ids: Default::default(),
            displaced: Vec::new(),
            failed: Vec::new(),
            cut_off: Vec::new(),
            highest: 0,
            sent: 0,
        }
    }

    pub fn is_held(&self, id: usize) -> bool {
        self.ids[id].state == State::Held
    }

    /// A binary was told that it holds the id.
    fn holds(&mut self, id: usize, newcomer: Joined, held: Held) {
        assert!(held.generation.0 > self.highest, "{:?} again", held.generation);
        self.highest = held.generation.0;
        assert!(held.slot.next(held.generation).is_none(), "nothing flows before it is opened");
        held.slot.open(held.generation);
        let it = &mut self.ids[id];
        it.state = State::Held;
        it.generation = Some(held.generation.0);
        if let Some((old, displaced)) = it.holder.replace((newcomer, held)) {
            assert_eq!(old.outbox.take().close, Some(Close::HEARTBEAT_TIMEOUT));
            self.displaced.push((old, displaced));
        }
        self.failed.retain(|(failed, _)| *failed != id);
    }

    async fn claim(&mut self, engine: &Engine, id: usize) {
        let newcomer = join(engine);
        let Ok(held) = engine.claim(&newcomer.outbox, &link(id)).await else { panic!("{} is free", IDS[id]) };
        self.holds(id, newcomer, held);
    }

    /// A claim of an id that is held: the holder answers, is silent, or ends.
    async fn contest(&mut self, engine: &Engine, id: usize, answers: bool, waits: bool) {
        let (newcomer, name) = (join(engine), link(id));
        let (holder, _) = self.ids[id].holder.as_ref().unwrap();
        let probed = async {
            let mut probes = Vec::new();
            while probes.is_empty() {
                holder.outbox.woken().await;
                probes = holder.outbox.take().probes;
            }
            if answers {
                probes.drain(..).for_each(|probe| probe.send(()).unwrap());
            } else if waits {
                self.clock.advance(PROBE);
            } else {
                probes.clear();
            }
            // A probe that is dropped fails at once.
            probes
        };
        let (claimed, _probes) = tokio::join!(engine.claim(&newcomer.outbox, &name), probed);
        match claimed {
            Ok(held) if !answers => self.holds(id, newcomer, held),
            Err(Ok(close)) if answers => {
                assert_eq!(close, Close::SERVER_ID_CLAIMED);
                assert_eq!(holder.outbox.take().close, None, "the holder notices nothing");
            }
            Ok(_) => panic!("two hold {name:?}"),
            Err(error) => panic!("{error:?}"),
        }
    }

    pub async fn run(&mut self, engine: &Engine, step: &LinkStep) {
        match *step {
            LinkStep::Claim { id } | LinkStep::TakeOver { id, .. } if !self.is_held(id) => {
                self.claim(engine, id).await;
            }
            LinkStep::Claim { id } => self.contest(engine, id, true, false).await,
            LinkStep::TakeOver { id, waits } => self.contest(engine, id, false, waits).await,
            LinkStep::Close { id } => self.close(id),
            LinkStep::LateExits => {
                self.displaced.clear();
                self.failed.clear();
            }
            LinkStep::Attach { id } => {
                let phone = join(engine);
                let it = &mut self.ids[id];
                let refused = match it.state {
                    State::Free => Some(Close::NO_SERVER),
                    _ => (it.phones.len() == MAX_PHONES).then_some(Close::TOO_MANY_PHONES),
                };
                match engine.attach(&phone.outbox, &link(id)).await {
                    Ok(attached) if refused.is_none() => it.phones.push((phone, attached)),
                    Err(Ok(close)) => assert_eq!(Some(close), refused),
                    Ok(_) => panic!("a phone attached, and should be told {refused:?}"),
                    Err(error) => panic!("{error:?}"),
                }
            }
            LinkStep::Detach { id, which } => {
                let it = &mut self.ids[id];
                // Past this the frames of the first to leave are forgotten: the slot's own tests know which.
                if which < it.phones.len() && it.departed < MAX_PHONES {
                    let (_joined, attached) = it.phones.remove(which);
                    it.waiting.push_back((left(&attached.conn_id, 4001), 0));
                    it.departed += 1;
                    attached.leave(4001);
                }
            }
            LinkStep::Send { id, which } => {
                let it = &mut self.ids[id];
                let Some((_, phone)) = it.phones.get(which % it.phones.len().max(1)) else { return };
                self.sent += 1;
                let envelope = format!("frame {} of {}", self.sent, phone.conn_id.as_str());
                let forwarded = phone.slot.forward(&phone.conn_id, &envelope.as_str().into(), 100);
                assert!(matches!(forwarded, Forwarded::Done));
                it.waiting.push_back((envelope, 100));
            }
            LinkStep::Read { id } => self.read(id),
            LinkStep::Pass { millis } => self.clock.advance(Duration::from_millis(millis)),
        }
    }

    fn read(&mut self, id: usize) {
        let it = &mut self.ids[id];
        let Some((_, held)) = &it.holder else { return };
        let read = std::iter::from_fn(|| held.slot.next(held.generation));
        let read: Vec<_> = read.map(|text| text.as_str().to_owned()).collect();
        assert_eq!(read, it.waiting.drain(..).map(|(text, _)| text).collect::<Vec<_>>());
        it.departed = 0;
        for (phone, attached) in &it.phones {
            let conn_id = attached.conn_id.as_str();
            assert_eq!(held.slot.deliver(held.generation, conn_id, "1"), Delivered::Done);
            assert_eq!(phone.outbox.next().map(|text| text.as_str().to_owned()).as_deref(), Some("1"));
            phone.outbox.sent(weight(&"1".into()));
            for (_, old) in &self.displaced {
                assert_eq!(old.slot.deliver(old.generation, conn_id, "2"), Delivered::Unknown);
            }
        }
    }

    /// The binary's connection ends.
    pub fn close(&mut self, id: usize) {
        if self.ids[id].holder.take().is_some() {
            self.ids[id].state = State::Grace(self.clock.now() + GRACE);
        }
    }

    /// A claim of an id that is not held, while a storage fault is set. What was committed and not flushed lasts on this
    /// disk; its claimant leaves, and an id that was free is free again.
    pub async fn failing_claim(&mut self, engine: &Engine, id: usize, lasts: bool) {
        let newcomer = join(engine);
        match engine.claim(&newcomer.outbox, &link(id)).await {
            // Another write or flush met the fault, and this came after the recovery.
            Ok(held) => self.holds(id, newcomer, held),
            Err(Ok(close)) => panic!("{close:?}"),
            Err(Err(_)) if lasts && self.ids[id].state == State::Free => {}
            Err(Err(_)) if lasts => {
                self.ids[id].state = State::Grace(self.clock.now() + GRACE);
                self.ids[id].generation = None;
            }
            Err(Err(_)) => self.failed.push((id, newcomer)),
        }
    }

    /// Everything whose time is up has been swept.
    pub fn swept(&mut self) {
        for it in &mut self.ids {
            if matches!(it.state, State::Grace(until) if until <= self.clock.now()) {
                self.cut_off.append(&mut it.phones);
                *it = Id::default();
            }
        }
    }

    /// The daemon closes all sockets, and starts again at this time.
    pub fn restart(&mut self) {
        let now = self.clock.now();
        self.displaced.clear();
        self.failed.clear();
        for it in &mut self.ids {
            let state = match it.state {
                State::Free => State::Free,
                State::Held => State::Grace(now + GRACE),
                State::Grace(until) => State::Grace(until.max(now + LEAST)),
            };
            *it = Id { state, generation: it.generation, ..Id::default() };
        }
        self.highest = self.ids.iter().filter_map(|it| it.generation).max().unwrap_or(0);
    }

    pub async fn compare(&mut self, engine: &Engine) {
        let query = ClaimQuery { limit: IDS.len(), ..ClaimQuery::default() };
        let mut listed = engine.claims(query).await.unwrap().claims.into_iter();
        for (name, it) in IDS.iter().zip(&mut self.ids) {
            let (state, ends) = match it.state {
                State::Free => continue,
                State::Held => ("held", None),
                State::Grace(until) => ("grace", Some(until)),
            };
            let shown = listed.next().unwrap_or_else(|| panic!("{name} is {state} and not shown"));
            if it.generation.is_none() {
                assert!(shown.generation > self.highest, "a generation again");
                self.highest = shown.generation;
            }
            assert_eq!(shown.generation, *it.generation.get_or_insert(shown.generation), "{name}");
            assert_eq!((shown.server_id.as_str(), shown.state.as_str(), shown.ends), (*name, state, ends));
            let socket = it.holder.as_ref().map(|(joined, _)| joined.outbox.socket.0);
            let bytes = it.waiting.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!((shown.phones, shown.waiting_bytes), (it.phones.len(), bytes), "{name}");
            // In a grace one may be there that was told nothing.
            assert!(shown.socket == socket || (socket.is_none() && !self.failed.is_empty()), "{name}");
            for (phone, _) in &it.phones {
                assert_eq!(phone.outbox.take().close, None, "phones stay with {name}");
            }
        }
        assert_eq!(listed.next(), None);
        for (_, old) in &self.displaced {
            assert!(old.slot.next(old.generation).is_none(), "one that was displaced reads nothing");
        }
        // By now the writer has told them.
        for (phone, _) in self.cut_off.drain(..) {
            assert_eq!(phone.outbox.take().close, Some(Close::GRACE_ENDED));
        }
    }
}
