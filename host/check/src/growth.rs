//! How much a process has: what grows from round to round is not given back.
#![expect(unsafe_code, reason = "asks the C library")]

use crate::guard::{Held, held};
use crate::rig::until;
use crate::verdict::{Verdict, failed};

/// Bytes per round that are nobody's fault: tables that grow by doubling.
const SLACK_BYTES_PER_ROUND: u64 = 16;
/// Bytes by which two looks differ whatever was done: what is under way, or kept for the next time.
const NOISE_BYTES: u64 = 12 * 1024;

/// What the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the heap in use.
    heap: u64,
    files: u64,
    os_threads: u64,
    held: Held,
}

impl Footprint {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            heap: heap_in_use(),
            files: entries("/proc/self/fd"),
            os_threads: entries("/proc/self/task"),
            held: held(),
        }
    }

    /// What there is more of than `rounds` rounds ago, in words.
    #[must_use]
    pub fn grown_since(&self, before: &Self, rounds: u32) -> Option<String> {
        let rounds = u64::from(rounds.max(1));
        let bytes = self.heap.saturating_sub(before.heap);
        if bytes > SLACK_BYTES_PER_ROUND * rounds + NOISE_BYTES {
            return Some(format!("the heap grew by {bytes} bytes, {} each time", bytes / rounds));
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

/// Looks at the same thing done again and again.
#[derive(Debug)]
pub struct Series {
    warm_up: u32,
    seen: Vec<Footprint>,
}

/// Rounds between two looks.
const EVERY: u32 = 20;

impl Series {
    /// Of rounds of which the first ones do not count: pools and tables reach their size.
    #[must_use]
    pub fn new(warm_up: u32) -> Self {
        Self { warm_up, seen: Vec::new() }
    }

    /// Before every round.
    pub fn look(&mut self, round: u32) {
        if round >= self.warm_up && round.is_multiple_of(EVERY) {
            self.seen.push(Footprint::now());
        }
    }

    /// Whether what was seen has two halves.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.seen.len() % 2 == 1
    }

    /// Whether it grew in both halves: a table that doubles does so in one.
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
        // What goes by messages may be on its way still.
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
    // SAFETY: takes nothing; reads the allocator's counters under its own locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

#[cfg(not(target_env = "gnu"))]
fn heap_in_use() -> u64 {
    0
}
