//! The consistency check: every lease indexed exactly once at or before its end, no index row without a lease, every
//! row decodes, the schema is ours.
//!
//! Owns the list of what can be wrong, and what would mend each. Must not know how that is done.

use std::collections::HashMap;

use sled::IVec;

use super::key::{self, INDEX, LeaseKey, ON_DEMAND};
use super::{Store, StoreError, Undecodable, guarded};
use crate::clock::Millis;
use crate::id::Kind;

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{kind} {key}: the row does not decode: {reason}")]
    Undecodable { kind: &'static str, key: String, reason: Undecodable },
    #[error("{kind} {key}: no index row at {at}")]
    NotIndexed { kind: &'static str, key: String, at: Millis },
    #[error("{kind} {key}: indexed at {at}, after its end {end}")]
    IndexedLate { kind: &'static str, key: String, at: Millis, end: Millis },
    #[error("{kind} {key}: an index row at {at} that names no lease or a second time")]
    StrayIndexRow { kind: &'static str, key: String, at: Millis },
    #[error("an index row that is malformed: {0}")]
    MalformedIndexRow(String),
}

impl Problem {
    /// What a repair does about it.
    pub fn mended(&self) -> &'static str {
        match self {
            Problem::Undecodable { .. } | Problem::IndexedLate { .. } => "lease moved aside",
            Problem::NotIndexed { .. } => "index row written",
            Problem::StrayIndexRow { .. } | Problem::MalformedIndexRow(_) => "index row moved aside",
        }
    }
}

/// What a check saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub leases: HashMap<&'static str, usize>,
    pub index_rows: usize,
    pub problems: Vec<Problem>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What mends a problem.
pub(super) enum Fix {
    /// The rows of a lease, which nobody can make sense of, go.
    MoveAside { tree: &'static str, keys: Vec<IVec> },
    /// An index row is written.
    File { tree: &'static str, key: IVec },
    /// An index row goes.
    Unfile { tree: &'static str, key: IVec },
}

impl Store {
    /// Reads everything once. Meant for a store that nobody writes to meanwhile.
    pub fn check(&self) -> Result<Report, StoreError> {
        self.survey(&mut |_| {})
    }

    /// As [`Store::check`]; shows what mends each problem. Index rows of what does not decode are no problem while that is
    /// there.
    pub(super) fn survey(&self, fix: &mut dyn FnMut(Fix)) -> Result<Report, StoreError> {
        guarded(|| {
            let mut report = Report::default();
            // Where each lease says that it is indexed; an undecodable one may be indexed anywhere.
            let mut expected: HashMap<LeaseKey, Option<Millis>> = HashMap::new();
            for kind in Kind::ALL {
                let index = self.tree(key::index_name(kind))?;
                let mut failed = None;
                self.each_raw(kind, &mut |raw| {
                    *report.leases.entry(kind.name()).or_default() += 1;
                    let (kind, key) = (kind.name(), raw.key.text());
                    let aside = || Fix::MoveAside { tree: key::tree_name(raw.key.kind()), keys: raw.keys() };
                    let row = match raw.decode() {
                        Ok(row) => row,
                        Err(reason) => {
                            report.problems.push(Problem::Undecodable { kind, key, reason });
                            fix(aside());
                            expected.insert(raw.key.clone(), None);
                            return;
                        }
                    };
                    let at = row.indexed();
                    expected.insert(raw.key.clone(), Some(at));
                    if let Some(end) = row.end().filter(|end| at > *end) {
                        report.problems.push(Problem::IndexedLate { kind, key, at, end });
                        fix(aside());
                        return;
                    }
                    match index.contains_key(raw.key.index_row(at)) {
                        Ok(true) => {}
                        Ok(false) => {
                            report.problems.push(Problem::NotIndexed { kind, key, at });
                            let tree = key::index_name(raw.key.kind());
                            fix(Fix::File { tree, key: raw.key.index_row(at) });
                        }
                        Err(error) => failed = Some(error),
                    }
                })?;
                if let Some(error) = failed {
                    return Err(error.into());
                }
            }
            for tree in [INDEX, ON_DEMAND] {
                for row in self.tree(tree)?.iter().keys() {
                    let row = row?;
                    report.index_rows += 1;
                    let Some((at, key)) = key::parse_index_row(&row) else {
                        report.problems.push(Problem::MalformedIndexRow(key::hex(&row)));
                        fix(Fix::Unfile { tree, key: row });
                        continue;
                    };
                    let indexed = expected.get(&key).filter(|_| key::index_name(key.kind) == tree);
                    match indexed {
                        Some(None) => {}
                        Some(Some(indexed)) if *indexed == at => {}
                        _ => {
                            let (kind, key) = (key.kind().name(), key.text());
                            report.problems.push(Problem::StrayIndexRow { kind, key, at });
                            fix(Fix::Unfile { tree, key: row });
                        }
                    }
                }
            }
            Ok(report)
        })
    }
}
