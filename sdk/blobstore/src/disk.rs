//! The disk under a store.

use std::fmt;
use std::future::Future;

/// An I/O of the disk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError(
    /// The errno, positive.
    pub i32,
);

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk answered with errno {}", self.0)
    }
}

impl std::error::Error for DiskError {}

/// A disk. Offsets and lengths are bytes and multiples of [`block_size`](Self::block_size). A write that
/// is done may be lost by a power cut until a flush that began after it is done.
pub trait Disk {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// Block size in bytes.
    fn block_size(&self) -> u32;

    /// Whether writes need a flush to be kept.
    fn has_write_cache(&self) -> bool {
        true
    }

    /// Reads `len` bytes.
    fn read(&self, offset: u64, len: usize) -> impl Future<Output = Result<Vec<u8>, DiskError>>;

    /// Writes all of `data`.
    fn write(&self, offset: u64, data: Vec<u8>) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes a range read as zeros.
    fn write_zeroes(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Says that a range is not needed. What it reads as afterwards is not known.
    fn unmap(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Keeps all writes that are done.
    fn flush(&self) -> impl Future<Output = Result<(), DiskError>>;

    /// Reads from a disk outside of the store, which a volume has as its parent under `name`. Past the end
    /// it reads zeros.
    fn read_external(
        &self,
        name: &[u8],
        offset: u64,
        len: usize,
    ) -> impl Future<Output = Result<Vec<u8>, DiskError>>;
}
