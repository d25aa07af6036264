//! Memory that devices can reach.
//!
//! An allocation comes from hugepages when some are free and it is large enough to use at least
//! half of one. Otherwise it comes from ordinary shared pages, so the machine needs no setup before
//! the host starts. Each allocation is one mapping and one region. Region 0 means plain memory that
//! the host does not know.
#![expect(unsafe_code, reason = "mapping memory is a system call over raw addresses")]

use super::{numa, pci, region};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

const PAGE: usize = 4096;
/// Whether any allocation uses hugepages.
static HAS_HUGE: AtomicBool = AtomicBool::new(false);
/// The sizes of hugepages to try, largest first, in bytes.
const HUGE_SIZES: [usize; 2] = [1 << 30, 2 << 20];

/// Where allocations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Hugepages of this many bytes.
    Huge(usize),
    /// Ordinary shared pages.
    Pages,
}

/// How the host gets memory. Set once, before the first allocation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Never use hugepages.
    pub no_huge: bool,
    /// The upper limit of all allocations together, in bytes; 0 = none.
    pub limit: u64,
    /// What happens when all allocations together exceed the machine's memory.
    pub overcommit: Overcommit,
}

/// What happens to an allocation when all allocations together exceed the memory of the machine or
/// of the control group. Pages cost nothing before they are used, so the memory that is free now
/// does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overcommit {
    /// The host refuses the allocation.
    #[default]
    Refuse,
    /// The host makes the allocation and logs a warning.
    Warn,
    /// The host makes the allocation.
    Allow,
}

#[derive(Debug, Default)]
struct State {
    options: Options,
    used: u64,
}

fn state() -> &'static Mutex<State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(Mutex::default)
}

/// Sets the options. Returns a text for the log that names the kind of pages for later allocations.
pub fn configure(options: Options) -> Source {
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    state.options = options;
    HUGE_SIZES
        .into_iter()
        .find(|&size| !options.no_huge && free_hugepages(size) > 0)
        .map_or(Source::Pages, Source::Huge)
}

/// Changes what happens beyond the machine's memory, unless the operator chose
/// [`Overcommit::Allow`].
pub fn set_overcommit(overcommit: Overcommit) {
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    if state.options.overcommit != Overcommit::Allow {
        state.options.overcommit = overcommit;
    }
}

/// The maximum number of bytes of memory that this process may use: the machine's memory, or the limit of the
/// process's control group or of a group above that.
fn machine() -> u64 {
    static MACHINE: OnceLock<u64> = OnceLock::new();
    *MACHINE.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|total| total.trim().strip_suffix("kB")?.trim().parse().ok());
        let total = total.map_or(u64::MAX, |kib: u64| kib << 10);
        cgroups().filter_map(|group| limit_in(&group, "memory.max")).fold(total, u64::min)
    })
}

/// The folders of this process's control group and of all groups above it (cgroup v2).
fn cgroups() -> impl Iterator<Item = PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
    let own = own.map(|own| Path::new("/sys/fs/cgroup").join(own));
    let all: Vec<PathBuf> = own.iter().flat_map(|own| own.ancestors()).map(PathBuf::from).collect();
    all.into_iter().take_while(|folder| folder.starts_with("/sys/fs/cgroup"))
}

/// Reads a limit in bytes; `None` when there is no limit ("max").
fn limit_in(group: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
}

fn free_hugepages(size: usize) -> u64 {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", size / 1024);
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The number of bytes that are allocated now.
pub fn used() -> u64 {
    state().lock().unwrap_or_else(PoisonError::into_inner).used
}

/// Allocates zeroed shared memory of at least `len` bytes, aligned to `align` (a power of two up to
/// 1 GiB). Returns its first byte and its region.
///
/// # Errors
/// `EINVAL` for a bad size or alignment; `ENOMEM` when there is no memory or a limit is reached.
pub fn alloc(len: usize, align: usize) -> Result<(NonNull<u8>, u32)> {
    alloc_on(len, align, -1)
}

/// As [`alloc`], on a NUMA node; -1 = any node.
///
/// # Errors
/// As [`alloc`]; `EINVAL` also for a node that the machine does not have.
pub fn alloc_on(len: usize, align: usize, numa: i32) -> Result<(NonNull<u8>, u32)> {
    let node = numa::check(numa)?;
    if len == 0 || !align.is_power_of_two() || align > 1 << 30 {
        return Err(Error::new(
            libc::EINVAL,
            "DMA memory: length 0, or an alignment that is not a power of two up to 1 GiB",
        ));
    }
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    let limit = state.options.limit;
    if limit != 0 && state.used.saturating_add(len as u64) > limit {
        return Err(Error::new(
            libc::ENOMEM,
            format!(
                "DMA memory: {len} more bytes exceed the limit of {limit}; {} are in use (see --mem-size)",
                state.used
            ),
        ));
    }
    let (sum, machine) = (state.used.saturating_add(len as u64), machine());
    if sum > machine && state.options.overcommit != Overcommit::Allow {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let message = format!(
            "DMA memory: with {} MiB more, the total would be {} MiB; the machine or control group has {} MiB",
            mib(len as u64),
            mib(sum),
            mib(machine)
        );
        if state.options.overcommit == Overcommit::Refuse {
            return Err(Error::new(libc::ENOMEM, format!("{message} (see --overcommit)")));
        }
        tracing::warn!("{message}: the host may be killed when all of it is used");
    }
    // The kernel reserves hugepages on any node. On a certain node a page may be missing at its
    // first use, and that would kill the process. So an allocation on a certain node uses ordinary
    // pages.
    let no_huge = state.options.no_huge || node.is_some();
    let free = |size| if no_huge { 0 } else { free_hugepages(size) };
    let (base, mapped) = map(len, align, free)?;
    let bound = node.map_or(Ok(()), |node| numa::bind(base, mapped, node));
    let added = bound.and_then(|()| region::add(base, mapped));
    let number = added.inspect_err(|_| {
        // SAFETY: this is the mapping that was just made; nobody else knows it.
        unsafe { libc::munmap(base.as_ptr().cast(), mapped) };
    })?;
    state.used += mapped as u64;
    Ok((base, number))
}

/// Frees an allocation, named by its first byte. Unknown addresses are ignored.
pub fn free(addr: *mut u8) {
    let begins = |number: &u32| region::own(*number).is_some_and(|(base, _)| base == addr as usize);
    if let Some(number) = region::of(addr as usize, 1).filter(begins) {
        // Unmap the memory from devices first: after the free, the system may give its pages to another
        // process.
        pci::ledger::unshare(number);
    }
    let mut state = state().lock().unwrap_or_else(PoisonError::into_inner);
    let Some(len) = region::take(addr as usize) else { return };
    state.used -= len as u64;
    // SAFETY: `map` made the mapping with this base and length, the table does not contain it any
    // more, and its owner does not use it any more.
    unsafe { libc::munmap(addr.cast(), len) };
}

/// Makes part of an allocation read as zeroes. Whole pages go back to the system, with two exceptions:
/// hugepages, because a page that was returned may be gone when it is needed again, and pages that devices
/// reach, because the devices would keep the old pages.
///
/// # Safety
/// `len` bytes at `addr` belong to an allocation of the caller's.
pub unsafe fn zero(addr: NonNull<u8>, len: usize) {
    let give_back = || {
        // SAFETY: the caller guarantees this, and there are only ordinary pages when this runs.
        unsafe { zero_pages(addr, len) };
    };
    let number = || region::of(addr.as_ptr() as usize, len);
    if HAS_HUGE.load(Ordering::Relaxed) || !pci::ledger::unless_mapped(number(), give_back) {
        // SAFETY: the bytes belong to the caller.
        unsafe { addr.as_ptr().write_bytes(0, len) };
    }
}

/// As [`zero`], for ordinary pages: whole pages go back to the system.
///
/// # Safety
/// As for [`zero`], and none of the pages is a hugepage.
unsafe fn zero_pages(addr: NonNull<u8>, len: usize) {
    let head = addr.align_offset(PAGE).min(len);
    let pages = (len - head) / PAGE * PAGE;
    // SAFETY: `head` is at most `len`, so the result is within the caller's bytes or at their end.
    let first_page = unsafe { addr.add(head) };
    let is_given_back = pages > 0 && {
        // SAFETY: these are whole pages of the caller's shared mapping; they stay mapped and read
        // as zeroes.
        let result = unsafe { libc::madvise(first_page.as_ptr().cast(), pages, libc::MADV_REMOVE) };
        result == 0
    };
    if !is_given_back {
        // SAFETY: the bytes belong to the caller.
        return unsafe { addr.as_ptr().write_bytes(0, len) };
    }
    // SAFETY: these are the caller's bytes before the first whole page.
    unsafe { addr.as_ptr().write_bytes(0, head) };
    // SAFETY: `head + pages` is at most `len`.
    let tail = unsafe { first_page.add(pages) };
    // SAFETY: these are the caller's bytes after the last whole page.
    unsafe { tail.as_ptr().write_bytes(0, len - head - pages) };
}

/// Maps `len` bytes. Returns the first byte and the length of the mapping. `free_hugepages` returns
/// the number of free hugepages of a size.
fn map(
    len: usize,
    align: usize,
    free_hugepages: impl Fn(usize) -> u64,
) -> Result<(NonNull<u8>, usize)> {
    for size in HUGE_SIZES {
        // A hugepage is taken only when at least half of it is used.
        if len >= size / 2 && align <= size && free_hugepages(size) > 0 {
            let rounded = len.next_multiple_of(size);
            let shift = i32::try_from(size.trailing_zeros()).unwrap_or(21);
            let huge = libc::MAP_HUGETLB | (shift << libc::MAP_HUGE_SHIFT);
            if let Ok(base) = map_shared(rounded, huge)
                && is_backed(base, rounded, size)
            {
                HAS_HUGE.store(true, Ordering::Relaxed);
                return Ok((base, rounded));
            }
        }
    }
    let rounded = len.next_multiple_of(PAGE);
    if align <= PAGE {
        return Ok((map_shared(rounded, 0)?, rounded));
    }
    map_aligned(rounded, align)
}

/// Whether every page of a new mapping of hugepages will exist when it is used. The mapping has
/// reserved the pages, but a control group may still refuse one, which would kill the process. If a
/// control group has a limit, the host therefore takes all pages now. When it cannot, it undoes the
/// mapping.
fn is_backed(base: NonNull<u8>, len: usize, page: usize) -> bool {
    let file = format!("hugetlb.{}.max", if page >= 1 << 30 { "1GB" } else { "2MB" });
    if !cgroups().any(|group| limit_in(&group, &file).is_some()) {
        return true;
    }
    // SAFETY: the mapping is new, has this length, and nobody else uses it.
    let status = unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
    if status != 0 {
        // SAFETY: as above.
        unsafe { libc::munmap(base.as_ptr().cast(), len) };
    }
    status == 0
}

/// Maps more than needed and unmaps both ends.
fn map_aligned(len: usize, align: usize) -> Result<(NonNull<u8>, usize)> {
    let whole = map_shared(len + align, 0)?;
    let skip = whole.as_ptr().align_offset(align);
    if skip > 0 {
        // SAFETY: the first `skip` bytes belong to the mapping just made, and nobody uses them.
        unsafe { libc::munmap(whole.as_ptr().cast(), skip) };
    }
    // SAFETY: `skip <= align`, so the result lies inside the mapping.
    let base = unsafe { whole.add(skip) };
    // SAFETY: `skip + len <= len + align`, so this is the end of the part that is kept.
    let end = unsafe { base.add(len) };
    let rest = align - skip;
    if rest > 0 {
        // SAFETY: the last `rest` bytes belong to the mapping just made, and nobody uses them.
        unsafe { libc::munmap(end.as_ptr().cast(), rest) };
    }
    Ok((base, len))
}

/// Makes a mapping that core dumps leave out. Hugepages are reserved: if too few are free, the
/// mapping fails, and a later use cannot fail. Ordinary pages are not reserved.
fn map_shared(len: usize, flags: i32) -> Result<NonNull<u8>> {
    let reserve = if flags & libc::MAP_HUGETLB == 0 { libc::MAP_NORESERVE } else { 0 };
    // SAFETY: this is a new anonymous mapping at an address that the kernel chooses.
    let addr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | reserve | flags,
            -1,
            0,
        )
    };
    if addr == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        return Err(Error::new(
            libc::ENOMEM,
            format!("DMA memory: cannot map {len} bytes: {error}"),
        ));
    }
    // SAFETY: the mapping was just made with this length. If the call fails, core dumps contain the
    // memory.
    unsafe { libc::madvise(addr, len, libc::MADV_DONTDUMP) };
    NonNull::new(addr.cast()).ok_or_else(|| Error::new(libc::ENOMEM, "DMA memory: mapped at 0"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_gone_after_free() {
        for (len, align) in [(1, 1), (5000, 4096), (3 << 20, 2 << 20), (100, 1 << 21)] {
            let (base, region) = alloc(len, align).unwrap();
            assert_eq!(base.as_ptr() as usize % align, 0);
            assert_ne!(region, 0);
            // SAFETY: the allocation is `len` bytes long, and only this test uses it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) };
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(0xa5);
            free(base.as_ptr());
        }
    }

    /// The value of one line of `/proc/self/smaps` for the mapping at `addr`.
    pub(in crate::env) fn of_mapping(addr: *const u8, name: &str) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begin = format!("{:x}-", addr as usize);
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begin));
        lines.find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    }

    #[test]
    fn core_dumps_leave_it_out() {
        for align in [1, 2 << 20] {
            let (base, _) = alloc(8 << 20, align).unwrap();
            let flags = of_mapping(base.as_ptr(), "VmFlags:");
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            free(base.as_ptr());
        }
    }

    #[test]
    fn hugepages_that_are_counted_and_not_there_are_made_up_for_by_ordinary_pages() {
        // Claim more free hugepages than the machine has, as if another host had taken some after the count.
        let len = 64 << 20;
        let (base, mapped) = map(len, 1, |size| if size == 2 << 20 { 8 } else { 0 }).unwrap();
        assert_eq!(mapped, len);
        // SAFETY: the mapping is `len` bytes long, and only this test uses it. A missing page would
        // end the process here.
        unsafe { base.as_ptr().write_bytes(1, len) };
        unmap(base, len);
    }

    fn unmap(base: NonNull<u8>, len: usize) {
        // SAFETY: the test that made the mapping does not use it any more.
        unsafe { libc::munmap(base.as_ptr().cast(), len) };
    }

    #[test]
    fn zeroing_changes_its_own_bytes_alone() {
        let (len, from, to) = (7 * PAGE, PAGE + 100, 6 * PAGE - 7);
        let (base, _) = map(len, 1, |_| 0).unwrap();
        // SAFETY: the mapping is `len` bytes long, and only this test uses it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) };
        bytes.fill(0xa5);
        // SAFETY: `from` is within the mapping.
        let first = unsafe { base.add(from) };
        // SAFETY: as above; no device has the memory mapped.
        unsafe { zero_pages(first, to - from) };
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(*byte == 0, (from..to).contains(&at), "{at}");
        }
        unmap(base, len);
    }

    #[test]
    fn zeroing_gives_pages_back_and_takes_none_for_memory_that_was_never_used() {
        let len = 8 << 20;
        let (base, _) = map(len, 1, |_| 0).unwrap();
        // SAFETY: this is the whole mapping; no device has it mapped.
        unsafe { zero_pages(base, len) };
        assert_eq!(of_mapping(base.as_ptr(), "Rss:"), "0 kB");
        // SAFETY: the mapping is that long, and only this test uses it.
        unsafe { base.as_ptr().write_bytes(1, len) };
        assert_eq!(of_mapping(base.as_ptr(), "Rss:"), "8192 kB");
        // SAFETY: as above.
        unsafe { zero_pages(base, len) };
        assert_eq!(of_mapping(base.as_ptr(), "Rss:"), "0 kB");
        unmap(base, len);
    }

    #[test]
    fn more_than_the_machine_has_is_refused_unless_the_operator_overcommits() {
        let more = usize::try_from(machine()).unwrap() + 1;
        let error = alloc(more, 1).unwrap_err();
        assert_eq!(error.errno(), libc::ENOMEM);
        assert!(error.message().contains("--overcommit"), "{error}");
        set_overcommit(Overcommit::Warn);
        let (base, _) = alloc(more, 1).unwrap();
        free(base.as_ptr());
        set_overcommit(Overcommit::Refuse);
    }

    #[test]
    fn bad_sizes_and_alignments_are_refused() {
        assert_eq!(alloc(0, 1).unwrap_err().errno(), libc::EINVAL);
        assert_eq!(alloc(1, 3).unwrap_err().errno(), libc::EINVAL);
    }
}
