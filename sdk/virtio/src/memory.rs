//! A guest's memory, by the addresses that the guest and its VMM use.
#![expect(unsafe_code, reason = "guest memory is reached by raw pointers")]

use drivebay_sdk::region::Region;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::message::MemoryRegion;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

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

// SAFETY: the addresses are of shared mappings, which no reference is made to; all else is plain data.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

/// Bytes that lie one behind the other in the host's address space.
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
    /// `EINVAL` when it overlaps another or the descriptor does not have these bytes.
    pub fn add(&mut self, part: &MemoryRegion, fd: BorrowedFd<'_>) -> Result<()> {
        let overlap = |other: &Part| {
            part.guest_addr < other.guest_addr + other.len
                && other.guest_addr < part.guest_addr + part.len
        };
        if let Some(other) = self.parts.iter().find(|other| overlap(other)) {
            let given = format!("{:#x} and {:#x}", part.guest_addr, other.guest_addr);
            return Err(Error::new(errno::EINVAL, format!("guest memory at {given} overlaps")));
        }
        // From the beginning of the file: hugepages are mapped whole, and the offset need not be a multiple.
        let region = Region::import(fd, 0, part.mmap_offset + part.len)?;
        let offset = usize::try_from(part.mmap_offset)
            .map_err(|_| Error::new(errno::EINVAL, "guest memory: the offset is too large"))?;
        // SAFETY: the region has `mmap_offset + len` bytes.
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

    /// Takes a part away: whether there was one. No queue may use it any more. `[app thread]`
    pub fn remove(&mut self, part: &MemoryRegion) -> bool {
        let before = self.parts.len();
        self.parts.retain(|other| {
            (other.guest_addr, other.len, other.user_addr)
                != (part.guest_addr, part.len, part.user_addr)
        });
        self.parts.len() < before
    }

    /// Memory of a test, which outlives all that uses it.
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

    /// Guest memory within a fuzzer's own memory.
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

    /// Whether the VMM took pages of it away: then every session that uses it must end. `[any thread]`
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.parts.iter().filter_map(|part| part.region.as_ref()).any(Region::is_broken)
    }

    /// The guest's address of an address in the VMM's own space.
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

    /// The longest span at a guest address, at most `len` bytes. `None` when the address is not the guest's.
    #[inline]
    pub(crate) fn span(&self, guest_addr: u64, len: u64) -> Option<Span> {
        let after = self.parts.partition_point(|part| part.guest_addr <= guest_addr);
        let part = self.parts.get(after.checked_sub(1)?)?;
        let offset = guest_addr - part.guest_addr;
        let rest = part.len.checked_sub(offset)?;
        if rest == 0 {
            return None;
        }
        // SAFETY: the offset is within the part, by the invariant of the type.
        let addr = unsafe { part.base.add(usize::try_from(offset).ok()?) };
        Some(Span { addr, len: len.min(rest), number: part.number })
    }

    /// The address of exactly `len` bytes, aligned to `align`. `None` when they are not all there, in one piece.
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
