//! BARs that are mapped, for the SIGBUS handler: a read of a device that is gone gives all ones, as the bus itself would.
#![expect(unsafe_code, reason = "a mapping is replaced under whoever uses it")]

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most BARs that are mapped at once.
const MAX: usize = 1024;

/// One mapping. `addr` is 0 while the place is free, and is written last.
struct Mapped {
    addr: AtomicUsize,
    len: AtomicUsize,
}

static MAPPED: [Mapped; MAX] =
    [const { Mapped { addr: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; MAX];
/// Marks a place that is being filled.
const TAKEN: usize = 1;

/// Adds a mapping; false when there are too many.
pub(super) fn add(addr: usize, len: usize) -> bool {
    let free = MAPPED.iter().find(|place| {
        place.addr.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    let Some(place) = free else { return false };
    place.len.store(len, Ordering::Relaxed);
    place.addr.store(addr, Ordering::Release);
    true
}

/// Forgets a mapping.
pub(super) fn remove(addr: usize) {
    if let Some(place) = MAPPED.iter().find(|place| place.addr.load(Ordering::Acquire) == addr) {
        place.addr.store(0, Ordering::Release);
    }
}

/// Called by the SIGBUS handler: if `addr` is in a BAR, its page becomes one of all ones. Async-signal-safe.
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
    let page = (addr & !(PAGE - 1)) as *mut libc::c_void;
    // SAFETY: the page belongs to a mapping of the host's own, which nobody refers to but by volatile access.
    let mapped = unsafe {
        libc::mmap(
            page,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the page just mapped.
    unsafe { ptr::write_bytes(page.cast::<u8>(), 0xff, PAGE) };
    true
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
