//! Owns how the figures are told, to people and to programs. Must not know how they came about.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::flood::{Flow, Way};
use super::rounds::{BESIDE_BYTES, Latencies, NON_READERS};
use super::{Arguments, KIB};

/// Medians over the rounds.
#[derive(Serialize)]
pub struct Flood {
    pub bytes: usize,
    pub way: Way,
    pub per_second: f64,
    /// Of what the echo makes with frames of this size.
    pub of_echo: f64,
    /// CPU time per frame.
    pub server_us: f64,
    pub client_us: f64,
    pub server_cores: f64,
    pub client_cores: f64,
}

impl Flood {
    /// What was measured with frames of one size, each way by its position in `Way::ALL`.
    pub fn of(bytes: usize, flows: &[Vec<Flow>; Way::ALL.len()]) -> Vec<Flood> {
        let of_way = |(way, flows): (Way, &Vec<Flow>)| Flood {
            bytes,
            way,
            per_second: median(flows, |flow| flow.per_second),
            of_echo: 1.0,
            server_us: median(flows, |flow| flow.server_us),
            client_us: median(flows, |flow| flow.client_us),
            server_cores: median(flows, |flow| flow.server_cores),
            client_cores: median(flows, |flow| flow.client_cores),
        };
        let mut floods: Vec<_> = Way::ALL.into_iter().zip(flows).map(of_way).collect();
        let echo = floods[0].per_second;
        floods.iter_mut().for_each(|flood| flood.of_echo = flood.per_second / echo);
        floods
    }
}

fn median(flows: &[Flow], of: impl Fn(&Flow) -> f64) -> f64 {
    let mut values: Vec<_> = flows.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Round trips with one frame under way, all rounds pooled.
#[derive(Serialize)]
pub struct Rounds {
    pub what: &'static str,
    pub count: u64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Phones that were closed for their backlog.
    pub closed: usize,
}

impl Rounds {
    pub fn of(what: &'static str, latencies: &Latencies, closed: usize) -> Rounds {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Rounds {
            what,
            count: latencies.len(),
            per_second: 1e9 / latencies.mean(),
            p50_us: micros(latencies.value_at_quantile(0.5)),
            p99_us: micros(latencies.value_at_quantile(0.99)),
            max_us: micros(latencies.max()),
            closed,
        }
    }
}

#[derive(Serialize)]
pub struct Report<'a> {
    pub version: &'static str,
    pub settings: &'a Arguments,
    pub floods: Vec<Flood>,
    pub rounds: Vec<Rounds>,
}

impl Report<'_> {
    pub fn print(&self) {
        let Arguments { phones, window, rounds, millis, .. } = self.settings;
        println!(
            "frames a second: {phones} phones and their binary, {window} frames of each phone under way, medians of {rounds} \
             rounds of {millis} ms\n\
             A frame is one message into the server and one out of it, for the echo as for waypost: the echo has {phones} \
             sockets with\n\
             {window} frames each, or one with all of them, as the binary's is. JSON objects; waypost checks that they \
             are JSON.\n\
             CPU is in microseconds per frame; cores are those that the server and the load kept busy: the load has one \
             thread.\n"
        );
        let rows = self.floods.iter().map(|flood| {
            vec![
                flood.way.name().to_owned(),
                format!("{} KiB", flood.bytes as f64 / KIB as f64),
                format!("{:.0}", flood.per_second),
                format!("{:.0} %", flood.of_echo * 100.0),
                format!("{:.1}", flood.server_us),
                format!("{:.1}", flood.client_us),
                format!("{:.2}", flood.server_cores),
                format!("{:.2}", flood.client_cores),
            ]
        });
        print(
            &["", "frame", "frames/s", "of echo", "server CPU", "load CPU", "server cores", "load cores"],
            rows.collect(),
        );
        println!(
            "round trips of 1 KiB with one frame under way, in microseconds, {rounds} rounds of {} ms pooled\n\
             To the binary and back is two frames forwarded, and the load does the binary's part too; the echo is one. \
             Beside another\n\
             phone the binary sends that one {BESIDE_BYTES} bytes after each answer. Of phones that do not read there are \
             always {NON_READERS}, which get\n\
             them in turn: when one is closed for its backlog (1011), another takes its place.\n",
            3 * millis
        );
        let rows = self.rounds.iter().map(|rounds| {
            vec![
                rounds.what.to_owned(),
                format!("{:.0}", rounds.per_second),
                format!("{:.1}", rounds.p50_us),
                format!("{:.1}", rounds.p99_us),
                format!("{:.0}", rounds.max_us),
                rounds.closed.to_string(),
            ]
        });
        print(&["", "trips/s", "p50", "p99", "max", "closed with 1011"], rows.collect());
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
