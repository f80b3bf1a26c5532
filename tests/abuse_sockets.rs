//! Owns the proof that crowds of connections cost the real binary bounded memory, and honest peers nothing: half-open ones
//! and heads that are dribbled, silent sockets, unfinished messages, subscribers that do not read. Each attack has a
//! ceiling of resident memory, and honest peers are answered throughout. `ABUSE_FIGURES=1 cargo test --test abuse_sockets -- --nocapture`
//! prints what it took.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/flood.rs"]
mod flood;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use daemon::{Process, RawTcp, SECOND, ask, connect, hear, hears_nothing, metric, say, soon};
use flood::{Watch, address, connect_from, many, possible, tell};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use waypost::client::{AdminClient, RawSocket};
use waypost::clock::Clock;
use waypost::daemon::ADMIN_TOKEN;
use waypost::limits::{HTTP_CONNECTIONS, HTTP_CONNECTIONS_PER_ADDRESS};

/// Sockets of one address.
const PER_ADDRESS: usize = 50;

struct Attacked {
    daemon: Process,
    admin: AdminClient,
    _data: tempfile::TempDir,
}

impl Attacked {
    fn start(arguments: &[&str]) -> Attacked {
        let data = tempfile::tempdir().unwrap();
        let daemon = Process::start(data.path(), arguments);
        let token = std::fs::read_to_string(data.path().join(ADMIN_TOKEN)).unwrap().trim().to_owned();
        let admin = AdminClient::new(format!("http://{}", daemon.admin), token).unwrap();
        Attacked { daemon, admin, _data: data }
    }

    async fn metric(&self, name: &str) -> f64 {
        metric(&self.admin.metrics().await.unwrap(), name)
    }

    /// An attacker's upgrade, of the address with this number.
    async fn socket(&self, number: usize, receive_buffer: Option<u32>) -> RawTcp {
        let stream = connect_from(address(number), self.daemon.public, receive_buffer).await;
        let mut socket = RawTcp::on(stream, self.daemon.public, "/ws", "").await;
        assert_eq!(socket.status(), 101);
        socket.hear().await;
        socket
    }
}

/// Peers that go on as if nothing were: one that stays, and newcomers.
struct Honest {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

impl Honest {
    fn start(daemon: &Process) -> Honest {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let public = daemon.public;
        let stays = tokio::spawn({
            let (stop, answered) = (stop.clone(), answered.clone());
            async move {
                let (mut socket, clock) = (connect(public).await, Clock::system());
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let meet = json!({"type": "register_rendezvous", "peerId": "honest", "dailyPoints": [format!("p{}", number % 9)]});
                    assert_eq!(ask(&mut socket, meet).await["type"], "rendezvous_result");
                    answered.fetch_add(1, Ordering::Relaxed);
                    clock.sleep(Duration::from_millis(100)).await;
                }
            }
        });
        let comes = tokio::spawn({
            let (stop, answered) = (stop.clone(), answered.clone());
            async move {
                let clock = Clock::system();
                while !stop.load(Ordering::Relaxed) {
                    hears_nothing(&mut connect(public).await).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    clock.sleep(Duration::from_millis(500)).await;
                }
            }
        });
        Honest { stop, answered, tasks: [stays, comes] }
    }

    /// All that they asked was answered.
    async fn were_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let answered = self.answered.load(Ordering::Relaxed);
        tell(&format!("    {answered} requests and newcomers of honest peers, all answered"));
        assert!(answered > 10, "only {answered} requests were made");
    }
}

/// Whether the daemon has ended it.
async fn is_ended(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match timeout(Duration::from_millis(1), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowds_that_say_nothing_or_dribble_a_head_or_stay_silent_are_let_go_and_honest_peers_are_served() {
    let attacked =
        Attacked::start(&["--set", "limits.messages_per_minute=0", "--set", "limits.upgrades_per_minute=0"]);
    let public = attacked.daemon.public;
    // Nearly all places of either kind; one address has what it may have.
    let all = possible(HTTP_CONNECTIONS + 9_900) - 200;
    let before_upgrade = (all * 8 / 18).min(HTTP_CONNECTIONS - 192) / HTTP_CONNECTIONS_PER_ADDRESS
        * HTTP_CONNECTIONS_PER_ADDRESS;
    let silent = (all - before_upgrade).min(9_800) / PER_ADDRESS * PER_ADDRESS;
    tell(&format!("{before_upgrade} connections before their upgrade, {silent} sockets"));
    let watch = Watch::start("half-open, dribbled and silent", attacked.daemon.pid());
    let honest = Honest::start(&attacked.daemon);
    let sockets = many(silent, |number| attacked.socket(number / PER_ADDRESS, None)).await;
    let from = |number: usize| address(1000 + number / HTTP_CONNECTIONS_PER_ADDRESS);
    let clock = Clock::system();
    let began = clock.running();
    let mut pending = many(before_upgrade, |number| connect_from(from(number), public, None)).await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {public}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Padding: {}",
        "x".repeat(4000)
    );
    // Every second one says nothing, the others one more byte each second.
    let mut ended = Vec::new();
    for byte in head.as_bytes().iter().take(40) {
        for stream in pending.iter_mut().step_by(2) {
            let _ = stream.write_all(&[*byte]).await;
        }
        clock.sleep(SECOND).await;
        let mut left = 0;
        for stream in &mut pending {
            left += usize::from(!is_ended(stream).await);
        }
        ended.push(before_upgrade - left);
        if left == 0 {
            break;
        }
    }
    tell(&format!("    ended by the second: {ended:?}"));
    assert_eq!(ended.last(), Some(&before_upgrade), "a head has 10 s: {ended:?}");
    assert!(clock.running() - began < 40 * SECOND, "{:?}", clock.running() - began);
    // Silent sockets have 30 s until their first message.
    let in_time = "waypost_connections_ended_total{reason=\"no_first_message\"}";
    let gone = async {
        while attacked.metric(in_time).await < silent as f64 {
            clock.sleep(SECOND / 5).await;
        }
    };
    timeout(60 * SECOND, gone).await.expect("silent sockets are closed");
    for mut socket in sockets {
        assert_eq!(socket.closed().await.0, 1008);
    }
    honest.were_served().await;
    watch.never_above(CROWD_MIB);
}

/// 18,000 connections: 20 KiB each, and what the daemon has anyway.
const CROWD_MIB: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_never_finished_cost_no_more_than_the_largest_message_each_and_256_mib_in_all() {
    let attacked = Attacked::start(&[]);
    let bytes = 262_144_usize;
    let wanted = possible(1400);
    let watch = Watch::start("1400 unfinished messages", attacked.daemon.pid());
    let honest = Honest::start(&attacked.daemon);
    let mut held = many(wanted, async |number| {
        let mut socket = attacked.socket(number / PER_ADDRESS, None).await;
        // All but the last byte of the largest message.
        socket.begin(0x81, bytes).await;
        // The first ones are closed meanwhile.
        let _ = socket.stream.write_all(&vec![b' '; bytes - 1]).await;
        socket
    })
    .await;
    Clock::system().sleep(3 * SECOND).await;
    honest.were_served().await;
    // 256 MiB of 350, which may have grown in steps.
    watch.never_above(480);
    let mut counts = [0; 2];
    for socket in &mut held {
        // The last byte makes each a message that is none, which is answered after a while.
        let _ = socket.stream.write_all(b" ").await;
    }
    for mut socket in held {
        match soon(socket.frame()).await {
            Some((1, text)) => {
                assert!(String::from_utf8(text).unwrap().contains("invalid_json"));
                counts[0] += 1;
            }
            Some((8, close)) => {
                assert_eq!(close, b"\x03\xf5overloaded");
                counts[1] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    tell(&format!("    {} of them were whole in the end, {} had to go", counts[0], counts[1]));
    let fit = wanted.min((256 << 20) / (bytes - 8 * 1024));
    assert!((fit - 5..=fit + 5).contains(&counts[0]), "{counts:?}");
}

/// One that comes in one frame, or in two.
async fn say_at_length(socket: &mut RawTcp, text: &str, in_two: bool) {
    let (begun, rest) = text.split_at(if in_two { text.len() - 1 } else { text.len() });
    socket.begin(if in_two { 0x01 } else { 0x81 }, begun.len()).await;
    socket.stream.write_all(begun.as_bytes()).await.unwrap();
    if in_two {
        socket.send(0, rest.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_socket_keeps_nothing_of_the_large_messages_that_it_has_sent_or_heard() {
    let attacked = Attacked::start(&[]);
    let points: Vec<_> = (0..50).map(|number| format!("p{number}")).collect();
    let drops: serde_json::Map<_, _> =
        points.iter().map(|point| (point.clone(), "x".repeat(4000).into())).collect();
    let mut leaving = connect(attacked.daemon.public).await;
    let meet = |id: &str| json!({"type": "register_rendezvous", "peerId": id, "dailyPoints": points});
    let mut leave = meet("ann");
    leave["deadDrops"] = drops.into();
    assert_eq!(ask(&mut leaving, leave).await["type"], "rendezvous_result");
    let mut sockets = many(400, |number| attacked.socket(number / PER_ADDRESS, None)).await;
    // 48 of them find 200 KB there: 9 MiB in all.
    let watch = Watch::start("48 sockets that have heard 200 KB", attacked.daemon.pid());
    for (number, socket) in sockets.iter_mut().take(48).enumerate() {
        socket.send_json(meet(&format!("bob-{number}"))).await;
        assert!(socket.hear().await.to_string().len() > 200_000);
        socket.send_json(json!({"type": "ping"})).await;
        while socket.hear().await["type"] != "pong" {}
    }
    watch.never_above(40);
    // 76 MiB in all.
    let watch = Watch::start("400 sockets that have sent 200 KB", attacked.daemon.pid());
    let large = json!({"type": "ping", "padding": "x".repeat(200_000)}).to_string();
    for (number, socket) in sockets.iter_mut().enumerate() {
        for in_two in [number % 2 == 0, number % 3 == 0] {
            say_at_length(socket, &large, in_two).await;
            while socket.hear().await["type"] != "pong" {}
        }
    }
    watch.never_above(64);
}

fn announce(peer: &str, chunks: &[Value]) -> Value {
    json!({"type": "chunk_announce", "peerId": peer, "channelId": "c", "chunks": chunks})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_do_not_read_cost_half_of_the_budget_at_most_and_the_others_hear_everything() {
    let unlimited = ["--set", "limits.messages_per_minute=0"];
    let attacked = Attacked::start(&unlimited);
    let public = attacked.daemon.public;
    let subscribe = json!({"type": "channel-subscribe", "channelId": "c"});
    let deaf = many(900, async |number| {
        let mut socket = attacked.socket(number / PER_ADDRESS, Some(4096)).await;
        socket.send_json(subscribe.clone()).await;
        assert_eq!(socket.hear().await["type"], "channel-subscribed");
        socket
    })
    .await;
    let mut reader = connect(public).await;
    assert_eq!(ask(&mut reader, subscribe.clone()).await["type"], "channel-subscribed");
    let watch = Watch::start("900 subscribers that do not read", attacked.daemon.pid());
    let honest = Honest::start(&attacked.daemon);
    let mut announcer = connect(public).await;
    // 25 KiB each, 22 MiB for all: far more than the kernel and half of the budget take together.
    let chunks: Vec<_> = (0..100).map(|number| json!({"chunkId": format!("{number:0>250}")})).collect();
    let mut undelivered = 0.0;
    for round in 0..100 {
        assert_eq!(ask(&mut announcer, announce("ann", &chunks)).await["type"], "chunk_announce_ack");
        let heard = hear(&mut reader).await;
        assert_eq!(
            (&heard["type"], heard["chunkIds"].as_array().unwrap().len()),
            (&json!("chunk_available"), 100),
            "{round}"
        );
        undelivered = attacked.metric("waypost_messages_undelivered_total{outcome=\"full\"}").await;
        if undelivered > 0.0 {
            break;
        }
    }
    tell(&format!(
        "    {undelivered} announcements left out, {} bytes unsent",
        attacked.metric("waypost_unsent_bytes").await
    ));
    assert!(undelivered > 0.0, "they are behind");
    assert_eq!(attacked.metric("waypost_connections").await, 900.0 + 3.0, "nobody lost its socket for it");
    honest.were_served().await;
    watch.never_above(256);
    drop(deaf);
}

/// A message with as many answers as may come at once, and nobody reads any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_read_its_answers_is_not_read_itself_however_many_they_are() {
    let attacked = Attacked::start(&["--set", "limits.messages_per_minute=0"]);
    let public = attacked.daemon.public;
    let points: Vec<String> = (0..50).map(|number| format!("point {number}")).collect();
    let mut giver = connect(public).await;
    let drops = json!({"type": "register_rendezvous", "peerId": "giver", "dailyPoints": points, "deadDrop": "x".repeat(4096)});
    assert_eq!(ask(&mut giver, drops).await["type"], "rendezvous_result");
    let watch = Watch::start("500 sockets that ask for 200 KiB each and read nothing", attacked.daemon.pid());
    let honest = Honest::start(&attacked.daemon);
    let stuck = many(500, async |number| {
        let mut socket = attacked.socket(number / PER_ADDRESS, Some(4096)).await;
        let request = json!({"type": "register_rendezvous", "peerId": format!("deaf-{number}"), "dailyPoints": points[..1]});
        let many = json!({"type": "get_relays"});
        socket.send_json(request).await;
        let asking = async {
            for _ in 0..200 {
                socket.send_json(json!({"type": "register_rendezvous", "peerId": format!("deaf-{number}"), "hourlyTokens": points, "dailyPoints": points})).await;
                socket.send_json(many.clone()).await;
            }
        };
        let _ = timeout(SECOND / 2, asking).await;
        socket
    })
    .await;
    tell(&format!("    {} bytes unsent", attacked.metric("waypost_unsent_bytes").await));
    let mut other: RawSocket = connect(public).await;
    say(&mut other, json!({"type": "ping"})).await;
    assert_eq!(soon(hear(&mut other)).await, json!({"type": "pong"}));
    honest.were_served().await;
    watch.never_above(256);
    drop(stuck);
}
