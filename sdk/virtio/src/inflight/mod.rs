//! The record of requests in flight, in memory that outlives the process. A device that starts again takes over the requests
//! that the last device left, and repeats none that were handed back.
//!
//! The VMM keeps the area. The device checks everything in it before use, like guest memory.
#![expect(unsafe_code, reason = "raw pointers access the shared area")]

mod packed;
mod split;
#[cfg(test)]
mod tests;

pub(crate) use packed::PackedRecord;
pub(crate) use split::SplitRecord;

use crate::memory::{PAGE, map_file};
use drivebay_sdk::region::Region;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::inflight::part_len;
use drivebay_spec_vhost::message;
use drivebay_spec_vhost::ring::SIZE_MAX;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

/// A mapped area with a part for each ring of a device.
///
/// # Invariants
/// `base` is the address of `num_rings` parts of `part_len` bytes, aligned to 8, for as long as `region` lives.
#[derive(Debug)]
pub struct InflightArea {
    base: NonNull<u8>,
    num_rings: u16,
    ring_size: u16,
    is_packed: bool,
    /// Keeps the mapping; `None` in tests, whose memory is the test's.
    _region: Option<Region>,
}

// SAFETY: the address points into a shared mapping, to which the code creates references to atomics only. All else is plain data.
unsafe impl Send for InflightArea {}
// SAFETY: the same reason as for `Send`.
unsafe impl Sync for InflightArea {}

/// The record of one ring, before the ring uses it.
#[derive(Clone, Debug)]
pub struct Inflight {
    pub(crate) part: Part,
    /// Whether the ring continues from the record. Otherwise the ring clears the record and starts at its base.
    pub(crate) resumes: bool,
}

/// The part of the area for one ring.
///
/// # Invariants
/// `base` is aligned to 8 and points to the part of a ring of `size` entries in `area`.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    area: Arc<InflightArea>,
    base: NonNull<u8>,
    /// Entries.
    pub(crate) size: u16,
}

// SAFETY: the same reason as for `InflightArea`.
unsafe impl Send for Part {}

impl InflightArea {
    /// Length of an area, in bytes: whole pages. `None` when the number or size of the rings is not allowed.
    #[must_use]
    pub fn len(num_rings: u16, ring_size: u16, is_packed: bool) -> Option<u64> {
        let fits = num_rings > 0 && (1..=SIZE_MAX).contains(&ring_size);
        let len = part_len(ring_size, is_packed) as u64 * u64::from(num_rings);
        fits.then_some(len.next_multiple_of(PAGE))
    }

    /// Maps the area that a VMM keeps. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when it is too short for its rings or its file does not have these bytes.
    pub fn map(kept: &message::Inflight, is_packed: bool, fd: BorrowedFd<'_>) -> Result<Self> {
        let message::Inflight { mmap_size, mmap_offset, num_queues, queue_size } = *kept;
        let refuse = || {
            let given = format!("{mmap_size} bytes for {num_queues} rings of {queue_size} entries");
            Error::new(errno::EINVAL, format!("the area for requests in flight has {given}"))
        };
        let parts = part_len(queue_size, is_packed) as u64 * u64::from(num_queues);
        let end = mmap_offset.checked_add(mmap_size);
        let is_sound = Self::len(num_queues, queue_size, is_packed).is_some()
            && mmap_size >= parts
            && mmap_offset.is_multiple_of(8);
        let end = end.filter(|_| is_sound).ok_or_else(refuse)?;
        let offset = usize::try_from(mmap_offset).map_err(|_| refuse())?;
        let region = map_file(fd, end)?;
        // SAFETY: the region has at least `mmap_offset + mmap_size` bytes.
        let base = unsafe { region.addr().add(offset) };
        Ok(Self {
            base,
            num_rings: num_queues,
            ring_size: queue_size,
            is_packed,
            _region: Some(region),
        })
    }

    /// An area in the memory of a test, which outlives everything that uses it.
    #[cfg(test)]
    pub(crate) fn of_test(bytes: &'static [u64], ring_size: u16, is_packed: bool) -> Arc<Self> {
        assert!(size_of_val(bytes) >= part_len(ring_size, is_packed));
        let base = NonNull::from(bytes).cast();
        Arc::new(Self { base, num_rings: 1, ring_size, is_packed, _region: None })
    }

    /// An area in the memory of a fuzzer, for one ring of at most `ring_size` entries.
    ///
    /// # Panics
    /// When the area is too short.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn over(words: &'static [AtomicU64], ring_size: u16, is_packed: bool) -> Arc<Self> {
        assert!(size_of_val(words) >= part_len(ring_size, is_packed), "the area is too short");
        let base = NonNull::from(words).cast();
        Arc::new(Self { base, num_rings: 1, ring_size, is_packed, _region: None })
    }

    /// Whether it is for packed rings.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// The part of a ring. `None` when the area has no room for a ring of this number and size.
    #[must_use]
    pub fn ring(self: &Arc<Self>, index: usize, size: u16, resumes: bool) -> Option<Inflight> {
        if index >= usize::from(self.num_rings) || size > self.ring_size {
            return None;
        }
        let offset = index * part_len(self.ring_size, self.is_packed);
        // SAFETY: the index is below the number of parts.
        let base = unsafe { self.base.add(offset) };
        Some(Inflight { part: Part { area: Arc::clone(self), base, size }, resumes })
    }
}

impl Part {
    /// The number of entries for which the area has room. The header contains it.
    fn room(&self) -> u16 {
        self.area.ring_size
    }

    /// Begins to clear the record. The version is stored last, so if the device dies before that, the record counts as new.
    fn begin_clear(&self, version: usize) {
        self.u16(version).store(0, Relaxed);
        // Later stores must not become visible before this one.
        fence(Release);
    }

    /// The address of a field. Callers pass the offset of a field in the header, or in an entry below `size`. Fields are aligned.
    fn field(&self, offset: usize) -> *mut u8 {
        #[cfg(test)]
        tests::access();
        // SAFETY: callers pass an offset within the part, as the comment of this function says.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    fn u8(&self, offset: usize) -> &AtomicU8 {
        let field = self.field(offset);
        // SAFETY: mapped (invariant of the type). Other processes access it with atomics only.
        unsafe { AtomicU8::from_ptr(field) }
    }

    fn u16(&self, offset: usize) -> &AtomicU16 {
        let field = self.field(offset);
        // SAFETY: mapped and aligned (rule of `field`). Other processes access it with atomics only.
        unsafe { AtomicU16::from_ptr(field.cast()) }
    }

    fn u32(&self, offset: usize) -> &AtomicU32 {
        let field = self.field(offset);
        // SAFETY: mapped and aligned (rule of `field`). Other processes access it with atomics only.
        unsafe { AtomicU32::from_ptr(field.cast()) }
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        let field = self.field(offset);
        // SAFETY: mapped and aligned (rule of `field`). Other processes access it with atomics only.
        unsafe { AtomicU64::from_ptr(field.cast()) }
    }
}
