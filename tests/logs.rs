//! Owns the proof of what the log says of clients and how much: nobody is named unless the operator wants it, a flood writes
//! few lines, fail2ban reads them, and the level changes while the daemon runs.

#[path = "common/abusers.rs"]
mod abusers;
mod common;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/logged.rs"]
mod logged;
#[path = "common/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use abusers::{LIMITS, LINES, abuse, events, from, request_from};
use daemon::{HOUR, RawTcp, SECOND, TestDaemon, ask, connect, say, soon};
use logged::Logged;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypost::client::{AdminClient, ClientError};

#[tokio::test]
async fn no_line_names_a_client_unless_the_operator_wants_it() {
    let daemon = Logged::start("text", &LIMITS).await;
    let mut alice = connect(daemon.public).await;
    assert_eq!(
        ask(&mut alice, json!({"type": "register", "peerId": "alice-of-old"})).await["type"],
        "registered"
    );
    say(&mut alice, json!({"type": "register", "peerId": "\u{1f}mallory"})).await;
    abuse(&daemon).await;
    let log = daemon.stop();
    for (address, event, reason) in events() {
        assert!(
            log.contains(&format!("seen event={event} reason={reason} addr=a:")),
            "{event} {reason}: {log}"
        );
        assert!(!log.contains(&address), "{log}");
    }
    assert_eq!(log.matches("event=token_refused").count(), 1, "who shows no token does not guess: {log}");
    assert!(!log.contains("bad_header"), "{log}");
    for id in ["alice", "mallory", "guessed"] {
        assert!(!log.contains(id), "{log}");
    }

    for shown in ["log.abuse_addresses=true", "log.identities=true"] {
        let daemon = Logged::start("text", &[&LIMITS[..], &["--set", shown]].concat()).await;
        abuse(&daemon).await;
        let log = daemon.stop();
        for (address, event, reason) in events() {
            let line = format!("waypost::abuse: seen event={event} reason={reason} addr={address}\n");
            assert!(log.contains(&line), "{line}: {log}");
        }
    }
}

#[tokio::test]
async fn a_row_that_does_not_decode_is_named_as_its_peer_is() {
    let (_, mut place) = Logged::start("text", &[]).await.stop_and_keep();
    let damage = |db: &sled::Db| {
        db.open_tree("lease.relay").unwrap().insert("ann-of-old", &[9, 9, 9]).unwrap();
    };
    common::store::tamper(&place.path().join("data/store"), damage);
    for (shown, key) in [("false", "key=relay/i:"), ("true", "key=relay/ann-of-old ")] {
        let shown = format!("log.identities={shown}");
        let daemon = Logged::start_in(place, "text", &["--set", &shown]).await;
        let log;
        (log, place) = daemon.stop_and_keep();
        assert!(log.contains("a row does not decode") && log.contains(key), "{log}");
        assert!(key.contains("ann") || !log.contains("ann-of-old"), "{log}");
    }
}

#[tokio::test]
async fn a_flood_writes_ten_lines_and_at_the_end_how_many_more_there_were() {
    let daemon = Logged::start("json", &["--set", "limits.http_requests_per_minute=1"]).await;
    for _ in 0..50 {
        request_from(11, daemon.public, "GET /health HTTP/1.1").await;
    }
    request_from(12, daemon.public, "GET /health HTTP/1.1").await;
    request_from(12, daemon.public, "GET /health HTTP/1.1").await;
    let log = daemon.stop();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let abuse: Vec<_> = lines.iter().filter(|line| line["target"] == "waypost::abuse").collect();
    let told = |message: &str| abuse.iter().filter(|line| line["fields"]["message"] == message).count();
    assert_eq!((told("seen"), told("and more")), (11, 1), "{log}");
    let rest = abuse.iter().find(|line| line["fields"]["message"] == "and more").unwrap();
    assert_eq!(rest["fields"]["more"], 39);
    assert_eq!(rest["fields"]["addr"], abuse[0]["fields"]["addr"]);
}

/// What is logged in this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_was_left_out_is_told_after_a_minute_and_another_day_has_other_names() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let daemon = TestDaemon::start_with(|settings| settings.connections.http_requests_per_minute = 1).await;
    let ask = async |times| {
        for _ in 0..times {
            request_from(11, daemon.addresses().public, "GET /health HTTP/1.1").await;
        }
    };
    let logged = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    ask(20).await;
    assert!(!logged().contains("and more"), "{}", logged());
    daemon.advance(60 * SECOND);
    soon(async {
        while !logged().contains("and more") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(logged().contains(" more=9\n"), "{}", logged());
    daemon.advance(24 * HOUR);
    ask(2).await;
    let names = || logged().split("addr=").skip(1).map(|rest| rest[..10].to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names().len(), 2, "{}", logged());
    daemon.advance(60 * SECOND);
    ask(2).await;
    assert_eq!(names().len(), 2, "{}", logged());
}

#[tokio::test]
async fn who_is_refused_for_want_of_room_writes_no_line() {
    let daemon = Logged::start("text", &["--set", "peers.max=1"]).await;
    for number in 0..9 {
        let peer =
            json!({"peerId": number.to_string(), "addresses": ["/ip4/192.0.2.1/tcp/4001"]}).to_string();
        let head = format!("POST /register HTTP/1.1\r\nContent-Length: {}", peer.len());
        let mut stream = from(11, daemon.public).await;
        let host = daemon.public;
        let request = format!("{head}\r\nHost: {host}\r\nConnection: close\r\n\r\n{peer}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = String::new();
        soon(stream.read_to_string(&mut heard)).await.unwrap();
        assert!(heard.starts_with(if number == 0 { "HTTP/1.1 200" } else { "HTTP/1.1 503" }), "{heard}");
    }
    let log = daemon.stop();
    assert!(!log.contains("WARN"), "{log}");
}

#[tokio::test]
async fn of_a_flood_from_many_addresses_a_minute_has_300_lines() {
    let limits = ["--set", "limits.upgrades_per_minute=1", "--set", "server.trusted_proxies=127.0.0.1"];
    let daemon = Logged::start("text", &limits).await;
    for number in 0..320 {
        let forwarded = format!("X-Forwarded-For: 2001:db8:0:{number:x}::1\r\n");
        for _ in 0..2 {
            RawTcp::open(daemon.public, "/ws", &forwarded).await;
        }
    }
    let log = daemon.stop();
    assert_eq!(log.matches("seen event=upgrade_refused").count(), 300, "{log}");
    assert!(log.contains("and more of other addresses more="), "{log}");
}

#[tokio::test]
async fn the_level_is_told_and_set_while_the_daemon_runs() {
    let daemon = Logged::start("text", &[]).await;
    let client = daemon.client();
    let refused = async || {
        connect(daemon.public).await;
        request_from(11, daemon.public, "GET /nothing HTTP/1.1").await
    };
    assert_eq!(client.log_level().await.unwrap().level, "info");
    assert!(refused().await.contains("404"));
    assert_eq!(
        client.set_log_level("warn,waypost=debug,sled=trace").await.unwrap().level,
        "warn,waypost=debug,sled=trace"
    );
    assert_eq!(client.log_level().await.unwrap().level, "warn,waypost=debug,sled=trace");
    assert!(!daemon.log().contains("DEBUG"), "{}", daemon.log());
    refused().await;
    daemon.until("a socket ended").await;
    let mut alice = connect(daemon.public).await;
    let drop = json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"]});
    assert_eq!(ask(&mut alice, drop).await["type"], "rendezvous_result");
    // By the crate `log`.
    daemon.until(" sled::").await;

    for wrong in ["loud", "info,loud", "warn loud"] {
        match client.set_log_level(wrong).await {
            Err(ClientError::Refused { code, message }) => {
                assert_eq!(code, "bad_request");
                assert!(message.starts_with("level: expected a level (off, error, warn,"), "{message}");
            }
            other => panic!("{wrong}: {other:?}"),
        }
    }
    let put = |body: &str| {
        let (token, length) = (daemon.token(), body.len());
        let head = format!("PUT /admin/api/log-level HTTP/1.1\r\nAuthorization: Bearer {token}");
        format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nX: ")
    };
    for wrong in ["{}", "[]", r#"{"level":1}"#, r#"{"level":"info","for":"1h"}"#] {
        let mut stream = from(11, daemon.admin).await;
        let request = format!("{}\r\nHost: {}\r\nConnection: close\r\n\r\n{wrong}", put(wrong), daemon.admin);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = String::new();
        soon(stream.read_to_string(&mut heard)).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 400") && heard.contains(r#""code":"bad_request""#), "{heard}");
    }

    let cli = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["--admin-listen", &daemon.admin.to_string(), "--data-dir"]).arg(daemon.data());
        command.args(arguments).env_clear().output().unwrap()
    };
    let text = |output: &std::process::Output| String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text(&cli(&["log-level", "info"])), "info\n");
    assert_eq!(text(&cli(&["log-level", "--json"])), "{\n  \"level\": \"info\"\n}\n");
    let wrong = cli(&["log-level", "loud"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("expected a level"));
    let stranger = AdminClient::new(format!("http://{}", daemon.admin), "guessed").unwrap();
    assert!(stranger.set_log_level("off").await.is_err());
    let before = daemon.log().matches("DEBUG").count();
    refused().await;
    let log = daemon.stop();
    assert_eq!(log.matches("DEBUG").count(), before, "{log}");
    assert_eq!(log.matches("the log's level was set").count(), 2, "{log}");
}

#[tokio::test]
async fn a_daemon_within_another_program_leaves_that_programs_log_alone() {
    let daemon = TestDaemon::start().await;
    let refused = daemon.admin().set_log_level("debug").await;
    assert!(matches!(refused, Err(ClientError::Refused { code, .. }) if code == "no_log"));
}

/// How many lines fail2ban finds with our filter, and which addresses.
fn fail2ban(log: &Path, options: &str) -> (usize, String) {
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/fail2ban/filter.d/waypost.conf");
    let filter = format!("{}{options}", filter.display());
    let said = tools::succeeds(Command::new("fail2ban-regex").arg("--verbose").arg(log).arg(filter));
    let matched = said.split(" matched, ").next().and_then(|text| text.rsplit(' ').next()?.parse().ok());
    (matched.unwrap_or_else(|| panic!("{said}")), said)
}

#[tokio::test]
async fn fail2ban_finds_every_address_that_went_past_a_limit_and_no_other() {
    if !tools::is_there("fail2ban-regex", "fail2ban") {
        return;
    }
    for format in ["text", "json"] {
        let shown =
            [&LIMITS[..], &["--set", "log.abuse_addresses=true", "--set", "log.level=debug"]].concat();
        let daemon = Logged::start(format, &shown).await;
        abuse(&daemon).await;
        let log = daemon.log_file();
        let (matched, said) = fail2ban(&log, "");
        assert_eq!(matched, LINES, "{said}");
        for (address, ..) in events() {
            assert!(said.contains(&format!("{address}  ")), "{address}: {said}");
        }
        assert!(!said.contains("127.0.0.1  "), "{said}");
        assert_eq!(fail2ban(&log, "[events=\"token_refused\"]").0, 1);
        // As the journal shows them.
        let journal = daemon.place().join("journal");
        let lines = daemon
            .log()
            .lines()
            .map(|line| format!("2026-11-25T12:00:00.000000Z box waypost[7]: {line}\n"))
            .collect::<String>();
        std::fs::write(&journal, lines).unwrap();
        assert_eq!(fail2ban(&journal, "").0, LINES);
    }
    let daemon = Logged::start("text", &LIMITS).await;
    abuse(&daemon).await;
    assert_eq!(fail2ban(&daemon.log_file(), "").0, 0, "what is blurred is no address");
}
