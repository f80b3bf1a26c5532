//! Time on one socket: when it was last heard, when it is pinged next, when it counts as dead.
//!
//! Owns the rules of liveness. Must not know the socket, nor read a clock.

use std::time::Duration;

/// How long a silent socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// From its last frame on, whatever is pinged meanwhile.
    SinceFrame(Duration),
    /// From a ping on, until any frame comes.
    SincePing(Duration),
}

pub struct Pulse {
    ping_interval: Duration,
    patience: Patience,
    last_frame: Duration,
    /// The first ping since the last frame.
    pinged: Option<Duration>,
    next_ping: Duration,
    /// Until the first complete message has come.
    first_message_by: Option<Duration>,
    /// When it counts as dead however much it says.
    end_by: Option<Duration>,
}

/// What time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Ping,
    Dead,
    NoFirstMessage,
    Nothing,
}

impl Pulse {
    pub fn new(
        now: Duration,
        ping_interval: Duration,
        patience: Patience,
        first_message_within: Option<Duration>,
    ) -> Pulse {
        Pulse {
            ping_interval,
            patience,
            last_frame: now,
            pinged: None,
            next_ping: now + ping_interval,
            first_message_by: first_message_within.map(|within| now + within),
            end_by: None,
        }
    }

    /// Any frame has come, or there is one that was not read yet.
    pub fn heard(&mut self, now: Duration) {
        self.last_frame = now;
        self.pinged = None;
    }

    /// A complete message has come.
    pub fn heard_message(&mut self) {
        self.first_message_by = None;
    }

    /// The ping that was due could not be sent until now.
    pub fn pinged_late(&mut self, now: Duration) {
        self.pinged = self.pinged.map(|_| now);
    }

    /// Nothing more is said to it: it has so long to take what was said. The first call counts.
    pub fn end_within(&mut self, time: Duration, now: Duration) {
        self.end_by.get_or_insert(now + time);
    }

    fn dead_at(&self) -> Option<Duration> {
        let silent = match self.patience {
            Patience::SinceFrame(patience) => Some(self.last_frame + patience),
            Patience::SincePing(patience) => self.pinged.map(|pinged| pinged + patience),
        };
        [silent, self.end_by].into_iter().flatten().min()
    }

    /// When to look next, at the latest.
    pub fn deadline(&self) -> Duration {
        [self.dead_at(), self.first_message_by].into_iter().flatten().fold(self.next_ping, Duration::min)
    }

    pub fn beat(&mut self, now: Duration) -> Beat {
        if self.dead_at().is_some_and(|at| now >= at) {
            Beat::Dead
        } else if self.first_message_by.is_some_and(|by| now >= by) {
            Beat::NoFirstMessage
        } else if now >= self.next_ping {
            self.next_ping = now + self.ping_interval;
            self.pinged.get_or_insert(now);
            Beat::Ping
        } else {
            Beat::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn since_ping_a_socket_has_its_time_from_the_first_ping_that_it_did_not_answer() {
        let mut pulse = Pulse::new(Duration::ZERO, 30 * SECOND, Patience::SincePing(40 * SECOND), None);
        assert_eq!((pulse.deadline(), pulse.beat(29 * SECOND)), (30 * SECOND, Beat::Nothing));
        assert_eq!((pulse.beat(30 * SECOND), pulse.deadline()), (Beat::Ping, 60 * SECOND));
        assert_eq!((pulse.beat(60 * SECOND), pulse.deadline()), (Beat::Ping, 70 * SECOND));
        pulse.heard(69 * SECOND);
        assert_eq!((pulse.beat(70 * SECOND), pulse.beat(90 * SECOND)), (Beat::Nothing, Beat::Ping));
        pulse.pinged_late(100 * SECOND);
        assert_eq!((pulse.beat(130 * SECOND), pulse.beat(140 * SECOND)), (Beat::Ping, Beat::Dead));
    }

    #[test]
    fn who_is_to_end_has_its_time_whatever_it_says() {
        let mut pulse = Pulse::new(Duration::ZERO, 30 * SECOND, Patience::SincePing(30 * SECOND), None);
        pulse.end_within(20 * SECOND, SECOND);
        pulse.end_within(20 * SECOND, 10 * SECOND);
        pulse.heard(20 * SECOND);
        assert_eq!((pulse.beat(20 * SECOND), pulse.beat(21 * SECOND)), (Beat::Nothing, Beat::Dead));
    }

    #[test]
    fn since_frame_it_has_its_time_from_its_last_frame() {
        let mut pulse =
            Pulse::new(Duration::ZERO, 30 * SECOND, Patience::SinceFrame(40 * SECOND), Some(5 * SECOND));
        assert_eq!((pulse.deadline(), pulse.beat(5 * SECOND)), (5 * SECOND, Beat::NoFirstMessage));
        pulse.heard_message();
        assert_eq!((pulse.beat(30 * SECOND), pulse.beat(40 * SECOND)), (Beat::Ping, Beat::Dead));
        pulse.heard(39 * SECOND);
        assert_eq!(pulse.beat(40 * SECOND), Beat::Nothing);
    }
}
