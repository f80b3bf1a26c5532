//! Owns the proof that the registry of chunks keeps what it promises, on a real store: who may replace a chunk, exact
//! ends, the byte budget, and that the rows say what memory says whatever happens (`registry_chunks/random.rs`).

mod common;
#[path = "registry_chunks/random.rs"]
mod random;

use std::time::Duration;

use common::registry::{MINUTE, START, World, millis};
use common::store::id;
use sha2::{Digest, Sha256};
use waypost::clock::Millis;
use waypost::id::{ChunkName, Kind};
use waypost::registry::Expired;
use waypost::registry::chunks::{OtherContent, Push, Pushed};
use waypost::store::{LeaseKey, Row};

const TTL: Millis = 30 * MINUTE;
/// What a chunk weighs beside its data and names.
const ONE: u64 = 1024;

fn name(channel: &str, chunk: &str) -> ChunkName {
    ChunkName::parse(channel, chunk).unwrap()
}

fn digest(data: &str) -> Option<[u8; 32]> {
    Some(Sha256::digest(data).into())
}

const fn pushed(evicted: usize) -> Result<Pushed, OtherContent> {
    Ok(Pushed { evicted })
}

/// Pushes a chunk of the channel "c"; tells how many rows that took, too.
fn push(
    world: &mut World,
    now: Millis,
    owner: &str,
    chunk: &str,
    data: &str,
) -> (Result<Pushed, OtherContent>, usize) {
    push_named(world, now, owner, &name("c", chunk), data)
}

fn push_named(
    world: &mut World,
    now: Millis,
    owner: &str,
    name: &ChunkName,
    data: &str,
) -> (Result<Pushed, OtherContent>, usize) {
    world.change(|registries, changes| {
        let push = Push { name, owner: &id(owner), data };
        (registries.chunks.push(now, push, changes), changes.rows())
    })
}

/// Of the channel "c"; it counts as used.
fn get(world: &mut World, now: Millis, chunk: &str) -> Option<[u8; 32]> {
    world.registries.chunks.get(now, &name("c", chunk).key())
}

/// The chunks of a channel, the newest first. Nothing counts as used by that.
fn listed(world: &World, now: Millis, channel: &str) -> Vec<String> {
    world.registries.chunks.of_channel(now, channel).map(str::to_owned).collect()
}

/// Owner and data of a chunk in "c", as the store has them.
fn stored(world: &World, chunk: &str) -> Option<(String, String)> {
    let shown = world.store.inspect(&LeaseKey::chunk(&name("c", chunk).key()), |row| match row {
        Row::Chunk { record, .. } => (record.owner.to_string(), record.data.to_string()),
        row => panic!("{row:?}"),
    });
    shown.unwrap()
}

/// A world where so many chunks of no data and with names of two bytes fit.
fn room_for(chunks: u64) -> World {
    World::with(|limits| limits.chunks.cache_bytes = chunks * (ONE + 2))
}

/// Pushes a chunk of no data by "ann"; tells how many were driven out.
fn fill(world: &mut World, now: Millis, chunk: &str) -> usize {
    push(world, now, "ann", chunk, "").0.unwrap().evicted
}

#[test]
fn the_ttl_of_these_tests_is_the_default() {
    assert_eq!(millis(waypost::limits::Limits::default().chunks.ttl), TTL);
}

#[test]
fn while_a_chunk_is_cached_only_who_pushed_it_replaces_it() {
    let mut world = World::new();
    assert_eq!(get(&mut world, START, "a"), None);
    assert_eq!(push(&mut world, START, "ann", "a", "one"), (pushed(0), 2));
    assert_eq!(push(&mut world, START, "bob", "a", "two"), (Err(OtherContent), 0));
    assert_eq!(push(&mut world, START, "bob", "a", "one"), (pushed(0), 0), "the same data change nothing");
    assert_eq!(get(&mut world, START, "a"), digest("one"));
    assert_eq!(stored(&world, "a"), Some(("ann".into(), "one".into())));

    assert_eq!(push(&mut world, START + 1, "ann", "a", "two"), (pushed(0), 3));
    assert_eq!(get(&mut world, START + 1, "a"), digest("two"));
    assert_eq!(stored(&world, "a"), Some(("ann".into(), "two".into())));
    assert_eq!(push(&mut world, START + 1, "bob", "a", "one"), (Err(OtherContent), 0));
    assert_eq!(push(&mut world, START + 1, "bob", "a", "two"), (pushed(0), 0));
    assert_eq!((world.registries.count(Kind::Chunk), world.registries.chunks.is_empty()), (1, false));
}

#[test]
fn a_push_of_its_owner_gives_a_full_ttl_and_one_of_anybody_else_gives_none() {
    let mut world = World::new();
    assert_eq!(push(&mut world, START, "ann", "a", "one").0, pushed(0));
    assert_eq!(push(&mut world, START + 5, "bob", "a", "one").0, pushed(0));
    assert_eq!(world.sweep(START + TTL - 1), []);
    assert_eq!(get(&mut world, START + TTL - 1, "a"), digest("one"));
    assert_eq!(get(&mut world, START + TTL, "a"), None, "bob's push did not prolong it");

    assert_eq!(
        push(&mut world, START + 7, "ann", "a", "one"),
        (pushed(0), 3),
        "the same data, and a new end"
    );
    assert_eq!(world.sweep(START + TTL), [], "no index row is left at the first end");
    assert_eq!(get(&mut world, START + 7 + TTL - 1, "a"), digest("one"));
    assert_eq!(get(&mut world, START + 7 + TTL, "a"), None);
}

#[test]
fn a_chunk_ends_at_its_end_whether_or_not_it_is_swept() {
    let end = START + TTL;
    let mut world = World::new();
    assert_eq!(push(&mut world, START, "ann", "a", "one").0, pushed(0));
    assert_eq!(push(&mut world, end - 1, "bob", "a", "two").0, Err(OtherContent));
    assert_eq!((get(&mut world, end - 1, "a"), listed(&world, end - 1, "c").len()), (digest("one"), 1));
    assert_eq!((get(&mut world, end, "a"), listed(&world, end, "c").len()), (None, 0));
    assert_eq!(push(&mut world, end, "bob", "a", "two"), (pushed(0), 3), "free for anybody");
    assert_eq!(stored(&world, "a"), Some(("bob".into(), "two".into())));
    assert_eq!(push(&mut world, end, "ann", "a", "one").0, Err(OtherContent));

    let end = end + TTL;
    let key = name("c", "a").key();
    let expire = |world: &mut World, now| {
        world.change(|registries, changes| (registries.chunks.expire(&key, now, changes), changes.rows()))
    };
    assert_eq!(expire(&mut world, end - 1), (Expired::Kept, 0));
    assert_eq!(world.sweep(end - 1), []);
    assert_eq!(world.sweep(end), [Expired::Gone]);
    assert_eq!(expire(&mut world, end), (Expired::Kept, 0));
    assert_eq!((world.registries.chunks.len(), world.registries.chunks.bytes()), (0, 0));
    assert_eq!(stored(&world, "a"), None);
}

#[test]
fn a_chunk_weighs_its_data_its_names_and_1024_bytes() {
    let mut world = World::new();
    let mut weighs = |owner, channel, chunk, data, bytes| {
        push_named(&mut world, START, owner, &name(channel, chunk), data).0.unwrap();
        assert_eq!(world.registries.chunks.bytes(), bytes, "{data}");
    };
    weighs("ann", "", "a", "", 1 + ONE);
    weighs("ann", "\u{e4}", "bcd", "12345", 1 + ONE + 2 + 3 + 5 + ONE);
    weighs("ann", "", "a", "123", 4 + ONE + 10 + ONE);
    weighs("bob", "", "a", "123", 4 + ONE + 10 + ONE);
    world.restart(START);
    assert_eq!(world.registries.chunks.bytes(), 4 + ONE + 10 + ONE);
}

#[test]
fn the_least_recently_used_go_first() {
    let mut world = room_for(3);
    for chunk in ["a", "b", "d"] {
        assert_eq!(fill(&mut world, START, chunk), 0, "exactly the budget fits");
    }
    assert_eq!(get(&mut world, START, "a"), digest(""));
    assert_eq!(push(&mut world, START, "ann", "e", ""), (pushed(1), 4));
    assert_eq!(listed(&world, START, "c"), ["e", "d", "a"], "a was read, so b went");
    assert_eq!(push(&mut world, START, "bob", "d", ""), (pushed(0), 0));
    assert_eq!(fill(&mut world, START, "f"), 1);
    assert_eq!(listed(&world, START, "c"), ["f", "e", "d"], "d was pushed by another, so a went");
    assert_eq!(fill(&mut world, START, "e"), 0);
    assert_eq!(fill(&mut world, START, "g"), 1);
    assert_eq!(listed(&world, START, "c"), ["g", "e", "f"], "e was replaced, so d went");

    // What is refused or only listed does not count as used.
    assert_eq!(push(&mut world, START, "bob", "f", "other").0, Err(OtherContent));
    assert_eq!(fill(&mut world, START, "h"), 1);
    assert_eq!(listed(&world, START, "c"), ["h", "g", "e"]);
}

#[test]
fn a_push_drives_out_as_many_as_it_needs_and_never_itself() {
    let mut world = room_for(4);
    for chunk in ["a", "b", "d", "e"] {
        fill(&mut world, START, chunk);
    }
    assert_eq!(push(&mut world, START, "ann", "f", "x").0, pushed(2), "a byte too many costs one more");
    assert_eq!(listed(&world, START, "c"), ["f", "e", "d"]);
    assert_eq!(
        push(&mut world, START, "ann", "d", &"x".repeat(ONE as usize + 2)).0,
        pushed(1),
        "one that grows, too"
    );
    assert_eq!(listed(&world, START, "c"), ["d", "f"]);
    assert_eq!(push(&mut world, START, "ann", "g", &"x".repeat(5000)).0, pushed(2));
    assert_eq!(listed(&world, START, "c"), ["g"], "larger than the budget, and alone");
    assert_eq!(fill(&mut world, START, "a"), 1);
    assert_eq!((listed(&world, START, "c"), world.registries.chunks.bytes()), (vec!["a".into()], ONE + 2));
}

#[test]
fn what_has_ended_makes_room_before_anything_live_though_it_was_used_later() {
    let end = START + TTL;
    let mut world = room_for(3);
    for (at, chunk) in [(0, "o"), (1, "a"), (1, "b")] {
        fill(&mut world, START + at, chunk);
    }
    assert_eq!(get(&mut world, end - 1, "o"), digest(""));
    assert_eq!(fill(&mut world, end, "d"), 0, "nothing live went");
    assert_eq!(listed(&world, end, "c"), ["d", "b", "a"]);
    assert_eq!((world.registries.chunks.len(), stored(&world, "o")), (3, None));
}

#[test]
fn a_large_chunk_leaves_no_rows_however_it_goes() {
    let large = "x".repeat(60_000);
    let mut world = World::new();
    let (answer, rows) = push(&mut world, START, "ann", "a", &large);
    assert_eq!((answer, rows), (pushed(0), 16), "15 parts and the index row");
    assert_eq!(stored(&world, "a"), Some(("ann".into(), large.clone())));
    assert_eq!(push(&mut world, START, "ann", "a", &large[..30_000]).1, 8 + 7, "same end, same index row");
    assert_eq!(stored(&world, "a"), Some(("ann".into(), large[..30_000].into())));
    assert_eq!(push(&mut world, START, "ann", "a", "small").1, 1 + 7);
    assert_eq!(stored(&world, "a"), Some(("ann".into(), "small".into())));
    assert_eq!(push(&mut world, START + 1, "ann", "a", &large).1, 15 + 2);
    assert_eq!(stored(&world, "a"), Some(("ann".into(), large.clone())));
    let mut keys = Vec::new();
    world.store.page(Kind::Chunk, "", None, 9, |key, _| keys.push(key.text())).unwrap();
    assert_eq!(keys, [name("c", "a").key().text()], "its parts are no leases of their own");

    // Taken over by another after its end, swept, driven out.
    let end = START + 1 + TTL;
    assert_eq!(push(&mut world, end, "bob", "a", "small").1, 1 + 14 + 2);
    push(&mut world, end, "bob", "a", &large).0.unwrap();
    assert_eq!(world.sweep(end + TTL), [Expired::Gone]);
    let mut world = World::with(|limits| limits.chunks.cache_bytes = 61_000);
    push(&mut world, START, "ann", "a", &large).0.unwrap();
    assert_eq!(push(&mut world, START, "bob", "b", &large), (pushed(1), 16 + 16));
    assert_eq!((stored(&world, "a"), world.store.check().unwrap().leases["chunk"]), (None, 1));
}

#[test]
fn after_a_restart_chunks_stand_in_the_order_of_their_ends() {
    let mut world = room_for(3);
    for (at, chunk) in [(0, "b"), (1, "d"), (2, "a")] {
        fill(&mut world, START + at, chunk);
    }
    assert_eq!(get(&mut world, START + 2, "b"), digest(""));
    world.restart(START + 3);
    assert_eq!(listed(&world, START + 3, "c"), ["a", "d", "b"]);
    assert_eq!(push(&mut world, START + 3, "bob", "d", "other").0, Err(OtherContent), "owners are known");
    assert_eq!(fill(&mut world, START + 3, "e"), 1);
    assert_eq!(listed(&world, START + 3, "c"), ["e", "a", "d"], "that b was read has been forgotten");
    assert_eq!(get(&mut world, START + 3, "d"), digest(""));
    assert_eq!(fill(&mut world, START + 3, "f"), 1);
    assert_eq!(listed(&world, START + 3, "c"), ["f", "e", "d"], "what was used since goes after all others");
}

#[test]
fn with_a_smaller_budget_the_next_push_comes_down_to_it() {
    let mut world = room_for(5);
    for (at, chunk) in ["a", "b", "d", "e", "f"].into_iter().enumerate() {
        fill(&mut world, START + at as Millis, chunk);
    }
    world.change_limits(|limits| {
        limits.chunks.cache_bytes = 2 * (ONE + 2);
        limits.chunks.ttl = Duration::from_secs(1);
    });
    world.restart(START + 5);
    assert_eq!(listed(&world, START + 5, "c").len(), 5);
    assert_eq!(
        push(&mut world, START + 5, "bob", "f", ""),
        (pushed(0), 0),
        "nothing is written, nothing goes"
    );
    assert_eq!(fill(&mut world, START + 5, "g"), 4);
    assert_eq!(listed(&world, START + 5, "c"), ["g", "f"]);
    assert_eq!(get(&mut world, START + 1005, "g"), None, "of the new TTL");
    assert_eq!(get(&mut world, START + 1005, "f"), digest(""), "what stood keeps its end");
}

#[test]
fn a_channel_lists_its_live_chunks_the_newest_push_first() {
    let mut world = World::new();
    assert!(listed(&world, START, "c").is_empty());
    for (at, chunk) in [(0, "z"), (1, "y"), (1, "a"), (1, "m")] {
        fill(&mut world, START + at, chunk);
    }
    push_named(&mut world, START + 1, "ann", &name("", "alone"), "").0.unwrap();
    assert_eq!(listed(&world, START + 1, "c"), ["m", "a", "y", "z"]);
    assert_eq!((listed(&world, START, ""), listed(&world, START, "d")), (vec!["alone".into()], vec![]));
    get(&mut world, START + 1, "z").unwrap();
    assert_eq!(push(&mut world, START + 1, "bob", "z", "").0, pushed(0));
    assert_eq!(
        listed(&world, START + 1, "c")[3],
        "z",
        "neither a read nor somebody else's push is a newer one"
    );
    fill(&mut world, START + 2, "a");
    assert_eq!(listed(&world, START + 2, "c"), ["a", "m", "y", "z"]);
    assert_eq!(listed(&world, START + TTL, "c"), ["a", "m", "y"]);
    assert_eq!(listed(&world, START + TTL + 1, "c"), ["a"]);
    world.restart(START + 3);
    assert_eq!((listed(&world, START + 3, "c")[0].as_str(), listed(&world, START + 3, "c").len()), ("a", 4));
    assert_eq!(listed(&world, START + 3, "c")[3], "z");
}

#[test]
fn names_that_read_alike_when_joined_are_different_chunks() {
    let mut world = World::new();
    let names = [("", "abc"), ("a", "bc"), ("ab", "c"), ("abc", "abc"), ("abc", "\0abc"), ("a\0", "bc")];
    for (at, (channel, chunk)) in names.into_iter().enumerate() {
        let (owner, data) = (format!("peer-{at}"), format!("{at}"));
        assert_eq!(push_named(&mut world, START, &owner, &name(channel, chunk), &data).0, pushed(0));
    }
    world.restart(START);
    for (at, (channel, chunk)) in names.into_iter().enumerate() {
        let key = name(channel, chunk).key();
        assert_eq!(
            world.registries.chunks.get(START, &key),
            digest(&at.to_string()),
            "{channel:?} {chunk:?}"
        );
    }
    assert_eq!(listed(&world, START, "abc").len(), 2);
    assert_eq!(listed(&world, START, "a"), ["bc"]);
}
