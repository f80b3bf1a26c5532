//! Owns how the figures are told, to people and to programs. Must not know how they came about.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{Arguments, FEW_PEERS, Load, REMOVED, STALE};

#[derive(Serialize)]
pub struct Row {
    pub phase: String,
    pub answers: u64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Row {
    pub fn of(phase: String, Load { latencies, took }: &Load) -> Row {
        Row {
            phase,
            answers: latencies.len(),
            per_second: latencies.len() as f64 / took.as_secs_f64(),
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            max_us: latencies.max(),
        }
    }
}

#[derive(Serialize)]
pub struct Heartbeats {
    pub phases: Vec<Row>,
    /// The p50 after the cleaning against that with few peers.
    pub p50_ratio: f64,
    pub longest_while_cleaning_ms: f64,
    pub cleaning_requests: u64,
    pub cleaning_ms: f64,
    pub listing_few_us: u64,
    pub listing_many_us: u64,
}

#[derive(Serialize)]
pub struct Listings {
    /// With half of the entries stale.
    pub first_p50_us: u64,
    pub first_max_us: u64,
    pub calm_p50_us: u64,
    pub calm_p99_us: u64,
    pub ratio: f64,
    /// Least and most, over the rounds.
    pub removed: [u64; 2],
    pub commits: [u64; 2],
    /// From the listing's request on; its answer comes in between.
    pub removal_p50_us: u64,
    pub removal_max_us: u64,
}

#[derive(Serialize)]
pub struct Removals {
    pub batch_flushed_us: u64,
    pub singly_flushed_us: u64,
    pub ratio_flushed: f64,
    pub batch_us: u64,
    pub singly_us: u64,
    pub ratio: f64,
}

#[derive(Serialize)]
pub struct Report<'a> {
    pub version: &'static str,
    pub settings: &'a Arguments,
    pub heartbeats: Heartbeats,
    pub listings: Listings,
    pub removals: Removals,
}

impl Report<'_> {
    pub fn print(&self) {
        let Report { settings, heartbeats, listings, removals, .. } = self;
        println!("heartbeats on {} connections; times in microseconds\n", settings.connections);
        let rows = heartbeats.phases.iter().map(|row| {
            let numbers = [row.answers, row.per_second as u64, row.p50_us, row.p99_us, row.max_us];
            std::iter::once(row.phase.clone()).chain(numbers.map(|number| number.to_string())).collect()
        });
        print(&["", "answers", "answers/s", "p50", "p99", "max"], rows.collect());
        println!(
            "p50 after the cleaning against that of {FEW_PEERS} peers: {:.2} times (target 1.5)\n\
             longest request while cleaning: {:.1} ms (target 50)\n\
             cleaned by {} requests in {:.0} ms\n\
             GET /peers?limit=100, p50: {} at {FEW_PEERS} peers, {} at {}\n",
            heartbeats.p50_ratio,
            heartbeats.longest_while_cleaning_ms,
            heartbeats.cleaning_requests,
            heartbeats.cleaning_ms,
            heartbeats.listing_few_us,
            heartbeats.listing_many_us,
            settings.live,
        );
        println!(
            "GET /servers, {} entries of which {STALE} are stale, {} rounds",
            2 * STALE,
            settings.listing_rounds
        );
        println!(
            "first listing p50 {}, max {}; without stale ones p50 {}, p99 {}: {:.2} times\n\
             removed {:?} in {:?} commits (least, most); gone {} after the request, {} at most\n",
            listings.first_p50_us,
            listings.first_max_us,
            listings.calm_p50_us,
            listings.calm_p99_us,
            listings.ratio,
            listings.removed,
            listings.commits,
            listings.removal_p50_us,
            listings.removal_max_us,
        );
        println!("{REMOVED} stale entries removed, medians of {} rounds\n", settings.removal_rounds);
        let row = |name: &str, batch: u64, singly: u64, ratio: f64| {
            vec![name.to_owned(), batch.to_string(), singly.to_string(), format!("{ratio:.1}")]
        };
        let flushed =
            row("flushed", removals.batch_flushed_us, removals.singly_flushed_us, removals.ratio_flushed);
        let unflushed = row("not flushed", removals.batch_us, removals.singly_us, removals.ratio);
        print(&["", "one batch", "one by one", "times"], vec![flushed, unflushed]);
    }
}

fn print(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{}\n", table.trim_fmt());
}
