//! Alice leaves a dead drop at a meeting point and goes away; Bob, who comes later, picks it up.
//!
//! ```text
//! cargo run --example dead_drop -- leave             [ws://127.0.0.1:9000/ws]
//! cargo run --example dead_drop -- pick-up           [ws://127.0.0.1:9000/ws]
//! cargo run --release --example dead_drop -- all
//! ```
//!
//! The first two talk to a daemon that runs already. `all` starts one of its own, in a temporary directory and on free
//! ports, and kills it with -9 in between: the drop outlives it. The daemon is the binary named by `WAYPOST_BIN`, or
//! the `waypost` beside this example's directory (`cargo build --release` puts it there).

#[path = "common/binary.rs"]
mod binary;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use binary::daemon_binary;
use waypost::client::{Client, Register, Rendezvous};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Two peers who want to meet derive such names from what they both know, and from the day.
const POINT: &str = "alice-and-bob-today";
const DROP: &str = "Bob, I am behind 203.0.113.7. Call me.";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = arguments.get(1).map_or("ws://127.0.0.1:9000/ws", String::as_str);
    let done = match arguments.first().map(String::as_str) {
        Some("leave") => leave(url).await,
        Some("pick-up") => pick_up(url).await,
        Some("all") => all().await,
        _ => Err("say leave, pick-up or all".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Alice: registers, leaves the drop, and goes.
async fn leave(url: &str) -> Result<()> {
    let alice = Client::connect(url).await?;
    alice.register(&Register { peer_id: "alice".into(), ..Register::default() }).await?;
    alice
        .register_rendezvous(&Rendezvous {
            peer_id: "alice".into(),
            daily_points: vec![POINT.into()],
            dead_drops: vec![(POINT.into(), DROP.into())],
            ..Rendezvous::default()
        })
        .await?;
    println!("alice left {DROP:?} at {POINT:?}; it is on the daemon's disk");
    alice.close().await;
    Ok(())
}

/// Bob: comes to the same point and finds what was left there.
async fn pick_up(url: &str) -> Result<()> {
    let bob = Client::connect(url).await?;
    let found = bob
        .register_rendezvous(&Rendezvous {
            peer_id: "bob".into(),
            daily_points: vec![POINT.into()],
            ..Rendezvous::default()
        })
        .await?;
    for note in &found.dead_drops {
        println!("bob found {:?} from {} at {:?}", note.dead_drop, note.peer_id, note.meeting_point);
    }
    bob.close().await;
    if found.dead_drops.is_empty() { Err("bob found nothing".into()) } else { Ok(()) }
}

async fn all() -> Result<()> {
    let binary = daemon_binary()?;
    let directory = tempfile::tempdir()?;
    println!("the daemon's data is in {}", directory.path().display());

    let daemon = Daemon::start(&binary, directory.path())?;
    println!("started the daemon, process {}, at {}", daemon.child.id(), daemon.url);
    leave(&daemon.url).await?;
    drop(daemon);
    println!("killed the daemon with -9");

    let daemon = Daemon::start(&binary, directory.path())?;
    println!("started it again, process {}, at {}", daemon.child.id(), daemon.url);
    pick_up(&daemon.url).await
}

/// A daemon of our own; dropping it kills it as `kill -9` does.
struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    /// Starts it on free ports and waits until it says which.
    fn start(binary: &Path, data: &Path) -> Result<Daemon> {
        let mut child = Command::new(binary)
            .args(["run", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--data-dir")
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().map(BufReader::new);
        let mut daemon = Daemon { child, url: String::new() };
        let mut lines = log.into_iter().flat_map(BufRead::lines);
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            if let Some(address) = line["fields"]["listen"].as_str() {
                daemon.url = format!("ws://{address}/ws");
                break;
            }
        }
        if daemon.url.is_empty() {
            return Err("the daemon ended before it listened".into());
        }
        // Whatever else it logs must go somewhere, or it would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
