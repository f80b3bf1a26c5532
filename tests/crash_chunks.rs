//! Owns the proof of the chunks' promise (docs/storage.md): `chunk_push` is on the disk before its answer. The real binary
//! is killed with kill -9 at random moments under load, and whatever chunk it had acknowledged is cached after the next
//! start, with its owner and its last data; what a push drives out of the cache goes with it or not at all.
//!
//! `CRASH_ROUNDS` is the number of rounds, `CRASH_SEED` repeats the load of an earlier run.

#[path = "common/crash/mod.rs"]
mod crash;
#[path = "common/daemon.rs"]
mod daemon;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::chunks::{CHANNEL, PEERS, Peer, announced, answer, cached, compare, request};
use crash::{check, number};
use daemon::{Process, SOON, ask, connect, hear};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::Mutex;
use waypost::client::RawSocket;
use waypost::clock::Clock;

/// However many rounds there are, nothing ends; and what one socket may say is not bounded.
const SETTINGS: [&str; 4] = ["--set", "limits.messages_per_minute=0", "--set", "chunks.ttl=48h"];
/// As little as may be.
const BUDGET: usize = 128 * 1024;
/// What a chunk weighs beside its data and names.
const ONE: usize = 1024;

/// The tests here take turns: a process that one of them spawns has for a moment what this one has open, and with it the
/// lock of a store that the other has checked and closed.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_was_acknowledged_before_a_kill_is_cached_after_it() {
    let _turn = TURN.lock().await;
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(10);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut peers: Vec<_> = (0..PEERS).map(|number| Peer::new(number, seed)).collect();
    let mut total = 0;
    for round in 0..rounds {
        println!("round {round}");
        let daemon = Process::start(data.path(), &SETTINGS);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (address, enough) = (daemon.public, rng.random_range(0..150));
        let running =
            peers.drain(..).map(|peer| tokio::spawn(peer.push_until_cut_off(address, acknowledged.clone())));
        let running: Vec<_> = running.collect();
        while acknowledged.load(Ordering::Relaxed) < enough && !running.iter().any(|peer| peer.is_finished())
        {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..5000))).await;
        daemon.kill();
        for peer in running {
            peers.push(peer.await.unwrap());
        }
        total += acknowledged.load(Ordering::Relaxed);

        check(data.path());
        let daemon = Process::start(data.path(), &SETTINGS);
        compare(&mut peers, &daemon).await;
        daemon.kill();
    }
    check(data.path());
    println!("{total} acknowledged pushes");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}

/// The newest of these that fit the budget.
fn fitting(pushed: &[(String, String)]) -> &[(String, String)] {
    let mut left = BUDGET;
    let fits = |(chunk, data): &&(String, String)| {
        // As JSON it has its quotes.
        let weight = CHANNEL.len() + chunk.len() + data.len() + 2 + ONE;
        let fits = weight <= left;
        left = left.saturating_sub(weight);
        fits
    };
    let count = pushed.iter().rev().take_while(fits).count();
    &pushed[pushed.len() - count..]
}

/// Pushes ever new chunks until the daemon is gone; the last of them may not have been acknowledged.
async fn push_new_ones(
    address: SocketAddr,
    round: u64,
    mut rng: StdRng,
    acknowledged: Arc<AtomicUsize>,
) -> Vec<(String, String)> {
    let mut pushed = Vec::new();
    let chunks: Vec<_> = (0..100).map(|count| format!("{round}-{count}")).collect();
    let Some(mut socket) = announced(address, "ann", &chunks).await else { return pushed };
    for chunk in chunks {
        let data = "x".repeat(rng.random_range(0..60_000));
        let mut push = request("chunk_push", &chunk);
        push["data"] = data.clone().into();
        pushed.push((chunk, data));
        let Some(answer) = answer(&mut socket, &push).await else { return pushed };
        assert_eq!(answer["type"], "chunk_push_ack", "{answer}");
        acknowledged.fetch_add(1, Ordering::Relaxed);
        // After a start chunks stand in the order of their ends: no two shall have the same.
        Clock::system().sleep(Duration::from_millis(2)).await;
    }
    // That is all, and there was no kill yet.
    let _ = socket.closed(SOON).await;
    pushed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_push_drives_out_goes_with_it_or_not_at_all() {
    let _turn = TURN.lock().await;
    let clock = Clock::system();
    let seed = number("CRASH_SEED").unwrap_or(clock.now());
    let rounds = number("CRASH_ROUNDS").unwrap_or(10);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let budget = format!("chunks.cache_bytes={BUDGET}");
    let settings = [&SETTINGS[..], &["--set", &budget]].concat();
    let (mut lasting, mut total): (Vec<(String, String)>, usize) = (Vec::new(), 0);
    for round in 0..rounds {
        println!("round {round}");
        let daemon = Process::start(data.path(), &settings);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let enough = rng.random_range(0..40);
        let load = StdRng::seed_from_u64(rng.random());
        let running = tokio::spawn(push_new_ones(daemon.public, round, load, acknowledged.clone()));
        while acknowledged.load(Ordering::Relaxed) < enough && !running.is_finished() {
            clock.sleep(Duration::from_micros(200)).await;
        }
        clock.sleep(Duration::from_micros(rng.random_range(0..8000))).await;
        daemon.kill();
        let mut with_last = lasting.clone();
        with_last.extend(running.await.unwrap());
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        let without_last = &with_last[..lasting.len() + acknowledged];
        total += acknowledged;

        check(data.path());
        let daemon = Process::start(data.path(), &settings);
        let mut seeker = connect(daemon.public).await;
        let listed = listed(&mut seeker).await;
        let ways = [fitting(&with_last), fitting(without_last)];
        let names =
            |way: &[(String, String)]| way.iter().rev().map(|(chunk, _)| chunk.clone()).collect::<Vec<_>>();
        let way = ways.into_iter().find(|way| names(way) == listed);
        let way = way.unwrap_or_else(|| panic!("{listed:?} is neither of {:?}", ways.map(names)));
        for (chunk, data) in way {
            assert!(cached(&mut seeker, chunk).await == Some(data.as_str().into()), "{chunk} has other data");
        }
        lasting = way.to_vec();
        daemon.kill();
    }
    println!("{total} acknowledged pushes");
    assert!(total as u64 > rounds, "there was no load to speak of: {total}");
}

/// What a new subscriber is told, the newest first.
async fn listed(socket: &mut RawSocket) -> Vec<String> {
    let subscribed = ask(socket, json!({"type": "channel-subscribe", "channelId": CHANNEL})).await;
    assert_eq!(subscribed, json!({"type": "channel-subscribed", "channelId": CHANNEL}));
    let mut listed = Vec::new();
    let mut message = ask(socket, json!({"type": "ping"})).await;
    while message["type"] != "pong" {
        listed
            .extend(message["chunkIds"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
        message = hear(socket).await;
    }
    listed
}
