//! Memory that a driver shares with its device: a file that both of them map.
#![expect(unsafe_code, reason = "raw pointers access shared memory")]

use drivebay_sdk::region::Region;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::message::MemoryRegion;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

/// Shared memory that belongs to this process. The device cannot shorten it.
///
/// # Invariants
/// `base` is the address of `len` mapped bytes, aligned to pages, for as long as `_region` lives.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
    /// Keeps the mapping; `None` in tests, whose memory is the test's.
    _region: Option<Region>,
}

// SAFETY: the address points into a shared mapping, to which the code creates references to atomics only. All else is plain data.
unsafe impl Send for SharedMemory {}
// SAFETY: the same reason as for `Send`.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// The address of the first byte, as the device knows it.
    pub const GUEST_ADDR: u64 = 1 << 32;
    /// Lengths are multiples of this, in bytes, because some back ends that register memory for devices need it.
    const UNIT: usize = 2 << 20;

    /// Allocates zeroed memory of at least `len` bytes. `[app thread]`
    ///
    /// # Errors
    /// `ENOMEM` or `EMFILE` when the system has no memory or no descriptor left.
    pub fn new(len: usize) -> Result<Self> {
        let len = len.next_multiple_of(Self::UNIT);
        let failed = |error: rustix::io::Errno| {
            let why = io::Error::from(error);
            Error::new(error.raw_os_error(), format!("shared memory of {len} bytes: {why}"))
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("virtio", flags).map_err(failed)?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).map_err(failed)?;
        let region = Region::import(fd.as_fd(), 0, len as u64)?;
        if region.len_bytes() < len as u64 {
            return Err(Error::new(errno::ENOMEM, format!("shared memory of {len} bytes")));
        }
        Ok(Self { base: region.addr(), len, fd, _region: Some(region) })
    }

    /// Shared memory in the memory of a test, which outlives everything that uses it.
    #[cfg(test)]
    pub(crate) fn of_test(base: NonNull<u8>, len: usize) -> Self {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        Self { base, len, fd, _region: None }
    }

    /// Shared memory in the memory of a fuzzer.
    ///
    /// # Panics
    /// When the system has no descriptor left.
    #[cfg(feature = "testing")]
    #[must_use]
    #[expect(clippy::expect_used, reason = "a fuzzer cannot go on")]
    pub fn over(words: &'static [AtomicU64]) -> Self {
        let fd = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a descriptor");
        Self { base: NonNull::from(words).cast(), len: size_of_val(words), fd, _region: None }
    }

    /// Length, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// The description of the memory for the device. It is sent with [`fd`](Self::fd).
    #[must_use]
    pub fn part(&self) -> MemoryRegion {
        let (guest_addr, user_addr) = (Self::GUEST_ADDR, Self::GUEST_ADDR);
        MemoryRegion { guest_addr, user_addr, len: self.len as u64, mmap_offset: 0 }
    }

    /// The file.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The address of `len` bytes from `offset` on.
    ///
    /// # Panics
    /// When the bytes are not in the memory. That is a fault of this crate, because the device chooses no offsets.
    #[inline]
    pub(super) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "outside of the shared memory");
        // SAFETY: the line above checks that the bytes are in the memory.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    #[inline]
    pub(super) fn u16(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2));
        // SAFETY: `at` checks the bounds, and the layout of rings aligns the field. Other processes access it with atomics only.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    #[inline]
    pub(super) fn u32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4));
        // SAFETY: the same reason as in `u16`.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    #[inline]
    pub(super) fn u64(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8));
        // SAFETY: the same reason as in `u16`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }
}
