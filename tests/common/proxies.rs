//! A proxy with TLS in front of the daemon, by its shipped configuration, and clients that reach it from addresses of their
//! own. Owns ports, certificates and processes. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use waypost::clock::Clock;

use crate::daemon::soon;
use crate::tools::succeeds;

pub const NAME: &str = "registry.example";

pub struct Proxy {
    pub address: SocketAddr,
    pub place: TempDir,
    child: Child,
}

/// What a proxy is configured by in a test: an address that nobody has, and a certificate.
pub struct Plan {
    pub address: SocketAddr,
    pub place: TempDir,
}

impl Plan {
    pub fn new() -> Plan {
        let place = tempfile::tempdir().unwrap();
        let (key, certificate) = (place.path().join("key.pem"), place.path().join("certificate.pem"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "2", "-subj", &format!("/CN={NAME}"), "-addext"]);
        command
            .arg(format!("subjectAltName=DNS:{NAME}"))
            .arg("-keyout")
            .arg(key)
            .arg("-out")
            .arg(certificate);
        succeeds(&mut command);
        // Free a moment ago: neither proxy tells which port it was given.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Plan { address, place }
    }

    pub fn path(&self, name: &str) -> String {
        self.place.path().join(name).display().to_string()
    }

    /// A shipped file in which each of these stands, with something else in its place.
    pub fn adapt(&self, shipped: &str, changes: &[(&str, String)]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(shipped);
        let text = fs::read_to_string(path).unwrap();
        changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{shipped} has no {from}");
            text.replace(from, to)
        })
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.place.path().join(name), text).unwrap();
    }

    /// Until it accepts.
    pub async fn start(self, mut command: Command) -> Proxy {
        let log = fs::File::create(self.place.path().join("log")).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let Plan { address, place } = self;
        let mut proxy = Proxy { address, place, child };
        let clock = Clock::system();
        soon(async {
            while TcpStream::connect(address).is_err() {
                let ended = proxy.child.try_wait().unwrap();
                assert!(ended.is_none(), "{}", fs::read_to_string(proxy.place.path().join("log")).unwrap());
                clock.sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        proxy
    }
}

impl Proxy {
    /// An address on which whatever is sent goes on to the proxy by TLS, from another address of the loopback.
    pub fn tunnel_from(&self, from: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tunnel = listener.local_addr().unwrap();
        let (proxy, from) = (self.address.to_string(), format!("{from}:0"));
        let certificate = self.place.path().join("certificate.pem");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut command = Command::new("openssl");
                command.args([
                    "s_client",
                    "-quiet",
                    "-verify_return_error",
                    "-connect",
                    &proxy,
                    "-bind",
                    &from,
                ]);
                command.args(["-servername", NAME, "-verify_hostname", NAME, "-CAfile"]).arg(&certificate);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
                pass(stream.unwrap(), command.spawn().unwrap());
            }
        });
        tunnel
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Gone already, at worst.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies both ways, each in a thread of its own, until either side ends.
fn pass(stream: TcpStream, mut child: Child) {
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut reads, mut writes) = (stream.try_clone().unwrap(), stream);
    std::thread::spawn(move || {
        copy(&mut from, &mut writes);
        let _ = writes.shutdown(std::net::Shutdown::Both);
    });
    std::thread::spawn(move || {
        copy(&mut reads, &mut to);
        let _ = child.kill();
        let _ = child.wait();
    });
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
