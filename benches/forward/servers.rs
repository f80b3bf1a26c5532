//! Owns the two servers that are compared, each a process of its own, and their CPU time. Must not know what is asked of
//! them.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::daemon;

/// A server of our own; dropping it kills it.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// The daemon, without limits on upgrades and messages.
    pub fn waypost(data: &Path) -> Server {
        let settings = ["limits.link_upgrades_per_minute=0", "limits.messages_per_minute=0"];
        let (child, address) = daemon::start(data, &settings);
        Server { address, child }
    }

    /// This very program, run with `--echo`.
    pub fn echo() -> Server {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg("--echo")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the echo starts");
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        told.read_line(&mut line).expect("it tells its address");
        Server { address: line.trim().parse().expect("an address"), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of a process so far, user and system, in microseconds.
pub fn cpu_us(pid: u32) -> u64 {
    /// 100 ticks a second on every Linux that people run.
    const MICROSECONDS_PER_TICK: u64 = 10_000;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    ticks.sum::<u64>() * MICROSECONDS_PER_TICK
}

/// What `--echo` runs: axum's own WebSocket with its defaults, on all cores as the daemon is. Without Nagle's delay, which
/// the daemon has not either.
#[tokio::main]
pub async fn echo() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    println!("{}", listener.local_addr().expect("its address"));
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket without delay"));
    let upgrade = |upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(answer) };
    axum::serve(listener, Router::new().route("/", get(upgrade)))
        .await
        .expect("it serves until it is killed");
}

async fn answer(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            break;
        }
    }
}
