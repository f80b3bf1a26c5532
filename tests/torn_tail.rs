//! Owns the proof of what becomes of a store whose newest bytes are damaged: cut off, zeroed, flipped or overwritten. It opens
//! with all that was flushed, or it is refused as damaged; it never opens with less, panics or hangs.
//!
//! `TORN_TAILS` is the number of trials, `CRASH_SEED` repeats an earlier run.

mod common;
#[path = "common/daemon.rs"]
mod daemon;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};

use common::store::{Place, copy, id, of_order, registration, relay, rows};
use daemon::{Process, SOON};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::clock::Clock;
use waypost::id::{ChunkName, LinkId, SessionId};
use waypost::store::{
    Changes, ChunkRecord, ClaimRecord, Faults, Indexed, LeaseKey, OpenError, Rows, Store, TurnSessionRecord,
};

/// Flushes of one history, and how many of the last may have written what is damaged.
const FLUSHES: usize = 60;
const REACH: [usize; 3] = [1, 4, 30];
/// Later than any test ends.
const END: u64 = 4_000_000_000_000;

/// A store that is written to, and what it takes to write more.
struct Writer {
    store: Store,
    rng: StdRng,
    count: u64,
    registrations: BTreeMap<u64, Rows>,
}

impl Writer {
    /// Changes something of some kind, or of several.
    fn commit(&mut self) {
        let mut changes = Changes::default();
        for _ in 0..self.rng.random_range(1..4) {
            self.change(&mut changes);
        }
        self.store.commit(&changes).unwrap();
    }

    fn change(&mut self, changes: &mut Changes) {
        self.count += 1;
        let (count, at) = (self.count, Indexed::at(END));
        let size = [10, 300, 3000, 20_000][self.rng.random_range(0..4)];
        match self.rng.random_range(0..6) {
            0 => {
                let record = TurnSessionRecord { server: "a".into(), peer: "b".into(), end: END };
                let id = SessionId::parse(&format!("{count:032x}")).unwrap();
                changes.put_new(&LeaseKey::turn_session(&id), &record, at);
            }
            1 => {
                let name = ChunkName::parse("c", &count.to_string()).unwrap();
                let record = ChunkRecord {
                    owner: "bob".into(),
                    channel: "c".into(),
                    chunk: name.chunk().to_string().into(),
                    end: END,
                    digest: [7; 32],
                    data: format!("\"{}\"", "x".repeat(size)).into(),
                };
                changes.put_new(&LeaseKey::chunk(&name.key()), &record, at);
            }
            2 => {
                let id = LinkId::parse(&format!("home {count}")).unwrap();
                let record = ClaimRecord { generation: count, until: None };
                changes.put_new(&LeaseKey::claim(&id), &record, Indexed::HELD);
            }
            // The same relay again and again.
            3 => {
                changes.put_new(&LeaseKey::relay(&id("ann")), &relay(count), Indexed::HELD);
            }
            4 if self.registrations.len() > 10 => {
                let (number, rows) = self.registrations.pop_first().unwrap();
                changes.remove_all(&LeaseKey::registration(number), rows);
            }
            _ => {
                let mut record = of_order(count, &registration("bob", END, END));
                record.payloads = vec![format!("{count} {}", "x".repeat(size)).into()];
                let parts = changes.put_new(&LeaseKey::registration(count), &record, at);
                self.registrations.insert(count, Rows { parts, amended: false, indexed: at });
            }
        }
    }

    fn log(&self, path: &Path) -> Vec<u8> {
        fs::read(path.join("db")).unwrap()
    }
}

/// What a store had on its disk, and what was in it.
struct Filled {
    place: Place,
    /// The log after each of the last flushes.
    flushed: VecDeque<Vec<u8>>,
    /// The rows at the last flush, and after each commit since.
    states: Vec<Vec<String>>,
}

/// Writes and flushes; then writes more, of which nothing is flushed.
fn fill(rng: &mut StdRng) -> Filled {
    let place = Place::new();
    let mut writer = Writer {
        store: place.open(),
        rng: StdRng::seed_from_u64(rng.random()),
        count: 0,
        registrations: BTreeMap::new(),
    };
    let mut flushed = VecDeque::new();
    let reopened = rng.random_range(0..FLUSHES);
    for flush in 0..FLUSHES {
        if flush == reopened {
            drop(writer.store);
            writer.store = place.open();
        }
        for _ in 0..writer.rng.random_range(1..6) {
            writer.commit();
        }
        writer.store.flush().unwrap();
        flushed.push_back(writer.log(&place.path()));
        if flushed.len() > REACH[2] + 1 {
            flushed.pop_front();
        }
    }
    let mut states = vec![rows(&writer.store)];
    for _ in 0..rng.random_range(0..60) {
        writer.commit();
        states.push(rows(&writer.store));
    }
    // As a kill would leave it: what sled keeps in memory is not there.
    let killed = Place::new();
    copy(&place.path(), &killed.path());
    drop(writer);
    Filled { place: killed, flushed, states }
}

/// Where two logs differ: the runs of bytes that were written from the one to the other.
fn written(before: &[u8], after: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in (0..after.len()).filter(|at| before.get(*at) != Some(&after[*at])) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

#[derive(Debug)]
enum Damage {
    Cut,
    Zero(usize),
    Flip(u8),
    Noise(usize),
}

impl Damage {
    fn any(rng: &mut StdRng) -> Damage {
        let length = [1, 16, 600, 5000, 100_000][rng.random_range(0..5)];
        match rng.random_range(0..4) {
            0 => Damage::Cut,
            1 => Damage::Zero(length),
            2 => Damage::Flip(1 << rng.random_range(0..8)),
            _ => Damage::Noise(length),
        }
    }

    /// From one byte on, to the end of that range at most.
    fn apply(&self, bytes: &mut Vec<u8>, range: Range<usize>, rng: &mut StdRng) {
        let (at, most) = (range.start, range.len());
        match *self {
            Damage::Cut => bytes.truncate(at),
            Damage::Zero(length) => bytes[at..at + length.min(most)].fill(0),
            Damage::Flip(bit) => bytes[at] ^= bit,
            Damage::Noise(length) => rng.fill(&mut bytes[at..at + length.min(most)]),
        }
    }
}

/// The rows with which a store opens; `None` where it is refused as damaged.
fn opened(path: &Path) -> Option<Vec<String>> {
    let store = match Store::open(path, Faults::default()) {
        Ok(store) => store,
        Err(OpenError::Damaged { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let mut rows = Vec::new();
    store.fold(|row| rows.push(format!("{row:?}"))).ok()?;
    let problems = store.check().ok()?.problems;
    rows.extend(problems.iter().map(|problem| format!("a problem: {problem}")));
    Some(rows)
}

/// Whether the real binary starts on it; else it has said that the store is damaged and what to do, with exit code 2.
fn starts(data: &Path) -> bool {
    let mut child = Process::command(data, &[]).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let (to_test, lines) = channel();
    std::thread::spawn(move || log.lines().for_each(|line| drop(to_test.send(line.unwrap()))));
    let mut told = String::new();
    let started = loop {
        match lines.recv_timeout(SOON) {
            Ok(line) if line.contains("\"listening\"") => break true,
            Ok(line) => told.push_str(&line),
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                panic!("it hangs: {told}");
            }
        }
    };
    if started {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    if !started {
        assert_eq!(status.code(), Some(2), "{told}");
        assert!(told.contains("is damaged") && told.contains("move the directory away"), "{told}");
    }
    started
}

#[test]
fn a_store_whose_newest_bytes_are_damaged_has_all_that_was_flushed_or_is_refused() {
    let seed = number("CRASH_SEED").unwrap_or(Clock::system().now());
    let trials = number("TORN_TAILS").unwrap_or(20);
    println!("CRASH_SEED={seed} TORN_TAILS={trials}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut lost = Vec::new();
    for trial in 0..trials {
        let filled = fill(&mut rng);
        let mut now = fs::read(filled.place.path().join("db")).unwrap();
        let last = filled.flushed.back().unwrap();
        let reach = REACH[rng.random_range(0..REACH.len())];
        let before = &filled.flushed[filled.flushed.len() - 1 - reach];
        let damage = Damage::any(&mut rng);
        // Every other trial spares what was flushed, where anything else has reached the file.
        let mut newer = written(last, &now);
        if matches!(damage, Damage::Cut) {
            newer.clear();
            newer.push(last.len()..now.len());
        }
        newer.retain(|run| !run.is_empty());
        let spares = trial % 2 == 0 && !newer.is_empty();
        let (runs, what) = if spares { (newer, "not flushed") } else { (written(before, last), "flushed") };
        if !spares {
            now.clone_from(last);
        }
        let bytes: usize = runs.iter().map(ExactSizeIterator::len).sum();
        let mut skipped = rng.random_range(0..bytes);
        let run = runs.iter().find(|run| {
            let is_here = skipped < run.len();
            skipped -= if is_here { 0 } else { run.len() };
            is_here
        });
        let run = run.unwrap();
        let (at, end) = (run.start + skipped, if spares { run.end } else { now.len() });
        damage.apply(&mut now, at..end, &mut rng);

        let data = tempfile::tempdir().unwrap();
        let path = Process::store(data.path());
        copy(&filled.place.path(), &path);
        fs::write(path.join("db"), &now).unwrap();
        let started = starts(data.path());
        fs::remove_dir_all(&path).unwrap();
        copy(&filled.place.path(), &path);
        fs::write(path.join("db"), &now).unwrap();
        let found = opened(&path);
        let name = format!("trial {trial}: {damage:?} at {at} of {what}, reach {reach}");
        let outcome = match &found {
            None if started => "lost",
            None => "refused",
            Some(found) if filled.states.contains(found) => "whole",
            Some(_) => "lost",
        };
        if outcome == "lost" {
            lost.push(name.clone());
        }
        println!("{name}: {outcome}");
        *counts.entry((what, outcome)).or_default() += 1;
    }
    println!("{counts:?}");
    assert_eq!(lost, [""; 0], "opened without a word and without what was flushed");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
