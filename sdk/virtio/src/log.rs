//! Which pages of a guest's memory the device has written, for a migration. vhost-user, "Migration".
#![expect(unsafe_code, reason = "the log is shared and reached by raw pointers")]

use crate::memory::{PAGE, map_file};
use drivebay_sdk::region::Region;
use drivebay_sdk::{Error, Result, errno};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// A map with one bit for each page of 4 KiB of the guest's memory. The VMM clears bits while the device sets them.
///
/// # Invariants
/// `base` is the address of `len` mapped bytes for as long as `_region` lives.
#[derive(Debug)]
pub struct DirtyLog {
    base: NonNull<u8>,
    len: u64,
    /// Keeps the mapping; `None` in tests, whose memory is the test's.
    _region: Option<Region>,
}

// SAFETY: the address points into a shared mapping, to which the code makes references to atomics only. All else is plain data.
unsafe impl Send for DirtyLog {}
// SAFETY: the same reason as for `Send`.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Maps `len` bytes at `offset` of the file that a VMM shares. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when the file does not have these bytes.
    pub fn map(len: u64, offset: u64, fd: BorrowedFd<'_>) -> Result<Self> {
        let refuse = || {
            let why = format!("a log of {len} bytes at {offset} is not in its file");
            Error::new(errno::EINVAL, why)
        };
        let end = offset.checked_add(len).filter(|_| len > 0).ok_or_else(refuse)?;
        let offset = usize::try_from(offset).map_err(|_| refuse())?;
        let region = map_file(fd, end)?;
        // SAFETY: the region has at least `offset + len` bytes.
        let base = unsafe { region.addr().add(offset) };
        Ok(Self { base, len, _region: Some(region) })
    }

    /// A log in the memory of a test, which outlives everything that uses it.
    #[cfg(test)]
    pub(crate) fn of_test(bytes: &'static [AtomicU8]) -> Self {
        Self { base: NonNull::from(bytes).cast(), len: bytes.len() as u64, _region: None }
    }

    /// Marks the pages of `len` bytes that begin at a guest address. Skips pages without a bit in the log, because the VMM
    /// does not want them.
    pub(crate) fn mark(&self, guest_addr: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|rest| guest_addr.saturating_add(rest)) else {
            return;
        };
        for page in guest_addr / PAGE..=last / PAGE {
            let Some(byte) = self.byte(page / 8) else { return };
            byte.fetch_or(1 << (page % 8), Ordering::AcqRel);
        }
    }

    fn byte(&self, index: u64) -> Option<&AtomicU8> {
        let offset = usize::try_from(index).ok().filter(|_| index < self.len)?;
        // SAFETY: the line above checks that the byte is in the log.
        let place = unsafe { self.base.add(offset) };
        // SAFETY: the byte is mapped (invariant of the type), and the VMM accesses it with atomics only.
        Some(unsafe { AtomicU8::from_ptr(place.as_ptr()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(len: usize) -> (DirtyLog, &'static [AtomicU8]) {
        let bytes: &'static [AtomicU8] =
            (0..len).map(|_| AtomicU8::new(0)).collect::<Vec<_>>().leak();
        (DirtyLog::of_test(bytes), bytes)
    }

    fn marked(bytes: &[AtomicU8]) -> Vec<usize> {
        let is_set = |page: &usize| bytes[page / 8].load(Ordering::Relaxed) & 1 << (page % 8) != 0;
        (0..bytes.len() * 8).filter(is_set).collect()
    }

    #[test]
    fn every_page_that_is_touched_is_marked_and_no_other() {
        let (log, bytes) = log(4);
        log.mark(0x3000, 1);
        log.mark(0x8fff, 2);
        log.mark(0x5000, 0);
        assert_eq!(marked(bytes), [3, 8, 9]);
        log.mark(0x1_4000, 0x3000);
        assert_eq!(marked(bytes), [3, 8, 9, 20, 21, 22]);
    }

    #[test]
    fn pages_behind_the_end_of_the_log_are_left_out() {
        let (log, bytes) = log(1);
        log.mark(0x7000, 0x10_0000);
        log.mark(u64::MAX - 1, 10);
        assert_eq!(marked(bytes), [7]);
    }
}
