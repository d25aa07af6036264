//! Memory regions: shared memory of other processes, such as a guest's, that I/O may use.
//!
//! A [`Region`] maps a file that another process shares. I/O lists refer to it by its number. Watchers learn when
//! it is removed, and its memory stays mapped until all watchers have released it.
#![expect(unsafe_code, reason = "calls the host's memory interface and reads its table of regions")]

use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::{self, host};
use drivebay_plugin_api::{self as api, bay_mem_api, bay_region};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Shared memory that the host has mapped for this plugin. Dropping it removes the region: the host unmaps the memory
/// when every watcher has released it. No I/O of the plugin may use the region any more when it is dropped.
#[derive(Debug)]
pub struct Region {
    number: u32,
    addr: NonNull<u8>,
    len: u64,
}

// SAFETY: only a number and an address. Another process shares the memory anyway, so the code creates no reference to it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes at `offset` of a shared file. Both must be multiples of the page size. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when the file does not have these bytes, `ENOSYS` when the host is too old for this interface.
    pub fn import(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self> {
        let (host, table) = (host(), table()?);
        let import = table.region_import.ok_or_else(too_old)?;
        let mut number = 0;
        // SAFETY: the descriptor is open, and the result outlives the call.
        let status = unsafe { import(host.raw, fd.as_raw_fd(), offset, len, &raw mut number) };
        check(status, format_args!("memory region of {len} bytes at {offset}"))?;
        let addr = entry(number)?.addr;
        let addr =
            NonNull::new(addr.cast()).ok_or_else(|| Error::new(errno::EFAULT, "no address"))?;
        Ok(Self { number, addr, len })
    }

    /// The region's number, for I/O lists. `[any thread]`
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// First byte. Another process may change the memory at any time: copy it, never create a reference to it.
    /// `[any thread]`
    #[must_use]
    pub fn addr(&self) -> NonNull<u8> {
        self.addr
    }

    /// Length, in bytes. `[any thread]`
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Whether the owner took pages away. Then reads return zeroes and written data is lost. `[any thread]`
    #[must_use]
    pub fn is_broken(&self) -> bool {
        entry(self.number).is_ok_and(|entry| entry.state & api::BAY_REGION_BROKEN != 0)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let Ok(Some(remove)) = table().map(|table| table.region_remove) else { return };
        // SAFETY: `self` owns the region; no callback is given.
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

/// Returns the region that contains all `len` bytes at `addr`; 0 = plain memory. Takes a lock: do not call it on the
/// data path. `[any thread]`
#[must_use]
pub fn region_of(addr: *const u8, len: u64) -> u32 {
    let Ok(Some(find)) = table().map(|table| table.region_of) else { return 0 };
    // SAFETY: the host only compares the address.
    unsafe { find(host().raw, addr.cast(), len) }
}

/// Number of NUMA nodes of the machine, at least 1. `[any thread]`
#[must_use]
pub fn numa_nodes() -> u32 {
    table().map_or(1, |table| table.numa_nodes.max(1))
}

fn too_old() -> Error {
    Error::new(errno::ENOSYS, "the host has no memory regions; it is older than this plugin needs")
}

/// The host's memory interface, if it has the functions for regions.
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
