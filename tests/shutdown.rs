//! Owns the proof that the real binary ends in order (protocol: signalling, section 7), and that it refuses to start
//! where it would do harm, saying what to do.

#[path = "common/daemon.rs"]
mod daemon;

use std::path::Path;
use std::process::{Command, Output};

use daemon::{Process, RawTcp, SECOND, SOON, ask, connect, hear, hears_nothing, offered, say};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use waypost::clock::Clock;
use waypost::store::{Faults, SCHEMA, Store};

fn shutting_down() -> (u16, String) {
    (1001, "Server shutting down".to_owned())
}

async fn stop(daemon: Process) {
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// Runs the binary where it cannot start.
fn refused(data: &Path) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Process::command(data, &[]).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn gift(peer: &str) -> Value {
    json!({"type": "register_rendezvous", "peerId": peer, "dailyPoints": ["p", "q"], "hourlyTokens": ["t"],
        "deadDrops": {"p": "one", "q": "two"}})
}

/// The payloads and the living peers that somebody new finds where [`gift`] went.
async fn found(daemon: &Process, seeker: &str) -> (Vec<String>, Vec<String>) {
    let message = json!({"type": "register_rendezvous", "peerId": seeker, "dailyPoints": ["p", "q"], "hourlyTokens": ["t"]});
    let result = ask(&mut connect(daemon.public).await, message).await;
    let all = |list: &str, field: &str| {
        let list = result[list].as_array().unwrap_or_else(|| panic!("{result}"));
        list.iter().map(|it| it[field].as_str().unwrap().to_owned()).collect()
    };
    (all("deadDrops", "deadDrop"), all("liveMatches", "peerId"))
}

#[tokio::test]
async fn each_signal_closes_every_socket_with_1001_and_ends_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let data = tempfile::tempdir().unwrap();
        let daemon = Process::start(data.path(), &[]);
        let mut registered = connect(daemon.public).await;
        ask(&mut registered, json!({"type": "register", "peerId": "alice"})).await;
        let mut quiet = connect(daemon.public).await;
        let public = daemon.public;
        daemon.signal(signal);
        for socket in [&mut registered, &mut quiet] {
            assert_eq!(socket.closed(SOON).await.unwrap(), shutting_down());
        }
        drop((registered, quiet));
        assert_eq!(daemon.ended().await.code(), Some(0), "{signal}");
        assert!(TcpStream::connect(public).await.is_err(), "nobody listens any more");
        let store = Store::open(&Process::store(data.path()), Faults::default()).unwrap();
        assert_eq!(store.check().unwrap().problems, []);
    }
}

#[tokio::test]
async fn clients_that_never_answer_do_not_hold_up_the_end() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &["--set", "drain.timeout=5s"]);
    // One that neither reads nor answers its close, one in the midst of a request, one that says nothing at all.
    let mut deaf = RawTcp::open(daemon.public, "/ws", "").await;
    deaf.send_json(json!({"type": "ping"})).await;
    let mut halfway = TcpStream::connect(daemon.public).await.unwrap();
    halfway.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let _mute = TcpStream::connect(daemon.public).await.unwrap();
    let mut polite = connect(daemon.public).await;
    let clock = Clock::system();
    daemon.signal("TERM");
    assert_eq!(polite.closed(SOON).await.unwrap(), shutting_down());
    assert!(clock.running() < 2 * SECOND, "the others do not wait for them either: {:?}", clock.running());
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(clock.running() < 6 * SECOND, "{:?}", clock.running());
    assert_eq!(deaf.closed().await, shutting_down());
}

#[tokio::test]
async fn what_is_in_flight_is_answered_before_the_close() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &["--set", "liveness.takeover_probe=1m"]);
    // A claim to an id whose holder is silent is in flight until the probe is over.
    let mut holder = RawTcp::open(daemon.public, "/ws", "").await;
    holder.hear().await;
    holder.send_json(json!({"type": "register", "peerId": "alice"})).await;
    assert_eq!(holder.hear().await["type"], "registered");
    let mut newcomer = connect(daemon.public).await;
    newcomer.send_json(&json!({"type": "register", "peerId": "alice"})).await.unwrap();
    newcomer.send_json(&json!({"type": "ping"})).await.unwrap();
    assert!(matches!(holder.frame().await, Some((9, _))));
    daemon.signal("TERM");
    let answer = hear(&mut newcomer).await;
    assert!(answer["type"] == "registered" || answer["type"] == "error", "{answer}");
    assert_eq!(newcomer.closed(SOON).await.unwrap(), shutting_down());
    drop((newcomer, holder));
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_burst_is_answered_in_order_up_to_the_close_and_what_was_answered_is_kept() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &["--set", "limits.messages_per_minute=0"]);
    let mut socket = connect(daemon.public).await;
    for number in 0..200 {
        let message = json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": [format!("p{number}")], "deadDrop": "x"});
        socket.send_json(&message).await.unwrap();
    }
    let mut answered = 0;
    while answered < 5 {
        assert_eq!(hear(&mut socket).await["type"], "rendezvous_result");
        answered += 1;
    }
    daemon.signal("TERM");
    let close = loop {
        match socket.next_message(SOON).await {
            Ok(answer) => assert_eq!(answer["type"], "rendezvous_result"),
            Err(close) => break close,
        }
        answered += 1;
    };
    assert!(matches!(close, waypost::client::ClientError::Closed { code: 1001, .. }), "{close:?}");
    drop(socket);
    assert_eq!(daemon.ended().await.code(), Some(0));
    let daemon = Process::start(data.path(), &["--set", "rendezvous.max_points=200"]);
    let points: Vec<_> = (0..200).map(|number| format!("p{number}")).collect();
    let message = json!({"type": "register_rendezvous", "peerId": "bob", "dailyPoints": points});
    // The document that others are held against has the ceilings of a daemon without settings.
    let mut bob = connect(daemon.public).await;
    say(&mut bob, message).await;
    let result = hear(&mut bob).await;
    let drops = result["deadDrops"].as_array().unwrap();
    assert!(drops.len() >= answered && drops.len() <= 200, "{answered} answered, {} kept", drops.len());
    assert!((0..drops.len()).all(|number| drops[number]["meetingPoint"] == format!("p{number}")), "in order");
}

#[tokio::test]
async fn a_shutdown_is_no_leaving_relays_tokens_and_drops_are_there_after_the_restart() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let mut alice = connect(daemon.public).await;
    let registered = ask(&mut alice, json!({"type": "register", "peerId": "alice"})).await;
    ask(&mut alice, json!({"type": "update_load", "peerId": "alice", "connectedCount": 5})).await;
    ask(&mut alice, gift("alice")).await;
    daemon.signal("TERM");
    assert_eq!(alice.closed(SOON).await.unwrap(), shutting_down());
    drop(alice);
    assert_eq!(daemon.ended().await.code(), Some(0));

    let daemon = Process::start(data.path(), &[]);
    let both = (vec!["one".to_owned(), "two".to_owned()], vec!["alice".to_owned()]);
    assert_eq!(found(&daemon, "bob").await, both);
    let mut stranger = connect(daemon.public).await;
    let relays = ask(&mut stranger, json!({"type": "get_relays"})).await;
    assert_eq!(relays["relays"], json!([{"peerId": "alice", "publicKey": null, "capacity": 0.25}]));
    // The resume token outlives the restart, and so does the server's own name.
    let again = json!({"type": "register", "peerId": "alice", "publicKey": "new", "resumeToken": registered["resumeToken"]});
    let again = ask(&mut connect(daemon.public).await, again).await;
    assert_eq!((&again["type"], &again["serverId"]), (&json!("registered"), &registered["serverId"]));
    stop(daemon).await;

    // Whoever is away for longer than the grace is not offered any more.
    let daemon = Process::start(data.path(), &["--set", "relays.restart_grace=0s"]);
    assert_eq!(offered(&mut connect(daemon.public).await).await.len(), 0);
    assert_eq!(found(&daemon, "carol").await, (both.0, vec![]));
}

#[tokio::test]
async fn a_second_daemon_on_the_same_data_says_what_to_do_and_disturbs_nobody() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let mut alice = connect(daemon.public).await;
    ask(&mut alice, gift("alice")).await;
    let (code, told) = refused(data.path());
    assert_eq!(code, Some(2), "{told}");
    let advice = "is in use by another process: stop that waypost first, or choose another --data-dir";
    assert!(told.contains(advice), "{told}");
    hears_nothing(&mut alice).await;
    assert_eq!(found(&daemon, "bob").await.0.len(), 2);
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    ask(&mut connect(daemon.public).await, gift("alice")).await;
    stop(daemon).await;
    let set_schema = |schema: u32| {
        let store = sled::open(Process::store(data.path())).unwrap();
        let before = store.open_tree("meta").unwrap().insert("schema", &schema.to_be_bytes()).unwrap();
        store.flush().unwrap();
        before.unwrap().to_vec()
    };
    assert_eq!(set_schema(SCHEMA + 1), SCHEMA.to_be_bytes());
    let (code, told) = refused(data.path());
    assert_eq!(code, Some(2), "{told}");
    let text =
        format!("has schema {}, written by a newer waypost; this one knows schema {SCHEMA}", SCHEMA + 1);
    assert!(told.contains(&text) && told.contains("run the newer version, or restore the copy"), "{told}");
    // Back in the hands of the version that wrote it, all is there.
    assert_eq!(set_schema(SCHEMA), (SCHEMA + 1).to_be_bytes());
    let daemon = Process::start(data.path(), &[]);
    assert_eq!(found(&daemon, "bob").await.0, ["one", "two"]);
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_failure_that_may_pass() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(["--listen", &address, "--admin-listen", "127.0.0.1:0"]).arg("--data-dir").arg(data.path());
    let Output { status, stderr, .. } = command.env_clear().output().unwrap();
    let told = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("cannot listen on {address}")), "{told}");
    // What was opened before that is closed again.
    stop(Process::start(data.path(), &[])).await;
}
