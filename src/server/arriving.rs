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

use crate::metrics::Metrics;

/// Bytes of one client that do not count: most have no more, and ask nobody.
const FREE: usize = 8 * 1024;
/// The place of who had to go.
const EVICTED: u64 = u64::MAX;

pub struct Arriving {
    most: usize,
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    used: usize,
    last: u64,
    /// Who has more than is free, and how many bytes that counts for; the oldest first.
    places: BTreeMap<u64, (Arc<Client>, usize)>,
}

/// What one client has sent. Its bytes are counted where they are read, and are over where they are handled.
#[derive(Default)]
struct Client {
    arrived: AtomicUsize,
    handled: AtomicUsize,
    /// Its place in the table; 0 = none.
    place: AtomicU64,
    /// Makes it go.
    evict: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// One client's part of what arrives, until it is dropped.
pub struct Share {
    all: Arc<Arriving>,
    client: Arc<Client>,
}

impl Arriving {
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Arc<Arriving> {
        Arc::new(Arriving { most, table: Mutex::default(), metrics })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this client has so many bytes that count.
    fn count(&self, client: &Arc<Client>, bytes: usize) {
        let mut table = self.lock();
        let place = client.place.load(Ordering::Relaxed);
        if place == EVICTED {
            return;
        }
        if bytes == 0 {
            table.remove(place);
            client.place.store(0, Ordering::Relaxed);
        } else if let Some((_, counted)) = table.places.get_mut(&place) {
            let before = std::mem::replace(counted, bytes);
            table.used = table.used - before + bytes;
        } else {
            table.last += 1;
            let place = table.last;
            client.place.store(place, Ordering::Relaxed);
            table.places.insert(place, (client.clone(), bytes));
            table.used += bytes;
        }
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

    /// This client counts no more.
    fn end(&self, client: &Client) {
        let place = client.place.swap(EVICTED, Ordering::Relaxed);
        if place == 0 || place == EVICTED {
            return;
        }
        let mut table = self.lock();
        table.remove(place);
        self.metrics.arriving.set(table.used as i64);
    }
}

impl Table {
    fn remove(&mut self, place: u64) {
        if let Some((_, counted)) = self.places.remove(&place) {
            self.used -= counted;
        }
    }
}

impl Share {
    pub fn new(all: Arc<Arriving>) -> Arc<Share> {
        Arc::new(Share { all, client: Arc::default() })
    }

    /// What makes its client go, where all together have too much. Once.
    pub fn evicted_by(&self, evict: impl Fn() + Send + Sync + 'static) {
        let _ = self.client.evict.set(Box::new(evict));
    }

    /// So many bytes were read.
    pub fn arrived(&self, bytes: usize) {
        self.client.arrived.fetch_add(bytes, Ordering::Relaxed);
        self.recount();
    }

    /// So many of the bytes that were read are kept nowhere.
    pub fn skip(&self, bytes: usize) {
        self.client.arrived.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How far has been read: for [`Share::handled`].
    pub fn position(&self) -> usize {
        self.client.arrived.load(Ordering::Relaxed)
    }

    /// What was read up to there is handled. Whatever has come behind that is younger.
    pub fn handled(&self, position: usize) {
        self.client.handled.store(position, Ordering::Relaxed);
        if self.client.place.load(Ordering::Relaxed) != 0 {
            self.all.count(&self.client, 0);
            self.recount();
        }
    }

    /// Counts nothing any more: what still arrives is kept nowhere.
    pub fn end(&self) {
        self.all.end(&self.client);
    }

    fn recount(&self) {
        let waiting = self.position().saturating_sub(self.client.handled.load(Ordering::Relaxed));
        if waiting > FREE {
            self.all.count(&self.client, waiting - FREE);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end();
    }
}

/// A stream whose bytes count as they are read.
pub struct Counting<S> {
    stream: S,
    pub share: Arc<Share>,
}

impl<S: Unpin> Counting<S> {
    pub fn new(stream: S, share: Arc<Share>) -> Counting<S> {
        Counting { stream, share }
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
        self.share.arrived(into.filled().len() - before);
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
        let (share, gone) = (Share::new(all.clone()), Arc::new(AtomicBool::new(false)));
        share.evicted_by({
            let gone = gone.clone();
            move || gone.store(true, Ordering::Relaxed)
        });
        (share, gone)
    }

    #[test]
    fn whoever_sends_one_message_after_the_other_has_not_taken_longest() {
        let all = Arriving::new(5 * FREE, Arc::default());
        let [(busy, busy_gone), (slow, slow_gone), (late, _)] = [(); 3].map(|()| client(&all));
        busy.arrived(2 * FREE);
        let whole = busy.position();
        busy.arrived(2 * FREE);
        slow.arrived(3 * FREE);
        // Until then it was the oldest.
        busy.handled(whole);
        late.arrived(4 * FREE);
        assert_eq!([&busy_gone, &slow_gone].map(|gone| gone.load(Ordering::Relaxed)), [false, true]);
        assert_eq!(all.metrics.arriving.get(), 4 * FREE as i64);
        drop((busy, slow, late));
        assert_eq!(all.metrics.arriving.get(), 0);
    }
}
