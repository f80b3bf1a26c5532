//! What sled passes over in its own log without a word. It takes an entry that does not make sense for the remains of a segment
//! that was used again, and leaves out the rest of that segment, even where pages hang on it.
//!
//! Owns how far the log goes, and reading its segments once more after sled has opened them. Must not know trees or records.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use sled::{Db, Lsn};

/// The last position of the log that is written, with all of its transaction and of all before.
pub(super) fn end(db: &Db) -> u64 {
    db.context.pagecache.log.stable_offset().try_into().unwrap_or(0)
}

/// The log position of the newest snapshot: what is before it was read when it was made. 0 where there is none.
pub(super) fn last_snapshot(path: &Path) -> io::Result<Lsn> {
    let mut last = 0;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let position =
            name.to_str().and_then(|name| Lsn::from_str_radix(name.strip_prefix("snap.")?, 16).ok());
        last = last.max(position.unwrap_or(0));
    }
    Ok(last)
}

/// Where in the file the first segment that pages hang on, from this position on, stops making sense before its end. To be
/// asked as soon as sled has opened it, before anything is written.
pub(super) fn damaged_at(db: &Db, since: Lsn) -> Option<u64> {
    let log = &db.context.pagecache.log;
    let end = log.stable_offset();
    let mut entries = log.iter_from(since);
    for (first, offset) in std::mem::take(&mut entries.segments) {
        entries.segments = BTreeMap::from([(first, offset)]);
        (entries.segment_base, entries.cur_lsn) = (None, None);
        entries.by_ref().for_each(drop);
        let position = entries.cur_lsn.unwrap_or(first);
        // At the end of a segment sled has let go of it.
        let stopped = entries.segment_base.is_some() || entries.cur_lsn.is_none();
        if stopped && position <= end {
            return Some(offset + (position - first) as u64);
        }
    }
    None
}
