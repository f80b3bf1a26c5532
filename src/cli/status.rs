//! `waypost status` for people. Owns what its table says. Must not know how the status is asked for.

use super::tables::{duration, plain_table, size, until};
use crate::wire::admin::Status;

/// The table of `waypost status`.
pub(super) fn status(status: &Status) -> String {
    let Status { leases, store, engine, connections, live, .. } = status;
    let next = status.next_expiry.map_or("none".to_owned(), |end| until(end, status.now));
    let busy = 100.0 * engine.writer_busy_seconds / (status.uptime_seconds.max(1) as f64);
    let state = if status.ready { "ready" } else { "not ready: writes are refused" };
    let lines = [
        ("state", state.to_owned()),
        ("version", format!("{}, schema {}", status.version, status.schema)),
        ("server", status.server_id.clone()),
        ("up", format!("{}, start number {}", duration(status.uptime_seconds), status.boot)),
        ("relays", leases.relay.to_string()),
        (
            "registrations",
            format!("{}: {} points, {} tokens", leases.registration, leases.points, leases.tokens),
        ),
        ("dead drops", size(leases.dead_drop_bytes)),
        ("peers", format!("{}; {} TURN sessions", leases.peer, leases.turn_session)),
        ("servers", leases.server.to_string()),
        ("chunks", format!("{} cached", leases.chunk)),
        (
            "link",
            format!(
                "{} claims: {} binaries and {} phones connected",
                leases.claim, connections.binaries, connections.phones
            ),
        ),
        (
            "pairing",
            format!(
                "{} codes: {} pair and {} link requests waiting, {} device links",
                live.pairing_codes, live.pair_requests, live.link_requests, live.device_links
            ),
        ),
        (
            "chunk relay",
            format!(
                "{} announced, {} awaited; {} subscriptions",
                live.chunk_sources, live.chunk_requests, live.subscriptions
            ),
        ),
        ("next expiry", next),
        ("store", format!("{}; {} rows written or removed", size(store.bytes_on_disk), store.rows)),
        ("undecodable rows", store.undecodable_rows.to_string()),
        ("requests", format!("{} in {} drains; {} waiting", engine.requests, engine.drains, engine.queue)),
        (
            "writer",
            format!("busy {busy:.1} % of the time; {} requests refused as overload", engine.overloaded),
        ),
        ("swept", engine.swept.to_string()),
        (
            "sockets",
            format!(
                "{} from {} addresses; {} ids held",
                connections.open, connections.addresses, connections.ids
            ),
        ),
        ("unsent", size(connections.unsent_bytes as u64)),
    ];
    let mut table = plain_table();
    table.add_rows(lines.map(|(name, value)| [name.to_owned(), value]));
    table.trim_fmt() + "\n"
}
