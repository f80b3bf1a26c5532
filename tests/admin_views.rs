//! Owns the proof that the views of the admin page show what the daemon has, and that its actions do what they say, in a real
//! browser. Skipped, saying so, where there is no Chromium with its driver.

#[path = "common/browser.rs"]
mod browser;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;
#[path = "common/page.rs"]
mod page;

use std::time::Duration;

use browser::{Browser, ENTER};
use daemon::{Process, ask};
use page::{Page, TURN};
use serde_json::json;

#[tokio::test]
async fn the_overview_tells_rates_sizes_and_sweeps_as_they_happen() {
    let Some(page) = Page::logged_in().await else { return };
    let (mut alice, _) = page.daemon.registered("alice").await;
    page.second().await;
    for _ in 0..6 {
        ask(&mut alice, json!({"type": "ping"})).await;
    }
    let points =
        json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"], "deadDrop": "12345"});
    ask(&mut alice, points).await;
    page.peer("node").await;
    page.second().await;
    let browser = &page.browser;
    let card = async |title: &str| {
        let cards = browser.texts(".card").await;
        let found = cards.into_iter().find(|card| card.starts_with(title));
        found.unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(card("Signalling").await[1..], ["7/s", "max 7/s", "1 relay · 1 registration"]);
    assert_eq!(card("Bootstrap").await[1..], ["1/s", "max 1/s", "1 peer · 0 TURN sessions"]);
    assert_eq!(card("Directory").await[1..], ["0/s", "max 0/s", "0 servers"]);
    assert_eq!(card("Sockets").await[1..], ["1", "max 1", "1 address · 1 id"]);
    assert!(card("Store").await[1].ends_with("B"));
    browser
        .until("document.querySelector('#works').innerText.match(/[1-9] flush(es)? in the last second/)")
        .await;
    let lines = browser
        .script("return [...document.querySelectorAll('.line-0')].map(line => line.getAttribute('d'))");
    let lines: Vec<String> = serde_json::from_value(lines.await).unwrap();
    assert!(lines.len() == 10 && lines[0].contains('L'), "{lines:?}");
    assert!(browser.texts("#held").await[0].contains("Dead drops\n5 B"));

    // The registration ends with its TTL, and the peer with its own.
    page.daemon.clock.step_wall(Duration::from_secs(49 * 3600));
    page.daemon.admin().sweep().await.unwrap();
    browser.shows("#sweeps li", "1 registration, 1 peer").await;
    page.ends_well(&[]).await;
}

#[tokio::test]
async fn leases_are_found_by_kind_prefix_and_page_shown_and_ended() {
    let Some(page) = Page::open().await else { return };
    for number in 0..101 {
        page.peer(&format!("node-{number:03}")).await;
    }
    let (_alice, _) = page.daemon.registered("alice").await;
    page.browser.go(&page.link()).await;
    page.browser.shows("#state", "Ready").await;
    page.view("leases").await;
    let browser = &page.browser;
    let keys = async || page.rows("leases").await.into_iter().map(|row| row[1].clone()).collect::<Vec<_>>();
    page.counts("leases", "50 leases on page 1").await;
    assert_eq!(page.rows("leases").await[0], ["relay", "alice", "alice", "with its holder"]);
    browser.choose("#lease-kind", "peer").await;
    browser.until("document.querySelector('#view-leases tbody').innerText.includes('node-049')").await;
    let button = |label: &str| {
        format!(
            "#view-leases .pages button:nth-child({})",
            match label {
                "First" => 1,
                "Previous" => 2,
                _ => 3,
            }
        )
    };
    browser.click(&button("Next")).await;
    page.counts("leases", "50 leases on page 2").await;
    assert_eq!(keys().await[0], "node-050");
    browser.click(&button("Next")).await;
    page.counts("leases", "1 lease on page 3").await;
    assert_eq!(keys().await, ["node-100"]);
    browser.click(&button("Previous")).await;
    page.counts("leases", "page 2").await;
    browser.click(&button("First")).await;
    page.counts("leases", "page 1").await;
    assert_eq!(keys().await[49], "node-049");

    browser.fill("#lease-prefix", "node-07").await;
    page.counts("leases", "10 leases on page 1").await;
    browser.fill("#lease-prefix", "nobody").await;
    page.counts("leases", "No leases.").await;
    browser.fill("#lease-prefix", "node-077").await;
    page.counts("leases", "1 lease").await;
    page.second().await;
    let left = page.rows("leases").await[0][3].clone();
    assert!(left.starts_with("9m ") || left == "10m 0s", "{left}");
    // Between two looks it counts by itself.
    browser.until(&format!("document.querySelector('#view-leases td.number').innerText !== '{left}'")).await;

    browser.click("#view-leases .does button").await;
    browser.shows("#detail-title", "peer node-077").await;
    browser.shows("#detail-record", "\"registeredFrom\": \"127.0.0.1\"").await;
    browser.shows("#detail-facts", "Ends at").await;
    browser.click("#detail-end").await;
    browser.shows("#confirm-title", "End peer node-077").await;
    browser.click("#confirm-no").await;
    assert_eq!(page.daemon.status().await.leases.peer, 101);
    browser.click("#view-leases .does button").await;
    browser.click("#detail-end").await;
    browser.click("#confirm-yes").await;
    browser.shows("#told", "Ended: peer node-077.").await;
    page.counts("leases", "No leases.").await;
    assert_eq!(page.daemon.status().await.leases.peer, 100);

    // What a binary holds is not ended so, and why is told.
    let _binary = link::binary(&page.daemon, "my home").await;
    browser.fill("#lease-prefix", "my home").await;
    browser.choose("#lease-kind", "claim").await;
    browser.click("#view-leases form button").await;
    page.counts("leases", "1 lease").await;
    browser.click("#view-leases .does button").await;
    browser.click("#detail-end").await;
    browser.click("#confirm-yes").await;
    browser.shows("#failed", "End claim my home: A binary holds the claim").await;
    browser.click("#dismiss").await;
    browser.until("!document.getElementById('outcome').innerText.trim()").await;
    page.ends_well(&["409"]).await;
}

#[tokio::test]
async fn connections_are_found_by_role_and_text_and_closed() {
    let Some(page) = Page::logged_in().await else { return };
    let (mut alice, _) = page.daemon.registered("alice").await;
    let _binary = link::binary(&page.daemon, "my home").await;
    let _phone = link::phone(&page.daemon, "my home").await;
    page.view("connections").await;
    let browser = &page.browser;
    page.counts("connections", "3 connections").await;
    let shown = page.rows("connections").await;
    assert_eq!(shown[0][..4], ["1", "127.0.0.1", "peer", "alice"]);
    assert_eq!(shown[2][2..4], ["phone", "my home"]);
    assert!(shown[0][4].ends_with('s') && shown[0][5] == "0 B", "{shown:?}");
    browser.fill("#connection-filter", "HOME").await;
    page.counts("connections", "2 of 3 connections").await;
    browser.choose("#connection-role", "phone").await;
    page.counts("connections", "1 of 3 connections").await;
    assert_eq!(page.rows("connections").await[0][2], "phone");
    browser.choose("#connection-role", "").await;
    page.counts("connections", "2 of 3 connections").await;
    browser.fill("#connection-filter", "127.0.0").await;
    page.counts("connections", "3 connections").await;
    browser.fill("#connection-filter", "nobody").await;
    page.counts("connections", "No connections.").await;

    browser.fill("#connection-filter", "alice").await;
    page.counts("connections", "1 of 3 connections").await;
    browser.click("#view-connections .does button").await;
    browser.shows("#confirm-title", "Close socket 1 (alice, 127.0.0.1)").await;
    browser.click("#confirm-yes").await;
    browser.shows("#told", "Closed: socket 1 (alice, 127.0.0.1).").await;
    alice.closed(daemon::SOON).await.unwrap();
    page.counts("connections", "No connections.").await;
    page.ends_well(&[]).await;
}

#[tokio::test]
async fn claims_tell_who_holds_them_and_how_much_of_a_grace_is_left() {
    let Some(page) = Page::logged_in().await else { return };
    let binary = link::binary(&page.daemon, "my home").await;
    let _phone = link::phone(&page.daemon, "my home").await;
    let _other = link::binary(&page.daemon, "shed").await;
    page.view("claims").await;
    page.counts("claims", "2 claims").await;
    assert_eq!(page.rows("claims").await[0], ["my home", "held", "–", "1", "1", "0 B", "1"]);
    drop(binary);
    page.daemon.until("it is gone", |status| status.connections.binaries == 1).await;
    page.browser.fill("#claim-prefix", "my").await;
    page.counts("claims", "1 claim on page 1").await;
    page.browser.shows("#view-claims tbody", "grace").await;
    page.second().await;
    let row = page.rows("claims").await.remove(0);
    let left: u64 = row[2].strip_suffix('s').unwrap().parse().unwrap();
    assert!((10..=30).contains(&left), "{row:?}");
    page.browser.shows("#view-claims td.number", &format!("{}s", left - 1)).await;
    page.ends_well(&[]).await;
}

#[tokio::test]
async fn the_daemon_is_drained_once_the_word_is_typed() {
    let _turn = TURN.lock().await;
    let Some(browser) = Browser::open().await else { return };
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap();
    browser.go(&format!("http://{}/admin/#token={}", daemon.admin, token.trim())).await;
    browser.shows("#state", "Ready").await;
    browser.click("#drain").await;
    browser.shows("#confirm-title", "Drain").await;
    browser.press("drain").await;
    browser.press(ENTER).await;
    browser.shows("#told", "Draining: the daemon ends.").await;
    assert!(daemon.ended().await.success());
    browser.shows("#state", "Trying again in").await;
}
