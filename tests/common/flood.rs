//! Attackers on the real binary: many connections from many loopback addresses, and what the daemon takes of the machine
//! meanwhile. Owns where connections come from and how much memory was the most. Must not know any single attack.
#![allow(dead_code, reason = "each test file uses its share")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};
use waypost::cli::bench::process::resident_bytes;

pub const MIB: u64 = 1 << 20;
/// Descriptors of the test beside its connections.
const OTHERS: u64 = 200;
/// Descriptors of the daemon beside its connections.
const OF_DAEMON: u64 = 200;

/// As many connections as wanted, or as many as this process and the daemon may have open: fewer are a failure where nothing
/// may be skipped.
pub fn possible(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let needed = wanted as u64 + OTHERS;
    if limit.current.is_some_and(|current| current < needed.min(most)) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed.min(most)), maximum: limit.maximum })
            .unwrap();
    }
    let possible = most.saturating_sub(OTHERS.max(OF_DAEMON)) as usize;
    if possible < wanted {
        assert!(std::env::var_os("WAYPOST_SKIP_NOTHING").is_none(), "only {most} open files are allowed");
        eprintln!("with {possible} connections only: {most} open files are allowed");
    }
    possible.min(wanted)
}

/// An attacker's address; each number is another one. Honest peers have 127.0.0.1.
pub fn address(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 9, 0, 1)) + number as u32))
}

/// A connection from an address, which may keep little that it does not read.
pub async fn connect_from(local: IpAddr, to: SocketAddr, receive_buffer: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind((local, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// So many of something, each made with its number, 64 at a time.
pub async fn many<T, F: Future<Output = T>>(count: usize, make: impl FnMut(usize) -> F) -> Vec<T> {
    stream::iter(0..count).map(make).buffered(64).collect().await
}

/// Watches how much memory a process has resident.
pub struct Watch {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    watching: Option<JoinHandle<()>>,
    before: u64,
    what: &'static str,
}

impl Watch {
    pub fn start(what: &'static str, pid: u32) -> Watch {
        let before = resident_bytes(pid).unwrap();
        let (most, stop) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let watching = std::thread::spawn({
            let (most, stop) = (most.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(resident) = resident_bytes(pid) {
                        most.fetch_max(resident, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Watch { most, stop, watching: Some(watching), before, what }
    }

    /// It never had more than so many MiB.
    pub fn never_above(mut self, ceiling: u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.take().unwrap().join().unwrap();
        let (before, most) = (self.before / MIB, self.most.load(Ordering::Relaxed) / MIB);
        tell(&format!(
            "{}: {before} MiB before, {most} MiB at most, the ceiling is {ceiling} MiB",
            self.what
        ));
        assert!(most <= ceiling, "{}: {most} MiB are resident, not {ceiling}", self.what);
    }
}

/// Prints a figure, where figures are asked for.
pub fn tell(figure: &str) {
    if std::env::var_os("ABUSE_FIGURES").is_some() {
        println!("{figure}");
    }
}
