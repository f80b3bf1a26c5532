//! Owns the proof of the pace at which announcements are told: what is told at once, and whose turn it is past that.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::oneshot;
use waypost::id::SocketId;
use waypost::limits::{TOLD_AT_ONCE, TOLD_PER_SECOND};
use waypost::live::announcements::{Announcement, Announcements, cost};

const MIB: u64 = 1 << 20;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// One of a socket at an address, which has the socket's last digits cut off.
fn wait(announcements: &mut Announcements, socket: u64, cost: u64) -> oneshot::Receiver<()> {
    let (told, until_told) = oneshot::channel();
    let address = IpAddr::V4(Ipv4Addr::from((socket / 100) as u32));
    let announcement =
        Announcement { socket: SocketId(socket), address, channel: "c".into(), text: "{}".into(), told };
    announcements.wait(announcement, cost);
    until_told
}

/// Those told at a time, each of which takes so much.
fn told(announcements: &mut Announcements, now: Duration, cost: u64) -> Vec<u64> {
    let mut told = Vec::new();
    while let Some(next) = announcements.next(now) {
        announcements.pay(now, cost);
        told.push(next.socket.0);
    }
    told
}

#[test]
fn so_much_is_told_at_once_and_the_rest_at_its_pace() {
    let mut announcements = Announcements::default();
    let now = seconds(10.0);
    for _ in 0..TOLD_AT_ONCE / MIB {
        assert!(announcements.is_free(now));
        announcements.pay(now, MIB);
    }
    assert!(announcements.is_free(now), "what is told exactly fills it");
    announcements.pay(now, TOLD_PER_SECOND);
    assert!(!announcements.is_free(now));
    assert_eq!(announcements.next_deadline(), None, "nobody waits");
    let until_told = wait(&mut announcements, 100, MIB);
    assert_eq!(announcements.next_deadline(), Some(seconds(11.0)));
    assert!(announcements.next(seconds(10.999)).is_none());
    assert!(!announcements.is_free(seconds(10.999)));
    // Whoever comes now does not overtake.
    assert!(!announcements.is_free(seconds(11.0)));
    drop(announcements.next(seconds(11.0)));
    assert!(until_told.blocking_recv().is_err(), "ended without a word");
    assert!(announcements.is_empty() && announcements.is_free(seconds(11.0)));
}

#[test]
fn whoever_tells_little_does_not_wait_behind_who_tells_much() {
    let mut announcements = Announcements::default();
    announcements.pay(seconds(0.0), TOLD_AT_ONCE + MIB);
    // Ten sockets of one address, then one of another, then one of a third that tells more than any.
    let mut kept: Vec<_> = (100..110).map(|socket| wait(&mut announcements, socket, 8 * MIB)).collect();
    kept.push(wait(&mut announcements, 200, MIB));
    kept.push(wait(&mut announcements, 300, 20 * MIB));
    assert!(told(&mut announcements, seconds(0.0), 8 * MIB).is_empty());
    let mut order = Vec::new();
    while let Some(deadline) = announcements.next_deadline() {
        order.extend(told(&mut announcements, deadline, 8 * MIB));
    }
    assert_eq!(order, [200, 100, 101, 300, 102, 103, 104, 105, 106, 107, 108, 109]);
    assert!(announcements.is_empty());
}

#[test]
fn what_a_socket_had_goes_with_it_and_its_address_wins_nothing_by_that() {
    let mut announcements = Announcements::default();
    announcements.pay(seconds(0.0), TOLD_AT_ONCE + MIB);
    let kept = [100, 101, 200].map(|socket| wait(&mut announcements, socket, MIB));
    announcements.leave(SocketId(101));
    announcements.leave(SocketId(101));
    let again = wait(&mut announcements, 102, MIB);
    let other = wait(&mut announcements, 201, MIB);
    assert_eq!(told(&mut announcements, seconds(1.0), 0), [100, 200, 201, 102]);
    assert!(announcements.is_empty());
    let until_told = wait(&mut announcements, 100, MIB);
    announcements.clear();
    assert!(until_told.blocking_recv().is_err(), "the daemon ends");
    drop((kept, again, other));
}

#[test]
fn a_short_one_takes_more_than_its_bytes() {
    assert_eq!(cost(0, &"{}".into()), 0);
    assert_eq!(cost(1000, &"{}".into()), 1000 * (2 + 4096));
}
