//! The real binary with its log in a file, in either format. Owns its start, its end, and waiting for what it logs. Must not
//! know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use waypost::client::AdminClient;
use waypost::clock::Clock;
use waypost::daemon::ADMIN_TOKEN;

use crate::daemon::SOON;

pub struct Logged {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    place: Option<TempDir>,
    child: Child,
}

impl Logged {
    /// With further arguments; `format` is text or json.
    pub async fn start(format: &str, arguments: &[&str]) -> Logged {
        Logged::start_in(tempfile::tempdir().unwrap(), format, arguments).await
    }

    /// The same where one has been before.
    pub async fn start_in(place: TempDir, format: &str, arguments: &[&str]) -> Logged {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", format]);
        command.arg("--data-dir").arg(place.path().join("data")).args(arguments).env_clear();
        let log = fs::File::create(place.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut logged = Logged { public: unknown, admin: unknown, place: Some(place), child };
        let line = logged.until("admin_listen").await;
        let address = |name: &str| {
            let starts = [format!("{name}="), format!("{name}\":\"")];
            let rest = starts.iter().find_map(|start| line.split_once(start)).unwrap().1;
            let end = rest.find(|char: char| char != ':' && char != '.' && !char.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().unwrap()
        };
        (logged.public, logged.admin) = (address("listen"), address("admin_listen"));
        logged
    }

    pub fn place(&self) -> &Path {
        self.place.as_ref().unwrap().path()
    }

    pub fn data(&self) -> PathBuf {
        self.place().join("data")
    }

    pub fn log_file(&self) -> PathBuf {
        self.place().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// The first line that has this, once it is there.
    pub async fn until(&self, text: &str) -> String {
        self.until_lines(text, 1).await
    }

    /// The last of so many lines that have this, once they are there.
    pub async fn until_lines(&self, text: &str, count: usize) -> String {
        let clock = Clock::system();
        let looking = async {
            loop {
                let log = self.log();
                // Only lines that are whole.
                let whole = log.rfind('\n').map_or("", |end| &log[..end]);
                if let Some(line) = whole.lines().filter(|line| line.contains(text)).nth(count - 1) {
                    return line.to_owned();
                }
                clock.sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(SOON, looking).await;
        found.unwrap_or_else(|_| panic!("not logged: {text}; but: {}", self.log()))
    }

    pub fn token(&self) -> String {
        fs::read_to_string(self.data().join(ADMIN_TOKEN)).unwrap().trim().to_owned()
    }

    pub fn client(&self) -> AdminClient {
        AdminClient::new(format!("http://{}", self.admin), self.token()).unwrap()
    }

    /// SIGTERM, and the whole log once it has ended.
    pub fn stop(self) -> String {
        self.stop_and_keep().0
    }

    /// The same, and what is left.
    pub fn stop_and_keep(mut self) -> (String, TempDir) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        (self.log(), self.place.take().unwrap())
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // Gone already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
