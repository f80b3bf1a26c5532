//! The alarm: what is live and ends at a time of its own — pair requests, link requests, announcements, waiting for chunks.
//!
//! Owns waking up for it. Must not know what happens then: live does, in the writer.

use super::{Ended, Engine, Promise, Turn};

pub(super) async fn run(engine: Engine) {
    let _ended = Ended(engine.0.clone());
    let mut next = engine.0.next_ring.subscribe();
    loop {
        let at = *next.borrow_and_update();
        let ring = async {
            match at {
                Some(at) => engine.0.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ring => {
                // The writer says when it is to ring next, once it has done what was due.
                let rung = engine.0.submit(Promise::None, |turn| turn.ring());
                if rung.await.is_err() {
                    return;
                }
            }
            changed = next.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

impl Turn<'_> {
    fn ring(&mut self) {
        let notices = self.core.pairing.ring(self.running);
        self.effects.extend(self.core.notify(notices));
        let notices = self.core.chunks.ring(self.running);
        self.effects.extend(self.core.notify_sockets(notices));
        self.tell_those_who_wait();
    }
}
