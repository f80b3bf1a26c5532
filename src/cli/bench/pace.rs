//! Owns when the next request is due: as soon as an answer has come, or, in an open loop, at times that are evenly
//! spaced whatever the server does. Must not know what is asked.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: it paces itself in real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The longest sleep of the pacemaker, which looks then whether it is over.
const NAP: Duration = Duration::from_millis(20);
/// Its shortest: above 5000 requests a second some are sent together, up to this late, which counts. A sleep for each would
/// take the server more time than the requests do.
const TICK: Duration = Duration::from_micros(200);

/// One lane's share of the requests.
pub enum Pace {
    /// Always due.
    Closed,
    /// Every so many-th request of a common schedule.
    Open { schedule: Schedule, next: u64, step: u64, wake: Arc<Notify> },
}

/// Request number n is due at `began` + n / rate.
#[derive(Clone, Copy)]
pub struct Schedule {
    began: Instant,
    rate: f64,
}

impl Schedule {
    fn at(self, number: u64) -> Instant {
        self.began + Duration::from_secs_f64(number as f64 / self.rate)
    }
}

impl Pace {
    /// Whether a request is due, and the time from which its latency counts.
    pub fn due(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Pace::Closed => Some(now),
            Pace::Open { schedule, next, step, .. } => {
                let at = schedule.at(*next);
                (at <= now).then(|| {
                    *next += *step;
                    at
                })
            }
        }
    }

    /// Whether requests come at their own times.
    pub fn is_open(&self) -> bool {
        matches!(self, Pace::Open { .. })
    }

    /// Waits until a request may be due, or it may be over; forever where one always is.
    pub async fn wake(&self) {
        match self {
            Pace::Closed => std::future::pending().await,
            Pace::Open { wake, .. } => wake.notified().await,
        }
    }
}

/// Wakes lanes when they are due. It sleeps on a thread of its own: the runtime's timers are coarser than the latencies.
pub struct Pacemaker {
    schedule: Schedule,
    lanes: Vec<Arc<Notify>>,
}

impl Pacemaker {
    /// So many lanes, which share `rate` requests a second between them.
    pub fn new(lanes: usize, rate: f64) -> (Pacemaker, Vec<Pace>) {
        let schedule = Schedule { began: Instant::now(), rate };
        let wakes: Vec<_> = (0..lanes).map(|_| Arc::new(Notify::new())).collect();
        let pace = |(number, wake): (usize, &Arc<Notify>)| Pace::Open {
            schedule,
            next: number as u64,
            step: lanes as u64,
            wake: Arc::clone(wake),
        };
        let paces = wakes.iter().enumerate().map(pace).collect();
        (Pacemaker { schedule, lanes: wakes }, paces)
    }

    /// Until it is over; then it wakes all, so that they notice.
    pub fn run(self, over: impl Fn() -> bool) {
        let mut number = 0;
        while !over() {
            let wait = self.schedule.at(number).saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.lanes[(number % self.lanes.len() as u64) as usize].notify_one();
                number += 1;
            } else {
                std::thread::sleep(wait.clamp(TICK, NAP));
            }
        }
        self.lanes.iter().for_each(|lane| lane.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_take_turns_and_what_is_late_counts_from_its_time() {
        let (pacemaker, mut paces) = Pacemaker::new(2, 4.0);
        let began = pacemaker.schedule.began;
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!(paces[1].due(at(249)), None);
        assert_eq!(paces[1].due(at(2000)), Some(at(250)));
        assert_eq!(paces[1].due(at(2000)), Some(at(750)));
        assert_eq!(paces[0].due(at(600)), Some(at(0)));
        assert_eq!(paces[0].due(at(600)), Some(at(500)));
        assert_eq!(paces[0].due(at(600)), None);
    }
}
