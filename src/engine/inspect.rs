//! Looking in: what the admin endpoint shows of the registries, the store and the sockets.
//!
//! Owns counts, pages and the check of a running daemon. Must not know HTTP, nor what of a record may be shown.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::shown::lease;
use super::writer::fold;
use super::{Engine, Promise, Shared, Unavailable};
use crate::clock::Millis;
use crate::id::{Kind, PeerId};
use crate::live::link::Role;
use crate::live::outbox::Outbox;
use crate::metrics::{Dialect, DialectLabel};
use crate::registry::Registries;
use crate::store::{LeaseKey, Report, Row, SCHEMA};
use crate::wire::admin::{
    Connection, ConnectionCounts, EngineStatus, Handled, Lease, LeasePage, Leases, LiveCounts, Status,
    StoreStatus,
};

/// Which leases to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseQuery {
    pub kind: Kind,
    /// Of the key's text.
    pub prefix: String,
    /// The last key of the page before.
    pub after: Option<LeaseKey>,
    pub limit: usize,
}

/// What [`Engine::check`] saw.
#[derive(Clone, Debug)]
pub struct Checked {
    pub report: Report,
    /// Whether closing and opening the store now would change any answer.
    pub memory_agrees: bool,
}

impl Engine {
    /// Whether the writer answers, whatever it says; waits for that, however many wait already.
    pub async fn answers(&self) -> bool {
        self.0.submit(Promise::None, |_| ()).await.is_ok()
    }

    /// Everything that one look should tell; the addresses among the connections are the server's to count.
    pub async fn status(&self, addresses: usize) -> Result<Status, Unavailable> {
        let (leases, live, open, ids) = self
            .run(Promise::None, |turn| {
                let registries = &turn.core.registries;
                let totals = registries.rendezvous.totals();
                let leases = Leases {
                    relay: registries.count(Kind::Relay),
                    registration: registries.count(Kind::Registration),
                    peer: registries.count(Kind::Peer),
                    turn_session: registries.count(Kind::TurnSession),
                    server: registries.count(Kind::Server),
                    claim: registries.count(Kind::Claim),
                    chunk: registries.count(Kind::Chunk),
                    points: totals.points,
                    tokens: totals.tokens,
                    dead_drop_bytes: totals.payload_bytes,
                };
                let (pairing, chunks) = (turn.core.pairing.counts(), turn.core.chunks.counts());
                let live = LiveCounts {
                    pairing_codes: pairing.codes,
                    pair_requests: pairing.pair_requests,
                    link_requests: pairing.link_requests,
                    device_links: pairing.links,
                    chunk_sources: chunks.sources,
                    chunk_requests: chunks.requests,
                    subscriptions: chunks.subscriptions,
                };
                (leases, live, turn.core.hub.len(), turn.core.hub.ids())
            })
            .await?;
        let stored = self.read_store(|store| Ok((store.next_expiry(0)?, store.size_on_disk()))).await;
        let (next_expiry, bytes_on_disk) = stored.unwrap_or_default();
        let (shared, metrics) = (&self.0, &self.0.metrics);
        let swept = Kind::ALL.map(|kind| {
            let label = crate::metrics::KindLabel { kind: kind.name() };
            metrics.swept.get_or_create(&label).get()
        });
        let handled = |dialect| metrics.handled.get_or_create(&DialectLabel { dialect }).get();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            server_id: shared.server_id.clone(),
            boot: shared.boot.number,
            schema: SCHEMA,
            uptime_seconds: shared.clock.running().as_secs(),
            now: shared.clock.now(),
            ready: self.is_ready(),
            leases,
            next_expiry,
            store: StoreStatus {
                bytes_on_disk,
                rows: metrics.rows.get(),
                undecodable_rows: shared.undecodable.load(Ordering::Relaxed),
            },
            engine: EngineStatus {
                queue: shared.waiting.load(Ordering::Relaxed),
                requests: metrics.requests.get(),
                drains: metrics.drains.get(),
                writer_busy_seconds: metrics.writer_busy.get(),
                overloaded: metrics.overloaded.get(),
                swept: swept.iter().sum(),
            },
            connections: ConnectionCounts {
                open,
                addresses,
                ids,
                binaries: metrics.binaries.get() as usize,
                phones: metrics.phones.get() as usize,
                unsent_bytes: shared.budget.used(),
            },
            live,
            handled: Handled {
                signalling: handled(Dialect::Signalling),
                link: handled(Dialect::Link),
                bootstrap: handled(Dialect::Bootstrap),
                directory: handled(Dialect::Directory),
            },
        })
    }

    /// Brings the gauges up to date that nobody counts as it happens.
    pub async fn measure(&self) {
        let metrics = &self.0.metrics;
        metrics.ready.set(i64::from(self.is_ready()));
        metrics.queue.set(self.0.waiting.load(Ordering::Relaxed) as i64);
        // A store that is closed keeps the figures that it had.
        let measured = self.read_store(|store| Ok((store.size_on_disk(), store.free_on_disk()?))).await;
        if let Ok((size, free)) = measured {
            metrics.store_size.set(size as i64);
            metrics.disk_free.set(free as i64);
        }
    }

    /// Checks the store, and that folding its rows gives what memory has. The writer waits meanwhile.
    pub async fn check(&self) -> Result<Checked, Unavailable> {
        loop {
            let shared = self.0.clone();
            let checked = self.run(Promise::Applied, move |turn| {
                // Requests before this one that share its transaction are in memory and not yet in the rows.
                turn.core.registries.relays.write_loads(usize::MAX, turn.changes);
                let settled = turn.changes.is_empty();
                settled.then(|| shared.check(&mut turn.core.registries, turn.now))
            });
            if let Some(checked) = checked.await? {
                return checked;
            }
        }
    }

    /// What memory has and the rows have not, is written.
    async fn settle(&self) -> Result<(), Unavailable> {
        let settled = self
            .run(Promise::Applied, |turn| turn.core.registries.relays.write_loads(usize::MAX, turn.changes));
        settled.await.map(drop)
    }

    /// One page of leases, in the order of their keys.
    pub async fn leases(&self, query: LeaseQuery) -> Result<LeasePage, Unavailable> {
        self.settle().await?;
        self.read_store(move |store| {
            let LeaseQuery { kind, prefix, after, limit } = query;
            let mut leases = Vec::new();
            let show = |key: &LeaseKey, row: Row<'_>| leases.push(lease(key, &row));
            let more = store.page(kind, &prefix, after.as_ref(), limit, show)?;
            Ok(LeasePage { leases, cursor: more.map(|key| key.text()) })
        })
        .await
    }

    pub async fn lease(&self, key: LeaseKey) -> Result<Option<Lease>, Unavailable> {
        self.settle().await?;
        self.read_store(move |store| store.inspect(&key, |row| lease(&key, &row))).await
    }

    /// Every open socket, the oldest first.
    pub async fn connections(&self) -> Result<Vec<Connection>, Unavailable> {
        let now = self.0.clock.running();
        let listed = self.run(Promise::None, |turn| {
            let roles = turn.core.links.roles();
            let shown = |(outbox, id): (&Arc<Outbox>, Option<&PeerId>)| match roles.get(&outbox.socket) {
                None => (outbox.clone(), "peer", id.map(|id| id.as_str().to_owned())),
                Some((Role::Binary, id)) => (outbox.clone(), "binary", Some(id.as_str().to_owned())),
                Some((Role::Phone, id)) => (outbox.clone(), "phone", Some(id.as_str().to_owned())),
            };
            turn.core.hub.sockets().map(shown).collect::<Vec<_>>()
        });
        let mut listed = listed.await?;
        listed.sort_by_key(|(outbox, ..)| outbox.socket);
        let shown = listed.into_iter().map(|(outbox, role, id)| Connection {
            socket: outbox.socket.0,
            address: outbox.address.to_string(),
            role: role.to_owned(),
            id,
            age_seconds: now.saturating_sub(outbox.opened).as_secs(),
            unsent_bytes: outbox.unsent(),
        });
        Ok(shown.collect())
    }
}

impl Shared {
    fn check(&self, memory: &mut Registries, now: Millis) -> Result<Checked, Unavailable> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        let store = store.as_ref().ok_or(Unavailable::Storage)?;
        let checked = store.check().and_then(|report| {
            let (mut folded, _) = fold(store, self.boot, &self.limits, &self.blur, now)?;
            Ok(Checked { report, memory_agrees: folded.same_as(memory, now) })
        });
        checked.map_err(|error| {
            tracing::error!(%error, "the store cannot be checked");
            Unavailable::Storage
        })
    }
}
