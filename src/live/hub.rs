//! Who holds which id (protocol: signalling, section 6).
//!
//! Owns the sockets that are open, the id that each holds, and generations that never repeat within a run: whatever
//! ends later names the generation it belongs to. Must not know the registries or the store.

use std::collections::HashMap;
use std::sync::Arc;

use super::outbox::{Budget, Outbox};
use crate::id::{Generation, PeerId, SocketId, TokenDigest};

#[derive(Default)]
pub struct Hub {
    sockets: HashMap<SocketId, Socket>,
    ids: HashMap<PeerId, Holder>,
    last_generation: u64,
}

struct Socket {
    outbox: Arc<Outbox>,
    id: Option<PeerId>,
}

struct Holder {
    socket: SocketId,
    generation: Generation,
    resume: TokenDigest,
}

/// How a socket stands to an id that it wants.
#[derive(Debug)]
pub enum Claim {
    /// Nobody holds it.
    Free,
    /// This socket holds it already.
    Held,
    /// Another socket holds it and may be replaced: the newcomer has its resume token, or it was found silent.
    TakeOver,
    /// Another socket holds it; only if that one is silent can it be replaced.
    Taken { generation: Generation, holder: Arc<Outbox> },
    /// This socket holds another id.
    HoldsOther,
}

impl Hub {
    pub fn join(&mut self, outbox: Arc<Outbox>) {
        self.sockets.insert(outbox.socket, Socket { outbox, id: None });
    }

    /// The socket has ended. The id that it still held is free now and is returned; one that was taken over is not.
    pub fn leave(&mut self, socket: SocketId) -> Option<PeerId> {
        let id = self.sockets.remove(&socket)?.id?;
        self.ids.remove(&id);
        Some(id)
    }

    /// Frees the id that a socket took as `generation`, if it still holds it so.
    pub fn give_back(&mut self, socket: SocketId, generation: Generation) -> Option<PeerId> {
        let holder = self.ids.get(self.holds(socket)?)?;
        if holder.generation == generation { self.release(socket) } else { None }
    }

    /// Frees the id that a socket holds, without the socket's end.
    pub fn release(&mut self, socket: SocketId) -> Option<PeerId> {
        let id = self.sockets.get_mut(&socket)?.id.take()?;
        self.ids.remove(&id);
        Some(id)
    }

    /// `silent` is a generation whose holder did not answer a probe.
    pub fn claim(
        &self,
        socket: SocketId,
        id: &PeerId,
        shown_token: Option<&str>,
        silent: Option<Generation>,
    ) -> Claim {
        match self.holds(socket) {
            Some(own) if own == id => return Claim::Held,
            Some(_) => return Claim::HoldsOther,
            None => {}
        }
        self.stand(id, shown_token, silent)
    }

    /// As [`Hub::claim`], for a socket that would give up what it holds.
    pub fn stand(&self, id: &PeerId, shown_token: Option<&str>, silent: Option<Generation>) -> Claim {
        let Some(holder) = self.ids.get(id) else { return Claim::Free };
        let proven = shown_token.is_some_and(|token| holder.resume.matches(token));
        match self.sockets.get(&holder.socket) {
            Some(other) if !proven && silent != Some(holder.generation) => {
                Claim::Taken { generation: holder.generation, holder: other.outbox.clone() }
            }
            _ => Claim::TakeOver,
        }
    }

    /// Gives the id to the socket, under a new resume token and, unless it held it already, as a new generation; a
    /// socket that is replaced is told so by the caller.
    pub fn take(
        &mut self,
        socket: SocketId,
        id: &PeerId,
        resume: TokenDigest,
    ) -> (Option<Generation>, Option<Arc<Outbox>>) {
        let Some(newcomer) = self.sockets.get_mut(&socket) else { return (None, None) };
        newcomer.id = Some(id.clone());
        if let Some(own) = self.ids.get_mut(id).filter(|holder| holder.socket == socket) {
            own.resume = resume;
            return (None, None);
        }
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        let old = self.ids.insert(id.clone(), Holder { socket, generation, resume });
        let replaced = old.and_then(|old| self.sockets.get_mut(&old.socket)).map(|replaced| {
            replaced.id = None;
            replaced.outbox.clone()
        });
        (Some(generation), replaced)
    }

    /// The id that a socket holds.
    pub fn holds(&self, socket: SocketId) -> Option<&PeerId> {
        self.sockets.get(&socket)?.id.as_ref()
    }

    /// Whether anyone holds the id.
    pub fn is_held(&self, id: &PeerId) -> bool {
        self.ids.contains_key(id)
    }

    pub fn held_ids(&self) -> impl Iterator<Item = &PeerId> {
        self.ids.keys()
    }

    /// Where to reach the holder of an id.
    pub fn outbox(&self, id: &PeerId) -> Option<&Arc<Outbox>> {
        self.ids.get(id).and_then(|holder| self.sockets.get(&holder.socket)).map(|socket| &socket.outbox)
    }

    /// Where to reach an open socket.
    pub fn outbox_of(&self, socket: SocketId) -> Option<&Arc<Outbox>> {
        self.sockets.get(&socket).map(|socket| &socket.outbox)
    }

    /// Every open socket with the id that it holds.
    pub fn sockets(&self) -> impl Iterator<Item = (&Arc<Outbox>, Option<&PeerId>)> {
        self.sockets.values().map(|socket| (&socket.outbox, socket.id.as_ref()))
    }

    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub fn ids(&self) -> usize {
        self.ids.len()
    }

    /// Closes the socket with the most unsent output, unless enough goes with those that are closing already.
    pub fn close_slowest(&self, budget: &Budget) {
        let outboxes = self.sockets.values().map(|socket| &socket.outbox);
        let (closing, open): (Vec<_>, Vec<_>) = outboxes.partition(|outbox| outbox.is_closing());
        let going: usize = closing.into_iter().map(|outbox| outbox.unsent()).sum();
        if budget.used().saturating_sub(going) <= budget.total {
            return;
        }
        if let Some(slowest) = open.into_iter().max_by_key(|outbox| outbox.unsent()) {
            slowest.close_as_full();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::super::outbox::{Ceiling, Close};
    use super::*;
    use crate::metrics::Metrics;

    const CEILING: Ceiling = Ceiling { bytes: 1000, full: Close::SLOW_CONSUMER };

    fn hub_with(sockets: u64) -> Hub {
        let budget = Budget::new(100, Arc::new(Metrics::default()));
        let mut hub = Hub::default();
        for socket in 1..=sockets {
            let address = IpAddr::from([127, 0, 0, 1]);
            hub.join(Outbox::new(SocketId(socket), address, Duration::ZERO, CEILING, budget.clone()));
        }
        hub
    }

    fn id(text: &str) -> PeerId {
        PeerId::parse(text).unwrap()
    }

    #[test]
    fn the_late_exit_of_a_replaced_socket_leaves_its_successor_alone() {
        let mut hub = hub_with(2);
        assert!(hub.take(SocketId(1), &id("a"), TokenDigest::of("one")).1.is_none());
        assert!(matches!(hub.claim(SocketId(2), &id("a"), Some("wrong"), None), Claim::Taken { .. }));
        assert!(matches!(hub.claim(SocketId(2), &id("a"), Some("one"), None), Claim::TakeOver));
        let replaced = hub.take(SocketId(2), &id("a"), TokenDigest::of("two")).1.unwrap();
        assert_eq!(replaced.socket, SocketId(1));
        assert_eq!(hub.leave(SocketId(1)), None);
        assert_eq!(hub.outbox(&id("a")).unwrap().socket, SocketId(2));
        assert_eq!(hub.leave(SocketId(2)), Some(id("a")));
        assert_eq!(hub.leave(SocketId(2)), None, "leaving twice is leaving once");
        assert!(!hub.is_held(&id("a")));
    }

    #[test]
    fn when_all_together_have_too_much_unsent_only_the_slowest_is_closed() {
        let budget = Budget::new(100, Arc::new(Metrics::default()));
        let mut hub = Hub::default();
        let outboxes = [10, 90, 20].map(|bytes| {
            let address = IpAddr::from([127, 0, 0, 1]);
            let outbox = Outbox::new(SocketId(bytes), address, Duration::ZERO, CEILING, budget.clone());
            outbox.count(bytes as usize);
            hub.join(outbox.clone());
            outbox
        });
        // It keeps its bytes while it closes: nobody else pays for that.
        for _ in 0..3 {
            hub.close_slowest(&budget);
            assert_eq!(outboxes.each_ref().map(|outbox| outbox.is_closing()), [false, true, false]);
        }
        outboxes[1].end();
        hub.close_slowest(&budget);
        assert!(!budget.is_exceeded() && !outboxes[0].is_closing() && !outboxes[2].is_closing());
    }

    #[test]
    fn an_id_is_given_back_only_as_it_was_taken() {
        let mut hub = hub_with(1);
        let (first, _) = hub.take(SocketId(1), &id("a"), TokenDigest::of("one"));
        hub.release(SocketId(1));
        let (second, _) = hub.take(SocketId(1), &id("a"), TokenDigest::of("two"));
        hub.give_back(SocketId(1), first.unwrap());
        assert!(hub.is_held(&id("a")));
        hub.give_back(SocketId(1), second.unwrap());
        assert!(!hub.is_held(&id("a")) && hub.holds(SocketId(1)).is_none());
    }

    #[test]
    fn a_probe_that_found_silence_counts_only_for_the_generation_it_was_made_for() {
        let mut hub = hub_with(3);
        hub.take(SocketId(1), &id("a"), TokenDigest::of("one"));
        let Claim::Taken { generation, .. } = hub.claim(SocketId(3), &id("a"), None, None) else { panic!() };
        hub.leave(SocketId(1));
        hub.take(SocketId(2), &id("a"), TokenDigest::of("two"));
        assert!(matches!(hub.claim(SocketId(3), &id("a"), None, Some(generation)), Claim::Taken { .. }));
    }
}
