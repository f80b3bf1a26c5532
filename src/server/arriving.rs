//! What has arrived of messages and bodies and is not handled yet, of all clients together: memory that strangers fill.
//!
//! Owns the count and its ceiling. Past it whoever has taken longest has to go: an honest message is whole before long. Must
//! not know what arrives.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use crate::metrics::Metrics;

/// Bytes of one client that do not count: most have no more, and ask nobody. Where more is read at once, that is free as well.
pub const FREE: usize = 8 * 1024;
/// The place of who had to go.
const EVICTED: u64 = u64::MAX;

pub struct Arriving {
    most: usize,
    /// How often somebody has begun to count.
    age: AtomicU64,
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    used: usize,
    /// Who has more than is free, and how many bytes that counts for; the oldest first, by age and then by address in memory.
    places: BTreeMap<(u64, usize), (Arc<Client>, usize)>,
}

/// What one client has sent that is not handled yet.
#[derive(Default)]
struct Client {
    waiting: AtomicUsize,
    /// The age of its place in the table; 0 = none.
    place: AtomicU64,
    /// Makes it go.
    evict: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// One client's part of what arrives, until it is dropped.
pub struct Share {
    all: Arc<Arriving>,
    free: usize,
    client: Arc<Client>,
}

impl Arriving {
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Arc<Arriving> {
        Arc::new(Arriving { most, age: AtomicU64::new(1), table: Mutex::default(), metrics })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this client has so many bytes that count. Where it had none, they are of this age, or new.
    fn count(&self, client: &Arc<Client>, bytes: usize, age: Option<u64>) {
        let mut table = self.lock();
        let place = client.place.load(Ordering::Relaxed);
        if place == EVICTED {
            return;
        }
        let before = table.places.get(&key(client, place)).map_or(0, |(_, counted)| *counted);
        let place = match place {
            0 => age.unwrap_or_else(|| self.age.fetch_add(1, Ordering::Relaxed)),
            place => place,
        };
        client.place.store(place, Ordering::Relaxed);
        table.places.insert(key(client, place), (client.clone(), bytes));
        table.used = table.used - before + bytes;
        let mut evicted = Vec::new();
        while table.used > self.most
            && let Some((_, (client, counted))) = table.places.pop_first()
        {
            table.used -= counted;
            client.place.store(EVICTED, Ordering::Relaxed);
            evicted.push(client);
        }
        self.metrics.arriving.set(table.used as i64);
        drop(table);
        evicted.iter().filter_map(|client| client.evict.get()).for_each(|evict| evict());
    }

    /// This client counts no more; 0 = for now.
    fn forget(&self, client: &Arc<Client>, becomes: u64) {
        let mut table = self.lock();
        let place = client.place.load(Ordering::Relaxed);
        if place == EVICTED {
            return;
        }
        client.place.store(becomes, Ordering::Relaxed);
        if let Some((_, counted)) = table.places.remove(&key(client, place)) {
            table.used -= counted;
            self.metrics.arriving.set(table.used as i64);
        }
    }
}

fn key(client: &Arc<Client>, place: u64) -> (u64, usize) {
    (place, Arc::as_ptr(client).addr())
}

impl Share {
    pub fn new(all: Arc<Arriving>, free: usize) -> Arc<Share> {
        Arc::new(Share { all, free, client: Arc::default() })
    }

    /// What makes its client go, where all together have too much. Once.
    pub fn evicted_by(&self, evict: impl Fn() + Send + Sync + 'static) {
        let _ = self.client.evict.set(Box::new(evict));
    }

    /// So many bytes have come.
    pub fn arrived(&self, bytes: usize) {
        let waiting = self.client.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > self.free {
            self.all.count(&self.client, waiting - self.free, None);
        }
    }

    /// How old is what comes next, for [`Share::handled`].
    pub fn age(&self) -> u64 {
        self.all.age.load(Ordering::Relaxed)
    }

    /// The first bytes are handled; what has come behind them is of this age.
    pub fn handled(&self, bytes: usize, age: u64) {
        let waiting = self.client.waiting.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        if self.client.place.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.all.forget(&self.client, 0);
        if waiting > self.free {
            self.all.count(&self.client, waiting - self.free, Some(age));
        }
    }

    /// Whether its client had to go.
    pub fn is_evicted(&self) -> bool {
        self.client.place.load(Ordering::Relaxed) == EVICTED
    }

    /// Counts nothing any more.
    pub fn end(&self) {
        if self.client.place.load(Ordering::Relaxed) != 0 {
            self.all.forget(&self.client, EVICTED);
        }
        self.client.place.store(EVICTED, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end();
    }
}

/// A WebSocket's bytes, of which those of its messages count as they are read.
pub struct Counting<S> {
    stream: S,
    pub frames: Frames,
    pub share: Arc<Share>,
}

impl<S: Unpin> Counting<S> {
    pub fn new(stream: S, share: Arc<Share>) -> Counting<S> {
        Counting { stream, frames: Frames::default(), share }
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(&mut self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(self.stream().poll_read(context, into));
        let bytes = self.frames.read(&into.filled()[before..]);
        self.share.arrived(bytes);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn client(all: &Arc<Arriving>) -> (Arc<Share>, Arc<AtomicBool>) {
        let (share, gone) = (Share::new(all.clone(), FREE), Arc::new(AtomicBool::new(false)));
        share.evicted_by({
            let gone = gone.clone();
            move || gone.store(true, Ordering::Relaxed)
        });
        (share, gone)
    }

    fn are_gone<const N: usize>(gone: [&AtomicBool; N]) -> [bool; N] {
        gone.map(|gone| gone.load(Ordering::Relaxed))
    }

    #[test]
    fn whoever_sends_one_message_after_the_other_has_not_taken_longest() {
        let all = Arriving::new(5 * FREE, Arc::default());
        let [(busy, busy_gone), (slow, slow_gone), (late, _)] = [(); 3].map(|()| client(&all));
        busy.arrived(2 * FREE);
        slow.arrived(2 * FREE);
        let age = busy.age();
        busy.arrived(2 * FREE);
        // Until then it was the oldest.
        busy.handled(2 * FREE, age);
        late.arrived(5 * FREE);
        assert_eq!(are_gone([&busy_gone, &slow_gone]), [false, true]);
        assert_eq!(all.metrics.arriving.get(), 5 * FREE as i64);
        drop((busy, slow, late));
        assert_eq!(all.metrics.arriving.get(), 0);
    }

    #[test]
    fn small_messages_before_a_large_one_make_it_no_younger_than_it_is() {
        let all = Arriving::new(5 * FREE, Arc::default());
        let [(sly, sly_gone), (honest, honest_gone), (late, _)] = [(); 3].map(|()| client(&all));
        sly.arrived(10);
        let age = sly.age();
        sly.arrived(3 * FREE);
        honest.arrived(3 * FREE);
        sly.handled(10, age);
        late.arrived(3 * FREE);
        assert_eq!(are_gone([&sly_gone, &honest_gone]), [true, false]);
    }
}
