//! One slot: a binary, its phones, and what of theirs waits for it (protocol: link, section 3).
//!
//! Owns the way of frames between them, in order, bounded for each phone, so that a slow phone delays nobody and a slow
//! binary only its own phones. Every call takes the slot's lock for a moment and never waits. Must not know claims beyond
//! their generations, nor sockets beyond their outboxes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::super::outbox::{Budget, Close, GOING_AWAY, Outbox};
use crate::id::{ConnId, Generation, SocketId};
use crate::limits::{WAITING_BYTES, WAITING_FRAMES};
use crate::metrics::{Dialect, DialectLabel, Direction, DirectionLabel, Metrics, Undelivered};
use crate::wire::link::left;

pub struct Slot {
    max_phones: usize,
    budget: Arc<Budget>,
    /// Frames forwarded.
    to_binary: Counter,
    to_phone: Counter,
    /// The same in both directions.
    handled: Counter,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    holder: Option<Holder>,
    /// Those that are attached, and those that have left and of whom the binary has not heard everything.
    phones: HashMap<ConnId, Phone>,
    /// Phones that have left and still have frames here, the first to leave first.
    departed: VecDeque<ConnId>,
    /// For the binary, in the order in which it came.
    waiting: VecDeque<Waiting>,
}

struct Holder {
    generation: Generation,
    outbox: Arc<Outbox>,
    /// Whether its claim is on the disk, so that frames may flow.
    open: bool,
}

struct Phone {
    /// `None` once it has left.
    outbox: Option<Arc<Outbox>>,
    /// What of it waits.
    frames: usize,
    bytes: usize,
    /// Whether a binary has had something of it.
    known: bool,
    /// Wakes the phone's session when there is room again, if it waits for some.
    room: Arc<Notify>,
    wants_room: bool,
}

struct Waiting {
    conn_id: ConnId,
    envelope: Utf8Bytes,
    /// Bytes of the frame; `None` tells that the phone has left.
    frame: Option<usize>,
}

/// What became of a phone's frame.
pub enum Forwarded {
    Done,
    /// The binary is behind: there is room when this is notified.
    Wait(Arc<Notify>),
    /// The binary is away and enough is kept for it.
    Full,
    /// The phone is not attached any more.
    Gone,
}

/// What became of a binary's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    Done,
    /// The phone did not take what came before: it is being closed.
    Full,
    /// No phone of this binary has this conn_id.
    Unknown,
}

/// A phone's place. Dropping it is leaving.
pub struct Attached {
    pub slot: Arc<Slot>,
    pub conn_id: ConnId,
    code: u16,
}

impl Attached {
    /// The phone has closed, or was closed, with this code.
    pub fn leave(mut self, code: u16) {
        self.code = code;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.slot.detach(&self.conn_id, self.code);
    }
}

impl Slot {
    pub(super) fn new(max_phones: usize, budget: Arc<Budget>, metrics: &Metrics) -> Slot {
        let counter = |direction| metrics.frames.get_or_create(&DirectionLabel { direction }).clone();
        let (to_binary, to_phone) = (counter(Direction::ToBinary), counter(Direction::ToPhone));
        let handled = metrics.handled.get_or_create(&DialectLabel { dialect: Dialect::Link }).clone();
        Slot { max_phones, budget, to_binary, to_phone, handled, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, generation: Generation, outbox: Arc<Outbox>) -> Option<Arc<Outbox>> {
        let holder = Holder { generation, outbox, open: false };
        self.lock().holder.replace(holder).map(|replaced| replaced.outbox)
    }

    /// The claim of this generation is on the disk: frames may flow.
    pub fn open(&self, generation: Generation) {
        let mut inner = self.lock();
        if let Some(holder) = inner.holder.as_mut().filter(|holder| holder.generation == generation) {
            holder.open = true;
            holder.outbox.wake();
        }
    }

    pub(super) fn holder(&self) -> Option<(Generation, Arc<Outbox>)> {
        self.lock().holder.as_ref().map(|holder| (holder.generation, holder.outbox.clone()))
    }

    /// The binary of this generation is gone; tells whether it had opened the slot. What phones wait to forward now counts
    /// by the rules of the grace.
    pub(super) fn vacate(&self, generation: Generation) -> bool {
        let mut inner = self.lock();
        let Some(holder) = inner.holder.take_if(|holder| holder.generation == generation) else {
            return false;
        };
        inner.phones.values_mut().for_each(Phone::make_room);
        holder.open
    }

    pub(super) fn attach(slot: &Arc<Slot>, conn_id: ConnId, outbox: Arc<Outbox>) -> Option<Attached> {
        let mut inner = slot.lock();
        if inner.attached().count() >= slot.max_phones {
            return None;
        }
        let phone = Phone {
            outbox: Some(outbox),
            frames: 0,
            bytes: 0,
            known: false,
            room: Arc::default(),
            wants_room: false,
        };
        inner.phones.insert(conn_id.clone(), phone);
        Some(Attached { slot: slot.clone(), conn_id, code: GOING_AWAY })
    }

    /// A phone's frame, in its envelope, on its way to the binary.
    pub fn forward(&self, conn_id: &ConnId, envelope: &Utf8Bytes, frame: usize) -> Forwarded {
        let mut inner = self.lock();
        let Inner { holder, phones, waiting, .. } = &mut *inner;
        let Some(phone) = phones.get_mut(conn_id) else { return Forwarded::Gone };
        let Some(outbox) = &phone.outbox else { return Forwarded::Gone };
        let fits = phone.frames < WAITING_FRAMES && phone.bytes + frame <= WAITING_BYTES;
        match holder {
            Some(_) if !fits && phone.frames > 0 => {
                phone.wants_room = true;
                return Forwarded::Wait(phone.room.clone());
            }
            None if !fits || self.budget.is_exceeded() => return Forwarded::Full,
            _ => {}
        }
        phone.frames += 1;
        phone.bytes += frame;
        outbox.count(frame);
        let (conn_id, envelope) = (conn_id.clone(), envelope.clone());
        waiting.push_back(Waiting { conn_id, envelope, frame: Some(frame) });
        if let Some(holder) = holder.as_ref().filter(|holder| holder.open) {
            holder.outbox.wake();
        }
        Forwarded::Done
    }

    /// The next text for the binary of this generation.
    pub fn next(&self, generation: Generation) -> Option<Utf8Bytes> {
        let mut inner = self.lock();
        inner.holder.as_ref().filter(|holder| holder.open && holder.generation == generation)?;
        let Waiting { conn_id, envelope, frame } = inner.waiting.pop_front()?;
        match frame {
            None => inner.forget(&conn_id),
            Some(bytes) => {
                self.to_binary.inc();
                self.handled.inc();
                if let Some(phone) = inner.phones.get_mut(&conn_id) {
                    phone.known = true;
                    phone.frames -= 1;
                    phone.uncount(bytes, &self.budget);
                    phone.make_room();
                }
            }
        }
        Some(envelope)
    }

    /// A frame of the binary of this generation for one of its phones.
    pub fn deliver(&self, generation: Generation, conn_id: &str, frame: &str) -> Delivered {
        let inner = self.lock();
        let Some(outbox) = inner.phone_of(generation, conn_id).cloned() else { return Delivered::Unknown };
        drop(inner);
        // A copy: a part of the message would keep all of it in memory, and only its own bytes are counted.
        match outbox.try_send(frame.into()) {
            Ok(()) => {
                self.to_phone.inc();
                self.handled.inc();
                Delivered::Done
            }
            Err(Undelivered::Full) => Delivered::Full,
            Err(Undelivered::Gone) => Delivered::Unknown,
        }
    }

    /// The binary wants a phone closed, once it has been sent what is queued for it. The phone's own frames that wait have
    /// nobody to go to.
    pub fn dismiss(&self, generation: Generation, conn_id: &str, close: Close) -> Delivered {
        let mut inner = self.lock();
        let Some(outbox) = inner.phone_of(generation, conn_id).cloned() else { return Delivered::Unknown };
        inner.waiting.retain(|waiting| waiting.conn_id.as_str() != conn_id);
        if let Some(mut phone) = inner.phones.remove(conn_id) {
            phone.uncount(phone.bytes, &self.budget);
            phone.make_room();
        }
        outbox.close_after_sending(close);
        Delivered::Done
    }

    /// A phone has left: the binary hears so after its last frame, unless the binary wanted it or the phone was cut off
    /// together with all others.
    fn detach(&self, conn_id: &ConnId, code: u16) {
        let mut inner = self.lock();
        let Some(phone) = inner.phones.get_mut(conn_id) else { return };
        let Some(outbox) = phone.outbox.take() else { return };
        // From here on no socket answers for its bytes.
        outbox.sent(phone.bytes);
        self.budget.count(phone.bytes);
        let envelope = left(conn_id, code).into();
        inner.waiting.push_back(Waiting { conn_id: conn_id.clone(), envelope, frame: None });
        inner.departed.push_back(conn_id.clone());
        inner.forget_departed(self.max_phones, &self.budget);
        if let Some(holder) = inner.holder.as_ref().filter(|holder| holder.open) {
            holder.outbox.wake();
        }
    }

    /// The frames of phones that have left go, the first to leave first, until so many of those are left.
    pub(super) fn forget_departed(&self, most: usize) {
        self.lock().forget_departed(most, &self.budget);
    }

    /// Forgets every phone and all that waits; returns who was attached.
    pub(super) fn clear(&self) -> Vec<Arc<Outbox>> {
        let mut inner = self.lock();
        inner.waiting.clear();
        inner.departed.clear();
        let phones = std::mem::take(&mut inner.phones).into_values();
        phones
            .filter_map(|mut phone| {
                phone.uncount(phone.bytes, &self.budget);
                phone.make_room();
                phone.outbox
            })
            .collect()
    }

    pub(super) fn phones(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.attached().count(), inner.phones.values().map(|phone| phone.bytes).sum())
    }

    pub(super) fn phone_sockets(&self) -> Vec<SocketId> {
        self.lock().attached().map(|outbox| outbox.socket).collect()
    }
}

impl Inner {
    /// Those of the phones that are still here.
    fn attached(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.phones.values().filter_map(|phone| phone.outbox.as_ref())
    }

    /// The phone that the binary of this generation means.
    fn phone_of(&self, generation: Generation, conn_id: &str) -> Option<&Arc<Outbox>> {
        self.holder.as_ref().filter(|holder| holder.open && holder.generation == generation)?;
        self.phones.get(conn_id)?.outbox.as_ref()
    }

    /// The binary knows that the phone has left.
    fn forget(&mut self, conn_id: &ConnId) {
        self.phones.remove(conn_id);
        self.departed.retain(|departed| departed != conn_id);
    }

    fn forget_departed(&mut self, most: usize, budget: &Budget) {
        while self.departed.len() > most
            && let Some(oldest) = self.departed.pop_front()
        {
            self.drop_frames(&oldest, budget);
        }
    }

    /// Too many have left and are not heard of yet: the frames of this one go. That it has left is still told to a binary
    /// that knows it.
    fn drop_frames(&mut self, conn_id: &ConnId, budget: &Budget) {
        let Some(phone) = self.phones.get_mut(conn_id) else { return };
        phone.uncount(phone.bytes, budget);
        phone.frames = 0;
        let known = phone.known;
        self.waiting.retain(|waiting| waiting.conn_id != *conn_id || (known && waiting.frame.is_none()));
        if !known {
            self.phones.remove(conn_id);
        }
    }
}

impl Phone {
    fn uncount(&mut self, bytes: usize, budget: &Budget) {
        self.bytes -= bytes;
        match &self.outbox {
            Some(outbox) => outbox.sent(bytes),
            None => budget.release(bytes),
        }
    }

    fn make_room(&mut self) {
        if std::mem::take(&mut self.wants_room) {
            self.room.notify_one();
        }
    }
}
