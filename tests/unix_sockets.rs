//! Owns the proof that both listeners may be Unix sockets, and whom their peers count as.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/supervised.rs"]
mod supervised;
#[path = "common/tls.rs"]
mod tls;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use daemon::{Process, TestDaemon};
use supervised::Supervised;
use tempfile::TempDir;
use tls::{first_message, get};
use tokio::net::UnixStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use waypost::client::AdminClient;
use waypost::config::Settings;
use waypost::server::listen::Address;

async fn start(adjust: impl FnOnce(&mut Settings)) -> (TestDaemon, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start_with(|settings| {
        settings.server.listen = Address::Unix(folder.path().join("public"));
        settings.server.admin_listen = Address::Unix(folder.path().join("admin"));
        adjust(settings);
    })
    .await;
    (daemon, folder)
}

async fn connect(folder: &TempDir) -> UnixStream {
    UnixStream::connect(folder.path().join("public")).await.unwrap()
}

#[tokio::test]
async fn both_listeners_may_be_unix_sockets_and_the_client_reaches_them() {
    let (mut daemon, folder) = start(|_| {}).await;
    let path = folder.path().join("public");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(get(&mut connect(&folder).await, "/health", "").await.contains("\"healthy\""));
    let info = first_message(connect(&folder).await).await;
    assert_eq!(info["endpoint"], format!("ws+unix:{}", path.display()));

    let admin = AdminClient::new(format!("unix:{}/admin", folder.path().display()), daemon.token()).unwrap();
    assert!(admin.live().await.unwrap() && admin.ready().await.unwrap());
    assert!(admin.metrics().await.unwrap().contains("waypost_connections "));
    assert!(admin.lease("relay", "nobody").await.unwrap().is_none());
    let stranger = AdminClient::new(admin.base(), "guessed").unwrap();
    assert!(stranger.status().await.unwrap_err().to_string().contains("token"));
    daemon.stop([]).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the sockets go with the daemon");
    assert!(admin.live().await.is_err());
    daemon.start_again().await;
    assert!(admin.live().await.unwrap());
}

#[tokio::test]
async fn peers_of_a_unix_socket_are_believed_like_a_proxy_and_without_a_header_not_limited() {
    let (daemon, folder) = start(|settings| {
        settings.connections.http_requests_per_minute = 1;
        settings.connections.max_connections_per_address = 1;
        settings.connections.upgrades_per_minute = 1;
    })
    .await;
    let health =
        async |headers: &str| get(&mut connect(&folder).await, "/health", headers).await[9..12].to_owned();
    let client = |number: u8| format!("X-Forwarded-For: 203.0.113.{number}\r\n");
    assert_eq!(
        [health(&client(1)).await, health(&client(1)).await, health(&client(2)).await],
        ["200", "429", "200"]
    );
    for headers in [
        "",
        "",
        "X-Forwarded-For: unknown\r\n",
        "X-Forwarded-For: 0.0.0.0\r\n",
        "X-Forwarded-For: 0.0.0.0\r\n",
    ] {
        assert_eq!(health(headers).await, "200", "{headers}");
    }
    let mut open = Vec::new();
    for forwarded in ["198.51.100.7", "", "", ""] {
        let mut request = "ws://localhost/ws".into_client_request().unwrap();
        if !forwarded.is_empty() {
            request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        }
        open.push(client_async(request, connect(&folder).await).await.unwrap());
    }
    let connections = daemon.admin().connections().await.unwrap().connections;
    let addresses: Vec<_> = connections.iter().map(|connection| connection.address.as_str()).collect();
    assert_eq!(addresses, ["198.51.100.7", "0.0.0.0", "0.0.0.0", "0.0.0.0"]);
}

fn waypost(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    let address = |name: &str| format!("unix:{}/{name}", folder.display());
    command.args([
        "--listen",
        &address("public"),
        "--admin-listen",
        &address("admin"),
        "--log-format",
        "json",
    ]);
    command.arg("--data-dir").arg(folder.join("data")).args(arguments).env_clear();
    command
}

#[test]
fn the_command_line_asks_over_a_unix_socket_and_a_killed_daemons_sockets_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let status = || waypost(folder.path(), &["status"]).output().unwrap();
    let nobody = status();
    let admin = format!("unix:{}/admin", folder.path().display());
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(String::from_utf8(nobody.stderr).unwrap(), format!("no daemon answers at {admin}\n"));

    let daemon = Supervised::start(waypost(folder.path(), &[]));
    assert_eq!(daemon.logs("listening")["admin_listen"], admin);
    let shown = String::from_utf8(status().stdout).unwrap();
    assert!(shown.contains("ready"), "{shown}");
    let mut by_address =
        Process::command(&folder.path().join("data"), &["status", "--json", "--admin", &admin]);
    assert!(by_address.output().unwrap().status.success());
    let backup = folder.path().join("backup").display().to_string();
    let output = waypost(folder.path(), &["backup", &backup]).output().unwrap();
    assert!(output.status.success() && Path::new(&backup).exists(), "{output:?}");

    // One that lives keeps its sockets, and a second daemon says why it does not start.
    let mut second = Command::new(env!("CARGO_BIN_EXE_waypost"));
    second.args(["--listen", &format!("unix:{}/public", folder.path().display())]).env_clear();
    second.args(["--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("other"));
    let second = second.output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("/public: another process listens there"), "{said}");
    assert!(status().status.success());

    drop(daemon);
    assert!(folder.path().join("public").exists(), "a killed one leaves its sockets");
    let daemon = Supervised::start(waypost(folder.path(), &[]));
    daemon.logs("listening");
    assert!(status().status.success());
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!folder.path().join("public").exists() && !folder.path().join("admin").exists());
}
