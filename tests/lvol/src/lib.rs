//! A simulated disk that logs writes and flushes, and functions that compare the contents of a
//! store on it.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "a failed check panics"
)]

mod disk;
mod dump;
mod ops;
mod random;

pub use disk::{Event, SimDisk, image_after};
pub use dump::{Dump, VolumeDump, check, dump};
pub use ops::{CLUSTER_BYTES, DISK_BYTES, Op, Scenario, new_store};
pub use random::Random;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Runs a future that waits only for the simulated disk, which answers at once.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("the future waits for something else than the disk");
}
