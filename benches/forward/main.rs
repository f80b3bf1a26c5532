//! What forwarding costs: frames a second from phones to their binary and back, beside a bare axum echo, and how long a
//! frame takes to the binary and back, also while another phone does not read.
//!
//! Owns the order of the measurements: they are interleaved, and frames a second told as medians, since machines change
//! their pace. The daemon and the echo are processes of their own. Run it with `cargo bench --bench forward`; `-- --help` tells the
//! options.

#[path = "../common/daemon.rs"]
mod daemon;
mod flood;
mod report;
mod rounds;
mod servers;
mod sockets;

use std::time::Duration;

use clap::Parser;
use flood::{Flow, Load, Way};
use report::{Flood, Report, Rounds};
use rounds::{Beside, latencies};
use serde::Serialize;
use servers::Server;
use sockets::frame;

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KIB: usize = 1024;

/// Measure what forwarding costs.
#[derive(Parser, Serialize)]
struct Arguments {
    /// Bytes of a frame, several with commas.
    #[arg(long, value_delimiter = ',', default_values_t = [KIB, 64 * KIB])]
    bytes: Vec<usize>,
    /// Phones of the one binary; sockets of the echo.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=16))]
    phones: u8,
    /// Frames of each phone that are under way.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Milliseconds of each measurement of frames a second; round trips are measured three times as long.
    #[arg(long, default_value_t = 800)]
    millis: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// For the child: be the echo.
    #[arg(long, hide = true)]
    #[serde(skip)]
    echo: bool,
    /// Cargo passes this; it means nothing here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if arguments.echo {
        return servers::echo();
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let bench = Bench { arguments, waypost: Server::waypost(folder.path()), echo: Server::echo() };
    // One thread, so that most of the machine is the server's; the report tells how busy it was.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (floods, rounds) = runtime.block_on(async { (bench.floods().await, bench.rounds().await) });
    let report = Report { version: env!("CARGO_PKG_VERSION"), settings: &bench.arguments, floods, rounds };
    if bench.arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and names"));
    } else {
        report.print();
    }
}

struct Bench {
    arguments: Arguments,
    waypost: Server,
    echo: Server,
}

impl Bench {
    fn time(&self) -> Duration {
        Duration::from_millis(self.arguments.millis)
    }

    async fn floods(&self) -> Vec<Flood> {
        let mut floods = Vec::new();
        for &bytes in &self.arguments.bytes {
            let Arguments { phones, window, .. } = self.arguments;
            let load = Load { frame: &frame(bytes), phones: phones.into(), window, time: self.time() };
            let mut flows: [Vec<Flow>; Way::ALL.len()] = Default::default();
            for round in 0..self.arguments.rounds {
                for (way, flows) in Way::ALL.into_iter().zip(&mut flows) {
                    let server = match way {
                        Way::Echo | Way::EchoOnOne => &self.echo,
                        Way::ToBinary | Way::ToPhones => &self.waypost,
                    };
                    let id = format!("{way:?}-{bytes}-{round}");
                    flows.push(flood::measure(server.address, server.pid(), &id, way, load).await);
                }
            }
            floods.extend(Flood::of(bytes, &flows));
        }
        floods
    }

    async fn rounds(&self) -> Vec<Rounds> {
        let (frame, address, time) = (frame(KIB), self.waypost.address, 3 * self.time());
        let mut echo = latencies();
        let mut others = Beside::ALL.map(|beside| (beside, latencies(), 0));
        for round in 0..self.arguments.rounds {
            rounds::echo(self.echo.address, &frame, time, &mut echo).await;
            for (beside, into, closed) in &mut others {
                let id = format!("{}-{round}", beside.name());
                *closed += rounds::waypost(address, &id, &frame, *beside, time, into).await;
            }
        }
        let mut told = vec![Rounds::of("echo", &echo, 0)];
        told.extend(others.iter().map(|(beside, into, closed)| Rounds::of(beside.name(), into, *closed)));
        told
    }
}
