//! Two network namespaces with a cable between them, and what goes wrong with cables. Owns making and removing them, and a
//! thread's way into one. Must not know any single story. Needs root, and `ip` of iproute2.
#![allow(dead_code, reason = "each test file uses its share")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Set where skipping a test is a failure.
const SKIP_NOTHING: &str = "WAYPOST_SKIP_NOTHING";

/// The daemon's end of the first and of the second cable, and of the bad wire; the peers have the next address.
pub const DAEMON: &str = "10.203.1.1";
const PEER: &str = "10.203.1.2";
pub const SECOND_DAEMON: &str = "10.203.2.1";
const SECOND_PEER: &str = "10.203.2.2";
pub const WIRE_DAEMON: &str = "10.203.3.1";
const WIRE_PEER: &str = "10.203.3.2";

/// Says that a test is skipped, which is a failure where nothing may be.
pub fn skip(why: &str) {
    assert!(std::env::var_os(SKIP_NOTHING).is_none(), "{why}");
    eprintln!("skipped: {why}");
}

fn try_ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

fn ip(arguments: &[&str]) {
    try_ip(arguments).unwrap_or_else(|why| panic!("{why}"));
}

/// One namespace for the daemon and one for its peers. Dropping it removes both, and the cables with them.
pub struct Network {
    pub daemon: String,
    pub peers: String,
    /// The peers' ends of the cables.
    cables: [String; 2],
}

impl Network {
    /// `None`: this is not possible here, and that was said.
    pub fn new() -> Option<Network> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        let network = Network {
            daemon: format!("waypost-d-{mark}"),
            peers: format!("waypost-p-{mark}"),
            cables: [format!("wp{mark}p"), format!("wp{mark}q")],
        };
        if let Err(why) = try_ip(&["netns", "add", &network.daemon]) {
            // There is nothing to remove.
            std::mem::forget(network);
            skip(&format!("network namespaces cannot be made, which takes root and iproute2: {why}"));
            return None;
        }
        ip(&["netns", "add", &network.peers]);
        for namespace in [&network.daemon, &network.peers] {
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        let ends = [(DAEMON, PEER), (SECOND_DAEMON, SECOND_PEER)];
        for (cable, (of_daemon, of_peer)) in network.cables.iter().zip(ends) {
            let other = format!("{cable}d");
            ip(&["-n", &network.daemon, "link", "add", &other, "type", "veth", "peer", "name", cable]);
            ip(&["-n", &network.daemon, "link", "set", cable, "netns", &network.peers]);
            for (namespace, name, address) in
                [(&network.daemon, &other, of_daemon), (&network.peers, cable, of_peer)]
            {
                ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", name]);
                ip(&["-n", namespace, "link", "set", name, "up"]);
            }
        }
        Some(network)
    }

    /// Pulls a cable: nothing that is sent over it arrives any more, and nobody is told.
    pub fn pull(&self, cable: usize) {
        ip(&["-n", &self.peers, "link", "set", &self.cables[cable], "down"]);
    }

    pub fn plug_in(&self, cable: usize) {
        ip(&["-n", &self.peers, "link", "set", &self.cables[cable], "up"]);
    }
}

/// Runs something on a thread of its own in a namespace. Sockets that it makes stay there wherever they are used.
pub async fn inside<T: Send + 'static>(namespace: &str, run: impl Future<Output = T> + Send + 'static) -> T {
    let (path, runtime) = (Path::new("/run/netns").join(namespace), Handle::current());
    let (done, waiting) = oneshot::channel();
    std::thread::spawn(move || {
        let file = File::open(path).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let _ = done.send(runtime.block_on(run));
    });
    waiting.await.expect("what runs in the namespace comes to its end")
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.daemon, &self.peers] {
            if let Err(why) = try_ip(&["netns", "del", namespace]) {
                eprintln!("{why}");
            }
        }
    }
}

/// A wire between both namespaces that loses and delays packets.
pub struct Wire(Child);

impl Wire {
    /// `None`: there is no Python or no TUN device, and that was said.
    pub fn new(network: &Network, loss_percent: u32, delay_ms: u32) -> Option<Wire> {
        let python = std::env::var("WAYPOST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/network/wire.py");
        let mut command = Command::new(&python);
        command.arg(script);
        command.args([&network.daemon, WIRE_DAEMON, WIRE_PEER, &network.peers, WIRE_PEER, WIRE_DAEMON]);
        command.args([loss_percent.to_string(), delay_ms.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                skip(&format!("{python}: {error}"));
                return None;
            }
        };
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let output = child.wait_with_output().unwrap();
            let why = String::from_utf8_lossy(&output.stderr);
            skip(&format!("no wire of TUN devices: {}", why.lines().last().unwrap_or_default()));
            return None;
        }
        Some(Wire(child))
    }

    /// How many packets it has lost, and how many it has let through.
    pub fn counts(mut self) -> (usize, usize) {
        drop(self.0.stdin.take());
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let (lost, passed) = line.trim().split_once(' ').unwrap();
        (lost.parse().unwrap(), passed.parse().unwrap())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // It has ended already, mostly.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
