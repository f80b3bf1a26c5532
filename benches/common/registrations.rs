//! Owns registrations like those of the rendezvous scenario of `waypost bench`, and registries that hold them. Must not know
//! what is measured with them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::clock::Millis;
use waypost::id::{PeerId, TokenDigest};
use waypost::limits::Limits;
use waypost::registry::relays;
use waypost::registry::rendezvous::Found;
use waypost::registry::{Boot, Registries};
use waypost::store::Changes;
use waypost::wire::signalling::{Point, RegisterRendezvous};

/// When everything is registered.
pub const NOW: Millis = 1_800_000_000_000;
/// Requests that share a transaction, on average, in the rendezvous scenario.
pub const DRAIN: usize = 20;
const PEERS: usize = 64;
/// Different registrations of one peer.
const RING: usize = 40;
const POINTS: usize = 3;
const DEAD_DROP: usize = 256;

/// Random names of 32 hex characters.
pub struct Names(StdRng);

impl Names {
    pub fn new() -> Names {
        Names(StdRng::seed_from_u64(7))
    }

    pub fn name(&mut self) -> String {
        format!("{:032x}", self.0.random::<u128>())
    }

    pub fn peer(&mut self) -> PeerId {
        PeerId::parse(&self.name()).expect("a peer id")
    }
}

/// 3 points and 1 token of its own, one dead drop at all of the points.
pub fn registration(names: &mut Names, peer: PeerId) -> RegisterRendezvous {
    let points = (0..POINTS).map(|_| Point { name: names.name(), payload: Some(0) }).collect();
    let mut payload = names.name().repeat(DEAD_DROP.div_ceil(32));
    payload.truncate(DEAD_DROP);
    RegisterRendezvous { points, payloads: vec![payload], ..at_token(peer, names.name()) }
}

pub fn at_token(peer: PeerId, token: String) -> RegisterRendezvous {
    RegisterRendezvous {
        peer_id: peer,
        relay_id: String::new(),
        points: Vec::new(),
        tokens: vec![token],
        payloads: Vec::new(),
        resume_token: None,
    }
}

/// Without anything in them, under default limits, in the first boot.
pub fn registries() -> Registries {
    Registries::new(Boot { number: 1, live_since: 1, grace_end: NOW }, &Limits::default())
}

pub fn register(registries: &mut Registries, request: &RegisterRendezvous, changes: &mut Changes) -> Found {
    registries.rendezvous.register(NOW, request, changes).expect("room for one more")
}

/// What is registered over and over; from the second round on each replaces its former self.
pub struct Ring {
    requests: Vec<RegisterRendezvous>,
    turn: usize,
}

impl Ring {
    /// The registrations of the rendezvous scenario.
    pub fn of_scenario(names: &mut Names) -> Ring {
        let peers: Vec<PeerId> = (0..PEERS).map(|_| names.peer()).collect();
        let all = (0..RING).flat_map(|_| peers.clone());
        Ring::of(all.map(|peer| registration(names, peer)).collect())
    }

    /// Pairs of peers at tokens of their own: each registration finds the other one.
    pub fn of_pairs(names: &mut Names) -> Ring {
        let pairs: Vec<[RegisterRendezvous; 2]> = (0..PEERS * RING / 2)
            .map(|_| {
                let token = names.name();
                [(); 2].map(|()| at_token(names.peer(), token.clone()))
            })
            .collect();
        let (one, other): (Vec<_>, Vec<_>) = pairs.into_iter().map(|[one, other]| (one, other)).unzip();
        Ring::of([one, other].concat())
    }

    fn of(requests: Vec<RegisterRendezvous>) -> Ring {
        Ring { requests, turn: 0 }
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn next(&mut self) -> &RegisterRendezvous {
        self.turn = (self.turn + 1) % self.requests.len();
        &self.requests[self.turn]
    }

    /// The next so many, registered.
    pub fn register(&mut self, registries: &mut Registries, count: usize) -> Changes {
        let mut changes = Changes::default();
        for _ in 0..count {
            register(registries, self.next(), &mut changes);
        }
        changes
    }
}

/// A relay that registers, or registers again.
pub fn relay(id: PeerId) -> relays::Registration {
    relays::Registration {
        id,
        max_connections: 20,
        public_key: Some("A".repeat(44)),
        resume: TokenDigest([7; 32]),
        shown_token: None,
        unbroken: true,
    }
}

/// Enters so many relays without load; tells who they are.
pub fn enter_relays(registries: &mut Registries, names: &mut Names, count: usize) -> Vec<PeerId> {
    let enter = |_| {
        let id = names.peer();
        registries.relays.register(NOW, relay(id.clone()), &mut Changes::default());
        id
    };
    (0..count).map(enter).collect()
}
