//! Owns the proof that a flood of distinct ids ends at a cap in every registry: what it takes of memory is bounded, what was
//! there stays as it was, and whoever replaces its own is still served. `ABUSE_FIGURES=1 cargo test --test abuse_ids --
//! --nocapture` prints what it took.

mod common;

use std::net::IpAddr;

use common::registry::{START, from, link};
use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::cli::bench::process::resident_bytes;
use waypost::id::{ChunkName, NodeId, SessionId, SocketId, TokenDigest};
use waypost::limits::{
    Limits, MAX_ANNOUNCED_CHUNKS, MAX_CHUNKS_PER_SOCKET, MAX_CLAIMS, PeerRules, TurnRules,
};
use waypost::live::chunks::{ChunkRelay, Full};
use waypost::registry::peers::{self, Claimant};
use waypost::registry::{Boot, Registries, claims, rendezvous};
use waypost::store::Changes;
use waypost::wire::bootstrap::Register;

const MILLION: usize = 1_000_000;
/// Turns whose changes are thrown away at once: there is no store here.
const PER_COMMIT: usize = 1000;
const MIB: u64 = 1 << 20;
/// `peers.max_bytes`, and a fifth more, since that is an estimate.
const MAX_PEERS_MIB: u64 = 1229;

fn registries() -> Registries {
    let mut limits = Limits::default();
    // Ten times as many are possible by default.
    limits.rendezvous.max_registrations = MILLION;
    let boot = Boot { number: 1, live_since: 0, grace_end: START };
    Registries::new(boot, &limits)
}

/// Runs so many turns and tells by how much memory grew, at most `most` MiB.
fn flood(what: &str, count: usize, most: u64, mut turn: impl FnMut(usize, &mut Changes)) {
    let resident = || resident_bytes(std::process::id()).unwrap();
    let before = resident();
    let mut changes = Changes::default();
    for number in 0..count {
        turn(number, &mut changes);
        if number % PER_COMMIT == 0 {
            changes = Changes::default();
        }
    }
    let grown = resident().saturating_sub(before) / MIB;
    if std::env::var_os("ABUSE_FIGURES").is_some() {
        println!("{count} {what}: {grown} MiB, {} bytes each", grown * MIB / count as u64);
    }
    assert!(grown <= most, "{count} {what} take {grown} MiB, not {most}");
}

fn node(number: usize) -> NodeId {
    NodeId::parse(&format!("node-{number:032}")).unwrap()
}

fn rendezvous_points() {
    let Registries { mut rendezvous, .. } = registries();
    let peer = |number: usize| from(&format!("peer-{number:032}")).point(&format!("point-{number:032}"));
    flood("registrations of a peer and a point each", MILLION, 600, |number, changes| {
        rendezvous.register(START, &peer(number), changes).unwrap();
    });
    let mut changes = Changes::default();
    let refused = Err(rendezvous::Refused::RegistryFull);
    assert_eq!(rendezvous.register(START, &peer(MILLION), &mut changes), refused);
    assert!(changes.is_empty());
    // Whoever comes again replaces its own.
    rendezvous.register(START, &peer(7), &mut changes).unwrap();
    assert_eq!(rendezvous.totals().points, MILLION);
}

fn bootstrap_peers() {
    let mut registries = registries();
    let claimant = Claimant { address: IpAddr::from([192, 0, 2, 1]), token: None };
    let body = br#"{"peerId":"a","addresses":["/ip4/192.0.2.1/tcp/4001"]}"#;
    let Register { peer, .. } = Register::decode(body).unwrap();
    let mut register = |number: usize, changes: &mut Changes| {
        let entry = (node(number), peer.clone());
        registries.register_peer(START, entry, &claimant, TokenDigest([7; 32]), changes)
    };
    // A million, or as many as their bytes allow: memory is what is bounded, by an estimate.
    let (mut entered, mut full) = (0, false);
    flood("bootstrap peers", PeerRules::default().max, MAX_PEERS_MIB, |number, changes| {
        full = full || register(number, changes) == Err(peers::Refused::Full);
        entered += usize::from(!full);
    });
    assert!((MILLION / 2..=MILLION).contains(&entered), "{entered}");
    let mut changes = Changes::default();
    assert_eq!(register(MILLION, &mut changes), Err(peers::Refused::Full));
    assert!(changes.is_empty());
    assert_eq!(register(7, &mut changes), Ok(false), "who is there may come again");
    assert_eq!(registries.peers.len(), entered);
}

fn turn_sessions() {
    let Registries { mut turn, .. } = registries();
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(TurnRules::default().max_sessions, MILLION);
    turn.set_capacity(&node(0), u32::MAX);
    let mut allocate = |number: usize, changes: &mut Changes| {
        let session = SessionId::new(&mut rng);
        turn.allocate(START, session, &node(number), |_| true, changes).is_some()
    };
    flood("TURN sessions", MILLION, 500, |number, changes| assert!(allocate(number, changes)));
    let mut changes = Changes::default();
    assert!(!allocate(MILLION, &mut changes) && changes.is_empty());
    assert_eq!(turn.len(), MILLION);
}

fn claims_in_their_grace() {
    let Registries { mut claims, .. } = registries();
    let name = |number: usize| link(&format!("{number:0>256}"));
    let mut last = None;
    flood("claims in their grace", MAX_CLAIMS, 150, |number, changes| {
        let id = name(number);
        let claimed = claims.claim(START, &id, None, changes).unwrap();
        assert!(claims.release(START, &id, claimed.generation, changes));
        last = Some(claimed.generation);
    });
    let mut changes = Changes::default();
    assert_eq!(claims.claim(START, &link("one more"), None, &mut changes), Err(claims::Refused::Full));
    assert!(changes.is_empty());
    // Binaries come back to what is theirs, and what has ended makes room.
    assert_eq!(claims.claim(START, &name(7), None, &mut changes).unwrap().found, claims::Found::Standing);
    let later = START + 3_600_000;
    claims.expire(&name(8), later, &mut changes);
    assert_eq!(
        claims.claim(later, &link("one more"), None, &mut changes).unwrap().found,
        claims::Found::Free
    );
    assert_eq!(claims.len(), MAX_CLAIMS);
}

fn announced_chunks() {
    let mut relay = ChunkRelay::new(std::time::Duration::from_secs(10));
    let now = std::time::Duration::ZERO;
    let key = |number: usize| ChunkName::parse("c", &format!("chunk-{number:032}")).unwrap().key();
    let mut announce = |socket: usize, number: usize| {
        let (socket, keys) = (SocketId(socket as u64), [key(number)]);
        relay.admit(socket, &keys).map(|()| relay.announce(now, socket, &keys))
    };
    assert_eq!(MAX_ANNOUNCED_CHUNKS, MILLION);
    flood("announced chunks", MILLION, 700, |number, _| {
        assert_eq!(announce(number / MAX_CHUNKS_PER_SOCKET, number), Ok(()));
    });
    assert_eq!(announce(MILLION, MILLION), Err(Full::All), "the next socket's first one");
    assert_eq!(announce(0, MILLION), Err(Full::Socket));
    assert_eq!(announce(0, 7), Ok(()), "again");
    assert_eq!(relay.counts().sources, MILLION);
    relay.leave(now, SocketId(0));
    assert_eq!(relay.admit(SocketId(MILLION as u64), &[key(MILLION)]), Ok(()), "there is room again");
}

/// Each by itself, since memory is that of the whole process.
#[test]
fn a_million_distinct_ids_end_at_a_cap_in_every_registry_and_take_bounded_memory() {
    // The smallest first: what one has given back, the next may take again.
    claims_in_their_grace();
    turn_sessions();
    announced_chunks();
    rendezvous_points();
    bootstrap_peers();
}
