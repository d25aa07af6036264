//! Statistics of a bdev, as clients read them.

/// The counters that a reset sets to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// All of them.
    All,
    /// The longest and shortest latencies.
    MaxMin,
    /// The number of errors.
    Errors,
}

/// The counters of one op.
#[derive(Clone, Copy, Debug)]
pub struct OpStat {
    /// The number of successful I/O.
    pub ops: u64,
    /// The number of blocks of these I/O.
    pub blocks: u64,
    /// The sum of their latencies.
    pub latency_ns: u64,
    /// The longest latency.
    pub max_ns: u64,
    /// The shortest latency; `u64::MAX` when no I/O was counted.
    pub min_ns: u64,
}

impl Default for OpStat {
    fn default() -> Self {
        Self { ops: 0, blocks: 0, latency_ns: 0, max_ns: 0, min_ns: u64::MAX }
    }
}

/// The counters of one bdev.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoStat {
    /// Reads.
    pub read: OpStat,
    /// Writes.
    pub write: OpStat,
    /// Unmaps.
    pub unmap: OpStat,
    /// The number of I/O that failed, of all ops.
    pub errors: u64,
}

impl OpStat {
    fn add(&mut self, other: &Self) {
        self.min_ns = self.min_ns.min(other.min_ns);
        self.ops += other.ops;
        self.blocks += other.blocks;
        self.latency_ns += other.latency_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    fn reset(&mut self, what: Reset) {
        match what {
            Reset::All => *self = Self::default(),
            Reset::MaxMin => *self = Self { max_ns: 0, min_ns: u64::MAX, ..*self },
            Reset::Errors => {}
        }
    }
}

impl IoStat {
    /// Adds the counters of `other` to these.
    pub fn add(&mut self, other: &Self) {
        self.read.add(&other.read);
        self.write.add(&other.write);
        self.unmap.add(&other.unmap);
        self.errors += other.errors;
    }
}

/// The counters of channels that are gone.
#[derive(Debug, Default)]
pub(in crate::bdev) struct Totals {
    sum: std::sync::Mutex<IoStat>,
}

impl Totals {
    pub(in crate::bdev) fn add(&self, counters: &IoStat) {
        self.lock().add(counters);
    }

    pub(in crate::bdev) fn lock(&self) -> std::sync::MutexGuard<'_, IoStat> {
        self.sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(in crate::bdev) fn reset(&self, what: Reset) {
        let mut sum = self.lock();
        let IoStat { read, write, unmap, errors } = &mut *sum;
        [read, write, unmap].into_iter().for_each(|op| op.reset(what));
        if what != Reset::MaxMin {
            *errors = 0;
        }
    }
}
