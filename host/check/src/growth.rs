//! The resources of a process. If they grow from round to round, something is not freed.
#![expect(unsafe_code, reason = "calls the C library")]

use crate::guard::{Held, held};
use crate::rig::until;
use crate::verdict::{Verdict, failed};

/// The bytes for each round that may remain, because of tables that grow by doubling.
const SLACK_BYTES_PER_ROUND: u64 = 16;
/// The bytes by which two measurements may differ in any case, because of work in progress and
/// caches.
const NOISE_BYTES: u64 = 12 * 1024;

/// The resources of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The bytes of the heap in use.
    heap: u64,
    files: u64,
    os_threads: u64,
    held: Held,
}

impl Footprint {
    /// The resources now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            heap: heap_in_use(),
            files: entries("/proc/self/fd"),
            os_threads: entries("/proc/self/task"),
            held: held(),
        }
    }

    /// What has grown since `rounds` rounds ago, as text; `None` when nothing has.
    #[must_use]
    pub fn grown_since(&self, before: &Self, rounds: u32) -> Option<String> {
        let rounds = u64::from(rounds.max(1));
        let bytes = self.heap.saturating_sub(before.heap);
        if bytes > SLACK_BYTES_PER_ROUND * rounds + NOISE_BYTES {
            return Some(format!(
                "the heap grew by {bytes} bytes, {} in each round",
                bytes / rounds
            ));
        }
        let (is, was) = (self.held, before.held);
        [
            ("open files", self.files, before.files),
            ("OS threads", self.os_threads, before.os_threads),
            ("bdevs", is.bdevs, was.bdevs),
            ("regions of DMA memory", is.regions, was.regions),
            ("buffers of the host", is.buffers, was.buffers),
            ("pollers", is.pollers, was.pollers),
            ("lightweight threads", is.threads, was.threads),
        ]
        .into_iter()
        .find(|(_, is, was)| is > was)
        .map(|(what, is, was)| format!("{was} {what} before, {is} after"))
    }
}

/// Measures an operation that is repeated many times.
#[derive(Debug)]
pub struct Series {
    warm_up: u32,
    seen: Vec<Footprint>,
}

/// The number of rounds between two measurements.
const EVERY: u32 = 20;

impl Series {
    /// Starts a series. The first `warm_up` rounds do not count, because pools and tables reach
    /// their size in them.
    #[must_use]
    pub fn new(warm_up: u32) -> Self {
        Self { warm_up, seen: Vec::new() }
    }

    /// Call this before every round.
    pub fn measure(&mut self, round: u32) {
        if round >= self.warm_up && round.is_multiple_of(EVERY) {
            self.seen.push(Footprint::now());
        }
    }

    /// Whether the measurements can be split into two equal halves.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.seen.len() % 2 == 1
    }

    /// Fails when something grew in both halves. A table that doubles grows only in one.
    ///
    /// # Errors
    /// What grew.
    pub fn verdict(&self, what: &str) -> Verdict {
        let half = self.seen.len() / 2;
        let (Some(first), Some(middle)) = (self.seen.first(), self.seen.get(half)) else {
            return Ok(());
        };
        let rounds = EVERY * u32::try_from(half).unwrap_or(1);
        let early = middle.grown_since(first, rounds);
        let mut late = None;
        // Messages may still be in flight.
        let is_level = until(|| {
            late = Footprint::now().grown_since(middle, rounds);
            early.is_none() || late.is_none()
        });
        if is_level {
            return Ok(());
        }
        failed(format!("{} {what} leave nothing", 2 * rounds), late.unwrap_or_default())
    }
}

fn entries(folder: &str) -> u64 {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count() as u64)
}

#[cfg(target_env = "gnu")]
fn heap_in_use() -> u64 {
    // SAFETY: the call has no arguments and reads the allocator's counters under the allocator's
    // locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

#[cfg(not(target_env = "gnu"))]
fn heap_in_use() -> u64 {
    0
}
