//! Owns single requests through the registries, with the rows that they leave to be written. Must not know the store.

use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Bencher, Criterion};
use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::clock::Clock;
use waypost::id::PeerId;
use waypost::registry::Expired;
use waypost::store::Changes;

use crate::registrations::{
    DRAIN, NOW, Names, Ring, enter_relays, register, registration, registries, relay,
};
use crate::{LATER, crowd, first_end};

/// Registrations of others in the registry, so that its tables are not all in the processor's cache.
const OTHERS: usize = 100_000;
const RELAYS: usize = 10_000;

pub fn rendezvous(criterion: &mut Criterion) {
    let mut names = Names::new();
    let mut registries = registries();
    for _ in 0..crowd(OTHERS) {
        let peer = names.peer();
        register(&mut registries, &registration(&mut names, peer), &mut Changes::default());
    }
    let mut ring = Ring::of_scenario(&mut names);
    let mut pairs = Ring::of_pairs(&mut names);
    for ring in [&mut ring, &mut pairs] {
        ring.register(&mut registries, ring.len());
    }
    let mut group = criterion.benchmark_group("registry/rendezvous");
    group.bench_function("new", |bencher| {
        let clock = Clock::system();
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            let mut left = iterations as usize;
            while left > 0 {
                let count = left.min(DRAIN);
                let requests: Vec<_> = (0..count)
                    .map(|_| {
                        let peer = names.peer();
                        registration(&mut names, peer)
                    })
                    .collect();
                let started = clock.running();
                let mut changes = Changes::default();
                for request in &requests {
                    black_box(register(&mut registries, request, &mut changes));
                }
                drop(black_box(changes));
                took += clock.running() - started;
                // So that there are never more than before.
                let last = registries.rendezvous.last_sequence();
                for sequence in (last + 1 - count as u64)..=last {
                    let rows = &mut Changes::default();
                    let ended = registries.rendezvous.expire(sequence, first_end(), LATER, rows);
                    assert_eq!(ended, Expired::Gone);
                }
                left -= count;
            }
            took
        });
    });
    group.bench_function("replacing its former self", |bencher| {
        in_drains(bencher, |changes| {
            black_box(register(&mut registries, ring.next(), changes));
        });
    });
    group.bench_function("token that another holds", |bencher| {
        in_drains(bencher, |changes| {
            let found = register(&mut registries, pairs.next(), changes);
            assert_eq!(black_box(found).live.len(), 1);
        });
    });
}

pub fn relays(criterion: &mut Criterion) {
    let mut registries = registries();
    let known = enter_relays(&mut registries, &mut Names::new(), crowd(RELAYS));
    let relays = &mut registries.relays;
    let mut group = criterion.benchmark_group("registry/relay");
    let mut turn = known.iter().cycle();
    let mut next = || turn.next().expect("a cycle has no end");
    group.bench_function("new, and leaving", |bencher| {
        let id = PeerId::parse("newcomer").expect("a peer id");
        in_drains(bencher, |changes| {
            relays.register(NOW, relay(id.clone()), changes);
            relays.leave(&id, changes);
        });
    });
    group.bench_function("again", |bencher| {
        in_drains(bencher, |changes| relays.register(NOW, relay(next().clone()), changes));
    });
    group.bench_function("load", |bencher| {
        let mut load = 0;
        in_drains(bencher, |_| {
            load = (load + 1) % 10;
            assert!(relays.update_load(next(), f64::from(load)));
        });
    });
}

/// Ten of all relays, without the one that asks.
pub fn sample(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry/relay sample of 10 out of");
    for count in [100, 10_000, 100_000, 1_000_000] {
        let world = LazyCell::new(|| {
            let mut registries = registries();
            let known = enter_relays(&mut registries, &mut Names::new(), crowd(count));
            (registries, known)
        });
        let mut rng = StdRng::seed_from_u64(7);
        group.bench_function(count.to_string(), |bencher| {
            let (registries, known) = &*world;
            let asker = known[0].as_str();
            bencher.iter(|| registries.relays.sample(NOW, Some(asker), 10, &mut rng));
        });
    }
}

/// Times requests, as many to one `Changes` as share a transaction.
fn in_drains(bencher: &mut Bencher<'_>, mut request: impl FnMut(&mut Changes)) {
    let clock = Clock::system();
    bencher.iter_custom(|iterations| {
        let started = clock.running();
        let mut left = iterations as usize;
        while left > 0 {
            let count = left.min(DRAIN);
            let mut changes = Changes::default();
            (0..count).for_each(|_| request(&mut changes));
            drop(black_box(changes));
            left -= count;
        }
        clock.running() - started
    });
}
