//! Owns what the store does with the registries' changes: committing, flushing, sweeping, opening. Must not know sled.

use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput};
use tempfile::TempDir;
use waypost::clock::Clock;
use waypost::registry::{Expired, Registries};
use waypost::store::{Changes, Faults, Index, Store};
use waypost::wire::signalling::{Point, RegisterRendezvous};

use crate::registrations::{Names, Ring, at_token, register, registration, registries};
use crate::{LATER, crowd};

/// Leases that are swept at once.
const SWEPT: usize = 1024;
/// Leases in the store that is opened.
const LEASES: usize = 1_000_000;
/// Registrations in one transaction while a store is filled.
const FILLING: usize = 1024;

fn store_in(folder: &TempDir) -> Store {
    Store::open(&folder.path().join("store"), Faults::default()).expect("the store opens")
}

fn write(store: &Store, changes: &Changes) {
    store.commit(changes).expect("the disk takes it");
}

fn flush(store: &Store) {
    store.flush().expect("the disk takes it");
}

/// So many registrations in one transaction, each in place of its former self: 4 rows each, 2 written and 2 removed.
pub fn commit(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = store_in(&folder);
    let mut registries = registries();
    let mut ring = Ring::of_scenario(&mut Names::new());
    write(&store, &ring.register(&mut registries, ring.len()));
    flush(&store);
    let mut group = criterion.benchmark_group("store/commit");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for count in [1, 32, 256] {
        group.throughput(Throughput::Elements(count as u64));
        for (name, is_flushed) in [("without flush", false), ("with flush", true)] {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                let changes = || ring.register(&mut registries, count);
                let commit = |changes: &mut Changes| {
                    write(&store, changes);
                    if is_flushed {
                        flush(&store);
                    }
                };
                bencher.iter_batched_ref(changes, commit, BatchSize::PerIteration);
            });
        }
    }
}

/// Finding what has ended, taking it out of the registries, and committing that.
pub fn sweep(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = store_in(&folder);
    let mut registries = registries();
    let mut names = Names::new();
    let clock = Clock::system();
    let mut group = criterion.benchmark_group("store/sweep");
    group.sample_size(20).throughput(Throughput::Elements(SWEPT as u64));
    group.bench_function(BenchmarkId::from_parameter(SWEPT), |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations {
                let mut changes = Changes::default();
                for _ in 0..SWEPT {
                    let peer = names.peer();
                    register(&mut registries, &registration(&mut names, peer), &mut changes);
                }
                write(&store, &changes);
                let started = clock.running();
                assert_eq!(swept(&store, &mut registries), SWEPT);
                took += clock.running() - started;
            }
            took
        });
    });
}

fn swept(store: &Store, registries: &mut Registries) -> usize {
    let due = store.due(Index::Expiry, LATER, None, SWEPT).expect("the store is readable");
    let mut changes = Changes::default();
    let gone = |due| registries.expire(due, LATER, &mut changes) == Expired::Gone;
    let count = due.iter().map(gone).filter(|gone| *gone).count();
    write(store, &changes);
    count
}

/// Opening a store and folding it. A lease is a registration of 1 point, 1 token and no dead drop, of a peer of its own;
/// `cargo bench --bench restart` has larger ones.
pub fn open(criterion: &mut Criterion) {
    let filled = LazyCell::new(|| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fill(&folder, crowd(LEASES));
        folder
    });
    let clock = Clock::system();
    let mut group = criterion.benchmark_group("store/open");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(LEASES as u64));
    group.bench_function(BenchmarkId::from_parameter(LEASES), |bencher| {
        let folder = &*filled;
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations {
                let started = clock.running();
                let store = store_in(folder);
                let mut registries = registries();
                store.fold(|row| registries.load(row)).expect("the store is readable");
                took += clock.running() - started;
                assert_eq!(black_box(registries).rendezvous.len(), crowd(LEASES));
            }
            took
        });
    });
}

fn fill(folder: &TempDir, leases: usize) {
    let store = store_in(folder);
    let mut registries = registries();
    let mut names = Names::new();
    let mut left = leases;
    while left > 0 {
        let count = left.min(FILLING);
        let mut changes = Changes::default();
        for _ in 0..count {
            let points = vec![Point { name: names.name(), payload: None }];
            let request = RegisterRendezvous { points, ..at_token(names.peer(), names.name()) };
            register(&mut registries, &request, &mut changes);
        }
        write(&store, &changes);
        left -= count;
    }
    flush(&store);
}
