//! The injections: which I/O they affect, and how.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drivebay_sdk::prelude::*;

params! {
    /// Parameters of `bdev_error_inject_error`.
    pub(crate) struct Inject {
        /// Name of an error bdev.
        pub(crate) name: String,
        /// Kind of I/O. Each kind has one injection; a new injection replaces the previous one.
        pub(crate) io_type: IoType,
        /// What happens to the I/O.
        pub(crate) error_type: ErrorType,
        /// NVMe status code type (SCT) for `nvme_failure`, 0 to 7.
        nvme_sct: u32 = 0,
        /// NVMe status code (SC) for `nvme_failure`, 0 to 255.
        nvme_sc: u32 = 0,
        /// Number of I/O to inject the error into.
        num: u32 = 1,
        /// Injects the error only while the thread has at least this many I/O in flight to the base.
        queue_depth: u64 = 0,
        /// Byte that `corrupt_data` changes, counted from the start of the data of the I/O. Beyond the data, nothing changes.
        pub(crate) corrupt_offset: u64 = 0,
        /// Value that the byte is XORed with. For `corrupt_data`, 1 to 255.
        pub(crate) corrupt_value: u8 = 0,
        /// First block of a range. Reads, writes and unmaps outside the range get no error.
        lba: u64 = 0,
        /// Length of the range, in blocks. 0 = to the end of the bdev.
        num_blocks: u64 = 0,
        /// Number of matching I/O that pass before the first one gets the error.
        skip: u64 = 0,
    }

    /// A kind of I/O.
    pub(crate) enum IoType {
        /// Removes all injections.
        Clear = "clear",
        /// Reads.
        Read = "read",
        /// Writes.
        Write = "write",
        /// Unmaps.
        Unmap = "unmap",
        /// Flushes.
        Flush = "flush",
        /// All four kinds.
        All = "all",
    }

    /// What happens to an I/O.
    pub(crate) enum ErrorType {
        /// The I/O fails.
        Failure = "failure",
        /// The I/O waits until `bdev_error_resume_pending`, a reset or an abort.
        Pending = "pending",
        /// One byte of the data is changed. A write writes a changed copy.
        CorruptData = "corrupt_data",
        /// The I/O reports a lack of resources, so the bus retries it.
        Nomem = "nomem",
        /// The I/O fails with the given NVMe status.
        NvmeFailure = "nvme_failure",
    }
}

impl Inject {
    pub(crate) fn check(&self) -> Result<()> {
        let has_status = self.nvme_sct != 0 || self.nvme_sc != 0;
        if has_status != (self.error_type == ErrorType::NvmeFailure) {
            let why = "nvme_sct or nvme_sc should be specified for NVMe error injection";
            return Err(Error::new(errno::EINVAL, why));
        }
        if self.nvme_sct > 7 || self.nvme_sc > 255 {
            let given = format!("{} and {}", self.nvme_sct, self.nvme_sc);
            return Err(Error::invalid("nvme_sct and nvme_sc", given, "0 to 7, and 0 to 255"));
        }
        if self.error_type == ErrorType::CorruptData && self.corrupt_value == 0 {
            return Err(Error::invalid("corrupt_value", 0, "1 to 255"));
        }
        Ok(())
    }

    fn touches(&self, op: Op) -> bool {
        let (Op::Read(range) | Op::Write(range) | Op::Unmap(range)) = op else { return true };
        let end = match self.num_blocks {
            0 => u64::MAX,
            num_blocks => self.lba.saturating_add(num_blocks),
        };
        range.lba < end && range.lba.saturating_add(range.nblocks) > self.lba
    }

    /// The result with the NVMe status.
    pub(crate) fn nvme_status(&self) -> IoResult {
        let detail = u64::from(self.nvme_sct) << 32 | u64::from(self.nvme_sc) << 40;
        IoResult::with_nvme(Status::IO_ERROR, detail)
    }
}

/// The injections of a bdev: of reads, writes, unmaps and flushes.
#[derive(Default)]
pub(crate) struct Injections {
    is_any: AtomicBool,
    /// Whether the bdev is being removed, so that it accepts no more injections. It changes under the
    /// lock of `by_kind`.
    is_closed: AtomicBool,
    by_kind: Mutex<[Option<Inject>; 4]>,
}

impl Injections {
    fn lock(&self) -> MutexGuard<'_, [Option<Inject>; 4]> {
        self.by_kind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an injection for the next I/O.
    ///
    /// # Errors
    /// `ENODEV` if the bdev is being removed.
    pub(crate) fn set(&self, inject: &Inject) -> Result<()> {
        let kinds = match inject.io_type {
            IoType::Read => 0..1,
            IoType::Write => 1..2,
            IoType::Unmap => 2..3,
            IoType::Flush => 3..4,
            IoType::Clear | IoType::All => 0..4,
        };
        let new = Some(inject).filter(|inject| inject.io_type != IoType::Clear);
        let mut by_kind = self.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::no_such_device());
        }
        by_kind
            .iter_mut()
            .take(kinds.end)
            .skip(kinds.start)
            .for_each(|place| *place = new.cloned());
        self.is_any.store(by_kind.iter().any(Option::is_some), Ordering::Relaxed);
        Ok(())
    }

    /// Clears all injections, and accepts no more.
    pub(crate) fn close(&self) {
        let mut by_kind = self.lock();
        by_kind.fill(None);
        self.is_any.store(false, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn clear_pending(&self) {
        for place in self.lock().iter_mut() {
            place.take_if(|inject| inject.error_type == ErrorType::Pending);
        }
    }

    /// The injection that affects an I/O, if any. When no injection is set, this costs one load.
    pub(crate) fn take(&self, op: Op, in_flight: u64) -> Option<Inject> {
        if !self.is_any.load(Ordering::Relaxed) {
            return None;
        }
        let kind = match op {
            Op::Read(_) => 0,
            Op::Write(_) => 1,
            Op::Unmap(_) => 2,
            Op::Flush => 3,
            _ => return None,
        };
        let mut by_kind = self.lock();
        let inject = by_kind.get_mut(kind)?.as_mut()?;
        if inject.num == 0 || in_flight < inject.queue_depth || !inject.touches(op) {
            return None;
        }
        if inject.skip > 0 {
            inject.skip -= 1;
            return None;
        }
        inject.num -= 1;
        Some(inject.clone())
    }
}
