//! What a dialect is to a session.
//!
//! Owns the border between the two. Must not know any single dialect.

use std::pin::Pin;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Patience;
use crate::live::outbox::Close;

/// A message as it came. An error is a binary one that is not UTF-8, by its bytes.
pub type Incoming = Result<Utf8Bytes, usize>;

pub fn bytes_of(message: &Incoming) -> usize {
    message.as_ref().map_or_else(|bytes| *bytes, |text| text.len())
}

/// What a dialect makes of one message.
pub enum Reaction {
    Nothing,
    Answer(String),
    /// It is not done with yet; the next message waits for it.
    Later(Later),
    Close(Close),
}

impl Reaction {
    /// An answer that is held back until then.
    pub fn after(then: impl Future<Output = ()> + Send + 'static, answer: String) -> Reaction {
        Reaction::Later(Box::pin(async move {
            then.await;
            Reaction::Answer(answer)
        }))
    }
}

pub type Later = Pin<Box<dyn Future<Output = Reaction> + Send>>;

pub trait Dialect: Send {
    /// Whether messages are answered: then none is handled while too much is unsent. Otherwise whatever was read is
    /// handled, even when the peer has gone since.
    const ANSWERS: bool;

    fn handle(&mut self, message: Incoming) -> Reaction;

    /// The next text to send, beside what is in the outbox; the outbox is woken when there is some.
    fn next(&mut self) -> Option<Utf8Bytes> {
        None
    }
}

/// What dialects differ in beside their messages.
pub struct Rules {
    pub ping_interval: Duration,
    pub patience: Patience,
    pub first_message_within: Option<Duration>,
    /// How a silent socket is closed; `None` = without a word.
    pub silent: Option<Close>,
    pub not_text: Close,
    pub shutdown: Close,
}
