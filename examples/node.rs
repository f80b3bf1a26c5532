//! A node registers and keeps itself alive; its daemon is killed with -9 and started again, and still knows it.
//!
//! ```text
//! cargo build --release && cargo run --release --example node
//! ```
//!
//! The daemon runs in a temporary directory and on free ports, which are the same before and after. It is the binary
//! named by `WAYPOST_BIN`, or the `waypost` beside this example's directory. Each step is printed; the first that is not
//! as it should be ends the example with a failure.

#[path = "common/binary.rs"]
mod binary;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use binary::daemon_binary;
use waypost::client::{BootstrapClient, Node, NodeState, PeerRegistration, PeersQuery};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PEER: &str = "12D3KooWExampleNode";
const ADDRESS: &str = "/ip4/203.0.113.7/tcp/4001";
/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    match story().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn story() -> Result<()> {
    let binary = daemon_binary()?;
    let directory = tempfile::tempdir()?;
    let daemon = Daemon::start(&binary, directory.path(), &Ports::free())?;
    let ports = daemon.ports.clone();
    println!("started the daemon, process {}, at {}", daemon.child.id(), ports.public);

    let client = BootstrapClient::new(format!("http://{}", ports.public))?;
    let peer = PeerRegistration {
        peer_id: PEER.into(),
        addresses: vec![ADDRESS.into()],
        stores: vec!["example-store".into()],
        ..PeerRegistration::default()
    };
    // The node's own task: it registers now, and its first heartbeat is due in two minutes.
    let node = Node::start(client.clone(), peer);
    let mut state = node.state();
    let settled = state.wait_for(|state| *state != NodeState::Starting);
    let settled = tokio::time::timeout(SOON, settled).await??.clone();
    expect(settled == NodeState::Registered { heartbeats: 0 }, || format!("not registered: {settled:?}"))?;
    expect(node.registration_token().is_some(), || "there is no registrationToken".into())?;
    println!("{PEER} is registered and holds a registrationToken");
    listed(&client).await?;
    beat(&client).await?;
    listed(&client).await?;

    drop(daemon);
    println!("killed the daemon with -9");
    let lost = client.heartbeat(PEER).await;
    expect(lost.is_err(), || format!("a dead daemon answers: {lost:?}"))?;

    let daemon = Daemon::start(&binary, directory.path(), &ports)?;
    expect(daemon.ports == ports, || format!("{:?} in place of {ports:?}", daemon.ports))?;
    println!("started it again, process {}, at {}", daemon.child.id(), daemon.ports.public);
    listed(&client).await?;
    beat(&client).await?;
    listed(&client).await?;

    expect(node.stop().await?, || "the node could not leave".into())?;
    let peers = client.peers(&PeersQuery::default()).await?;
    expect(peers.total == 0, || format!("it has left and is listed: {peers:?}"))?;
    println!("{PEER} left by the token it got before the crash, and GET /peers lists nobody");
    Ok(())
}

/// A heartbeat that has to be answered with 200.
async fn beat(client: &BootstrapClient) -> Result<()> {
    let heard =
        client.heartbeat(PEER).await.map_err(|error| format!("the heartbeat was refused: {error}"))?;
    println!("the heartbeat is answered with 200: heard at {}", heard.timestamp);
    Ok(())
}

/// The node has to be listed, alone and as it described itself.
async fn listed(client: &BootstrapClient) -> Result<()> {
    let query = PeersQuery { include_stores: true, limit: Some(100), ..PeersQuery::default() };
    let peers = client.all_peers(&query).await?;
    let [peer] = &peers[..] else { return Err(format!("not one peer is listed: {peers:?}").into()) };
    let described = peer.peer_id == PEER
        && *peer.addresses == [ADDRESS.to_owned()]
        && peer.stores.as_deref() == Some(&["example-store".to_owned()]);
    expect(described, || format!("it is listed as another: {peer:?}"))?;
    println!("GET /peers lists it at {ADDRESS}");
    Ok(())
}

fn expect(so: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if so { Ok(()) } else { Err(otherwise().into()) }
}

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports {
    public: String,
    admin: String,
}

impl Ports {
    /// Whichever the system gives.
    fn free() -> Ports {
        Ports { public: "127.0.0.1:0".into(), admin: "127.0.0.1:0".into() }
    }
}

/// A daemon of our own; dropping it kills it as `kill -9` does.
struct Daemon {
    child: Child,
    ports: Ports,
}

impl Daemon {
    /// Starts it and waits until it says where it listens.
    fn start(binary: &Path, data: &Path, ports: &Ports) -> Result<Daemon> {
        let mut child = Command::new(binary)
            .args(["run", "--listen", &ports.public, "--admin-listen", &ports.admin, "--log-format", "json"])
            .arg("--data-dir")
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().map(BufReader::new);
        let mut daemon = Daemon { child, ports: ports.clone() };
        let mut lines = log.into_iter().flat_map(BufRead::lines);
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            let field = |name: &str| line["fields"][name].as_str().map(str::to_owned);
            if let (Some(public), Some(admin)) = (field("listen"), field("admin_listen")) {
                daemon.ports = Ports { public, admin };
                // Whatever else it logs must go somewhere, or it would wait for a reader.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(daemon);
            }
        }
        Err("the daemon ended before it listened".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
