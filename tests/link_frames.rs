//! Owns the envelope and what becomes of frames (protocol: link, sections 2 and 3).

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use daemon::{SECOND, SOON, TestDaemon};
use link::{HOME, binary, close, closed, hear_frame, hear_text, left, met, phone, send};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use waypost::client::{ClientError, RawSocket};

const KIB: usize = 1024;

async fn dropped(daemon: &TestDaemon, what: &str) -> f64 {
    let metrics = daemon.admin().metrics().await.unwrap();
    daemon::metric(&metrics, &format!("waypost_link_dropped_total{{what=\"{what}\"}}"))
}

/// A JSON string of so many bytes.
fn string(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

async fn close_with(socket: &mut RawSocket, code: u16) {
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: code.into(), reason: "".into() };
    socket.send(Message::Close(Some(frame))).await.unwrap();
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

#[tokio::test]
async fn what_phones_send_while_the_binary_is_away_arrives_in_order_under_the_same_conn_ids() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let (mut stays, mut leaves) = (phone(&daemon, HOME).await, phone(&daemon, HOME).await);
    let (staying, leaving) = (met(&mut home, &mut stays).await, met(&mut home, &mut leaves).await);
    drop(home);
    link::until_state(&daemon, "grace").await;
    for number in 0..64 {
        stays.send_text(number.to_string()).await.unwrap();
    }
    leaves.send_text("\"last\"").await.unwrap();
    close_with(&mut leaves, 4001).await;
    daemon.until("it has left", |status| status.connections.phones == 1).await;
    let mut comes = phone(&daemon, HOME).await;
    comes.send_text("\"new\"").await.unwrap();
    let all = 10 + 54 * 2 + 6 + 5;
    daemon.until("all of it waits", |status| status.connections.unsent_bytes == all).await;

    let mut home = binary(&daemon, HOME).await;
    let mut heard = Vec::new();
    while heard.len() < 67 {
        heard.push(hear_text(&mut home).await);
    }
    let of = |conn_id: &str| -> Vec<String> {
        heard.iter().filter(|text| text.contains(conn_id)).cloned().collect()
    };
    let frame = |conn_id: &str, frame: &str| format!(r#"{{"conn_id":"{conn_id}","frame":{frame}}}"#);
    let numbers: Vec<_> = (0..64).map(|number| frame(&staying, &number.to_string())).collect();
    assert_eq!(of(&staying), numbers);
    assert_eq!(of(&leaving), [frame(&leaving, "\"last\""), left(&leaving, 4001)]);
    assert!(heard.last().unwrap().ends_with(r#","frame":"new"}"#));
    send(&mut home, &staying, json!("back")).await;
    assert_eq!(hear_text(&mut stays).await, "\"back\"");
    assert_eq!(daemon.status().await.connections.unsent_bytes, 0);
}

#[tokio::test]
async fn past_64_frames_or_a_mebibyte_in_the_grace_a_phone_is_closed_and_the_others_stay() {
    let daemon = link::start().await;
    let home = binary(&daemon, HOME).await;
    let [mut many, mut large, mut quiet] =
        [phone(&daemon, HOME).await, phone(&daemon, HOME).await, phone(&daemon, HOME).await];
    drop(home);
    link::until_state(&daemon, "grace").await;
    for _ in 0..64 {
        many.send_text("1").await.unwrap();
    }
    for _ in 0..4 {
        large.send_text(string(256 * KIB)).await.unwrap();
    }
    let all = 64 + 1024 * KIB;
    daemon.until("all of it waits", |status| status.connections.unsent_bytes == all).await;
    assert_eq!(link::claims(&daemon).await[0].waiting_bytes, all);
    many.send_text("1").await.unwrap();
    large.send_text("1").await.unwrap();
    for phone in [&mut many, &mut large] {
        assert_eq!(closed(phone).await, close(1011, "phone backlog full"));
    }
    quiet.send_text("\"still here\"").await.unwrap();
    daemon.until("two are cut", |status| status.connections.phones == 1).await;

    // What was taken arrives, and then that they have left.
    let mut home = binary(&daemon, HOME).await;
    let (mut frames, mut gone) = (0, 0);
    for _ in 0..64 + 4 + 1 + 2 {
        let text = hear_text(&mut home).await;
        frames += usize::from(text.contains("\"frame\":"));
        gone += usize::from(text.ends_with(r#","close_code":1011}"#));
    }
    assert_eq!((frames, gone), (69, 2));
    assert_eq!(daemon.status().await.connections.unsent_bytes, 0);
}

#[tokio::test]
async fn phones_that_come_and_go_in_the_grace_leave_a_bounded_amount_behind() {
    let daemon = link::start_with(|settings| settings.link.max_phones = 2).await;
    let mut home = binary(&daemon, HOME).await;
    let mut known = phone(&daemon, HOME).await;
    let conn_id = met(&mut home, &mut known).await;
    drop(home);
    link::until_state(&daemon, "grace").await;
    for mut guest in [known, phone(&daemon, HOME).await] {
        guest.send_text("\"first\"").await.unwrap();
        close_with(&mut guest, 1000).await;
        closed(&mut guest).await;
    }
    for number in 0..3 {
        let mut guest = phone(&daemon, HOME).await;
        guest.send_text(number.to_string()).await.unwrap();
        close_with(&mut guest, 1000).await;
        closed(&mut guest).await;
        daemon.until("it has left", |status| status.connections.phones == 0).await;
    }
    // Of the latest two everything arrives; of the phone that it knew the binary hears at least that it has left.
    let mut home = binary(&daemon, HOME).await;
    assert_eq!(hear_text(&mut home).await, left(&conn_id, 1000));
    for number in [1, 2] {
        let (guest, frame) = hear_frame(&mut home).await;
        assert_eq!(frame, number.to_string());
        assert_eq!(hear_text(&mut home).await, left(&guest, 1000));
    }
    met(&mut home, &mut phone(&daemon, HOME).await).await;
    assert_eq!(daemon.status().await.connections.unsent_bytes, 0);
}

#[tokio::test]
async fn a_phone_that_does_not_read_is_cut_off_alone() {
    let daemon = link::start_with(|settings| settings.link.phone_queue_bytes = 1024 * KIB).await;
    let mut home = binary(&daemon, HOME).await;
    let mut fast = phone(&daemon, HOME).await;
    let fast_id = met(&mut home, &mut fast).await;
    let mut slow = link::mute(&daemon, "/v1/client", HOME).await;
    slow.send(1, b"\"slow\"").await;
    let (slow_id, _) = hear_frame(&mut home).await;
    let large = "x".repeat(200 * KIB);
    let serving = async {
        for number in 0.. {
            send(&mut home, &slow_id, json!(large)).await;
            // The fast one has an answer at once, every time.
            send(&mut home, &fast_id, json!(number)).await;
            assert_eq!(hear_text(&mut fast).await, number.to_string());
            fast.send_text("0").await.unwrap();
            let text = hear_text(&mut home).await;
            if text == left(&slow_id, 1011) {
                assert_eq!(hear_frame(&mut home).await.0, fast_id);
                return number;
            }
            assert!(text.contains(&fast_id), "{text}");
        }
        0
    };
    let frames = tokio::time::timeout(SOON, serving).await.expect("it is cut off");
    assert!(frames > 5, "a mebibyte and what the system takes: {frames}");
    daemon.until_metric("waypost_connections_ended_total{reason=\"backlog_full\"}", 1.0).await;
    daemon.until("nothing of it is left", |status| status.connections.unsent_bytes == 0).await;
}

#[tokio::test]
async fn a_binary_that_does_not_read_holds_up_its_own_phones_and_nobody_else() {
    let daemon = link::start().await;
    let mut slow = link::mute(&daemon, "/v1/server", HOME).await;
    let mut elsewhere = binary(&daemon, "elsewhere").await;
    let (mut first, mut other) = (phone(&daemon, HOME).await, phone(&daemon, "elsewhere").await);
    // Far more than all buffers on the way take.
    const FRAMES: usize = 200;
    let pushing = tokio::spawn(async move {
        for number in 0..FRAMES {
            let frame = format!("[{number},{}]", string(128 * KIB));
            first.send_text(frame).await.unwrap();
        }
        first
    });
    // It comes to a halt, and holds no more than one phone may.
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let now = daemon.status().await.connections.unsent_bytes;
        assert!(now <= (1024 + 128 + 64 + 64) * KIB, "{now}");
        seen.retain(|before| *before == now && now > 512 * KIB);
        seen.push(now);
    }
    assert!(!pushing.is_finished());
    met(&mut elsewhere, &mut other).await;
    // A phone that is not read from is not dead. The binary is heard, so it is not either.
    for beat in 1..6 {
        daemon.advance(25 * SECOND);
        // What it says itself is heard, however much of it there is.
        for _ in 0..30 {
            slow.send(1, b"{}").await;
        }
        daemon.until_metric("waypost_link_dropped_total{what=\"malformed\"}", f64::from(30 * beat)).await;
        met(&mut elsewhere, &mut other).await;
    }
    for number in 0..FRAMES {
        let text = loop {
            match slow.frame().await {
                Some((1, text)) => break String::from_utf8(text).unwrap(),
                Some((9, _)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(text.contains(&format!("\"frame\":[{number},")), "frame {number} comes in order");
    }
    let first = pushing.await.unwrap();
    assert_eq!(daemon.status().await.connections.phones, 2);
    drop(first);
}

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
