//! The only clock.
//!
//! Owns wall time (milliseconds since the Unix epoch, never going backwards within a run), running time, and
//! sleeping on either; tests hold a manual clock and move it. Knows nothing else of ours.
#![allow(clippy::disallowed_methods, reason = "this file is where the clocks live")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// A wall-clock step against running time of more than this is taken for a wrong clock.
const JUMP: Duration = Duration::from_secs(3600);
/// A step back of no more than this is how clocks are kept right, and not worth a word.
const ADJUSTMENT: Millis = 1000;

/// Cheap to clone; all clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// The latest wall time that was shown.
    last: AtomicU64,
    told_of_step_back: AtomicBool,
}

#[derive(Debug)]
enum Source {
    System { started: Instant },
    Manual(watch::Sender<Manual>),
}

#[derive(Clone, Copy, Debug)]
struct Manual {
    wall: Millis,
    running: Duration,
}

impl Inner {
    /// Wall time as the machine has it, which may go backwards.
    fn wall(&self) -> Millis {
        match &self.source {
            Source::Manual(state) => state.borrow().wall,
            Source::System { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as Millis
            }
        }
    }
}

impl Clock {
    fn of(source: Source) -> Clock {
        Clock(Arc::new(Inner { source, last: AtomicU64::new(0), told_of_step_back: AtomicBool::new(false) }))
    }

    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock::of(Source::System { started: Instant::now() })
    }

    /// A clock that stands still until it is moved.
    pub fn manual(wall: Millis) -> Clock {
        Clock::of(Source::Manual(watch::Sender::new(Manual { wall, running: Duration::ZERO })))
    }

    /// Wall time. Never less than an earlier look on the same clock: a step back is held and logged.
    pub fn now(&self) -> Millis {
        let now = self.0.wall();
        let shown = self.0.last.fetch_max(now, Ordering::Relaxed).max(now);
        if shown > now + ADJUSTMENT && !self.0.told_of_step_back.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                milliseconds = shown - now,
                "the wall clock went back; time is held until it catches up, and nothing is removed meanwhile"
            );
        }
        shown
    }

    /// Whether time is held, since the wall clock has gone back behind what was shown before.
    pub fn is_held(&self) -> bool {
        let now = self.0.wall();
        self.0.last.load(Ordering::Relaxed) > now + ADJUSTMENT
    }

    /// Whether this clock is behind, or ahead of, a time of an earlier run by so much that one of them is wrong, or a long
    /// time has passed.
    pub fn stands_to(&self, earlier: Millis) -> Standing {
        let (now, jump) = (self.now(), JUMP.as_millis() as Millis);
        if now > earlier.saturating_add(jump) {
            Standing::Ahead
        } else if earlier > now.saturating_add(jump) {
            Standing::Behind
        } else {
            Standing::Near
        }
    }

    /// Time since this clock was made, whatever the wall clock does.
    pub fn running(&self) -> Duration {
        match &self.0.source {
            Source::Manual(state) => state.borrow().running,
            Source::System { started } => started.elapsed(),
        }
    }

    /// Until running time has reached `deadline`.
    pub async fn sleep_until(&self, deadline: Duration) {
        match &self.0.source {
            Source::System { started } => {
                tokio::time::sleep_until((*started + deadline).into()).await;
            }
            Source::Manual(state) => wait(state, |manual| manual.running >= deadline).await,
        }
    }

    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.running() + time).await;
    }

    /// Until wall time has reached `end`.
    pub async fn sleep_until_wall(&self, end: Millis) {
        match &self.0.source {
            Source::System { .. } => self.sleep(Duration::from_millis(end.saturating_sub(self.now()))).await,
            Source::Manual(state) => {
                let last = &self.0.last;
                wait(state, |manual| manual.wall.max(last.load(Ordering::Relaxed)) >= end).await;
            }
        }
    }

    /// Moves a manual clock, wall and running time alike. On the machine's clock it does nothing.
    pub fn advance(&self, time: Duration) {
        if let Source::Manual(state) = &self.0.source {
            state.send_modify(|manual| {
                manual.wall += time.as_millis() as Millis;
                manual.running += time;
            });
        }
    }

    /// Steps a manual wall clock alone, as an operator or NTP does.
    pub fn step_wall(&self, time: Duration) {
        if let Source::Manual(state) = &self.0.source {
            state.send_modify(|manual| manual.wall += time.as_millis() as Millis);
        }
    }

    /// The same, backwards.
    pub fn step_wall_back(&self, time: Duration) {
        if let Source::Manual(state) = &self.0.source {
            state.send_modify(|manual| manual.wall -= time.as_millis() as Millis);
        }
    }
}

/// How a clock stands to a time of an earlier run: see [`Clock::stands_to`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Behind,
    Near,
    Ahead,
}

/// A rest for the machine's sake, which no test has to move.
pub async fn rest(time: Duration) {
    tokio::time::sleep(time).await;
}

async fn wait(state: &watch::Sender<Manual>, reached: impl FnMut(&Manual) -> bool) {
    // The sender lives in the clock that is being waited on, so the channel cannot close here.
    let _ = state.subscribe().wait_for(reached).await;
}

/// Notices a wall clock that leaps ahead of running time between two looks.
#[derive(Debug)]
pub struct JumpWatch {
    wall: Millis,
    running: Duration,
    /// Until then, in running time, the last jump counts.
    until: Duration,
}

impl JumpWatch {
    pub fn new(clock: &Clock) -> JumpWatch {
        JumpWatch { wall: clock.now(), running: clock.running(), until: Duration::ZERO }
    }

    /// Whether the wall clock has gone ahead by more than an hour beyond what has really passed since the last look.
    pub fn jumped(&mut self, clock: &Clock) -> bool {
        let before = std::mem::replace(self, JumpWatch { until: self.until, ..JumpWatch::new(clock) });
        let wall = Duration::from_millis(self.wall.saturating_sub(before.wall));
        wall > self.running.saturating_sub(before.running) + JUMP
    }

    /// Whether there was such a leap within the last `grace`.
    pub fn jumped_within(&mut self, grace: Duration, clock: &Clock) -> bool {
        if self.jumped(clock) {
            self.until = self.running + grace;
        }
        self.running < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_the_wall_clock_running_ahead_of_running_time() {
        let clock = Clock::manual(1_000_000);
        let mut watch = JumpWatch::new(&clock);
        clock.advance(Duration::from_secs(50 * 3600));
        assert!(!watch.jumped(&clock), "a long time that really passed is no jump");
        clock.step_wall(Duration::from_secs(3700));
        assert!(watch.jumped(&clock));
        assert!(!watch.jumped(&clock), "told once");
        let grace = Duration::from_secs(30);
        clock.step_wall(Duration::from_secs(3700));
        assert!(watch.jumped_within(grace, &clock) && watch.jumped_within(grace, &clock));
        clock.advance(grace);
        assert!(!watch.jumped_within(grace, &clock));
    }

    #[test]
    fn a_step_back_is_held_until_the_wall_clock_catches_up() {
        let clock = Clock::manual(10_000_000);
        clock.step_wall_back(Duration::from_secs(1));
        assert_eq!((clock.now(), clock.is_held()), (9_999_000, false), "nobody has seen a later time");
        clock.step_wall_back(Duration::from_secs(1));
        assert_eq!((clock.now(), clock.is_held()), (9_999_000, false), "an adjustment");
        clock.step_wall_back(Duration::from_millis(1));
        assert_eq!((clock.now(), clock.is_held()), (9_999_000, true));
        clock.advance(Duration::from_secs(2));
        assert_eq!((clock.now(), clock.is_held()), (9_999_999, false));
    }

    #[tokio::test]
    async fn sleepers_wake_when_the_manual_clock_is_moved() {
        let clock = Clock::manual(0);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
