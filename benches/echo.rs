//! What the daemon's `ping` costs beside the least that axum does: its own WebSocket, with buffers as small as the daemon's,
//! which reads JSON and answers JSON of the same size.
//!
//! Owns the echo and the rounds: both servers are processes of their own, measured in turn by `waypost bench` in one run. Run it with
//! `cargo bench --bench echo`; `-- --help` tells the options.

#[path = "common/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "the forward bench uses the rest")]
#[path = "forward/servers.rs"]
mod servers;

use std::process::{Command, Stdio};

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::ListenerExt;
use clap::Parser;
use serde_json::{Value, json};
use servers::Server;
use tokio::net::TcpListener;
use waypost::limits::READ_BUFFER_BYTES;

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure ping against a bare echo.
#[derive(Parser)]
struct Arguments {
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured of each server in a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Sockets, with one request under way each.
    #[arg(long, default_value_t = 64)]
    sockets: usize,
    /// What the other process runs.
    #[arg(long, hide = true)]
    echo: bool,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if arguments.echo {
        return serve();
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let (daemon, echo) = (Server::waypost(data.path()), Server::echo());
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds {
        for (server, figures) in [&daemon, &echo].into_iter().zip(&mut figures) {
            figures.push(measure(server, &arguments));
        }
    }
    let [daemon, echo] = figures.map(|figures| {
        let median = |pick: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = figures.iter().map(pick).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        (median(|it| it.0), median(|it| it.1))
    });
    println!(
        "medians of {} rounds, {} sockets, one request under way each",
        arguments.rounds, arguments.sockets
    );
    println!("daemon, ping: {:8.0} requests/s, {:.2} us of CPU each", daemon.0, daemon.1);
    println!("axum, echo:   {:8.0} requests/s, {:.2} us of CPU each", echo.0, echo.1);
    println!("ping / echo:  {:.2} of the requests, {:.2} of the CPU", daemon.0 / echo.0, daemon.1 / echo.1);
}

/// Requests per second, and the server's CPU for each in microseconds.
fn measure(server: &Server, arguments: &Arguments) -> (f64, f64) {
    let output = Command::new(env!("CARGO_BIN_EXE_waypost"))
        .args(["bench", "--scenario", "ping", "--warmup", "1", "--json"])
        .args(["--url", &format!("ws://{}/ws", server.address)])
        .args(["--seconds", &arguments.seconds.to_string()])
        .args(["--sockets", &arguments.sockets.to_string()])
        .args(["--pid", &server.pid().to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("the load runs");
    assert!(output.status.success(), "the load failed");
    let report: Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    let figure = |name: &str| report["results"][0][name].as_f64().expect("a figure");
    (figure("per_second"), figure("server_cpu_us"))
}

/// The echo, on all cores as the daemon is, and without Nagle's delay, which the daemon has not either.
#[tokio::main]
async fn serve() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    println!("{}", listener.local_addr().expect("its address"));
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket without delay"));
    let upgrade = |upgrade: WebSocketUpgrade| async {
        upgrade.read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0).on_upgrade(answer)
    };
    let routes = Router::new().route("/ws", get(upgrade));
    axum::serve(listener, routes).await.expect("it serves until it is killed");
}

/// As much of the dialect as the load needs to begin; then one message for another.
async fn answer(mut socket: WebSocket) {
    let mut say = r#"{"type":"server_info","serverId":"echo","endpoint":"","region":null}"#.to_owned();
    loop {
        if socket.send(Message::Text(say.into())).await.is_err() {
            return;
        }
        let Some(Ok(message)) = socket.recv().await else { return };
        let Ok(heard) = serde_json::from_slice::<Value>(&message.into_data()) else { return };
        say = match heard["type"].as_str() {
            Some("ping") => json!({"type": "pong"}).to_string(),
            _ => r#"{"type":"registered","peerId":"echo","serverId":"echo","relays":[],"resumeToken":""}"#
                .to_owned(),
        };
    }
}
