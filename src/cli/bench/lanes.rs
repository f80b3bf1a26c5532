//! Owns what asks: one task for each socket or pair of sockets, and what it counts. Must not know how long it goes on.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: it measures real time")]

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;

use super::pace::Pace;
use super::scenarios::{Script, TOKEN, random_hex};
use super::socket::{Socket, text_frame};
use crate::client::ClientError;

/// Latencies are counted up to a minute, in microseconds, with 3 digits.
const LONGEST_MICROS: u64 = 60_000_000;
const DIGITS: u8 = 3;

/// The time that is measured, and what was counted in it.
pub struct Course {
    began: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    counted: Mutex<Counted>,
}

/// What came of the requests.
#[derive(Clone)]
pub struct Counted {
    /// Microseconds from a request to its answer. In an open loop, of all requests that were due in the time; else of all
    /// answers that came in it.
    pub latency: Histogram<u64>,
    /// Answers that came in the time.
    pub answers: u64,
    /// Requests of an open loop that were due in the time, and still waited to be sent at its end.
    pub unsent: u64,
}

impl Course {
    pub fn new() -> Course {
        Course { began: OnceLock::new(), ended: OnceLock::new(), counted: Mutex::new(Counted::new()) }
    }

    /// From now on it is measured.
    pub fn begin(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    /// From now on nothing more is asked.
    pub fn end(&self) -> Instant {
        *self.ended.get_or_init(Instant::now)
    }

    pub fn is_over(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Once it is over.
    pub fn counted(&self) -> Counted {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answered(&self, asked: Instant, now: Instant, open: bool) {
        let Some(began) = self.began.get() else { return };
        let ended = self.ended.get();
        let in_time = ended.is_none();
        let counts = match open {
            true => asked >= *began && ended.is_none_or(|ended| asked < *ended),
            false => in_time,
        };
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.answers += u64::from(in_time);
        if counts {
            counted.record(asked, now);
        }
    }

    fn unsent(&self, asked: Instant, now: Instant) {
        let (Some(began), Some(ended)) = (self.began.get(), self.ended.get()) else { return };
        if asked >= *began && asked < *ended {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            counted.unsent += 1;
            counted.record(asked, now);
        }
    }
}

impl Counted {
    pub fn new() -> Counted {
        let latency = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS);
        let latency = latency.expect("the bounds are constants that fit each other");
        Counted { latency, answers: 0, unsent: 0 }
    }

    pub fn record(&mut self, asked: Instant, now: Instant) {
        let micros = now.saturating_duration_since(asked).as_micros();
        self.latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
    }
}

/// What asks as one.
pub enum Lane {
    /// A socket with some requests under way; answers come in the order of the requests.
    Single(Socket, Script),
    /// Two peers that meet. The second one's result names the first one's id.
    Pair { first: (Socket, Script), second: (Socket, Script), id: String },
}

impl Lane {
    /// Makes every request once, so that what is measured is a steady state.
    pub async fn prepare(&mut self) -> Result<(), ClientError> {
        match self {
            Lane::Single(socket, script) => {
                for request in script.all() {
                    socket.ask(request, script.answered).await?;
                }
                Ok(())
            }
            Lane::Pair { .. } => self.meet().await,
        }
    }

    /// Asks until it is over, and all answers have come. At most `most` requests are under way at once.
    pub async fn run(mut self, course: &Course, pace: Pace, most: usize) -> Result<Lane, ClientError> {
        match &mut self {
            Lane::Single(socket, script) => pipeline(socket, script, course, pace, most).await?,
            Lane::Pair { .. } => self.meet_repeatedly(course, pace).await?,
        }
        Ok(self)
    }

    pub async fn close(self) {
        match self {
            Lane::Single(socket, _) => socket.close().await,
            Lane::Pair { first, second, .. } => {
                tokio::join!(first.0.close(), second.0.close());
            }
        }
    }

    async fn meet_repeatedly(&mut self, course: &Course, mut pace: Pace) -> Result<(), ClientError> {
        loop {
            let now = Instant::now();
            if course.is_over() {
                give_up(course, &mut pace, now);
                return Ok(());
            }
            let Some(asked) = pace.due(now) else {
                self.await_turn(&pace).await?;
                continue;
            };
            self.meet().await?;
            course.answered(asked, Instant::now(), pace.is_open());
        }
    }

    async fn meet(&mut self) -> Result<(), ClientError> {
        let Lane::Pair { first: (alice, hers), second: (bob, his), id } = self else { return Ok(()) };
        let token = random_hex(TOKEN);
        hers.renew(&token);
        his.renew(&token);
        let (of_hers, of_his) = (hers.answered, his.answered);
        alice.ask(hers.next(), of_hers).await?;
        let result = bob.ask(his.next(), of_his).await?;
        let result = String::from_utf8_lossy(bob.text(result));
        if !result.contains(id.as_str()) {
            return Err(ClientError::Protocol(format!("{id} was not met: {result}")));
        }
        Ok(())
    }

    /// Meanwhile pings are answered.
    async fn await_turn(&mut self, pace: &Pace) -> Result<(), ClientError> {
        let Lane::Pair { first: (alice, _), second: (bob, _), .. } = self else { return Ok(()) };
        let heard = tokio::select! {
            () = pace.wake() => return Ok(()),
            filled = alice.fill() => filled.map(|()| alice),
            filled = bob.fill() => filled.map(|()| bob),
        }?;
        while heard.next()?.is_some() {}
        heard.flush().await
    }
}

async fn pipeline(
    socket: &mut Socket,
    script: &mut Script,
    course: &Course,
    mut pace: Pace,
    most: usize,
) -> Result<(), ClientError> {
    let mut asked = VecDeque::with_capacity(most);
    let mut now = Instant::now();
    loop {
        if course.is_over() {
            give_up(course, &mut pace, now);
            if asked.is_empty() {
                return Ok(());
            }
        } else {
            while asked.len() < most
                && let Some(at) = pace.due(now)
            {
                socket.put(script.next());
                asked.push_back(at);
            }
        }
        socket.flush().await?;
        if pace.is_open() {
            tokio::select! {
                filled = socket.fill() => filled?,
                () = pace.wake() => {}
            }
        } else {
            socket.fill().await?;
        }
        now = Instant::now();
        while let Some(heard) = socket.next()? {
            if script.answered.by(socket.text(heard))? {
                let Some(at) = asked.pop_front() else {
                    return Err(ClientError::Protocol("an answer to nothing".to_owned()));
                };
                course.answered(at, now, pace.is_open());
            }
        }
    }
}

/// Counts what should have been asked.
fn give_up(course: &Course, pace: &mut Pace, now: Instant) {
    while pace.is_open()
        && let Some(at) = pace.due(now)
    {
        course.unsent(at, now);
    }
}

/// A binary that says back to each phone what it hears from it.
pub async fn echo(socket: &mut Socket) -> Result<(), ClientError> {
    let mut frame = Vec::new();
    loop {
        socket.fill().await?;
        while let Some(heard) = socket.next()? {
            frame.clear();
            text_frame(socket.text(heard), &mut frame);
            socket.put(&frame);
        }
        socket.flush().await?;
    }
}

/// A socket that asks nothing, and answers the server's pings.
pub async fn hold(socket: &mut Socket) -> Result<(), ClientError> {
    loop {
        socket.fill().await?;
        while socket.next()?.is_some() {}
        socket.flush().await?;
    }
}
