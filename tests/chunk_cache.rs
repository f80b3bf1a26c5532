//! Owns the proof of the cache of chunks (protocol: signalling, section 5): what is pushed belongs to the id that pushed it,
//! is counted as what it is, outlives a restart and has an end.

#[path = "common/chunks.rs"]
mod chunks;
#[path = "common/daemon.rs"]
mod daemon;

use chunks::*;
use daemon::*;
use serde_json::json;
use waypost::wire::admin::LiveCounts;

#[tokio::test]
async fn data_are_counted_as_the_json_that_they_are() {
    let daemon = TestDaemon::start().await;
    let (mut ann, mut reader) = (source(&daemon, "ann", &["a"]).await, daemon.raw().await);
    let text = |unit: &str, count: usize| json!(unit.repeat(count));
    let object = |bytes: usize| json!({"k": "x".repeat(bytes - r#"{"k":""}"#.len())});
    for (largest, larger, bytes) in [
        (text("x", LIMIT - 2), text("x", LIMIT - 1), LIMIT + 1),
        (text("\u{e9}", LIMIT / 2 - 1), text("\u{e9}", LIMIT / 2), LIMIT + 2),
        (text("\n", LIMIT / 2 - 1), text("\n", LIMIT / 2), LIMIT + 2),
        (object(LIMIT), object(LIMIT + 1), LIMIT + 1),
    ] {
        assert_eq!(ask(&mut ann, push("a", largest.clone())).await, pushed("a", 0));
        let told = format!("Chunk payload too large: {bytes} bytes exceeds 65536 byte limit");
        assert_eq!(ask(&mut ann, push("a", larger)).await, error("chunk_too_large", &told));
        assert_eq!(ask(&mut reader, request("a")).await, cached("a", largest), "what stood stands");
    }
}

#[tokio::test]
async fn while_a_chunk_is_cached_only_the_id_that_pushed_it_replaces_it() {
    let daemon = patient(|_| {}).await;
    let (mut ann, mut bob) = (source(&daemon, "ann", &["a"]).await, source(&daemon, "bob", &["a"]).await);
    assert_eq!(ask(&mut ann, push("a", "one")).await, pushed("a", 0));
    assert_eq!(ask(&mut bob, push("a", "two")).await, conflict());
    assert_eq!(ask(&mut bob, push("a", json!({"one": 1}))).await, conflict());
    assert_eq!(ask(&mut bob, push("a", "one")).await, pushed("a", 0), "identical data are anyone's");
    assert_eq!(ask(&mut bob, push("a", "two")).await, conflict(), "and nobody's the more for that");
    assert_eq!(ask(&mut ann, push("a", "three")).await, pushed("a", 0));
    assert_eq!(ask(&mut bob, request("a")).await, cached("a", "three"));

    // It is the id that counts, not the socket, and its chunks do not end with it.
    drop(ann);
    daemon.until("the id is free", |status| status.connections.ids == 1).await;
    assert_eq!(ask(&mut bob, push("a", "two")).await, conflict());
    let mut ann = source(&daemon, "ann", &["a"]).await;
    daemon.advance(29 * MINUTE);
    assert_eq!(ask(&mut ann, push("a", "four")).await, pushed("a", 0));
    daemon.advance(30 * MINUTE - MILLISECOND);
    assert_eq!(ask(&mut bob, push("a", "two")).await, conflict(), "a push restarts the 30 minutes");
    assert_eq!(ask(&mut bob, request("a")).await, cached("a", "four"));
    daemon.advance(MILLISECOND);
    assert_eq!(ask(&mut ann, announce("ann", &["b"])).await, announced(1));
    // Gone at its end, and anybody's who has announced it; that was an hour ago, less a minute.
    assert_eq!(ask(&mut bob, push("a", "two")).await, pushed("a", 0));
    assert_eq!(ask(&mut ann, push("a", "four")).await, conflict());
    assert_eq!(ask(&mut ann, request("a")).await, cached("a", "two"));
}

#[tokio::test]
async fn past_the_budget_the_least_recently_used_goes() {
    // Three of these fit, names and what else counts included, and not four.
    let daemon = TestDaemon::start_with(|settings| settings.chunks.cache_bytes = 128 * 1024).await;
    let data = |chunk: &str| chunk.repeat(40_000);
    let (mut ann, mut reader) = (source(&daemon, "ann", &["a", "b", "d", "e"]).await, daemon.raw().await);
    for chunk in ["a", "b", "d"] {
        assert_eq!(ask(&mut ann, push(chunk, data(chunk))).await, pushed(chunk, 0));
    }
    assert_eq!(ask(&mut reader, request("a")).await, cached("a", data("a")));
    assert_eq!(ask(&mut ann, push("e", data("e"))).await, pushed("e", 0));
    for chunk in ["d", "e", "a"] {
        assert_eq!(ask(&mut reader, request(chunk)).await, cached(chunk, data(chunk)), "{chunk}");
    }
    assert_eq!(metric(&daemon.admin().metrics().await.unwrap(), "waypost_chunks_evicted_total"), 1.0);
    // It can still be had from who has announced it, and then d goes: it was used the longest ago.
    assert_eq!(ask(&mut reader, request("b")).await, pulling("b"));
    assert_eq!(hear(&mut ann).await, pull("b"));
    assert_eq!(ask(&mut ann, push("b", data("b"))).await, pushed("b", 1));
    assert_eq!(hear(&mut reader).await, relayed("b", data("b")));
    assert_eq!(ask(&mut ann, request("d")).await, no_source("d"));
    assert_eq!(daemon.status().await.leases.chunk, 3);
}

#[tokio::test]
async fn cached_chunks_outlive_a_restart_and_nothing_else_does() {
    let mut daemon = patient(|_| {}).await;
    let (mut ann, mut reader) = (source(&daemon, "ann", &["a", "b"]).await, daemon.raw().await);
    assert_eq!(ask(&mut ann, push("a", json!({"x": 1}))).await, pushed("a", 0));
    assert_eq!(ask(&mut reader, request("b")).await, pulling("b"));
    daemon.advance(20 * MINUTE);
    daemon.restart([ann, reader]).await;
    let status = daemon.status().await;
    assert_eq!((status.leases.chunk, status.live), (1, LiveCounts::default()));
    let mut reader = daemon.raw().await;
    assert_eq!(ask(&mut reader, request("a")).await, cached("a", json!({"x": 1})));
    assert_eq!(ask(&mut reader, request("b")).await, no_source("b"));
    let mut bob = source(&daemon, "bob", &["a"]).await;
    assert_eq!(ask(&mut bob, push("a", "bob's")).await, conflict(), "it is known whose it is");
    daemon.advance(10 * MINUTE - MILLISECOND);
    assert_eq!(ask(&mut reader, request("a")).await, cached("a", json!({"x": 1})));
    drop(bob);
    daemon.until("nobody has it", |status| status.live.chunk_sources == 0).await;
    daemon.advance(MILLISECOND);
    assert_eq!(ask(&mut reader, request("a")).await, no_source("a"));
    daemon.until("it is swept", |status| status.leases.chunk == 0).await;
}

#[tokio::test]
async fn who_has_no_room_for_a_chunk_is_told_to_ask_again_and_stays() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.outbox_bytes = 64 * 1024).await;
    let (mut ann, mut reader) = (source(&daemon, "ann", &["a"]).await, daemon.raw().await);
    let data = "x".repeat(40_000);
    assert_eq!(ask(&mut reader, request("a")).await, pulling("a"));
    assert_eq!(hear(&mut ann).await, pull("a"));
    assert_eq!(ask(&mut ann, push("a", data.clone())).await, pushed("a", 1));
    let again = "Chunk is cached now. Please request it again.";
    assert_eq!(hear(&mut reader).await, json!({"type": "chunk_error", "chunkId": "a", "error": again}));
    assert_eq!(ask(&mut reader, request("a")).await, cached("a", data));
}
