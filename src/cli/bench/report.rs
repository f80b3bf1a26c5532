//! Owns what the bench prints: its settings and its results, as a table or as JSON, with their ratios to an earlier run.
//! Must not know how they came about.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

use super::compare::Earlier;
use super::load::Measured;
use super::{Bench, Scenario};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An open loop that answers less than this part of what was asked has not kept up.
const KEPT_UP: f64 = 0.98;

/// One scenario's numbers. Those that need --admin or --pid are absent without.
#[derive(Serialize)]
struct Row {
    scenario: Scenario,
    requests: u64,
    per_second: f64,
    /// The rate as a part of that of ping in the same run; not of an open loop.
    relative_to_ping: Option<f64>,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// Requests of an open loop that still waited to be sent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsent: Option<u64>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    server_bytes_per_socket: Option<f64>,
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

/// A row, and each of its figures as so many times that of the earlier run.
#[derive(Serialize)]
struct Compared {
    #[serde(flatten)]
    row: Row,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratios: Option<BTreeMap<String, f64>>,
}

/// Settings and results.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    settings: Map<String, Value>,
    /// Where the settings differ from those of the earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<String>>,
    results: Vec<Compared>,
}

fn rows(bench: &Bench, measured: &[Measured]) -> Vec<Row> {
    let rate = |one: &Measured| one.counted.answers as f64 / one.seconds;
    let ping = measured.iter().find(|one| one.scenario == Scenario::Ping && bench.rate.is_none()).map(rate);
    measured.iter().map(|one| row(bench, one, rate(one), ping)).collect()
}

fn row(bench: &Bench, one: &Measured, per_second: f64, ping: Option<f64>) -> Row {
    let (requests, latency) = (one.counted.answers, &one.counted.latency);
    let each = |sum: u64| sum as f64 / requests.max(1) as f64;
    let is_idle = one.scenario == Scenario::Idle;
    Row {
        scenario: one.scenario,
        requests,
        per_second,
        relative_to_ping: ping.filter(|_| !is_idle).map(|ping| per_second / ping),
        p50_us: latency.value_at_quantile(0.5),
        p90_us: latency.value_at_quantile(0.9),
        p99_us: latency.value_at_quantile(0.99),
        p999_us: latency.value_at_quantile(0.999),
        max_us: latency.max(),
        unsent: bench.rate.filter(|_| !is_idle).map(|_| one.counted.unsent),
        bench_cpu_us: each(one.own_cpu),
        process: one.server.as_ref().map(|process| ProcessRow {
            server_cpu_us: each(process.cpu),
            server_resident_bytes: process.resident,
            server_bytes_per_socket: process.bytes_per_socket,
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

fn map_of(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("a struct of numbers and names is an object"),
    }
}

impl Report {
    pub fn new(bench: &Bench, measured: &[Measured], earlier: Option<&Earlier>) -> Report {
        let settings = map_of(bench);
        let compared = |row| {
            let ratios = earlier.map(|earlier| earlier.ratios(&map_of(&row)));
            Compared { row, ratios }
        };
        Report {
            version: VERSION,
            differences: earlier.map(|earlier| earlier.differences(VERSION, &settings)),
            results: rows(bench, measured).into_iter().map(compared).collect(),
            settings,
        }
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and names: nothing that JSON cannot hold") + "\n"
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("waypost bench{}\ntimes in microseconds\n", self.arguments());
        for difference in self.differences.iter().flatten() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "warning: not the settings of the earlier run: {difference}");
        }
        text.push('\n');
        let heads = ["scenario", "requests/s", "of ping", "p50", "p90", "p99", "p999", "max", "bench CPU"];
        add_table(&mut text, &heads, self.results.iter().map(Compared::cells));

        let cells: Vec<_> = self.results.iter().filter_map(Compared::server_cells).collect();
        if !cells.is_empty() {
            text.push_str("\nThe server, per request:\n");
            let heads =
                ["scenario", "CPU", "resident", "a socket", "rows", "drains", "requests/drain", "writer"];
            add_table(&mut text, &heads, cells.into_iter());
        }
        let rate = self.settings.get("rate").and_then(Value::as_f64);
        for Compared { row, .. } in &self.results {
            if rate.is_some_and(|rate| row.unsent.is_some() && row.per_second < KEPT_UP * rate) {
                let (name, unsent) = (row.scenario.name(), row.unsent.unwrap_or_default());
                let _ = writeln!(
                    text,
                    "\nwarning: {name} did not keep up with --rate, {unsent} requests were not sent in time"
                );
            }
        }
        text
    }

    /// The settings as they could be given.
    fn arguments(&self) -> String {
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut text = String::new();
        for (name, value) in &self.settings {
            let value = match value {
                Value::Null => continue,
                Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
                value => shown(value),
            };
            // 1 in flight is refused beside a rate, and goes without saying.
            if name != "in_flight" || self.settings["rate"].is_null() {
                let _ = write!(text, " --{} {value}", name.replace('_', "-"));
            }
        }
        text
    }
}

impl Compared {
    fn cells(&self) -> Vec<String> {
        let row = &self.row;
        let micros = |value: u64, name| self.cell(value.to_string(), name);
        vec![
            row.scenario.name().to_owned(),
            self.cell(format!("{:.0}", row.per_second), "per_second"),
            row.relative_to_ping.map_or(NOTHING.to_owned(), |part| {
                self.cell(format!("{:.0} %", part * 100.0), "relative_to_ping")
            }),
            micros(row.p50_us, "p50_us"),
            micros(row.p90_us, "p90_us"),
            micros(row.p99_us, "p99_us"),
            micros(row.p999_us, "p999_us"),
            micros(row.max_us, "max_us"),
            self.cell(format!("{:.1}", row.bench_cpu_us), "bench_cpu_us"),
        ]
    }

    fn server_cells(&self) -> Option<Vec<String>> {
        let (process, daemon) = (self.row.process.as_ref(), self.row.daemon.as_ref());
        if process.is_none() && daemon.is_none() {
            return None;
        }
        let shown =
            |text: Option<String>, name| text.map_or(NOTHING.to_owned(), |text| self.cell(text, name));
        let number = |number: Option<f64>, name| shown(number.map(|number| format!("{number:.2}")), name);
        let resident = process
            .map(|process| format!("{:.1} MiB", process.server_resident_bytes as f64 / f64::from(1 << 20)));
        let socket = process.and_then(|process| process.server_bytes_per_socket);
        let socket = socket.map(|bytes| format!("{:.2} KiB", bytes / 1024.0));
        Some(vec![
            self.row.scenario.name().to_owned(),
            number(process.map(|process| process.server_cpu_us), "server_cpu_us"),
            shown(resident, "server_resident_bytes"),
            shown(socket, "server_bytes_per_socket"),
            number(daemon.and_then(|daemon| daemon.rows_per_request), "rows_per_request"),
            shown(daemon.map(|daemon| daemon.drains.to_string()), "drains"),
            number(daemon.and_then(|daemon| daemon.requests_per_drain), "requests_per_drain"),
            number(daemon.and_then(|daemon| daemon.writer_us_per_request), "writer_us_per_request"),
        ])
    }

    /// A figure, with its ratio if there is one.
    fn cell(&self, text: String, name: &str) -> String {
        match self.ratios.as_ref().and_then(|ratios| ratios.get(name)) {
            Some(ratio) => format!("{text} ×{ratio:.2}"),
            None => text,
        }
    }
}

const NOTHING: &str = "–";

fn add_table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heads.iter().copied()).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let _ = writeln!(text, "{}", table.trim_fmt());
}
