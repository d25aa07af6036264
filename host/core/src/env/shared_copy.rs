//! Copies of memory that others may change at the same time, such as a guest. docs/decisions/0012 has the reasons.
#![expect(unsafe_code, reason = "copies memory that Rust's memory model does not cover")]

use std::ffi::c_void;

/// Nothing writes it. Each call reads the pointer as a volatile, so the compiler cannot know the function.
static MOVE: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void = libc::memmove;

/// Copies `len` bytes. The two pieces may overlap.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `len` bytes. There is no reference to either, or only the caller's own.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the static is initialized and never changes.
    let copy = unsafe { (&raw const MOVE).read_volatile() };
    // SAFETY: the caller's promise.
    unsafe { copy(to.cast(), from.cast(), len) };
}
