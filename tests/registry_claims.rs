//! Owns the proof of the table of claims: each transition by itself on a real store, and every interleaving of them
//! (`registry_claims/exploring.rs`).

mod common;
#[path = "registry_claims/exploring.rs"]
mod exploring;

use std::time::Duration;

use common::registry::{START, World, link, millis};
use waypost::clock::Millis;
use waypost::id::Generation;
use waypost::registry::Expired;
use waypost::registry::claims::{Claim, Claimed, Found, Refused, State};

const GRACE: Millis = 30_000;
const LEAST: Millis = 5_000;

const fn held(generation: u64) -> Option<Claim> {
    Some(Claim { generation: Generation(generation), state: State::Held })
}

const fn grace(generation: u64, until: Millis) -> Option<Claim> {
    Some(Claim { generation: Generation(generation), state: State::Grace { until } })
}

const fn claimed(generation: u64, found: Found) -> Result<Claimed, Refused> {
    Ok(Claimed { generation: Generation(generation), found })
}

fn get(world: &World, name: &str, now: Millis) -> Option<Claim> {
    world.registries.claims.get(&link(name), now)
}

/// A world where "home" was claimed and released at the start.
fn released() -> World {
    let mut world = World::new();
    assert_eq!(world.claim(START, "home", None), (claimed(1, Found::Free), 2));
    assert_eq!(world.release(START, "home", Generation(1)), (true, 3));
    world
}

#[test]
fn the_grace_of_these_tests_is_the_default() {
    let limits = waypost::limits::Limits::default();
    assert_eq!(millis(limits.link.grace), GRACE);
    assert_eq!(millis(waypost::limits::LEAST_GRACE_LEFT), LEAST);
}

#[test]
fn a_free_id_is_held_by_whoever_claims_it() {
    let mut world = World::new();
    assert_eq!(get(&world, "home", START), None);
    assert_eq!(world.claim(START, "home", None), (claimed(1, Found::Free), 2));
    assert_eq!(world.claim(START, "my home", Some(Generation(1))), (claimed(2, Found::Free), 2));
    assert_eq!(get(&world, "home", Millis::MAX), held(1), "for as long as it likes");
    assert_eq!(get(&world, "my home", START), held(2));
    let listed: Vec<_> =
        world.registries.claims.list(Some(&link("home"))).map(|(id, _)| id.clone()).collect();
    assert_eq!((listed, world.registries.claims.len()), (vec![link("my home")], 2));
}

#[test]
fn a_held_id_is_had_only_from_a_holder_that_was_found_silent() {
    let mut world = World::new();
    assert_eq!(world.claim(START, "home", None).0, claimed(1, Found::Free));
    for silent in [None, Some(Generation(0)), Some(Generation(2))] {
        assert_eq!(world.claim(START, "home", silent), (Err(Refused::Taken(Generation(1))), 0), "{silent:?}");
    }
    assert_eq!(get(&world, "home", START), held(1));
    assert_eq!(world.claim(START, "home", Some(Generation(1))), (claimed(2, Found::Standing), 1));
    assert_eq!(world.claim(START, "home", Some(Generation(1))), (Err(Refused::Taken(Generation(2))), 0));
    assert_eq!(world.release(START, "home", Generation(1)), (false, 0), "the late exit of who was displaced");
    assert_eq!(get(&world, "home", START), held(2));
}

#[test]
fn only_its_holder_releases_an_id_and_only_once() {
    let mut world = World::new();
    assert_eq!(world.claim(START, "home", None).0, claimed(1, Found::Free));
    assert_eq!(world.claim(START, "other", None).0, claimed(2, Found::Free));
    for (name, generation) in [("home", 0), ("home", 2), ("other", 1), ("free", 1)] {
        assert_eq!(world.release(START, name, Generation(generation)), (false, 0), "{name} {generation}");
    }
    assert_eq!(world.release(START + 7, "home", Generation(1)), (true, 3));
    assert_eq!(get(&world, "home", START + 7), grace(1, START + 7 + GRACE));
    assert_eq!(world.release(START + 9, "home", Generation(1)), (false, 0), "ending twice restarts nothing");
    assert_eq!(get(&world, "home", START + 9), grace(1, START + 7 + GRACE));
    assert_eq!(get(&world, "other", START), held(2));
}

#[test]
fn a_claim_that_came_to_nothing_is_withdrawn_by_its_own_generation_alone() {
    let mut world = World::new();
    assert_eq!(world.claim(START, "home", None).0, claimed(1, Found::Free));
    for generation in [0, 2] {
        assert_eq!(world.withdraw("home", Generation(generation)), (false, 0), "{generation}");
    }
    assert_eq!(world.withdraw("home", Generation(1)), (true, 2));
    assert_eq!((get(&world, "home", START), world.withdraw("home", Generation(1))), (None, (false, 0)));
    assert_eq!(world.release(START, "home", Generation(1)), (false, 0));
    let mut world = released();
    assert_eq!(world.withdraw("home", Generation(1)), (false, 0), "a grace is none of it");
}

#[test]
fn a_clock_that_was_set_back_between_two_runs_prolongs_no_grace() {
    let mut world = released();
    assert_eq!(world.restart_claims(START - 3_600_000), 3);
    assert_eq!(get(&world, "home", START - 3_600_000), grace(1, START - 3_600_000 + GRACE));
}

#[test]
fn whoever_comes_within_the_grace_goes_on_with_the_claim() {
    for now in [START, START + GRACE - 1] {
        let mut world = released();
        assert_eq!(world.claim(now, "home", None), (claimed(2, Found::Standing), 3));
        assert_eq!(get(&world, "home", Millis::MAX), held(2));
        assert_eq!(world.sweep(START + GRACE), [], "no index row is left of the grace");
        assert_eq!(world.release(now, "home", Generation(1)), (false, 0));
    }
}

#[test]
fn a_grace_ends_at_its_end_and_once() {
    let end = START + GRACE;
    let mut world = released();
    assert_eq!(get(&world, "home", end - 1), grace(1, end));
    assert_eq!(world.end_claim(end - 1, "home"), (Expired::Kept, 0));
    assert_eq!(get(&world, "home", end), None, "free, whether or not anybody has swept");
    assert_eq!(world.end_claim(end, "home"), (Expired::Gone, 2));
    assert_eq!(world.end_claim(end, "home"), (Expired::Kept, 0));
    assert!(world.registries.claims.is_empty());
    assert_eq!(world.claim(end, "home", None), (claimed(2, Found::Free), 2), "a generation that nobody had");

    let mut world = released();
    assert_eq!(world.claim(end, "home", None), (claimed(2, Found::Over), 3));
    assert_eq!(world.end_claim(Millis::MAX, "home"), (Expired::Kept, 0), "a held claim does not end");

    let mut world = released();
    assert_eq!(world.sweep(end - 1), []);
    assert_eq!(world.sweep(end), [Expired::Gone]);
}

#[test]
fn a_restart_gives_each_the_time_to_come_back() {
    let mut world = released();
    assert_eq!(world.claim(START, "here", None).0, claimed(2, Found::Free));
    // Here: 3 rows. Home has more left than the least.
    assert_eq!(world.restart_claims(START + 10_000), 3);
    assert_eq!(get(&world, "here", START), grace(2, START + 10_000 + GRACE));
    assert_eq!(get(&world, "home", START), grace(1, START + GRACE));

    // Exactly the least is no reason to write.
    assert_eq!(world.restart_claims(START + GRACE - LEAST), 0);
    assert_eq!(world.restart_claims(START + GRACE - LEAST + 1), 3);
    assert_eq!(get(&world, "home", START), grace(1, START + GRACE + 1));
    assert_eq!(get(&world, "here", START), grace(2, START + 10_000 + GRACE));

    // Both ended while the daemon was down.
    let late = START + 100_000;
    assert_eq!(world.restart_claims(late), 6);
    for (name, generation) in [("home", 1), ("here", 2)] {
        assert_eq!(get(&world, name, late), grace(generation, late + LEAST), "{name}");
    }
}

#[test]
fn a_grace_shorter_than_the_least_is_all_that_a_restart_gives() {
    let mut world = World::with(|limits| limits.link.grace = Duration::from_millis(700));
    assert_eq!(world.claim(START, "home", None).0, claimed(1, Found::Free));
    assert_eq!(world.restart_claims(START + 1), 3);
    assert_eq!(get(&world, "home", START), grace(1, START + 701));
    assert_eq!(world.restart_claims(START + 400), 3);
    assert_eq!(get(&world, "home", START), grace(1, START + 1100));
}

#[test]
fn generations_never_repeat_in_a_run_nor_beside_what_stands() {
    let mut world = released();
    assert_eq!(world.end_claim(START + GRACE, "home").0, Expired::Gone);
    // The store is opened anew within the run, and has no row that tells.
    let last = world.registries.claims.last_generation();
    world.restart(START);
    world.registries.claims.continue_after(last);
    assert_eq!(world.claim(START, "home", None).0, claimed(2, Found::Free));
    assert_eq!(world.claim(START, "other", None).0, claimed(3, Found::Free));
    world.registries.claims.continue_after(1);
    assert_eq!(world.claim(START, "third", None).0, claimed(4, Found::Free), "it does not go back");
    assert!(world.release(START, "third", Generation(4)).0);
    // The next run knows the rows alone, of graces too.
    world.restart_claims(START);
    assert_eq!(world.claim(START, "home", None).0, claimed(5, Found::Standing));
}
