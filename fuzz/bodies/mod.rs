//! What is made of bytes that a stranger sent, a disk damaged or an operator mistyped, and what must hold of it.
//!
//! Owns one function for each fuzz target, which panics where something does not hold. The targets hand them what the
//! fuzzer finds; `tests/fuzz_corpus.rs` hands them what it has found before. Must not know where bytes come from.
#![allow(dead_code, reason = "each target uses one")]

mod http;
mod link;
mod signalling;
mod snapshots;
mod store;
mod surroundings;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use waypost::wire::Refusal;
use waypost::wire::http::{ErrorBody, Problem};

pub use http::{bootstrap, directory, queries};
pub use link::link;
pub use signalling::signalling;
pub use snapshots::snapshots;
pub use store::{keys, rows};
pub use surroundings::{ids, proxies, proxy_headers, settings};

/// What a target makes of some bytes.
type Body = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const ALL: [(&str, Body); 12] = [
    ("bootstrap", bootstrap),
    ("directory", directory),
    ("ids", ids),
    ("keys", keys),
    ("link", link),
    ("proxies", proxies),
    ("proxy_headers", proxy_headers),
    ("queries", queries),
    ("rows", rows),
    ("settings", settings),
    ("signalling", signalling),
    ("snapshots", snapshots),
];

const PROTOCOL: &str = include_str!("../../docs/protocol.md");

/// The codes that the protocol's page lists.
static CODES: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let table = PROTOCOL.split_once("\n## Error codes\n").expect("the heading is there").1;
    let table = table.split("\n## ").next().unwrap_or_default();
    table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
});

/// A refusal says something, under a code that the protocol's page has, and not at the length of what was refused.
fn refused(refusal: &Refusal) {
    assert!(CODES.contains(&*refusal.code), "no documented code: {refusal:?}");
    assert!(!refusal.message.is_empty() && refusal.message.len() < 600, "{refusal:?}");
}

/// As [`refused`], over HTTP: its body reads back as it was written.
fn refused_over_http(problem: &Problem) {
    refused(&problem.refusal);
    assert!((400..600).contains(&problem.status), "{problem:?}");
    let body = problem.body();
    let text = serde_json::to_string(&body).expect("texts and numbers");
    assert_eq!(serde_json::from_str::<ErrorBody>(&text).ok(), Some(body), "{text}");
}
