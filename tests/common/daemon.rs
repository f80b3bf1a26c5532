//! The daemon as tests meet it: in the test's own process with a clock that stands still until it is moved, or as the
//! real binary. Ports are 0, data directories are temporary, waiting is bounded.
//!
//! Owns starting, stopping and the first words on a socket. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

#[path = "dialect.rs"]
pub mod dialect;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypost::client::{AdminClient, RawSocket};
use waypost::clock::{Clock, Millis};
use waypost::config::{Changes, Settings};
use waypost::daemon::{ADMIN_TOKEN, Daemon, Surroundings};
use waypost::engine::Engine;
use waypost::server::listen::Address;
use waypost::server::tls::TlsError;
use waypost::store::Faults;
use waypost::wire::admin::Status;

/// Longer than anything here takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);
/// What the manual clock shows at first.
pub const BEGINNING: Millis = 1_800_000_000_000;

/// Where a daemon listens.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub public: SocketAddr,
    pub admin: SocketAddr,
}

/// A daemon in this process.
pub struct TestDaemon {
    pub clock: Clock,
    pub faults: Faults,
    settings: Settings,
    running: Option<Daemon>,
    _directory: TempDir,
}

impl TestDaemon {
    /// With the default settings, but without a limit on messages and upgrades: a bucket fills with time, and time stands
    /// still.
    pub async fn start() -> TestDaemon {
        TestDaemon::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut Settings)) -> TestDaemon {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.server.listen = ([127, 0, 0, 1], 0).into();
        settings.server.admin_listen = ([127, 0, 0, 1], 0).into();
        settings.server.data_dir = directory.path().join("data");
        settings.connections.messages_per_minute = 0;
        settings.connections.upgrades_per_minute = 0;
        adjust(&mut settings);
        let (clock, faults) = (Clock::manual(BEGINNING), Faults::default());
        let mut daemon = TestDaemon { clock, faults, settings, running: None, _directory: directory };
        daemon.bind().await;
        daemon
    }

    async fn bind(&mut self) {
        let surroundings = Surroundings {
            clock: self.clock.clone(),
            rng: StdRng::seed_from_u64(7),
            faults: self.faults.clone(),
            ..Surroundings::default()
        };
        self.running = Some(Daemon::bind_in(self.settings.clone(), surroundings).await.unwrap());
    }

    /// An orderly stop. Sockets that are to see it are handed in, and have seen it afterwards.
    pub async fn stop(&mut self, sockets: impl IntoIterator<Item = RawSocket>) {
        let stopping = self.running.take().unwrap().shutdown();
        let told = sockets.into_iter().map(async |mut socket| {
            assert_eq!(socket.closed(SOON).await.unwrap(), (1001, "Server shutting down".to_owned()));
        });
        tokio::join!(stopping, futures_util::future::join_all(told));
    }

    /// [`TestDaemon::stop`], and a new start on the same data.
    pub async fn restart(&mut self, sockets: impl IntoIterator<Item = RawSocket>) {
        self.stop(sockets).await;
        self.start_again().await;
    }

    /// On the same data, after [`TestDaemon::stop`].
    pub async fn start_again(&mut self) {
        self.bind().await;
    }

    /// As [`TestDaemon::stop`]; the next start is at the addresses of before, for who comes back to them.
    pub async fn stop_in_place(&mut self) {
        let Addresses { public, admin } = self.addresses();
        self.settings.server.listen = (public.ip(), public.port()).into();
        self.settings.server.admin_listen = (admin.ip(), admin.port()).into();
        self.stop([]).await;
    }

    /// Moves time. Who has not been heard for long enough then is taken for dead.
    pub fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Moves time in small steps, in each of which these sockets are heard.
    pub async fn advance_with(&self, time: Duration, sockets: &mut [&mut RawSocket]) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(20 * SECOND);
            self.advance(step);
            left -= step;
            for socket in &mut *sockets {
                assert_eq!(ask(socket, json!({"type": "ping"})).await, json!({"type": "pong"}));
            }
        }
    }

    pub fn engine(&self) -> &Engine {
        self.running().engine()
    }

    /// Where it listens, as long as that is TCP.
    pub fn addresses(&self) -> Addresses {
        let addresses = self.running().addresses();
        Addresses { public: addresses.public.tcp().unwrap(), admin: addresses.admin.tcp().unwrap() }
    }

    pub fn running(&self) -> &Daemon {
        self.running.as_ref().unwrap()
    }

    /// Takes over changed settings, as at a SIGHUP.
    pub fn reload(&mut self, change: impl FnOnce(&mut Settings)) -> Result<Changes, TlsError> {
        let running = self.running.as_mut().unwrap();
        let mut read = running.settings().clone();
        change(&mut read);
        running.reload(read)
    }

    pub fn data_dir(&self) -> &Path {
        &self.settings.server.data_dir
    }

    /// A socket that has read its `server_info`.
    pub async fn raw(&self) -> RawSocket {
        connect(self.addresses().public).await
    }

    /// As many sockets as wanted.
    pub async fn raws<const N: usize>(&self) -> [RawSocket; N] {
        let mut sockets = Vec::new();
        for _ in 0..N {
            sockets.push(self.raw().await);
        }
        sockets.try_into().unwrap()
    }

    /// A socket that has registered `id`, and its resume token.
    pub async fn registered(&self, id: &str) -> (RawSocket, String) {
        let mut socket = self.raw().await;
        let answer = ask(&mut socket, json!({"type": "register", "peerId": id})).await;
        assert_eq!(answer["type"], "registered", "{answer}");
        (socket, answer["resumeToken"].as_str().unwrap().to_owned())
    }

    /// The ids of all relays that a stranger is offered.
    pub async fn offered(&self) -> Vec<String> {
        let mut socket = self.raw().await;
        offered(&mut socket).await
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.data_dir().join(ADMIN_TOKEN)).unwrap().trim().to_owned()
    }

    pub fn admin(&self) -> AdminClient {
        AdminClient::new(self.running().addresses().admin.admin_url(), self.token()).unwrap()
    }

    pub async fn status(&self) -> Status {
        self.admin().status().await.unwrap()
    }

    /// Waits until the status is as wanted.
    pub async fn until(&self, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let admin = self.admin();
        let last = std::sync::Mutex::new(None);
        let looking = async {
            loop {
                let status = admin.status().await.unwrap();
                if is(&status) {
                    return status;
                }
                *last.lock().unwrap() = Some(status);
            }
        };
        let found = tokio::time::timeout(SOON, looking).await;
        found.unwrap_or_else(|_| panic!("not so in time: {what}; last seen: {:?}", last.lock().unwrap()))
    }

    /// Waits until a metric, written with its labels, has at least this value.
    pub async fn until_metric(&self, name: &str, least: f64) {
        let admin = self.admin();
        let looking = async { while metric(&admin.metrics().await.unwrap(), name) < least {} };
        tokio::time::timeout(SOON, looking)
            .await
            .unwrap_or_else(|_| panic!("{name} does not come to {least}"));
    }
}

/// One value of an OpenMetrics text; 0 where it is not there.
pub fn metric(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// A socket that has read its `server_info`.
pub async fn connect(address: SocketAddr) -> RawSocket {
    let mut socket = RawSocket::connect(&format!("ws://{address}/ws")).await.unwrap();
    assert_eq!(hear(&mut socket).await["type"], "server_info");
    socket
}

/// The next message, which stands in the daemon's own document.
pub async fn hear(socket: &mut RawSocket) -> Value {
    let heard = socket.next_message(SOON).await.unwrap();
    dialect::is_documented(&heard);
    heard
}

pub async fn say(socket: &mut RawSocket, message: Value) {
    socket.send_json(&message).await.unwrap();
}

/// Sends a message and hears the next one that comes. What the document does not have is refused.
pub async fn ask(socket: &mut RawSocket, message: Value) -> Value {
    socket.send_json(&message).await.unwrap();
    let heard = hear(socket).await;
    let refused = heard["type"] == "error";
    assert!(refused || dialect::may_be_said(&message), "taken, but not documented: {message}");
    heard
}

/// Everything that was sent to the socket before now has been heard: nothing but the pong is to come.
pub async fn hears_nothing(socket: &mut RawSocket) {
    assert_eq!(ask(socket, json!({"type": "ping"})).await, json!({"type": "pong"}));
}

pub async fn offered(socket: &mut RawSocket) -> Vec<String> {
    let answer = ask(socket, json!({"type": "get_relays", "count": 100})).await;
    let relays = answer["relays"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let mut ids: Vec<_> = relays.iter().map(|relay| relay["peerId"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// An error message, to the letter.
pub fn error(code: &str, message: &str) -> Value {
    json!({"type": "error", "message": message, "code": code})
}

/// A WebSocket made by hand: it answers nothing by itself, and sends frames that no library would.
pub struct RawTcp {
    pub stream: TcpStream,
    /// The head of the answer to the handshake.
    pub head: String,
}

impl RawTcp {
    /// The handshake on any path, with further header lines.
    pub async fn open(address: SocketAddr, path: &str, headers: &str) -> RawTcp {
        RawTcp::on(TcpStream::connect(address).await.unwrap(), address, path, headers).await
    }

    /// The same on a connection that is there.
    pub async fn on(mut stream: TcpStream, address: SocketAddr, path: &str, headers: &str) -> RawTcp {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(stream.read_u8()).await.unwrap());
        }
        RawTcp { stream, head: String::from_utf8(head).unwrap() }
    }

    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// One whole frame, masked with zeros.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = payload.len() as u16;
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            _ => frame.extend([&[0xfe][..], &length.to_be_bytes()].concat()),
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The head of a frame with this first byte, masked with zeros, whose payload is to be written.
    pub async fn begin(&mut self, first: u8, length: usize) {
        let head = [&[first, 0xff][..], &(length as u64).to_be_bytes(), &[0; 4]].concat();
        self.stream.write_all(&head).await.unwrap();
    }

    pub async fn send_json(&mut self, message: Value) {
        self.send(1, message.to_string().as_bytes()).await;
    }

    /// The opcode and payload of the next frame; `None` at the end of the stream.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let opcode = soon(self.stream.read_u8()).await.ok()? & 0x0f;
        let length = match self.stream.read_u8().await.ok()? {
            126 => self.stream.read_u16().await.ok()?.into(),
            127 => self.stream.read_u64().await.ok()?,
            short => short.into(),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((opcode, payload))
    }

    /// The next text message, past whatever pings come.
    pub async fn hear(&mut self) -> Value {
        loop {
            match self.frame().await {
                Some((1, payload)) => return serde_json::from_slice(&payload).unwrap(),
                Some((9, _)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code and reason of the close frame, past whatever comes before it.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.frame().await {
                Some((8, payload)) => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
                }
                Some(_) => {}
                None => panic!("the stream ended without a close frame"),
            }
        }
    }
}

pub async fn soon<T>(waited_for: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, waited_for).await.expect("it does not come")
}

/// The real binary on a data directory.
pub struct Process {
    /// Where it listens; 0.0.0.0:0 in place of a Unix socket.
    pub public: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
}

impl Process {
    pub fn command(data: &Path, arguments: &[&str]) -> Command {
        Process::command_on("127.0.0.1:0", data, arguments)
    }

    fn command_on(listen: &str, data: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["--listen", listen, "--admin-listen", "127.0.0.1:0", "--log-format", "json"]);
        command.arg("--data-dir").arg(data).args(arguments).env_clear();
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts it and reads from its log where it listens.
    pub fn start(data: &Path, arguments: &[&str]) -> Process {
        Process::listening(Process::command(data, arguments))
    }

    /// The same on every address of the machine, or of its namespace.
    pub fn start_on_all(data: &Path, arguments: &[&str]) -> Process {
        Process::listening(Process::command_on("0.0.0.0:0", data, arguments))
    }

    fn listening(mut command: Command) -> Process {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        let fields = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it listened: {told}");
            told.push_str(&line);
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["fields"]["message"] == "listening" {
                break line["fields"].clone();
            }
        };
        // Goes on reading, so that the daemon never waits for its log to be read.
        std::thread::spawn(move || log.lines().for_each(drop));
        let address = |name: &str| {
            let address: Address = fields[name].as_str().unwrap().parse().unwrap();
            address.tcp().unwrap_or(([0, 0, 0, 0], 0).into())
        };
        Process { public: address("listen"), admin: address("admin_listen"), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `TERM`, say.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ends by itself.
    pub async fn ended(mut self) -> ExitStatus {
        let clock = Clock::system();
        let waiting = async {
            loop {
                match self.child.try_wait().unwrap() {
                    Some(status) => return status,
                    None => clock.sleep(Duration::from_millis(5)).await,
                }
            }
        };
        soon(waiting).await
    }

    pub fn store(data: &Path) -> PathBuf {
        data.join(waypost::daemon::STORE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
