//! Owns what the bench prints: its settings and its results, as a table or as JSON. Must not know how they came about.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::load::Measured;
use super::{Bench, Scenario};

/// One scenario's numbers. Those that need --admin or --pid are absent without.
#[derive(Serialize)]
struct Row {
    scenario: Scenario,
    requests: u64,
    per_second: f64,
    /// The rate as a part of that of ping in the same run.
    relative_to_ping: Option<f64>,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// CPU time of the bench itself per request.
    bench_cpu_us: f64,
    #[serde(flatten)]
    process: Option<ProcessRow>,
    #[serde(flatten)]
    daemon: Option<DaemonRow>,
}

#[derive(Serialize)]
struct ProcessRow {
    server_cpu_us: f64,
    server_resident_bytes: u64,
}

/// Of the requests that reached the daemon's writer; absent numbers mean that none did.
#[derive(Serialize)]
struct DaemonRow {
    writer_requests: u64,
    rows_per_request: Option<f64>,
    drains: u64,
    requests_per_drain: Option<f64>,
    writer_us_per_request: Option<f64>,
}

fn rows(measured: &[Measured]) -> Vec<Row> {
    let rate = |one: &Measured| one.latency.len() as f64 / one.seconds;
    let ping = measured.iter().find(|one| one.scenario == Scenario::Ping).map(rate);
    measured.iter().map(|one| row(one, rate(one), ping)).collect()
}

fn row(one: &Measured, per_second: f64, ping: Option<f64>) -> Row {
    let requests = one.latency.len();
    let each = |sum: u64| sum as f64 / requests.max(1) as f64;
    Row {
        scenario: one.scenario,
        requests,
        per_second,
        relative_to_ping: ping.map(|ping| per_second / ping),
        p50_us: one.latency.value_at_quantile(0.5),
        p90_us: one.latency.value_at_quantile(0.9),
        p99_us: one.latency.value_at_quantile(0.99),
        p999_us: one.latency.value_at_quantile(0.999),
        max_us: one.latency.max(),
        bench_cpu_us: each(one.own_cpu),
        process: one.server.as_ref().map(|process| ProcessRow {
            server_cpu_us: each(process.cpu),
            server_resident_bytes: process.resident,
        }),
        daemon: one.daemon.as_ref().map(|(before, after)| {
            // Asking for the status is one of them.
            let requests = after.engine.requests.saturating_sub(before.engine.requests + 1);
            let drains = after.engine.drains.saturating_sub(before.engine.drains);
            let rows = after.store.rows.saturating_sub(before.store.rows);
            let busy = after.engine.writer_busy_seconds - before.engine.writer_busy_seconds;
            let per = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
            DaemonRow {
                writer_requests: requests,
                rows_per_request: per(rows as f64, requests),
                drains,
                requests_per_drain: per(requests as f64, drains).filter(|_| requests > 0),
                writer_us_per_request: per(busy * 1e6, requests),
            }
        }),
    }
}

/// Settings and results for programs.
pub fn json(bench: &Bench, measured: &[Measured]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        version: &'static str,
        settings: &'a Bench,
        results: Vec<Row>,
    }
    let report = Report { version: env!("CARGO_PKG_VERSION"), settings: bench, results: rows(measured) };
    serde_json::to_string_pretty(&report).expect("numbers and names: nothing that JSON cannot hold") + "\n"
}

/// Settings and results for people.
pub fn text(bench: &Bench, measured: &[Measured]) -> String {
    let rows = rows(measured);
    let mut text = format!(
        "{} with {} sockets, {} in flight each; {} s measured after {} s of warm-up\n\
         rendezvous: 3 points, 1 token, a dead drop of {} bytes; a ring of {} registrations per socket\n\
         the server must have limits.messages_per_minute = 0; times in microseconds\n\n",
        bench.url,
        bench.sockets,
        bench.in_flight,
        bench.seconds,
        bench.warmup,
        bench.payload_bytes,
        bench.ring,
    );
    let heads = ["scenario", "requests/s", "of ping", "p50", "p90", "p99", "p999", "max", "bench CPU"];
    let cells = rows.iter().map(|row| {
        vec![
            row.scenario.name().to_owned(),
            format!("{:.0}", row.per_second),
            row.relative_to_ping.map_or("–".to_owned(), |part| format!("{:.0} %", part * 100.0)),
            row.p50_us.to_string(),
            row.p90_us.to_string(),
            row.p99_us.to_string(),
            row.p999_us.to_string(),
            row.max_us.to_string(),
            format!("{:.1}", row.bench_cpu_us),
        ]
    });
    add_table(&mut text, &heads, cells);

    let cells: Vec<_> = rows.iter().filter_map(server_cells).collect();
    if !cells.is_empty() {
        text.push_str("\nThe server, per request:\n");
        let heads = ["scenario", "CPU", "resident", "rows", "drains", "requests/drain", "writer"];
        add_table(&mut text, &heads, cells.into_iter());
    }
    text
}

fn server_cells(row: &Row) -> Option<Vec<String>> {
    if row.process.is_none() && row.daemon.is_none() {
        return None;
    }
    let number = |number: Option<f64>| number.map_or("–".to_owned(), |number| format!("{number:.2}"));
    let process = row.process.as_ref();
    let daemon = row.daemon.as_ref();
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    Some(vec![
        row.scenario.name().to_owned(),
        number(process.map(|process| process.server_cpu_us)),
        process.map_or("–".to_owned(), |process| mebibytes(process.server_resident_bytes)),
        number(daemon.and_then(|daemon| daemon.rows_per_request)),
        daemon.map_or("–".to_owned(), |daemon| daemon.drains.to_string()),
        number(daemon.and_then(|daemon| daemon.requests_per_drain)),
        number(daemon.and_then(|daemon| daemon.writer_us_per_request)),
    ])
}

fn add_table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heads.iter().copied()).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", table.trim_fmt());
}
