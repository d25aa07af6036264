//! Memory regions by number: what the `region` of a `bay_iov` means.
//!
//! ```text
//! memory::alloc ──▶ add ─┐                        ┌─▶ table: number ─▶ address, length, IOVA   no call, any thread
//! import (an fd) ────────┴─▶ the table of regions ┼─▶ of: address ─▶ number                    a lock, control path
//!                                                 └─▶ watchers: added, removing                app thread
//! ```
//!
//! A region is live until it is removed. When an imported region is removed, the host tells every
//! watcher first, and unmaps the memory when all of them have released it. Only then is the number
//! free for another region, so the number in a request in flight never names other memory.
#![expect(unsafe_code, reason = "the table is read by plugins, and imported memory is mapped")]

use super::sigbus;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drivebay_plugin_api::{
    BAY_REGION_BROKEN, BAY_REGION_DMA, BAY_REGION_IMPORTED, BAY_REGION_LEAVING, BAY_REGION_LIVE,
    bay_region,
};

/// The maximum number of regions at the same time. Number 0 means no region.
pub const REGIONS_MAX: usize = 1 << 16;
/// The size of an ordinary page, in bytes.
const PAGE: u64 = 4096;
/// The maximum number of watchers at the same time.
const WATCHERS_MAX: usize = 64;

/// One region, with the layout of [`bay_region`].
#[derive(Debug)]
#[repr(C)]
struct Entry {
    addr: AtomicPtr<c_void>,
    len: AtomicU64,
    iova: AtomicU64,
    /// `BAY_REGION_*`. Written last when a region is added, and first when it is removed.
    state: AtomicU32,
    rsv: AtomicU32,
}

const _: () = assert!(size_of::<Entry>() == size_of::<bay_region>());
const _: () =
    assert!(std::mem::offset_of!(Entry, state) == std::mem::offset_of!(bay_region, state));

impl Entry {
    const fn none() -> Self {
        Self {
            addr: AtomicPtr::new(ptr::null_mut()),
            len: AtomicU64::new(0),
            iova: AtomicU64::new(0),
            state: AtomicU32::new(0),
            rsv: AtomicU32::new(0),
        }
    }

    fn contains(&self, addr: usize) -> bool {
        let base = self.addr.load(Ordering::Relaxed) as usize;
        let len = usize::try_from(self.len.load(Ordering::Relaxed)).unwrap_or(0);
        addr.checked_sub(base).is_some_and(|offset| offset < len)
    }
}

static TABLE: [Entry; REGIONS_MAX] = [const { Entry::none() }; REGIONS_MAX];

/// The state of the control path that is not in the table.
#[derive(Default)]
struct Book {
    /// One more than the largest number ever used; 0 before the first.
    used: u32,
    /// Numbers below `used` that are free again.
    free: Vec<u32>,
    /// The number of each region, by its first byte.
    by_addr: BTreeMap<usize, u32>,
    watchers: Vec<Watcher>,
    next_watcher: u64,
    /// The plugin that imported each region.
    owners: BTreeMap<u32, usize>,
    leaving: BTreeMap<u32, Removal>,
}

/// A plugin that keeps state for imported regions.
struct Watcher {
    id: u64,
    owner: usize,
    notify: Box<dyn Fn(Change) + Send>,
}

/// A change that the host reports to a watcher: a region was added or is being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The watcher's id, for [`is_watching`] and [`release`].
    pub watcher: u64,
    /// The region's number.
    pub region: u32,
    /// True when the region is being removed, false when it was added.
    pub is_removal: bool,
}

impl Watcher {
    fn notify(&self, region: u32, is_removal: bool) {
        (self.notify)(Change { watcher: self.id, region, is_removal });
    }
}

/// An imported region that is being removed.
struct Removal {
    /// The watchers that have not released it.
    watchers: Vec<u64>,
    done: Box<dyn FnOnce() + Send>,
}

static BOOK: Mutex<Book> = Mutex::new(Book {
    used: 0,
    free: Vec::new(),
    by_addr: BTreeMap::new(),
    watchers: Vec::new(),
    next_watcher: 0,
    owners: BTreeMap::new(),
    leaving: BTreeMap::new(),
});

fn book() -> MutexGuard<'static, Book> {
    BOOK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table that plugins read. Index `n` is the region with number `n`.
#[must_use]
pub fn table() -> *const bay_region {
    (&raw const TABLE).cast()
}

/// The number of the region that contains all `len` bytes at `addr`; `None` = plain memory.
/// `[any thread]`
#[must_use]
pub fn of(addr: usize, len: usize) -> Option<u32> {
    let book = book();
    let (_, &number) = book.by_addr.range(..=addr).next_back()?;
    let entry = entry(number)?;
    let last = addr.checked_add(len.checked_sub(1)?)?;
    (entry.contains(addr) && entry.contains(last)).then_some(number)
}

/// Address and length in bytes of a region of the host's own memory. `[any thread]`
pub(super) fn own(number: u32) -> Option<(usize, usize)> {
    let entry = entry(number)?;
    let state = entry.state.load(Ordering::Acquire);
    let is_own = state & BAY_REGION_LIVE != 0 && state & BAY_REGION_IMPORTED == 0;
    let len = usize::try_from(entry.len.load(Ordering::Relaxed)).ok()?;
    is_own.then(|| (entry.addr.load(Ordering::Relaxed) as usize, len))
}

/// The address of a region for devices; `None` while devices cannot access it. `[any thread]`
#[must_use]
pub fn iova(number: u32) -> Option<u64> {
    let entry = entry(number)?;
    let is_shared = entry.state.load(Ordering::Acquire) & BAY_REGION_DMA != 0;
    is_shared.then(|| entry.iova.load(Ordering::Relaxed))
}

/// Records the address of a region for devices; `None` = devices cannot access it. `[any thread]`
pub(super) fn set_iova(number: u32, iova: Option<u64>) {
    let Some(entry) = entry(number) else { return };
    match iova {
        Some(iova) => {
            entry.iova.store(iova, Ordering::Relaxed);
            entry.state.fetch_or(BAY_REGION_DMA, Ordering::Release);
        }
        None => {
            entry.state.fetch_and(!BAY_REGION_DMA, Ordering::Release);
        }
    }
}

/// Adds memory of the host's own: DMA memory. `[any thread]`
///
/// # Errors
/// `ENOMEM` when all numbers are in use.
pub(super) fn add(addr: NonNull<u8>, len: usize) -> Result<u32> {
    book().add(addr, len, 0)
}

/// Removes a region that [`add`] added, named by its first byte. Returns its length in bytes.
/// `[any thread]`
pub(super) fn take(addr: usize) -> Option<usize> {
    let mut book = book();
    let number = *book.by_addr.get(&addr)?;
    let is_own = entry(number)?.state.load(Ordering::Relaxed) & BAY_REGION_IMPORTED == 0;
    if is_own { book.drop_number(number) } else { None }
}

/// Maps `len` bytes of a shared file, such as a guest's memory, and adds them as a region.
/// `[app thread]`
///
/// The file may end within the last page that is mapped. The mapping stays valid when the file is
/// truncated later. Then the bytes that the file no longer has read as zeroes, and the region is
/// marked `BAY_REGION_BROKEN`.
///
/// # Errors
/// `EINVAL` when the file does not have these bytes or they are not whole pages; `EACCES` when the
/// host may not read and write the file; `ENOMEM` when there is no address space or no free number.
pub fn import(owner: usize, fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u32> {
    let file = File::from(fd.try_clone_to_owned()?);
    let metadata = file.metadata()?;
    let page = page_len(&file)?;
    let refuse = |why: String| Error::new(libc::EINVAL, format!("memory region: {why}"));
    let size = metadata.size();
    // The last page may hold only the end of the file. Stores behind that end are lost.
    let mapped_size = size.checked_next_multiple_of(page).unwrap_or(size);
    if offset.checked_add(len).is_none_or(|end| end > mapped_size) {
        return Err(refuse(format!(
            "{len} bytes at {offset} are not all in the file of {size} bytes"
        )));
    }
    if len == 0 || !offset.is_multiple_of(page) || !len.is_multiple_of(page) {
        return Err(refuse(format!("{len} bytes at {offset} are not whole pages of {page} bytes")));
    }
    let too_large = |_| refuse(format!("{len} bytes are too many for this machine's addresses"));
    let len = usize::try_from(len).map_err(too_large)?;
    let offset =
        libc::off_t::try_from(offset).map_err(|_| refuse("the offset is too large".into()))?;
    sigbus::install()?;
    // SAFETY: this is a new mapping at an address that the kernel chooses, and the file is open.
    let addr = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if addr == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    let addr =
        NonNull::new(addr.cast::<u8>()).ok_or_else(|| Error::new(libc::ENOMEM, "mapped at 0"))?;
    // SAFETY: this is the mapping just made. A core dump of the host must not contain a guest's
    // memory.
    unsafe { libc::madvise(addr.as_ptr().cast(), len, libc::MADV_DONTDUMP) };
    let mut book = book();
    let number = book.add(addr, len, BAY_REGION_IMPORTED).inspect_err(|_| {
        // SAFETY: this is the mapping just made; nobody else knows it.
        unsafe { libc::munmap(addr.as_ptr().cast(), len) };
    })?;
    book.owners.insert(number, owner);
    for watcher in &book.watchers {
        watcher.notify(number, false);
    }
    Ok(number)
}

/// The size of a page of the file, in bytes; in hugetlbfs the size of a hugepage.
fn page_len(file: &File) -> Result<u64> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the file is open, and the result is valid for the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the call succeeded and filled the result.
    let stat = unsafe { stat.assume_init() };
    let is_huge = stat.f_type == libc::HUGETLBFS_MAGIC;
    Ok(if is_huge { u64::try_from(stat.f_bsize).unwrap_or(PAGE) } else { PAGE })
}

/// Removes an imported region. The host tells the watchers and unmaps the region when all of them
/// have released it. Then it calls `done`, on the thread of the last release. `[app thread]`
///
/// # Errors
/// `ENOENT` when there is no such imported region; `EBUSY` when it is already being removed.
pub fn remove(number: u32, done: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut book = book();
    let entry = imported(number)?;
    if book.leaving.contains_key(&number) {
        return Err(Error::new(libc::EBUSY, format!("memory region {number} is being removed")));
    }
    entry.state.fetch_or(BAY_REGION_LEAVING, Ordering::Release);
    let watchers = book.watchers.iter().map(|watcher| watcher.id).collect();
    book.leaving.insert(number, Removal { watchers, done: Box::new(done) });
    for watcher in &book.watchers {
        watcher.notify(number, true);
    }
    finish(book, number);
    Ok(())
}

/// A watcher has released a region that is being removed. `[any thread]`
///
/// # Errors
/// `ENOENT` when the region is not being removed, or when the watcher has already released it.
pub fn release(number: u32, watcher: u64) -> Result<()> {
    let mut book = book();
    let missing = || {
        Error::new(
            libc::ENOENT,
            format!("memory region {number} is not being removed, or was already released"),
        )
    };
    let leaving = book.leaving.get_mut(&number).ok_or_else(missing)?;
    let place = leaving.watchers.iter().position(|&id| id == watcher).ok_or_else(missing)?;
    leaving.watchers.swap_remove(place);
    finish(book, number);
    Ok(())
}

/// Watches imported regions. The watcher is first told about the regions that already exist. `notify`
/// runs on the thread of the change while the book is locked, so it may only send a message. The
/// receiver must check [`is_watching`] first. `[app thread]`
///
/// # Errors
/// `ENOSPC` when there are too many watchers.
pub fn watch(owner: usize, notify: impl Fn(Change) + Send + 'static) -> Result<u64> {
    let mut book = book();
    if book.watchers.len() == WATCHERS_MAX {
        return Err(Error::new(libc::ENOSPC, "too many plugins watch memory regions: at most 64"));
    }
    book.next_watcher += 1;
    let watcher = Watcher { id: book.next_watcher, owner, notify: Box::new(notify) };
    for number in 1..book.used {
        if imported(number).is_ok() && !book.leaving.contains_key(&number) {
            watcher.notify(number, false);
        }
    }
    let id = watcher.id;
    book.watchers.push(watcher);
    Ok(id)
}

/// Whether the watcher is still registered. `[app thread]`
#[must_use]
pub fn is_watching(watcher: u64) -> bool {
    book().watchers.iter().any(|other| other.id == watcher)
}

/// Ends the watches of a plugin, then removes the regions that it imported. `[app thread]`
pub(crate) fn release_owner(owner: usize) {
    let all = book();
    let of_owner = |watcher: &&Watcher| watcher.owner == owner;
    let watchers: Vec<u64> = all.watchers.iter().filter(of_owner).map(|w| w.id).collect();
    let regions: Vec<u32> =
        all.owners.iter().filter(|&(_, &of)| of == owner).map(|(&number, _)| number).collect();
    drop(all);
    for watcher in watchers {
        let _ = unwatch(watcher); // only this thread ends watches, so it is still there
    }
    for region in regions {
        let _ = remove(region, || {}); // an error means that the region is already being removed
    }
}

/// Ends a watch, which releases all regions that the watcher holds. `[app thread]`
///
/// # Errors
/// `ENOENT` when there is no such watcher.
pub fn unwatch(watcher: u64) -> Result<()> {
    let mut unlocked = book();
    let place = unlocked.watchers.iter().position(|other| other.id == watcher);
    let place =
        place.ok_or_else(|| Error::new(libc::ENOENT, "no such watcher of memory regions"))?;
    drop(unlocked.watchers.swap_remove(place));
    let numbers: Vec<u32> = unlocked.leaving.keys().copied().collect();
    drop(unlocked);
    for number in numbers {
        let _ = release(number, watcher); // it may have released this one already
    }
    Ok(())
}

/// Marks the imported region that contains `addr` as broken; returns its address and length. Called
/// by the SIGBUS handler; async-signal-safe.
pub(super) fn broken(addr: usize) -> Option<(*mut c_void, usize)> {
    let entry = TABLE.iter().find(|entry| {
        entry.state.load(Ordering::Acquire) & BAY_REGION_IMPORTED != 0 && entry.contains(addr)
    })?;
    entry.state.fetch_or(BAY_REGION_BROKEN, Ordering::Release);
    let len = usize::try_from(entry.len.load(Ordering::Relaxed)).ok()?;
    Some((entry.addr.load(Ordering::Relaxed), len))
}

fn entry(number: u32) -> Option<&'static Entry> {
    TABLE.get(usize::try_from(number).ok()?).filter(|_| number != 0)
}

fn imported(number: u32) -> Result<&'static Entry> {
    entry(number)
        .filter(|entry| entry.state.load(Ordering::Acquire) & BAY_REGION_IMPORTED != 0)
        .ok_or_else(|| Error::new(libc::ENOENT, format!("no imported memory region {number}")))
}

/// Unmaps a region that is being removed, if no watcher holds it any more.
fn finish(mut book: MutexGuard<'_, Book>, number: u32) {
    if book.leaving.get(&number).is_none_or(|leaving| !leaving.watchers.is_empty()) {
        return;
    }
    let Some(leaving) = book.leaving.remove(&number) else { return };
    let Some(entry) = entry(number) else { return };
    let addr = entry.addr.load(Ordering::Relaxed);
    if let Some(len) = book.drop_number(number) {
        // SAFETY: `import` made the mapping, the table does not contain it any more, and every
        // watcher has released it.
        unsafe { libc::munmap(addr, len) };
    }
    drop(book);
    (leaving.done)();
}

impl Book {
    fn add(&mut self, addr: NonNull<u8>, len: usize, flags: u32) -> Result<u32> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                let number = self.used.max(1);
                self.used = number + 1;
                number
            }
        };
        let Some(entry) = entry(number) else {
            self.used = number;
            return Err(Error::new(
                libc::ENOMEM,
                format!("there are already {REGIONS_MAX} memory regions, which is the limit"),
            ));
        };
        entry.addr.store(addr.as_ptr().cast(), Ordering::Relaxed);
        entry.len.store(len as u64, Ordering::Relaxed);
        entry.iova.store(0, Ordering::Relaxed);
        entry.state.store(BAY_REGION_LIVE | flags, Ordering::Release);
        self.by_addr.insert(addr.as_ptr() as usize, number);
        Ok(number)
    }

    /// Removes a region from the table. Returns its length in bytes.
    fn drop_number(&mut self, number: u32) -> Option<usize> {
        let entry = entry(number)?;
        entry.state.store(0, Ordering::Release);
        self.by_addr.remove(&(entry.addr.load(Ordering::Relaxed) as usize));
        self.owners.remove(&number);
        self.free.push(number);
        usize::try_from(entry.len.load(Ordering::Relaxed)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory::tests::of_mapping;
    use std::os::fd::AsFd;
    use std::sync::mpsc;

    const LEN: u64 = 1 << 16;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN).unwrap();
        file
    }

    fn state(number: u32) -> u32 {
        entry(number).unwrap().state.load(Ordering::Relaxed)
    }

    fn first_byte(number: u32) -> *mut u8 {
        entry(number).unwrap().addr.load(Ordering::Relaxed).cast()
    }

    #[test]
    fn an_imported_region_is_found_by_any_of_its_bytes_until_it_is_removed() {
        let number = import(1, file().as_fd(), 0, LEN).unwrap();
        let base = first_byte(number) as usize;
        assert_eq!(of(base + 100, 4096), Some(number));
        assert_eq!(of(base + 100, usize::try_from(LEN).unwrap()), None);
        let (sent, gone) = mpsc::channel();
        remove(number, move || sent.send(()).unwrap()).unwrap();
        gone.try_recv().unwrap();
        assert_eq!(of(base + 100, 1), None);
        assert_eq!(remove(number, || {}).unwrap_err().errno(), libc::ENOENT);
    }

    #[test]
    fn core_dumps_leave_imported_memory_out() {
        let number = import(1, file().as_fd(), 0, LEN).unwrap();
        let flags = of_mapping(first_byte(number), "VmFlags:");
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
        remove(number, || {}).unwrap();
    }

    #[test]
    fn a_region_stays_until_every_watcher_has_released_it() {
        let (sender, removing) = mpsc::channel();
        let watcher = watch(2, move |change| sender.send(change).unwrap()).unwrap();
        let number = import(1, file().as_fd(), 0, LEN).unwrap();
        let (sent, gone) = mpsc::channel();
        remove(number, move || sent.send(()).unwrap()).unwrap();
        let goes = Change { watcher, region: number, is_removal: true };
        assert!(removing.try_iter().any(|change| change == goes));
        assert!(gone.try_recv().is_err());
        assert_eq!(remove(number, || {}).unwrap_err().errno(), libc::EBUSY);
        release(number, watcher).unwrap();
        gone.try_recv().unwrap();
        unwatch(watcher).unwrap();
    }

    #[test]
    fn a_plugin_that_ends_leaves_no_region_and_holds_none_of_others() {
        let kept = watch(3, |_| {}).unwrap();
        let number = import(4, file().as_fd(), 0, LEN).unwrap();
        release_owner(4);
        assert_eq!(state(number) & BAY_REGION_LEAVING, BAY_REGION_LEAVING);
        release_owner(3);
        assert!(!is_watching(kept));
        assert_eq!(release(number, kept).unwrap_err().errno(), libc::ENOENT);
    }

    #[test]
    fn memory_that_vanishes_reads_as_zeroes_and_is_marked() {
        let file = file();
        let number = import(1, file.as_fd(), 0, LEN).unwrap();
        let byte = first_byte(number);
        // SAFETY: the region is mapped, and only this test uses it.
        unsafe { byte.write_volatile(7) };
        file.set_len(0).unwrap();
        // SAFETY: the region is mapped; the signal handler gives it other pages.
        assert_eq!(unsafe { byte.read_volatile() }, 0);
        assert_ne!(state(number) & BAY_REGION_BROKEN, 0);
        remove(number, || {}).unwrap();
    }

    #[test]
    fn bytes_that_a_file_does_not_have_are_refused() {
        let file = file();
        for (offset, len) in [(0, LEN + 4096), (4096, LEN), (0, 0), (100, 4096), (u64::MAX, 2)] {
            let error = import(1, file.as_fd(), offset, len).unwrap_err();
            assert_eq!(error.errno(), libc::EINVAL, "{offset} {len}: {error}");
        }
    }

    #[test]
    fn a_file_may_end_within_its_last_page() {
        let file = file();
        file.set_len(LEN + 100).unwrap();
        let number = import(1, file.as_fd(), 0, LEN + 4096).unwrap();
        remove(number, || {}).unwrap();
        let error = import(1, file.as_fd(), 0, LEN + 2 * 4096).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL, "{error}");
    }
}
