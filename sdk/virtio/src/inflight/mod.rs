//! Which requests are in flight, kept in memory that outlives the process: a device that starts again takes over the
//! requests that the last one left, and repeats none that it had given back.
//!
//! The VMM keeps the area. Everything in it is checked before it is used, as guest memory is.
#![expect(unsafe_code, reason = "the area is shared and reached by raw pointers")]

mod packed;
mod split;
#[cfg(test)]
mod tests;

pub(crate) use packed::PackedRecord;
pub(crate) use split::SplitRecord;

use drivebay_sdk::region::Region;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::inflight::part_len;
use drivebay_spec_vhost::message;
use drivebay_spec_vhost::ring::SIZE_MAX;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

/// Files are mapped in whole pages.
const PAGE: u64 = 4096;

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

// SAFETY: the address is of a shared mapping, which no reference but to atomics is made to; all else is plain data.
unsafe impl Send for InflightArea {}
// SAFETY: as above.
unsafe impl Sync for InflightArea {}

/// Where the device finds the requests in flight of one ring.
#[derive(Clone, Debug)]
pub struct Inflight {
    pub(crate) part: Part,
    /// The ring goes on from what the area says. Otherwise the ring clears the area and starts at its base.
    pub(crate) resumes: bool,
}

/// The part of one ring.
///
/// # Invariants
/// `base` is aligned to 8 and names the part of a ring of `size` entries in `area`.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    area: Arc<InflightArea>,
    base: NonNull<u8>,
    /// Entries.
    pub(crate) size: u16,
}

// SAFETY: as for the area.
unsafe impl Send for Part {}

impl InflightArea {
    /// Length of an area, in bytes: whole pages. `None` when a device cannot have such rings.
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
        let len = mmap_offset.checked_add(mmap_size);
        let end = len.and_then(|len| len.checked_next_multiple_of(PAGE));
        let is_sound = Self::len(num_queues, queue_size, is_packed).is_some()
            && mmap_size >= parts
            && mmap_offset.is_multiple_of(8);
        let (len, end) = len.zip(end).filter(|_| is_sound).ok_or_else(refuse)?;
        fill_last_page(fd, len, end)?;
        let region = Region::import(fd, 0, end)?;
        let offset = usize::try_from(mmap_offset).map_err(|_| refuse())?;
        // SAFETY: the region is longer than the offset.
        let base = unsafe { region.addr().add(offset) };
        Ok(Self {
            base,
            num_rings: num_queues,
            ring_size: queue_size,
            is_packed,
            _region: Some(region),
        })
    }

    /// An area of a test, in memory that outlives all that uses it.
    #[cfg(test)]
    pub(crate) fn of_test(bytes: &'static [u64], ring_size: u16, is_packed: bool) -> Arc<Self> {
        assert!(size_of_val(bytes) >= part_len(ring_size, is_packed));
        let base = NonNull::from(bytes).cast();
        Arc::new(Self { base, num_rings: 1, ring_size, is_packed, _region: None })
    }

    /// An area in a fuzzer's own memory, for one ring of at most `ring_size` entries.
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

    /// Whether it was made for packed rings.
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

/// Files of areas that other back ends made end within a page, and only whole pages are mapped: such a file grows to `end`.
fn fill_last_page(fd: BorrowedFd<'_>, len: u64, end: u64) -> Result<()> {
    let file = File::from(fd.try_clone_to_owned()?);
    if (len..end).contains(&file.metadata()?.len()) {
        file.set_len(end)?;
    }
    Ok(())
}

impl Part {
    /// Entries that the area has room for, which is what its header says.
    fn room(&self) -> u16 {
        self.area.ring_size
    }

    /// Starts to make the area new again: until the version is stored last, a device that dies leaves one that counts as new.
    fn begin_clear(&self, version: usize) {
        self.u16(version).store(0, Relaxed);
        // No later store comes before this one.
        fence(Release);
    }

    /// The address of a field. Callers pass the offset of a field in the header, or in an entry below `size`; fields are aligned.
    fn field(&self, offset: usize) -> *mut u8 {
        #[cfg(test)]
        tests::access();
        // SAFETY: within the part, by the rule above.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    fn u8(&self, offset: usize) -> &AtomicU8 {
        let field = self.field(offset);
        // SAFETY: mapped by the type's invariant; other processes reach it by their own atomics only.
        unsafe { AtomicU8::from_ptr(field) }
    }

    fn u16(&self, offset: usize) -> &AtomicU16 {
        let field = self.field(offset);
        // SAFETY: mapped and aligned, by the rule of `field`; reached by atomics only, as in `u8`.
        unsafe { AtomicU16::from_ptr(field.cast()) }
    }

    fn u32(&self, offset: usize) -> &AtomicU32 {
        let field = self.field(offset);
        // SAFETY: mapped and aligned, by the rule of `field`; reached by atomics only, as in `u8`.
        unsafe { AtomicU32::from_ptr(field.cast()) }
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        let field = self.field(offset);
        // SAFETY: mapped and aligned, by the rule of `field`; reached by atomics only, as in `u8`.
        unsafe { AtomicU64::from_ptr(field.cast()) }
    }
}
