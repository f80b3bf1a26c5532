//! The clients of the HTTP dialects, and the node, against a server of a few lines that answers to the letter.
//!
//! Owns these stories. Must not know the daemon.

use std::error::Error;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

type Tested = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

/// One request as the server saw it.
#[derive(Debug)]
struct Asked {
    /// Method and path with query.
    what: String,
    bearer: Option<String>,
    body: Value,
}

type Log = mpsc::UnboundedReceiver<Asked>;

/// Serves connections one after the other, one request each, and answers the request of a number, from 1 on, to the
/// letter; nothing at all hangs up. Returns where, and what it is asked.
async fn server(answer: impl Fn(usize, &Asked) -> String + Send + 'static) -> io::Result<(String, Log)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let (log, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 1.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let Ok(request) = read(&mut stream).await else { continue };
            let answer = answer(number, &request);
            if stream.write_all(answer.as_bytes()).await.is_err() || log.send(request).is_err() {
                return;
            }
        }
    });
    Ok((base, asked))
}

async fn read(stream: &mut TcpStream) -> io::Result<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let first = head.lines().next().unwrap_or_default();
    Ok(Asked {
        what: first.trim_end_matches(" HTTP/1.1").to_owned(),
        bearer: header("authorization").and_then(|value| Some(value.strip_prefix("Bearer ")?.to_owned())),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

/// `headers` is whole lines.
fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

fn registered(token: Option<&str>) -> String {
    let mut body = json!({"success": true, "peerId": "p", "totalPeers": 1, "cleanedExpiredPeers": 0,
        "timestamp": "2026-01-01T00:00:00.000Z", "heartbeatIntervalMs": 5});
    if let Some(token) = token {
        body["registrationToken"] = token.into();
    }
    answer("200 OK", "", &body.to_string())
}

fn heard() -> String {
    let body = r#"{"success":true,"peerId":"p","lastSeen":7,"totalPeers":1,"cleanedExpiredPeers":0,"timestamp":"t"}"#;
    answer("200 OK", "", body)
}

fn done() -> String {
    answer("200 OK", "", r#"{"success":true}"#)
}

fn unknown() -> String {
    let body = r#"{"error":"Peer not found - please register first","suggestion":"Use POST /register"}"#;
    answer("404 Not Found", "x-error-code: peer_not_found\r\n", body)
}

fn eager() -> NodeOptions {
    NodeOptions {
        token: None,
        first_pause: Duration::from_millis(4),
        longest_pause: Duration::from_millis(8),
        shortest_period: Duration::from_millis(1),
    }
}

fn peer() -> PeerRegistration {
    let addresses = vec!["/ip4/198.51.100.7/tcp/4001".to_owned()];
    PeerRegistration { peer_id: "p".to_owned(), addresses, ..PeerRegistration::default() }
}

async fn next(log: &mut Log) -> Result<Asked, Box<dyn Error>> {
    Ok(timeout(SOON, log.recv()).await?.ok_or("the server has ended")?)
}

#[tokio::test]
async fn a_node_that_is_forgotten_registers_again_and_leaves_with_its_last_token() -> Tested {
    let (base, mut log) = server(|number, asked| match (number, asked.what.as_str()) {
        (1, "POST /register") => registered(Some("first")),
        (3, "POST /heartbeat") => unknown(),
        (4, "POST /register") => registered(Some("second")),
        (_, "POST /heartbeat") => heard(),
        (_, "DELETE /peers/p") => done(),
        _ => String::new(),
    })
    .await?;
    let node = Node::start_with(BootstrapClient::new(&base)?, peer(), eager());
    let mut story = Vec::new();
    for _ in 0..5 {
        let asked = next(&mut log).await?;
        assert_eq!(asked.body["peerId"], "p", "{asked:?}");
        story.push((asked.what, asked.bearer));
    }
    let without = |what: &str| (what.to_owned(), None);
    let again = ("POST /register".to_owned(), Some("first".to_owned()));
    let beat = without("POST /heartbeat");
    assert_eq!(story, [without("POST /register"), beat.clone(), beat.clone(), again, beat]);
    let mut state = node.state();
    timeout(SOON, state.wait_for(|state| matches!(state, NodeState::Registered { heartbeats: 1.. })))
        .await??;
    assert_eq!(node.registration_token().as_deref(), Some("second"));
    assert!(node.stop().await?, "it had a token");
    assert_eq!(*state.borrow(), NodeState::Stopped);
    let last = async {
        loop {
            let asked = next(&mut log).await?;
            if asked.what.starts_with("DELETE") {
                return Ok::<_, Box<dyn Error>>(asked.bearer);
            }
        }
    };
    assert_eq!(timeout(SOON, last).await??.as_deref(), Some("second"));
    Ok(())
}

#[tokio::test]
async fn a_node_tries_again_after_failures_without_registering_anew() -> Tested {
    let (base, mut log) = server(|number, _| match number {
        1 => String::new(),
        2 => answer("502 Bad Gateway", "", "<html>"),
        3 => registered(None),
        4 => answer("503 Service Unavailable", "Retry-After: 0\r\n", r#"{"error":"Server shutting down"}"#),
        _ => heard(),
    })
    .await?;
    let node = Node::start_with(BootstrapClient::new(&base)?, peer(), eager());
    let mut story = Vec::new();
    for _ in 0..5 {
        story.push(next(&mut log).await?.what);
    }
    let (register, beat) = ("POST /register", "POST /heartbeat");
    assert_eq!(story, [register, register, register, beat, beat]);
    let mut state = node.state();
    timeout(SOON, state.wait_for(|state| matches!(state, NodeState::Registered { heartbeats: 1.. })))
        .await??;
    assert!(!node.stop().await?, "without a token the peer is left to expire");
    Ok(())
}

#[tokio::test]
async fn a_node_says_why_it_waits_and_stops_at_once() -> Tested {
    let busy = "x-error-code: overloaded\r\nRetry-After: 5\r\n";
    let (base, _log) =
        server(move |_, _| answer("503 Service Unavailable", busy, r#"{"error":"Busy."}"#)).await?;
    let node = Node::start_with(BootstrapClient::new(&base)?, peer(), eager());
    let mut state = node.state();
    let waiting = timeout(SOON, state.wait_for(|state| *state != NodeState::Starting)).await??.clone();
    let NodeState::Retrying { failures: 1, reason, pause } = waiting else {
        panic!("{waiting:?}");
    };
    assert_eq!(reason, "Busy.");
    assert!(pause > Duration::from_secs(5), "{pause:?}");
    assert!(!timeout(Duration::from_secs(4), node.stop()).await??);
    Ok(())
}

#[tokio::test]
async fn a_dropped_node_asks_no_more() -> Tested {
    let (base, mut log) = server(|_, _| registered(None)).await?;
    let node = Node::start_with(BootstrapClient::new(&base)?, peer(), eager());
    let mut state = node.state();
    next(&mut log).await?;
    drop(node);
    timeout(SOON, state.wait_for(|state| *state == NodeState::Stopped)).await??;
    Ok(())
}

#[tokio::test]
async fn refusals_have_their_code_and_when_to_come_again() -> Tested {
    let (base, _log) = server(|number, _| match number {
        1 => answer("404 Not Found", "x-error-code: session_not_found\r\n", r#"{"error":"No session"}"#),
        2 => answer("404 Not Found", "", r#"{"error":"No session"}"#),
        3 => answer("429 Too Many Requests", "x-error-code: rate_limited\r\nRetry-After: 7\r\n", "{}"),
        4 => answer("429 Too Many Requests", "", r#"{"success":false,"error":"None","retryAfter":60}"#),
        5 => answer("503 Service Unavailable", "Retry-After: soon\r\n", r#"{"error":"Later"}"#),
        6 => answer("500 Internal Server Error", "", "oops"),
        _ => answer("200 OK", "", "[]"),
    })
    .await?;
    let client = BootstrapClient::new(&base)?;
    let mut told = Vec::new();
    for _ in 0..7 {
        let refused = client.release_turn("s").await.err().ok_or("it was not refused")?;
        let (code, later) = (refused.code().map(str::to_owned), refused.retry_after());
        told.push((refused.to_string(), code, later.map(|later| later.as_secs())));
    }
    let expected = [
        ("No session", Some("session_not_found"), None),
        ("No session", Some(""), None),
        ("status 429 Too Many Requests", Some("rate_limited"), Some(7)),
        ("None", Some(""), Some(60)),
        ("Later", Some(""), None),
    ];
    for (told, (message, code, later)) in told.iter().zip(expected) {
        assert_eq!((told.0.as_str(), told.1.as_deref(), told.2), (message, code, later));
    }
    for (message, code, later) in &told[5..] {
        assert!(message.starts_with("the server does not keep to the protocol"), "{message}");
        assert_eq!((code, later), (&None, &None));
    }
    Ok(())
}

#[tokio::test]
async fn pages_are_followed_by_cursor_to_the_last() -> Tested {
    let page = |ids: &[&str], cursor: Option<&str>| {
        let entry = |id: &&str| {
            json!({"peerId": id, "addresses": ["a"], "cryptoIPv6": "", "lastSeen": 1, "version": "1.0.0",
                "turnCapable": false, "bootstrapCapable": false, "privacyMode": true, "capabilities": {"x": [1]}})
        };
        let peers: Vec<_> = ids.iter().map(entry).collect();
        let mut body = json!({"peers": peers, "total": 3, "totalRegistered": 3, "timestamp": "t"});
        if let Some(cursor) = cursor {
            body["cursor"] = cursor.into();
        }
        answer("200 OK", "", &body.to_string())
    };
    let (base, mut log) = server(move |number, _| match number {
        1 => page(&["a", "b"], Some("b&")),
        2 => page(&["c"], None),
        _ => page(&["a"], Some("stuck")),
    })
    .await?;
    let client = BootstrapClient::new(&base)?;
    let query = PeersQuery { limit: Some(2), include_capabilities: true, ..PeersQuery::default() };
    let all = client.all_peers(&query).await?;
    assert_eq!(all.iter().map(|peer| &*peer.peer_id).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(all[0].capabilities.as_ref().map(|json| json.text()), Some(r#"{"x":[1]}"#));
    assert_eq!(next(&mut log).await?.what, "GET /peers?includeCapabilities=true&limit=2");
    assert_eq!(next(&mut log).await?.what, "GET /peers?includeCapabilities=true&limit=2&cursor=b%26");
    assert!(
        matches!(client.all_peers(&query).await, Err(ClientError::Protocol(_))),
        "it does not go in circles"
    );
    Ok(())
}

/// A directory that signs its listing with one key and shows another, or the same.
async fn directory(signs: &SigningKey, shows: &SigningKey, tampers: bool) -> io::Result<(String, Log)> {
    let list = r#"{"servers":[],"timestamp":7}"#;
    let signature = STANDARD.encode(signs.sign(list.as_bytes()).to_bytes());
    let key = STANDARD.encode(shows.verifying_key().as_bytes());
    server(move |_, asked| match asked.what.as_str() {
        "GET /servers/key" => {
            answer("200 OK", "", &format!(r#"{{"publicKey":"{key}","algorithm":"ed25519"}}"#))
        }
        "GET /servers" => {
            let header = format!("X-Bootstrap-Signature: {signature}\r\n");
            answer("200 OK", &header, &if tampers { list.replace('7', "8") } else { list.to_owned() })
        }
        _ => done(),
    })
    .await
}

#[tokio::test]
async fn a_listing_with_a_bad_signature_is_refused() -> Tested {
    let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let (base, _log) = directory(&key, &key, false).await?;
    let client = DirectoryClient::new(&base)?;
    assert_eq!(client.verified_list(None).await?.timestamp, 7);
    let pinned = client.key().await?;
    assert_eq!(client.verified_list(Some(&pinned)).await?.timestamp, 7);

    for (signs, tampers) in [(&other, false), (&key, true)] {
        let (base, _log) = directory(signs, &key, tampers).await?;
        let client = DirectoryClient::new(&base)?;
        let refused = client.verified_list(None).await;
        assert!(matches!(refused, Err(ClientError::Protocol(_))), "{refused:?}");
        client.list().await?;
    }
    // Signed in good order, by somebody else.
    let (base, _log) = directory(&other, &other, false).await?;
    let client = DirectoryClient::new(&base)?;
    client.verified_list(None).await?;
    assert!(matches!(client.verified_list(Some(&pinned)).await, Err(ClientError::Protocol(_))));

    let (base, _log) = server(|_, _| answer("200 OK", "", r#"{"servers":[],"timestamp":7}"#)).await?;
    let unsigned = DirectoryClient::new(&base)?.verified_list(Some(&pinned)).await;
    assert!(matches!(unsigned, Err(ClientError::Protocol(_))), "{unsigned:?}");
    Ok(())
}

#[tokio::test]
async fn ids_are_percent_encoded_and_a_secret_goes_before_an_owners_token() -> Tested {
    let (base, mut log) = server(|_, _| done()).await?;
    // A base may be a path behind a proxy.
    let client = DirectoryClient::new(format!("{base}/registry/"))?;
    client.leave("ed25519:a/b+c=", Some("owner")).await?;
    let asked = next(&mut log).await?;
    assert_eq!(asked.what, "DELETE /registry/servers/ed25519:a%2Fb+c=");
    assert_eq!(asked.bearer.as_deref(), Some("owner"));
    client.secret("s3cret").leave("x", Some("owner")).await?;
    assert_eq!(next(&mut log).await?.bearer.as_deref(), Some("s3cret"));
    let client = BootstrapClient::new(&base)?;
    client.leave("a%2e?#/..", "t").await?;
    assert_eq!(next(&mut log).await?.what, "DELETE /peers/a%252e%3F%23%2F..");
    assert!(matches!(client.leave("..", "t").await, Err(ClientError::Unreachable(_))));
    Ok(())
}

#[tokio::test]
async fn what_is_no_http_address_is_unreachable() {
    for base in ["", "127.0.0.1:9000", "https://127.0.0.1", "ws://127.0.0.1"] {
        assert!(matches!(BootstrapClient::new(base), Err(ClientError::Unreachable(_))), "{base}");
    }
}

#[test]
fn requests_are_what_the_server_reads() -> Tested {
    use crate::wire::bootstrap::Register;
    use crate::wire::turn::RegisterTurn;
    let full = PeerRegistration {
        crypto_ipv6: Some("fd00::1".to_owned()),
        stores: vec!["s".to_owned()],
        turn_capable: Some(true),
        turn_addresses: vec!["turn:198.51.100.7".to_owned()],
        turn_port: Some(3479),
        turn_capacity: Some(3),
        node_type: Some(2),
        network_id: Some("testnet".to_owned()),
        server_port: Some(1),
        ..peer()
    };
    let bytes = serde_json::to_vec(&full)?;
    let read = Register::decode(&bytes).map_err(|problem| problem.refusal.message)?;
    assert_eq!((read.peer.crypto_ipv6.as_str(), read.peer.node_type), ("fd00::1", 2));
    assert_eq!(read.peer.turn.map(|turn| (turn.port, turn.capacity)), Some((3479, 3)));
    assert_eq!((read.peer.network_id.as_str(), read.peer.server_port), ("testnet", 1));

    let bytes = serde_json::to_vec(&peer())?;
    let read = Register::decode(&bytes).map_err(|problem| problem.refusal.message)?;
    assert_eq!(
        (read.peer.version.as_str(), read.peer.privacy_mode),
        ("1.0.0", true),
        "the server's defaults"
    );

    let turn = TurnRegistration {
        peer_id: "p".to_owned(),
        turn_addresses: vec!["turn:198.51.100.7".to_owned()],
        turn_port: 3478,
        turn_capacity: None,
    };
    let read =
        RegisterTurn::decode(&serde_json::to_vec(&turn)?).map_err(|problem| problem.refusal.message)?;
    assert_eq!(read.offer.capacity, 10);
    Ok(())
}
