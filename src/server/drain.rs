//! Ending: everything that serves holds a token, is told once to stop, and is waited for.
//!
//! Owns the signal and the count of what still runs. Must not know what runs.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub struct Drain {
    stop: watch::Sender<bool>,
    token: Token,
    ended: mpsc::Receiver<Infallible>,
}

/// Held by whatever serves, until it has ended.
#[derive(Clone)]
pub struct Token {
    stop: watch::Receiver<bool>,
    _alive: mpsc::Sender<Infallible>,
}

impl Drain {
    pub fn new() -> Drain {
        let (alive, ended) = mpsc::channel(1);
        let stop = watch::Sender::new(false);
        let token = Token { stop: stop.subscribe(), _alive: alive };
        Drain { stop, token, ended }
    }

    pub fn token(&self) -> Token {
        self.token.clone()
    }

    /// Tells all to stop and waits for them; false when some were still at it after `patience`.
    pub async fn finish(self, patience: Duration) -> bool {
        let Drain { stop, token, mut ended } = self;
        stop.send_replace(true);
        drop(token);
        tokio::time::timeout(patience, ended.recv()).await.is_ok()
    }
}

impl Token {
    /// Until the end has been called for.
    pub async fn stopped(&mut self) {
        // A sender that is gone means the end as well.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}
