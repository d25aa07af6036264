//! The bus on a virtual clock.
//!
//! A seed decides everything: which stack of faulty disks and filters there is, what the clients ask,
//! which thread runs next and how many messages it takes, when something is removed, reset, resized or
//! quiesced, and what time it is. One OS thread runs it all, so the same seed does the same again.
//! What must hold: the right data, also after a power cut; one completion for each I/O, on its thread;
//! nobody waits for ever; nothing is left. See `docs/testing.md`.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    clippy::vec_box,
    reason = "a foreign plugin and its clients as a fixture: what is wrong panics"
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

/// The reactor of this process, with one buffer in each pool. Once per process.
#[must_use]
pub fn reactor() -> Stepped {
    env::memory::configure(env::memory::Options { no_huge: true, ..Default::default() });
    let one = buf::Options { small_count: 1, large_count: 1, small_size: 4096, large_size: 8192 };
    buf::configure(one).expect("the pools are not in use yet");
    let reactor = Stepped::start().expect("the first reactor of the process");
    for len in [1, buf::max_len()] {
        // SAFETY: no waiter.
        let (buffer, _) = unsafe { buf::get(len, std::ptr::null_mut()) }.expect("the only buffer");
        buf::put(buffer, len); // the pools have their memory now
    }
    reactor
}

/// Runs seeds one after the other; what fails names the command that runs it again.
pub fn run_all(seeds: impl Iterator<Item = u64>, ios: u64) -> u64 {
    let mut reactor = reactor();
    let running = Arc::new(AtomicU64::new(0));
    let seed = Arc::clone(&running);
    let usual = std::panic::take_hook();
    // A hook, because a panic below the ABI's C functions ends the process.
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let seed = seed.load(Ordering::Relaxed);
        eprintln!("again: cargo run -p drivebay-sim -- --seed {seed} --ios {ios}");
    }));
    let one = |seed| {
        running.store(seed, Ordering::Relaxed);
        run(&mut reactor, seed, ios).ios
    };
    seeds.map(one).sum()
}
