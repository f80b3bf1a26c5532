//! Owns the proof of who meets whom at points and tokens and until when, at the registry's public border and with time
//! as an argument. The quotas and cuts are in `registry_ceilings.rs`.

mod common;

use common::registry::{HOUR, MINUTE, Meet, START, World, from};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::limits::RendezvousRules;
use waypost::registry::Expired;
use waypost::store::{Amendment, Due, LeaseKey};
use waypost::wire::signalling::{ClientMessage, RegisterRendezvous, decode};

fn amendment(points_gone: &[u16], tokens_gone: &[u16]) -> Option<Amendment> {
    Some(Amendment { points_gone: points_gone.to_vec(), tokens_gone: tokens_gone.to_vec() })
}

#[test]
fn daily_points_with_a_dead_drop_are_stored() {
    let mut world = World::new();
    let found = world.meet(START, &from("ann").relay("r1").drop("p", "hello").point("q").token("t")).unwrap();
    assert_eq!((found.live.len(), found.drops.len(), found.truncated), (0, 0, false));
    let totals = world.registries.rendezvous.totals();
    assert_eq!((totals.points, totals.tokens, totals.payload_bytes), (2, 1, 5));
    assert_eq!(world.filed(1), Some((START + 3 * HOUR, None)), "indexed where it first loses something");
}

#[test]
fn an_existing_dead_drop_is_found_by_the_next_peer() {
    let mut world = World::new();
    world.meet(START, &from("ann").relay("r1").drop("p", "hello").drop("other", "not asked for")).unwrap();
    let found = world.meet(START + 1, &from("bob").point("nowhere").point("p")).unwrap();
    assert_eq!(found.drops.len(), 1);
    let drop = &found.drops[0].from;
    assert_eq!((drop.peer.as_str(), &*drop.relay_id, &*drop.meeting_point), ("ann", "r1", "p"));
    assert!(found.live.is_empty(), "points alone never push");

    let expected = |point: &str, payload: &str| ("ann".to_owned(), point.to_owned(), payload.to_owned());
    let both = from("cat").point("other").point("p");
    assert_eq!(world.drops(START + 2, &both), [expected("other", "not asked for"), expected("p", "hello")]);
}

#[test]
fn one_payload_may_lie_at_many_points() {
    let mut world = World::new();
    world.meet(START, &from("ann").shared_drop("p", 0..3, "everywhere")).unwrap();
    assert_eq!(world.registries.rendezvous.totals().payload_bytes, 10);
    let drops = world.drops(START, &from("bob").points("p", 0..4));
    let points: Vec<_> = drops.iter().map(|(_, point, payload)| (point.as_str(), payload.as_str())).collect();
    assert_eq!(points, [("p-0", "everywhere"), ("p-1", "everywhere"), ("p-2", "everywhere")]);
}

#[test]
fn ones_own_is_not_returned() {
    let mut world = World::new();
    let ann = from("ann").drop("p", "mine").token("t");
    world.meet(START, &ann).unwrap();
    let found = world.meet(START, &ann).unwrap();
    assert!(found.drops.is_empty() && found.live.is_empty());
}

#[test]
fn an_entry_without_a_payload_is_no_dead_drop() {
    let mut world = World::new();
    world.meet(START, &from("ann").point("p")).unwrap();
    world.meet(START, &from("bob").drop("p", "")).unwrap();
    assert!(world.drops(START, &from("cat").point("p")).is_empty());
}

#[test]
fn live_matches_on_hourly_tokens() {
    let mut world = World::new();
    world.meet(START, &from("ann").relay("r1").token("t").token("u")).unwrap();
    world.meet(START, &from("bob").token("u").point("t")).unwrap();
    let found = world.meet(START, &from("cat").token("nobody's").token("u").token("t")).unwrap();
    let met = |at: usize| (found.live[at].peer.as_str(), found.live[at].meeting_point.as_str());
    assert_eq!(
        (0..found.live.len()).map(met).collect::<Vec<_>>(),
        [("ann", "u"), ("bob", "u"), ("ann", "t")]
    );
    assert_eq!(found.live[0].relay_id, "r1");
    assert!(found.drops.is_empty());
}

#[test]
fn daily_points_are_there_at_47_hours_and_gone_at_49() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello")).unwrap();
    let bob = from("bob").point("p");
    assert_eq!(world.droppers(START + 47 * HOUR, &bob), ["ann"]);
    assert!(world.droppers(START + 49 * HOUR, &bob).is_empty());
}

#[test]
fn tokens_are_there_at_2_hours_and_gone_at_4() {
    let mut world = World::new();
    world.meet(START, &from("ann").token("t")).unwrap();
    assert_eq!(world.matches(START + 2 * HOUR, &from("bob").token("t")), ["ann"]);
    assert_eq!(world.matches(START + 4 * HOUR, &from("cat").token("t")), ["bob"]);
}

#[test]
fn expiry_is_exact_to_the_millisecond_without_a_sweep() {
    for (after, found) in [(48 * HOUR - 1, true), (48 * HOUR, false)] {
        let mut world = World::new();
        world.meet(START, &from("ann").drop("p", "hello")).unwrap();
        assert_eq!(world.droppers(START + after, &from("bob").point("p")).len(), usize::from(found));
    }
    for (after, found) in [(3 * HOUR - 1, true), (3 * HOUR, false)] {
        let mut world = World::new();
        world.meet(START, &from("ann").token("t")).unwrap();
        assert_eq!(world.matches(START + after, &from("bob").token("t")).len(), usize::from(found));
    }
}

#[test]
fn registering_again_restarts_the_time() {
    let mut world = World::new();
    let ann = from("ann").drop("p", "hello").token("t");
    world.meet(START, &ann).unwrap();
    world.meet(START + 2 * HOUR, &ann).unwrap();
    assert_eq!(world.matches(START + 4 * HOUR, &from("bob").token("t")), ["ann"]);
    assert_eq!(world.droppers(START + 49 * HOUR, &from("bob").point("p")), ["ann"]);
    assert!(world.droppers(START + 50 * HOUR, &from("bob").point("p")).is_empty());
}

#[test]
fn the_same_point_twice_in_a_message_counts_once() {
    let message = |peer: &str| -> RegisterRendezvous {
        let text = format!(
            r#"{{"type":"register_rendezvous","peerId":"{peer}","dailyPoints":["p","q","p"],"hourlyTokens":["t","t"],
                "deadDrop":"hello"}}"#
        );
        match decode(Some(&text), &RendezvousRules::default()) {
            Ok(ClientMessage::RegisterRendezvous(request)) => request,
            other => panic!("{other:?}"),
        }
    };
    let mut world = World::new();
    world.meet(START, &message("ann")).unwrap();
    let totals = world.registries.rendezvous.totals();
    assert_eq!((totals.points, totals.tokens), (2, 1));
    let found = world.meet(START, &message("bob")).unwrap();
    assert_eq!((found.drops.len(), found.live.len()), (2, 1));
}

#[test]
fn a_replaced_entry_is_the_newest_and_the_only_one_of_its_peer() {
    let mut world = World::new();
    for (peer, payload) in [("ann", "old"), ("bob", "b"), ("ann", "new"), ("cat", "c")] {
        world.meet(START, &from(peer).relay(payload).drop("p", payload).token("t")).unwrap();
    }
    let found = world.meet(START, &from("dan").point("p").token("t")).unwrap();
    let relays = |meetings: Vec<&str>| assert_eq!(meetings, ["b", "new", "c"]);
    relays(found.drops.iter().map(|drop| drop.from.relay_id.as_str()).collect());
    relays(found.live.iter().map(|meeting| meeting.relay_id.as_str()).collect());
    let payloads = world.drops(START, &from("eve").point("p"));
    assert_eq!(payloads[1], ("ann".to_owned(), "p".to_owned(), "new".to_owned()));
}

#[test]
fn a_registration_that_is_replaced_in_part_is_amended() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "old p").drop("q", "old q").token("t").token("u")).unwrap();
    world.meet(START + MINUTE, &from("ann").drop("q", "new q").token("t")).unwrap();
    assert_eq!(world.filed(1), Some((START + 3 * HOUR, amendment(&[1], &[0]))));
    assert_eq!(world.filed(2), Some((START + MINUTE + 3 * HOUR, None)));
    let payloads: Vec<_> = world
        .drops(START + MINUTE, &from("bob").point("p").point("q"))
        .into_iter()
        .map(|drop| drop.2)
        .collect();
    assert_eq!(payloads, ["old p", "new q"]);
    assert_eq!(
        world.matches(START + 3 * HOUR, &from("bob").token("t").token("u")),
        ["ann"],
        "t lives on, u not"
    );
}

#[test]
fn a_registration_whose_everything_was_replaced_is_removed() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello").point("q").token("t")).unwrap();
    world.meet(START, &from("ann").point("p").token("t")).unwrap();
    assert_eq!(world.registries.rendezvous.len(), 2);
    world.meet(START, &from("ann").drop("q", "there")).unwrap();
    // The newest one has taken its place in the store.
    assert_eq!((world.filed(1).is_some(), world.filed(3)), (true, None));
    assert_eq!(world.registries.rendezvous.len(), 2);
    let totals = world.registries.rendezvous.totals();
    assert_eq!((totals.points, totals.tokens, totals.payload_bytes), (2, 1, 5));
}

#[test]
fn a_request_that_names_nothing_changes_nothing() {
    let mut world = World::with(|limits| limits.rendezvous.max_registrations = 1);
    world.meet(START, &from("ann").point("p")).unwrap();
    world.change(|registries, changes| {
        registries.rendezvous.register(START, &from("bob"), changes).unwrap();
        assert!(changes.is_empty());
    });
}

#[test]
fn leaving_ends_tokens_and_keeps_dead_drops() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello").token("t")).unwrap();
    world.meet(START, &from("ann").token("u")).unwrap();
    world.leave("ann");
    let bob = from("bob").point("p").token("t").token("u");
    let found = world.meet(START, &bob).unwrap();
    assert_eq!((found.drops.len(), found.live.len()), (1, 0));
    assert_eq!(world.filed(1), Some((START + 3 * HOUR, amendment(&[], &[0]))));
    assert_eq!(world.filed(2), None, "nothing is left of it");
    world.leave("ann");
    assert_eq!(world.registries.rendezvous.totals().points, 2);
}

#[test]
fn leaving_ends_everything_where_dead_drops_are_not_kept() {
    let mut world = World::with(|limits| limits.rendezvous.keep_drops = false);
    world.meet(START, &from("ann").drop("p", "hello").point("q").token("t")).unwrap();
    world.meet(START, &from("ann").point("q")).unwrap();
    world.leave("ann");
    assert!(world.registries.rendezvous.is_empty());
    assert!(world.droppers(START, &from("bob").point("p")).is_empty());
}

#[test]
fn tokens_of_before_a_restart_count_within_the_grace_and_dead_drops_until_their_end() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello").token("t")).unwrap();
    world.restart(START + HOUR);
    let end = world.grace_end();
    assert_eq!(world.matches(end - 1, &from("bob").token("t")), ["ann"]);
    assert_eq!(world.matches(end, &from("cat").token("t")), ["bob"]);
    assert_eq!(world.droppers(START + 48 * HOUR - 1, &from("bob").point("p")), ["ann"]);

    let live: Vec<_> = world.registries.rendezvous.live_ids().map(|id| id.as_str()).collect();
    assert!(live.contains(&"bob") && live.contains(&"cat") && !live.contains(&"ann"), "{live:?}");
}

#[test]
fn a_peer_that_registers_again_after_a_restart_is_live_beyond_the_grace() {
    let mut world = World::new();
    world.meet(START, &from("ann").token("t")).unwrap();
    world.restart(START + MINUTE);
    world.meet(START + MINUTE, &from("ann").token("t")).unwrap();
    assert_eq!(world.matches(START + HOUR, &from("bob").token("t")), ["ann"]);
    assert_eq!(
        (world.filed(1).is_some(), world.filed(2)),
        (true, None),
        "it has taken the older one's place"
    );
}

#[test]
fn tokens_that_ended_with_an_earlier_grace_do_not_count_in_a_later_one() {
    let mut world = World::new();
    world.meet(START, &from("ann").token("t")).unwrap();
    world.restart(START + MINUTE);
    world.meet(START + MINUTE, &from("bob").token("u")).unwrap();
    world.restart_since(2, START + HOUR);
    assert_eq!(world.matches(START + HOUR, &from("cat").token("t").token("u")), ["bob"]);
}

#[test]
fn a_sweep_ends_the_tokens_first_and_the_rest_at_its_own_time() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello").token("t")).unwrap();
    assert_eq!(world.sweep(START + 3 * HOUR - 1), []);
    assert_eq!(world.sweep(START + 3 * HOUR), [Expired::Refiled]);
    assert_eq!(world.filed(1), Some((START + 48 * HOUR, amendment(&[], &[0]))));
    assert_eq!(world.registries.rendezvous.totals().tokens, 0);
    assert_eq!(world.sweep(START + 48 * HOUR - 1), []);
    assert_eq!(world.sweep(START + 48 * HOUR), [Expired::Gone]);
    assert!(world.registries.rendezvous.is_empty());
    assert_eq!(world.store.next_expiry(0).unwrap(), None);
}

#[test]
fn what_left_early_is_filed_anew_when_its_index_row_comes_up() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello").token("t")).unwrap();
    world.leave("ann");
    assert_eq!(world.sweep(START + 3 * HOUR), [Expired::Refiled]);
    assert_eq!(world.filed(1), Some((START + 48 * HOUR, amendment(&[], &[0]))));
}

#[test]
fn a_long_forgotten_registration_is_gone_at_once() {
    let mut world = World::new();
    world.meet(START, &from("ann").drop("p", "hello").token("t")).unwrap();
    assert_eq!(world.sweep(START + 100 * HOUR), [Expired::Gone]);
    assert!(world.registries.rendezvous.is_empty());
}

#[test]
fn an_index_row_that_is_not_true_ends_nothing() {
    let mut world = World::new();
    world.meet(START, &from("ann").token("t")).unwrap();
    let (key, end) = (LeaseKey::registration(1), START + 3 * HOUR);
    for (due, now) in [
        (Due { at: end, key: key.clone() }, end - 1),
        (Due { at: end - 1, key: key.clone() }, end),
        (Due { at: end, key: LeaseKey::registration(2) }, end),
    ] {
        assert_eq!(world.expire(&due, now), Expired::Kept, "{due:?} at {now}");
    }
    assert_eq!(world.expire(&Due { at: end, key }, end), Expired::Gone);
}

#[test]
fn sequence_numbers_go_on_after_a_restart() {
    let mut world = World::new();
    world.meet(START, &from("ann").point("p")).unwrap();
    world.meet(START, &from("bob").point("p")).unwrap();
    world.restart(START);
    world.meet(START, &from("cat").point("p")).unwrap();
    assert!(world.filed(1).is_some() && world.filed(2).is_some() && world.filed(3).is_some());
}

/// Several requests share one drain, so one registration may be written, amended and removed in one batch.
#[test]
fn random_drains_leave_rows_that_say_what_memory_says() {
    let mut world = World::new();
    let mut rng = StdRng::seed_from_u64(3);
    let mut now = START;
    for _ in 0..150 {
        let requests: Vec<(u32, Meet)> = (0..rng.random_range(1..6))
            .map(|_| {
                let mut request = from(["ann", "bob", "cat"][rng.random_range(0..3)]);
                for name in ["a", "b", "c"] {
                    request = match rng.random_range(0..4) {
                        0 => request.drop(name, "hello"),
                        1 => request.point(name),
                        2 => request.token(name),
                        _ => request,
                    };
                }
                (rng.random_range(0..5), request)
            })
            .collect();
        world.change(|registries, changes| {
            for (what, request) in &requests {
                if *what == 0 {
                    registries.leave(&request.peer_id, changes);
                } else {
                    registries.rendezvous.register(now, request, changes).unwrap();
                }
            }
        });
        match rng.random_range(0..10) {
            0 => world.restart(now),
            1 => drop(world.sweep(now)),
            2 => now += 2 * HOUR,
            3 => now += 30 * HOUR,
            _ => now += 1,
        }
    }
    now += 100 * HOUR;
    world.sweep(now);
    assert!(world.registries.rendezvous.is_empty());
    assert_eq!(world.store.check().unwrap().index_rows, 0);
}
