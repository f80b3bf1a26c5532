//! Who may stand at a point or token: the largest table there is, and so of 12 bytes an entry.
//!
//! Owns finding entries by a part of their key's hash. The keys themselves stand with the registrations, which is where
//! a hit has to be checked. Must not know what a registration is.

use ahash::RandomState;
use hashbrown::HashTable;

use crate::id::PointKey;

/// One of a registration's points or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// Its position among the registration's points and tokens.
    pub(super) place: u16,
}

/// An entry as the table has it. A sequence number has 48 bits: at a million registrations a second that is 8 years.
#[derive(Clone, Copy)]
struct Packed {
    tag: u32,
    sequence_low: u32,
    sequence_high: u16,
    place: u16,
}

impl Packed {
    fn new(tag: u32, entry: Entry) -> Packed {
        let Entry { sequence, place } = entry;
        debug_assert!(sequence >> 48 == 0, "{sequence}");
        Packed { tag, sequence_low: sequence as u32, sequence_high: (sequence >> 32) as u16, place }
    }

    fn entry(self) -> Entry {
        let sequence = u64::from(self.sequence_high) << 32 | u64::from(self.sequence_low);
        Entry { sequence, place: self.place }
    }
}

/// What the table finds an entry by, made from its tag alone, so that it grows without looking at any key. The product
/// reaches the upper bits, of which the table takes seven.
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Default)]
pub(super) struct Places {
    table: HashTable<Packed>,
    /// Seeded at random, so that nobody can choose names that meet in the table.
    hashing: RandomState,
}

impl Places {
    fn tag(&self, key: &PointKey) -> u32 {
        self.hashing.hash_one(key) as u32
    }

    pub(super) fn put(&mut self, key: &PointKey, entry: Entry) {
        let tag = self.tag(key);
        self.table.insert_unique(spread(tag), Packed::new(tag, entry), |other| spread(other.tag));
    }

    /// The entries at a key, in no order, and perhaps some of another key.
    pub(super) fn near(&self, key: &PointKey) -> impl Iterator<Item = Entry> {
        let tag = self.tag(key);
        let found = self.table.iter_hash(spread(tag)).filter(move |packed| packed.tag == tag);
        found.map(|packed| packed.entry())
    }

    pub(super) fn has(&self, key: &PointKey, entry: Entry) -> bool {
        self.near(key).any(|other| other == entry)
    }

    /// Tells whether the entry was there.
    pub(super) fn take(&mut self, key: &PointKey, entry: Entry) -> bool {
        let tag = self.tag(key);
        let is_it = |packed: &Packed| packed.tag == tag && packed.entry() == entry;
        self.table.find_entry(spread(tag), is_it).map(|found| found.remove()).is_ok()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_take_12_bytes_and_keep_all_their_bits() {
        assert_eq!(size_of::<Packed>(), 12);
        let most = Entry { sequence: (1 << 48) - 1, place: u16::MAX };
        for entry in [most, Entry { sequence: 1 << 32, place: 0 }, Entry { sequence: 7, place: 300 }] {
            assert_eq!(Packed::new(9, entry).entry(), entry);
        }
    }

    #[test]
    fn entries_of_one_key_and_of_many_come_and_go_by_themselves() {
        let mut places = Places::default();
        let entry = |sequence| Entry { sequence, place: (sequence % 5) as u16 };
        let key = |sequence: u64| PointKey::of(&format!("{}", sequence % 1000));
        for sequence in 0..64_000 {
            places.put(&key(sequence), entry(sequence));
        }
        for sequence in (0..64_000).step_by(2) {
            assert!(places.take(&key(sequence), entry(sequence)));
            assert!(!places.take(&key(sequence), entry(sequence)));
        }
        assert_eq!(places.len(), 32_000);
        for sequence in 0..64_000 {
            assert_eq!(places.has(&key(sequence), entry(sequence)), sequence % 2 == 1);
        }
        let at =
            |number| places.near(&key(number)).filter(|found| key(found.sequence) == key(number)).count();
        assert_eq!((at(0), at(1)), (0, 64));
    }
}
