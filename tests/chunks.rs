//! Owns the proof of the chunk relay (protocol: signalling, section 5): who announces a chunk is asked for it when somebody
//! wants it, and everything that waits has an end. The cache is in `chunk_cache.rs`, channels are in `channels.rs`.

#[path = "common/chunks.rs"]
mod chunks;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;

use chunks::*;
use daemon::*;
use devices::{ALICE, device, missing};
use serde_json::{Value, json};
use waypost::wire::admin::LiveCounts;

#[tokio::test]
async fn who_announces_holds_the_id_or_takes_it() {
    let daemon = TestDaemon::start().await;
    let (mut peer, _) = daemon.registered("ann").await;
    assert_eq!(ask(&mut peer, announce("ann", &["a", "b"])).await, announced(2));
    let mut alice = device(&daemon, ALICE).await;
    assert_eq!(ask(&mut alice, announce(ALICE, &["a"])).await, announced(1));
    let (mut bob, token) = source_with_token(&daemon, "bob", &["a"]).await;
    assert_eq!(ask(&mut bob, announce("bob", &["b"])).await, announced(1), "and holds it from then on");
    let mismatch = error("peer_mismatch", "peerId mismatch with registered identity");
    for socket in [&mut peer, &mut alice, &mut bob] {
        assert_eq!(ask(socket, announce("nobody", &["x"])).await, mismatch);
        assert_eq!(ask(socket, push("x", "x")).await, not_announced());
    }

    let mut newcomer = daemon.raw().await;
    let refused = tokio::select! {
        answer = ask(&mut newcomer, announce("bob", &["x"])) => answer,
        heard = hear(&mut bob) => panic!("the holder heard {heard}"),
    };
    assert_eq!(refused, error("id_in_use", "Peer ID already in use by another connection"));
    assert_eq!(daemon.status().await.live.chunk_sources, 5);
    let mut again = announce("bob", &["y"]);
    again["resumeToken"] = json!(token);
    let answer = ask(&mut newcomer, again).await;
    assert!(answer["registered"] == 1 && answer["resumeToken"].is_string(), "{answer}");
    assert_eq!(bob.closed(SOON).await.unwrap(), (4409, "replaced by a newer connection".to_owned()));
    daemon.until("the old socket's chunks are gone with it", |it| it.live.chunk_sources == 4).await;
}

#[tokio::test]
async fn an_announcement_is_taken_whole_or_refused_whole() {
    let daemon = TestDaemon::start().await;
    let mut socket = daemon.raw().await;
    let must = |field: &str, be: &str| {
        error("invalid_field", &format!("Invalid message: chunk_announce: {field} must be {be}"))
    };
    let bad_peer = "Invalid peerId: must be 1-128 alphanumeric characters, hyphens, or underscores";
    let bad_list = must("chunks", "a list of 1 to 100 { chunkId }");
    let bad_id = must("chunkId", "a string of 1 to 256 characters");
    let too_long = "\u{1f980}".repeat(257);
    let with = |last: Value| json!([{"chunkId": "a"}, last]);
    for (peer, channel, chunks, expected) in [
        (json!(null), json!(7), json!(7), missing("peerId")),
        (json!(""), json!(7), json!(7), missing("peerId")),
        (json!("no peer"), json!(7), json!(7), error("invalid_peer_id", bad_peer)),
        (json!("ann"), json!(7), json!(7), must("channelId", "a string")),
        (json!("ann"), json!(too_long), json!(7), must("channelId", "a string of at most 256 characters")),
        (json!("ann"), json!("c"), json!(null), bad_list.clone()),
        (json!("ann"), json!("c"), json!({"chunkId": "a"}), bad_list.clone()),
        (json!("ann"), json!("c"), json!([]), bad_list.clone()),
        (json!("ann"), json!("c"), json!(vec![json!({"chunkId": "a"}); 101]), bad_list.clone()),
        (json!("ann"), json!("c"), with(json!("b")), bad_list),
        (json!("ann"), json!("c"), with(json!({})), bad_id.clone()),
        (json!("ann"), json!("c"), with(json!({"chunkId": ""})), bad_id.clone()),
        (json!("ann"), json!("c"), with(json!({"chunkId": 7})), bad_id.clone()),
        (json!("ann"), json!("c"), with(json!({"chunkId": too_long})), bad_id),
    ] {
        let message =
            json!({"type": "chunk_announce", "peerId": peer, "channelId": channel, "chunks": chunks});
        assert_eq!(ask(&mut socket, message.clone()).await, expected, "{message}");
    }
    let mut bad_token = announce("ann", &["a"]);
    bad_token["resumeToken"] = json!(7);
    assert_eq!(ask(&mut socket, bad_token).await, must("resumeToken", "a string"));
    let status = daemon.status().await;
    assert_eq!((status.connections.ids, status.live), (0, LiveCounts::default()), "nothing was taken of it");

    // As many and as long as can be; what is named twice counts once, now as later, whatever its routingHash.
    let longest: Vec<_> = (0..100).map(|number| format!("{number:03}{}", &too_long[4 * 4..])).collect();
    let mut most = announce("ann", &longest);
    most["channelId"] = json!("\u{e9}".repeat(256));
    assert_eq!(ask(&mut socket, most.clone()).await["registered"], 100);
    assert_eq!(ask(&mut socket, most).await, announced(100));
    let twice =
        json!([{"chunkId": "a", "routingHash": "x"}, {"chunkId": "a", "routingHash": 7}, {"chunkId": "b"}]);
    let mut doubled = announce::<&str>("ann", &[]);
    (doubled["chunks"], doubled["channelId"]) = (twice, json!(null));
    assert_eq!(ask(&mut socket, doubled).await, announced(2));
    assert_eq!(daemon.status().await.live.chunk_sources, 102);
}

#[tokio::test]
async fn one_source_is_asked_and_all_who_wait_get_what_it_pushes() {
    let daemon = TestDaemon::start().await;
    let sources = (source(&daemon, "ann", &["a"]).await, source(&daemon, "bob", &["a"]).await);
    let [mut first, mut second, mut late] = daemon.raws().await;
    assert_eq!(ask(&mut first, request("a")).await, pulling("a"));
    let (mut asked, mut other) = asked_first("a", sources.0, sources.1).await;
    for socket in [&mut second, &mut first, &mut other] {
        assert_eq!(ask(socket, request("a")).await, pulling("a"));
    }
    assert_eq!(daemon.status().await.live.chunk_requests, 3, "who asks twice waits once");
    hears_nothing(&mut asked).await;
    hears_nothing(&mut other).await;
    assert_eq!(ask(&mut asked, push("a", json!({"x": [1, null]}))).await, pushed("a", 3));
    for socket in [&mut first, &mut second, &mut other] {
        assert_eq!(heard(socket).await, [relayed("a", json!({"x": [1, null]}))]);
    }
    assert_eq!(ask(&mut late, request("a")).await, cached("a", json!({"x": [1, null]})));
    hears_nothing(&mut asked).await;
    assert_eq!(daemon.status().await.live.chunk_requests, 0);

    // Whoever waits may come by the chunk otherwise: it gets its own push as others do, before the answer.
    let _silent = source(&daemon, "eve", &["b"]).await;
    assert_eq!(ask(&mut asked, request("b")).await, pulling("b"));
    say(&mut asked, announce("ann", &["b"])).await;
    let id = if hear(&mut asked).await["type"] == "error" { "bob" } else { "ann" };
    assert_eq!(ask(&mut asked, announce(id, &["b"])).await, announced(1));
    assert_eq!(ask(&mut asked, push("b", "text")).await, relayed("b", "text"));
    assert_eq!(hear(&mut asked).await, pushed("b", 1));
}

#[tokio::test]
async fn what_nobody_else_has_cannot_be_had() {
    let daemon = TestDaemon::start().await;
    let (mut ann, mut stranger) = (source(&daemon, "ann", &["a"]).await, daemon.raw().await);
    assert_eq!(ask(&mut stranger, request("b")).await, no_source("b"));
    assert_eq!(ask(&mut ann, request("a")).await, no_source("a"), "nobody is asked for what it asks for");
    assert_eq!(ask(&mut ann, push("a", "unasked")).await, pushed("a", 0));
    assert_eq!(ask(&mut stranger, request("a")).await, cached("a", "unasked"));
    drop(ann);
    daemon.until("the source has left", |status| status.live.chunk_sources == 0).await;
    assert_eq!(ask(&mut stranger, request("a")).await, cached("a", "unasked"), "its chunk stays");
}

#[tokio::test]
async fn requests_and_pushes_are_checked_in_order() {
    let daemon = TestDaemon::start().await;
    let (mut ann, mut stranger) = (source(&daemon, "ann", &["a"]).await, daemon.raw().await);
    let long = "\u{e9}".repeat(257);
    for kind in ["chunk_request", "chunk_push"] {
        let must = |field: &str, be: &str| {
            error("invalid_field", &format!("Invalid message: {kind}: {field} must be {be}"))
        };
        let (bad_id, bad_data) = ("a string of 1 to 256 characters", "an object or a string");
        let at_most = must("channelId", "a string of at most 256 characters");
        let mut cases = vec![
            (json!({"channelId": 7, "data": 7}), missing("chunkId")),
            (json!({"channelId": 7, "data": 7, "chunkId": ""}), missing("chunkId")),
            (json!({"channelId": 7, "data": 7, "chunkId": 7}), must("chunkId", bad_id)),
            (json!({"channelId": 7, "data": 7, "chunkId": long}), must("chunkId", bad_id)),
            (json!({"channelId": 7, "data": 7, "chunkId": "a"}), must("channelId", "a string")),
            (json!({"channelId": long, "data": 7, "chunkId": "a"}), at_most),
        ];
        if kind == "chunk_push" {
            let (too_much, told) =
                ("x".repeat(LIMIT), format!("{} bytes exceeds 65536 byte limit", LIMIT + 2));
            let too_large = error("chunk_too_large", &format!("Chunk payload too large: {told}"));
            cases.extend([json!(null), json!(7), json!(true), json!(["a"])].map(|data| {
                (json!({"channelId": "c", "data": data, "chunkId": "a"}), must("data", bad_data))
            }));
            cases.push((json!({"channelId": "c", "data": too_much, "chunkId": "a"}), too_large));
        }
        for (mut message, expected) in cases {
            message["type"] = json!(kind);
            assert_eq!(ask(&mut stranger, message.clone()).await, expected, "{message}");
        }
    }
    assert_eq!(ask(&mut stranger, push("a", "x")).await, not_announced());
    assert_eq!(ask(&mut ann, push("b", "x")).await, not_announced());
    let status = daemon.status().await;
    assert_eq!((status.leases.chunk, status.connections.ids), (0, 1));
}

#[tokio::test]
async fn a_silent_source_is_replaced_until_there_is_none_left() {
    for (set, patience) in [(None, 10 * SECOND), (Some(3 * SECOND), 3 * SECOND)] {
        let daemon =
            patient(|settings| settings.chunks.pull_timeout = set.unwrap_or(settings.chunks.pull_timeout));
        let daemon = daemon.await;
        let sources = (source(&daemon, "ann", &["a"]).await, source(&daemon, "bob", &["a"]).await);
        let [mut first, mut second] = daemon.raws().await;
        assert_eq!(ask(&mut first, request("a")).await, pulling("a"));
        let (mut asked, mut next) = asked_first("a", sources.0, sources.1).await;
        daemon.advance(patience - MILLISECOND);
        assert_eq!(ask(&mut second, request("a")).await, pulling("a"));
        hears_nothing(&mut next).await;
        daemon.advance(MILLISECOND);
        assert_eq!(hear(&mut next).await, pull("a"));
        daemon.advance(patience - MILLISECOND);
        for socket in [&mut asked, &mut next, &mut first, &mut second] {
            hears_nothing(socket).await;
        }
        daemon.advance(MILLISECOND);
        assert_eq!(hear(&mut first).await, no_source("a"));
        assert_eq!(hear(&mut second).await, no_source("a"));
        assert_eq!(daemon.status().await.live.chunk_requests, 0);

        // They have not been forgotten, and what is pushed late serves whoever waits by then.
        assert_eq!(ask(&mut first, request("a")).await, pulling("a"));
        let (mut asked, mut next) = asked_first("a", asked, next).await;
        daemon.advance(patience);
        assert_eq!(hear(&mut next).await, pull("a"));
        assert_eq!(ask(&mut asked, push("a", "late")).await, pushed("a", 1));
        assert_eq!(heard(&mut first).await, [relayed("a", "late")]);
        assert_eq!(ask(&mut next, push("a", "late")).await, pushed("a", 0));
    }
}

#[tokio::test]
async fn a_source_that_leaves_is_replaced_until_there_is_none_left() {
    let daemon = TestDaemon::start().await;
    let sources = (source(&daemon, "ann", &["a"]).await, source(&daemon, "bob", &["a"]).await);
    let [mut first, mut second] = daemon.raws().await;
    assert_eq!(ask(&mut first, request("a")).await, pulling("a"));
    assert_eq!(ask(&mut second, request("a")).await, pulling("a"));
    let (asked, mut next) = asked_first("a", sources.0, sources.1).await;
    drop(asked);
    assert_eq!(hear(&mut next).await, pull("a"));
    hears_nothing(&mut first).await;
    drop(next);
    assert_eq!(hear(&mut first).await, no_source("a"));
    assert_eq!(hear(&mut second).await, no_source("a"));
    assert_eq!(ask(&mut first, request("a")).await, no_source("a"));
    assert_eq!(daemon.status().await.live, LiveCounts::default());
}

/// A request and its source's end may be handled at once: that there is somebody to wait for is said first.
#[tokio::test]
async fn the_end_of_a_request_never_overtakes_its_answer() {
    let daemon = TestDaemon::start().await;
    let mut reader = daemon.raw().await;
    for _ in 0..200 {
        let ann = source(&daemon, "ann", &["a"]).await;
        say(&mut reader, request("a")).await;
        drop(ann);
        if hear(&mut reader).await == pulling("a") {
            assert_eq!(hear(&mut reader).await, no_source("a"));
        }
        hears_nothing(&mut reader).await;
        daemon.until("the source has left", |status| status.connections.ids == 0).await;
    }
}

#[tokio::test]
async fn an_announcement_counts_for_an_hour() {
    let daemon = patient(|_| {}).await;
    let (mut ann, mut stranger) = (source(&daemon, "ann", &["a", "b", "d"]).await, daemon.raw().await);
    hears_nothing(&mut stranger).await;
    daemon.advance(MINUTE);
    assert_eq!(ask(&mut ann, announce("ann", &["b"])).await, announced(1));
    daemon.advance(HOUR - MINUTE - MILLISECOND);
    assert_eq!(ask(&mut stranger, request("a")).await, pulling("a"));
    assert_eq!(hear(&mut ann).await, pull("a"));
    daemon.advance(MILLISECOND);
    assert_eq!(ask(&mut stranger, request("d")).await, no_source("d"));
    assert_eq!(ask(&mut ann, push("d", "x")).await, not_announced());
    assert_eq!(ask(&mut ann, push("a", "x")).await, pushed("a", 1), "it was asked for that");
    assert_eq!(hear(&mut stranger).await, relayed("a", "x"));
    assert_eq!(ask(&mut ann, push("a", "y")).await, not_announced(), "once");
    assert_eq!(ask(&mut stranger, request("b")).await, pulling("b"), "announced again a minute later");
    daemon.until("the others are forgotten", |status| status.live.chunk_sources == 1).await;
}

#[tokio::test]
async fn a_request_waits_for_two_minutes() {
    let daemon = patient(|settings| settings.chunks.pull_timeout = HOUR).await;
    let (mut ann, [mut first, mut second]) = (source(&daemon, "ann", &["a"]).await, daemon.raws().await);
    assert_eq!(ask(&mut first, request("a")).await, pulling("a"));
    hears_nothing(&mut second).await;
    daemon.advance(MINUTE);
    assert_eq!(ask(&mut second, request("a")).await, pulling("a"));
    assert_eq!(ask(&mut first, request("a")).await, pulling("a"), "asking again does not restart it");
    daemon.advance(MINUTE - MILLISECOND);
    hears_nothing(&mut first).await;
    daemon.advance(MILLISECOND);
    assert_eq!(hear(&mut first).await, no_source("a"));
    daemon.advance(MINUTE - MILLISECOND);
    hears_nothing(&mut second).await;
    daemon.advance(MILLISECOND);
    assert_eq!(hear(&mut second).await, no_source("a"));
    assert_eq!(heard(&mut ann).await, [pull("a")]);
    assert_eq!(ask(&mut ann, push("a", "x")).await, pushed("a", 0));
    hears_nothing(&mut first).await;
}

#[tokio::test]
async fn who_leaves_waits_no_more() {
    let daemon = TestDaemon::start().await;
    let (mut ann, [mut first, mut second]) = (source(&daemon, "ann", &["a", "b"]).await, daemon.raws().await);
    for socket in [&mut first, &mut second] {
        assert_eq!(ask(socket, request("a")).await, pulling("a"));
    }
    assert_eq!(ask(&mut first, request("b")).await, pulling("b"));
    drop(first);
    daemon.until("it has left", |status| status.live.chunk_requests == 1).await;
    assert_eq!(heard(&mut ann).await, [pull("a"), pull("b")]);
    assert_eq!(ask(&mut ann, push("b", "x")).await, pushed("b", 0));
    assert_eq!(ask(&mut ann, push("a", "x")).await, pushed("a", 1));
    assert_eq!(hear(&mut second).await, relayed("a", "x"));
}

#[tokio::test]
async fn what_one_socket_may_announce_and_wait_for_has_an_end() {
    let daemon = TestDaemon::start().await;
    let (mut ann, mut reader) = (daemon.registered("ann").await.0, daemon.raw().await);
    let names: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
    for hundred in names.chunks(100) {
        assert_eq!(ask(&mut ann, announce("ann", hundred)).await, announced(100));
    }
    let too_many = error("too_many_chunks", "Too many chunks announced");
    assert_eq!(ask(&mut ann, announce("ann", &["0", "new"])).await, too_many);
    assert_eq!(ask(&mut ann, announce("ann", &["0", "1"])).await, announced(2));
    for name in &names[..256] {
        assert_eq!(ask(&mut reader, request(name)).await, pulling(name));
    }
    let too_many = error("too_many_chunk_requests", "Too many chunk requests");
    assert_eq!(ask(&mut reader, request("256")).await, too_many);
    assert_eq!(ask(&mut reader, request("255")).await, pulling("255"));
    assert_eq!(ask(&mut ann, push("0", "x")).await["type"], "chunk_pull");
    daemon.until("one waits less", |status| status.live.chunk_requests == 255).await;
    assert_eq!(hear(&mut reader).await, relayed("0", "x"));
    assert_eq!(ask(&mut reader, request("256")).await, pulling("256"));
}
