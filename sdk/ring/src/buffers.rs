//! The promise about memory that makes the ring's face safe.
#![expect(unsafe_code, reason = "declares the unsafe trait, and that a segment may change threads")]

use std::mem::{align_of, offset_of, size_of};

/// A contiguous piece of memory under I/O. The same layout as `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    /// First byte.
    pub ptr: *mut u8,
    /// Length in bytes.
    pub len: usize,
}

// Segments are handed to the kernel as `struct iovec`.
const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<Segment>() == align_of::<libc::iovec>());
const _: () = assert!(offset_of!(Segment, ptr) == offset_of!(libc::iovec, iov_base));
const _: () = assert!(offset_of!(Segment, len) == offset_of!(libc::iovec, iov_len));

// SAFETY: a segment only names memory; whoever uses it answers for the use.
unsafe impl Send for Segment {}

/// A request that owns, or otherwise keeps alive, the memory its I/O goes to or comes from.
///
/// Operations without data (sync, punch hole) use a request without segments.
///
/// # Safety
///
/// From the call of [`segments`](Self::segments) until the value is dropped, wherever it is moved
/// meanwhile and even if it is leaked, each segment returned must be
/// - valid for reads of `len` bytes, and for writes too if [`writable`](Self::writable) is true;
/// - left alone: nobody in this program writes it, or reads it if it is writable, and no reference
///   to it is in use. (Another program that shares the memory, such as a guest, cannot be bound.)
pub unsafe trait IoBuffers: 'static {
    /// The memory, in the order of the file's bytes. At most 1,024 segments and `u32::MAX` bytes,
    /// or the request completes with `EINVAL`.
    fn segments(&self) -> impl Iterator<Item = Segment>;

    /// Whether the kernel may write to the memory: a read into a request where this is false
    /// completes with `EFAULT`.
    fn writable(&self) -> bool;
}
