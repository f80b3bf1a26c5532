//! Owns the proof that the shipped configurations of proxies do what they are for: whatever clients speak comes through, by
//! TLS, and counts for the client's address.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;
#[path = "common/proxies.rs"]
mod proxies;
#[path = "common/tools.rs"]
mod tools;

use std::process::Command;

use daemon::{RawTcp, TestDaemon, ask, connect};
use http::{Http, peer};
use proxies::{Plan, Proxy};
use serde_json::json;
use waypost::client::RawSocket;

const CLIENT: &str = "127.0.0.9";
const OTHER: &str = "127.0.0.10";

async fn behind_a_proxy() -> TestDaemon {
    TestDaemon::start_with(|settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        settings.connections.max_connections_per_address = 3;
        settings.connections.http_requests_per_minute = 0;
    })
    .await
}

/// Signalling, link and HTTP through the proxy, as the address that they come from.
async fn visit(daemon: &TestDaemon, proxy: &Proxy) {
    let tunnel = proxy.tunnel_from(CLIENT);
    let meet = |id: &str, drop: &str| json!({"type": "register_rendezvous", "peerId": id, "dailyPoints": ["p"], "deadDrop": drop});
    let mut alice = connect(tunnel).await;
    assert_eq!(ask(&mut alice, json!({"type": "register", "peerId": "alice"})).await["type"], "registered");
    assert_eq!(ask(&mut alice, meet("alice", "for bob")).await["type"], "rendezvous_result");
    let mut bob = connect(tunnel).await;
    assert_eq!(ask(&mut bob, json!({"type": "register", "peerId": "bob"})).await["type"], "registered");
    let met = ask(&mut bob, meet("bob", "for alice")).await;
    assert_eq!(met["deadDrops"][0]["deadDrop"], "for bob", "{met}");

    let headers = [("x-pyrycode-server", "home"), ("x-pyrycode-version", "1"), ("user-agent", "test")];
    let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
    let upgrade = waypost::client::link::upgrade(&format!("ws://{tunnel}"), "/v1/server", &headers).unwrap();
    let _binary = RawSocket::open(upgrade, None).await.unwrap();
    daemon.until("the binary is in", |status| status.connections.binaries == 1).await;
    for connection in daemon.admin().connections().await.unwrap().connections {
        assert_eq!(connection.address, CLIENT);
    }

    // The fourth socket of the address is one too many, whatever its client says; another address has its own.
    let claims = "X-Forwarded-For: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n";
    assert_eq!(RawTcp::open(tunnel, "/ws", claims).await.status(), 429);
    let other = proxy.tunnel_from(OTHER);
    assert_eq!(RawTcp::open(other, "/ws", claims).await.status(), 101);

    let http = Http::at(tunnel).await;
    http.post("/register", peer("carol", json!({}))).await.ok();
    assert_eq!(http.get("/peers").await.ok()["total"], 1);
    http.get("/admin/api/status").await.refused(404, "Not found");
    let long = reqwest::Client::builder().no_proxy().build().unwrap();
    let long = long.post(format!("http://{tunnel}/register")).body(vec![b' '; 262_145]).send().await.unwrap();
    assert_eq!(long.status(), 413);
}

#[tokio::test]
async fn nginx_passes_everything_on_as_its_clients_address() {
    if !tools::is_there("openssl", "openssl") || !tools::is_there("nginx", "nginx-light") {
        return;
    }
    let daemon = behind_a_proxy().await;
    let plan = Plan::new();
    let site = plan.adapt(
        "nginx/waypost.conf",
        &[
            ("listen 443 ssl;", format!("listen {} ssl;", plan.address)),
            ("listen [::]:443 ssl;", String::new()),
            ("/etc/letsencrypt/live/registry.example/fullchain.pem", plan.path("certificate.pem")),
            ("/etc/letsencrypt/live/registry.example/privkey.pem", plan.path("key.pem")),
            ("127.0.0.1:9000", daemon.addresses().public.to_string()),
        ],
    );
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {};\n", plan.path(name)))
        .concat();
    let main = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\n{places}{site}}}\n",
        plan.path("pid")
    );
    plan.write("nginx.conf", &main);
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(plan.place.path()).args(["-c", &plan.path("nginx.conf")]);
    let proxy = plan.start(command).await;
    visit(&daemon, &proxy).await;
}

#[tokio::test]
async fn caddy_passes_everything_on_as_its_clients_address() {
    if !tools::is_there("openssl", "openssl") || !tools::is_there("caddy", "caddy") {
        return;
    }
    let daemon = behind_a_proxy().await;
    let plan = Plan::new();
    let tls = format!("tls {} {}", plan.path("certificate.pem"), plan.path("key.pem"));
    let site = plan.adapt(
        "caddy/Caddyfile",
        &[
            ("\nregistry.example {", format!("\n:{} {{\n\tbind 127.0.0.1\n\t{tls}", plan.address.port())),
            ("127.0.0.1:9000", daemon.addresses().public.to_string()),
        ],
    );
    plan.write("Caddyfile", &format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{site}"));
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config", &plan.path("Caddyfile")]);
    command.env_clear().env("HOME", plan.place.path());
    let proxy = plan.start(command).await;
    visit(&daemon, &proxy).await;
}
