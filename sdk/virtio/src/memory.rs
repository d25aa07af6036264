//! A guest's memory, and the addresses that the guest and its VMM use.
#![expect(unsafe_code, reason = "raw pointers access guest memory")]

use drivebay_sdk::region::Region;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::message::MemoryRegion;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Files are mapped in whole pages of this length, in bytes.
pub(crate) const PAGE: u64 = 4096;

/// The memory that a VMM shares with a device.
///
/// # Invariants
/// `base` of each part is the address of `len` mapped bytes for as long as the part's `region` lives. Parts are
/// sorted by guest address and do not overlap.
#[derive(Debug, Default)]
pub struct GuestMemory {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    guest_addr: u64,
    len: u64,
    user_addr: u64,
    base: NonNull<u8>,
    number: u32,
    /// Keeps the mapping; `None` in tests, whose memory is the test's.
    region: Option<Region>,
}

// SAFETY: the addresses point into shared mappings, to which the code creates no reference. All else is plain data.
unsafe impl Send for GuestMemory {}
// SAFETY: the same reason as for `Send`.
unsafe impl Sync for GuestMemory {}

/// Contiguous bytes in the host's address space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) addr: NonNull<u8>,
    pub(crate) len: u64,
    pub(crate) number: u32,
}

impl GuestMemory {
    /// Maps a part and adds it. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when it overlaps another part or the file does not have these bytes.
    pub fn add(&mut self, part: &MemoryRegion, fd: BorrowedFd<'_>) -> Result<()> {
        let overlap = |other: &Part| {
            part.guest_addr < other.guest_addr + other.len
                && other.guest_addr < part.guest_addr + part.len
        };
        if let Some(other) = self.parts.iter().find(|other| overlap(other)) {
            let given = format!("{:#x} and {:#x}", part.guest_addr, other.guest_addr);
            return Err(Error::new(errno::EINVAL, format!("guest memory at {given} overlaps")));
        }
        // Map from the beginning of the file, because hugepages are mapped whole and the offset may be within one.
        let region = map_file(fd, part.mmap_offset + part.len)?;
        let offset = usize::try_from(part.mmap_offset)
            .map_err(|_| Error::new(errno::EINVAL, "guest memory: the offset is too large"))?;
        // SAFETY: the region has at least `mmap_offset + len` bytes.
        let base = unsafe { region.addr().add(offset) };
        self.insert(Part {
            guest_addr: part.guest_addr,
            len: part.len,
            user_addr: part.user_addr,
            base,
            number: region.number(),
            region: Some(region),
        });
        Ok(())
    }

    /// Removes a part. Returns whether it was there. No queue may use it any more. `[app thread]`
    pub fn remove(&mut self, part: &MemoryRegion) -> bool {
        let before = self.parts.len();
        self.parts.retain(|other| {
            (other.guest_addr, other.len, other.user_addr)
                != (part.guest_addr, part.len, part.user_addr)
        });
        self.parts.len() < before
    }

    /// Guest memory in the memory of a test, which outlives everything that uses it.
    #[cfg(test)]
    pub(crate) fn of_test(parts: &[(u64, u64, &'static [u8])]) -> Self {
        let mut memory = Self::default();
        for &(guest_addr, user_addr, bytes) in parts {
            let base = NonNull::from(bytes).cast();
            memory.insert(Part {
                guest_addr,
                len: bytes.len() as u64,
                user_addr,
                base,
                number: 0,
                region: None,
            });
        }
        memory
    }

    /// Guest memory in the memory of a fuzzer.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn over(
        guest_addr: u64,
        user_addr: u64,
        words: &'static [std::sync::atomic::AtomicU64],
    ) -> Self {
        let (base, len) = (NonNull::from(words).cast(), size_of_val(words) as u64);
        let mut memory = Self::default();
        memory.insert(Part { guest_addr, len, user_addr, base, number: 0, region: None });
        memory
    }

    /// Number of parts.
    #[must_use]
    pub fn num_parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether the VMM took pages of it away. Then every session that uses it must end. `[any thread]`
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.parts.iter().filter_map(|part| part.region.as_ref()).any(Region::is_broken)
    }

    /// The guest's address of an address in the VMM's address space.
    #[must_use]
    pub fn guest_addr(&self, user_addr: u64) -> Option<u64> {
        self.parts.iter().find_map(|part| {
            let offset = user_addr.checked_sub(part.user_addr)?;
            (offset < part.len).then_some(part.guest_addr + offset)
        })
    }

    /// The guest's address of a byte of its memory in the host's address space.
    pub(crate) fn guest_addr_of(&self, addr: NonNull<u8>) -> Option<u64> {
        self.parts.iter().find_map(|part| {
            let offset = (addr.as_ptr() as u64).checked_sub(part.base.as_ptr() as u64)?;
            (offset < part.len).then_some(part.guest_addr + offset)
        })
    }

    /// The longest span at a guest address, of at most `len` bytes. `None` when the guest has no memory at the address.
    #[inline]
    pub(crate) fn span(&self, guest_addr: u64, len: u64) -> Option<Span> {
        let after = self.parts.partition_point(|part| part.guest_addr <= guest_addr);
        let part = self.parts.get(after.checked_sub(1)?)?;
        let offset = guest_addr - part.guest_addr;
        let rest = part.len.checked_sub(offset)?;
        if rest == 0 {
            return None;
        }
        // SAFETY: the offset is below the length of the part, so the byte is mapped (invariant of the type).
        let addr = unsafe { part.base.add(usize::try_from(offset).ok()?) };
        Some(Span { addr, len: len.min(rest), number: part.number })
    }

    /// The address of exactly `len` contiguous bytes, aligned to `align`. `None` when the guest does not have them.
    pub(crate) fn exact(&self, guest_addr: u64, len: usize, align: usize) -> Option<NonNull<u8>> {
        let span = self.span(guest_addr, len as u64)?;
        let is_whole =
            span.len == len as u64 && (span.addr.as_ptr() as usize).is_multiple_of(align);
        is_whole.then_some(span.addr)
    }

    fn insert(&mut self, part: Part) {
        let at = self.parts.partition_point(|other| other.guest_addr < part.guest_addr);
        self.parts.insert(at, part);
    }
}

/// Maps the first `len` bytes of a shared file, in whole pages. The file may end within the last page. `[app thread]`
///
/// # Errors
/// `EINVAL` when the file has fewer bytes.
pub(crate) fn map_file(fd: BorrowedFd<'_>, len: u64) -> Result<Region> {
    let size = File::from(fd.try_clone_to_owned()?).metadata()?.len();
    let pages = len.checked_next_multiple_of(PAGE).filter(|_| len <= size);
    let pages = pages.ok_or_else(|| {
        let why = format!("the shared file has {size} bytes; it needs at least {len}");
        Error::new(errno::EINVAL, why)
    })?;
    Region::import(fd, 0, pages)
}
