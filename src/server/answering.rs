//! A connection whose client has to take its answers.
//!
//! Owns the deadline of writing while HTTP is spoken. Must not know requests, nor what becomes of a socket: sessions have
//! rules of their own for who does not read.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::listen::Plain;
use crate::clock::Clock;

/// How long a client may take nothing of an answer. Generous, since the kernel tells of what was taken in large steps.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The bytes of a connection, encrypted or not.
pub type Stream = Either<Plain, Box<TlsStream<Plain>>>;

pub struct Answering {
    stream: Stream,
    clock: Clock,
    /// Ends the connection, while the client takes nothing.
    alarm: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    upgraded: Upgraded,
}

/// Told once the connection has become a socket.
#[derive(Clone, Default)]
pub struct Upgraded(Arc<AtomicBool>);

impl Upgraded {
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Answering {
    pub fn new(stream: Stream, clock: Clock) -> (Answering, Upgraded) {
        let upgraded = Upgraded::default();
        (Answering { stream, clock, alarm: None, upgraded: upgraded.clone() }, upgraded)
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(&mut self.stream)
    }

    /// Lets the client wait for as long as it may.
    fn bounded<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() || self.upgraded.0.load(Ordering::Relaxed) {
            self.alarm = None;
            return written;
        }
        let clock = &self.clock;
        let alarm = self.alarm.get_or_insert_with(|| {
            let clock = clock.clone();
            Box::pin(async move { clock.sleep(ANSWER_TIMEOUT).await })
        });
        alarm.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Answering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, into)
    }
}

impl AsyncWrite for Answering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write(context, bytes);
        self.bounded(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write_vectored(context, bytes);
        self.bounded(written, context)
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
