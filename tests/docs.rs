//! The documentation says what the code does: settings and their defaults, metrics, error codes, and the tests that hold a
//! promise of security.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use waypost::config::{RELOADED, Settings};
use waypost::metrics::{
    Dialect, DialectLabel, Direction, DirectionLabel, Dropped, DroppedLabel, Ending, EndingLabel, Endpoint,
    ErrorLabel, MessageLabel, Metrics, Refusal, RefusalLabel, Undelivered, UndeliveredLabel, Upgrade,
    UpgradeLabel,
};

const OPERATIONS: &str = include_str!("../docs/operations.md");
const SECURITY: &str = include_str!("../docs/security.md");
const PROTOCOL: &str = include_str!("../docs/protocol.md");
const MIGRATION: &str = include_str!("../docs/migration.md");
const METRICS: &str = include_str!("../src/metrics.rs");

/// Set to write what is generated into the page, instead of comparing it.
const UPDATE: &str = "UPDATE_DOCS";

/// Name, default and comment of every setting, as `waypost config print` has them.
fn settings() -> Vec<[String; 3]> {
    let (mut section, mut comment) = (String::new(), String::new());
    let mut found = Vec::new();
    for line in Settings::default().to_toml_with_comments().lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            (section, comment) = (name.to_owned(), String::new());
        } else if let Some((key, default)) = line.split_once(" = ") {
            let comment = std::mem::take(&mut comment).trim().to_owned();
            found.push([format!("{section}.{key}"), default.to_owned(), comment]);
        }
    }
    found
}

/// The rows of the settings' table.
fn settings_table() -> String {
    let settings = settings();
    let is_name = |word: &&str, section: &str| {
        let full = if word.contains('.') { (*word).to_owned() } else { format!("{section}.{word}") };
        word.contains(['.', '_']) && settings.iter().any(|[name, ..]| *name == full)
    };
    let row = |[name, default, comment]: &[String; 3]| {
        let section = name.split('.').next().unwrap();
        let quoted = |word: &str| {
            let bare = word.trim_end_matches(['.', ';', ',']);
            let name = Some(bare).filter(|bare| is_name(bare, section));
            name.map_or(word.to_owned(), |name| format!("`{name}`{}", &word[bare.len()..]))
        };
        let effect = comment.trim_end_matches('.').split(' ').map(quoted).collect::<Vec<_>>().join(" ");
        let mark = if RELOADED.contains(&name.as_str()) { " ↻" } else { "" };
        format!("| `{name}` | `{default}` | {}{mark} |\n", effect.replace('|', "\\|"))
    };
    settings.iter().map(row).collect()
}

/// The first two cells of each row of the tables under a heading, without their backticks.
fn rows(page: &str, heading: &str) -> BTreeSet<(String, String)> {
    let under = page.split_once(&format!("\n## {heading}\n")).expect("the heading is there").1;
    let under = under.split("\n## ").next().unwrap_or_default();
    let rows = under.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()));
    cells.filter_map(|mut cells| Some((cells.nth(1)?, cells.next()?))).collect()
}

#[test]
fn the_settings_table_is_what_the_code_says_of_every_setting() {
    const HEAD: &str = "| setting | default | effect |\n|---|---|---|\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(HEAD).expect("the table is there");
    let end = rest.find("\n\n").expect("it ends with an empty line") + 1;
    let table = settings_table();
    assert!(table.contains("| `sweep.max_batch` | `64` | Leases removed in one"), "{table}");
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, [before, HEAD, &table, &rest[end..]].concat()).unwrap();
    } else {
        assert_eq!(&rest[..end], table, "set {UPDATE} to write it");
    }
}

/// Every metric's name and type as it is scraped, with a value wherever there are labels.
fn metrics() -> BTreeSet<(String, String)> {
    let metrics = Metrics::default();
    metrics.refused.get_or_create(&RefusalLabel { reason: Refusal::Total }).inc();
    metrics.ended.get_or_create(&EndingLabel { reason: Ending::Closed }).inc();
    metrics.handled.get_or_create(&DialectLabel { dialect: Dialect::Link }).inc();
    metrics.messages.get_or_create(&MessageLabel { r#type: "ping" }).inc();
    metrics.errors.get_or_create(&ErrorLabel { code: "invalid_json" }).inc();
    metrics.undelivered.get_or_create(&UndeliveredLabel { outcome: Undelivered::Full }).inc();
    metrics.lease_gauge("relay", 1);
    let kind = waypost::metrics::KindLabel { kind: "peer" };
    metrics.cleaned.get_or_create(&kind).inc();
    let label = waypost::metrics::HttpLabel { route: "/peers".into(), status: 200 };
    metrics.http.get_or_create(&label).inc();
    metrics.swept.get_or_create(&waypost::metrics::KindLabel { kind: "relay" }).inc();
    let upgrade = UpgradeLabel { endpoint: Endpoint::Server, outcome: Upgrade::Opened };
    metrics.upgrades.get_or_create(&upgrade).inc();
    metrics.frames.get_or_create(&DirectionLabel { direction: Direction::ToBinary }).inc();
    metrics.dropped.get_or_create(&DroppedLabel { what: Dropped::Malformed }).inc();
    let text = metrics.render();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect()
}

#[test]
fn the_metrics_table_has_every_metric_with_its_type_and_nothing_else() {
    let metrics = metrics();
    let declared = METRICS.split_once("\nmetrics! {").expect("the metrics are declared").1;
    let declared = declared.split("\n}").next().unwrap_or_default().lines();
    let declared = declared.filter(|line| !line.is_empty() && !line.trim().starts_with("///")).count();
    assert_eq!(metrics.len(), declared, "a metric with labels needs a value in this test");
    assert_eq!(rows(OPERATIONS, "Metrics"), metrics);
}

#[test]
fn every_setting_that_the_page_on_moving_names_exists() {
    let quoted = MIGRATION.split('`').skip(1).step_by(2).filter_map(|text| text.split(" = ").next());
    let sections =
        ["server", "log", "limits", "liveness", "rendezvous", "pairing", "chunks", "peers", "turn"];
    let sections = BTreeSet::from_iter(sections.into_iter().chain(["directory", "link", "sweep", "drain"]));
    let is_name = |text: &&str| text.split_once('.').is_some_and(|(section, _)| sections.contains(section));
    let named: BTreeSet<&str> = quoted.filter(is_name).filter(|name| *name != "server.key").collect();
    assert!(named.len() > 40, "{named:?}");
    let known: BTreeSet<String> = settings().into_iter().map(|[name, ..]| name).collect();
    let unknown: Vec<_> = named.into_iter().filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let words = text.split(|char| !is_name(char)).filter(|word| word.starts_with("waypost_"));
    words.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn dashboard_and_alerts_name_no_metric_that_there_is_not() {
    let known: BTreeSet<String> = metrics().into_iter().map(|(name, _)| name).collect();
    let alerts = metrics_in(include_str!("../packaging/prometheus/alerts.yml"));
    let dashboard = metrics_in(include_str!("../packaging/grafana/waypost.json"));
    assert!(alerts.len() > 9 && dashboard.len() > 40, "{alerts:?} {dashboard:?}");
    let named: BTreeSet<String> = &alerts | &dashboard;
    assert!(named.is_subset(&known), "no such metrics: {:?}", &named - &known);
}

/// The string literals that may be the code of a refusal: those in the first argument of `Refusal::of` and
/// `Refusal::new`, and where that is a variable `code`, those that it may have been given.
fn codes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for start in ["Refusal::of(", "Refusal::new("] {
                let calls = text.split(start).skip(1).filter_map(|rest| rest.split(',').next());
                found.extend(calls.flat_map(literals));
            }
            if text.contains("Refusal::new(code,") {
                let given = text.split("let code = ").skip(1).filter_map(|rest| rest.split(';').next());
                found.extend(given.flat_map(literals));
            }
        }
    }
    found.retain(|text: &String| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    found
}

/// The strings of an expression, without those that something is compared with.
fn literals(expression: &str) -> Vec<String> {
    let parts: Vec<_> = expression.split('"').collect();
    let strings = parts.windows(2).step_by(2).filter(|pair| !pair[0].trim_end().ends_with("=="));
    strings.map(|pair| pair[1].to_owned()).collect()
}

#[test]
fn the_table_of_codes_has_every_code_that_is_answered_and_nothing_else() {
    let codes = codes();
    for known in ["rate_limited", "too_many_tokens", "invalid_points", "storage_unavailable"] {
        assert!(codes.contains(known), "{known} is found in the sources");
    }
    let told: BTreeSet<String> = rows(PROTOCOL, "Error codes").into_iter().map(|(code, _)| code).collect();
    assert_eq!(told, codes);
}

/// The tests that a page names, as `file::function` or `src/file.rs::function`.
fn named_tests(page: &str) -> Vec<(&str, &str)> {
    let quoted = page.split('`').skip(1).step_by(2).filter_map(|text| text.split_once("::"));
    let is_name = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_')
    };
    quoted.filter(|(_, function)| is_name(function)).collect()
}

/// Whether there is such a test.
fn is_test(file: &str, function: &str) -> bool {
    let path = if file.contains('/') { file.to_owned() } else { format!("tests/{file}.rs") };
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default();
    let attributes = ["#[test]", "#[tokio::test]"];
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let is_next = |next: &&str| next.contains(&format!("fn {function}("));
        if (attributes.contains(&line) || line.starts_with("#[tokio::test("))
            && lines.peek().is_some_and(is_next)
        {
            return true;
        }
    }
    false
}

#[test]
fn every_test_that_the_page_on_security_names_exists() {
    assert_eq!(named_tests("`a::b_1`, `c` and `src/x.rs::d`: `E::F`"), [("a", "b_1"), ("src/x.rs", "d")]);
    assert!(is_test("docs", "every_test_that_the_page_on_security_names_exists"));
    assert!(!is_test("docs", "named_tests") && !is_test("docs", "nothing") && !is_test("nothing", "is_test"));
    let named = named_tests(SECURITY);
    assert!(named.len() > 50, "{}", named.len());
    let missing: Vec<_> = named.iter().filter(|(file, function)| !is_test(file, function)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
