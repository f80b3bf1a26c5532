//! Owns how the answers of the admin endpoint look for people: tables, times and sizes. Must not know how they were asked for.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::wire::admin::{ClaimPage, Connections, Lease, LeasePage, Swept};

pub(super) fn swept(swept: &Swept) -> String {
    let Swept { relay, registration, peer, turn_session, server, claim, chunk } = swept;
    format!(
        "swept {relay} relays, {registration} registrations, {peer} peers, {turn_session} TURN sessions, \
         {server} servers, {claim} claims and {chunk} chunks\n"
    )
}

pub(super) fn connections(connections: &Connections) -> String {
    if connections.connections.is_empty() {
        return "no sockets\n".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["socket", "address", "role", "id", "age", "unsent"]);
    table.add_rows(connections.connections.iter().map(|connection| {
        [
            connection.socket.to_string(),
            connection.address.clone(),
            connection.role.clone(),
            connection.id.clone().unwrap_or_else(|| "–".to_owned()),
            duration(connection.age_seconds),
            size(connection.unsent_bytes as u64),
        ]
    }));
    right(&mut table, &[0, 4, 5]);
    table.trim_fmt() + "\n"
}

pub(super) fn leases(page: &LeasePage, now: u64) -> String {
    if page.leases.is_empty() {
        return "no leases\n".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["kind", "key", "peer", "ends in", "holds"]);
    table.add_rows(page.leases.iter().map(|lease| {
        let Lease { kind, key, peer_id, ends, record, .. } = lease;
        let ends = ends.map_or("with its holder".to_owned(), |end| until(end, now));
        [kind.clone(), key.clone(), peer_id.clone(), ends, summary(record)]
    }));
    right(&mut table, &[3]);
    let more = if page.cursor.is_some() { "there are more: raise --limit\n" } else { "" };
    format!("{}\n{more}", table.trim_fmt())
}

pub(super) fn claims(page: &ClaimPage) -> String {
    if page.claims.is_empty() {
        return "no claims\n".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["server-id", "state", "generation", "left", "phones", "waiting"]);
    table.add_rows(page.claims.iter().map(|claim| {
        let left = claim.left_ms.map_or("–".to_owned(), |left| duration(left.div_ceil(1000)));
        let (generation, phones) = (claim.generation.to_string(), claim.phones.to_string());
        let waiting = size(claim.waiting_bytes as u64);
        [claim.server_id.clone(), claim.state.clone(), generation, left, phones, waiting]
    }));
    right(&mut table, &[2, 3, 4, 5]);
    let more = if page.cursor.is_some() { "there are more: raise --limit\n" } else { "" };
    format!("{}\n{more}", table.trim_fmt())
}

/// A record's fields in one line: lists by their length; what is empty, and when and in which run things were, left out.
fn summary(record: &Value) -> String {
    let Value::Object(fields) = record else { return record.to_string() };
    let fields = fields.iter().filter_map(|(name, value)| match value {
        _ if name == "boot" || name.ends_with("At") || name.ends_with("End") => None,
        Value::Null => None,
        Value::Array(list) => (!list.is_empty()).then(|| format!("{name}[{}]", list.len())),
        Value::Object(map) => (!map.is_empty()).then(|| format!("{name}[{}]", map.len())),
        Value::String(text) => (!text.is_empty()).then(|| format!("{name}={text}")),
        Value::Number(number) => Some(format!("{name}={}", number.as_f64().unwrap_or_default())),
        Value::Bool(yes) => Some(format!("{name}={yes}")),
    });
    fields.collect::<Vec<_>>().join(" ")
}

pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for number in columns {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

pub(super) fn until(end: u64, now: u64) -> String {
    if end <= now { "ended".to_owned() } else { duration((end - now).div_ceil(1000)) }
}

/// The two largest units of a time in seconds; hours go on counting past a day.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

pub(super) fn size(bytes: u64) -> String {
    let bytes_in = |unit: u32| bytes as f64 / f64::from(1_u32 << unit);
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes_in(10)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes_in(20)),
        _ => format!("{:.1} GiB", bytes_in(30)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(725), "12m 5s");
        assert_eq!(duration(48 * 3600 - 30), "47h 59m");
        assert_eq!((until(5_001, 5_000), until(5_000, 5_000)), ("1s".to_owned(), "ended".to_owned()));
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }

    #[test]
    fn records_are_told_in_a_line() {
        let record = json!({"boot": 1, "points": ["a", "b"], "pointsEnd": 9, "tokens": [], "relayId": "",
            "connectedCount": 3.0, "publicKey": null});
        assert_eq!(summary(&record), "connectedCount=3 points[2]");
    }
}
