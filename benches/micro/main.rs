//! What single steps cost: decoding, encoding, the registries, the store.
//!
//! Owns which steps are measured; a file each has those of one layer. Run it with `cargo bench --bench micro`, one layer
//! with `-- decode`, `-- encode`, `-- registry` or `-- store`, and `-- --test` to see quickly that everything runs. Stores
//! are made in the temporary directory (`TMPDIR`), and the disk under it is part of what `store` measures.

#[path = "../common/messages.rs"]
mod messages;
#[path = "../common/registrations.rs"]
mod registrations;
mod registry;
mod store;
mod wire;

use criterion::{criterion_group, criterion_main};
use waypost::clock::Millis;
use waypost::limits::Limits;

use registrations::NOW;

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// When everything that was registered at `NOW` has ended.
const LATER: Millis = NOW + 10 * 24 * 3_600_000;

/// When a registration with a token that was made at `NOW` first loses something.
fn first_end() -> Millis {
    NOW + Limits::default().rendezvous.hourly_ttl.as_millis() as Millis
}

/// So many, or few where it is only to be seen that everything runs.
fn crowd(count: usize) -> usize {
    if std::env::args().any(|argument| argument == "--test") { count.min(1000) } else { count }
}

criterion_group!(
    micro,
    wire::decode,
    wire::encode,
    registry::rendezvous,
    registry::relays,
    registry::sample,
    store::commit,
    store::sweep,
    store::open
);
criterion_main!(micro);
