//! Counters of channels and their legs. One thread writes each counter, and the app thread reads them all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Map, Value, json};

use crate::path::Path;

/// A number that one thread changes.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds `n`. `[the thread that writes]`
    pub(crate) fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now. `[any thread]`
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a channel that `bdev_nvme_get_transport_statistics` shows.
#[derive(Debug, Default)]
pub(crate) struct ChannelCounts {
    pub(crate) polls: Count,
    /// Polls that found nothing to do.
    pub(crate) idle_polls: Count,
    /// Polls that found something on a socket.
    pub(crate) socket_completions: Count,
    pub(crate) nvme_completions: Count,
    /// I/Os that had to wait before they were sent.
    pub(crate) queued_requests: Count,
    pub(crate) submitted_requests: Count,
}

/// I/Os of one kind that have succeeded on a leg.
#[derive(Debug, Default)]
struct KindCounts {
    ops: Count,
    bytes: Count,
    /// Times from sending to the answer, in nanoseconds.
    latency_ns: Count,
    max_ns: Count,
    min_ns: Count,
}

/// The counters of a leg that `bdev_nvme_get_path_iostat` shows.
#[derive(Debug, Default)]
pub(crate) struct LegCounts {
    read: KindCounts,
    write: KindCounts,
    unmap: KindCounts,
}

impl KindCounts {
    fn add(&self, bytes: u64, latency_ns: u64) {
        let is_first = self.ops.get() == 0;
        self.ops.add(1);
        self.bytes.add(bytes);
        self.latency_ns.add(latency_ns);
        if latency_ns > self.max_ns.get() {
            self.max_ns.set(latency_ns);
        }
        if is_first || latency_ns < self.min_ns.get() {
            self.min_ns.set(latency_ns);
        }
    }
}

impl LegCounts {
    /// Counts an I/O that has succeeded. `[the channel's thread]`
    pub(crate) fn add(&self, op: Op, block_size: u32, latency_ns: u64) {
        let (kind, range) = match op {
            Op::Read(range) => (&self.read, range),
            Op::Write(range) | Op::ZoneAppend(range) => (&self.write, range),
            Op::Unmap(range) => (&self.unmap, range),
            _ => return,
        };
        kind.add(range.nblocks.wrapping_mul(block_size.into()), latency_ns);
    }
}

/// The counters of one kind of I/O of a leg; `None` for a kind that is not counted.
type OfLeg = fn(&LegCounts) -> Option<&KindCounts>;

/// The counters of all legs of a bdev, by path.
#[derive(Debug, Default)]
pub(crate) struct PathStats(Mutex<Vec<(Arc<Path>, Arc<LegCounts>)>>);

impl PathStats {
    /// Counters for a new leg. If an earlier leg of this path has ended, the new leg continues its counters, so that no counts are lost.
    /// `[any thread]`
    pub(crate) fn open(&self, path: &Arc<Path>) -> Arc<LegCounts> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |(other, counts): &&(Arc<Path>, Arc<LegCounts>)| {
            Arc::ptr_eq(other, path) && Arc::strong_count(counts) == 1
        };
        if let Some((_, counts)) = all.iter().find(is_free) {
            return Arc::clone(counts);
        }
        let counts = Arc::<LegCounts>::default();
        all.push((Arc::clone(path), Arc::clone(&counts)));
        counts
    }

    /// Forgets a path.
    pub(crate) fn forget(&self, path: &Arc<Path>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| !Arc::ptr_eq(other, path));
    }

    /// The counters of a path, in the reference's format. Ticks are nanoseconds.
    pub(crate) fn show(&self, path: &Arc<Path>) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let legs: Vec<&LegCounts> = all
            .iter()
            .filter(|(other, _)| Arc::ptr_eq(other, path))
            .map(|(_, counts)| counts.as_ref())
            .collect();
        let mut shown = Map::new();
        let kinds: [(&str, &str, OfLeg); 4] = [
            ("read", "read", |leg| Some(&leg.read)),
            ("write", "written", |leg| Some(&leg.write)),
            ("unmap", "unmapped", |leg| Some(&leg.unmap)),
            // Copies are not sent to controllers yet.
            ("copy", "copied", |_| None),
        ];
        for (name, done, kind) in kinds {
            let kinds: Vec<&KindCounts> = legs.iter().filter_map(|leg| kind(leg)).collect();
            let sum = |of: fn(&KindCounts) -> &Count| -> u64 {
                kinds.iter().map(|kind| of(kind).get()).sum()
            };
            let used = || kinds.iter().filter(|kind| kind.ops.get() > 0);
            shown.insert(format!("bytes_{done}"), json!(sum(|kind| &kind.bytes)));
            shown.insert(format!("num_{name}_ops"), json!(sum(|kind| &kind.ops)));
            shown.insert(format!("{name}_latency_ticks"), json!(sum(|kind| &kind.latency_ns)));
            let max = used().map(|kind| kind.max_ns.get()).max().unwrap_or(0);
            shown.insert(format!("max_{name}_latency_ticks"), json!(max));
            let min = used().map(|kind| kind.min_ns.get()).min().unwrap_or(0);
            shown.insert(format!("min_{name}_latency_ticks"), json!(min));
        }
        Value::Object(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Limits;

    fn path() -> Arc<Path> {
        Path::new(Limits { loss_sec: 0, delay_sec: 0, fast_fail_sec: 0 })
    }

    #[test]
    fn legs_of_a_path_are_added_up_and_those_of_another_are_not() {
        let (stats, one, other) = (PathStats::default(), path(), path());
        let legs = [stats.open(&one), stats.open(&one), stats.open(&other)];
        legs[0].add(Op::Read(Range::new(0, 8)), 512, 30);
        legs[1].add(Op::Read(Range::new(8, 8)), 512, 10);
        legs[1].add(Op::Write(Range::new(8, 1)), 512, 5);
        legs[2].add(Op::Unmap(Range::new(0, 2)), 512, 7);
        let shown = stats.show(&one);
        let number = |name: &str| shown[name].as_u64().unwrap();
        assert_eq!((number("bytes_read"), number("num_read_ops")), (8192, 2));
        assert_eq!((number("read_latency_ticks"), number("min_read_latency_ticks")), (40, 10));
        assert_eq!((number("max_read_latency_ticks"), number("num_write_ops")), (30, 1));
        assert_eq!((number("num_unmap_ops"), number("num_copy_ops")), (0, 0));
    }

    #[test]
    fn what_a_leg_counted_is_kept_when_it_ends_and_a_new_leg_needs_no_new_counters() {
        let (stats, path) = (PathStats::default(), path());
        for _ in 0..3 {
            stats.open(&path).add(Op::Write(Range::new(0, 1)), 512, 1);
        }
        assert_eq!(stats.show(&path)["num_write_ops"], 3);
        assert_eq!(stats.0.lock().unwrap().len(), 1);
        stats.forget(&path);
        assert_eq!(stats.show(&path)["num_write_ops"], 0);
    }
}
