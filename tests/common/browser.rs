//! A headless Chromium, driven over WebDriver. Owns starting and ending it, what a hand on a keyboard does, what a page shows,
//! and what it asked for and complained of. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Set where skipping a test is a failure.
const SKIP_NOTHING: &str = "WAYPOST_SKIP_NOTHING";
/// How WebDriver calls an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";
pub const SHIFT: &str = "\u{e008}";

/// A page of its own, with a profile of its own.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    http: reqwest::Client,
    /// Where what is downloaded goes.
    pub downloads: TempDir,
    _profile: TempDir,
}

impl Browser {
    /// `None`: there is no Chromium with its driver, and that was said.
    pub async fn open() -> Option<Browser> {
        for program in ["chromium", "chromedriver"] {
            let asked = Command::new(program).arg("--version").output();
            if !asked.is_ok_and(|output| output.status.success()) {
                assert!(std::env::var_os(SKIP_NOTHING).is_none(), "there is no {program}");
                eprintln!("skipped: there is no {program}. apt-get install chromium chromium-driver.");
                return None;
            }
        }
        let mut driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = told
            .find_map(|line| {
                let line = line.unwrap();
                let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("the driver tells its port");
        // Goes on reading, so that the driver never waits for it.
        std::thread::spawn(move || told.for_each(drop));
        let folder = || tempfile::tempdir().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let (downloads, profile, session) = (folder(), folder(), String::new());
        let mut browser = Browser { driver, port, session, http, downloads, _profile: profile };
        let options = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-extensions", format!("--user-data-dir={}", browser._profile.path().display()),
            ],
            "prefs": {"download.default_directory": browser.downloads.path().to_str().unwrap()},
        });
        let capabilities = json!({"alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": 30_000},
        }});
        let made = browser.call(Method::POST, "", json!({"capabilities": capabilities})).await;
        browser.session = format!("/{}", made["sessionId"].as_str().unwrap());
        Some(browser)
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("http://127.0.0.1:{}/session{}{path}", self.port, self.session);
        let request = self.http.request(method.clone(), url);
        let request = if method == Method::POST { request.json(&body) } else { request };
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let value = &answer["value"];
        assert!(value.get("error").is_none(), "{method} {path} {body}: {value}");
        value.clone()
    }

    pub async fn go(&self, url: &str) {
        self.call(Method::POST, "/url", json!({"url": url})).await;
    }

    pub async fn reload(&self) {
        self.call(Method::POST, "/refresh", json!({})).await;
    }

    pub async fn address(&self) -> String {
        self.call(Method::GET, "/url", Value::Null).await.as_str().unwrap().to_owned()
    }

    /// What the body of a function returns on the page.
    pub async fn script(&self, body: &str) -> Value {
        self.call(Method::POST, "/execute/sync", json!({"script": body, "args": []})).await
    }

    /// Waits until an expression is truthy on the page; its value.
    pub async fn until(&self, expression: &str) -> Value {
        let body = format!(
            "const done = arguments[0], end = performance.now() + 20000;
             const look = () => {{
                 const value = {expression};
                 if (value) done([value]);
                 else if (performance.now() > end) done(null);
                 else setTimeout(look, 10);
             }};
             look();"
        );
        let found = self.call(Method::POST, "/execute/async", json!({"script": body, "args": []})).await;
        if found.is_null() {
            let shown = self.script("return document.body.innerText").await;
            panic!("not so in time: {expression}\non the page:\n{}", shown.as_str().unwrap_or_default());
        }
        found[0].clone()
    }

    /// Waits until an element shows this text, among others.
    pub async fn shows(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!(
            "[...document.querySelectorAll({selector})].some(it => it.checkVisibility() && it.innerText.includes({text}))"
        ))
        .await;
    }

    /// The text of all elements, as it is shown.
    pub async fn texts(&self, selector: &str) -> Vec<String> {
        let body =
            format!("return [...document.querySelectorAll({})].map(it => it.innerText)", json!(selector));
        serde_json::from_value(self.script(&body).await).unwrap()
    }

    /// Waits until it can be seen, then clicks in its middle as a mouse does.
    pub async fn click(&self, selector: &str) {
        self.until(&format!("document.querySelector({})?.checkVisibility()", json!(selector))).await;
        let element = self.element(selector).await;
        self.call(Method::POST, &format!("/element/{element}/click"), json!({})).await;
    }

    /// Replaces what stands in a field.
    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.call(Method::POST, &format!("/element/{element}/clear"), json!({})).await;
        self.call(Method::POST, &format!("/element/{element}/value"), json!({"text": text})).await;
    }

    /// Chooses an option of a select by its value.
    pub async fn choose(&self, selector: &str, value: &str) {
        let option = self.element(&format!("{selector} option[value='{value}']")).await;
        self.call(Method::POST, &format!("/element/{option}/click"), json!({})).await;
    }

    async fn element(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.call(Method::POST, "/element", body).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Keys pressed one after the other, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        self.press_with(None, keys).await;
    }

    /// The same while another key is held.
    pub async fn press_with(&self, held: Option<&str>, keys: &str) {
        let key = |kind: &str, value: &str| json!({"type": kind, "value": value});
        let mut actions: Vec<Value> = held.iter().map(|held| key("keyDown", held)).collect();
        for pressed in keys.chars() {
            let pressed = pressed.to_string();
            actions.extend([key("keyDown", &pressed), key("keyUp", &pressed)]);
        }
        actions.extend(held.iter().map(|held| key("keyUp", held)));
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.call(Method::POST, "/actions", body).await;
    }

    /// Presses Tab until what has the focus fits the selector.
    pub async fn tab_to(&self, selector: &str) {
        for _ in 0..60 {
            self.press(TAB).await;
            let body = format!("return document.activeElement.matches({})", json!(selector));
            if self.script(&body).await == true {
                return;
            }
        }
        panic!("no Tab comes to {selector}");
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) {
        self.call(Method::POST, "/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await;
    }

    pub async fn resize(&self, width: usize, height: usize) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// "light" or "dark", as the system would say.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools("Emulation.setEmulatedMedia", json!({"features": [feature]})).await;
    }

    /// A PNG of all that is shown.
    pub async fn screenshot(&self) -> Vec<u8> {
        use base64::Engine as _;
        let shot = self.call(Method::GET, "/screenshot", Value::Null).await;
        base64::engine::general_purpose::STANDARD.decode(shot.as_str().unwrap()).unwrap()
    }

    /// What the console has said since the last call: the source and the text.
    pub async fn complaints(&self) -> Vec<(String, String)> {
        let entries = self.call(Method::POST, "/se/log", json!({"type": "browser"})).await;
        let of = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        entries.as_array().unwrap().iter().map(|it| (of(it, "source"), of(it, "message"))).collect()
    }

    /// The addresses of all requests since the last call.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self.call(Method::POST, "/se/log", json!({"type": "performance"})).await;
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let sent = message["message"]["method"] == "Network.requestWillBeSent";
            sent.then(|| message["message"]["params"]["request"]["url"].as_str().unwrap().to_owned())
        };
        entries.as_array().unwrap().iter().filter_map(url).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, too, which would outlive a driver that is killed.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ =
                stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
