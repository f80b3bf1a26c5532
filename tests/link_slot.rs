//! Owns the proof that a slot keeps its books: whatever order phones and binaries come, speak and go in, nothing is lost,
//! doubled or counted twice, and in the end nothing is left. No sockets: outboxes are read by hand.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::id::{ConnId, Generation, LinkId, SocketId};
use waypost::limits::{LinkRules, WAITING_BYTES, WAITING_FRAMES};
use waypost::live::link::{Attached, Delivered, Forwarded, Holding, Links, Slot};
use waypost::live::outbox::{Budget, Ceiling, Close, Outbox, weight};
use waypost::metrics::Metrics;
use waypost::wire::link::{envelope, left};

const MAX_PHONES: usize = 3;
/// What a phone may have queued.
const QUEUE: usize = 4096;

struct World {
    links: Links,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    rng: StdRng,
    sockets: u64,
    generation: u64,
    slot: Option<Arc<Slot>>,
    holder: Option<(SocketId, Generation)>,
    open: bool,
    phones: Vec<(Arc<Outbox>, Attached)>,
    gone: Vec<Arc<Outbox>>,
    /// What the binary is to read, in order: of whom, the text, and the bytes of a frame.
    waiting: VecDeque<(ConnId, String, usize)>,
    /// Bytes in the phones' outboxes.
    queued: HashMap<SocketId, usize>,
    departed: Vec<ConnId>,
}

fn home() -> LinkId {
    LinkId::parse("home").unwrap()
}

impl World {
    fn new(total: usize) -> World {
        let metrics = Arc::new(Metrics::default());
        let budget = Budget::new(total, metrics.clone());
        let rules = LinkRules { max_phones: MAX_PHONES, ..LinkRules::default() };
        World {
            links: Links::new(&rules, budget.clone(), metrics.clone()),
            budget,
            metrics,
            rng: StdRng::seed_from_u64(3),
            sockets: 0,
            generation: 0,
            slot: None,
            holder: None,
            open: false,
            phones: Vec::new(),
            gone: Vec::new(),
            waiting: VecDeque::new(),
            queued: HashMap::new(),
            departed: Vec::new(),
        }
    }

    fn outbox(&mut self) -> Arc<Outbox> {
        self.sockets += 1;
        let ceiling = Ceiling { bytes: QUEUE, full: Close::BACKLOG_FULL };
        let address = IpAddr::from([127, 0, 0, 1]);
        Outbox::new(SocketId(self.sockets), address, Duration::ZERO, ceiling, self.budget.clone())
    }

    fn hold(&mut self) {
        let outbox = self.outbox();
        let old = self.holder.take();
        self.generation += 1;
        let generation = Generation(self.generation);
        let holding = Holding { id: home(), generation, afresh: old.is_none() };
        let (slot, replaced) = self.links.hold(holding, outbox.clone());
        assert_eq!(replaced.map(|outbox| outbox.socket), old.map(|(socket, _)| socket));
        if let Some((socket, generation)) = old {
            assert!(self.links.leave(socket).is_none(), "its late exit does nothing");
            for (_, attached) in &self.phones {
                let conn_id = attached.conn_id.as_str();
                assert_eq!(slot.dismiss(generation, conn_id, Close::SHUTDOWN), Delivered::Unknown);
            }
        }
        assert!(slot.next(generation).is_none(), "nothing flows before the claim is on the disk");
        (self.slot, self.holder, self.open) = (Some(slot), Some((outbox.socket, generation)), false);
    }

    fn attach(&mut self) {
        let (conn_id, outbox) = (ConnId::new(&mut self.rng), self.outbox());
        let attached = self.links.attach(&home(), conn_id, outbox.clone());
        assert_eq!(attached.is_some(), self.phones.len() < MAX_PHONES);
        if let Some(attached) = attached {
            self.slot = Some(attached.slot.clone());
            self.phones.push((outbox, attached));
        }
    }

    fn forward(&mut self, which: usize, bytes: usize) {
        let Some((_, attached)) = self.phones.get(which % self.phones.len().max(1)) else { return };
        let frame = "1".repeat(bytes);
        let text = envelope(&attached.conn_id, &frame);
        let own = self.waiting.iter().filter(|(conn_id, ..)| *conn_id == attached.conn_id);
        let (frames, waiting) = own.fold((0, 0), |(frames, sum), (.., bytes)| (frames + 1, sum + bytes));
        let fits = frames < WAITING_FRAMES && waiting + bytes <= WAITING_BYTES;
        let room = self.budget.used() <= self.budget.total;
        match attached.slot.forward(&attached.conn_id, &text.as_str().into(), bytes) {
            Forwarded::Done => {
                assert!(if self.holder.is_some() { fits || frames == 0 } else { fits && room });
                self.waiting.push_back((attached.conn_id.clone(), text, bytes));
            }
            Forwarded::Wait(_) => assert!(!fits && self.holder.is_some()),
            Forwarded::Full => assert!((!fits || !room) && self.holder.is_none()),
            Forwarded::Gone => panic!("it is attached"),
        }
    }

    fn read(&mut self, most: usize) {
        let (Some(slot), Some((_, generation))) = (&self.slot, self.holder) else { return };
        if !self.open {
            slot.open(generation);
            self.open = true;
        }
        for earlier in 1..generation.0 {
            assert!(slot.next(Generation(earlier)).is_none(), "one that was displaced reads nothing");
            for (_, attached) in &self.phones {
                let conn_id = attached.conn_id.as_str();
                assert_eq!(slot.deliver(Generation(earlier), conn_id, "1"), Delivered::Unknown);
            }
        }
        for _ in 0..most {
            let expected = self.waiting.pop_front();
            assert_eq!(
                slot.next(generation).map(|text| text.to_string()),
                expected.clone().map(|(_, text, _)| text)
            );
            if let Some((conn_id, text, _)) = expected
                && !text.contains("frame")
            {
                self.departed.retain(|departed| *departed != conn_id);
            }
        }
    }

    fn deliver(&mut self, which: usize, bytes: usize) {
        let (Some(slot), Some((_, generation)), true) = (&self.slot, self.holder, self.open) else { return };
        let Some((outbox, attached)) = self.phones.get(which % self.phones.len().max(1)) else { return };
        let queued = self.queued.entry(outbox.socket).or_default();
        match slot.deliver(generation, attached.conn_id.as_str(), &"1".repeat(bytes)) {
            Delivered::Done => *queued += weight(&"1".repeat(bytes).into()),
            Delivered::Full => assert_eq!(outbox.take().close, Some(Close::BACKLOG_FULL)),
            Delivered::Unknown => assert!(outbox.is_closing()),
        }
    }

    /// The phone's socket takes what is queued.
    fn take(&mut self, which: usize) {
        let Some((outbox, _)) = self.phones.get(which % self.phones.len().max(1)) else { return };
        while let Some(text) = outbox.next() {
            outbox.sent(weight(&text));
        }
        self.queued.remove(&outbox.socket);
    }

    fn dismiss(&mut self, which: usize) {
        let (Some(slot), Some((_, generation)), true) = (&self.slot, self.holder, self.open) else { return };
        if self.phones.is_empty() {
            return;
        }
        let (outbox, attached) = self.phones.remove(which % self.phones.len());
        assert_eq!(slot.dismiss(generation, attached.conn_id.as_str(), Close::SHUTDOWN), Delivered::Done);
        self.waiting.retain(|(conn_id, ..)| *conn_id != attached.conn_id);
        drop(attached);
        self.end(outbox);
    }

    fn detach(&mut self, which: usize) {
        // Past this the first to leave are forgotten: a story of its own tells how.
        if self.phones.is_empty() || self.departed.len() == MAX_PHONES {
            return;
        }
        let (outbox, attached) = self.phones.remove(which % self.phones.len());
        let conn_id = attached.conn_id.clone();
        attached.leave(4000);
        self.waiting.push_back((conn_id.clone(), left(&conn_id, 4000), 0));
        self.departed.push(conn_id);
        self.end(outbox);
    }

    fn end(&mut self, outbox: Arc<Outbox>) {
        outbox.end();
        self.queued.remove(&outbox.socket);
        self.gone.push(outbox);
    }

    fn leave(&mut self) {
        if let Some((socket, generation)) = self.holder.take() {
            let (holding, opened) = self.links.leave(socket).unwrap();
            assert_eq!((holding.generation, opened), (generation, self.open));
            self.open = false;
        }
    }

    /// The grace is over.
    fn over(&mut self) {
        if self.holder.is_some() {
            return;
        }
        assert_eq!(self.links.end(&home()).len(), self.phones.len());
        for (outbox, attached) in std::mem::take(&mut self.phones) {
            attached.leave(1011);
            self.end(outbox);
        }
        self.waiting.clear();
        self.departed.clear();
        self.slot = None;
    }

    fn check(&self) {
        let waiting: usize = self.waiting.iter().map(|(.., bytes)| bytes).sum();
        assert_eq!(self.links.phones(&home()), (self.phones.len(), waiting));
        let queued: usize = self.queued.values().sum();
        assert_eq!(self.budget.used(), waiting + queued);
        assert_eq!(self.metrics.unsent.get() as usize, self.budget.used());
        for outbox in &self.gone {
            assert_eq!(outbox.unsent(), 0);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Hold,
    Leave,
    Over,
    Attach,
    Detach(usize),
    Dismiss(usize),
    Forward(usize, usize),
    Read(usize),
    Deliver(usize, usize),
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0..MAX_PHONES;
    prop_oneof![
        2 => Just(Step::Hold),
        2 => Just(Step::Leave),
        1 => Just(Step::Over),
        3 => Just(Step::Attach),
        2 => which().prop_map(Step::Detach),
        1 => which().prop_map(Step::Dismiss),
        8 => (which(), prop_oneof![1..100_usize, Just(400_000)]).prop_map(|(who, bytes)| Step::Forward(who, bytes)),
        4 => (0..100_usize).prop_map(Step::Read),
        4 => (which(), 1..2000_usize).prop_map(|(who, bytes)| Step::Deliver(who, bytes)),
        2 => which().prop_map(Step::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_slot_keeps_its_books(steps in proptest::collection::vec(step(), 1..120), tight in any::<bool>()) {
        let mut world = World::new(if tight { 500_000 } else { usize::MAX });
        for step in steps {
            match step {
                Step::Hold => world.hold(),
                Step::Leave => world.leave(),
                Step::Over => world.over(),
                Step::Attach => world.attach(),
                Step::Detach(which) => world.detach(which),
                Step::Dismiss(which) => world.dismiss(which),
                Step::Forward(which, bytes) => world.forward(which, bytes),
                Step::Read(most) => world.read(most),
                Step::Deliver(which, bytes) => world.deliver(which, bytes),
                Step::Take(which) => world.take(which),
            }
            world.check();
        }
        world.leave();
        world.over();
        prop_assert_eq!(world.budget.used(), 0);
    }
}
