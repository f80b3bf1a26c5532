//! Owns the proof that `waypost bench` measures what it says, from the outside: the real binary against the real daemon.

#[path = "common/daemon.rs"]
mod daemon;

use std::process::{Command, Output};

use daemon::{Process, SOON, TestDaemon};
use serde_json::Value;
use tempfile::TempDir;

/// What a bench asks of a daemon's settings.
const OPEN: [&str; 6] = [
    "--set",
    "limits.messages_per_minute=0",
    "--set",
    "limits.http_requests_per_minute=0",
    "--set",
    "rendezvous.max_tokens_per_peer=1000000",
];
/// As little as gives numbers.
const SHORT: [&str; 6] = ["--seconds", "1", "--warmup", "0", "--ring", "3"];

fn server(arguments: &[&str]) -> (TempDir, Process) {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("data"), arguments);
    (folder, process)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.arg("bench").args(arguments).env_clear();
    command
}

fn bench(server: &Process, arguments: &[&str]) -> Output {
    let url = format!("ws://{}/ws", server.public);
    command(arguments).args(SHORT).args(["--url", &url]).output().unwrap()
}

#[track_caller]
fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(output: Output) -> Value {
    serde_json::from_str(&printed(output)).unwrap()
}

#[track_caller]
fn fails(output: Output, code: i32, because: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(because), "{told}");
    assert!(output.stdout.is_empty());
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} in {row}"))
}

/// Whether a row's figures fit each other.
fn is_plausible(row: &Value) {
    let (requests, rate) = (number(row, "requests"), number(row, "per_second"));
    assert!(requests > 0.0 && rate > 0.0 && rate < 1e6, "{row}");
    let quantiles = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|name| number(row, name));
    assert!(quantiles.is_sorted() && quantiles[0] > 0.0 && quantiles[4] < 2e7, "{row}");
    assert!(number(row, "bench_cpu_us") >= 0.0 && number(row, "server_cpu_us") >= 0.0, "{row}");
    assert!(number(row, "server_resident_bytes") > 1e6, "{row}");
}

/// All of these scenarios in one run with 4 sockets.
fn run(scenarios: &str) -> Vec<Value> {
    let (folder, server) = server(&OPEN);
    let token = folder.path().join("data/admin.token");
    let (pid, admin) = (server.pid().to_string(), format!("http://{}", server.admin));
    let watched = ["--pid", &pid, "--admin", &admin, "--token-file", token.to_str().unwrap()];
    let asked = ["--json", "--sockets", "4", "--hold", "2", "--scenario", scenarios];
    let report = json(bench(&server, &[&asked[..], &watched].concat()));
    assert_eq!((&report["settings"]["sockets"], &report["settings"]["seconds"]), (&4.into(), &1.into()));
    let rows = report["results"].as_array().unwrap().clone();
    rows.iter().for_each(is_plausible);
    let ran: Vec<_> = rows.iter().map(|row| row["scenario"].as_str().unwrap()).collect();
    assert_eq!(ran, scenarios.split(',').collect::<Vec<_>>());
    rows
}

#[test]
fn requests_on_signalling_sockets_are_measured() {
    let rows = run("ping,heartbeat,load,relays,rendezvous,tokens");
    assert_eq!(number(&rows[0], "relative_to_ping"), 1.0);
    // A ping does not reach the writer; a registration is a few rows.
    assert_eq!(number(&rows[0], "writer_requests"), 0.0);
    for registering in &rows[4..] {
        let rows = number(registering, "rows_per_request");
        assert!((1.0..=6.0).contains(&rows), "{registering}");
        // Those between the two looks at the counters, which take their time on a busy machine.
        let seen = number(registering, "writer_requests") / number(registering, "requests");
        assert!((0.8..2.0).contains(&seen), "{registering}");
    }
}

#[test]
fn meetings_http_link_and_idle_sockets_are_measured() {
    let rows = run("meet,bootstrap,link,idle");
    // Two registrations for each meeting.
    let registrations = number(&rows[0], "writer_requests") / number(&rows[0], "requests");
    assert!((1.6..4.0).contains(&registrations), "{}", rows[0]);
    let seen = number(&rows[1], "writer_requests") / number(&rows[1], "requests");
    assert!((0.8..2.0).contains(&seen), "{}", rows[1]);
    // Frames are not the writer's business.
    assert_eq!(number(&rows[2], "writer_requests"), 0.0);
    let idle = &rows[3];
    assert_eq!(number(idle, "requests"), 4.0);
    assert!(idle["server_bytes_per_socket"].is_f64(), "{idle}");
    assert!(idle["relative_to_ping"].is_null() && rows[0]["server_bytes_per_socket"].is_null());
}

#[tokio::test]
async fn idle_sockets_come_from_many_addresses_and_are_held_beside_others() {
    let daemon = TestDaemon::start().await;
    let url = format!("ws://{}/ws", daemon.addresses().public);
    let arguments =
        ["--scenario", "idle", "--sockets", "90", "--hold", "10", "--seconds", "3", "--ramp", "400"];
    let running = std::thread::spawn(move || {
        let running = command(&arguments).args(["--warmup", "0", "--json", "--url", &url]).output();
        json(running.unwrap())
    });
    let status = daemon.until("all are held", |status| status.connections.ids == 100).await;
    assert_eq!(status.connections.addresses, 4);
    let report = tokio::task::spawn_blocking(|| running.join().unwrap()).await.unwrap();
    assert!(number(&report["results"][0], "per_second") <= 420.0, "{report}");
    tokio::time::timeout(SOON, daemon.until("all have left", |status| status.connections.open == 0))
        .await
        .unwrap();
}

#[test]
fn an_earlier_run_is_compared() {
    let (folder, server) = server(&OPEN);
    let earlier = folder.path().join("earlier.json");
    let ping = ["--scenario", "ping", "--sockets"];
    let json_of =
        |sockets, more: &[&str]| json(bench(&server, &[&ping[..], &[sockets, "--json"], more].concat()));
    std::fs::write(&earlier, json_of("2", &[]).to_string()).unwrap();
    let compare = ["--compare", earlier.to_str().unwrap()];

    let same = json_of("2", &compare);
    assert_eq!(same["differences"], Value::Array(Vec::new()));
    let row = &same["results"][0];
    let then: Value = serde_json::from_slice(&std::fs::read(&earlier).unwrap()).unwrap();
    let ratio = number(row, "per_second") / number(&then["results"][0], "per_second");
    assert!((number(&row["ratios"], "per_second") - ratio).abs() < 1e-9, "{same}");
    assert_eq!(number(&row["ratios"], "relative_to_ping"), 1.0);

    let text = printed(bench(&server, &[&ping[..], &["4"], &compare].concat()));
    assert!(
        text.contains("warning: not the settings of the earlier run: sockets: 2 then, 4 now\n"),
        "{text}"
    );
    assert_eq!(text.matches("warning").count(), 1, "{text}");
    assert!(text.contains("100 % ×1.00"), "{text}");
}

#[test]
fn a_rate_is_kept_and_what_is_late_counts_from_its_time() {
    let (_folder, server) = server(&OPEN);
    let at = |rate, scenario| {
        let asked = ["--json", "--sockets", "4", "--scenario", scenario, "--rate", rate];
        json(bench(&server, &asked))["results"].as_array().unwrap().clone()
    };
    for row in at("30", "ping,meet,bootstrap,link") {
        let rate = number(&row, "per_second");
        assert!((5.0..32.0).contains(&rate), "{row}");
        assert!(row["relative_to_ping"].is_null(), "{row}");
    }
    // Nobody answers so many: most wait to be sent, and that counts.
    let rows = at("5000000", "ping");
    assert!(number(&rows[0], "unsent") > number(&rows[0], "requests"), "{}", rows[0]);
    assert!(number(&rows[0], "p50_us") > 1e5, "{}", rows[0]);
    let text = printed(bench(&server, &["--sockets", "4", "--scenario", "ping", "--rate", "5000000"]));
    assert!(text.contains("warning: ping did not keep up with --rate"), "{text}");
}

#[test]
fn the_settings_that_are_printed_can_be_given_again() {
    let (_folder, server) = server(&OPEN);
    let text = printed(bench(&server, &["--scenario", "ping,relays", "--sockets", "3", "--in-flight", "4"]));
    let (line, rest) = text.split_once('\n').unwrap();
    assert!(rest.contains("\n ping ") && rest.contains("\n relays "), "{text}");
    let arguments: Vec<_> = line.strip_prefix("waypost bench ").unwrap().split(' ').collect();
    let again = printed(command(&arguments).output().unwrap());
    assert_eq!(again.lines().next(), Some(line));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let refused = |arguments: &[&str], because| fails(command(arguments).output().unwrap(), 2, because);
    refused(&["--rate", "0"], "expected a number above 0");
    refused(&["--rate", "5", "--in-flight", "2"], "cannot be used with");
    refused(&["--sockets", "0"], "expected a whole number from 1");
    refused(&["--url", "http://127.0.0.1:9000"], "expected an address such as ws://");
    refused(&["--scenario", "nothing"], "invalid value 'nothing'");
    refused(&["--scenario", "meet", "--sockets", "1"], "meet needs two --sockets");
    refused(&["--scenario", "idle", "--rate", "5"], "--rate has no effect on idle");
}

#[test]
fn what_stands_in_the_way_is_told() {
    let (folder, server) = server(&["--set", "limits.max_connections=3"]);
    fails(bench(&server, &["--sockets", "2"]), 1, "limits.messages_per_minute = 0");
    fails(bench(&server, &["--sockets", "4"]), 1, "raise limits.max_connections");
    fails(bench(&server, &["--compare", "/nowhere"]), 1, "cannot read the earlier run /nowhere");
    let path = folder.path().join("earlier.json");
    std::fs::write(&path, "{}").unwrap();
    fails(bench(&server, &["--compare", path.to_str().unwrap()]), 1, "no earlier run in ");
    fails(bench(&server, &["--pid", "4294967295"]), 1, "cannot look at process 4294967295");
    fails(bench(&server, &["--sockets", "1000000000"]), 1, "this process may open");
    server.kill();
    fails(command(&["--url", "ws://127.0.0.1:1/ws"]).output().unwrap(), 1, "the server cannot be reached");

    let (_folder, strict) =
        self::server(&[&OPEN[..2], &["--set", "rendezvous.max_tokens_per_peer=3"]].concat());
    fails(bench(&strict, &["--scenario", "meet", "--sockets", "2"]), 1, "meet needs a new token each time");
}
