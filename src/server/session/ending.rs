//! How a socket ends.
//!
//! Owns the close frame and the wait for the peer to read it. Must not know what was spoken.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::super::pace;
use super::super::socket::{Raw, Socket};
use super::{Dialect, FRAMES_PER_FLUSH, Session};
use crate::live::outbox::Close;
use crate::metrics::Ending;

/// How long a close frame may take to go out, and the peer to answer it.
pub(super) const CLOSING: Duration = Duration::from_secs(2);
/// How long the rest of a refused message is read and thrown away, so that the close frame reaches its sender.
const THROWING_AWAY: Duration = Duration::from_secs(10);

/// How a socket is to end: without a close of ours, or with one.
#[derive(Clone, Copy)]
pub(super) enum Over {
    Gone(Ending),
    Close(Close),
}

impl From<Error> for Over {
    fn from(_: Error) -> Over {
        Over::Gone(Ending::Failed)
    }
}

/// How a socket has ended, and what is left of it while the peer reads its close frame.
pub struct Ended {
    pub how: Ending,
    /// The close code of whoever closed first; `None` where nobody said one.
    pub code: Option<u16>,
    pub(super) closing: Option<Closing>,
}

/// Closing a connection with unread input would take the close frame back from under way.
pub(super) enum Closing {
    /// Until the peer answers the close.
    Answered(Box<Socket>),
    /// What the peer is still sending is thrown away.
    ThrownAway(Box<Raw>),
}

impl Ended {
    /// Until the peer has read the close, or had the time for it.
    pub async fn linger(self) {
        match self.closing {
            Some(Closing::Answered(mut socket)) => {
                let answered = Box::pin(async move { while let Some(Ok(_)) = socket.next().await {} });
                // A peer that does not answer the close is left all the same.
                let _ = timeout(CLOSING, answered).await;
            }
            // Whoever goes on sending for longer does not listen.
            Some(Closing::ThrownAway(raw)) => {
                let _ = timeout(THROWING_AWAY, Box::pin(throw_away(raw))).await;
            }
            None => {}
        }
    }
}

async fn throw_away(mut raw: Box<Raw>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(Ok(read @ 1..)) = timeout(CLOSING, raw.read(&mut buffer)).await {
        pace::refused(read).await;
    }
}

impl<D: Dialect> Session<'_, D> {
    /// Sends a close instead of running.
    pub async fn refuse(self, close: Close) -> Ended {
        Box::pin(self.end(Over::Close(close))).await
    }

    /// Reads what is there, so that nothing is sent to a peer that has gone already.
    pub(super) fn look(&mut self) {
        for _ in 0..FRAMES_PER_FLUSH {
            if self.over.is_some() || !self.may_read() {
                return;
            }
            let Some(frame) = self.stream.next().now_or_never() else { return };
            if let Err(over) = self.received(frame) {
                self.over(over);
            }
        }
    }

    /// Sends what is queued and the close frame, where there is one to send: whoever closes first says it.
    pub(super) async fn end(mut self, over: Over) -> Ended {
        self.ahead = VecDeque::new();
        (self.in_flight, self.landed) = (None, None);
        let close = match over {
            Over::Close(close) if self.peer_code.is_none() => close,
            Over::Close(Close { ending: how, .. }) | Over::Gone(how) => {
                let mut how = how;
                if self.peer_code.is_some() {
                    // Nothing that was sent past the peer's close has failed.
                    how = if how == Ending::Failed { Ending::Closed } else { how };
                    // The answer to that; whether the peer still wants it does not matter.
                    let _ = timeout(CLOSING, self.sink.flush()).await;
                }
                return Ended { how, code: self.peer_code, closing: None };
            }
        };
        if close.ending == Ending::TooLarge {
            pace::too_large().await;
        }
        let closing = async {
            if !matches!(close.ending, Ending::SlowConsumer | Ending::BacklogFull | Ending::Silent) {
                while let Some(text) = self.outbox.next() {
                    self.sink.feed(Message::Text(text)).await?;
                }
            }
            if close.ending == Ending::Shutdown {
                while let Some(text) = self.dialect.next() {
                    self.sink.feed(Message::Text(text)).await?;
                }
            }
            let frame = CloseFrame { code: close.code.into(), reason: Utf8Bytes::from_static(close.reason) };
            self.sink.send(Message::Close(Some(frame))).await
        };
        let sent = timeout(CLOSING, closing).await;
        let socket = match sent {
            Ok(Ok(())) => self.stream.reunite(self.sink).ok(),
            _ => None,
        };
        let is_sending =
            matches!(close.ending, Ending::TooLarge | Ending::NotText) || self.share.is_evicted();
        let closing = socket.map(|socket| {
            if is_sending {
                // Nothing of it is kept.
                self.share.end();
                Closing::ThrownAway(Box::new(socket.into_raw()))
            } else {
                Closing::Answered(Box::new(socket))
            }
        });
        Ended { how: close.ending, code: Some(close.code), closing }
    }
}
