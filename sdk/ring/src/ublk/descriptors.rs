//! The descriptors of a queue's requests, in memory that the kernel writes.
#![expect(unsafe_code, reason = "maps the kernel's memory and reads it")]

use std::io;
use std::ptr::{self, NonNull};

use super::abi::{DESCRIPTOR_LEN, Descriptor, KERNEL_DEPTH_MAX};
use super::control::Device;

/// Length of a page, in bytes.
const PAGE: usize = 4096;

/// The mapped descriptors of one queue.
///
/// # Invariants
/// `base` is the address of `len` bytes, mapped for reading, until the value is dropped. The kernel writes the descriptor of a tag
/// only while it has the tag.
#[derive(Debug)]
pub(super) struct Descriptors {
    base: NonNull<u8>,
    len: usize,
}

impl Descriptors {
    /// Maps the descriptors of a queue of a device.
    pub(super) fn map(device: &Device, queue: u16) -> io::Result<Self> {
        let len = (usize::from(device.info().depth) * DESCRIPTOR_LEN).next_multiple_of(PAGE);
        let distance = (KERNEL_DEPTH_MAX * DESCRIPTOR_LEN).next_multiple_of(PAGE);
        let offset = i64::try_from(usize::from(queue) * distance);
        let offset = offset.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: this creates a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), len, libc::PROT_READ, flags, device.raw(), offset)
        };
        match NonNull::new(base.cast()) {
            Some(base) if base.as_ptr() != libc::MAP_FAILED.cast() => Ok(Self { base, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Copies the descriptor of a tag. `None` when the queue has no such tag.
    pub(super) fn read(&self, tag: u16) -> Option<Descriptor> {
        let at = usize::from(tag) * DESCRIPTOR_LEN;
        if at + DESCRIPTOR_LEN > self.len {
            return None;
        }
        // SAFETY: the line above checks that the bytes are in the mapping.
        let from = unsafe { self.base.add(at) };
        // SAFETY: the bytes are mapped. The caller has the tag, so the kernel does not write them.
        let bytes = unsafe { from.cast::<[u8; DESCRIPTOR_LEN]>().read_volatile() };
        Some(Descriptor::parse(&bytes))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
