//! A daemon under load for as long as one likes: sockets come and go in all dialects, leases end all along, and it is
//! stopped and killed every few minutes. At the end it must not have grown, nor lost anything that it had acknowledged.
//!
//! ```text
//! cargo build --release && cargo run --release --example soak -- --minutes 60 --rate 200
//! ```
//!
//! The daemon runs in a temporary directory and on free ports. It is the binary named by `WAYPOST_BIN`, or the `waypost`
//! beside this example's directory. The first third of the time is for warming up. The soak fails where memory,
//! descriptors or disk take more in the last third than 1.2 times what they took in the middle one, where something
//! acknowledged is lost, where a request is refused or the daemon logs an error, and where the store is not consistent.

#[path = "common/binary.rs"]
mod binary;
#[path = "soak/daemon.rs"]
mod daemon;
#[path = "soak/ledger.rs"]
mod ledger;
#[path = "soak/visits.rs"]
mod visits;
#[path = "soak/world.rs"]
mod world;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use comfy_table::{Table, presets};
use waypost::clock::Clock;
use waypost::store::{Faults, Store};

use daemon::{Daemon, Sample};
use visits::Dialect;
use world::World;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How much more than in the middle third may be taken in the last.
const MOST_GROWTH: f64 = 1.2;
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const LONGEST_TTL: Duration = Duration::from_secs(60);
const LONGEST_RUN: Duration = Duration::from_secs(180);

#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Dead drops a second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Seconds between two restarts, by SIGTERM and by kill -9 in turn; the default is a sixth of the time, and 180 at most.
    #[arg(long)]
    restart_every: Option<f64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match soak(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(arguments: &Arguments) -> Result<()> {
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let (sixth, clock) = (time / 6, Clock::system());
    let between = arguments.restart_every.map_or(sixth.min(LONGEST_RUN), Duration::from_secs_f64);
    let sample_every = SAMPLE_EVERY.min(time / 36);
    let ttl = LONGEST_TTL.min(sixth);
    let directory = tempfile::tempdir()?;
    let mut daemon = Daemon::start(directory.path(), None, ttl)?;
    println!(
        "{time:?} at {} dead drops a second, which end after {ttl:?}; a restart every {between:?}; process {} at {}",
        arguments.rate,
        daemon.pid(),
        daemon.ports.public
    );
    let world = Arc::new(World::new(clock.clone(), &daemon.ports, ttl, arguments.rate));
    let visitors: Vec<_> = Dialect::CROWD
        .iter()
        .flat_map(|(dialect, many)| (0..*many).map(|_| *dialect))
        .enumerate()
        .map(|(number, dialect)| tokio::spawn(visits::keep_coming(world.clone(), dialect, number as u64)))
        .collect();

    let (began, mut samples, mut restarts) = (clock.running(), Vec::new(), 0_u32);
    let (mut next_sample, mut next_restart) = (began + sample_every, began + between);
    while clock.running() < began + time {
        clock.sleep_until(next_sample.min(next_restart)).await;
        if clock.running() >= next_restart {
            world.is_down();
            daemon.stop(restarts.is_multiple_of(2)).await?;
            daemon = Daemon::start(directory.path(), Some(&daemon.ports), ttl)?;
            restarts += 1;
            world.is_up();
            world.look_for_all().await?;
            next_restart += between;
        } else {
            samples.push(daemon.sample(directory.path(), clock.running() - began).await?);
            next_sample = clock.running() + sample_every;
        }
    }
    visitors.iter().for_each(|visitor| visitor.abort());
    world.look_for_all().await?;
    world.is_down();
    daemon.stop(true).await?;
    let store = Store::open(&directory.path().join(waypost::daemon::STORE), Faults::default())?;
    let problems = store.check()?.problems;

    let grown = table(&samples, time);
    println!("{restarts} restarts, half of them by kill -9");
    println!("{world}");
    println!("the check of the store found {} problems", problems.len());
    problems.iter().take(10).for_each(|problem| println!("  {problem}"));
    if grown.is_empty() && problems.is_empty() && world.is_content() {
        return Ok(());
    }
    Err(format!("failed; grown: {}", if grown.is_empty() { "nothing" } else { &grown }).into())
}

/// Prints the medians of the thirds; tells what has grown from the middle one to the last.
fn table(samples: &[Sample], time: Duration) -> String {
    type Figure = fn(&Sample) -> f64;
    let figures: [(&str, Option<f64>, Figure); 5] = [
        ("memory, MiB", Some(MOST_GROWTH), |sample| sample.resident as f64 / 1_048_576.0),
        ("descriptors", Some(MOST_GROWTH), |sample| sample.descriptors as f64),
        ("disk, MiB", Some(MOST_GROWTH), |sample| sample.disk as f64 / 1_048_576.0),
        ("registrations", None, |sample| sample.registrations as f64),
        ("swept since the start", None, |sample| sample.swept as f64),
    ];
    let mut grown = Vec::new();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["median of", "first third", "middle third", "last third"]);
    for (name, most, figure) in figures {
        let thirds = [0, 1, 2].map(|third| {
            let within =
                |sample: &&Sample| (sample.at.as_secs_f64() * 3.0 / time.as_secs_f64()) as u32 == third;
            median(samples.iter().filter(within).map(figure).collect())
        });
        table.add_row([name.to_owned()].into_iter().chain(thirds.map(|third| format!("{third:.1}"))));
        // Without samples it is not level either.
        let is_level = |most: f64| thirds[2] <= thirds[1] * most;
        if most.is_some_and(|most| !is_level(most)) {
            grown.push(name);
        }
    }
    println!("{table}");
    grown.join(", ")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
