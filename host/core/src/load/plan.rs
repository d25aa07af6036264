//! What a run of the load generator does, and what it reports.

use super::content::Mismatch;
use super::histogram::Histogram;
use crate::env::CpuSet;
use std::time::Duration;

/// The kinds and the order of the I/O. Mixes have their percentage of reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Reads in sequential order.
    Read,
    /// Writes in sequential order.
    Write,
    /// Reads and writes in sequential order.
    ReadWrite(u8),
    /// Reads at random places.
    RandRead,
    /// Writes at random places.
    RandWrite,
    /// Reads and writes at random places.
    RandReadWrite(u8),
    /// Writes in sequential order; each is read back and compared. On a zoned bdev, each I/O in flight has its own zones; it
    /// resets them, writes and appends in turn, and finishes them.
    Verify,
}

impl Pattern {
    /// Whether it contains writes.
    #[must_use]
    pub fn writes(self) -> bool {
        match self {
            Self::Read | Self::RandRead => false,
            Self::Write | Self::RandWrite | Self::Verify => true,
            Self::ReadWrite(percent) | Self::RandReadWrite(percent) => percent < 100,
        }
    }
}

/// When a worker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The run ends after this time.
    Time(Duration),
    /// The run ends after this many I/Os for each worker.
    Ios(u64),
}

/// The description of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The names of the bdevs.
    pub bdevs: Vec<String>,
    /// The cores that get a worker for each bdev. Each must have a reactor.
    pub cores: CpuSet,
    /// The kinds and the order of the I/O.
    pub pattern: Pattern,
    /// I/O in flight per worker, 1 to [`MAX_DEPTH`](super::MAX_DEPTH).
    pub depth: u32,
    /// Bytes per I/O: a multiple of the block size, up to [`MAX_IO_SIZE`](super::MAX_IO_SIZE).
    pub io_size: u32,
    /// When the workers stop.
    pub limit: Limit,
    /// The length of the warm-up at the beginning, whose I/O is not counted.
    pub warm_up: Duration,
    /// Compares the data of reads with the data that the run wrote earlier. Each worker uses its own
    /// part of the bdev.
    pub verify: bool,
    /// Skips the bus: each I/O completes at once. This measures the cost of the generator itself.
    pub null_loop: bool,
    /// As `null_loop`, but each I/O copies between its buffer and memory of the bdev's size. No RAM
    /// disk can be faster than this.
    pub copy_loop: bool,
}

/// The first failure of a worker. The worker submits nothing after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An I/O completed with this status.
    Status {
        /// First block of the I/O.
        lba: u64,
        /// Whether it was a read.
        read: bool,
        /// A negative errno, or a status of the bus.
        status: i32,
    },
    /// A read returned other data than was written.
    Mismatch(Mismatch),
    /// An append to a zone did not write at the write pointer.
    Misplaced {
        /// The first block that it wrote, as the bdev says.
        lba: u64,
        /// The block at the write pointer.
        expected: u64,
    },
    /// The worker could not start; this is the positive errno.
    NotBegun(i32),
}

/// The results of one worker.
#[derive(Debug)]
pub struct Report {
    /// The bdev.
    pub bdev: String,
    /// The core.
    pub core: usize,
    /// The number of successful reads.
    pub reads: u64,
    /// The number of successful writes.
    pub writes: u64,
    /// The number of bytes of both.
    pub bytes: u64,
    /// The number of reads whose content was compared.
    pub verified: u64,
    /// The number of I/O that failed.
    pub failed: u64,
    /// The time from the first submission (or the end of the warm-up) to the last completion.
    pub elapsed: Duration,
    /// The latencies, in ticks.
    pub latency: Histogram,
    /// The first failure.
    pub failure: Option<Failure>,
}

/// The results of a run.
#[derive(Debug)]
pub struct Results {
    /// One per bdev and core.
    pub reports: Vec<Report>,
    /// The length of a tick of [`Report::latency`], in nanoseconds.
    pub ns_per_tick: f64,
}
