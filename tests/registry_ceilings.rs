//! Owns the proof that the rendezvous registry's ceilings hold, refuse a message whole, and leave room for what
//! replaces one's own.

mod common;

use common::registry::{HOUR, Meet, START, World, from};
use waypost::clock::Millis;
use waypost::limits::{Limits, MAX_DROP_BYTES_PER_RESULT, MAX_DROPS_PER_RESULT, MAX_ENTRIES_PER_POINT};
use waypost::registry::rendezvous::Refused;

/// The message is refused and nothing has changed by it.
fn refused(world: &mut World, now: Millis, request: &Meet, why: Refused) {
    let before = world.registries.rendezvous.totals();
    world.change(|registries, changes| {
        assert_eq!(registries.rendezvous.register(now, request, changes), Err(why));
        assert!(changes.is_empty(), "refused whole");
    });
    assert_eq!(world.registries.rendezvous.totals(), before);
}

/// Registers that many peers, alike.
fn crowd(world: &mut World, size: usize, request: impl Fn(Meet) -> Meet) {
    for number in 0..size {
        world.meet(START, &request(from(&format!("peer-{number}")))).unwrap();
    }
}

#[test]
fn a_full_point_refuses_the_65th_peer_and_the_whole_message() {
    let mut world = World::new();
    crowd(&mut world, MAX_ENTRIES_PER_POINT, |peer| peer.drop("p", "hello"));
    refused(&mut world, START, &from("ann").drop("free", "hello").drop("p", "hello"), Refused::PointFull);
    assert!(world.droppers(START, &from("bob").point("free")).is_empty());
}

#[test]
fn a_full_token_refuses_as_a_full_point_does() {
    let mut world = World::new();
    crowd(&mut world, MAX_ENTRIES_PER_POINT, |peer| peer.token("t"));
    refused(&mut world, START, &from("ann").token("t").drop("free", "hello"), Refused::PointFull);
}

#[test]
fn at_a_full_point_ones_own_entry_may_still_be_replaced() {
    let mut world = World::new();
    crowd(&mut world, MAX_ENTRIES_PER_POINT, |peer| peer.drop("p", "hello").token("t"));
    let found = world.meet(START, &from("peer-7").drop("p", "again").token("t")).unwrap();
    assert_eq!((found.drops.len(), found.live.len()), (63, 63));
    assert_eq!(world.registries.rendezvous.totals().points, 64);
}

#[test]
fn what_has_expired_makes_room_without_a_sweep() {
    let mut world = World::new();
    crowd(&mut world, MAX_ENTRIES_PER_POINT, |peer| peer.token("t"));
    refused(&mut world, START + 3 * HOUR - 1, &from("ann").token("t"), Refused::PointFull);
    world.meet(START + 3 * HOUR, &from("ann").token("t")).unwrap();
}

#[test]
fn tokens_that_ended_with_the_grace_make_room() {
    let mut world = World::new();
    crowd(&mut world, MAX_ENTRIES_PER_POINT, |peer| peer.token("t"));
    world.restart(START);
    let end = world.grace_end();
    refused(&mut world, end - 1, &from("ann").token("t"), Refused::PointFull);
    world.meet(end, &from("ann").token("t")).unwrap();
}

#[test]
fn a_peer_holds_500_points_and_not_one_more() {
    let mut world = World::new();
    for tens in 0..10 {
        world.meet(START, &from("ann").points("p", 50 * tens..50 * (tens + 1))).unwrap();
    }
    refused(&mut world, START, &from("ann").point("one more"), Refused::PeerQuota);
    refused(&mut world, START, &from("ann").points("p", 0..49).point("one more"), Refused::PeerQuota);
    world.meet(START, &from("ann").points("p", 25..75)).unwrap();
    assert_eq!(world.registries.rendezvous.totals().points, 500);
    world.meet(START, &from("ann").token("points do not count as tokens")).unwrap();
    world.meet(START, &from("bob").point("one more")).unwrap();
    world.meet(START + 48 * HOUR, &from("ann").point("one more")).unwrap();
}

#[test]
fn a_peer_holds_500_tokens_and_not_one_more() {
    let mut world = World::new();
    for tens in 0..10 {
        world.meet(START, &from("ann").tokens("t", 50 * tens..50 * (tens + 1))).unwrap();
    }
    refused(&mut world, START, &from("ann").token("one more"), Refused::PeerQuota);
    world.meet(START, &from("ann").tokens("t", 450..500)).unwrap();
    world.leave("ann");
    world.meet(START, &from("ann").token("one more")).unwrap();
}

#[test]
fn a_full_registry_refuses() {
    let mut world = World::with(|limits| limits.rendezvous.max_registrations = 2);
    world.meet(START, &from("ann").point("p")).unwrap();
    world.meet(START, &from("bob").point("p")).unwrap();
    refused(&mut world, START, &from("cat").point("p"), Refused::RegistryFull);
    assert_eq!(world.sweep(START + 48 * HOUR).len(), 2);
    world.meet(START + 48 * HOUR, &from("cat").point("p")).unwrap();
}

#[test]
fn names_and_payloads_fill_the_registry_by_their_bytes() {
    let mut world = World::with(|limits| limits.rendezvous.max_stored_bytes = 29);
    // Five names of three bytes and one payload that they share.
    world.meet(START, &from("ann").shared_drop("p", 0..5, "12345")).unwrap();
    refused(&mut world, START, &from("bob").drop("p", "123456789"), Refused::RegistryFull);
    world.meet(START, &from("bob").drop("p", "12345678")).unwrap();
    refused(&mut world, START, &from("cat").token("t"), Refused::RegistryFull);
    world.leave("ann");
    assert_eq!(world.sweep(START + 48 * HOUR).len(), 2);
    world.meet(START + 48 * HOUR, &from("cat").token("t")).unwrap();
}

#[test]
fn points_and_tokens_fill_the_registry_by_their_number() {
    let mut world = World::with(|limits| limits.rendezvous.max_entries = 4);
    world.meet(START, &from("ann").point("p").token("t").token("u")).unwrap();
    refused(&mut world, START, &from("bob").point("p").token("t"), Refused::RegistryFull);
    world.meet(START, &from("bob").point("p")).unwrap();
    world.leave("ann");
    world.meet(START, &from("cat").token("t").token("u")).unwrap();
}

/// A flood must not keep those from coming back who were there before it.
#[test]
fn in_a_full_registry_ones_own_may_still_be_replaced_and_nothing_more() {
    let full = [
        |limits: &mut Limits| limits.rendezvous.max_registrations = 3,
        |limits: &mut Limits| limits.rendezvous.max_entries = 5,
        |limits: &mut Limits| limits.rendezvous.max_stored_bytes = 5 + 6,
    ];
    for limit in full {
        let mut world = World::with(limit);
        let ann = || from("ann").drop("p", "hello").token("t");
        world.meet(START, &ann()).unwrap();
        world.meet(START, &from("ann").point("q")).unwrap();
        world.meet(START, &from("bob").point("p").token("u")).unwrap();
        let full = world.registries.rendezvous.totals();
        refused(&mut world, START, &from("cat").drop("p", "hello").point("q"), Refused::RegistryFull);
        world.meet(START + 1, &ann()).unwrap();
        assert_eq!(world.registries.rendezvous.totals(), full);
        // Of a registration that keeps a token the point is replaced, but it stays.
        refused(
            &mut world,
            START,
            &from("ann").drop("p", "hello").point("r").point("s"),
            Refused::RegistryFull,
        );
        // Two go for one.
        world.meet(START + 2, &from("ann").drop("p", "hi").point("q").token("t")).unwrap();
        assert_eq!(world.registries.rendezvous.totals().points, full.points);
    }
}

/// Leaves room for one more at each point.
const OTHERS: usize = MAX_ENTRIES_PER_POINT - 1;

#[test]
fn a_result_is_cut_at_256_dead_drops() {
    let mut world = World::new();
    crowd(&mut world, OTHERS, |peer| peer.shared_drop("p", 0..4, "x"));
    crowd(&mut world, MAX_DROPS_PER_RESULT - 4 * OTHERS, |peer| peer.drop("a few", "x"));
    crowd(&mut world, 1, |peer| peer.drop("one too many", "x"));
    let request = || from("ann").points("empty", 0..9).points("p", 0..4).point("a few");
    let whole = world.meet(START, &request()).unwrap();
    assert_eq!((whole.drops.len(), whole.truncated), (256, false));
    let cut = world.meet(START, &request().point("one too many")).unwrap();
    assert_eq!((cut.drops, cut.truncated), (whole.drops, true));
}

#[test]
fn a_result_is_cut_at_512_kib_in_its_order() {
    let mut world = World::new();
    let payload = "x".repeat(4096);
    let fits = MAX_DROP_BYTES_PER_RESULT / payload.len();
    crowd(&mut world, OTHERS, |peer| peer.shared_drop("p", 0..2, &payload));
    crowd(&mut world, fits - 2 * OTHERS, |peer| peer.drop("a few", &payload));
    crowd(&mut world, 1, |peer| peer.drop("small", "x"));
    let whole = world.meet(START, &from("ann").points("p", 0..2).point("a few")).unwrap();
    assert_eq!((whole.drops.len(), whole.truncated), (128, false));

    let request = from("ann").point("small").points("p", 0..2).point("a few").point("small too");
    let cut = world.meet(START, &request).unwrap();
    assert_eq!((cut.drops.len(), cut.truncated), (128, true));
    assert_eq!(cut.drops[0].from.meeting_point, "small");
    assert_eq!(cut.drops[1..], whole.drops[..127]);
}

#[test]
fn a_cut_result_still_tells_who_is_live() {
    let mut world = World::new();
    crowd(&mut world, OTHERS, |peer| peer.shared_drop("p", 0..5, "x").token("t"));
    let found = world.meet(START, &from("ann").points("p", 0..5).token("t")).unwrap();
    assert_eq!((found.drops.len(), found.truncated, found.live.len()), (256, true, OTHERS));
}
