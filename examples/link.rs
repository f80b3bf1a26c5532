//! A home machine's binary and two phones; the binary drops and returns after 2 s, and the phones never notice. Then it
//! comes back 1000 times at once, and always gets its server-id.
//!
//! ```text
//! cargo build --release && cargo run --release --example link
//! ```
//!
//! The daemon runs in a temporary directory and on free ports. It is the binary named by `WAYPOST_BIN`, or the `waypost`
//! beside this example's directory. Each step is printed; the first that is not as it should be ends the example with a
//! failure.

#[path = "common/binary.rs"]
mod binary;

use std::error::Error;
use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use binary::daemon_binary;
use waypost::client::{BinaryLink, FromPhone, PhoneLink};
use waypost::clock::Clock;
use waypost::wire::link::Healthz;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SERVER_ID: &str = "example-home-machine";
const AWAY: Duration = Duration::from_secs(2);
const RECONNECTS: usize = 1000;
/// How often the daemon is asked whether it has noticed.
const LOOK: Duration = Duration::from_millis(20);
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
    let directory = tempfile::tempdir()?;
    let daemon = Daemon::start(&daemon_binary()?, directory.path())?;
    println!("started the daemon, process {}, at {}", daemon.child.id(), daemon.address);

    let mut binary = daemon.binary().await?;
    // Connecting says nothing yet: the claim counts once it is on the disk.
    daemon.connected(1, 0).await?;
    println!("the binary holds {SERVER_ID:?}");
    let (mut anna, anna_id) = daemon.phone("anna", &mut binary).await?;
    let (mut ben, ben_id) = daemon.phone("ben", &mut binary).await?;
    expect(anna_id != ben_id, || format!("both phones are {anna_id}"))?;
    daemon.connected(1, 2).await?;

    drop(binary);
    println!("the binary's connection broke off, without a close frame");
    daemon.connected(0, 2).await?;
    let meanwhile = r#"{"from":"anna","say":"are you there?"}"#;
    anna.send(meanwhile).await?;
    println!("anna sent a frame meanwhile");
    Clock::system().sleep(AWAY).await;

    let mut binary = daemon.binary().await?;
    heard(&mut binary, &anna_id, meanwhile).await?;
    println!("{} s later the binary is back and has heard it, from the same conn_id", AWAY.as_secs());
    daemon.connected(1, 2).await?;
    answer(&mut binary, &anna_id, &mut anna, r#"{"to":"anna","say":"I am back"}"#).await?;
    answer(&mut binary, &ben_id, &mut ben, r#"{"to":"ben","say":"what did I miss?"}"#).await?;
    ben.send(r#"{"from":"ben","say":"nothing"}"#).await?;
    heard(&mut binary, &ben_id, r#"{"from":"ben","say":"nothing"}"#).await?;
    println!("both phones talk to it on the connections that they had: they never noticed");

    let _binary = reconnect(&daemon, binary, &anna_id, &mut anna).await?;
    daemon.connected(1, 2).await
}

/// The binary comes back at once, after an orderly close and after a break in turn. A refusal would arrive as a close, so
/// each connection has to prove that it holds the server-id: a frame of the phone arrives on it, and its answer there.
async fn reconnect(
    daemon: &Daemon,
    mut binary: BinaryLink,
    phone_id: &str,
    phone: &mut PhoneLink,
) -> Result<BinaryLink> {
    let clock = Clock::system();
    let began = clock.running();
    for number in 1..=RECONNECTS {
        if number % 2 == 0 {
            binary.close(1000).await?;
        } else {
            drop(binary);
        }
        binary = daemon.binary().await?;
        let frame = number.to_string();
        let proven = async {
            answer(&mut binary, phone_id, phone, &frame).await?;
            phone.send(&frame).await?;
            heard(&mut binary, phone_id, &frame).await
        };
        proven.await.map_err(|error| format!("reconnect {number}: {error}"))?;
    }
    let took = clock.running() - began;
    println!(
        "the binary came back {RECONNECTS} times at once and held its server-id each time: {:.1} s, {:.1} ms each",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e3 / RECONNECTS as f64
    );
    Ok(binary)
}

/// The binary has to hear this next, from this phone.
async fn heard(binary: &mut BinaryLink, from: &str, frame: &str) -> Result<()> {
    let heard = binary.next(SOON).await?;
    same(heard, FromPhone::Frame { conn_id: from.to_owned(), frame: frame.to_owned() })
}

/// The binary says something, which that phone has to hear next.
async fn answer(binary: &mut BinaryLink, to: &str, phone: &mut PhoneLink, frame: &str) -> Result<()> {
    binary.send(to, frame).await?;
    same(phone.next(SOON).await?, frame.to_owned())
}

fn same<T: PartialEq + Debug>(heard: T, wanted: T) -> Result<()> {
    expect(heard == wanted, || format!("heard {heard:?} in place of {wanted:?}"))
}

fn expect(so: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if so { Ok(()) } else { Err(otherwise().into()) }
}

/// A daemon of our own; dropping it kills it as `kill -9` does.
struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    /// Starts it on free ports and waits until it says which. One address upgrades far more often here than the default
    /// lets it.
    fn start(binary: &Path, data: &Path) -> Result<Daemon> {
        let mut child = Command::new(binary)
            .args(["run", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--set", "limits.link_upgrades_per_minute=0"])
            .arg("--data-dir")
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().map(BufReader::new);
        let mut daemon = Daemon { child, address: String::new() };
        let mut lines = log.into_iter().flat_map(BufRead::lines);
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            if let Some(address) = line["fields"]["listen"].as_str() {
                daemon.address = address.to_owned();
                break;
            }
        }
        expect(!daemon.address.is_empty(), || "the daemon ended before it listened".into())?;
        // Whatever else it logs must go somewhere, or it would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(daemon)
    }

    async fn binary(&self) -> Result<BinaryLink> {
        Ok(BinaryLink::connect(&format!("ws://{}", self.address), SERVER_ID).await?)
    }

    /// A phone that has said something and heard an answer, and the conn_id that the binary knows it by.
    async fn phone(&self, name: &str, binary: &mut BinaryLink) -> Result<(PhoneLink, String)> {
        let mut phone = PhoneLink::connect(&format!("ws://{}", self.address), SERVER_ID).await?;
        let said = format!(r#"{{"from":"{name}","say":"hello"}}"#);
        phone.send(&said).await?;
        let FromPhone::Frame { conn_id, frame } = binary.next(SOON).await? else {
            return Err(format!("{name} left").into());
        };
        same(frame, said)?;
        answer(binary, &conn_id, &mut phone, &format!(r#"{{"to":"{name}","say":"hello"}}"#)).await?;
        println!("{name} said hello as {conn_id} and heard an answer");
        Ok((phone, conn_id))
    }

    /// Waits until `GET /healthz` shows so many.
    async fn connected(&self, binaries: u64, phones: u64) -> Result<()> {
        let url = format!("http://{}/healthz", self.address);
        let clock = Clock::system();
        let looking = async {
            loop {
                let answer = reqwest::get(&url).await?.error_for_status()?;
                let health: Healthz = answer.json().await?;
                if (health.connected_binaries, health.connected_phones) == (binaries, phones) {
                    return Result::Ok(());
                }
                clock.sleep(LOOK).await;
            }
        };
        let found = tokio::time::timeout(SOON, looking).await;
        found.map_err(|_| {
            format!("GET /healthz does not come to {binaries} binaries and {phones} phones")
        })??;
        println!("GET /healthz: connected_binaries {binaries}, connected_phones {phones}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
