//! Signs of life: pings, and whoever asks whether the peer still answers.
//!
//! Owns the numbers of the pings. Must not know when one is due: the pulse does.

use futures_util::{FutureExt, SinkExt};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{Bytes, Error};

use super::{Dialect, ENOUGH_UNSENT, Session};

impl<D: Dialect> Session<'_, D> {
    /// Asks the peer for a sign of life; when so much is unread that no pong could be seen, the peer is alive and it is
    /// this side that is behind.
    pub(super) fn probe(&mut self, probes: Vec<oneshot::Sender<()>>) -> Result<(), Error> {
        if self.over.is_some() {
            return Ok(());
        }
        self.probes.retain(|(_, probe)| !probe.is_closed());
        self.probes.extend(probes.into_iter().map(|probe| (self.pings + 1, probe)));
        if self.is_ahead() && self.fed < ENOUGH_UNSENT {
            self.answer_probes(u64::MAX);
            return Ok(());
        }
        self.ping()
    }

    /// While the socket takes nothing, a ping would only wait behind the rest, and time on this socket with it: it is owed.
    pub(super) fn ping(&mut self) -> Result<(), Error> {
        self.unflushed = true;
        let number = self.pings + 1;
        let ping = Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes()));
        let fed = self.sink.feed(ping).now_or_never();
        self.ping_owed = fed.is_none();
        if fed.is_some() {
            self.pings = number;
        }
        fed.unwrap_or(Ok(()))
    }

    pub(super) fn catch_up_on_ping(&mut self) -> Result<(), Error> {
        if self.ping_owed {
            self.pulse.pinged_late(self.clock.running());
            self.ping()?;
        }
        Ok(())
    }

    /// Answers those who asked up to this ping. Other frames do not answer: they may have been under way for longer, with
    /// the end of the connection behind them.
    pub(super) fn answer_probes(&mut self, ping: u64) {
        for (_, probe) in self.probes.extract_if(.., |(number, _)| *number <= ping) {
            // Whoever asked may have stopped waiting.
            let _ = probe.send(());
        }
    }
}
