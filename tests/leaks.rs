//! Owns the proof that sockets leave nothing behind: 10,000 of them in every state that a peer of signalling can be in, all
//! killed at once, again and again. Afterwards every live map of the real binary is empty, its memory and its descriptors are
//! what they were. `LEAK_FIGURES=1 cargo test --test leaks -- --nocapture` prints what it took.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use std::time::Duration;

use daemon::{Process, RawTcp, SOON, ask, connect, hear, hears_nothing, say};
use devices::{key_of, register};
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use waypost::cli::bench::process::resident_bytes;
use waypost::client::{AdminClient, RawSocket};
use waypost::clock::Clock;
use waypost::daemon::ADMIN_TOKEN;
use waypost::wire::admin::{LiveCounts, Status};

const SOCKETS: usize = 10_000;
/// Sockets of one group, each in another state, some of them because of each other.
const GROUP: usize = 20;
const ROUNDS: usize = 3;
/// Groups that are set up at a time.
const AT_A_TIME: usize = 50;
/// Descriptors of the test beside its sockets.
const OTHERS: u64 = 200;

/// How the sockets of a round end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As the operating system ends them for a process that was killed.
    Killed,
    /// With the close handshake.
    Closed,
}

/// A pairing code of a group: its number in the letters of codes, and which of its devices it is.
fn code(group: usize, device: char) -> String {
    let letter = |value: usize| char::from(b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789"[value % 32]);
    [device, 'Z', 'Z', letter(group / 1024), letter(group / 32), letter(group)].iter().collect()
}

async fn device(daemon: &Process, group: usize, which: char) -> (RawSocket, String) {
    let (mut socket, code) = (connect(daemon.public).await, code(group, which));
    let answer = ask(&mut socket, register(&code)).await;
    assert_eq!(answer["type"], "registered", "{answer}");
    (socket, code)
}

/// Twenty sockets, each in the middle of something. The last one has not yet said what it was about to.
async fn group(daemon: &Process, group: usize) -> (Vec<RawSocket>, RawTcp) {
    // One that has said nothing, and a relay.
    let newcomer = connect(daemon.public).await;
    let mut relay = connect(daemon.public).await;
    let id = format!("relay-{group}");
    ask(&mut relay, json!({"type": "register", "peerId": id, "publicKey": "k"})).await;
    ask(&mut relay, json!({"type": "update_load", "peerId": id, "connectedCount": 3})).await;

    // A pair request that waits, a link, a link request that waits.
    let (mut requester, _) = device(daemon, group, 'A').await;
    let (mut target, code) = device(daemon, group, 'B').await;
    say(&mut requester, json!({"type": "pair_request", "targetCode": code})).await;
    assert_eq!(hear(&mut target).await["type"], "pair_incoming");
    let (mut web, _) = device(daemon, group, 'C').await;
    let (mut mobile, code) = device(daemon, group, 'D').await;
    let request = |code: &str| json!({"type": "link_request", "linkCode": code, "publicKey": "k"});
    say(&mut web, request(&code)).await;
    hear(&mut mobile).await;
    ask(&mut mobile, json!({"type": "link_response", "linkCode": code, "accepted": true})).await;
    assert_eq!(hear(&mut web).await["type"], "link_matched");
    let (mut other_web, _) = device(daemon, group, 'E').await;
    let (mut other_mobile, code) = device(daemon, group, 'F').await;
    say(&mut other_web, request(&code)).await;
    hear(&mut other_mobile).await;

    // Two that have met, with a dead drop.
    let (mut first, mut second) = (connect(daemon.public).await, connect(daemon.public).await);
    for (socket, name) in [(&mut first, "first"), (&mut second, "second")] {
        let met = json!({"type": "register_rendezvous", "peerId": format!("{name}-{group}"),
            "dailyPoints": [format!("p{group}")], "hourlyTokens": [format!("t{group}")], "deadDrop": "x".repeat(256)});
        assert_eq!(ask(socket, met).await["type"], "rendezvous_result");
    }

    // A source that is asked, one that waits for it, a subscriber, and one whose chunk is cached.
    let channel = format!("c{group}");
    let mut subscriber = connect(daemon.public).await;
    for channel in [&channel, "all", "none"] {
        ask(&mut subscriber, json!({"type": "channel-subscribe", "channelId": channel})).await;
    }
    let announce = |id: &str, chunks: Value| json!({"type": "chunk_announce", "peerId": id, "channelId": channel, "chunks": chunks});
    let mut source = connect(daemon.public).await;
    let chunks = json!([{"chunkId": "1"}, {"chunkId": "2"}, {"chunkId": "3"}]);
    ask(&mut source, announce(&format!("source-{group}"), chunks)).await;
    let mut reader = connect(daemon.public).await;
    let wanted = json!({"type": "chunk_request", "chunkId": "1", "channelId": channel});
    assert_eq!(ask(&mut reader, wanted).await["type"], "chunk_pulling");
    let mut pusher = connect(daemon.public).await;
    ask(&mut pusher, announce(&format!("pusher-{group}"), json!([{"chunkId": "kept"}]))).await;
    let push =
        json!({"type": "chunk_push", "chunkId": "kept", "channelId": channel, "data": {"group": group}});
    assert_eq!(ask(&mut pusher, push).await["type"], "chunk_push_ack");

    // One that has spent its messages, one that is flooded and does not read, and who floods it.
    let mut abuser = connect(daemon.public).await;
    for _ in 0..110 {
        say(&mut abuser, json!({"type": "ping"})).await;
    }
    let (flooded, code) = device(daemon, group, 'G').await;
    let (mut flooding, _) = device(daemon, group, 'H').await;
    for _ in 0..10 {
        say(&mut flooding, json!({"type": "offer", "target": code, "payload": {"sdp": "x".repeat(4096)}}))
            .await;
    }
    hears_nothing(&mut flooding).await;

    // Whose id somebody else asks for; it is being looked whether the holder lives.
    let (holder, code) = device(daemon, group, 'J').await;
    let mut thief = connect(daemon.public).await;
    say(&mut thief, json!({"type": "register", "pairingCode": code, "publicKey": key_of("THIEF2")})).await;

    let mut halfway = RawTcp::open(daemon.public, "/ws", "").await;
    halfway.hear().await;
    // The head of a text frame of 126 bytes, and three of these.
    tokio::io::AsyncWriteExt::write_all(
        &mut halfway.stream,
        &[0x81, 0xfe, 0, 126, 0, 0, 0, 0, b'{', b'"', b't'],
    )
    .await
    .unwrap();
    let all = vec![
        newcomer,
        relay,
        requester,
        target,
        web,
        mobile,
        other_web,
        other_mobile,
        first,
        second,
        subscriber,
        source,
        reader,
        pusher,
        abuser,
        flooded,
        flooding,
        holder,
        thief,
    ];
    (all, halfway)
}

struct Watched {
    admin: AdminClient,
    pid: u32,
    clock: Clock,
}

impl Watched {
    fn resident(&self) -> u64 {
        resident_bytes(self.pid).unwrap()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }

    /// Until nothing is left of any socket.
    async fn emptied(&self) -> Status {
        let looking = async {
            loop {
                let status = self.admin.status().await.unwrap();
                let gone = status.connections.open == 0 && status.connections.ids == 0;
                if gone && status.engine.queue == 0 && status.leases.registration == 0 {
                    return status;
                }
                self.clock.sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(3 * SOON, looking).await.expect("they do not leave")
    }

    /// Until no more than this is resident, which takes the allocator some seconds: what it keeps for a while may be
    /// wanted again.
    async fn shrunk(&self, most: u64) -> u64 {
        let looking = async {
            while self.resident() > most {
                self.clock.sleep(Duration::from_millis(200)).await;
            }
            self.resident()
        };
        let shrunk = tokio::time::timeout(3 * SOON, looking).await;
        shrunk.unwrap_or_else(|_| panic!("{} bytes are resident, not {most}", self.resident()))
    }
}

/// As many sockets as this process may have open, up to all of them.
fn possible_groups() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let wanted = SOCKETS as u64 + OTHERS;
    if limit.current.is_some_and(|current| current < wanted.min(most)) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(most)), maximum: limit.maximum })
            .unwrap();
    }
    // The daemon needs as many.
    if most >= wanted + 1000 {
        return SOCKETS / GROUP;
    }
    assert!(std::env::var_os("WAYPOST_SKIP_NOTHING").is_none(), "only {most} open files are allowed");
    let groups = most.saturating_sub(OTHERS + 1000) as usize / GROUP;
    eprintln!("with {} sockets only: {most} open files are allowed", groups * GROUP);
    groups
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sockets_in_every_state_leave_nothing_behind() {
    let groups = possible_groups();
    let figures = std::env::var_os("LEAK_FIGURES").is_some();
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(
        data.path(),
        &[
            "--set",
            "limits.max_connections_per_address=10000",
            "--set",
            "limits.upgrades_per_minute=0",
            "--set",
            "limits.http_requests_per_minute=0",
            "--set",
            "rendezvous.keep_drops=false",
        ],
    );
    let token = std::fs::read_to_string(data.path().join(ADMIN_TOKEN)).unwrap().trim().to_owned();
    let admin = AdminClient::new(format!("http://{}", daemon.admin), token).unwrap();
    let watched = Watched { admin, pid: daemon.pid(), clock: Clock::system() };
    let (empty, open_files) = (watched.resident(), watched.descriptors());
    let mut full = Vec::new();
    for round in 0..ROUNDS {
        let end = if round % 2 == 0 { End::Killed } else { End::Closed };
        let started = watched.clock.running();
        let mut sockets = Vec::new();
        for first in (0..groups).step_by(AT_A_TIME) {
            let some = first..groups.min(first + AT_A_TIME);
            sockets.extend(join_all(some.map(|number| group(&daemon, number))).await);
        }
        let opened = watched.clock.running() - started;
        let status = watched.admin.status().await.unwrap();
        let live = status.live;
        full.push(watched.resident());
        assert_eq!(status.connections.open, groups * GROUP);
        assert_eq!(status.connections.ids, 14 * groups);
        let expected = LiveCounts {
            pairing_codes: 9 * groups,
            pair_requests: groups,
            link_requests: groups,
            device_links: groups,
            chunk_sources: 4 * groups,
            chunk_requests: groups,
            subscriptions: 3 * groups,
        };
        assert_eq!(LiveCounts { chunk_requests: groups, ..live }, expected);
        assert!(live.chunk_requests <= groups);

        let started = watched.clock.running();
        match end {
            End::Killed => drop(sockets),
            End::Closed => {
                let sockets = sockets.into_iter().flat_map(|(sockets, _)| sockets);
                let closing = sockets.map(async |mut socket| {
                    let _ = socket.send(tokio_tungstenite::tungstenite::Message::Close(None)).await;
                    let _ = socket.closed(SOON).await;
                });
                join_all(closing).await;
            }
        }
        let status = watched.emptied().await;
        let emptied = watched.clock.running() - started;
        assert_eq!(status.live, LiveCounts::default(), "{end:?}");
        let connections = &status.connections;
        assert_eq!((connections.addresses, connections.unsent_bytes), (0, 0), "{end:?}");
        let leases = &status.leases;
        assert_eq!(
            (leases.relay, leases.tokens, leases.points, leases.dead_drop_bytes),
            (0, 0, 0, 0),
            "{end:?}"
        );
        assert_eq!(leases.chunk, groups, "what was cached stays");
        // The test's own connection to the admin endpoint may be open.
        assert!(watched.descriptors() <= open_files + 1, "descriptors are left open");
        if figures {
            println!(
                "{} sockets set up in {opened:.1?}; {end:?} and gone in {emptied:.1?}; resident with them {:.1} MiB",
                groups * GROUP,
                mib(full[round]),
            );
        }
    }
    let (first, last) = (full[0], full[ROUNDS - 1]);
    assert!(last < first + first / 4, "memory grows from round to round: {full:?}");
    let started = watched.clock.running();
    let rest = watched.shrunk(empty + (last - empty) / 3).await;
    if figures {
        let took = watched.clock.running() - started;
        println!("resident before {:.1} MiB, {took:.1?} after the last {:.1} MiB", mib(empty), mib(rest));
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
