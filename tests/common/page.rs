//! The admin page of a daemon in this process, in a browser. Owns logging in, going from view to view, and the proof that the
//! page asks nobody else and complains of nothing. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use crate::browser::Browser;
use crate::daemon::{SECOND, TestDaemon};
use crate::link;

/// Browsers are large: one at a time.
pub static TURN: Mutex<()> = Mutex::const_new(());

/// The page of a daemon, on which nobody is logged in.
pub struct Page {
    pub browser: Browser,
    pub daemon: TestDaemon,
    _turn: MutexGuard<'static, ()>,
}

impl Page {
    pub async fn open() -> Option<Page> {
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
    pub async fn logged_in() -> Option<Page> {
        let page = Page::open().await?;
        page.browser.go(&page.link()).await;
        page.browser.shows("#state", "Ready").await;
        Some(page)
    }

    pub fn url(&self, fragment: &str) -> String {
        format!("http://{}/admin/{fragment}", self.daemon.addresses().admin)
    }

    pub fn link(&self) -> String {
        self.url(&format!("#token={}", self.daemon.token()))
    }

    /// A second goes by, and the page has heard of it.
    pub async fn second(&self) {
        self.daemon.advance(SECOND);
        let up = format!("up {}s", self.daemon.status().await.uptime_seconds);
        self.browser.until(&format!("document.querySelector('#daemon').textContent.includes('{up} ')")).await;
    }

    pub async fn view(&self, name: &str) {
        self.browser.click(&format!("nav a[href='#{name}']")).await;
        self.browser.until(&format!("document.querySelector('#view-{name}').checkVisibility()")).await;
        if name != "overview" {
            self.browser.until(&format!("document.querySelector('#view-{name} .count').textContent")).await;
        }
    }

    /// Each row of a view's table, its cells but for the buttons.
    pub async fn rows(&self, view: &str) -> Vec<Vec<String>> {
        let body = format!(
            "return [...document.querySelectorAll('#view-{view} tbody tr')]
                 .map(row => [...row.querySelectorAll('td:not(.does)')].map(cell => cell.innerText))"
        );
        serde_json::from_value(self.browser.script(&body).await).unwrap()
    }

    /// Waits until a view's count says this.
    pub async fn counts(&self, view: &str, text: &str) {
        self.browser.shows(&format!("#view-{view} .count"), text).await;
    }

    /// Registers a bootstrap peer.
    pub async fn peer(&self, id: &str) {
        let body = json!({"peerId": id, "addresses": ["/ip4/192.0.2.1/tcp/4001"]});
        let url = format!("http://{}/register", self.daemon.addresses().public);
        assert_eq!(reqwest::Client::new().post(url).json(&body).send().await.unwrap().status(), 200);
    }

    /// The page has asked nobody but its own daemon, by no address with the token in it, and the console has nothing to say but
    /// of answers with these words.
    pub async fn ends_well(self, answers: &[&str]) {
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
