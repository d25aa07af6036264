//! Memory that a device shares with its driver: rings and lists.

use super::{Device, share};
use crate::error::{Error, Result, errno};
use crate::host::host;
use drivebay_plugin_api::bay_iov;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Alignment of an allocation, in bytes.
const ALIGN: u64 = 4096;

/// Memory that is zeroed at first, in words of 8 bytes. A device may change the contents at any time, so this code only loads and stores
/// whole words and never creates a reference to the contents.
#[derive(Debug)]
pub struct DmaMemory {
    addr: NonNull<AtomicU64>,
    words: usize,
    iova: u64,
    /// Keeps the device open, because the host maps memory for devices only while a device is open.
    _device: Arc<Device>,
}

// SAFETY: the value owns its memory, and the host frees memory on any thread.
unsafe impl Send for DmaMemory {}
// SAFETY: all accesses are atomic loads and stores.
unsafe impl Sync for DmaMemory {}

impl DmaMemory {
    /// Allocates at least `len` bytes, aligned to 4096, which all open devices can access. The host locks the memory, which is slow: do
    /// not call this on the data path. `[any thread]`
    ///
    /// # Errors
    /// `ENOMEM` when the host has no memory left, or the process has reached its limit of locked memory.
    pub fn alloc(device: &Arc<Device>, len: u32) -> Result<Self> {
        let none =
            || Error::new(errno::ENOMEM, format!("no memory for {len} bytes that a device shares"));
        let len = len.max(1).checked_next_multiple_of(4096).ok_or_else(none)?;
        let host = host();
        let mut region = 0;
        // SAFETY: the result lives through the call.
        let addr = unsafe { (host.mem.alloc)(host.raw, len.into(), ALIGN, -1, &raw mut region) };
        let addr = NonNull::new(addr.cast()).ok_or_else(none)?;
        let mut memory =
            Self { addr, words: len as usize / 8, iova: 0, _device: Arc::clone(device) };
        share(region)?;
        let iov = bay_iov { addr: addr.as_ptr().cast(), len, region };
        memory.iova = super::iova(&iov).ok_or_else(|| {
            Error::new(errno::EIO, "no device is open, so no device reaches memory")
        })?;
        Ok(memory)
    }

    /// The address of the memory for devices. It differs from the address in this process.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Length in words of 8 bytes.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words
    }

    #[inline]
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: the index is within the allocation.
        let word = unsafe { self.addr.add(index) };
        // SAFETY: aligned and initialized memory of this value, which is accessed by atomics only.
        Some(unsafe { word.as_ref() })
    }

    /// Loads a word; 0 beyond the end. The caller also sees everything that the device wrote before this word.
    #[inline]
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| u64::from_le(word.load(Ordering::Acquire)))
    }

    /// Stores a word; nothing happens beyond the end.
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        let host = host();
        // SAFETY: the memory was allocated with this length and is freed once. The host unmaps it from devices first.
        unsafe { (host.mem.free)(host.raw, self.addr.as_ptr().cast(), self.words as u64 * 8) };
    }
}
