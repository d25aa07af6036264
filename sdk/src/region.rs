//! Memory regions: shared memory of others that I/O may use, such as a guest's.
//!
//! A [`Region`] maps a file that another process shares. The host finds it by number in the lists of I/O, watchers
//! keep what depends on it, and its memory stays mapped until all of them have released it.
#![expect(unsafe_code, reason = "calls the host's memory interface and reads its table of regions")]

use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::{self, host};
use drivebay_plugin_api::{self as api, bay_mem_api, bay_region};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Shared memory that the host has mapped for this plugin. Dropping it removes the region: the memory is unmapped when
/// every watcher has released it, so by then no I/O of the plugin may use it.
#[derive(Debug)]
pub struct Region {
    number: u32,
    addr: NonNull<u8>,
    len: u64,
}

// SAFETY: a number and an address; the memory is shared with another process anyway, so no reference to it exists.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes at `offset` of a shared file, both in whole pages. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when the file does not have these bytes, `ENOSYS` when the host is older than this interface.
    pub fn import(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self> {
        let (host, table) = (host(), table()?);
        let import = table.region_import.ok_or_else(too_old)?;
        let mut number = 0;
        // SAFETY: the descriptor is open and the result lives through the call.
        let status = unsafe { import(host.raw, fd.as_raw_fd(), offset, len, &raw mut number) };
        check(status, format_args!("memory region of {len} bytes at {offset}"))?;
        let addr = entry(number)?.addr;
        let addr =
            NonNull::new(addr.cast()).ok_or_else(|| Error::new(errno::EFAULT, "no address"))?;
        Ok(Self { number, addr, len })
    }

    /// The number that lists of I/O carry. `[any thread]`
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// First byte. The memory is another process's too: copy, and never make a reference. `[any thread]`
    #[must_use]
    pub fn addr(&self) -> NonNull<u8> {
        self.addr
    }

    /// Length, in bytes. `[any thread]`
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Whether the owner took pages away: then it reads as zeroes, and what is written is lost. `[any thread]`
    #[must_use]
    pub fn is_broken(&self) -> bool {
        entry(self.number).is_ok_and(|entry| entry.state & api::BAY_REGION_BROKEN != 0)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let Ok(Some(remove)) = table().map(|table| table.region_remove) else { return };
        // SAFETY: the region is ours; nobody waits for the end.
        let status =
            unsafe { remove(host().raw, self.number, Some(removed), std::ptr::null_mut()) };
        if status != 0 {
            tracing::error!("memory region {} was not removed: status {status}", self.number);
        }
    }
}

unsafe extern "C" fn removed(_arg: *mut c_void, _status: i32) {
    enter((), || {});
}

/// The region that holds all of `len` bytes at `addr`; 0 = plain memory. Takes a lock: not for the data path.
/// `[any thread]`
#[must_use]
pub fn region_of(addr: *const u8, len: u64) -> u32 {
    let Ok(Some(find)) = table().map(|table| table.region_of) else { return 0 };
    // SAFETY: the host only compares the address.
    unsafe { find(host().raw, addr.cast(), len) }
}

/// NUMA nodes of the machine, at least 1. `[any thread]`
#[must_use]
pub fn numa_nodes() -> u32 {
    table().map_or(1, |table| table.numa_nodes.max(1))
}

fn too_old() -> Error {
    Error::new(errno::ENOSYS, "the host has no memory regions; it is older than this plugin needs")
}

/// The host's memory interface with the part that older hosts lack.
fn table() -> Result<&'static bay_mem_api> {
    static TABLE: OnceLock<Option<bay_mem_api>> = OnceLock::new();
    TABLE.get_or_init(|| host::mem_table(host())).as_ref().ok_or_else(too_old)
}

/// A copy of a region's entry.
pub(crate) fn entry(number: u32) -> Result<bay_region> {
    let table = table()?;
    if table.regions.is_null() || number >= table.nregions {
        return Err(too_old());
    }
    // SAFETY: the number is within the table, which lives as long as the host.
    let entry = unsafe { table.regions.add(number as usize) };
    // SAFETY: as above. The host writes an entry before it gives out its number; state and IOVA alone change later,
    // so it is read as one word.
    Ok(unsafe { entry.read_volatile() })
}
