//! The loads of relays: changed in memory at once, and written together.
//!
//! Owns when they are written, so that they are on the disk within the time that `Applied` promises. A row for each message
//! would cost far more than the message. Must not know what a load is for.

use std::time::Duration;

use super::{Ended, Engine, Promise, Unavailable};
use crate::clock::rest;
use crate::id::SocketId;
use crate::limits::LOADS_PER_TURN;
use crate::wire::Refusal;
use crate::wire::signalling::{ServerMessage, UpdateLoad};

/// How long a load may wait to be written; with a flush as long after that it is on the disk within 500 ms.
const WRITE_WITHIN: Duration = Duration::from_millis(150);

pub(super) async fn run(engine: Engine) {
    let _ended = Ended(engine.0.clone());
    loop {
        engine.0.loads.notified().await;
        rest(WRITE_WITHIN).await;
        let mut are_left = true;
        while are_left {
            let write = engine.run(Promise::Applied, |turn| {
                turn.core.registries.relays.write_loads(LOADS_PER_TURN, turn.changes)
            });
            are_left = match write.await {
                Ok(are_left) => are_left,
                // What the store does not take now is carried over when it is open again.
                Err(Unavailable::Storage) => false,
                Err(Unavailable::Overloaded) => true,
                Err(Unavailable::Stopped) => return,
            };
        }
    }
}

impl Engine {
    /// `update_load` (protocol: signalling, section 3). Promise: `Applied`.
    pub async fn update_load(&self, socket: SocketId, request: UpdateLoad) -> ServerMessage {
        let UpdateLoad { peer_id, connected_count } = request;
        if !self.is_ready() {
            return Refusal::from(Unavailable::Storage).into();
        }
        let id = peer_id.clone();
        let updated = self.look(move |turn| {
            let holds = turn.core.hub.holds(socket).filter(|held| held.as_str() == id);
            holds.is_some_and(|held| turn.core.registries.relays.update_load(held, connected_count))
        });
        match updated.await {
            Ok(true) => {
                self.0.loads.notify_one();
                ServerMessage::LoadUpdated { peer_id, connected_count }
            }
            Ok(false) => Refusal::new("not_registered", format!("Not registered: {peer_id}")).into(),
            Err(why) => Refusal::from(why).into(),
        }
    }
}
