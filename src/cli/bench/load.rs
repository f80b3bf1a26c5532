//! Owns the driving: it sets the sockets up, keeps their requests under way, and measures from the end of the warm-up
//! on. Must not know what is asked, or how it is shown.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: it measures real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::{Dialer, Leg, PHONES, SOCKETS_PER_ADDRESS};
use super::lanes::{Counted, Course, Lane, echo, hold};
use super::pace::{Pace, Pacemaker};
use super::process::{cpu_micros, resident_bytes};
use super::scenarios::{Script, peer_id};
use super::socket::Socket;
use super::{Bench, BenchError, Scenario};
use crate::client::{AdminClient, ClientError};
use crate::wire::admin::Status;

/// How long answers may still take at the end, and goodbyes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of an open loop that one socket has under way at most; further ones wait, and their time counts.
const MOST_IN_FLIGHT: usize = 64;

/// What one scenario came to.
pub struct Measured {
    pub scenario: Scenario,
    pub seconds: f64,
    pub counted: Counted,
    /// CPU time of the bench itself, in microseconds.
    pub own_cpu: u64,
    pub server: Option<ServerProcess>,
    /// The daemon's counters before and after.
    pub daemon: Option<(Status, Status)>,
}

/// The server's process over the time measured.
pub struct ServerProcess {
    /// In microseconds.
    pub cpu: u64,
    /// Resident bytes at the end.
    pub resident: u64,
    /// Of idle: by how much they grew for each socket.
    pub bytes_per_socket: Option<f64>,
}

struct Look {
    cpu: u64,
    resident: u64,
}

/// A registered socket, its number, and when it was begun and done.
type Opened = (Socket, usize, Instant, Instant);

/// One run of the bench.
pub struct Run<'a> {
    bench: &'a Bench,
    admin: Option<&'a AdminClient>,
    dialer: Dialer<'a>,
    progress: ProgressBar,
    /// Numbers of peers that are taken.
    peers: usize,
    /// What goes on beside the measuring: sockets that are held, and binaries until they are stopped.
    beside: JoinSet<Result<(), BenchError>>,
    binaries: Stop,
}

impl<'a> Run<'a> {
    pub fn new(bench: &'a Bench, admin: Option<&'a AdminClient>) -> Run<'a> {
        let (dialer, progress) = (Dialer::new(bench), ProgressBar::no_length());
        Run { bench, admin, dialer, progress, peers: 0, beside: JoinSet::new(), binaries: Stop::new() }
    }

    /// Runs each scenario, on sockets of its own.
    pub async fn all(mut self) -> Result<Vec<Measured>, BenchError> {
        // Rather now than after all the connecting.
        self.look()?;
        for mut socket in self.connect("holding", self.bench.hold).await? {
            self.beside.spawn(async move { hold(&mut socket.0).await.map_err(of("holding sockets")) });
        }
        let mut all = Vec::new();
        for scenario in &self.bench.scenario {
            all.push(match scenario {
                Scenario::Idle => self.idle().await?,
                _ => self.measure(*scenario).await?,
            });
        }
        self.progress.finish_and_clear();
        Ok(all)
    }

    /// Registered sockets, and their numbers.
    async fn connect(&mut self, what: &'static str, count: usize) -> Result<Vec<Opened>, BenchError> {
        start(&self.progress, what, count as u64);
        let first = self.peers;
        // Even, so that the next neighbours are neighbours.
        self.peers += count.next_multiple_of(2);
        let (dialer, sources) = (&self.dialer, &self.dialer.sources(count, SOCKETS_PER_ADDRESS));
        let open = |number| async move {
            let began = Instant::now();
            let socket = dialer.peer(first + number, sources.of(number)).await?;
            Ok((socket, first + number, began, Instant::now()))
        };
        dialer.ramp(count, &self.progress, open).await
    }

    /// What asks in this scenario.
    async fn lanes(&mut self, scenario: Scenario) -> Result<Vec<Lane>, BenchError> {
        let (bench, count) = (self.bench, self.bench.sockets);
        let run = self.dialer.run.clone();
        let script = |number| Script::new(scenario, bench, &run, number);
        match scenario {
            Scenario::Bootstrap => {
                start(&self.progress, "connecting", count as u64);
                let (dialer, sources) = (&self.dialer, &self.dialer.sources(count, SOCKETS_PER_ADDRESS));
                let open = |number| dialer.http(sources.of(number));
                let sockets = dialer.ramp(count, &self.progress, open).await?;
                Ok(sockets.into_iter().zip(0..).map(|(socket, n)| Lane::Single(socket, script(n))).collect())
            }
            Scenario::Link => {
                let binaries = count.div_ceil(PHONES);
                start(&self.progress, "connecting", (count + binaries) as u64);
                // A binary and its phones come from one address.
                let dialer = &self.dialer;
                let sources = &dialer.sources(binaries, 1);
                let claim = |group| dialer.link(Leg::Binary, group, sources.of(group));
                for binary in dialer.ramp(binaries, &self.progress, claim).await? {
                    let mut binary = binary;
                    let stopped = self.binaries.stopped();
                    self.beside.spawn(async move {
                        tokio::select! {
                            lost = echo(&mut binary) => return lost.map_err(of("being a binary")),
                            () = stopped => {}
                        }
                        binary.close().await;
                        Ok(())
                    });
                }
                let attach = |n: usize| dialer.link(Leg::Phone, n / PHONES, sources.of(n / PHONES));
                let phones = dialer.ramp(count, &self.progress, attach).await?;
                Ok(phones.into_iter().zip(0..).map(|(socket, n)| Lane::Single(socket, script(n))).collect())
            }
            Scenario::Meet => {
                let peers = self.connect("connecting", count / 2 * 2).await?;
                let mut peers = peers.into_iter();
                let mut lanes = Vec::new();
                while let (Some((alice, hers, ..)), Some((bob, his, ..))) = (peers.next(), peers.next()) {
                    let (first, second) = ((alice, script(hers)), (bob, script(his)));
                    lanes.push(Lane::Pair { first, second, id: peer_id(&run, hers) });
                }
                Ok(lanes)
            }
            _ => {
                let peers = self.connect("connecting", count).await?;
                Ok(peers.into_iter().map(|(socket, n, ..)| Lane::Single(socket, script(n))).collect())
            }
        }
    }

    async fn measure(&mut self, scenario: Scenario) -> Result<Measured, BenchError> {
        let lanes = self.lanes(scenario).await?;
        let (bench, name) = (self.bench, scenario.name());
        start(&self.progress, name, bench.warmup + bench.seconds);
        let mut preparing = JoinSet::new();
        for mut lane in lanes {
            preparing.spawn(async move { lane.prepare().await.map(|()| lane).map_err(of(name)) });
        }
        let mut lanes = Vec::new();
        while let Some(prepared) = preparing.join_next().await {
            lanes.push(prepared.map_err(|error| panicked(&error))??);
        }

        let course = Arc::new(Course::new());
        let mut workers = JoinSet::new();
        let most = match (bench.rate, scenario) {
            // HTTP has one request at a time on a connection.
            (_, Scenario::Bootstrap) => 1,
            (Some(_), _) => MOST_IN_FLIGHT,
            (None, _) => bench.in_flight.into(),
        };
        let (pacemaker, paces) = match bench.rate {
            Some(rate) => {
                let (pacemaker, paces) = Pacemaker::new(lanes.len(), rate);
                let watched = Arc::clone(&course);
                let running = tokio::task::spawn_blocking(move || pacemaker.run(|| watched.is_over()));
                (Some(running), paces)
            }
            None => (None, lanes.iter().map(|_| Pace::Closed).collect()),
        };
        let over = EndOnDrop(Arc::clone(&course));
        for (lane, pace) in lanes.into_iter().zip(paces) {
            let course = Arc::clone(&course);
            workers.spawn(async move { lane.run(&course, pace, most).await.map_err(of(name)) });
        }

        self.wait(bench.warmup, &mut workers).await?;
        let before = self.status().await?;
        let own_before = cpu(std::process::id())?;
        let server_before = self.look()?;
        let began = course.begin();
        self.wait(bench.seconds, &mut workers).await?;
        drop(over);
        let seconds = (course.end() - began).as_secs_f64();
        let own_cpu = cpu(std::process::id())? - own_before;
        let server = server_before.zip(self.look()?).map(|(before, after)| ServerProcess {
            cpu: after.cpu - before.cpu,
            resident: after.resident,
            bytes_per_socket: None,
        });

        let mut lanes = Vec::new();
        let draining = async {
            while let Some(ended) = workers.join_next().await {
                lanes.push(ended.map_err(|error| panicked(&error))??);
            }
            Ok(())
        };
        timeout(PATIENCE, draining).await.map_err(|_| BenchError::of(name, ClientError::Timeout))??;
        if let Some(pacemaker) = pacemaker {
            pacemaker.await.map_err(|error| panicked(&error))?;
        }
        let daemon = before.zip(self.status().await?);
        // Before their phones leave, which they would be told.
        self.binaries = Stop::new();
        close(lanes.into_iter().map(Lane::close)).await;
        Ok(Measured { scenario, seconds, counted: course.counted(), own_cpu, server, daemon })
    }

    /// Sockets that are opened and held. What is measured is the opening.
    async fn idle(&mut self) -> Result<Measured, BenchError> {
        let bench = self.bench;
        let before = self.status().await?;
        let own_before = cpu(std::process::id())?;
        let server_before = self.look()?;
        let began = Instant::now();
        let opened = self.connect("idle", bench.sockets).await?;
        let seconds = began.elapsed().as_secs_f64();
        let own_cpu = cpu(std::process::id())? - own_before;
        let server_after = self.look()?;
        let daemon = before.zip(self.status().await?);

        let mut counted = Counted::new();
        let mut held = JoinSet::new();
        let stop = Stop::new();
        for (mut socket, _, asked, now) in opened {
            counted.record(asked, now);
            counted.answers += 1;
            let stopped = stop.stopped();
            held.spawn(async move {
                tokio::select! {
                    lost = hold(&mut socket) => lost.map_err(of("holding sockets"))?,
                    () = stopped => {}
                }
                Ok(socket)
            });
        }
        start(&self.progress, "holding", bench.warmup + bench.seconds);
        self.wait(bench.warmup + bench.seconds, &mut held).await?;
        let looks = server_before.zip(server_after).zip(self.look()?);
        let server = looks.map(|((before, after), last)| {
            let grown = last.resident as f64 - before.resident as f64;
            ServerProcess {
                cpu: after.cpu - before.cpu,
                resident: last.resident,
                bytes_per_socket: Some(grown / bench.sockets as f64),
            }
        });
        drop(stop);
        let mut sockets = Vec::new();
        while let Some(ended) = held.join_next().await {
            sockets.push(ended.map_err(|error| panicked(&error))??);
        }
        close(sockets.into_iter().map(Socket::close)).await;
        Ok(Measured { scenario: Scenario::Idle, seconds, counted, own_cpu, server, daemon })
    }

    /// Lets time pass; the first worker that fails ends it.
    async fn wait<T: 'static>(
        &mut self,
        seconds: u64,
        workers: &mut JoinSet<Result<T, BenchError>>,
    ) -> Result<(), BenchError> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.tick().await;
        for _ in 0..seconds {
            tokio::select! {
                _ = ticks.tick() => self.progress.inc(1),
                Some(ended) = workers.join_next() => drop(ended.map_err(|error| panicked(&error))??),
                Some(ended) = self.beside.join_next() => ended.map_err(|error| panicked(&error))??,
            }
        }
        Ok(())
    }

    /// The server's process as it is now.
    fn look(&self) -> Result<Option<Look>, BenchError> {
        let look = |pid| {
            let resident = resident_bytes(pid).map_err(|source| unreadable(pid, source))?;
            Ok(Look { cpu: cpu(pid)?, resident })
        };
        self.bench.pid.map(look).transpose()
    }

    async fn status(&self) -> Result<Option<Status>, BenchError> {
        let Some(admin) = self.admin else { return Ok(None) };
        admin.status().await.map(Some).map_err(of("asking the admin endpoint"))
    }
}

/// Stops tasks by being dropped.
struct Stop(watch::Sender<()>);

impl Stop {
    fn new() -> Stop {
        Stop(watch::Sender::new(()))
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut watched = self.0.subscribe();
        async move {
            // Nothing is ever said; an error is the end.
            let _ = watched.changed().await;
        }
    }
}

/// Ends a course however the measuring ends: the pacemaker waits for nothing else.
struct EndOnDrop(Arc<Course>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Says goodbye on all sockets at once; a server that does not hang up is left.
async fn close(goodbyes: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let all = goodbyes.collect::<JoinSet<()>>().join_all();
    let _ = timeout(PATIENCE, all).await;
}

fn of(doing: &'static str) -> impl Fn(ClientError) -> BenchError {
    move |source| BenchError::of(doing, source)
}

fn panicked(error: &tokio::task::JoinError) -> BenchError {
    BenchError::File {
        what: "a part of the bench broke".to_owned(),
        source: std::io::Error::other(error.to_string()),
    }
}

fn cpu(pid: u32) -> Result<u64, BenchError> {
    cpu_micros(pid).map_err(|source| unreadable(pid, source))
}

fn unreadable(pid: u32, source: std::io::Error) -> BenchError {
    BenchError::File { what: format!("cannot look at process {pid}"), source }
}

fn start(progress: &ProgressBar, what: &'static str, length: u64) {
    let style = ProgressStyle::with_template("{msg:>10} {bar:40} {pos}/{len}");
    progress.set_style(style.expect("the template is a constant"));
    progress.set_length(length);
    progress.set_position(0);
    progress.set_message(what);
}
