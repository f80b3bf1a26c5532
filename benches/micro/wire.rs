//! Owns decoding and encoding each message of the signalling dialect. Must not know what is done with them.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use waypost::limits::RendezvousRules;
use waypost::wire::signalling::{self, encode as encoded};

use crate::messages;

/// A text as it travels to what the client asks.
pub fn decode(criterion: &mut Criterion) {
    let rules = RendezvousRules::default();
    let mut group = many_and_quick(criterion, "decode");
    for sample in messages::from_clients() {
        group.throughput(Throughput::Bytes(sample.message.len() as u64));
        group.bench_function(&sample.name, |bencher| {
            bencher.iter(|| signalling::decode(black_box(Some(&sample.message)), &rules));
        });
    }
}

/// What the server says to a text as it travels.
pub fn encode(criterion: &mut Criterion) {
    let mut group = many_and_quick(criterion, "encode");
    for sample in messages::from_server() {
        group.throughput(Throughput::Bytes(encoded(&sample.message).len() as u64));
        group.bench_function(&sample.name, |bencher| bencher.iter(|| encoded(black_box(&sample.message))));
    }
}

fn many_and_quick<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(50).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}
