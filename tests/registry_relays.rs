//! Owns the proof of the relay registry's rules, at its public border and with time as an argument.

mod common;

use std::collections::BTreeMap;

use common::registry::{HOUR, START, World, relay};
use common::store::id;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::id::TokenDigest;
use waypost::registry::Expired;
use waypost::registry::relays::Registration;

#[test]
fn a_peer_registers_with_its_capacity() {
    let mut world = World::new();
    world.register(START, Registration { public_key: Some("key".into()), ..relay("ann") });
    let offers = world.registries.relays.sample(START, None, 10, &mut world.rng);
    assert_eq!(offers.len(), 1);
    assert_eq!((&offers[0].id, offers[0].public_key.as_deref()), (&id("ann"), Some("key")));
    assert_eq!(offers[0].capacity, 0.0);

    assert!(world.update_load("ann", 5.0));
    assert_eq!(world.offers(START, None, 10), [("ann".to_owned(), 0.25)]);
}

#[test]
fn re_registering_updates_and_keeps_count_and_age() {
    let mut world = World::new();
    world.register(START, relay("ann"));
    world.update_load("ann", 4.0);
    let again = Registration {
        max_connections: 10,
        public_key: Some("new".into()),
        resume: TokenDigest::of("another"),
        unbroken: true,
        ..relay("ann")
    };
    world.register(START + HOUR, again);
    let record = world.relay_record("ann").unwrap();
    assert_eq!((record.max_connections, record.public_key.as_deref()), (10, Some("new")));
    assert_eq!((record.connected, record.registered_at), (4.0, START));
    assert_eq!(record.resume, TokenDigest::of("another").0);
    assert_eq!(world.registries.relays.len(), 1);
}

#[test]
fn an_id_that_was_free_in_between_starts_afresh() {
    let mut world = World::new();
    world.register(START, relay("ann"));
    world.update_load("ann", 4.0);
    world.leave("ann");
    world.register(START + HOUR, relay("ann"));
    let record = world.relay_record("ann").unwrap();
    assert_eq!((record.connected, record.registered_at), (0.0, START + HOUR));
}

#[test]
fn relays_below_half_are_offered_and_others_not() {
    let mut world = World::new();
    for (peer, connected) in
        [("below", 9.0), ("just-below", 9.999), ("half", 10.0), ("above", 11.0), ("over", 30.0)]
    {
        world.register(START, relay(peer));
        world.update_load(peer, connected);
    }
    assert_eq!(world.offered(START), ["below", "just-below"]);
}

#[test]
fn the_asker_is_left_out() {
    let mut world = World::new();
    for peer in ["ann", "bob", "cat"] {
        world.register(START, relay(peer));
    }
    for _ in 0..50 {
        let offers = world.offers(START, Some("bob"), 2);
        assert_eq!(offers.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["ann", "cat"]);
    }
    assert_eq!(world.offers(START, Some("nobody"), 10).len(), 3);
}

#[test]
fn at_most_as_many_as_asked_and_never_one_twice() {
    let mut world = World::new();
    for number in 0..30 {
        world.register(START, relay(&format!("relay-{number}")));
    }
    for (asked, given) in [(0, 0), (1, 1), (10, 10), (29, 29), (30, 30), (31, 30), (100, 30)] {
        for left_out in [None, Some("somebody-else")] {
            let mut offers = world.offers(START, left_out, asked);
            offers.dedup();
            assert_eq!(offers.len(), given, "asked for {asked}");
        }
    }
}

/// 20,000 draws of 3 out of 10, one of them left out: every other one is drawn as often as its fellows, and as often
/// first, whether it is live or kept over a restart.
#[test]
fn repeated_asking_gives_different_orders_and_each_relay_the_same_chance() {
    const DRAWS: usize = 20_000;
    let mut world = World::new();
    for number in 0..10 {
        world.register(START, relay(&format!("relay-{number}")));
    }
    world.restart(START);
    for number in 0..4 {
        world.register(START, relay(&format!("relay-{number}")));
    }
    let (mut drawn, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut orders = BTreeMap::new();
    for _ in 0..DRAWS {
        let offers = world.registries.relays.sample(START, Some("relay-7"), 3, &mut world.rng);
        let order: Vec<String> = offers.into_iter().map(|offer| offer.id.as_str().to_owned()).collect();
        *first.entry(order[0].clone()).or_insert(0) += 1;
        for id in &order {
            *drawn.entry(id.clone()).or_insert(0) += 1;
        }
        *orders.entry(order).or_insert(0) += 1;
    }
    // 26.1: what chance alone exceeds once in a thousand times with 8 degrees of freedom.
    let chi_square = |counts: &BTreeMap<String, i32>, expected: f64| {
        counts.values().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum::<f64>()
    };
    assert_eq!((drawn.len(), first.len()), (9, 9));
    assert!(chi_square(&drawn, DRAWS as f64 / 3.0) < 26.1, "{drawn:?}");
    assert!(chi_square(&first, DRAWS as f64 / 9.0) < 26.1, "{first:?}");
    assert_eq!(orders.len(), 9 * 8 * 7, "every order comes up");
}

#[test]
fn load_updates_move_a_relay_in_and_out() {
    let mut world = World::new();
    world.register(START, relay("ann"));
    world.register(START, relay("bob"));
    world.update_load("ann", 10.0);
    assert_eq!(world.offered(START), ["bob"]);
    world.update_load("ann", 2.0);
    assert_eq!(world.offers(START, None, 10), [("ann".to_owned(), 0.1), ("bob".to_owned(), 0.0)]);
    assert!(!world.update_load("nobody", 1.0));
    assert_eq!(world.registries.relays.len(), 2);
}

#[test]
fn leaving_removes() {
    let mut world = World::new();
    for peer in ["ann", "bob", "cat"] {
        world.register(START, relay(peer));
    }
    world.leave("ann");
    assert_eq!(world.offered(START), ["bob", "cat"]);
    assert_eq!(world.relay_record("ann"), None);
    assert!(!world.update_load("ann", 1.0));
    world.leave("nobody");
    assert_eq!(world.registries.relays.len(), 2);
}

#[test]
fn kept_relays_are_offered_within_the_grace_only() {
    let mut world = World::new();
    for peer in ["ann", "bob", "full"] {
        world.register(START, relay(peer));
    }
    world.update_load("full", 20.0);
    world.restart(START + HOUR);
    let end = world.grace_end();
    world.register(START + HOUR, relay("bob"));
    assert_eq!(world.offered(end - 1), ["ann", "bob"]);
    assert_eq!(world.offered(end), ["bob"]);
    assert!(!world.update_load("ann", 1.0), "nobody speaks for a kept relay");
    assert_eq!(world.registries.relays.live_ids().collect::<Vec<_>>(), [&id("bob")]);
}

#[test]
fn a_kept_relay_is_removed_after_the_grace_and_not_before() {
    let mut world = World::new();
    world.register(START, relay("ann"));
    world.register(START, relay("bob"));
    world.restart(START + HOUR);
    world.register(START + HOUR, relay("bob"));
    let end = world.grace_end();
    let held = world.store.held(None, 10).unwrap();
    let outcomes = |world: &mut World, now| held.iter().map(|due| world.expire(due, now)).collect::<Vec<_>>();
    assert_eq!(outcomes(&mut world, end - 1), [Expired::Kept, Expired::Kept]);
    assert_eq!(outcomes(&mut world, end), [Expired::Gone, Expired::Kept]);
    assert_eq!(outcomes(&mut world, end), [Expired::Kept, Expired::Kept]);
    assert_eq!(world.offered(end), ["bob"]);
}

#[test]
fn what_did_not_come_back_within_an_earlier_grace_does_not_count_in_a_later_one() {
    let mut world = World::new();
    world.register(START, relay("ann"));
    world.update_load("ann", 3.0);
    world.restart(START);
    world.register(START, relay("bob"));
    world.restart_since(2, START + HOUR);
    assert_eq!(world.offered(START + HOUR), ["bob"]);
    world.register(START + HOUR, Registration { shown_token: Some("token of ann".into()), ..relay("ann") });
    assert_eq!(world.relay_record("ann").unwrap().connected, 0.0);
}

#[test]
fn a_kept_relay_goes_on_only_with_its_token_or_the_same_key() {
    let key = |key: &str| Some(key.to_owned());
    for (old_key, new_key, token, in_grace, goes_on) in [
        (None, None, None, true, true),
        (key("k"), key("k"), None, true, true),
        (key("k"), key("k"), Some("wrong"), true, true),
        (key("k"), key("other"), Some("token of ann"), true, true),
        (key("k"), None, Some("token of ann"), true, true),
        (None, key("other"), None, true, false),
        (key("k"), None, None, true, false),
        (key("k"), key("other"), Some("wrong"), true, false),
        (key("k"), key("k"), Some("token of ann"), false, false),
        (None, None, None, false, false),
    ] {
        let case = format!("{old_key:?} {new_key:?} {token:?} {in_grace}");
        let mut world = World::new();
        world.register(START, Registration { public_key: old_key, ..relay("ann") });
        world.update_load("ann", 7.0);
        world.restart(START + HOUR);
        let now = world.grace_end() - u64::from(in_grace);
        let shown_token = token.map(str::to_owned);
        world.register(now, Registration { public_key: new_key.clone(), shown_token, ..relay("ann") });
        let record = world.relay_record("ann").unwrap();
        let expected = if goes_on { (7.0, START) } else { (0.0, now) };
        assert_eq!((record.connected, record.registered_at), expected, "{case}");
        assert_eq!((record.boot, record.public_key), (2, new_key), "{case}");
        assert!(world.update_load("ann", 8.0), "{case}");
    }
}

#[test]
fn a_renewed_token_is_the_one_that_counts_after_a_restart() {
    let mut world = World::new();
    world.register(START, Registration { public_key: Some("key".into()), ..relay("ann") });
    world.update_load("ann", 7.0);
    let renew = |world: &mut World, token: &str| {
        let digest = TokenDigest::of(token);
        world.change(|registries, changes| registries.relays.renew_token(&id("ann"), digest, changes));
    };
    renew(&mut world, "renewed");
    world.restart(START);
    renew(&mut world, "by nobody who holds it");
    let show = |token: &str| Registration { shown_token: Some(token.into()), ..relay("ann") };
    world.register(START, show("renewed"));
    assert_eq!(world.relay_record("ann").unwrap().connected, 7.0);
}

#[test]
fn random_registrations_loads_and_leaves_give_what_a_plain_map_gives() {
    let mut world = World::new();
    let mut rng = StdRng::seed_from_u64(5);
    let mut plain: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..400 {
        let peer = format!("relay-{}", rng.random_range(0..12));
        match rng.random_range(0..4) {
            0 => {
                world.register(START, Registration { unbroken: plain.contains_key(&peer), ..relay(&peer) });
                plain.entry(peer).or_insert(0.0);
            }
            1 => {
                world.leave(&peer);
                plain.remove(&peer);
            }
            _ => {
                let connected = f64::from(rng.random_range(0..20));
                assert_eq!(world.update_load(&peer, connected), plain.contains_key(&peer));
                plain.entry(peer).and_modify(|old| *old = connected);
            }
        }
        let below_half = plain.iter().filter(|(_, connected)| **connected < 10.0);
        let expected: Vec<_> = below_half.map(|(peer, connected)| (peer.clone(), connected / 20.0)).collect();
        assert_eq!(world.offers(START, None, 100), expected);
    }
}
