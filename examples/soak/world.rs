//! What the visitors of a soak share. Owns whether the daemon is up, the pace of dead drops, names that never come again, the
//! ledger, and what did not go as it should. Must not know what any visitor does.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use waypost::client::{ClientError, RawSocket};
use waypost::clock::Clock;

use super::Result;
use super::daemon::{Ports, logged_errors};
use super::ledger::Ledger;
use super::visits::{self, Dialect};

/// Complaints that are printed.
const MOST_TOLD: u64 = 10;

pub struct World {
    pub clock: Clock,
    pub ledger: Ledger,
    address: String,
    /// The number of the run; none while there is none.
    run: watch::Sender<Option<u64>>,
    runs: AtomicU64,
    names: AtomicU64,
    period: Duration,
    /// When the next dead drop is due, in running time.
    next_drop: Mutex<Duration>,
    visits: Mutex<HashMap<Dialect, u64>>,
    complaints: AtomicU64,
}

impl World {
    pub fn new(clock: Clock, ports: &Ports, ttl: Duration, rate: f64) -> World {
        World {
            clock,
            ledger: Ledger::new(ttl),
            address: ports.public.clone(),
            run: watch::Sender::new(Some(0)),
            runs: AtomicU64::new(0),
            names: AtomicU64::new(0),
            period: Duration::from_secs_f64(1.0 / rate),
            next_drop: Mutex::default(),
            visits: Mutex::default(),
            complaints: AtomicU64::new(0),
        }
    }

    /// Before it is ended: from now on nobody wonders at a broken connection.
    pub fn is_down(&self) {
        self.run.send_replace(None);
    }

    pub fn is_up(&self) {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        self.run.send_replace(Some(run));
    }

    /// Waits until the daemon is up; the number of its run.
    pub async fn up(&self) -> u64 {
        let mut run = self.run.subscribe();
        // The sender lives as long as this.
        let up = run.wait_for(Option::is_some).await.ok().and_then(|run| *run);
        up.unwrap_or_default()
    }

    pub fn ws(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A socket of signalling that has read its `server_info`.
    pub async fn socket(&self) -> std::result::Result<RawSocket, ClientError> {
        let mut socket = RawSocket::connect(&format!("{}/ws", self.ws())).await?;
        visits::hear(&mut socket, "server_info").await?;
        Ok(socket)
    }

    pub fn number(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.number())
    }

    /// A pairing code.
    pub fn code(&self) -> String {
        const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
        let number = self.number();
        (0..6).map(|place| char::from(LETTERS[(number >> (5 * place)) as usize % 32])).collect()
    }

    /// Waits until one more dead drop may be left.
    pub async fn pace(&self) {
        let due = {
            let mut next = self.next_drop.lock().unwrap_or_else(PoisonError::into_inner);
            let due = self.clock.running().max(*next);
            *next = due + self.period;
            due
        };
        self.clock.sleep_until(due).await;
    }

    /// A visit that began in this run is over.
    pub fn visited(&self, dialect: Dialect, run: u64, visit: std::result::Result<(), ClientError>) {
        match visit {
            Ok(()) => {
                let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
                *visits.entry(dialect).or_default() += 1;
            }
            // Whoever was there when the daemon ended was cut off.
            Err(_) if *self.run.borrow() != Some(run) => {}
            Err(error) => {
                if self.complaints.fetch_add(1, Ordering::Relaxed) < MOST_TOLD {
                    println!("{dialect:?}: {error:?}");
                }
            }
        }
    }

    /// Whether everything that is acknowledged is there.
    pub async fn look_for_all(&self) -> Result<()> {
        visits::look_for_all(self).await.map_err(|error| format!("nothing can be looked for: {error}").into())
    }

    /// Whether all went as it should, and something of each kind went on.
    pub fn is_content(&self) -> bool {
        let visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        let all_came = Dialect::CROWD.iter().all(|(dialect, _)| visits.contains_key(dialect));
        let all_found = self.ledger.counts().iter().all(|(_, _, found)| *found > 0);
        let complaints = self.complaints.load(Ordering::Relaxed);
        all_came && all_found && self.ledger.lost() == 0 && complaints == 0 && logged_errors() == 0
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        for (dialect, _) in Dialect::CROWD {
            write!(f, "{dialect:?} {}, ", visits.get(&dialect).copied().unwrap_or(0))?;
        }
        writeln!(f, "visits to their end")?;
        for (kind, acknowledged, found) in self.ledger.counts() {
            writeln!(f, "{kind:?}: {acknowledged} acknowledged, {found} times found again")?;
        }
        let complaints = self.complaints.load(Ordering::Relaxed);
        write!(f, "lost {}, complaints {complaints}, errors logged {}", self.ledger.lost(), logged_errors())
    }
}
