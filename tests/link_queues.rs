//! Owns what waits, for how much room, and who pays for it (protocol: link, section 3).

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use daemon::{SECOND, SOON};
use link::{HOME, binary, close, close_with, closed, hear_frame, hear_text, left, met, phone, send, string};
use serde_json::json;

const KIB: usize = 1024;

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
    // Of what has arrived, too: one frame that waits for room, and the one behind it.
    daemon.until_metric("waypost_arriving_bytes", (2 * 128 - 8 - 32) as f64 * KIB as f64).await;
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
async fn a_phone_that_does_not_read_is_heard_all_the_same() {
    let daemon = link::start().await;
    let mut home = link::mute(&daemon, "/v1/server", HOME).await;
    let mut first = link::mute(&daemon, "/v1/client", HOME).await;
    first.send(1, b"\"hello\"").await;
    let Some((1, text)) = home.frame().await else { panic!("the frame") };
    let conn_id = String::from_utf8(text).unwrap().split('"').nth(3).unwrap().to_owned();
    let envelope = json!({"conn_id": conn_id, "frame": "z".repeat(50 * KIB)}).to_string();
    while daemon.status().await.connections.unsent_bytes < 600 * KIB {
        home.send(1, envelope.as_bytes()).await;
    }
    const FRAMES: usize = 300;
    let body = string(60 * KIB);
    let saying = async {
        for number in 0..FRAMES {
            first.send(1, format!("[{number},{body}]").as_bytes()).await;
        }
    };
    let hearing = async {
        // Only once the phone is held up.
        while link::claims(&daemon).await[0].waiting_bytes < 900 * KIB {}
        for number in 0..FRAMES {
            let Some((1, text)) = home.frame().await else { panic!("frame {number}") };
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(&format!("\"frame\":[{number},")), "frame {number} comes in order");
        }
    };
    tokio::time::timeout(SOON, async { tokio::join!(saying, hearing) }).await.expect("it goes on");
}

#[tokio::test]
async fn what_departed_phones_have_said_goes_before_anybody_is_closed() {
    let daemon = link::start_with(|settings| settings.connections.outbox_total_bytes = 1024 * KIB).await;
    drop(binary(&daemon, "away").await);
    daemon.until("it is gone", |status| status.connections.binaries == 0).await;
    let mut guest = phone(&daemon, "away").await;
    for _ in 0..4 {
        guest.send_text(string(250 * KIB)).await.unwrap();
    }
    daemon.until("it waits", |status| status.connections.unsent_bytes >= 1000 * KIB).await;
    drop(guest);
    daemon.until("it has left", |status| status.connections.phones == 0).await;
    let mut home = binary(&daemon, HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let conn_id = met(&mut home, &mut first).await;
    for number in 0..50 {
        send(&mut home, &conn_id, json!([number, "y".repeat(60 * KIB)])).await;
        assert!(hear_text(&mut first).await.starts_with(&format!("[{number},")));
    }
    daemon.until("it is forgotten", |status| status.connections.unsent_bytes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_sending_hears_as_well() {
    let daemon = link::start().await;
    let home = link::mute(&daemon, "/v1/server", HOME).await;
    let mut first = phone(&daemon, HOME).await;
    let (mut reader, mut writer) = home.stream.into_split();
    let flood = tokio::spawn(async move {
        let text = format!(r#"{{"conn_id":"nobody","frame":"{}"}}"#, "x".repeat(80));
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        let many = frame.repeat(500);
        while tokio::io::AsyncWriteExt::write_all(&mut writer, &many).await.is_ok() {}
    });
    daemon.until_metric("waypost_link_dropped_total{what=\"unknown_conn_id\"}", 10_000.0).await;
    first.send_text("\"hear me\"").await.unwrap();
    let mut heard: Vec<u8> = Vec::new();
    let hearing = async {
        let mut some = [0; 4096];
        while !heard.windows(7).any(|part| part == b"hear me") {
            let read = tokio::io::AsyncReadExt::read(&mut reader, &mut some).await.unwrap();
            heard.extend(&some[..read]);
        }
    };
    tokio::time::timeout(SOON, hearing).await.expect("it hears");
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn a_phone_that_is_to_be_closed_and_does_not_read_is_not_waited_for_without_end() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let mut deaf = link::mute(&daemon, "/v1/client", HOME).await;
    deaf.send(1, b"\"hello\"").await;
    let (conn_id, _) = hear_frame(&mut home).await;
    while daemon.status().await.connections.unsent_bytes < 300 * KIB {
        send(&mut home, &conn_id, json!("z".repeat(200 * KIB))).await;
    }
    home.send_json(&json!({"conn_id": conn_id, "close_code": 4000})).await.unwrap();
    let gone = async {
        while daemon.status().await.connections.phones > 0 {
            // Whatever it says meanwhile.
            deaf.send(10, b"").await;
            daemon.advance(SECOND);
            let _ = home.next_text(SECOND / 100).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("it is closed");
}
