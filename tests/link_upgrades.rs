//! Owns link's gates before the upgrade and its closes right after it (protocol: link, sections 1, 2 and 5).

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::{RawTcp, SECOND, TestDaemon, metric};
use link::{HOME, binary, claims, close, closed, met, phone, phone_at};

const GOOD: [(&str, &str); 3] =
    [("X-Pyrycode-Server", "home"), ("X-Pyrycode-Version", "1.0 beta"), ("User-Agent", "Pyry/1 (x; y)")];

fn lines(headers: &[(&str, &str)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let others = GOOD.into_iter().filter(|(other, _)| *other != name);
    others.chain((!value.is_empty()).then_some((name, value))).collect()
}

/// The status, and a Retry-After of so many seconds up to twice as many.
#[track_caller]
fn assert_refused((told, later): (u16, Option<u64>), status: u16, seconds: u64) {
    assert_eq!(told, status);
    assert!(later.is_some_and(|later| (seconds..=2 * seconds).contains(&later)), "{later:?}");
}

/// The status, and Retry-After if there is one; the body of a refusal is empty.
async fn status(address: SocketAddr, path: &str, headers: &str) -> (u16, Option<u64>) {
    let answer = RawTcp::open(address, path, headers).await;
    let header = |name: &str| {
        let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    if answer.status() != 101 {
        assert_eq!(header("content-length").as_deref(), Some("0"), "{}", answer.head);
    }
    (answer.status(), header("retry-after").map(|seconds| seconds.parse().unwrap()))
}

#[tokio::test]
async fn a_header_that_is_missing_empty_too_long_or_not_printable_is_400_and_touches_nothing() {
    let daemon = link::start().await;
    let address = daemon.addresses().public;
    let bad = |name, most: usize| {
        let long = "x".repeat(most + 1);
        ["", " ", "\t", "a\tb", "\u{e4}", &long].map(|value| lines(&with(name, value)))
    };
    for headers in bad("X-Pyrycode-Server", 256).iter().chain(&bad("User-Agent", 512)) {
        assert_eq!(status(address, "/v1/server", headers).await, (400, None), "{headers:?}");
        assert_eq!(status(address, "/v1/client", headers).await, (400, None), "{headers:?}");
    }
    for headers in bad("X-Pyrycode-Version", 256) {
        assert_eq!(status(address, "/v1/server", &headers).await, (400, None), "{headers:?}");
    }
    assert_eq!(claims(&daemon).await, []);
    let metrics = daemon.admin().metrics().await.unwrap();
    let bad_header = |endpoint: &str| {
        metric(
            &metrics,
            &format!("waypost_link_upgrades_total{{endpoint=\"{endpoint}\",outcome=\"bad_header\"}}"),
        )
    };
    assert_eq!((bad_header("server"), bad_header("client")), (18.0, 12.0));
    assert_eq!(daemon.status().await.store.rows, 0, "no state was touched");
}

#[tokio::test]
async fn headers_are_trimmed_and_may_have_inner_blanks() {
    let daemon = link::start().await;
    let address = daemon.addresses().public;
    let headers = lines(&with("X-Pyrycode-Server", "  my home {1}  "));
    assert_eq!(status(address, "/v1/server", &headers).await, (101, None));
    let longest = "x".repeat(256);
    let headers = lines(&with("X-Pyrycode-Server", &longest));
    assert_eq!(status(address, "/v1/server", &headers).await, (101, None));
    let claimed = async { while claims(&daemon).await.len() < 2 {} };
    tokio::time::timeout(daemon::SOON, claimed).await.unwrap();
    let ids: Vec<_> = claims(&daemon).await.into_iter().map(|claim| claim.server_id).collect();
    assert_eq!(ids, ["my home {1}".to_owned(), longest]);
    // A phone needs no version.
    let headers = lines(&with("X-Pyrycode-Version", ""));
    assert_eq!(status(address, "/v1/client", &headers).await, (101, None));
}

#[tokio::test]
async fn the_gates_stand_in_their_order() {
    let daemon = TestDaemon::start_with(|settings| {
        settings.connections.link_upgrade_burst = 5;
        settings.connections.max_connections_per_address = 2;
        settings.connections.max_connections = 2;
    })
    .await;
    let address = daemon.addresses().public;
    let good = lines(&GOOD);
    assert_eq!(status(address, "/v1/server", "").await, (400, None));
    let _one = binary(&daemon, HOME).await;
    let two = phone(&daemon, HOME).await;
    // Both ceilings are reached, and the header is bad as well: the address comes first.
    assert_refused(status(address, "/v1/server", "").await, 429, 10);
    assert_refused(status(address, "/v1/client", &good).await, 429, 10);
    // Five upgrades were asked for: the rate comes before everything.
    assert_refused(status(address, "/v1/client", "").await, 429, 6);
    drop(two);
    daemon.until("the phone is gone", |status| status.connections.phones == 0).await;
    assert_refused(status(address, "/v1/client", &good).await, 429, 6);
    daemon.advance(6 * SECOND);
    assert_eq!(status(address, "/v1/client", &good).await, (101, None));
    assert_refused(status(address, "/v1/client", &good).await, 429, 6);
    let metrics = daemon.admin().metrics().await.unwrap();
    let client = |outcome: &str| {
        metric(&metrics, &format!("waypost_link_upgrades_total{{endpoint=\"client\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((client("opened"), client("address"), client("rate")), (2.0, 1.0, 3.0));
}

#[tokio::test]
async fn past_the_ceiling_of_all_sockets_it_is_503() {
    let daemon = TestDaemon::start_with(|settings| settings.connections.max_connections = 1).await;
    let _peer = daemon.raw().await;
    assert_refused(status(daemon.addresses().public, "/v1/server", "").await, 503, 5);
}

#[tokio::test]
async fn what_is_no_upgrade_is_426() {
    let daemon = link::start().await;
    let url = format!("http://{}/v1/server", daemon.addresses().public);
    let mut request = reqwest::Client::new().get(url);
    for (name, value) in GOOD {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["upgrade"].to_str().unwrap()), (426, "websocket"));
    assert_eq!(answer.text().await.unwrap(), "");
}

#[tokio::test]
async fn what_the_registry_decides_comes_as_a_close() {
    let daemon = link::start().await;
    let mut stranger = phone_at(daemon.addresses().public, HOME).await;
    assert_eq!(closed(&mut stranger).await, close(4404, "no server with that id"));

    let mut first = binary(&daemon, HOME).await;
    let mut phones = Vec::new();
    for _ in 0..16 {
        phones.push(phone(&daemon, HOME).await);
    }
    let mut one_too_many = phone_at(daemon.addresses().public, HOME).await;
    assert_eq!(closed(&mut one_too_many).await, close(4429, "too many phones for server-id"));

    // The holder is pinged and answers, as it listens: the newcomer goes, and nobody else notices.
    let mut second = link::binary_at(daemon.addresses().public, HOME).await;
    tokio::select! {
        refused = closed(&mut second) => assert_eq!(refused, close(4409, "server-id already claimed")),
        heard = first.next_text(daemon::SOON) => panic!("the holder noticed: {heard:?}"),
    }
    drop(second);
    let conn_id = met(&mut first, &mut phones[15]).await;
    link::send(&mut first, &conn_id, 1.into()).await;
    assert_eq!(link::hear_text(&mut phones[15]).await, "1");
    // Whoever was refused arms no release.
    daemon.advance(Duration::from_secs(29));
    assert_eq!(link::state(&daemon).await, "held");

    drop(phones.pop());
    daemon.until("one left", |status| status.connections.phones == 15).await;
    phone(&daemon, HOME).await;
}

#[tokio::test]
async fn health_tells_who_is_connected() {
    let daemon = link::start().await;
    let home = binary(&daemon, HOME).await;
    let _phone = phone(&daemon, HOME).await;
    daemon.advance(7 * SECOND);
    let health = async || {
        let url = format!("http://{}/healthz", daemon.addresses().public);
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["content-type"], "application/json");
        answer.text().await.unwrap()
    };
    let version = env!("CARGO_PKG_VERSION");
    let told = |binaries: u8, seconds: u8| {
        format!(
            r#"{{"status":"ok","version":"{version}","connected_binaries":{binaries},"connected_phones":1,"uptime_seconds":{seconds}}}"#
        )
    };
    assert_eq!(health().await, told(1, 7));
    drop(home);
    link::until_state(&daemon, "grace").await;
    assert_eq!(health().await, told(0, 7));
}

#[tokio::test]
async fn the_admin_endpoint_shows_claims_page_by_page() {
    let daemon = link::start().await;
    let mut home = binary(&daemon, HOME).await;
    let away = binary(&daemon, "away").await;
    let mut first = phone(&daemon, HOME).await;
    met(&mut home, &mut first).await;
    drop(away);
    daemon.until("one is gone", |status| status.connections.binaries == 1).await;
    daemon.advance(10 * SECOND);
    let admin = daemon.admin();
    let all = claims(&daemon).await;
    let shown: Vec<_> = all
        .iter()
        .map(|claim| {
            (claim.server_id.as_str(), claim.state.as_str(), claim.generation, claim.left_ms, claim.phones)
        })
        .collect();
    assert_eq!(shown, [("away", "grace", 2, Some(20_000), 0), (HOME, "held", 1, None, 1)]);
    assert_eq!((all[0].ends, all[0].socket), (Some(daemon::BEGINNING + 30_000), None));
    let page = admin.claims(None, None, Some(1)).await.unwrap();
    assert_eq!((page.claims.len(), page.cursor.as_deref()), (1, Some("away")));
    let rest = admin.claims(None, page.cursor.as_deref(), Some(1)).await.unwrap();
    assert_eq!((rest.claims[0].server_id.as_str(), rest.cursor), (HOME, None));
    assert_eq!(admin.claims(Some("h"), None, None).await.unwrap().claims.len(), 1);

    let lease = admin.lease("claim", "away").await.unwrap().unwrap();
    assert_eq!(
        (lease.ends, lease.record["state"].as_str()),
        (Some(daemon::BEGINNING + 30_000), Some("grace"))
    );
    let sockets = admin.connections().await.unwrap().connections;
    let roles: HashMap<_, _> = sockets.iter().map(|it| (it.role.as_str(), it.id.as_deref())).collect();
    assert_eq!(roles, HashMap::from([("binary", Some(HOME)), ("phone", Some(HOME))]));
    assert_eq!(daemon.status().await.leases.claim, 2);
}
