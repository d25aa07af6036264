//! Copies of memory that others may change at the same time: a guest, a device, or another reactor.
//!
//! In Rust such an access is a data race, even through raw pointers, and the compiler may assume that there is none. So this code
//! calls functions of the C library through pointers that the compiler cannot see through. When a byte changes during a copy, its
//! copied value is undefined, and nothing else is. docs/decisions/0012 has the reasons.
#![expect(unsafe_code, reason = "copies memory that Rust's memory model does not cover")]

use std::ffi::{c_int, c_void};

unsafe extern "C" {
    fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void;
    fn memset(to: *mut c_void, byte: c_int, len: usize) -> *mut c_void;
}

/// Nothing writes these two. Each call reads its pointer as a volatile, so the compiler cannot know the function.
static MOVE: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void = memmove;
static SET: unsafe extern "C" fn(*mut c_void, c_int, usize) -> *mut c_void = memset;

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

/// Zeroes `len` bytes.
///
/// # Safety
/// `to` is valid for writes of `len` bytes, and there is no reference to them.
#[inline]
pub(crate) unsafe fn zero(to: *mut u8, len: usize) {
    // SAFETY: the static is initialized and never changes.
    let set = unsafe { (&raw const SET).read_volatile() };
    // SAFETY: the caller's promise.
    unsafe { set(to.cast(), 0, len) };
}
