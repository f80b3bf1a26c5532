//! Owns the envelope and what becomes of frames (protocol: link, sections 2 and 3).

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use daemon::{SECOND, SOON, TestDaemon};
use link::{HOME, binary, close, close_with, closed, hear_frame, hear_text, left, met, phone, send, string};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use waypost::client::ClientError;

const KIB: usize = 1024;

async fn dropped(daemon: &TestDaemon, what: &str) -> f64 {
    let metrics = daemon.admin().metrics().await.unwrap();
    daemon::metric(&metrics, &format!("waypost_link_dropped_total{{what=\"{what}\"}}"))
}

#[tokio::test]
async fn frames_are_spliced_byte_for_byte_in_both_directions_and_from_both_opcodes() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let mut second = phone(&daemon, HOME).await;
    let odd = "{ \"b\" :1.0,\"a\":[1e5, -0,\"\\u00e9é\\/\"],\"a\":\n2}";
    for frame in [odd, "null", " [] ", "12", "\"\"", "true"] {
        first.send_text(frame).await.unwrap();
        let (conn_id, heard) = hear_frame(&mut home).await;
        assert_eq!((conn_id.len(), heard.as_str()), (22, frame));
        first.send_binary(frame).await.unwrap();
        assert_eq!(hear_frame(&mut home).await, (conn_id.clone(), frame.to_owned()));
        if frame == "null" {
            continue;
        }
        let envelope = format!("{{\"more\":{{}}, \"frame\" : {frame} ,\"conn_id\":\"{conn_id}\"}}");
        home.send_text(envelope.clone()).await.unwrap();
        assert_eq!(hear_text(&mut first).await, frame.trim());
        home.send_binary(envelope).await.unwrap();
        assert_eq!(hear_text(&mut first).await, frame.trim());
    }
    let (one, other) = (met(&mut home, &mut first).await, met(&mut home, &mut second).await);
    assert_ne!(one, other);
    send(&mut home, &other, json!(2)).await;
    send(&mut home, &one, json!(1)).await;
    assert_eq!((hear_text(&mut first).await, hear_text(&mut second).await), ("1".into(), "2".into()));
}

#[tokio::test]
async fn a_phone_that_sends_what_is_not_json_is_closed_and_the_binary_is_told() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    for bad in [Message::text("{\"a\":"), Message::text(""), Message::binary(&b"\"\xff\""[..])] {
        let mut first = phone(&daemon, HOME).await;
        let conn_id = met(&mut home, &mut first).await;
        first.send(bad).await.unwrap();
        assert_eq!(closed(&mut first).await, close(1007, "frame is not JSON"));
        assert_eq!(hear_text(&mut home).await, left(&conn_id, 1007));
    }
    // Text that is not UTF-8 is no JSON either.
    let mut first = link::mute(&daemon, "/v1/client", HOME).await;
    first.send(1, b"\"x\"").await;
    let (conn_id, _) = hear_frame(&mut home).await;
    first.send(1, b"\"\xff\"").await;
    assert_eq!(first.closed().await, close(1007, "frame is not JSON"));
    assert_eq!(hear_text(&mut home).await, left(&conn_id, 1007));
}

#[tokio::test]
async fn what_a_binary_sends_wrongly_is_dropped_and_counted_and_it_stays() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let conn_id = met(&mut home, &mut first).await;
    for malformed in ["", "{", "[]", "{}", r#"{"frame":1}"#, r#"{"conn_id":7,"frame":1}"#] {
        home.send_text(malformed).await.unwrap();
    }
    home.send_binary(&b"\xff"[..]).await.unwrap();
    send(&mut home, "nobody", json!(1)).await;
    home.send_text(r#"{"conn_id":"nobody","close_code":1000}"#).await.unwrap();
    home.send_text(format!(r#"{{"conn_id":"{conn_id}","frame":null,"close_code":0}}"#)).await.unwrap();
    for code in ["1", "999", "1004", "1005", "1006", "1015", "2999", "5000", "-1", "1000.5", "[1000]", "true"]
    {
        let envelope = format!(r#"{{"conn_id":"{conn_id}","frame":"beside {code}","close_code":{code}}}"#);
        home.send_text(envelope).await.unwrap();
        assert_eq!(hear_text(&mut first).await, format!("\"beside {code}\""));
    }
    let counts = (
        dropped(&daemon, "malformed").await,
        dropped(&daemon, "unknown_conn_id").await,
        dropped(&daemon, "close_code").await,
    );
    assert_eq!(counts, (7.0, 2.0, 12.0));
    // A frame for a phone that has left.
    drop(first);
    assert_eq!(hear_text(&mut home).await, left(&conn_id, 1001));
    send(&mut home, &conn_id, json!(1)).await;
    daemon.until_metric("waypost_link_dropped_total{what=\"unknown_conn_id\"}", 3.0).await;
    assert_eq!(link::state(&daemon).await, "held");
}

#[tokio::test]
async fn a_binary_has_a_phone_closed_after_a_last_frame_and_hears_nothing_of_it() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut other = phone(&daemon, HOME).await;
    for code in [1000, 1001, 1003, 1007, 1011, 1013, 3000, 4404, 4999] {
        let mut first = phone(&daemon, HOME).await;
        let conn_id = met(&mut home, &mut first).await;
        let envelope = json!({"conn_id": conn_id, "frame": ["last", code], "close_code": code});
        home.send_json(&envelope).await.unwrap();
        assert_eq!(hear_text(&mut first).await, format!("[\"last\",{code}]"));
        assert_eq!(closed(&mut first).await, close(code, ""));
        // Nothing of it comes before the next phone's frame.
        met(&mut home, &mut other).await;
    }
    // Some clients' libraries do not know 1014; it may be sent all the same.
    let mut first = link::mute(&daemon, "/v1/client", HOME).await;
    first.send(1, b"1").await;
    let (conn_id, _) = hear_frame(&mut home).await;
    home.send_json(&json!({"conn_id": conn_id, "close_code": 1014})).await.unwrap();
    assert_eq!(first.closed().await, close(1014, ""));
}

#[tokio::test]
async fn the_binary_hears_how_a_phone_has_left_after_its_last_frame() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    for (say, told) in [(Some(4000), 4000), (Some(1000), 1000), (Some(1005), 1001), (None, 1001)] {
        let mut first = phone(&daemon, HOME).await;
        let conn_id = met(&mut home, &mut first).await;
        for number in 0..40 {
            first.send_text(number.to_string()).await.unwrap();
        }
        match say {
            // A close without a code.
            Some(1005) => first.send(Message::Close(None)).await.unwrap(),
            Some(code) => close_with(&mut first, code).await,
            None => drop(first),
        }
        for number in 0..40 {
            assert_eq!(hear_frame(&mut home).await, (conn_id.clone(), number.to_string()));
        }
        assert_eq!(hear_text(&mut home).await, left(&conn_id, told));
    }
}

#[tokio::test]
async fn a_message_over_the_cap_is_1009_on_either_leg_and_reaches_its_sender() {
    let daemon = link::start_with(|settings| settings.link.max_message_bytes = 256 * KIB).await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let conn_id = met(&mut home, &mut first).await;
    first.send_text(string(256 * KIB)).await.unwrap();
    assert_eq!(hear_frame(&mut home).await.1.len(), 256 * KIB);
    let sent = first.send_text(string(20 * 1024 * KIB));
    // The answer may come while it is still sending.
    let (_, told) = tokio::join!(sent, hear_text(&mut home));
    assert_eq!(told, left(&conn_id, 1009));
    assert_eq!(closed(&mut first).await, close(1009, "message too large"));

    let envelope = |bytes: usize| {
        let around = r#"{"conn_id":"","frame":""}"#.len();
        format!(r#"{{"conn_id":"","frame":"{}"}}"#, "x".repeat(bytes - around))
    };
    home.send_text(envelope(256 * KIB)).await.unwrap();
    daemon.until_metric("waypost_link_dropped_total{what=\"unknown_conn_id\"}", 1.0).await;
    home.send_text(envelope(256 * KIB + 1)).await.unwrap();
    assert_eq!(closed(&mut home).await, close(1009, "message too large"));
    link::until_state(&daemon, "grace").await;
}

/// The phone is held up once, while it does not take its own output: when there is room again it goes on.
/// Another id's phone has said much in a grace and left: that goes before anybody is closed for it.
/// A binary that goes on sending hears what comes for it meanwhile.
#[tokio::test]
async fn a_silent_binary_or_phone_is_closed_with_a_heartbeat_timeout() {
    let daemon = link::start_with(|settings| settings.link.pong_timeout = 20 * SECOND).await;
    let mut home = link::mute(&daemon, "/v1/server", HOME).await;
    let mut first = link::mute(&daemon, "/v1/client", HOME).await;
    let mut talks = phone(&daemon, HOME).await;
    daemon.advance(30 * SECOND);
    for socket in [&mut home, &mut first] {
        assert!(matches!(socket.frame().await, Some((9, _))), "a ping");
    }
    assert!(matches!(talks.next_text(SECOND).await, Err(ClientError::Timeout)), "it has answered its ping");
    daemon.advance(20 * SECOND - SECOND / 1000);
    assert_eq!(daemon.status().await.connections.open, 3);
    daemon.advance(SECOND / 1000);
    for socket in [&mut home, &mut first] {
        assert_eq!(socket.closed().await, close(1011, "heartbeat timeout"));
    }
    link::until_state(&daemon, "grace").await;
    daemon.until("one phone is left", |status| status.connections.phones == 1).await;
}

#[tokio::test]
async fn an_orderly_stop_says_so_to_both() {
    let mut daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    met(&mut home, &mut first).await;
    let (home, first) = tokio::join!(
        async {
            loop {
                match home.next_text(SOON).await {
                    Ok(text) => assert!(text.contains("\"close_code\":1001"), "{text}"),
                    Err(ClientError::Closed { code, reason }) => return (code, reason),
                    Err(error) => panic!("{error}"),
                }
            }
        },
        async {
            let (told, ()) = tokio::join!(closed(&mut first), daemon.stop([]));
            told
        }
    );
    assert_eq!((home, first), (close(1001, "shutting down"), close(1001, "shutting down")));
}
