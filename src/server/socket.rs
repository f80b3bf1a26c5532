//! A WebSocket that keeps no more memory than it needs.
//!
//! Owns its buffers: tungstenite keeps them as large as the largest frame that has come and the most that was said at once, for
//! as long as the socket lives. So once all that has come is read and all that was said has gone out, a socket that has had
//! large ones gets new ones. Must not know what is said.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Result};
use tokio_util::io::InspectReader;

use super::arriving::Share;
use super::frames::Frames;
use crate::limits::WRITE_BUFFER_BYTES;

/// Bytes of a message up to which its buffers are kept.
const KEPT: usize = 16 * 1024;

/// The bytes of a connection, which are followed as they are read.
pub type Raw = InspectReader<TokioIo<Upgraded>, Box<dyn FnMut(&[u8]) + Send>>;
type Inner = WebSocketStream<Raw>;

pub struct Socket {
    /// Gone only while it is exchanged.
    inner: Option<Inner>,
    pub share: Arc<Share>,
    frames: Arc<Mutex<Frames>>,
    read_buffer_bytes: usize,
    max_message_bytes: usize,
    /// Whether something large was said since it got them.
    has_said_much: bool,
    /// Whether everything that was said has gone out.
    is_flushed: bool,
    /// Whether either side has said that it goes.
    is_closing: bool,
}

impl Socket {
    pub async fn new(
        stream: TokioIo<Upgraded>,
        share: Arc<Share>,
        read_buffer_bytes: usize,
        max_message_bytes: usize,
    ) -> Socket {
        let frames = Arc::<Mutex<Frames>>::default();
        let follow = {
            let (share, frames) = (share.clone(), frames.clone());
            move |bytes: &[u8]| share.arrived(lock(&frames).read(bytes))
        };
        let stream = Raw::new(stream, Box::new(follow));
        Socket {
            inner: Some(open(stream, read_buffer_bytes, max_message_bytes).await),
            share,
            frames,
            read_buffer_bytes,
            max_message_bytes,
            has_said_much: false,
            is_flushed: true,
            is_closing: false,
        }
    }

    fn inner(&mut self) -> &mut Inner {
        self.inner.as_mut().expect("it is exchanged within one call")
    }

    /// Its bytes, without whatever was read of them and not told.
    pub fn into_raw(mut self) -> Raw {
        self.inner.take().expect("it is exchanged within one call").into_inner()
    }

    /// Where nothing is in the buffers, gives back what is too large; whether it did.
    fn give_back(&mut self) -> bool {
        if !self.is_flushed || self.is_closing {
            return false;
        }
        let mut frames = lock(&self.frames);
        let is_large = frames.largest > KEPT as u64 || self.has_said_much;
        if !is_large || !frames.is_between() {
            return false;
        }
        frames.largest = 0;
        drop(frames);
        self.has_said_much = false;
        let Some(inner) = self.inner.take() else { return false };
        let stream = inner.into_inner();
        let opening = open(stream, self.read_buffer_bytes, self.max_message_bytes);
        self.inner = Some(Box::pin(opening).now_or_never().expect("there is no handshake to wait for"));
        true
    }
}

fn lock(frames: &Mutex<Frames>) -> MutexGuard<'_, Frames> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn open(stream: Raw, read_buffer_bytes: usize, max_message_bytes: usize) -> Inner {
    let config = WebSocketConfig::default()
        .read_buffer_size(read_buffer_bytes)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes));
    Inner::from_raw_socket(stream, Role::Server, Some(config)).await
}

impl Stream for Socket {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        loop {
            let next = self.inner().poll_next_unpin(context);
            match &next {
                // The new one has to be asked as well, or nobody would be woken.
                Poll::Pending if self.give_back() => continue,
                // It is answered with the next flush.
                Poll::Ready(Some(Ok(Message::Ping(_)))) => self.is_flushed = false,
                Poll::Ready(Some(Ok(Message::Close(_)) | Err(_)) | None) => self.is_closing = true,
                _ => {}
            }
            return next;
        }
    }
}

impl Sink<Message> for Socket {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner().poll_ready_unpin(context)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<()> {
        self.is_flushed = false;
        self.has_said_much |= message.len() > KEPT;
        self.is_closing |= message.is_close();
        self.inner().start_send_unpin(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = self.inner().poll_flush_unpin(context);
        self.is_flushed |= matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.is_closing = true;
        self.inner().poll_close_unpin(context)
    }
}
