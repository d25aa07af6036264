//! The disk under a store.

use std::fmt;
use std::future::Future;

/// A failed I/O of the disk.
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

/// A disk. Offsets and lengths are in bytes and multiples of [`block_size`](Self::block_size). A power cut may
/// undo a completed write, unless a flush that started after the completion has completed as well.
pub trait Disk {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// Block size in bytes.
    fn block_size(&self) -> u32;

    /// Whether completed writes need a flush to become durable.
    fn has_write_cache(&self) -> bool {
        true
    }

    /// Reads `len` bytes.
    fn read(&self, offset: u64, len: usize) -> impl Future<Output = Result<Vec<u8>, DiskError>>;

    /// Writes all of `data`.
    fn write(&self, offset: u64, data: Vec<u8>) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes a range read as zeros.
    fn write_zeroes(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Unmaps a range. Its contents are undefined afterwards.
    fn unmap(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes all completed writes durable.
    fn flush(&self) -> impl Future<Output = Result<(), DiskError>>;

    /// Reads from the disk `name` outside of the store, which is a volume's parent. Past the end of that disk
    /// it returns zeros.
    fn read_external(
        &self,
        name: &[u8],
        offset: u64,
        len: usize,
    ) -> impl Future<Output = Result<Vec<u8>, DiskError>>;
}
