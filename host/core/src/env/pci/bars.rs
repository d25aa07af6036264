//! The mapped BARs, for the SIGBUS handler. When a device is pulled out, an access to its BAR raises SIGBUS. The handler makes such reads
//! return all ones, as the bus does.
#![expect(unsafe_code, reason = "replaces a mapping while threads use it")]

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The maximum number of BARs that are mapped at once.
pub(super) const MAX: usize = 1024;

/// One mapping. `addr` is 0 while the place is free. [`add`] stores `addr` after `len`, so that the handler never sees a half-filled
/// place.
struct Mapped {
    addr: AtomicUsize,
    len: AtomicUsize,
}

static MAPPED: [Mapped; MAX] =
    [const { Mapped { addr: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; MAX];
/// The value of `addr` while a thread fills the place. No BAR has this address.
const TAKEN: usize = 1;

/// Adds a mapping; false when there are [`MAX`] already.
pub(super) fn add(addr: usize, len: usize) -> bool {
    let free = MAPPED.iter().find(|place| {
        place.addr.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    let Some(place) = free else { return false };
    place.len.store(len, Ordering::Relaxed);
    place.addr.store(addr, Ordering::Release);
    true
}

/// Frees the place of a mapping, before the BAR is unmapped.
pub(super) fn remove(addr: usize) {
    if let Some(place) = MAPPED.iter().find(|place| place.addr.load(Ordering::Acquire) == addr) {
        place.addr.store(0, Ordering::Release);
    }
}

/// Called by the SIGBUS handler. If `addr` is in a BAR, replaces the page at `addr` with a page of all ones and returns true.
/// Async-signal-safe.
pub(in crate::env) fn gone(addr: usize) -> bool {
    const PAGE: usize = 4096;
    let is_in = |place: &&Mapped| {
        let base = place.addr.load(Ordering::Acquire);
        let len = place.len.load(Ordering::Relaxed);
        base > TAKEN && addr.checked_sub(base).is_some_and(|offset| offset < len)
    };
    if !MAPPED.iter().any(|place| is_in(&place)) {
        return false;
    }
    // SAFETY: a new anonymous mapping at an address that the kernel chooses.
    let ones = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if ones == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the page just mapped, which only this thread knows.
    unsafe { ptr::write_bytes(ones.cast::<u8>(), 0xff, PAGE) };
    let page = (addr & !(PAGE - 1)) as *mut libc::c_void;
    // The page is complete before other threads see it.
    // SAFETY: the page at `page` belongs to a mapping of the host, which code accesses only by volatile reads and writes.
    let moved =
        unsafe { libc::mremap(ones, PAGE, PAGE, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, page) };
    moved != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_a_bar_becomes_all_ones_and_other_memory_is_left_alone() {
        // SAFETY: a new anonymous mapping.
        let addr = unsafe {
            libc::mmap(
                ptr::null_mut(),
                8192,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(!gone(addr as usize + 4096));
        assert!(add(addr as usize, 8192));
        assert!(gone(addr as usize + 4100));
        assert!(!gone(addr as usize + 8192));
        // SAFETY: the test's own mapping of 8192 bytes.
        let bytes = unsafe { std::slice::from_raw_parts(addr.cast::<u8>(), 8192) };
        assert!(bytes[..4096].iter().all(|byte| *byte == 0));
        assert!(bytes[4096..].iter().all(|byte| *byte == 0xff));
        remove(addr as usize);
        assert!(!gone(addr as usize));
        // SAFETY: as above.
        unsafe { libc::munmap(addr, 8192) };
    }
}
