//! The contract for memory under I/O, which makes the ring's interface safe.
#![expect(unsafe_code, reason = "declares the unsafe trait, and that segments are Send")]

use std::mem::{align_of, offset_of, size_of};

/// A contiguous piece of memory under I/O. It has the layout of `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    /// First byte.
    pub ptr: *mut u8,
    /// Length in bytes.
    pub len: usize,
}

// The ring passes segments to the kernel as `struct iovec`.
const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<Segment>() == align_of::<libc::iovec>());
const _: () = assert!(offset_of!(Segment, ptr) == offset_of!(libc::iovec, iov_base));
const _: () = assert!(offset_of!(Segment, len) == offset_of!(libc::iovec, iov_len));

// SAFETY: a segment is only an address and a length; the code that accesses the memory must ensure that this is valid.
unsafe impl Send for Segment {}

/// A request that owns the memory of its I/O, or keeps it alive in another way.
///
/// Operations without data (sync, punch hole) use a request without segments.
///
/// # Safety
///
/// From the call of [`segments`](Self::segments) until the value is dropped, even if it moves or is
/// leaked, each returned segment must be
/// - valid for reads of `len` bytes, and also for writes if [`writable`](Self::writable) is true;
/// - used by the kernel only: this program does not write to it, does not read it if it is writable,
///   and uses no reference to it. (Another program that shares the memory, such as a guest, may still
///   access it.)
pub unsafe trait IoBuffers: 'static {
    /// The memory, in the order of the file's bytes. At most 1,024 segments and `u32::MAX` bytes in total,
    /// otherwise the request completes with `EINVAL`.
    fn segments(&self) -> impl Iterator<Item = Segment>;

    /// Whether the kernel may write to the memory. If this is false, a read into the request completes with
    /// `EFAULT`.
    fn writable(&self) -> bool;
}
