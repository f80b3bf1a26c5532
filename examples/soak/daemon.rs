//! The daemon of a soak. Owns its settings, its start and its ends, and what it takes of the machine. Must not know what is
//! asked of it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use waypost::client::AdminClient;
use waypost::clock::Clock;
use waypost::daemon::ADMIN_TOKEN;

use super::Result;
use super::binary::daemon_binary;

/// Longer than an orderly end takes on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// One address does what is meant for many.
const UNLIMITED: [&str; 9] = [
    "limits.messages_per_minute=0",
    "limits.upgrades_per_minute=0",
    "limits.pair_requests_per_minute=0",
    "limits.http_requests_per_minute=0",
    "limits.link_upgrades_per_minute=0",
    "limits.max_connections_per_address=10000",
    "rendezvous.max_points_per_peer=1000000",
    "relays.restart_grace=5s",
    "link.grace=5s",
];

/// Errors that any daemon of this soak has logged.
static LOGGED_ERRORS: AtomicUsize = AtomicUsize::new(0);

pub fn logged_errors() -> usize {
    LOGGED_ERRORS.load(Ordering::Relaxed)
}

/// Where it listens: at first whichever ports are free, then the same again.
#[derive(Clone)]
pub struct Ports {
    pub public: String,
    pub admin: String,
}

/// A daemon of our own; dropping it kills it.
pub struct Daemon {
    child: Child,
    pub ports: Ports,
    admin: AdminClient,
}

/// What it takes at one moment of the soak, and what it has then.
pub struct Sample {
    pub at: Duration,
    pub resident: u64,
    pub descriptors: usize,
    pub disk: u64,
    pub registrations: usize,
    pub swept: u64,
}

impl Daemon {
    /// Starts it and waits until it says where it listens. All that is stored ends after `ttl`.
    pub fn start(data: &Path, ports: Option<&Ports>, ttl: Duration) -> Result<Daemon> {
        let free = Ports { public: "127.0.0.1:0".into(), admin: "127.0.0.1:0".into() };
        let ports = ports.unwrap_or(&free);
        let mut command = Command::new(daemon_binary()?);
        command.args(["--listen", &ports.public, "--admin-listen", &ports.admin, "--log-format", "json"]);
        command.arg("--data-dir").arg(data).stderr(Stdio::piped());
        for setting in UNLIMITED {
            command.args(["--set", setting]);
        }
        let (whole, half) = (ttl.as_millis(), ttl.as_millis() / 2);
        for (key, millis) in [
            ("rendezvous.daily_ttl", whole),
            ("rendezvous.hourly_ttl", half),
            ("chunks.ttl", whole),
            ("turn.session_ttl", whole),
            ("peers.ttl", whole),
            ("peers.backup_sweep", half),
            ("directory.ttl", whole),
        ] {
            command.args(["--set", &format!("{key}={millis}ms")]);
        }
        let mut child = command.spawn()?;
        let mut lines = child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            let field = |name: &str| line["fields"][name].as_str().map(str::to_owned);
            if let (Some(public), Some(admin)) = (field("listen"), field("admin_listen")) {
                std::thread::spawn(move || lines.map_while(|line| line.ok()).for_each(|line| told(&line)));
                let token = std::fs::read_to_string(data.join(ADMIN_TOKEN))?;
                let client = AdminClient::new(format!("http://{admin}"), token)?;
                return Ok(Daemon { child, ports: Ports { public, admin }, admin: client });
            }
        }
        Err("the daemon ended before it listened".into())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by SIGTERM, which must be in good order, or else by kill -9.
    pub async fn stop(&mut self, orderly: bool) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("the daemon has ended by itself: {status}").into());
        }
        if !orderly {
            self.child.kill()?;
            self.child.wait()?;
            return Ok(());
        }
        Command::new("kill").args(["-s", "TERM", &self.pid().to_string()]).status()?;
        let clock = Clock::system();
        while clock.running() < SOON {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the daemon ended with {status}").into()),
                None => clock.sleep(LOOK).await,
            }
        }
        Err("the daemon does not end".into())
    }

    pub async fn sample(&mut self, data: &Path, at: Duration) -> Result<Sample> {
        let status = match self.admin.status().await {
            Ok(status) => status,
            Err(error) => {
                Clock::system().sleep(Duration::from_secs(1)).await;
                let ended = self.child.try_wait()?.map(|status| status.to_string());
                return Err(format!("no sample: {error}; ended: {}", ended.unwrap_or("no".into())).into());
            }
        };
        Ok(Sample {
            at,
            resident: waypost::cli::bench::process::resident_bytes(self.pid())?,
            descriptors: std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count(),
            disk: size(data)?,
            registrations: status.leases.registration,
            swept: status.engine.swept,
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of the log, which must be read by somebody: else the daemon would wait for a reader. A panic is no JSON.
fn told(line: &str) {
    let is_harmless = |line: serde_json::Value| ["INFO", "WARN"].iter().any(|level| line["level"] == *level);
    if !serde_json::from_str(line).is_ok_and(is_harmless) {
        LOGGED_ERRORS.fetch_add(1, Ordering::Relaxed);
        println!("the daemon logs: {line}");
    }
}

/// Bytes of all files under a folder; those that go meanwhile take none.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)?.flatten() {
        match entry.metadata() {
            Ok(it) if it.is_dir() => bytes += size(&entry.path())?,
            Ok(it) => bytes += it.len(),
            Err(_) => {}
        }
    }
    Ok(bytes)
}
