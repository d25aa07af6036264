//! Memory that devices can reach.
//!
//! From hugepages when there are any and the allocation is large enough to be worth one, else from
//! ordinary shared pages, so that nothing must be set up before the host starts. Every allocation is
//! a mapping and a region of its own; region 0 means plain memory that the host knows nothing of.
#![expect(unsafe_code, reason = "mapping memory is a system call over raw addresses")]

use super::{numa, region};
use crate::{Error, Result};
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

const PAGE: usize = 4096;
/// Sizes of hugepages that are tried, largest first, in bytes.
const HUGE_SIZES: [usize; 2] = [1 << 30, 2 << 20];

/// Where allocations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Hugepages of this many bytes.
    Huge(usize),
    /// Ordinary shared pages.
    Pages,
}

/// How memory is to be had; set once before the first allocation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Never use hugepages.
    pub no_huge: bool,
    /// Upper limit of all allocations in bytes, 0 = none.
    pub limit: u64,
}

#[derive(Debug, Default)]
struct State {
    options: Options,
    used: u64,
}

fn state() -> &'static Mutex<State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(Mutex::default)
}

/// Sets the options and says, for the log, where memory will come from.
pub fn configure(options: Options) -> Source {
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    state.options = options;
    HUGE_SIZES
        .into_iter()
        .find(|&size| !options.no_huge && free_hugepages(size) > 0)
        .map_or(Source::Pages, Source::Huge)
}

fn free_hugepages(size: usize) -> u64 {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", size / 1024);
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Bytes allocated now.
pub fn used() -> u64 {
    state().lock().unwrap_or_else(PoisonError::into_inner).used
}

/// Zeroed shared memory of at least `len` bytes, aligned to `align` (a power of two up to 1 GiB).
/// Returns its first byte and its region.
///
/// # Errors
/// `EINVAL` for a bad size or alignment, `ENOMEM` when there is no memory or the limit is reached.
pub fn alloc(len: usize, align: usize) -> Result<(NonNull<u8>, u32)> {
    alloc_on(len, align, -1)
}

/// As [`alloc`], on a NUMA node; -1 = any.
///
/// # Errors
/// As [`alloc`]; `EINVAL` also for a node that the machine does not have.
pub fn alloc_on(len: usize, align: usize, numa: i32) -> Result<(NonNull<u8>, u32)> {
    let node = numa::check(numa)?;
    if len == 0 || !align.is_power_of_two() || align > 1 << 30 {
        return Err(Error::new(libc::EINVAL, "DMA memory: length 0 or a bad alignment"));
    }
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    let limit = state.options.limit;
    if limit != 0 && state.used.saturating_add(len as u64) > limit {
        return Err(Error::new(
            libc::ENOMEM,
            format!(
                "DMA memory: {len} bytes more than the limit of {limit} allows; {} are used (see --mem-size)",
                state.used
            ),
        ));
    }
    let (base, mapped) = map(len, align, state.options.no_huge)?;
    let bound = node.map_or(Ok(()), |node| numa::bind(base, mapped, node));
    let added = bound.and_then(|()| region::add(base, mapped));
    let number = added.inspect_err(|_| {
        // SAFETY: the mapping just made, known to nobody.
        unsafe { libc::munmap(base.as_ptr().cast(), mapped) };
    })?;
    state.used += mapped as u64;
    Ok((base, number))
}

/// Frees an allocation by its first byte. Unknown addresses are ignored.
pub fn free(addr: *mut u8) {
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    let Some(len) = region::take(addr as usize) else { return };
    state.used -= len as u64;
    // SAFETY: the mapping was made by `map` with this base and length, is in the table no more, and
    // its owner gave it back.
    unsafe { libc::munmap(addr.cast(), len) };
}

fn map(len: usize, align: usize, no_huge: bool) -> Result<(NonNull<u8>, usize)> {
    for size in HUGE_SIZES {
        // A hugepage is taken only when at least half of it is used.
        if !no_huge && len >= size / 2 && align <= size && free_hugepages(size) > 0 {
            let rounded = len.next_multiple_of(size);
            let shift = i32::try_from(size.trailing_zeros()).unwrap_or(21);
            let huge = libc::MAP_HUGETLB | (shift << libc::MAP_HUGE_SHIFT);
            if let Ok(base) = map_shared(rounded, huge) {
                return Ok((base, rounded));
            }
        }
    }
    let rounded = len.next_multiple_of(PAGE);
    if align <= PAGE {
        return Ok((map_shared(rounded, 0)?, rounded));
    }
    map_aligned(rounded, align)
}

/// Maps more than is needed and gives the ends back.
fn map_aligned(len: usize, align: usize) -> Result<(NonNull<u8>, usize)> {
    let whole = map_shared(len + align, 0)?;
    let skip = whole.as_ptr().align_offset(align);
    if skip > 0 {
        // SAFETY: the first `skip` bytes belong to the mapping just made and nobody uses them.
        unsafe { libc::munmap(whole.as_ptr().cast(), skip) };
    }
    // SAFETY: `skip <= align`, so the result lies inside the mapping.
    let base = unsafe { whole.add(skip) };
    // SAFETY: `skip + len <= len + align`, so this is the end of the part in use.
    let end = unsafe { base.add(len) };
    let rest = align - skip;
    if rest > 0 {
        // SAFETY: the last `rest` bytes belong to the mapping just made and nobody uses them.
        unsafe { libc::munmap(end.as_ptr().cast(), rest) };
    }
    Ok((base, len))
}

fn map_shared(len: usize, flags: i32) -> Result<NonNull<u8>> {
    // SAFETY: a new anonymous mapping at an address that the kernel chooses.
    let addr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | flags,
            -1,
            0,
        )
    };
    if addr == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        return Err(Error::new(libc::ENOMEM, format!("DMA memory: {len} bytes: {error}")));
    }
    NonNull::new(addr.cast()).ok_or_else(|| Error::new(libc::ENOMEM, "DMA memory: mapped at 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_gone_after_free() {
        for (len, align) in [(1, 1), (5000, 4096), (3 << 20, 2 << 20), (100, 1 << 21)] {
            let (base, region) = alloc(len, align).unwrap();
            assert_eq!(base.as_ptr() as usize % align, 0);
            assert_ne!(region, 0);
            // SAFETY: the allocation is `len` bytes long and ours alone.
            let bytes = unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) };
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(0xa5);
            free(base.as_ptr());
        }
    }

    #[test]
    fn bad_sizes_and_alignments_are_refused() {
        assert_eq!(alloc(0, 1).unwrap_err().errno, libc::EINVAL);
        assert_eq!(alloc(1, 3).unwrap_err().errno, libc::EINVAL);
    }
}
