//! What an operator does to a running daemon: ending a lease, closing a socket, draining.
//!
//! Owns what each of them means to the registries and to what is live. Must not know who may ask for it.

use crate::id::SocketId;
use crate::live::outbox::Close;
use crate::metrics::Ending;
use crate::registry::Ended;
use crate::store::LeaseKey;

use super::{Engine, Promise, Unavailable};

/// How a socket that an operator closes is closed.
const BY_OPERATOR: Close = Close { code: 1008, reason: "closed by the operator", ending: Ending::Operator };

impl Engine {
    /// Ends a lease before its time, with its index row, in one batch. Promise: `Flushed`.
    pub async fn end_lease(&self, key: LeaseKey) -> Result<Ended, Unavailable> {
        self.run(Promise::Flushed, move |turn| {
            let ended = turn.core.registries.end(&key, turn.changes);
            if ended == Ended::Gone {
                // Phones of a claim that waits for its binary.
                key.claimed().into_iter().for_each(|id| turn.end_link(&id));
            }
            ended
        })
        .await
    }

    /// Closes a socket; false where there is none. What it held ends as with any other end of a socket.
    pub async fn close(&self, socket: SocketId) -> Result<bool, Unavailable> {
        self.run(Promise::None, move |turn| {
            let outbox = turn.core.hub.outbox_of(socket);
            outbox.map(|outbox| outbox.close(BY_OPERATOR)).is_some()
        })
        .await
    }

    /// From now on sockets end because the daemon ends: that is not leaving (protocol: signalling, section 7).
    pub async fn drain(&self) {
        let drained = self.0.submit(Promise::None, |turn| {
            turn.core.draining = true;
            turn.core.announcements.clear();
        });
        let _ = drained.await;
    }
}
