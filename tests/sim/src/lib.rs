//! The bus on a virtual clock.
//!
//! A seed decides everything: the stack of faulty disks and filters, the requests of the clients,
//! which thread runs next and how many messages it takes, what is removed, reset, resized or quiesced
//! and when, and the time of the clock. One OS thread runs everything, so the same seed always repeats
//! the same run. The simulation checks that the data is right, also after a power cut; that each I/O
//! completes once, on its thread; that no request waits forever; and that nothing is left at the end.
//! See `docs/testing.md`.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "a fixture with a foreign plugin and its clients: a failed check panics"
)]

mod abi;
mod client;
mod control;
mod disk;
mod filter;
mod memory;
mod model;
mod promises;
pub mod rng;
mod sim;
mod stack;
mod weights;

pub use sim::{Report, run};

use drivebay_core::env::{self, buf};
use drivebay_core::reactor::stepped::Stepped;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Starts the reactor of this process, with one buffer in each pool. Call it once in a process.
#[must_use]
pub fn reactor() -> Stepped {
    env::memory::configure(env::memory::Options { no_huge: true, ..Default::default() });
    let one = buf::Options { small_count: 1, large_count: 1, small_size: 4096, large_size: 8192 };
    buf::configure(one).expect("the pools are not in use yet");
    let reactor = Stepped::start().expect("the first reactor of the process");
    for len in [1, buf::max_len()] {
        // SAFETY: the call passes no waiter.
        let (buffer, _) = unsafe { buf::get(len, std::ptr::null_mut()) }.expect("the only buffer");
        buf::put(buffer, len); // now the pools have their memory
    }
    reactor
}

/// Runs the seeds one after another. A failure prints the command that repeats its seed.
pub fn run_all(seeds: impl Iterator<Item = u64>, ios: u64) -> u64 {
    let mut reactor = reactor();
    let running = Arc::new(AtomicU64::new(0));
    let seed = Arc::clone(&running);
    let usual = std::panic::take_hook();
    // This is a hook because a panic inside the ABI's C functions ends the process.
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let seed = seed.load(Ordering::Relaxed);
        eprintln!("to repeat it: cargo run -p drivebay-sim -- --seed {seed} --ios {ios}");
    }));
    let one = |seed| {
        running.store(seed, Ordering::Relaxed);
        run(&mut reactor, seed, ios).ios
    };
    seeds.map(one).sum()
}
