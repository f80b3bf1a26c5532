//! One request's turn in the writer thread: the state that it finds, and what it leaves to be done after the commit.
//!
//! Owns what a turn is, and what leaving and freeing an id mean to all of that state. Must not know single requests.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::clock::Millis;
use crate::id::{Generation, PeerId, SocketId};
use crate::live::announcements::Announcements;
use crate::live::chunks::ChunkRelay;
use crate::live::hub::Hub;
use crate::live::link::Links;
use crate::live::outbox::{Close, Outbox};
use crate::live::pairing::Pairing;
use crate::metrics::Metrics;
use crate::registry::Registries;
use crate::store::{Changes, Pins};

/// The state that the writer thread owns.
pub(super) struct Core {
    pub registries: Registries,
    pub hub: Hub,
    pub links: Links,
    pub pairing: Pairing,
    pub chunks: ChunkRelay,
    pub announcements: Announcements,
    pub rng: StdRng,
    pub pins: Pins,
    /// The daemon is closing the sockets itself: that is not leaving.
    pub draining: bool,
}

/// One request's turn in the writer thread.
pub(super) struct Turn<'a> {
    pub core: &'a mut Core,
    pub now: Millis,
    /// Running time.
    pub running: Duration,
    pub changes: &'a mut Changes,
    /// How many expired peers the requests of this drain may still remove.
    pub to_clean: &'a mut usize,
    pub effects: Vec<Effect>,
    pub taken: Option<Taken>,
    pub metrics: &'a Metrics,
}

/// An id that a request took: free again if the request fails after all.
#[derive(Clone, Copy)]
pub(super) struct Taken(pub SocketId, pub Generation);

/// What is done after the commit, before the answer.
pub(super) enum Effect {
    /// Said only if the rows have lasted.
    Send(Arc<Outbox>, Utf8Bytes),
    /// Said whatever becomes of the rows: it is about what is live.
    Notify(Arc<Outbox>, Utf8Bytes),
    /// What another peer sends, whatever becomes of the rows; where there is no room for it, somebody is told otherwise.
    Pass {
        to: Arc<Outbox>,
        text: Utf8Bytes,
        otherwise: Option<(Arc<Outbox>, Utf8Bytes)>,
    },
    Close(Arc<Outbox>, Close),
    /// What was said before this has been said: whoever waits for that goes on.
    Told(oneshot::Sender<()>),
}

impl Effect {
    /// The outbox counts what it does not take.
    pub fn carry_out(self, lasted: bool) {
        match self {
            Effect::Send(outbox, text) if lasted => drop(outbox.try_send(text)),
            Effect::Send(..) => {}
            Effect::Notify(outbox, text) => drop(outbox.try_send(text)),
            Effect::Pass { to, text, otherwise } => {
                if let (Err(_), Some((told, text))) = (to.try_pass(text), otherwise) {
                    let _ = told.try_send(text);
                }
            }
            Effect::Close(outbox, close) => outbox.close(close),
            Effect::Told(told) => drop(told),
        }
    }
}

impl Turn<'_> {
    /// Nobody was told that they hold these.
    pub(super) fn give_back(&mut self, taken: Vec<Taken>) {
        for Taken(socket, generation) in taken {
            if let Some(id) = self.core.hub.give_back(socket, generation) {
                self.core.registries.leave_live(&id, self.changes);
                self.leave_pairing(&id);
                let notices = self.core.chunks.withdraw(self.running, socket);
                self.effects.extend(self.core.notify_sockets(notices));
            }
        }
    }

    pub(super) fn leave(&mut self, socket: SocketId) {
        self.leave_link(socket);
        let id = self.core.hub.leave(socket);
        // The daemon closes all sockets itself: nobody is told who goes first.
        if self.core.draining {
            return;
        }
        self.leave_chunks(socket);
        if let Some(id) = id {
            self.free(&id);
        }
        let core = &*self.core;
        let is_deserted = core.hub.is_empty();
        debug_assert!(
            !is_deserted
                || (core.pairing.is_empty() && core.chunks.is_empty() && core.announcements.is_empty()),
            "something is left"
        );
    }

    /// Nobody holds the id any more (protocol: signalling, section 7).
    pub(super) fn free(&mut self, id: &PeerId) {
        self.core.registries.leave(id, self.changes);
        self.leave_pairing(id);
    }
}
