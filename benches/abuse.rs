//! What honest peers notice of attacks: how long their requests take while somebody abuses the daemon, beside how long they
//! take when it is quiet.
//!
//! Owns the attacks and the order of the measurements: quiet and attacked rounds alternate, and the ratio of both is told,
//! since machines change their pace. The daemon is a process of its own with its default limits. Attackers and honest peers
//! share this process and the machine with it, so a ratio is more than the daemon's own share. Run it with `cargo bench
//! --bench abuse`; `-- --help` tells the options.

#[path = "common/daemon.rs"]
mod daemon;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use clap::Parser;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use waypost::cli::bench::process::resident_bytes;
use waypost::client::RawSocket;
use waypost::clock::Clock;

/// Honest sockets, each with an address of its own, and how often each asks in a measurement: it may say 100 messages.
const HONEST: usize = 16;
const ASKS: u32 = 90;
/// How long an honest peer waits for an answer at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before a measurement, for what is set up.
const SETTLING: Duration = Duration::from_millis(500);

/// Measure what honest peers notice of attacks.
#[derive(Parser, Serialize)]
struct Arguments {
    /// Rounds of each attack, each of them quiet first and attacked then.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 2000)]
    millis: u64,
    /// Addresses that attack at once.
    #[arg(long, default_value_t = 20)]
    addresses: usize,
    /// How often each of them does so at once.
    #[arg(long, default_value_t = 1)]
    strikes: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

#[derive(Clone, Copy)]
enum Attack {
    Dribble,
    Flood,
    Large,
    Nested,
    Deaf,
    Http,
}

impl Attack {
    const ALL: [Attack; 6] =
        [Attack::Dribble, Attack::Flood, Attack::Large, Attack::Nested, Attack::Deaf, Attack::Http];

    fn name(self) -> &'static str {
        match self {
            Attack::Dribble => "64 dribbled heads an address",
            Attack::Flood => "messages past the rate",
            Attack::Large => "frames of 1 MiB",
            Attack::Nested => "JSON nested 100,000 deep",
            Attack::Deaf => "subscribers that do not read",
            Attack::Http => "HTTP past the rate",
        }
    }

    /// What one address does, over and over.
    async fn strike(self, from: IpAddr, to: SocketAddr, clock: Clock) {
        loop {
            // A connection that the daemon refuses or breaks off is what an attacker has to expect.
            let _: Option<()> = match self {
                Attack::Dribble => dribble(from, to, &clock).await.ok(),
                Attack::Flood => say(from, to, &json!({"type": "get_relays"}).to_string(), 400).await.ok(),
                Attack::Large => large(from, to).await.ok(),
                Attack::Nested => say(from, to, &("[".repeat(100_000) + &"]".repeat(100_000)), 50).await.ok(),
                Attack::Deaf => deaf(from, to, &clock).await.ok(),
                Attack::Http => http(from, to).await.ok(),
            };
            clock.sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

async fn dribble(from: IpAddr, to: SocketAddr, clock: &Clock) -> std::io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(connect(from, to).await?);
    }
    for byte in b"GET /ws HTTP/1.1\r\nHost" {
        for stream in &mut streams {
            stream.write_all(&[*byte]).await?;
        }
        clock.sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn upgraded(from: IpAddr, to: SocketAddr) -> Result<RawSocket, waypost::client::ClientError> {
    RawSocket::connect_from(&format!("ws://{to}/ws"), from).await
}

/// Says the same so often, hears every answer, and goes until it is closed.
async fn say(
    from: IpAddr,
    to: SocketAddr,
    text: &str,
    times: usize,
) -> Result<(), waypost::client::ClientError> {
    let mut socket = upgraded(from, to).await?;
    for _ in 0..times {
        socket.send_text(text).await?;
        socket.next_text(PATIENCE).await?;
    }
    Ok(())
}

async fn large(from: IpAddr, to: SocketAddr) -> Result<(), waypost::client::ClientError> {
    let mut socket = upgraded(from, to).await?;
    socket.send_text(" ".repeat(1 << 20)).await?;
    socket.closed(PATIENCE).await.map(drop)
}

/// 40 sockets follow a channel and read nothing, while one announces in it what it may.
async fn deaf(from: IpAddr, to: SocketAddr, clock: &Clock) -> Result<(), waypost::client::ClientError> {
    let channel = from.to_string();
    let mut sockets = Vec::new();
    for _ in 0..40 {
        let mut socket = upgraded(from, to).await?;
        socket.send_json(&json!({"type": "channel-subscribe", "channelId": channel})).await?;
        sockets.push(socket);
    }
    let mut announcer = upgraded(from, to).await?;
    let chunks: Vec<Value> = (0..100).map(|number| json!({"chunkId": format!("{number:0>250}")})).collect();
    let announce = json!({"type": "chunk_announce", "peerId": format!("peer-{}", channel.replace('.', "-")),
        "channelId": channel, "chunks": chunks});
    for _ in 0..100 {
        announcer.send_json(&announce).await?;
        announcer.next_text(PATIENCE).await?;
    }
    clock.sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn http(from: IpAddr, to: SocketAddr) -> std::io::Result<()> {
    let mut stream = connect(from, to).await?;
    let request = format!("GET /peers HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..1000 {
        stream.write_all(request.as_bytes()).await?;
        if stream.read(&mut buffer).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A daemon of our own; dropping it kills it.
struct Daemon {
    address: SocketAddr,
    child: Child,
}

impl Daemon {
    /// With its default settings.
    fn start(data: &Path) -> Daemon {
        let (child, address) = daemon::start(data, &[]);
        Daemon { address, child }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Microseconds.
type Times = Histogram<u64>;

fn times() -> Times {
    Times::new_with_bounds(1, 60_000_000, 3).expect("bounds and digits that go together")
}

/// Honest peers ask, each in its own pace, and every request is answered.
async fn ask(to: SocketAddr, time: Duration, clock: &Clock) -> Times {
    let mut asking = JoinSet::new();
    for number in 0..HONEST {
        let clock = clock.clone();
        asking.spawn(async move {
            let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, number as u8));
            let mut socket = upgraded(from, to).await.expect("an honest peer comes in");
            socket.next_text(PATIENCE).await.expect("it is greeted");
            let every = time / ASKS;
            clock.sleep(every * number as u32 / HONEST as u32).await;
            let (mut took, end) = (Vec::new(), clock.running() + time);
            while clock.running() < end {
                let began = clock.running();
                let meet = json!({"type": "register_rendezvous", "peerId": format!("honest-{number}"),
                    "dailyPoints": ["p"], "deadDrop": "x".repeat(256)});
                socket.send_json(&meet).await.expect("an honest peer speaks");
                let answer = socket.next_message(PATIENCE).await.expect("it is answered");
                assert_eq!(answer["type"], "rendezvous_result", "{answer}");
                took.push((clock.running() - began).as_micros() as u64);
                clock.sleep(every).await;
            }
            took
        });
    }
    let mut all = times();
    while let Some(took) = asking.join_next().await {
        took.expect("honest peers are served").into_iter().for_each(|time| all.saturating_record(time));
    }
    all
}

#[derive(Serialize)]
struct Told {
    attack: &'static str,
    quiet_p50_us: u64,
    quiet_p99_us: u64,
    attacked_p50_us: u64,
    attacked_p99_us: u64,
    p99_ratio: f64,
    answers: u64,
    resident_mib: u64,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    // Attackers have a thread of their own, so that honest peers do not wait for them here.
    let attackers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let attackers = attackers.expect("a runtime");
    let told: Vec<Told> = Attack::ALL.map(|attack| measure(&arguments, &runtime, &attackers, attack)).into();
    attackers.shutdown_background();
    if arguments.json {
        let report = json!({"version": env!("CARGO_PKG_VERSION"), "settings": arguments, "attacks": told});
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
        return;
    }
    println!("{} addresses attack, {HONEST} honest sockets register; microseconds", arguments.addresses);
    println!(
        "{:<30}{:>11}{:>11}{:>11}{:>11}{:>8}{:>9}{:>6}",
        "attack", "quiet p50", "quiet p99", "p50", "p99", "ratio", "answers", "MiB"
    );
    for one in told {
        println!(
            "{:<30}{:>11}{:>11}{:>11}{:>11}{:>8.2}{:>9}{:>6}",
            one.attack,
            one.quiet_p50_us,
            one.quiet_p99_us,
            one.attacked_p50_us,
            one.attacked_p99_us,
            one.p99_ratio,
            one.answers,
            one.resident_mib
        );
    }
}

fn measure(
    arguments: &Arguments,
    honest: &tokio::runtime::Runtime,
    attackers: &tokio::runtime::Runtime,
    attack: Attack,
) -> Told {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let daemon = Daemon::start(folder.path());
    let (clock, time) = (Clock::system(), Duration::from_millis(arguments.millis));
    let mut quiet = times();
    let mut attacked = times();
    let mut resident = 0;
    for round in 0..arguments.rounds {
        quiet += honest.block_on(ask(daemon.address, time, &clock));
        let mut striking = JoinSet::new();
        for number in 0..arguments.addresses {
            // Others in each round: what the daemon counts of them is not over.
            let number = (round * arguments.addresses + number) as u32;
            let from = IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 9, 0, 1)) + number));
            for _ in 0..arguments.strikes {
                striking.spawn_on(attack.strike(from, daemon.address, clock.clone()), attackers.handle());
            }
        }
        attacked += honest.block_on(async {
            clock.sleep(SETTLING).await;
            ask(daemon.address, time, &clock).await
        });
        resident = resident.max(resident_bytes(daemon.child.id()).expect("its memory") >> 20);
        honest.block_on(async {
            striking.shutdown().await;
            clock.sleep(SETTLING).await;
        });
    }
    Told {
        attack: attack.name(),
        quiet_p50_us: quiet.value_at_quantile(0.5),
        quiet_p99_us: quiet.value_at_quantile(0.99),
        attacked_p50_us: attacked.value_at_quantile(0.5),
        attacked_p99_us: attacked.value_at_quantile(0.99),
        p99_ratio: attacked.value_at_quantile(0.99) as f64 / quiet.value_at_quantile(0.99).max(1) as f64,
        answers: attacked.len(),
        resident_mib: resident,
    }
}
