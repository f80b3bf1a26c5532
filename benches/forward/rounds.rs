//! Owns how long a frame takes to the binary and back with one under way: by itself, beside a phone that reads, and beside
//! one that does not. Must not know how the figures are told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use hdrhistogram::Histogram;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use waypost::clock::Clock;

use super::sockets::{Link, Socket, conn_id, enveloped, frame, greet, left, open, text};

/// Before each measurement, this part of its time.
const WARM_UP: u32 = 5;
/// Bytes of what the binary sends to the other phone after each answer.
pub const BESIDE_BYTES: usize = 16 * 1024;
/// So many that there is always one whose backlog grows: the binary hears of the close 2 s after the backlog is full, since
/// the daemon waits so long for the close frame to be taken.
pub const NON_READERS: usize = 4;
/// A phone that is closed for its backlog.
const BACKLOG_FULL: u16 = 1011;

/// Who is there beside the phone whose round trips are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nobody,
    /// A phone that reads what the binary sends to it.
    Reader,
    /// Several that read nothing; when one is closed for its backlog, the next takes its place.
    NonReaders,
}

impl Beside {
    pub const ALL: [Beside; 3] = [Beside::Nobody, Beside::Reader, Beside::NonReaders];

    pub fn name(self) -> &'static str {
        match self {
            Beside::Nobody => "waypost, one phone",
            Beside::Reader => "waypost, beside a phone that reads",
            Beside::NonReaders => "waypost, beside phones that do not read",
        }
    }
}

/// Nanoseconds from a frame to its answer.
pub type Latencies = Histogram<u64>;

pub fn latencies() -> Latencies {
    Histogram::new_with_max(60_000_000_000, 3).expect("3 digits up to a minute")
}

/// Through the echo: one socket there and back.
pub async fn echo(address: SocketAddr, frame: &Utf8Bytes, time: Duration, into: &mut Latencies) {
    ask_on_and_on(&mut open(address, "/", &[]).await, frame, time, into).await;
}

/// From a phone to its binary and back; returns how many non-readers were closed for their backlog meanwhile.
pub async fn waypost(
    address: SocketAddr,
    id: &str,
    frame: &Utf8Bytes,
    beside: Beside,
    time: Duration,
    into: &mut Latencies,
) -> usize {
    let others = match beside {
        Beside::Nobody => 0,
        Beside::Reader => 1,
        Beside::NonReaders => NON_READERS,
    };
    let Link { binary, mut phones } = Link::open(address, id, 1 + others).await;
    let mut tasks = JoinSet::new();
    let (mut fast, fast_id) = phones.remove(0);
    let (others, ids): (Vec<_>, Vec<_>) = phones.into_iter().unzip();
    let (closings, replace) = unbounded_channel();
    match beside {
        Beside::Nobody => {}
        Beside::Reader => others.into_iter().for_each(|phone| _ = tasks.spawn(read(phone))),
        Beside::NonReaders => _ = tasks.spawn(keep_silent(address, id.to_owned(), others, replace)),
    }
    let closed = Arc::new(AtomicUsize::new(0));
    let answer = enveloped(&fast_id, frame);
    tasks.spawn(answer_on_and_on(binary, fast_id, answer, ids, closed.clone(), closings));
    tokio::select! {
        () = ask_on_and_on(&mut fast, frame, time, into) => {}
        ended = tasks.join_next(), if !tasks.is_empty() => panic!("a socket has ended: {ended:?}"),
    }
    tasks.shutdown().await;
    closed.load(Ordering::Relaxed)
}

async fn ask_on_and_on(socket: &mut Socket, frame: &Utf8Bytes, time: Duration, into: &mut Latencies) {
    let clock = Clock::system();
    let warm = time / WARM_UP;
    loop {
        let asked = clock.running();
        if asked >= warm + time {
            return;
        }
        socket.send(Message::Text(frame.clone())).await.expect("the socket takes it");
        assert_eq!(text(socket).await.len(), frame.len(), "nothing else is under way");
        if asked >= warm {
            into.saturating_record((clock.running() - asked).as_nanos() as u64);
        }
    }
}

/// The binary: answers the fast phone, and after each answer says something to one of the others, each in turn.
async fn answer_on_and_on(
    mut binary: Socket,
    fast_id: String,
    answer: Utf8Bytes,
    others: Vec<String>,
    closed: Arc<AtomicUsize>,
    closings: UnboundedSender<()>,
) {
    let said = frame(BESIDE_BYTES);
    let mut others: VecDeque<_> = others.into_iter().map(|id| (enveloped(&id, &said), id)).collect();
    loop {
        let envelope = text(&mut binary).await;
        let id = conn_id(&envelope);
        if id == fast_id {
            binary.feed(Message::Text(answer.clone())).await.expect("the socket takes it");
            if let Some((message, _)) = others.front() {
                binary.feed(Message::Text(message.clone())).await.expect("the socket takes it");
                others.rotate_left(1);
            }
            binary.flush().await.expect("the socket takes it");
        } else if let Some(code) = left(&envelope) {
            assert_eq!(code, BACKLOG_FULL, "that is how a phone that does not read is closed");
            others.retain(|(_, other)| other != id);
            closed.fetch_add(1, Ordering::Relaxed);
            // While all is being ended, nobody may be there to hear it.
            let _ = closings.send(());
        } else {
            others.push_back((enveloped(id, &said), id.to_owned()));
        }
    }
}

async fn read(mut phone: Socket) {
    loop {
        text(&mut phone).await;
    }
}

/// Phones that read nothing, and another for each that is closed. Those stay here too: which one it was is not known.
async fn keep_silent(
    address: SocketAddr,
    id: String,
    mut phones: Vec<Socket>,
    mut closed: UnboundedReceiver<()>,
) {
    while closed.recv().await.is_some() {
        phones.push(greet(address, &id).await);
    }
}
