//! Rows as bytes, apart from any store: for whoever looks for bytes that would not come back as they were written, as
//! `fuzz/` does.
//!
//! Owns nothing but the way there. Must not know more of a row than the fold does.

use super::fold::Together;
use super::key::{self, LeaseKey};
use super::read::{Due, Row};
use super::record::Undecodable;
use crate::id::Kind;

/// Shows each lease of a tree as a fold does. `rows` are in the order of their keys.
pub fn read_rows<'a>(
    kind: Kind,
    rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    mut show: impl FnMut(&LeaseKey, Result<Row<'_>, Undecodable>),
) {
    let mut together = Together { kind, last: None };
    for (key, value) in rows {
        if let Some(raw) = together.take(key.into(), value.into()) {
            show(&raw.key, raw.decode());
        }
    }
    if let Some(raw) = together.last {
        show(&raw.key, raw.decode());
    }
}

/// What a row of an index says; `None` where it is malformed.
pub fn read_index_row(row: &[u8]) -> Option<Due> {
    key::parse_index_row(row).map(|(at, key)| Due { at, key })
}

/// The reverse of [`read_index_row`].
pub fn index_row(due: &Due) -> Vec<u8> {
    due.key.index_row(due.at).to_vec()
}
