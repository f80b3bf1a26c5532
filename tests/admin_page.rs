//! Owns the proof that the admin page does what it says in a real browser: by mouse and by keyboard, on a screen and on a phone,
//! in light and in dark. Skipped, saying so, where there is no Chromium with its driver.

#[path = "common/browser.rs"]
mod browser;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use std::time::Duration;

use browser::{Browser, ENTER, ESCAPE, TAB};
use daemon::{Process, SECOND, TestDaemon, ask};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// Browsers are large: one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// A name that would run as markup.
const MARKUP: &str = "<img src=x onerror=document.title='run'>";

/// The page of a daemon, on which nobody is logged in.
struct Page {
    browser: Browser,
    daemon: TestDaemon,
    _turn: MutexGuard<'static, ()>,
}

impl Page {
    async fn open() -> Option<Page> {
        let turn = TURN.lock().await;
        let browser = Browser::open().await?;
        let daemon = link::start_with(|settings| {
            settings.connections.messages_per_minute = 0;
            settings.connections.http_requests_per_minute = 0;
        });
        let page = Page { browser, daemon: daemon.await, _turn: turn };
        page.browser.go(&page.url("")).await;
        Some(page)
    }

    /// The same, logged in by a link.
    async fn logged_in() -> Option<Page> {
        let page = Page::open().await?;
        page.browser.go(&page.link()).await;
        page.browser.shows("#state", "Ready").await;
        Some(page)
    }

    fn url(&self, fragment: &str) -> String {
        format!("http://{}/admin/{fragment}", self.daemon.addresses().admin)
    }

    fn link(&self) -> String {
        self.url(&format!("#token={}", self.daemon.token()))
    }

    /// A second goes by, and the page has heard of it.
    async fn second(&self) {
        self.daemon.advance(SECOND);
        let up = format!("up {}s", self.daemon.status().await.uptime_seconds);
        self.browser.until(&format!("document.querySelector('#daemon').textContent.includes('{up} ')")).await;
    }

    async fn view(&self, name: &str) {
        self.browser.click(&format!("nav a[href='#{name}']")).await;
        self.browser.until(&format!("document.querySelector('#view-{name}').checkVisibility()")).await;
        if name != "overview" {
            self.browser.until(&format!("document.querySelector('#view-{name} .count').textContent")).await;
        }
    }

    /// Each row of a view's table, its cells but for the buttons.
    async fn rows(&self, view: &str) -> Vec<Vec<String>> {
        let body = format!(
            "return [...document.querySelectorAll('#view-{view} tbody tr')]
                 .map(row => [...row.querySelectorAll('td:not(.does)')].map(cell => cell.innerText))"
        );
        serde_json::from_value(self.browser.script(&body).await).unwrap()
    }

    /// Waits until a view's count says this.
    async fn counts(&self, view: &str, text: &str) {
        self.browser.shows(&format!("#view-{view} .count"), text).await;
    }

    /// Registers a bootstrap peer.
    async fn peer(&self, id: &str) {
        let body = json!({"peerId": id, "addresses": ["/ip4/192.0.2.1/tcp/4001"]});
        let url = format!("http://{}/register", self.daemon.addresses().public);
        assert_eq!(reqwest::Client::new().post(url).json(&body).send().await.unwrap().status(), 200);
    }

    /// The page has asked nobody but its own daemon, by no address with the token in it, and the console has nothing to say but
    /// of answers with these words.
    async fn ends_well(self, answers: &[&str]) {
        let own = self.url("");
        let blob = format!("blob:{}", own.trim_end_matches("/admin/"));
        let asked = self.browser.requests().await;
        // The browser's own first tab.
        let asked: Vec<_> = asked.iter().filter(|url| !url.starts_with("chrome://")).collect();
        let strange = |url: &&&String| {
            !(url.starts_with(&own) || url.starts_with(&blob) || url.starts_with("data:image/gif;"))
                || url.contains(&self.daemon.token())
        };
        assert!(asked.len() > 10 && !asked.iter().any(|url| strange(&url)), "{asked:#?}");
        let complaints = self.browser.complaints().await;
        let known = |(source, text): &(String, String)| {
            source == "network" && answers.iter().any(|answer| text.contains(answer))
        };
        assert!(complaints.iter().all(known), "{complaints:#?}");
    }
}

#[tokio::test]
async fn a_link_logs_in_and_leaves_no_token_behind() {
    let Some(page) = Page::logged_in().await else { return };
    let (browser, token) = (&page.browser, page.daemon.token());
    assert_eq!(browser.address().await, page.url(""));
    let kept = "return [{...sessionStorage}, {...localStorage}, document.cookie]";
    assert_eq!(browser.script(kept).await, json!([{"waypost.token": token}, {}, ""]));
    browser.reload().await;
    browser.shows("#state", "Ready").await;

    browser.click("#log-out").await;
    browser.shows("#view-log-in h2", "Log in").await;
    assert_eq!(browser.script(kept).await, json!([{}, {}, ""]));
    browser.reload().await;
    browser.shows("#view-log-in h2", "Log in").await;
    assert_eq!(browser.script("return document.getElementById('nav').checkVisibility()").await, false);

    // A link that is pasted while the page is open loads nothing anew.
    browser.script(&format!("location.hash = '#token={token}'")).await;
    browser.shows("#state", "Ready").await;
    assert_eq!(browser.address().await, page.url(""));
    page.ends_well(&[]).await;
}

#[tokio::test]
async fn the_field_logs_in_and_a_wrong_token_is_told() {
    let Some(page) = Page::open().await else { return };
    let browser = &page.browser;
    for wrong in ["wrong", "tökén"] {
        browser.fill("#token", wrong).await;
        browser.press(ENTER).await;
        browser.shows("#token-error", "This token is not accepted.").await;
        assert_eq!(browser.script("return document.activeElement.id").await, "token");
        assert_eq!(browser.script("return sessionStorage.length").await, 0);
        browser.script("document.getElementById('token-error').textContent = ''").await;
    }
    browser.go(&page.url("#token=other")).await;
    browser.shows("#token-error", "This token is not accepted.").await;
    assert_eq!(browser.address().await, page.url(""));
    browser.fill("#token", &page.daemon.token()).await;
    browser.click("#view-log-in button").await;
    browser.shows("#state", "Ready").await;
    assert_eq!(browser.script("return document.getElementById('token').value").await, "");
    page.ends_well(&["401"]).await;
}

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
async fn names_that_are_markup_are_text() {
    let Some(page) = Page::logged_in().await else { return };
    let name = MARKUP.replace(' ', "/");
    page.peer(&name).await;
    let _binary = link::binary(&page.daemon, MARKUP).await;
    page.view("leases").await;
    let browser = &page.browser;
    browser.shows("#view-leases td.id", &name).await;
    browser.shows("#view-leases td.id", MARKUP).await;
    browser.fill("#lease-prefix", "<img/").await;
    page.counts("leases", "1 lease").await;
    browser.click("#view-leases .does button").await;
    browser.shows("#detail-title", &name).await;
    browser.click("#detail-end").await;
    browser.shows("#confirm-title", &name).await;
    browser.press(ESCAPE).await;
    for view in ["connections", "claims"] {
        page.view(view).await;
        browser.shows(&format!("#view-{view} td.id"), MARKUP).await;
    }
    assert_eq!(
        browser.script("return document.querySelectorAll('img:not(h1 img), [onerror]').length").await,
        0
    );
    assert_ne!(browser.script("return document.title").await, "run");
    // Even a script of the page's own could not make markup of it, nor run one that is not a file of the daemon.
    let tried =
        "try { document.body.innerHTML = '<b>x</b>'; return 'made' } catch (error) { return error.name }";
    assert_eq!(browser.script(tried).await, "TypeError");
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|(_, text)| text.contains("TrustedHTML")), "{complaints:?}");
    page.ends_well(&[]).await;
}

/// Whether what has the focus shows it.
const SHOWS_FOCUS: &str = "const it = document.activeElement, style = getComputedStyle(it);
    return it.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";

#[tokio::test]
async fn everything_is_done_by_keyboard() {
    let Some(page) = Page::open().await else { return };
    let (browser, daemon) = (&page.browser, &page.daemon);
    page.peer("node").await;
    browser.tab_to("#token").await;
    browser.press(&daemon.token()).await;
    browser.press(ENTER).await;
    browser.shows("#state", "Ready").await;

    browser.tab_to("nav a[href='#leases']").await;
    assert_eq!(browser.script(SHOWS_FOCUS).await, true);
    browser.press(ENTER).await;
    browser.shows("#view-leases td.id", "node").await;
    assert_eq!(browser.script("return document.activeElement.textContent").await, "Leases");
    browser.tab_to("#view-leases .does button").await;
    assert_eq!(browser.script(SHOWS_FOCUS).await, true);
    let focus = "return document.activeElement.ariaLabel ?? document.activeElement.id";
    assert_eq!(browser.script(focus).await, "Details peer node");
    browser.press(ENTER).await;
    browser.shows("#detail-title", "peer node").await;
    assert_eq!(browser.script(focus).await, "detail-close");
    browser.press(ESCAPE).await;
    browser.until("!document.getElementById('detail').open").await;
    assert_eq!(browser.script(focus).await, "Details peer node", "the focus is where it was");

    browser.tab_to("nav a[href='#overview']").await;
    browser.press(ENTER).await;
    browser.tab_to("#sweep").await;
    browser.press(ENTER).await;
    browser.shows("#confirm-title", "Sweep now").await;
    assert_eq!(browser.script(focus).await, "confirm-yes");
    browser.press(ESCAPE).await;
    browser.until("!document.getElementById('confirm').open").await;
    assert_eq!(browser.texts("#told").await, [""]);
    browser.press(ENTER).await;
    browser.shows("#confirm-title", "Sweep now").await;
    browser.press(ENTER).await;
    browser.shows("#told", "Swept: nothing had ended.").await;

    browser.tab_to("#drain").await;
    browser.press(ENTER).await;
    browser.shows("#confirm-title", "Drain").await;
    browser.press("drai").await;
    browser.press(ENTER).await;
    assert_eq!(browser.script("return document.getElementById('confirm').open").await, true);
    assert_eq!(browser.script("return document.getElementById('confirm-yes').disabled").await, true);
    // Within the dialog Tab goes round.
    browser.press(TAB).await;
    assert_eq!(browser.script(focus).await, "confirm-no");
    browser.press(ESCAPE).await;
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

#[tokio::test]
async fn a_page_for_which_there_is_no_stream_tells_so_and_gets_the_next_one() {
    let Some(page) = Page::open().await else { return };
    let mut streams = Vec::new();
    for _ in 0..waypost::limits::EVENT_STREAMS {
        let url = format!("http://{}/admin/api/events", page.daemon.addresses().admin);
        let answer = reqwest::Client::new().get(url).bearer_auth(page.daemon.token()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        streams.push(answer);
    }
    page.browser.go(&page.link()).await;
    page.browser.shows("#state", "There are 16 streams already. Trying again in").await;
    page.view("leases").await;
    drop(streams);
    page.browser.shows("#state", "Ready").await;
    page.ends_well(&["503"]).await;
}

#[tokio::test]
async fn the_page_finds_its_way_back_after_a_restart_and_asks_for_a_token_that_has_changed() {
    let Some(mut page) = Page::logged_in().await else { return };
    page.browser.shows("#daemon", "start number 1").await;
    page.view("connections").await;
    page.daemon.stop_in_place().await;
    page.browser.shows("#state", "Trying again in").await;
    page.daemon.start_again().await;
    page.browser.shows("#state", "Ready").await;
    let (_alice, _) = page.daemon.registered("alice").await;
    page.browser.click("#view-connections form button").await;
    page.counts("connections", "1 connection").await;
    page.view("overview").await;
    page.browser.shows("#daemon", "start number 2").await;

    drop(_alice);
    std::fs::remove_file(page.daemon.data_dir().join("admin.token")).unwrap();
    page.daemon.stop_in_place().await;
    page.daemon.start_again().await;
    page.browser.shows("#token-error", "The token is not accepted any more.").await;
    page.browser.fill("#token", &page.daemon.token()).await;
    page.browser.press(ENTER).await;
    page.browser.shows("#daemon", "start number 3").await;
    page.ends_well(&["401", "ERR_"]).await;
}

/// The least contrast of a text with what is behind it, over all that can be seen; with the text.
const CONTRAST: &str = "
    const parts = color => color.match(/[\\d.]+/g).map(Number);
    const light = color => {
        const [r, g, b] = parts(color).map(it => (it /= 255) <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = it => {
        const color = getComputedStyle(it).backgroundColor;
        return it.parentElement && (parts(color)[3] ?? 1) === 0 ? behind(it.parentElement) : color;
    };
    let least = [21, ''];
    for (const it of document.querySelectorAll('body *')) {
        const own = [...it.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || !it.checkVisibility() || it.disabled) continue;
        const [a, b] = [light(getComputedStyle(it).color), light(behind(it))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < least[0]) least = [contrast, it.outerHTML.slice(0, 80)];
    }
    return least;";

#[tokio::test]
async fn every_view_fits_a_phone_and_can_be_read_in_light_and_in_dark() {
    let Some(page) = Page::logged_in().await else { return };
    let (_alice, _) = page.daemon.registered(&"a".repeat(128)).await;
    page.peer(&"n".repeat(128)).await;
    let _binary = link::binary(&page.daemon, &"h".repeat(256)).await;
    page.second().await;
    let browser = &page.browser;
    let ground =
        async || -> Value { browser.script("return getComputedStyle(document.body).backgroundColor").await };
    browser.prefer("light").await;
    let light = ground().await;
    browser.prefer("dark").await;
    let dark = ground().await;
    assert_ne!(light, dark);
    // Whatever the system says, until told otherwise.
    for (choice, expected) in [("light", &light), ("dark", &dark), ("", &dark)] {
        browser.choose("#theme", choice).await;
        assert_eq!(&ground().await, expected, "{choice}");
    }
    let checked = async |what: &str, width: usize, scheme: &str| {
        let wide = browser.script("return document.documentElement.scrollWidth").await;
        assert!(wide.as_u64() <= Some(width as u64), "{what} at {width}: {wide}");
        let contrast = browser.script(CONTRAST).await;
        assert!(contrast[0].as_f64() >= Some(4.5), "{what} in {scheme}: {contrast}");
        if let Some(folder) = std::env::var_os("WAYPOST_SCREENSHOTS") {
            let path = std::path::Path::new(&folder).join(format!("{what}-{scheme}-{width}.png"));
            std::fs::write(path, browser.screenshot().await).unwrap();
        }
    };
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (320, "light"), (320, "dark")] {
        browser.resize(width, 800).await;
        browser.prefer(scheme).await;
        for view in ["overview", "leases", "connections", "claims"] {
            page.view(view).await;
            checked(view, width, scheme).await;
        }
        page.view("leases").await;
        browser.click("#view-leases .does button").await;
        browser.until("document.getElementById('detail').open").await;
        checked("detail", width, scheme).await;
        browser.click("#detail-end").await;
        browser.until("document.getElementById('confirm').open").await;
        checked("confirm", width, scheme).await;
        browser.press(ESCAPE).await;
        browser.until("!document.getElementById('confirm').open").await;
    }
    browser.click("#log-out").await;
    checked("log-in", 320, "dark").await;
    page.ends_well(&[]).await;
}
