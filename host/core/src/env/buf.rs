//! Buffer pools with a cache for each OS thread and one queue of waiters for each pool.
//!
//! There are two sizes, as in SPDK's iobuf. A pool reserves address space once; a page costs no
//! memory until a buffer on it is used for the first time.
#![expect(unsafe_code, reason = "buffers and waiters are raw memory of the ABI")]

use crate::env::{memory, pci};
use crate::reactor::{self, thread};
use crate::{Error, Result};
use drivebay_plugin_api::bay_wait;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Sizes and counts, as set by `iobuf_set_options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number of small buffers, at least 1.
    pub small_count: u64,
    /// Number of large buffers, at least 1.
    pub large_count: u64,
    /// Size of a small buffer in bytes, a multiple of 4096.
    pub small_size: u32,
    /// Size of a large buffer in bytes, a multiple of 4096.
    pub large_size: u32,
}

/// SPDK's defaults.
pub const DEFAULTS: Options =
    Options { small_count: 8192, large_count: 1024, small_size: 8192, large_size: 135_168 };

/// The maximum number of buffers of one size that an OS thread keeps in its cache.
const CACHE: usize = 64;

struct Waiter {
    wait: NonNull<bay_wait>,
    thread: u64,
}

// SAFETY: the waiter's memory stays valid until its callback runs on its own thread or the waiter
// leaves the queue. The queue only carries the address.
unsafe impl Send for Waiter {}

#[derive(Default)]
struct Shared {
    /// The base of the reservation; 0 before the first use.
    base: usize,
    region: u32,
    /// The number of buffers that were handed out at least once.
    carved: u64,
    free: Vec<usize>,
    waiters: VecDeque<Waiter>,
    /// Waiters whose callback was sent and has not run yet.
    waking: Vec<usize>,
}

struct Pool {
    size: AtomicUsize,
    count: AtomicU64,
    shared: Mutex<Shared>,
    retries: AtomicU64,
    /// Whether the log has reported that there is no memory for this pool.
    is_reported: AtomicBool,
}

impl Pool {
    const fn new(size: u32, count: u64) -> Self {
        Self {
            size: AtomicUsize::new(size as usize),
            count: AtomicU64::new(count),
            shared: Mutex::new(Shared {
                base: 0,
                region: 0,
                carved: 0,
                free: Vec::new(),
                waiters: VecDeque::new(),
                waking: Vec::new(),
            }),
            retries: AtomicU64::new(0),
            is_reported: AtomicBool::new(false),
        }
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Reserves the pool's address space, unless that is done. Its pages get memory at their first
    /// use.
    fn reserve(&self, shared: &mut Shared) -> Result<()> {
        if shared.base != 0 {
            return Ok(());
        }
        let (count, size) = (self.count.load(Ordering::Relaxed), self.size());
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
        let len = len.ok_or_else(|| Error::new(libc::ENOMEM, "the pool is larger than memory"))?;
        let (base, region) = memory::alloc(len, 4096)?;
        if let Err(error) = pci::ledger::share(region) {
            tracing::error!("PCI devices cannot use a pool of buffers: {error}");
        }
        shared.base = base.as_ptr() as usize;
        shared.region = region;
        Ok(())
    }

    fn refill(&self, cache: &mut Vec<usize>) -> Option<u32> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.count.load(Ordering::Relaxed);
        self.reserve(&mut shared).map_err(|error| self.report_once(&error)).ok()?;
        // Takes at most a quarter of the cache at a time, so that a few threads can share a small
        // pool.
        let batch = usize::try_from(count / 64).unwrap_or(1).clamp(1, CACHE / 4);
        for _ in 0..batch {
            if let Some(addr) = shared.free.pop() {
                cache.push(addr);
            } else if shared.carved < count {
                let offset = usize::try_from(shared.carved).ok()? * self.size();
                shared.carved += 1;
                cache.push(shared.base + offset);
            }
        }
        Some(shared.region)
    }

    /// Logs the error, but only once: clients retry, and then wait.
    fn report_once(&self, error: &Error) {
        if !self.is_reported.swap(true, Ordering::Relaxed) {
            let (count, size) = (self.count.load(Ordering::Relaxed), self.size());
            tracing::error!(
                "no memory for {count} buffers of {size} bytes; I/O that needs a buffer waits. \
                 Set a smaller count with iobuf_set_options. {}",
                error.message()
            );
        }
    }

    /// Queues the waiter, unless a buffer was returned since the caller looked for one.
    fn wait(&self, wait: NonNull<bay_wait>) -> Option<(NonNull<u8>, u32)> {
        WAITING.fetch_add(1, Ordering::SeqCst);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let got = shared.free.pop().and_then(|addr| NonNull::new(addr as *mut u8));
        if let Some(addr) = got {
            WAITING.fetch_sub(1, Ordering::SeqCst);
            return Some((addr, shared.region));
        }
        shared.waiters.push_back(Waiter { wait, thread: thread::current_id() });
        None
    }

    /// Whether the waiter was not aborted since its callback was sent. Removes it from `waking`.
    fn is_still_waking(&self, wait: NonNull<bay_wait>) -> bool {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let place = shared.waking.iter().position(|&waking| waking == wait.as_ptr() as usize);
        place.map(|place| shared.waking.swap_remove(place)).is_some()
    }

    fn has_free_for_waiters(&self) -> bool {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        !shared.free.is_empty() && !shared.waiters.is_empty()
    }

    /// Returns the cached buffers to the pool, except for `keep` of them.
    fn return_surplus(&self, cache: &mut Vec<usize>, keep: usize) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = keep.min(cache.len());
        shared.free.extend(cache.drain(surplus..));
    }
}

static POOLS: [Pool; 2] = [
    Pool::new(DEFAULTS.small_size, DEFAULTS.small_count),
    Pool::new(DEFAULTS.large_size, DEFAULTS.large_count),
];
static WAITING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CACHES: RefCell<[(Vec<usize>, u32); 2]> = const { RefCell::new([(Vec::new(), 0), (Vec::new(), 0)]) };
}

/// Sets sizes and counts. It must run before the first buffer is handed out.
///
/// # Errors
/// `EINVAL` with the name of the field; `EBUSY` when the pools are already in use.
pub fn configure(options: Options) -> Result<()> {
    for (name, count) in
        [("small_pool_count", options.small_count), ("large_pool_count", options.large_count)]
    {
        if count == 0 || count > 1 << 24 {
            return Err(Error::new(libc::EINVAL, format!("{name} {count} must be 1 to 16777216")));
        }
    }
    for (name, size) in
        [("small_bufsize", options.small_size), ("large_bufsize", options.large_size)]
    {
        if !(4096..=1 << 26).contains(&size) {
            return Err(Error::new(
                libc::EINVAL,
                format!("{name} {size} must be at least 4096 and at most 67108864"),
            ));
        }
    }
    if options.small_size > options.large_size {
        return Err(Error::new(libc::EINVAL, "small_bufsize must not exceed large_bufsize"));
    }
    let wanted =
        [(options.small_size, options.small_count), (options.large_size, options.large_count)];
    for (pool, (size, count)) in POOLS.iter().zip(wanted) {
        let shared = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.base != 0 {
            return Err(Error::new(
                libc::EBUSY,
                "buffers are in use; set iobuf options at startup",
            ));
        }
        pool.size.store((size as usize).next_multiple_of(4096), Ordering::Relaxed);
        pool.count.store(count, Ordering::Relaxed);
        drop(shared);
    }
    Ok(())
}

/// Reserves the memory of both pools. The host calls this before RAM disks can take the memory,
/// because no I/O works without buffers.
///
/// # Errors
/// `ENOMEM` with the name of the pool and the option to change.
pub fn reserve() -> Result<()> {
    for (pool, name) in POOLS.iter().zip(["small", "large"]) {
        let mut shared = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        pool.reserve(&mut shared).map_err(|error| {
            let (count, size) = (pool.count.load(Ordering::Relaxed), pool.size());
            let message = format!(
                "no memory for {count} {name} I/O buffers of {size} bytes; iobuf_set_options \
                 ({name}_pool_count) sets a smaller count. {}",
                error.message()
            );
            Error::new(error.errno(), message)
        })?;
    }
    Ok(())
}

/// The options in force.
#[must_use]
pub fn options() -> Options {
    let [small, large] = &POOLS;
    Options {
        small_count: small.count.load(Ordering::Relaxed),
        large_count: large.count.load(Ordering::Relaxed),
        small_size: u32::try_from(small.size()).unwrap_or(u32::MAX),
        large_size: u32::try_from(large.size()).unwrap_or(u32::MAX),
    }
}

/// The size of the largest buffer, in bytes.
#[must_use]
pub fn max_len() -> usize {
    POOLS[1].size()
}

/// How often a client had to wait for a buffer: small and large.
#[must_use]
pub fn retries() -> [u64; 2] {
    [POOLS[0].retries.load(Ordering::Relaxed), POOLS[1].retries.load(Ordering::Relaxed)]
}

/// The pool that buffers of `len` bytes come from: the size of its buffers in bytes, and how many
/// of them one thread can always get while nobody else uses any. `None`: no pool has buffers that
/// large.
#[must_use]
pub fn pool_for(len: usize) -> Option<(u32, u64)> {
    let pool = POOLS.get(pool_of(len)?)?;
    let count = pool.count.load(Ordering::Relaxed);
    // Other threads cannot get the buffers in the cache of an idle thread, so a full cache of every
    // other thread is subtracted.
    let others = reactor::all().len().saturating_sub(1) as u64;
    let count = count.saturating_sub(others * cache_size(count) as u64);
    Some((u32::try_from(pool.size()).ok()?, count))
}

/// The maximum number of buffers that a thread keeps in its cache for a pool of `count` buffers.
fn cache_size(count: u64) -> usize {
    usize::try_from(count / 64).unwrap_or(CACHE).min(CACHE)
}

fn pool_of(len: usize) -> Option<usize> {
    (0..POOLS.len()).find(|&index| POOLS.get(index).is_some_and(|pool| len <= pool.size()))
}

/// Returns a buffer of at least `len` bytes and its region. `None`: no buffer is free, and `wait`,
/// if given, is queued; or no pool has buffers that large.
///
/// # Safety
/// `wait` is null, or it points to a waiter that stays valid and in place until its callback runs
/// or [`abort`] returns.
pub unsafe fn get(len: usize, wait: *mut bay_wait) -> Option<(NonNull<u8>, u32)> {
    let index = pool_of(len)?;
    let pool = POOLS.get(index)?;
    let got = CACHES.with_borrow_mut(|caches| {
        let (cache, region) = caches.get_mut(index)?;
        if cache.is_empty()
            && let Some(number) = pool.refill(cache)
        {
            *region = number;
        }
        Some((cache.pop()?, *region))
    });
    if let Some((addr, region)) = got {
        return NonNull::new(addr as *mut u8).map(|addr| (addr, region));
    }
    pool.retries.fetch_add(1, Ordering::Relaxed);
    pool.wait(NonNull::new(wait)?)
}

/// Returns a buffer to its pool. `len` is the length that was requested.
pub fn put(addr: NonNull<u8>, len: usize) {
    let Some(index) = pool_of(len) else { return };
    let Some(pool) = POOLS.get(index) else { return };
    let addr = addr.as_ptr() as usize;
    CACHES.with_borrow_mut(|caches| {
        let Some((cache, _)) = caches.get_mut(index) else { return };
        let keep = cache_size(pool.count.load(Ordering::Relaxed));
        cache.push(addr);
        // No cache keeps all buffers, so a waiter gets a buffer that is returned here or to the
        // pool.
        if WAITING.load(Ordering::SeqCst) > 0 {
            pool.return_surplus(cache, 0);
        } else if cache.len() > keep {
            pool.return_surplus(cache, keep / 2);
        }
    });
    if WAITING.load(Ordering::SeqCst) > 0 {
        wake_one(pool);
    }
}

fn wake_one(pool: &'static Pool) {
    let waiter = {
        let mut shared = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let waiter = shared.waiters.pop_front();
        shared.waking.extend(waiter.iter().map(|waiter| waiter.wait.as_ptr() as usize));
        waiter
    };
    if let Some(waiter) = waiter {
        WAITING.fetch_sub(1, Ordering::SeqCst);
        let target = waiter.thread;
        thread::send_boxed(target, move || run(pool, waiter));
    }
}

fn run(pool: &'static Pool, waiter: Waiter) {
    if pool.is_still_waking(waiter.wait) {
        // SAFETY: the waiter was not aborted, so the host may use its memory until this callback.
        let wait = unsafe { waiter.wait.as_ref() };
        if let Some(cb) = wait.cb {
            let arg = wait.arg;
            // SAFETY: the callback and its argument belong together, and this is the waiter's
            // thread.
            unsafe { cb(arg) };
        }
    }
    // The waiter may have been aborted, or may not need the buffer any more. Then the next waiter
    // gets its turn.
    if pool.has_free_for_waiters() {
        wake_one(pool);
    }
}

/// Removes a waiter from the queue; its callback will not run. Called on the waiter's thread.
pub fn abort(wait: *mut bay_wait) {
    for pool in &POOLS {
        let mut shared = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.waiters.len();
        shared.waiters.retain(|waiter| waiter.wait.as_ptr() != wait);
        let gone = before - shared.waiters.len();
        shared.waking.retain(|&waking| waking != wait as usize);
        WAITING.fetch_sub(gone, Ordering::SeqCst);
    }
}

/// How many buffers have ever left each pool: small and large. This is the peak of buffers that
/// were in use or cached at the same time.
#[must_use]
pub fn carved() -> [u64; 2] {
    let carved = |pool: &Pool| pool.shared.lock().unwrap_or_else(PoisonError::into_inner).carved;
    [carved(&POOLS[0]), carved(&POOLS[1])]
}
