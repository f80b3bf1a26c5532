//! Owns the proof of what the chunk relay decides without sockets: who is asked, and that nobody can be pushed aside.

use std::time::Duration;

use waypost::id::{ChunkName, SocketId};
use waypost::limits::MAX_SOURCES_PER_CHUNK;
use waypost::live::chunks::{ChunkRelay, Notice};

const PATIENCE: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn asked(notices: &[Notice]) -> Vec<u64> {
    notices.iter().map(|notice| notice.to.0).collect()
}

fn chunk() -> ChunkName {
    ChunkName::parse("", "a").unwrap()
}

#[test]
fn whoever_asks_for_a_chunk_is_not_taken_for_silent() {
    let (mut relay, name) = (ChunkRelay::new(PATIENCE), chunk());
    for socket in [1, 2] {
        relay.announce(at(0), SocketId(socket), &[name.key()]);
    }
    assert_eq!(asked(&relay.request(at(0), SocketId(1), &name).unwrap().unwrap()), [2]);
    relay.pushed(SocketId(2), &name.key());
    assert_eq!(asked(&relay.request(at(0), SocketId(3), &name).unwrap().unwrap()), [1]);
    // Who was asked and did not push is: the other one is asked first next time.
    assert_eq!(asked(&relay.ring(at(10))), [2]);
    relay.pushed(SocketId(2), &name.key());
    assert_eq!(asked(&relay.request(at(10), SocketId(3), &name).unwrap().unwrap()), [2]);
}

#[test]
fn a_crowd_of_sources_does_not_drive_out_an_honest_one() {
    let (mut relay, name) = (ChunkRelay::new(PATIENCE), chunk());
    let most = MAX_SOURCES_PER_CHUNK as u64;
    for socket in 1..=most + 1 {
        relay.announce(at(0), SocketId(socket), &[name.key()]);
    }
    // All of them announced it; the last one is just not asked.
    assert_eq!(relay.counts().sources, MAX_SOURCES_PER_CHUNK + 1);
    assert!((1..=most + 1).all(|socket| relay.may_push(at(1), SocketId(socket), &name.key())));
    assert_eq!(asked(&relay.request(at(1), SocketId(1000), &name).unwrap().unwrap()), [1]);
    // The first one is silent, and makes place for a newcomer; it may still push.
    assert_eq!(asked(&relay.ring(at(11))), [2]);
    relay.announce(at(11), SocketId(2000), &[name.key()]);
    assert!(relay.may_push(at(12), SocketId(1), &name.key()));
    for socket in (1..=most + 1).chain([1000, 2000]) {
        relay.leave(at(13), SocketId(socket));
    }
    assert!(relay.is_empty());
}

/// However many wait for the same chunk, in whatever order they give up.
#[test]
fn of_many_who_wait_each_has_its_own_end() {
    let (mut relay, name) = (ChunkRelay::new(at(1000)), chunk());
    relay.announce(at(0), SocketId(1), &[name.key()]);
    for socket in 2..3002 {
        relay.request(at(socket), SocketId(socket), &name).unwrap();
    }
    (2..3002).rev().step_by(3).for_each(|socket| drop(relay.leave(at(3), SocketId(socket))));
    assert_eq!(relay.counts().requests, 2000);
    // Two minutes each; more than one turn's worth is due at once.
    let mut told = Vec::new();
    let due = |relay: &ChunkRelay| relay.next_deadline().is_some_and(|deadline| deadline <= at(1000 + 120));
    let mut turns = 0;
    while due(&relay) {
        told.extend(asked(&relay.ring(at(1000 + 120))));
        turns += 1;
    }
    // The source was silent by then, too: the rest is told as well.
    assert_eq!((told.len(), relay.counts().requests), (2000, 0));
    assert!(turns >= 1 && told.iter().all(|socket| (socket - 2) % 3 != 2), "{turns}");
    relay.leave(at(2000), SocketId(1));
    assert!(relay.is_empty());
}
