//! What the daemon has acknowledged and must still have. Owns who may be missed since when. Must not know how anything is
//! asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The clocks of both sides count in milliseconds of their own.
const MARGIN: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Drop,
    Peer,
    Server,
    Session,
    Chunk,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Drop, Kind::Peer, Kind::Server, Kind::Session, Kind::Chunk];
}

struct Entry {
    value: String,
    /// In running time; the daemon's own end is not before it.
    end: Duration,
}

#[derive(Default)]
struct Book {
    entries: HashMap<(Kind, String), Entry>,
    acknowledged: HashMap<Kind, u64>,
    looked_for: HashMap<Kind, u64>,
    lost: Vec<(Kind, String)>,
}

pub struct Ledger {
    ttl: Duration,
    book: Mutex<Book>,
}

impl Ledger {
    pub fn new(ttl: Duration) -> Ledger {
        Ledger { ttl, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was asked for at `asked`, and has been acknowledged.
    pub fn enter(&self, kind: Kind, key: &str, value: &str, asked: Duration) {
        let mut book = self.book();
        *book.acknowledged.entry(kind).or_default() += 1;
        book.entries.insert((kind, key.to_owned()), Entry { value: value.to_owned(), end: asked + self.ttl });
    }

    /// Before its removal is asked for.
    pub fn strike(&self, kind: Kind, key: &str) {
        self.book().entries.remove(&(kind, key.to_owned()));
    }

    /// All of a kind that must be there now: keys and values.
    pub fn held(&self, kind: Kind, now: Duration) -> Vec<(String, String)> {
        let mut book = self.book();
        book.entries.retain(|_, entry| entry.end > now);
        let held = book.entries.iter().filter(|((of, _), _)| *of == kind);
        held.map(|((_, key), entry)| (key.clone(), entry.value.clone())).collect()
    }

    /// It was looked for, and what came is this; `now` is after the answer.
    pub fn found(&self, kind: Kind, key: &str, value: Option<&str>, now: Duration) {
        let mut book = self.book();
        // Struck, or replaced, meanwhile.
        let Some(entry) = book.entries.get(&(kind, key.to_owned())) else { return };
        if value == Some(entry.value.as_str()) {
            *book.looked_for.entry(kind).or_default() += 1;
        } else if now + MARGIN < entry.end {
            println!("lost: {kind:?} {key}, found {value:?}");
            book.lost.push((kind, key.to_owned()));
        }
    }

    pub fn lost(&self) -> usize {
        self.book().lost.len()
    }

    /// Of each kind how many were acknowledged, and how many of them found again.
    pub fn counts(&self) -> Vec<(Kind, u64, u64)> {
        let book = self.book();
        let count = |counts: &HashMap<Kind, u64>, kind| counts.get(&kind).copied().unwrap_or(0);
        Kind::ALL.map(|kind| (kind, count(&book.acknowledged, kind), count(&book.looked_for, kind))).to_vec()
    }
}
