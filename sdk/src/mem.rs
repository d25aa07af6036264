//! Memory that devices can access.
#![expect(unsafe_code, reason = "copies between shared memory and I/O buffers")]

use crate::bdev::{Buffers, Geometry, Range, Status};
use crate::error::{Error, Result, errno};
use crate::host::{host, mem_table};
use crate::region;
use crate::shared_copy;
use drivebay_plugin_api::bay_mem_zero_fn;
use std::ptr::NonNull;

/// Alignment of a region, in bytes.
const ALIGN: u64 = 4096;
/// Minimum length of a range that the host zeroes, in bytes. The host returns the memory to the system, by a system call.
const GIVEN_BACK_MIN: usize = 64 << 10;

/// Zeroed memory, addressed by blocks and shared by all threads.
///
/// Overlapping accesses of two threads have no defined order, like accesses of two hosts to one disk.
#[derive(Debug)]
pub struct DmaRegion {
    addr: NonNull<u8>,
    geometry: Geometry,
    /// The host's function that zeroes memory; `None` on a host that is too old.
    zero: Option<bay_mem_zero_fn>,
}

// SAFETY: the value owns its memory, and the host frees it on any thread of the control plane.
unsafe impl Send for DmaRegion {}
// SAFETY: `shared_copy` alone accesses the contents, which it may do while other threads access them.
unsafe impl Sync for DmaRegion {}

impl DmaRegion {
    /// Allocates memory for every block of `geometry`, on any NUMA node. `[control]`
    ///
    /// # Errors
    /// `ENOMEM` when the host has no memory left.
    pub fn alloc_zeroed(geometry: Geometry) -> Result<Self> {
        Self::alloc_zeroed_on(geometry, -1)
    }

    /// Allocates memory for every block of `geometry` on a NUMA node; -1 = any. `[control]`
    ///
    /// # Errors
    /// `EINVAL` for a node that the machine does not have, `ENOMEM` when the host has no memory left.
    pub fn alloc_zeroed_on(geometry: Geometry, numa: i32) -> Result<Self> {
        let nodes = region::numa_nodes();
        if numa < -1 || u32::try_from(numa).is_ok_and(|node| node >= nodes) {
            let allowed = format!("-1 (any) and 0 to {}", nodes - 1);
            return Err(Error::invalid("numa_id", numa, allowed));
        }
        let host = host();
        let (len, mut region) = (geometry.size_bytes(), 0);
        // SAFETY: the result outlives the call.
        let addr = unsafe { (host.mem.alloc)(host.raw, len, ALIGN, numa, &raw mut region) };
        match NonNull::new(addr.cast()) {
            Some(addr) => {
                let zero = mem_table(host).and_then(|table| table.zero);
                Ok(Self { addr, geometry, zero })
            }
            None => {
                Err(Error::new(errno::ENOMEM, format!("no memory for a region of {len} bytes")))
            }
        }
    }

    /// Copies blocks of the region into the buffers. `EINVAL` when `range` is not within the region.
    #[must_use]
    pub fn read(&self, range: Range, buffers: Buffers<'_>) -> Status {
        let Some(bytes) = self.geometry.bytes(range) else { return Status::INVALID };
        // SAFETY: `bytes` is within the region.
        let from = unsafe { self.addr.as_ptr().add(bytes.start) };
        let mut done = 0;
        for (addr, len) in buffers.pieces() {
            let len = len.min(bytes.len() - done);
            // SAFETY: `done` is within `bytes`.
            let from = unsafe { from.add(done) };
            // SAFETY: both are valid for `len` bytes. They may overlap, because a client's buffer can be inside the region.
            unsafe { shared_copy::copy(from, addr, len) };
            done += len;
        }
        Status::SUCCESS
    }

    /// Copies the buffers into blocks of the region. `EINVAL` when `range` is not within the region.
    #[must_use]
    pub fn write(&self, range: Range, buffers: Buffers<'_>) -> Status {
        let Some(bytes) = self.geometry.bytes(range) else { return Status::INVALID };
        // SAFETY: `bytes` is within the region.
        let to = unsafe { self.addr.as_ptr().add(bytes.start) };
        let mut done = 0;
        for (addr, len) in buffers.pieces() {
            let len = len.min(bytes.len() - done);
            // SAFETY: `done` is within `bytes`.
            let to = unsafe { to.add(done) };
            // SAFETY: both are valid for `len` bytes. They may overlap, because a client's buffer can be inside the region.
            unsafe { shared_copy::copy(addr, to, len) };
            done += len;
        }
        Status::SUCCESS
    }

    /// Zeroes blocks. `EINVAL` when `range` is not within the region. For a range of 64 KiB or more, the host returns the
    /// memory to the system unless it uses hugepages. The time grows with the length, so zero about 1 MiB a round.
    #[must_use]
    pub fn zero(&self, range: Range) -> Status {
        let Some(bytes) = self.geometry.bytes(range) else { return Status::INVALID };
        // SAFETY: `bytes` is within the region.
        let to = unsafe { self.addr.as_ptr().add(bytes.start) };
        if bytes.len() >= GIVEN_BACK_MIN
            && let Some(zero) = self.zero
        {
            // SAFETY: these bytes belong to this allocation.
            let status = unsafe { zero(host().raw, to.cast(), bytes.len() as u64) };
            return if status == 0 { Status::SUCCESS } else { Status::INVALID };
        }
        // SAFETY: `bytes` is within the region.
        unsafe { shared_copy::zero(to, bytes.len()) };
        Status::SUCCESS
    }

    /// Compares blocks of the region with the buffers. `EINVAL` when `range` is not within the region.
    #[must_use]
    pub fn compare(&self, range: Range, buffers: Buffers<'_>) -> Status {
        /// Bytes per step. Each step compares copies, because others may write to the memory at the same time.
        const CHUNK: usize = 512;
        let Some(bytes) = self.geometry.bytes(range) else { return Status::INVALID };
        let (mut ours, mut theirs) = ([0_u8; CHUNK], [0_u8; CHUNK]);
        let mut at = bytes.start;
        for (mut addr, mut len) in buffers.pieces() {
            len = len.min(bytes.end - at);
            while len > 0 {
                let n = len.min(CHUNK);
                // SAFETY: `at` is within the region.
                let from = unsafe { self.addr.as_ptr().add(at) };
                // SAFETY: the range has `n` bytes left, and they fit into a chunk.
                unsafe { shared_copy::copy(from, ours.as_mut_ptr(), n) };
                // SAFETY: the piece has `n` bytes left, and they fit into a chunk.
                unsafe { shared_copy::copy(addr, theirs.as_mut_ptr(), n) };
                if ours.get(..n) != theirs.get(..n) {
                    return Status::MISCOMPARE;
                }
                // SAFETY: `n` is at most the rest of the piece.
                addr = unsafe { addr.add(n) };
                (at, len) = (at + n, len - n);
            }
        }
        Status::SUCCESS
    }
}

impl Drop for DmaRegion {
    fn drop(&mut self) {
        let host = host();
        // SAFETY: the region was allocated with this length; this is its only free.
        unsafe { (host.mem.free)(host.raw, self.addr.as_ptr().cast(), self.geometry.size_bytes()) };
    }
}
