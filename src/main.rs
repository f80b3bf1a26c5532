//! Owns the process: its allocator and its exit code. Must not know what is done in between.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    waypost::cli::main()
}
