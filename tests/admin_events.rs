//! Owns the proof that the admin page keeps to itself, and that events tell how the daemon is, to whoever has the token.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;

use std::process::Command;

use daemon::{BEGINNING, HOUR, Process, SECOND, TestDaemon, ask, hear, soon};
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use waypost::client::RawSocket;
use waypost::client::admin::LeaseFilter;
use waypost::limits::EVENT_STREAMS;
use waypost::wire::admin::Handled;

async fn get(daemon: &TestDaemon, path: &str, token: Option<&str>) -> Response {
    let http =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = http.get(format!("http://{}{path}", daemon.addresses().admin));
    let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
    request.send().await.unwrap()
}

/// A stream of events, as a client reads it.
struct Events {
    answer: Response,
    rest: String,
}

impl Events {
    async fn open(daemon: &TestDaemon) -> Events {
        let answer = get(daemon, "/admin/api/events", Some(&daemon.token())).await;
        assert_eq!(
            (answer.status(), &answer.headers()["content-type"]),
            (StatusCode::OK, &"text/event-stream".parse().unwrap())
        );
        Events { answer, rest: String::new() }
    }

    /// What comes next, as its lines; `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.rest.split_once("\n\n") {
                let block = block.to_owned();
                self.rest = rest.to_owned();
                return Some(block);
            }
            let more = soon(self.answer.chunk()).await.unwrap()?;
            self.rest.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    /// The data of the next event of this name, past others and comments.
    async fn next(&mut self, name: &str) -> Value {
        loop {
            let block = self.block().await.expect("the stream goes on");
            if let Some(data) = block.strip_prefix(&format!("event: {name}\ndata: ")) {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

/// How often the engine has been asked; this asks it once itself.
async fn requests(daemon: &TestDaemon) -> u64 {
    daemon.status().await.engine.requests
}

async fn refused(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_page_needs_no_token_has_no_data_and_keeps_to_itself() {
    let daemon = TestDaemon::start().await;
    let (_alice, _) = daemon.registered("alice").await;
    let page = get(&daemon, "/admin/", None).await.text().await.unwrap();
    let named = page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
    let mut paths: Vec<String> = named.map(|name| format!("/admin/{name}")).collect();
    assert_eq!(paths, ["/admin/page.css", "/admin/main.js"]);
    let main = get(&daemon, "/admin/main.js", None).await.text().await.unwrap();
    let imported = main.split("from \"./").skip(1).map(|rest| rest.split('"').next().unwrap());
    paths.extend(imported.map(|name| format!("/admin/{name}")));
    paths.extend(["/admin/".to_owned(), "/admin/icon.svg".to_owned()]);
    assert!(paths.len() > 8, "{paths:?}");
    for path in paths {
        let answer = get(&daemon, &path, None).await;
        assert_eq!(answer.status(), 200, "{path}");
        let told = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(
            told("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'"
        );
        assert_eq!(
            [told("referrer-policy"), told("x-content-type-options"), told("cache-control")],
            ["no-referrer", "nosniff", "no-store"]
        );
        let kind = told("content-type");
        let expected = match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(kind, expected, "{path}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains("alice") && !text.contains(&daemon.token()), "{path}");
        // Names of XML vocabularies are no addresses to be asked.
        let others = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!others.contains("http://") && !others.contains("https://"), "{path}");
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick="] {
            assert!(!text.contains(sink), "{path}: {sink}");
        }
    }
    let without = get(&daemon, "/admin", None).await;
    assert_eq!(
        (without.status(), &without.headers()[header::LOCATION]),
        (StatusCode::PERMANENT_REDIRECT, &"/admin/".parse().unwrap())
    );
    assert_eq!(get(&daemon, "/admin/page.rs", None).await.status(), 401);
}

#[tokio::test]
async fn events_tell_the_status_each_second_and_sweeps_as_they_happen() {
    let daemon = TestDaemon::start().await;
    assert_eq!(refused(get(&daemon, "/admin/api/events", None).await).await, (401, "unauthorized".into()));
    let mut events = Events::open(&daemon).await;
    let first = events.next("status").await;
    assert_eq!((&first["now"], &first["handled"]["signalling"]), (&json!(BEGINNING), &json!(0)));
    let nothing = json!({"flushes": 0, "flush_p50_seconds": null, "flush_p99_seconds": null});
    let mut store = events.next("store").await;
    assert!(store.as_object_mut().unwrap().remove("bytes_on_disk").unwrap().as_u64() > Some(0));
    assert_eq!(store, nothing, "what was before nobody has waited for");

    let (mut alice, _) = daemon.registered("alice").await;
    ask(&mut alice, json!({"type": "register_rendezvous", "peerId": "alice", "hourlyTokens": ["t"]})).await;
    daemon.advance(SECOND);
    let second = events.next("status").await;
    assert_eq!((&second["now"], &second["handled"]["signalling"]), (&json!(BEGINNING + 1000), &json!(2)));
    assert_eq!(second["leases"]["relay"], 1);
    let store = events.next("store").await;
    assert!(store["flushes"].as_u64() > Some(0), "{store}");
    // By the clock, which stands still during a flush.
    assert!(store["flush_p50_seconds"].is_number() && store["flush_p99_seconds"].is_number(), "{store}");

    // A leap, after which the sweeper itself holds back: what is told next is the sweep that was asked for.
    daemon.clock.step_wall(4 * HOUR);
    assert_eq!(daemon.admin().sweep().await.unwrap().registration, 1);
    let swept = events.next("swept").await;
    assert_eq!((&swept["registration"], &swept["relay"]), (&json!(1), &json!(0)));
    assert_eq!(daemon.admin().sweep().await.unwrap().registration, 0);
    daemon.advance(SECOND);
    let next = events.block().await.unwrap();
    assert!(next.starts_with("event: status\n"), "a sweep of nothing is not told: {next}");

    // One that comes later hears from the next second on.
    let mut late = Events::open(&daemon).await;
    daemon.advance(SECOND);
    assert_eq!(late.next("status").await["now"], events.next("status").await["now"]);
}

#[tokio::test]
async fn what_is_handled_is_counted_by_dialect() {
    let daemon = link::start_with(|settings| settings.directory.allow_private = true).await;
    let mut peer = daemon.raw().await;
    for message in [json!({"type": "ping"}), json!({"type": "nope"})] {
        ask(&mut peer, message).await;
    }
    let mut binary = link::binary(&daemon, link::HOME).await;
    let mut phone = link::phone(&daemon, link::HOME).await;
    let conn_id = link::met(&mut binary, &mut phone).await;
    link::send(&mut binary, &conn_id, json!("hi")).await;
    assert_eq!(link::hear_text(&mut phone).await, "\"hi\"");
    for path in
        ["/peers", "/stats", "/turn-servers", "/peers?limit=0", "/servers", "/", "/health", "/nothing"]
    {
        reqwest::get(format!("http://{}{path}", daemon.addresses().public)).await.unwrap();
    }
    let handled = Handled { signalling: 2, link: 2, bootstrap: 4, directory: 1 };
    assert_eq!(daemon.status().await.handled, handled);
    daemon.until_metric("waypost_handled_total{dialect=\"link\"}", 2.0).await;
}

#[tokio::test]
async fn streams_are_bounded_and_give_their_places_back() {
    let daemon = TestDaemon::start().await;
    let mut open = Vec::new();
    for _ in 0..EVENT_STREAMS {
        open.push(Events::open(&daemon).await);
    }
    let token = daemon.token();
    let more = get(&daemon, "/admin/api/events", Some(&token)).await;
    assert_eq!(refused(more).await, (503, "too_many_streams".into()));
    // One look serves all.
    let before = requests(&daemon).await;
    daemon.advance(SECOND);
    for events in &mut open {
        while events.next("status").await["now"] != BEGINNING + 1000 {}
    }
    let looks = requests(&daemon).await - before - 1;
    assert!((1..EVENT_STREAMS as u64 / 2).contains(&looks), "{looks}");

    open.pop();
    let looking = async {
        // Its place is free once the daemon has seen that it is gone.
        while get(&daemon, "/admin/api/events", Some(&token)).await.status() != 200 {}
    };
    soon(looking).await;
    drop(open);
    // With nobody there nobody looks.
    let resting = async {
        loop {
            let before = requests(&daemon).await;
            daemon.advance(SECOND);
            daemon.advance(SECOND);
            if requests(&daemon).await == before + 1 {
                return;
            }
        }
    };
    soon(resting).await;
}

#[tokio::test]
async fn streams_end_at_the_drain_and_are_there_again_after_it() {
    let mut daemon = TestDaemon::start().await;
    let mut events = Events::open(&daemon).await;
    events.next("status").await;
    daemon.stop([]).await;
    let ending = async { while events.block().await.is_some() {} };
    soon(ending).await;
    daemon.start_again().await;
    assert_eq!(Events::open(&daemon).await.next("status").await["boot"], 2);
}

#[tokio::test]
async fn a_stream_on_which_nothing_happens_tells_that_it_stands() {
    let daemon = TestDaemon::start().await;
    let mut events = Events::open(&daemon).await;
    events.next("store").await;
    // Time stands still, so there is no further event.
    assert_eq!(events.block().await.unwrap(), ":");
}

#[tokio::test]
async fn blurred_addresses_are_networks_wherever_they_are_shown() {
    for (blur, socket, peer) in [(false, "127.0.9.9", "127.0.0.1"), (true, "127.0.9.0/24", "127.0.0.0/24")] {
        let daemon = TestDaemon::start_with(|settings| settings.server.admin_blur_addresses = blur).await;
        let public = daemon.addresses().public;
        let mut socket_of =
            RawSocket::connect_from(&format!("ws://{public}/"), [127, 0, 9, 9].into()).await.unwrap();
        hear(&mut socket_of).await;
        let body = json!({"peerId": "node", "addresses": ["/ip4/192.0.2.1/tcp/4001"]});
        let http = reqwest::Client::new();
        assert_eq!(
            http.post(format!("http://{public}/register")).json(&body).send().await.unwrap().status(),
            200
        );
        let admin = daemon.admin();
        assert_eq!(admin.connections().await.unwrap().connections[0].address, socket);
        let listed = admin.leases(&LeaseFilter::default()).await.unwrap();
        let alone = admin.lease("peer", "node").await.unwrap().unwrap();
        for lease in [&listed.leases[0], &alone] {
            assert_eq!(lease.record["registeredFrom"], peer);
            assert_eq!(lease.record["addresses"], body["addresses"], "what a peer publishes of itself");
        }
    }
}

/// What `waypost admin url` says on a data directory.
fn url(data: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env_clear().args(["admin", "url"]).arg("--data-dir").arg(data).args(arguments);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap().trim().to_owned())
}

#[tokio::test]
async fn admin_url_prints_a_link_with_the_token_where_no_server_sees_it() {
    let data = tempfile::tempdir().unwrap();
    let daemon = Process::start(data.path(), &[]);
    let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap().trim().to_owned();
    let at = daemon.admin.to_string();
    let told = url(data.path(), &["--admin-listen", &at]);
    assert_eq!(told, (Some(0), format!("http://{at}/admin/#token={token}")));
    let page = reqwest::get(&told.1).await.unwrap();
    assert!(page.text().await.unwrap().starts_with("<!doctype html>"));

    let of = |arguments: &[&str]| url(data.path(), arguments).1.split('#').next().unwrap().to_owned();
    assert_eq!(of(&[]), "http://127.0.0.1:9001/admin/");
    assert_eq!(of(&["--admin-listen", "0.0.0.0:9001"]), "http://127.0.0.1:9001/admin/");
    assert_eq!(of(&["--admin-listen", "[::]:9001"]), "http://[::1]:9001/admin/");
    assert_eq!(of(&["--admin", "http://10.0.0.1/way/"]), "http://10.0.0.1/way/admin/");
    let (code, said) = url(data.path(), &["--admin-listen", "127.0.0.1:0"]);
    assert!(code == Some(1) && said.contains("--admin"), "{said}");

    let (code, said) = url(data.path(), &["--admin-listen", "unix:/run/waypost/admin"]);
    assert!(code == Some(1) && said.contains("ssh -N -L 127.0.0.1:9001:/run/waypost/admin"), "{said}");

    // A token of one's own may be any text.
    std::fs::write(data.path().join("admin.token"), "a b&c#d\n").unwrap();
    assert_eq!(url(data.path(), &[]).1, "http://127.0.0.1:9001/admin/#token=a+b%26c%23d");
    let (code, said) = url(&data.path().join("nowhere"), &[]);
    assert!(code == Some(1) && said.contains("--token-file"), "{said}");
}
