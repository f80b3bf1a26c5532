//! Owns the proof of channels (protocol: signalling, section 5): who subscribes is told what is cached and what
//! others announce, nobody is held up by who does not read, and nothing is left of those who have left.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use std::time::Duration;

use daemon::{SECOND, TestDaemon, ask, error, hear, hears_nothing, metric, say};
use devices::missing;
use serde_json::{Value, json};
use waypost::client::RawSocket;
use waypost::wire::admin::LiveCounts;

const MILLISECOND: Duration = Duration::from_millis(1);

fn subscribe(channel: &str) -> Value {
    json!({"type": "channel-subscribe", "channelId": channel})
}

fn unsubscribe(channel: &str) -> Value {
    json!({"type": "channel-unsubscribe", "channelId": channel})
}

fn subscribed(channel: &str) -> Value {
    json!({"type": "channel-subscribed", "channelId": channel})
}

fn unsubscribed(channel: &str) -> Value {
    json!({"type": "channel-unsubscribed", "channelId": channel})
}

fn announce<I: AsRef<str>>(peer: &str, channel: &str, chunks: &[I]) -> Value {
    let chunks: Vec<_> = chunks.iter().map(|chunk| json!({"chunkId": chunk.as_ref()})).collect();
    json!({"type": "chunk_announce", "peerId": peer, "channelId": channel, "chunks": chunks})
}

fn announced(registered: usize) -> Value {
    json!({"type": "chunk_announce_ack", "registered": registered})
}

fn available<I: AsRef<str>>(channel: &str, chunks: &[I]) -> Value {
    let chunks: Vec<_> = chunks.iter().map(AsRef::as_ref).collect();
    json!({"type": "chunk_available", "channelId": channel, "chunkIds": chunks})
}

async fn push(socket: &mut RawSocket, channel: &str, chunk: &str) {
    let push = json!({"type": "chunk_push", "channelId": channel, "chunkId": chunk, "data": chunk});
    let taken = json!({"type": "chunk_push_ack", "chunkId": chunk, "cached": true, "servedCount": 0});
    assert_eq!(ask(socket, push).await, taken);
}

#[tokio::test]
async fn a_subscriber_is_told_what_is_cached_the_newest_first() {
    let mut daemon = TestDaemon::start_with(|settings| settings.chunks.ttl = 40 * SECOND).await;
    let [mut ann, mut reader] = daemon.raws().await;
    // Nothing is cached, whatever is announced.
    assert_eq!(ask(&mut ann, announce("ann", "c", &["a", "b"])).await["registered"], 2);
    assert_eq!(ask(&mut reader, subscribe("c")).await, subscribed("c"));
    hears_nothing(&mut reader).await;
    push(&mut ann, "c", "b").await;
    hears_nothing(&mut reader).await;
    daemon.advance(SECOND);
    push(&mut ann, "c", "a").await;
    assert_eq!(ask(&mut ann, announce("ann", "d", &["e"])).await, announced(1));
    push(&mut ann, "d", "e").await;
    // Who subscribes once more is told once more, and subscribed once.
    assert_eq!(ask(&mut reader, subscribe("c")).await, subscribed("c"));
    assert_eq!(hear(&mut reader).await, available("c", &["a", "b"]));
    assert_eq!(daemon.status().await.live.subscriptions, 1);

    // Exact ends, after a restart as before.
    daemon.restart([ann, reader]).await;
    assert_eq!(daemon.status().await.live, LiveCounts::default());
    let mut reader = daemon.raw().await;
    daemon.advance(20 * SECOND);
    hears_nothing(&mut reader).await;
    daemon.advance(19 * SECOND - MILLISECOND);
    assert_eq!(ask(&mut reader, subscribe("c")).await, subscribed("c"));
    assert_eq!(hear(&mut reader).await, available("c", &["a", "b"]));
    daemon.advance(MILLISECOND);
    assert_eq!(ask(&mut reader, subscribe("c")).await, subscribed("c"));
    assert_eq!(hear(&mut reader).await, available("c", &["a"]));
    daemon.advance(SECOND);
    assert_eq!(ask(&mut reader, subscribe("c")).await, subscribed("c"));
    hears_nothing(&mut reader).await;
}

#[tokio::test]
async fn an_announcement_is_told_to_the_other_subscribers_of_its_channel_alone() {
    let daemon = TestDaemon::start().await;
    let [mut ann, mut bob, mut eve, mut other] = daemon.raws().await;
    for socket in [&mut ann, &mut bob, &mut eve] {
        assert_eq!(ask(socket, subscribe("c")).await, subscribed("c"));
    }
    for socket in [&mut bob, &mut other] {
        assert_eq!(ask(socket, subscribe("d")).await, subscribed("d"));
    }
    assert_eq!(ask(&mut ann, announce("ann", "c", &["z", "a", "z"])).await["registered"], 2);
    for socket in [&mut bob, &mut eve] {
        assert_eq!(hear(socket).await, available("c", &["z", "a"]));
        hears_nothing(socket).await;
    }
    // What was announced before is told again: it may be had from one more.
    assert_eq!(ask(&mut bob, announce("bob", "c", &["a"])).await["registered"], 1);
    for socket in [&mut ann, &mut eve] {
        assert_eq!(hear(socket).await, available("c", &["a"]));
    }
    // What is refused is nobody's business, nor what is in no channel.
    assert_eq!(ask(&mut ann, announce("bob", "c", &["a"])).await["code"], "peer_mismatch");
    assert_eq!(ask(&mut ann, announce("ann", "", &["a"])).await, announced(1));

    assert_eq!(ask(&mut eve, unsubscribe("c")).await, unsubscribed("c"));
    assert_eq!(ask(&mut eve, unsubscribe("c")).await, unsubscribed("c"), "there is nothing to refuse");
    assert_eq!(ask(&mut bob, unsubscribe("d")).await, unsubscribed("d"));
    assert_eq!(ask(&mut ann, announce("ann", "c", &["new"])).await, announced(1));
    assert_eq!(ask(&mut ann, announce("ann", "d", &["new"])).await, announced(1));
    assert_eq!(hear(&mut bob).await, available("c", &["new"]));
    assert_eq!(hear(&mut other).await, available("d", &["new"]));
    for socket in [&mut ann, &mut bob, &mut eve, &mut other] {
        hears_nothing(socket).await;
    }
    assert_eq!(daemon.status().await.live.subscriptions, 3);
}

#[tokio::test]
async fn answers_leave_in_the_order_of_the_requests() {
    let daemon = TestDaemon::start().await;
    let [mut ann, mut reader] = daemon.raws().await;
    assert_eq!(ask(&mut ann, announce("ann", "c", &["a"])).await["registered"], 1);
    push(&mut ann, "c", "a").await;
    let (ping, pong) = (json!({"type": "ping"}), json!({"type": "pong"}));
    let data =
        json!({"type": "chunk_data", "chunkId": "a", "channelId": "c", "data": "a", "source": "cache"});
    let request = json!({"type": "chunk_request", "chunkId": "a", "channelId": "c"});
    for _ in 0..20 {
        for message in [&request, &subscribe("c"), &ping, &request, &unsubscribe("c"), &ping] {
            say(&mut reader, message.clone()).await;
        }
        let said =
            [&data, &subscribed("c"), &available("c", &["a"]), &pong, &data, &unsubscribed("c"), &pong];
        for expected in said {
            assert_eq!(hear(&mut reader).await, *expected);
        }
    }
}

#[tokio::test]
async fn channels_have_names() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    for kind in ["channel-subscribe", "channel-unsubscribe"] {
        let wrong = format!("Invalid message: {kind}: channelId must be a string of 1 to 256 characters");
        for (channel, expected) in [
            (json!(null), missing("channelId")),
            (json!(""), missing("channelId")),
            (json!(7), error("invalid_field", &wrong)),
            (json!(["c"]), error("invalid_field", &wrong)),
            (json!("\u{e9}".repeat(257)), error("invalid_field", &wrong)),
        ] {
            assert_eq!(ask(&mut socket, json!({"type": kind, "channelId": channel})).await, expected);
        }
    }
    let longest = "\u{1f980}".repeat(256);
    assert_eq!(ask(&mut socket, subscribe(&longest)).await, subscribed(&longest));
    assert_eq!(daemon.status().await.live.subscriptions, 1);
}

#[tokio::test]
async fn the_same_id_in_two_channels_is_two_chunks_and_no_channel_is_the_empty_one() {
    let daemon = TestDaemon::start().await;
    let (mut ann, mut reader) = (daemon.registered("ann").await.0, daemon.raw().await);
    let no_source = json!({"type": "chunk_error", "chunkId": "a", "error": "No source available for chunk"});
    let not_announced = error("chunk_not_announced", "Chunk was not announced");
    let pushed = json!({"type": "chunk_push_ack", "chunkId": "a", "cached": true, "servedCount": 0});
    let channels = [json!(null), json!(""), json!("c"), json!("d")];
    let of = |kind: &str, channel: &Value, more: Value| {
        let mut message =
            json!({"type": kind, "peerId": "ann", "chunkId": "a", "chunks": [{"chunkId": "a"}]});
        message["data"] = more;
        match channel {
            Value::Null => {}
            channel => message["channelId"] = channel.clone(),
        }
        message
    };
    assert_eq!(ask(&mut ann, of("chunk_announce", &json!("c"), json!(null))).await, announced(1));
    for other in [&json!(null), &json!(""), &json!("d")] {
        assert_eq!(ask(&mut reader, of("chunk_request", other, json!(null))).await, no_source);
        assert_eq!(ask(&mut ann, of("chunk_push", other, json!("x"))).await, not_announced);
    }
    for (at, channel) in channels.iter().enumerate() {
        assert_eq!(ask(&mut ann, of("chunk_announce", channel, json!(null))).await, announced(1));
        let data = json!(format!("data {at}"));
        assert_eq!(ask(&mut ann, of("chunk_push", channel, data)).await, pushed);
    }
    for (channel, named, data) in [
        (&channels[0], "", "data 1"),
        (&channels[1], "", "data 1"),
        (&channels[2], "c", "data 2"),
        (&channels[3], "d", "data 3"),
    ] {
        let expected = json!({"type": "chunk_data", "chunkId": "a", "channelId": named, "data": data,
            "source": "cache"});
        assert_eq!(ask(&mut reader, of("chunk_request", channel, json!(null))).await, expected);
    }
    let status = daemon.status().await;
    assert_eq!((status.leases.chunk, status.live.chunk_sources), (3, 3));
}

#[tokio::test]
async fn a_socket_subscribes_to_a_hundred_channels_and_no_more() {
    let daemon = TestDaemon::start().await;
    let [mut socket, mut other] = daemon.raws().await;
    let channels: Vec<_> = (0..100).map(|number| format!("channel {number}")).collect();
    for channel in &channels {
        assert_eq!(ask(&mut socket, subscribe(channel)).await, subscribed(channel));
    }
    let too_many = error("too_many_subscriptions", "Too many subscriptions (max 100)");
    assert_eq!(ask(&mut socket, subscribe("one more")).await, too_many);
    assert_eq!(ask(&mut socket, subscribe(&channels[0])).await, subscribed(&channels[0]));
    assert_eq!(ask(&mut other, subscribe("one more")).await, subscribed("one more"));
    assert_eq!(ask(&mut other, announce("ann", "one more", &["a"])).await["registered"], 1);
    hears_nothing(&mut socket).await;
    assert_eq!(ask(&mut socket, unsubscribe(&channels[99])).await, unsubscribed(&channels[99]));
    assert_eq!(ask(&mut socket, subscribe("one more")).await, subscribed("one more"));
    assert_eq!(ask(&mut socket, subscribe(&channels[99])).await, too_many);
    assert_eq!(daemon.status().await.live.subscriptions, 101);
}

#[tokio::test]
async fn a_crowd_of_cached_chunks_is_told_in_parts() {
    let daemon = TestDaemon::start().await;
    let [mut ann, mut reader] = daemon.raws().await;
    let names: Vec<_> = (0..150).map(|number| format!("{number:03}")).collect();
    for part in names.chunks(100) {
        assert_eq!(ask(&mut ann, announce("ann", "c", part)).await["registered"], part.len());
    }
    for name in &names {
        push(&mut ann, "c", name).await;
    }
    let newest_first: Vec<_> = names.iter().rev().collect();
    assert_eq!(ask(&mut reader, subscribe("c")).await, subscribed("c"));
    for part in newest_first.chunks(100) {
        assert_eq!(hear(&mut reader).await, available("c", part));
    }
    hears_nothing(&mut reader).await;
}

#[tokio::test]
async fn nobody_waits_for_a_subscriber_that_does_not_read() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.outbox_bytes = 256 * 1024).await;
    let [mut slow, mut quick, mut stranger, mut ann] = daemon.raws().await;
    for socket in [&mut slow, &mut quick] {
        assert_eq!(ask(socket, subscribe("c")).await, subscribed("c"));
    }
    let names: Vec<_> = (0..100).map(|number| format!("{number:03}{}", "\u{1f980}".repeat(250))).collect();
    assert_eq!(ask(&mut ann, announce("ann", "c", &["first"])).await["registered"], 1);
    assert_eq!(hear(&mut quick).await, available("c", &["first"]));
    let full = "waypost_messages_undelivered_total{outcome=\"full\"}";
    let mut rounds = 0;
    while metric(&daemon.admin().metrics().await.unwrap(), full) == 0.0 {
        for _ in 0..5 {
            assert_eq!(ask(&mut ann, announce("ann", "c", &names)).await, announced(100));
            assert_eq!(hear(&mut quick).await, available("c", &names));
            hears_nothing(&mut stranger).await;
        }
        daemon.advance(50 * MILLISECOND);
        rounds += 1;
        assert!(rounds < 100, "it is never full");
    }
    // The slow one has missed something and nothing else: others cannot make it lose its socket.
    assert_eq!(hear(&mut slow).await, available("c", &["first"]));
    say(&mut slow, json!({"type": "ping"})).await;
    let mut heard = hear(&mut slow).await;
    while heard != json!({"type": "pong"}) {
        assert_eq!(heard, available("c", &names));
        heard = hear(&mut slow).await;
    }
    assert_eq!(ask(&mut ann, announce("ann", "c", &["last"])).await, announced(1));
    for socket in [&mut slow, &mut quick] {
        assert_eq!(hear(socket).await, available("c", &["last"]));
    }
}

#[tokio::test]
async fn nothing_is_left_of_those_who_have_left() {
    let daemon = TestDaemon::start().await;
    let mut sockets = Vec::new();
    for peer in ["ann", "bob", "eve"] {
        let mut socket = daemon.raw().await;
        for channel in ["c", "d"] {
            assert_eq!(ask(&mut socket, subscribe(channel)).await, subscribed(channel));
        }
        let own = format!("of {peer}");
        say(&mut socket, announce(peer, "c", &["a", "b", &own])).await;
        say(&mut socket, json!({"type": "ping"})).await;
        while hear(&mut socket).await["type"] != "pong" {}
        sockets.push(socket);
    }
    // Each waits for what another has, and is asked for what another wants.
    for (at, chunk) in [(0, "a"), (1, "a"), (2, "of ann"), (0, "of bob"), (1, "of eve")] {
        say(&mut sockets[at], json!({"type": "chunk_request", "chunkId": chunk, "channelId": "c"})).await;
    }
    let live = LiveCounts { chunk_sources: 9, chunk_requests: 5, subscriptions: 6, ..LiveCounts::default() };
    daemon.until("all are here", |status| status.live == live).await;
    let mut left = sockets.len();
    for socket in sockets {
        drop(socket);
        left -= 1;
        daemon.until("it has left", |status| status.connections.open == left).await;
        let live = daemon.status().await.live;
        assert_eq!((live.chunk_sources, live.subscriptions), (3 * left, 2 * left));
    }
    assert_eq!(daemon.status().await.live, LiveCounts::default());
}

/// 25 KiB to each of 40 subscribers: past 4 MiB at once, and 64 MiB in each second, an announcement waits, and its socket with it.
#[tokio::test]
async fn announcements_past_their_pace_wait_and_nobody_with_them_but_who_announces() {
    let daemon = TestDaemon::start().await;
    let mut subscribers = Vec::new();
    for _ in 0..40 {
        let mut socket = daemon.raw().await;
        assert_eq!(ask(&mut socket, subscribe("c")).await, subscribed("c"));
        subscribers.push(socket);
    }
    let [mut ann, mut bob] = daemon.raws().await;
    let large = |round: usize| (0..100).map(|number| format!("{round}{number:0>250}")).collect::<Vec<_>>();
    for round in 0..4 {
        assert_eq!(ask(&mut ann, announce("ann", "c", &large(round))).await["registered"], 100);
    }
    say(&mut ann, announce("ann", "c", &large(4))).await;
    daemon.until("it waits", |status| status.live.chunk_sources == 500).await;
    say(&mut bob, announce("bob", "c", &["of bob"])).await;
    daemon.until("it waits, too", |status| status.live.chunk_sources == 501).await;
    let reader = &mut subscribers[0];
    for round in 0..4 {
        assert_eq!(hear(reader).await, available("c", &large(round)));
    }
    hears_nothing(reader).await;
    // Where nobody listens nothing waits.
    assert_eq!(ask(reader, announce("eve", "d", &["of eve"])).await["registered"], 1);
    daemon.advance(SECOND);
    assert_eq!(hear(reader).await, available("c", &large(4)));
    assert_eq!(hear(reader).await, available("c", &["of bob"]));
    assert_eq!((&hear(&mut ann).await, &hear(&mut bob).await["registered"]), (&announced(100), &json!(1)));
    // What waits goes with its socket.
    daemon.advance(SECOND);
    for round in 5..9 {
        assert_eq!(ask(&mut ann, announce("ann", "c", &large(round))).await["registered"], 100);
    }
    say(&mut bob, announce("bob", "c", &["gone"])).await;
    daemon.until("it waits again", |status| status.live.chunk_sources == 903).await;
    drop(bob);
    daemon.until("bob has left", |status| status.connections.open == 41).await;
    daemon.advance(SECOND);
    for round in 5..9 {
        assert_eq!(hear(&mut subscribers[0]).await, available("c", &large(round)));
    }
    hears_nothing(&mut subscribers[0]).await;
}
