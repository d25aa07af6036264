//! Counters of reads and writes, for the health log.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one queue. Only its poll group's thread writes them, so an addition is a load and a store. The app thread reads them.
#[derive(Debug, Default)]
pub struct IoCounts {
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// The sums of a controller's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoSums {
    /// Read commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

#[inline]
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

impl IoCounts {
    /// Counts a successful read of this many bytes. `[queue's thread]`
    #[inline]
    pub fn count_read(&self, len_bytes: u32) {
        add(&self.reads, 1);
        add(&self.bytes_read, len_bytes.into());
    }

    /// Counts a successful write of this many bytes. `[queue's thread]`
    #[inline]
    pub fn count_write(&self, len_bytes: u32) {
        add(&self.writes, 1);
        add(&self.bytes_written, len_bytes.into());
    }
}

impl IoSums {
    /// Sums these counters. `[any thread]`
    pub fn of<'a>(queues: impl IntoIterator<Item = &'a IoCounts>) -> Self {
        queues.into_iter().fold(Self::default(), |sums, queue| Self {
            reads: sums.reads + queue.reads.load(Ordering::Relaxed),
            writes: sums.writes + queue.writes.load(Ordering::Relaxed),
            bytes_read: sums.bytes_read + queue.bytes_read.load(Ordering::Relaxed),
            bytes_written: sums.bytes_written + queue.bytes_written.load(Ordering::Relaxed),
        })
    }
}

/// Converts bytes to data units of the health log: 1000 times 512 bytes, rounded up.
pub fn data_units(bytes: u64) -> u128 {
    u128::from(bytes).div_ceil(512_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_over_all_queues() {
        let (one, two) = (IoCounts::default(), IoCounts::default());
        one.count_read(4096);
        two.count_read(512);
        two.count_write(1024);
        let sums = IoSums { reads: 2, writes: 1, bytes_read: 4608, bytes_written: 1024 };
        assert_eq!(IoSums::of([&one, &two]), sums);
    }

    #[test]
    fn data_units_are_rounded_up() {
        assert_eq!([0, 1, 512_000, 512_001].map(data_units), [0, 1, 1, 2]);
    }
}
