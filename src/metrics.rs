//! Every metric, each with its doc line, which is also its help text on `/metrics`.
//!
//! Owns the names, the units and the closed sets of labels. Knows nothing else of ours; whoever measures holds an
//! `Arc<Metrics>` and counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A counter of seconds.
pub type Seconds = Counter<f64, AtomicU64>;

macro_rules! label_values {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)+ })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($variant,)+ }

        impl $name {
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
                EncodeLabelValue::encode(&self.text(), encoder)
            }
        }
    )* };
}

label_values! {
    /// Why a connection was refused before its upgrade.
    Refusal {
        Total = "total",
        Address = "address",
        Rate = "rate",
        BadHeader = "bad_header",
        BadUpgrade = "bad_upgrade",
        BadTls = "bad_tls",
        BadProxyHeader = "bad_proxy_header",
    }
    /// Who upgrades on a path of link.
    Endpoint {
        Server = "server",
        Client = "client",
    }
    /// What became of an upgrade on a path of link.
    Upgrade {
        Opened = "opened",
        Total = "total",
        Address = "address",
        Rate = "rate",
        BadHeader = "bad_header",
        BadUpgrade = "bad_upgrade",
    }
    /// What clients speak; bootstrap with TURN.
    Dialect {
        Signalling = "signalling",
        Link = "link",
        Bootstrap = "bootstrap",
        Directory = "directory",
    }
    /// Where a frame of link goes.
    Direction {
        ToBinary = "to_binary",
        ToPhone = "to_phone",
    }
    /// What of a binary's envelope was dropped.
    Dropped {
        Malformed = "malformed",
        UnknownConnId = "unknown_conn_id",
        CloseCode = "close_code",
    }
    /// How a socket ended.
    Ending {
        Closed = "closed",
        Failed = "failed",
        Silent = "silent",
        NoFirstMessage = "no_first_message",
        TooLarge = "too_large",
        NotText = "not_text",
        Abuse = "abuse",
        SlowConsumer = "slow_consumer",
        Replaced = "replaced",
        Operator = "operator",
        Shutdown = "shutdown",
        Unavailable = "unavailable",
        ServerIdClaimed = "server_id_claimed",
        NoServer = "no_server",
        TooManyPhones = "too_many_phones",
        Reclaimed = "reclaimed",
        GraceEnded = "grace_ended",
        BacklogFull = "backlog_full",
        NotJson = "not_json",
        ByBinary = "by_binary",
    }
    /// Why a message for another socket was not queued.
    Undelivered {
        Full = "full",
        Gone = "gone",
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $field:ident: $kind:ty })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name { pub $field: $kind }
    )* };
}

labels! {
    RefusalLabel { reason: Refusal }
    EndingLabel { reason: Ending }
    UndeliveredLabel { outcome: Undelivered }
    DialectLabel { dialect: Dialect }
    DirectionLabel { direction: Direction }
    DroppedLabel { what: Dropped }
    /// The kind of a lease, by its name.
    KindLabel { kind: &'static str }
    /// The type of a message, by its name in the protocol.
    MessageLabel { r#type: &'static str }
    /// The stable code of an error.
    ErrorLabel { code: &'static str }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpgradeLabel {
    pub endpoint: Endpoint,
    pub outcome: Upgrade,
}

/// A route of the public address, as it is declared, and the status of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabel {
    pub route: String,
    pub status: u16,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $make:expr, $name:literal $(, $unit:expr)?;)*) => {
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $doc])+ pub $field: $kind,)*
        }

        impl Default for Metrics {
            fn default() -> Metrics {
                let mut registry = Registry::with_prefix("waypost");
                $(
                    let $field: $kind = $make;
                    let help = concat!($($doc),+).trim().trim_end_matches('.');
                    metrics!(@register registry, $name, help, $field $(, $unit)?);
                )*
                Metrics { registry, $($field,)* }
            }
        }
    };
    (@register $registry:ident, $name:literal, $help:ident, $field:ident) => {
        $registry.register($name, $help, $field.clone());
    };
    (@register $registry:ident, $name:literal, $help:ident, $field:ident, $unit:expr) => {
        $registry.register_with_unit($name, $help, $unit, $field.clone());
    };
}

metrics! {
    /// 1 while writes are taken, else 0.
    ready: Gauge = Gauge::default(), "ready";
    /// Sockets that are open now.
    connections: Gauge = Gauge::default(), "connections";
    /// Sockets that there may be at most.
    connections_limit: Gauge = Gauge::default(), "connections_limit";
    /// Connections refused before their upgrade.
    refused: Family<RefusalLabel, Counter> = Family::default(), "connections_refused";
    /// Sockets that ended, by how.
    ended: Family<EndingLabel, Counter> = Family::default(), "connections_ended";
    /// Messages, frames of link and HTTP requests handled, by dialect.
    handled: Family<DialectLabel, Counter> = Family::default(), "handled";
    /// Messages handled, by type; what has no type of ours is "invalid".
    messages: Family<MessageLabel, Counter> = Family::default(), "messages";
    /// Errors answered, by code.
    errors: Family<ErrorLabel, Counter> = Family::default(), "errors";
    /// Messages for other sockets that were not queued.
    undelivered: Family<UndeliveredLabel, Counter> = Family::default(), "messages_undelivered";
    /// Bytes queued or written for sockets and not yet taken by them.
    unsent: Gauge = Gauge::default(), "unsent", Unit::Bytes;
    /// Bytes of messages and bodies that have arrived and are not handled, past the first 8 KiB of each client (link: 40 KiB).
    arriving: Gauge = Gauge::default(), "arriving", Unit::Bytes;
    /// Ids taken over from another socket.
    takeovers: Counter = Counter::default(), "takeovers";
    /// Leases in memory, by kind.
    leases: Family<KindLabel, Gauge> = Family::default(), "leases";
    /// Live entries at rendezvous points.
    points: Gauge = Gauge::default(), "points";
    /// Live entries at hourly tokens.
    tokens: Gauge = Gauge::default(), "tokens";
    /// Dead-drop payload bytes in the store.
    drops: Gauge = Gauge::default(), "dead_drops", Unit::Bytes;
    /// Leases that a sweep ended, by kind.
    swept: Family<KindLabel, Counter> = Family::default(), "leases_swept";
    /// Expired peers and stale servers that requests removed on their way, by kind.
    cleaned: Family<KindLabel, Counter> = Family::default(), "leases_cleaned";
    /// HTTP requests answered on the public address, by route and status.
    http: Family<HttpLabel, Counter> = Family::default(), "http_requests";
    /// Pairing codes held.
    codes: Gauge = Gauge::default(), "pairing_codes";
    /// Pair requests that wait for an answer.
    pair_requests: Gauge = Gauge::default(), "pair_requests";
    /// Link requests that wait for an answer.
    link_requests: Gauge = Gauge::default(), "link_requests";
    /// Links between two devices.
    device_links: Gauge = Gauge::default(), "device_links";
    /// Announcements of chunks that may be pulled.
    chunk_sources: Gauge = Gauge::default(), "chunk_sources";
    /// Requests that wait for a chunk.
    chunk_requests: Gauge = Gauge::default(), "chunk_requests";
    /// Subscriptions to channels.
    subscriptions: Gauge = Gauge::default(), "channel_subscriptions";
    /// Chunks that went before their time, for lack of room.
    chunks_evicted: Counter = Counter::default(), "chunks_evicted";
    /// Binaries connected now, those in their grace left out.
    binaries: Gauge = Gauge::default(), "link_binaries";
    /// Phones connected now.
    phones: Gauge = Gauge::default(), "link_phones";
    /// Upgrades on the paths of link, by endpoint and outcome.
    upgrades: Family<UpgradeLabel, Counter> = Family::default(), "link_upgrades";
    /// Frames of link forwarded, by direction.
    frames: Family<DirectionLabel, Counter> = Family::default(), "link_frames";
    /// What of binaries' envelopes was dropped.
    dropped: Family<DroppedLabel, Counter> = Family::default(), "link_dropped";
    /// Graces that ended without a reclaim.
    graces_ended: Counter = Counter::default(), "link_graces_ended";
    /// Sweep batches committed.
    sweeps: Counter = Counter::default(), "sweep_batches";
    /// Requests waiting for the writer.
    queue: Gauge = Gauge::default(), "engine_queue";
    /// Requests refused because the queue was full.
    overloaded: Counter = Counter::default(), "engine_overloaded";
    /// Requests run by the writer.
    requests: Counter = Counter::default(), "engine_requests";
    /// Drains of the queue, each one transaction at most.
    drains: Counter = Counter::default(), "engine_drains";
    /// Time the writer thread spent working rather than waiting.
    writer_busy: Seconds = Seconds::default(), "engine_writer_busy", Unit::Seconds;
    /// Bytes that the store takes on the disk.
    store_size: Gauge = Gauge::default(), "store_size", Unit::Bytes;
    /// Bytes that are free where the store is.
    disk_free: Gauge = Gauge::default(), "disk_free", Unit::Bytes;
    /// Rows written to or removed from the store.
    rows: Counter = Counter::default(), "store_rows";
    /// Time to apply one transaction.
    commit: Histogram = Histogram::new(exponential_buckets(0.000_016, 2.0, 16)), "store_commit", Unit::Seconds;
    /// Time of one flush to the disk.
    flush: Histogram = Histogram::new(exponential_buckets(0.000_128, 2.0, 16)), "store_flush", Unit::Seconds;
    /// Commits or flushes that failed.
    storage_failures: Counter = Counter::default(), "store_failures";
    /// When the last backup was begun that was taken whole, in seconds since the Unix epoch.
    backup_time: Gauge = Gauge::default(), "backup_last_start_timestamp", Unit::Seconds;
    /// Bytes of that backup.
    backup_bytes: Gauge = Gauge::default(), "backup_last_size", Unit::Bytes;
    /// How long that backup took.
    backup_duration: Gauge<f64, AtomicU64> = Gauge::default(), "backup_last_duration", Unit::Seconds;
    /// Rows that did not decode when the store was folded; they are kept and left alone.
    undecodable: Gauge = Gauge::default(), "store_undecodable_rows";
}

impl Metrics {
    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub fn lease_gauge(&self, kind: &'static str, count: usize) {
        self.leases.get_or_create(&KindLabel { kind }).set(count as i64);
    }
}

/// Counts one more in a gauge for as long as it lives.
pub struct Counted(Gauge);

impl Counted {
    pub fn one(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_rendered_with_its_help_and_unit() {
        let metrics = Metrics::default();
        metrics.refused.get_or_create(&RefusalLabel { reason: Refusal::Address }).inc();
        metrics.writer_busy.inc_by(0.25);
        let text = metrics.render();
        assert!(text.contains("# HELP waypost_connections Sockets that are open now."), "{text}");
        assert!(text.contains("waypost_connections_refused_total{reason=\"address\"} 1"), "{text}");
        assert!(text.contains("waypost_engine_writer_busy_seconds_total 0.25"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
