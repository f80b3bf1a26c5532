//! What the chunk relay asks of the engine: announcing, asking, pushing, and listening to channels (protocol: signalling,
//! section 5).
//!
//! Owns the order in which the cache and those who wait are looked at. Must not know sockets beyond their outboxes.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::signalling::ID_IN_USE;
use super::{Core, Effect, Engine, Promise, Turn, Unavailable};
use crate::id::{ChunkKey, ChunkName, Generation, SocketId};
use crate::limits::{
    MAX_CHUNK_BYTES_TOLD, MAX_CHUNKS_PER_ANNOUNCE, MAX_CHUNKS_TOLD, MAX_SUBSCRIPTIONS_PER_SOCKET,
};
use crate::live::announcements::{self, Announcement};
use crate::live::chunks::{Full, Notice};
use crate::live::outbox::Outbox;
use crate::registry::chunks::Push;
use crate::store::{LeaseKey, Row};
use crate::wire::Refusal;
use crate::wire::signalling::{ChunkAnnounce, ChunkPush, ChunkSource, ServerMessage, encode};

/// How often a chunk is looked up that changes or goes while it is being read.
const READS: usize = 3;

const NO_SOURCE: &str = "No source available for chunk";

/// What a request finds.
enum Found {
    /// In the cache: the SHA-256 of its data.
    Cached([u8; 32]),
    /// Nobody has it.
    Nowhere,
    /// Somebody is asked for it, and the socket has been told.
    Asked,
}

impl Engine {
    /// `chunk_announce` (section 5).
    pub async fn chunk_announce(&self, socket: SocketId, request: ChunkAnnounce) -> ServerMessage {
        let registered = request.chunks.len();
        let announced = self.claiming(Promise::Applied, ID_IN_USE.into(), move |turn, silent| {
            turn.announce(socket, &request, silent)
        });
        match announced.await {
            Ok((resume_token, told)) => {
                // Ends without a word when the announcement has been told, or never will be.
                let _ = told.await;
                ServerMessage::ChunkAnnounceAck { registered, resume_token }
            }
            Err(answer) => answer,
        }
    }

    /// `chunk_request` (section 5). That somebody is asked is said by way of the socket's outbox, like what comes of
    /// it, which could overtake it otherwise.
    pub async fn chunk_request(&self, socket: SocketId, name: ChunkName) -> Option<ServerMessage> {
        for read in 0..=READS {
            let asked = name.clone();
            let found = self.run(Promise::None, move |turn| turn.find_chunk(socket, &asked, read < READS));
            let found = match found.await {
                Ok(Ok(found)) => found,
                Ok(Err(refusal)) => return Some(refusal.into()),
                Err(why) => return Some(Refusal::from(why).into()),
            };
            let digest = match found {
                Found::Cached(digest) => digest,
                Found::Nowhere => break,
                Found::Asked => return None,
            };
            match self.read_chunk(name.key(), digest).await {
                Ok(Some(data)) => return Some(ServerMessage::chunk_data(&name, data, ChunkSource::Cache)),
                // It was replaced or has gone since, or is about to be committed.
                Ok(None) => drop(self.run(Promise::Applied, |_| ()).await),
                Err(why) => return Some(Refusal::from(why).into()),
            }
        }
        Some(ServerMessage::ChunkError { chunk_id: name.chunk().to_string(), error: NO_SOURCE.into() })
    }

    /// `chunk_push` (section 5). Promise: `Flushed`; who waits for the chunk gets it before.
    pub async fn chunk_push(&self, socket: SocketId, request: ChunkPush) -> ServerMessage {
        let pushed = self.run(Promise::Flushed, move |turn| turn.push_chunk(socket, request));
        pushed.await.unwrap_or_else(|why| Err(why.into())).unwrap_or_else(ServerMessage::from)
    }

    /// `channel-subscribe` (section 5); what is said comes by way of the socket's outbox, as it is more than one message.
    pub async fn channel_subscribe(&self, socket: SocketId, channel: String) -> Option<ServerMessage> {
        let subscribed = self.run(Promise::None, move |turn| turn.subscribe(socket, channel));
        subscribed.await.unwrap_or_else(|why| Err(why.into())).err().map(ServerMessage::from)
    }

    /// `channel-unsubscribe` (section 5).
    pub async fn channel_unsubscribe(&self, socket: SocketId, channel: String) -> ServerMessage {
        let left = channel.clone();
        let done = self.run(Promise::None, move |turn| turn.core.chunks.unsubscribe(socket, &left));
        match done.await {
            Ok(()) => ServerMessage::ChannelUnsubscribed { channel_id: channel },
            Err(why) => Refusal::from(why).into(),
        }
    }

    /// A chunk's data, where they still are what the writer knew. The rows of a chunk are read one after the other, and it
    /// may be replaced meanwhile: only what has the digest is all of one chunk.
    async fn read_chunk(&self, key: ChunkKey, digest: [u8; 32]) -> Result<Option<Value>, Unavailable> {
        self.read_store(move |store| {
            let data = store.inspect(&LeaseKey::chunk(&key), |row| match row {
                Row::Chunk { record, .. } if Sha256::digest(record.data.as_bytes()) == digest => {
                    serde_json::from_str(&record.data).ok()
                }
                _ => None,
            });
            Ok(data?.flatten())
        })
        .await
    }
}

impl Turn<'_> {
    fn announce(
        &mut self,
        socket: SocketId,
        request: &ChunkAnnounce,
        silent: Option<Generation>,
    ) -> super::signalling::Claimed<(Option<String>, oneshot::Receiver<()>)> {
        let ChunkAnnounce { peer_id, resume_token, channel, chunks } = request;
        let standing = self.may_take(socket, peer_id, resume_token.as_deref(), silent)?;
        let names = chunks.iter().filter_map(|chunk| ChunkName::parse(channel, chunk));
        let keys: Vec<ChunkKey> = names.map(|name| name.key()).collect();
        self.core.chunks.admit(socket, &keys).map_err(|full| match full {
            Full::Socket => Refusal::of("too_many_chunks", "Too many chunks announced"),
            Full::All => Refusal::of("registry_full", "Registry full"),
        })?;
        let token = self.take_unless_held(socket, peer_id, standing);
        self.core.chunks.announce(self.running, socket, &keys);
        let (told, until_told) = oneshot::channel();
        if self.core.chunks.subscriber_count(channel) > 0 && !channel.is_empty() {
            self.tell_subscribers(socket, channel.clone(), chunks.clone(), told);
        }
        Ok((token, until_told))
    }

    /// Now, or when it is its turn.
    fn tell_subscribers(
        &mut self,
        socket: SocketId,
        channel: String,
        chunk_ids: Vec<String>,
        told: oneshot::Sender<()>,
    ) {
        let Some(outbox) = self.core.hub.outbox_of(socket) else { return };
        let address = outbox.address;
        let available = ServerMessage::ChunkAvailable { channel_id: channel.clone(), chunk_ids };
        let announcement = Announcement { socket, address, channel, text: encode(&available).into(), told };
        if self.core.draining || self.core.announcements.is_free(self.running) {
            self.tell(announcement);
        } else {
            let subscribers = self.core.chunks.subscriber_count(&announcement.channel);
            let cost = announcements::cost(subscribers, &announcement.text);
            self.core.announcements.wait(announcement, cost);
        }
    }

    fn tell(&mut self, announcement: Announcement) {
        let Announcement { socket, channel, text, told, .. } = announcement;
        let core = &mut *self.core;
        let subscribers = core.chunks.subscribers(&channel, socket);
        let outboxes = subscribers.filter_map(|subscriber| core.hub.outbox_of(subscriber));
        let before = self.effects.len();
        // Whoever has no room for it does without: nobody is to lose the socket for what others announce.
        self.effects.extend(outboxes.map(|outbox| pass(outbox, text.clone())));
        core.announcements.pay(self.running, announcements::cost(self.effects.len() - before, &text));
        self.effects.push(Effect::Told(told));
    }

    pub(super) fn tell_those_who_wait(&mut self) {
        while let Some(announcement) = self.core.announcements.next(self.running) {
            self.tell(announcement);
        }
    }

    /// Where a chunk is to be had: in the cache, unless what is there cannot be read, or from somebody who has announced it.
    fn find_chunk(&mut self, socket: SocketId, name: &ChunkName, in_cache: bool) -> Result<Found, Refusal> {
        let core = &mut *self.core;
        if in_cache && let Some(digest) = core.registries.chunks.get(self.now, &name.key()) {
            return Ok(Found::Cached(digest));
        }
        match core.chunks.request(self.running, socket, name) {
            Ok(Some(mut notices)) => {
                let message = ServerMessage::ChunkPulling { chunk_id: name.chunk().to_string() };
                notices.push(Notice { to: socket, message });
                self.effects.extend(self.core.notify_sockets(notices));
                Ok(Found::Asked)
            }
            Ok(None) => Ok(Found::Nowhere),
            Err(_) => Err(Refusal::of("too_many_chunk_requests", "Too many chunk requests")),
        }
    }

    fn push_chunk(&mut self, socket: SocketId, request: ChunkPush) -> Result<ServerMessage, Refusal> {
        let ChunkPush { name, data } = request;
        let (key, core) = (name.key(), &mut *self.core);
        let owner = core.hub.holds(socket).filter(|_| core.chunks.may_push(self.running, socket, &key));
        let owner = owner.ok_or(Refusal::of("chunk_not_announced", "Chunk was not announced"))?;
        let push = Push { name: &name, owner, data: &data };
        let pushed = core.registries.chunks.push(self.now, push, self.changes);
        let pushed =
            pushed.map_err(|_| Refusal::of("chunk_conflict", "Chunk already cached with other content"))?;
        self.metrics.chunks_evicted.inc_by(pushed.evicted as u64);
        let waiting = core.chunks.pushed(socket, &key);
        if !waiting.is_empty() {
            let data = serde_json::from_str(&data).unwrap_or(Value::Null);
            let message = ServerMessage::chunk_data(&name, data, ChunkSource::Relay);
            let text = Utf8Bytes::from(encode(&message));
            let again = ServerMessage::ChunkError {
                chunk_id: name.chunk().to_string(),
                error: "Chunk is cached now. Please request it again.".into(),
            };
            let instead = Utf8Bytes::from(encode(&again));
            let outboxes = waiting.iter().filter_map(|waiting| core.hub.outbox_of(*waiting));
            self.effects.extend(outboxes.map(|outbox| Effect::Pass {
                to: outbox.clone(),
                text: text.clone(),
                otherwise: Some((outbox.clone(), instead.clone())),
            }));
        }
        Ok(ServerMessage::ChunkPushAck {
            chunk_id: name.chunk().to_string(),
            cached: true,
            served_count: waiting.len(),
        })
    }

    fn subscribe(&mut self, socket: SocketId, channel: String) -> Result<(), Refusal> {
        let core = &mut *self.core;
        core.chunks.subscribe(socket, &channel).map_err(|full| match full {
            Full::Socket => {
                let text = format!("Too many subscriptions (max {MAX_SUBSCRIPTIONS_PER_SOCKET})");
                Refusal::new("too_many_subscriptions", text)
            }
            Full::All => Refusal::of("channel_full", "Channel is full"),
        })?;
        let Some(outbox) = core.hub.outbox_of(socket) else { return Ok(()) };
        let subscribed = ServerMessage::ChannelSubscribed { channel_id: channel.clone() };
        self.effects.push(Effect::Notify(outbox.clone(), encode(&subscribed).into()));
        let mut left = MAX_CHUNK_BYTES_TOLD;
        let newest = core.registries.chunks.of_channel(self.now, &channel).take(MAX_CHUNKS_TOLD);
        let told: Vec<String> = newest
            .take_while(|id| {
                let fits = id.len() <= left;
                left = left.saturating_sub(id.len());
                fits
            })
            .map(str::to_owned)
            .collect();
        for chunk_ids in told.chunks(MAX_CHUNKS_PER_ANNOUNCE) {
            let (channel_id, chunk_ids) = (channel.clone(), chunk_ids.to_vec());
            let available = ServerMessage::ChunkAvailable { channel_id, chunk_ids };
            self.effects.push(pass(outbox, encode(&available).into()));
        }
        Ok(())
    }

    /// A socket has ended: what it announced, asked for and subscribed to.
    pub(super) fn leave_chunks(&mut self, socket: SocketId) {
        self.core.announcements.leave(socket);
        let notices = self.core.chunks.leave(self.running, socket);
        self.effects.extend(self.core.notify_sockets(notices));
    }
}

/// What others have announced, for whoever has room for it.
fn pass(to: &Arc<Outbox>, text: Utf8Bytes) -> Effect {
    Effect::Pass { to: to.clone(), text, otherwise: None }
}

impl Core {
    pub(super) fn notify_sockets(&self, notices: Vec<Notice>) -> Vec<Effect> {
        let effect = |Notice { to, message }: Notice| {
            let (outbox, text) = (self.hub.outbox_of(to)?, encode(&message).into());
            // A source that has no room to be asked is a silent one.
            let is_asked = matches!(message, ServerMessage::ChunkPull { .. });
            Some(if is_asked { pass(outbox, text) } else { Effect::Notify(outbox.clone(), text) })
        };
        notices.into_iter().filter_map(effect).collect()
    }
}
