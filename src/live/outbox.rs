//! What is waiting to be sent on one socket, bounded in bytes.
//!
//! Owns the queue between whoever has something to say to a socket and the session that writes it, the closes that a
//! session is told to make, and probes for life. Must not know what the messages say.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::id::SocketId;
use crate::metrics::{Ending, Metrics, Undelivered, UndeliveredLabel};

/// What a close without a code, or an end without a close, is taken for.
pub const GOING_AWAY: u16 = 1001;

/// A close frame and how the ending is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: &'static str,
    pub ending: Ending,
}

impl Close {
    pub const REPLACED: Close =
        Close { code: 4409, reason: "replaced by a newer connection", ending: Ending::Replaced };
    pub const SLOW_CONSUMER: Close =
        Close { code: 1013, reason: "slow consumer", ending: Ending::SlowConsumer };
    pub const SHUTDOWN: Close =
        Close { code: 1001, reason: "Server shutting down", ending: Ending::Shutdown };
}

/// What one socket may have queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    pub bytes: usize,
    /// How a socket that has more is closed.
    pub full: Close,
}

/// What a message takes in memory beside its text: so much of the budget, and of a ceiling's bytes no message may have less.
const BYTES_PER_MESSAGE: usize = 64;

/// What a message counts for while it is unsent.
pub fn weight(text: &Utf8Bytes) -> usize {
    text.len() + BYTES_PER_MESSAGE
}

/// Unsent bytes of all sockets together, and their ceiling.
#[derive(Debug)]
pub struct Budget {
    pub total: usize,
    used: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Budget {
    pub fn new(total: usize, metrics: Arc<Metrics>) -> Arc<Budget> {
        Arc::new(Budget { total, used: AtomicUsize::new(0), metrics })
    }

    pub fn count(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.unsent.inc_by(bytes as i64);
    }

    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.metrics.unsent.dec_by(bytes as i64);
    }

    /// Bytes unsent now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn is_exceeded(&self) -> bool {
        self.used() > self.total
    }
}

/// One socket's outbox, shared by its session, the hub and whoever is about to send.
#[derive(Debug)]
pub struct Outbox {
    pub socket: SocketId,
    pub address: IpAddr,
    /// Running time at which the socket was opened.
    pub opened: Duration,
    ceiling: Ceiling,
    queue: Mutex<Queue>,
    wake: Notify,
    unsent: AtomicUsize,
    /// Frames read from the socket.
    heard: AtomicU64,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Utf8Bytes>,
    /// What these add up to.
    bytes: usize,
    close: Option<Close>,
    /// The close to make when all of this has been sent.
    last_word: Option<Close>,
    probes: Vec<oneshot::Sender<()>>,
    gone: bool,
}

/// What the session finds when it is woken.
#[derive(Debug)]
pub struct Taken {
    pub close: Option<Close>,
    /// Whether it is to close once all that is queued has been sent.
    pub last_word: bool,
    pub probes: Vec<oneshot::Sender<()>>,
}

impl Outbox {
    pub fn new(
        socket: SocketId,
        address: IpAddr,
        opened: Duration,
        ceiling: Ceiling,
        budget: Arc<Budget>,
    ) -> Arc<Outbox> {
        Arc::new(Outbox {
            socket,
            address,
            opened,
            ceiling,
            queue: Mutex::default(),
            wake: Notify::new(),
            unsent: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
            budget,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the socket is about to be closed.
    pub fn is_closing(&self) -> bool {
        self.lock().close.is_some()
    }

    /// Queues a message. `Full` also closes the socket; both outcomes are counted.
    pub fn try_send(&self, text: Utf8Bytes) -> Result<(), Undelivered> {
        let mut queue = self.lock();
        let most = self.ceiling.bytes;
        let outcome = if queue.gone || queue.close.is_some() || queue.last_word.is_some() {
            Undelivered::Gone
        } else if queue.bytes + text.len() > most || queue.messages.len() > most / BYTES_PER_MESSAGE {
            queue.close = Some(self.ceiling.full);
            Undelivered::Full
        } else {
            self.count(weight(&text));
            queue.bytes += text.len();
            queue.messages.push_back(text);
            drop(queue);
            self.wake.notify_one();
            return Ok(());
        };
        drop(queue);
        self.wake.notify_one();
        self.count_undelivered(outcome);
        Err(outcome)
    }

    /// Whether there is room for what another peer wants to send. Those may fill half of the ceiling, so that nobody is closed
    /// as a slow consumer for what others send, and what the daemon itself has to say still fits. When all sockets together
    /// have half of what they may, only who reads gets more.
    pub fn has_room(&self, bytes: usize) -> Result<(), Undelivered> {
        let queue = self.lock();
        if queue.gone || queue.close.is_some() || queue.last_word.is_some() {
            Err(Undelivered::Gone)
        } else if 2 * (queue.bytes + bytes) > self.ceiling.bytes
            || (!queue.messages.is_empty() && 2 * (self.budget.used() + bytes) > self.budget.total)
        {
            Err(Undelivered::Full)
        } else {
            Ok(())
        }
    }

    /// Queues what another peer sends, where there is room for that; both outcomes without it are counted.
    pub fn try_pass(&self, text: Utf8Bytes) -> Result<(), Undelivered> {
        let Err(outcome) = self.has_room(text.len()) else { return self.try_send(text) };
        self.count_undelivered(outcome);
        Err(outcome)
    }

    fn count_undelivered(&self, outcome: Undelivered) {
        self.budget.metrics.undelivered.get_or_create(&UndeliveredLabel { outcome }).inc();
    }

    /// Tells the session to send what is queued and close. The first close counts.
    pub fn close(&self, close: Close) {
        self.lock().close.get_or_insert(close);
        self.wake.notify_one();
    }

    /// Closes the socket as one that has too much queued.
    pub fn close_as_full(&self) {
        self.close(self.ceiling.full);
    }

    /// Tells the session to close once the socket has taken all that is queued; nothing is queued any more.
    pub fn close_after_sending(&self, close: Close) {
        self.lock().last_word.get_or_insert(close);
        self.wake.notify_one();
    }

    /// Tells the session that there is something for it elsewhere.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Pings the socket: the receiver hears when the pong arrives, and fails when the session ends.
    pub fn probe(&self) -> oneshot::Receiver<()> {
        let (probe, answer) = oneshot::channel();
        let mut queue = self.lock();
        if !queue.gone {
            queue.probes.push(probe);
        }
        drop(queue);
        self.wake.notify_one();
        answer
    }

    /// How many frames the socket has sent.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Bytes queued or handed to the socket and not yet taken by it.
    pub fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Relaxed)
    }

    // The session's side.

    /// A frame has come.
    pub fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Until something was queued, told or asked since the last call.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What the session was told and asked.
    pub fn take(&self) -> Taken {
        let mut queue = self.lock();
        let last_word = queue.last_word.is_some();
        Taken { close: queue.close, last_word, probes: std::mem::take(&mut queue.probes) }
    }

    /// The next message to write; it counts as unsent until [`Outbox::sent`].
    pub fn next(&self) -> Option<Utf8Bytes> {
        let mut queue = self.lock();
        let text = queue.messages.pop_front()?;
        queue.bytes -= text.len();
        Some(text)
    }

    /// The close to make now that nothing is queued.
    pub fn last_word(&self) -> Option<Close> {
        let queue = self.lock();
        queue.last_word.filter(|_| queue.messages.is_empty())
    }

    /// Bytes that the socket has to answer for past the queue.
    pub fn count(&self, bytes: usize) {
        self.unsent.fetch_add(bytes, Ordering::Relaxed);
        self.budget.count(bytes);
    }

    /// These bytes have gone where they were to go.
    pub fn sent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.release(bytes);
    }

    /// The session has ended: nothing can be sent any more, probes fail, and its bytes no longer count.
    pub fn end(&self) {
        let mut queue = self.lock();
        queue.gone = true;
        queue.messages = VecDeque::new();
        queue.bytes = 0;
        queue.probes = Vec::new();
        let left = self.unsent();
        drop(queue);
        self.sent(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(per_socket: usize) -> (Arc<Outbox>, Arc<Budget>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let budget = Budget::new(1000, metrics.clone());
        let address = IpAddr::from([127, 0, 0, 1]);
        let ceiling = Ceiling { bytes: per_socket, full: Close::SLOW_CONSUMER };
        let outbox = Outbox::new(SocketId(1), address, Duration::ZERO, ceiling, budget.clone());
        (outbox, budget, metrics)
    }

    #[test]
    fn full_closes_the_slow_consumer_and_gone_says_so() {
        let (outbox, budget, metrics) = outbox(10);
        assert_eq!(outbox.try_send("12345678".into()), Ok(()));
        assert_eq!(outbox.try_send("123".into()), Err(Undelivered::Full));
        assert_eq!(outbox.take().close, Some(Close::SLOW_CONSUMER));
        assert_eq!(outbox.try_send("1".into()), Err(Undelivered::Gone));
        assert_eq!((outbox.unsent(), budget.used()), (8 + 64, 8 + 64));
        outbox.end();
        assert_eq!((outbox.unsent(), budget.used(), metrics.unsent.get()), (0, 0, 0));
        let full = UndeliveredLabel { outcome: Undelivered::Full };
        assert_eq!(metrics.undelivered.get_or_create(&full).get(), 1);
    }

    #[test]
    fn tiny_messages_are_counted_too_and_the_last_word_waits_for_what_is_queued() {
        let (outbox, ..) = outbox(200);
        (0..4).for_each(|_| assert_eq!(outbox.try_send("1".into()), Ok(())));
        assert_eq!(outbox.try_send("1".into()), Err(Undelivered::Full));
        let (outbox, ..) = self::outbox(200);
        assert_eq!(outbox.try_send("1".into()), Ok(()));
        outbox.close_after_sending(Close::SHUTDOWN);
        assert_eq!(outbox.try_send("2".into()), Err(Undelivered::Gone));
        assert_eq!((outbox.last_word(), outbox.next()), (None, Some("1".into())));
        assert_eq!((outbox.last_word(), outbox.take().close), (Some(Close::SHUTDOWN), None));
    }

    #[test]
    fn the_first_close_counts_and_a_probe_of_a_gone_socket_fails_at_once() {
        let (outbox, _, _) = outbox(10);
        outbox.close(Close::REPLACED);
        outbox.close(Close::SHUTDOWN);
        assert_eq!(outbox.take().close, Some(Close::REPLACED));
        let mut waiting = outbox.probe();
        assert!(waiting.try_recv().is_err());
        outbox.end();
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(outbox.probe().try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
