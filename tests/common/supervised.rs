//! The real binary as a service manager runs it. Owns its end, its log and what it tells the service manager. Must not know
//! any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};

use serde_json::Value;

use crate::daemon::SOON;

pub struct Supervised {
    child: Child,
    log: Receiver<Value>,
}

impl Supervised {
    /// `command` logs JSON.
    pub fn start(mut command: Command) -> Supervised {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (line, log) = mpsc::channel();
        std::thread::spawn(move || {
            for text in lines.map_while(Result::ok) {
                let fields = serde_json::from_str::<Value>(&text).map(|line| line["fields"].clone());
                // Nobody has to listen.
                let _ = line.send(fields.unwrap_or(Value::from(text)));
            }
        });
        Supervised { child, log }
    }

    /// The fields of the next line with this message; those before it are gone then.
    pub fn logs(&self, message: &str) -> Value {
        let mut others = Vec::new();
        loop {
            match self.log.recv_timeout(SOON) {
                Ok(line) if line["message"].as_str().is_some_and(|said| said.starts_with(message)) => {
                    return line;
                }
                Ok(line) => others.push(line),
                Err(_) => panic!("it does not log {message}, but: {others:?}"),
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// SIGTERM, and how it ends.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Gone already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hears what a daemon tells its service manager.
pub struct Manager {
    socket: UnixDatagram,
    pub path: PathBuf,
}

impl Manager {
    pub fn new(folder: &Path) -> Manager {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Manager { socket, path }
    }

    /// The lines of the next message.
    pub fn hears(&self) -> Vec<String> {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned).collect()
    }
}
