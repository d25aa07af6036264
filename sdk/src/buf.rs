//! Buffers from the host's pools.
//!
//! A pool buffer still contains the data of its last user. Code that sends a buffer out must fill or zero
//! it first.
#![expect(unsafe_code, reason = "wraps the host's memory")]

use crate::entry::{enter, is_poisoned, leak};
use crate::error::{Error, Result, errno};
use crate::host::{buf_table, host};
use drivebay_plugin_api::{bay_iov, bay_wait};
use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

/// Alignment of every buffer, in bytes.
const ALIGN: u64 = 4096;

/// A buffer that devices can access, 4096-aligned. Drop it on a reactor; that returns it to the host.
#[derive(Debug)]
pub struct Buf {
    /// Also the scatter/gather list of an I/O that owns the buffer.
    iov: bay_iov,
    /// Requested length, in bytes.
    asked: u32,
    origin: Origin,
}

/// Where a buffer returns to.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Pool,
    Memory,
}

/// Returns a buffer of `len` bytes, or `None` when no buffer is free now.
#[must_use]
pub fn get(len: u32) -> Option<Buf> {
    let host = host();
    let mut region = 0;
    // SAFETY: there is no waiter, and `region` outlives the call.
    let addr = unsafe { (host.buf.get)(host.raw, len, &raw mut region, std::ptr::null_mut()) };
    // Not `then_some`: that would also build a `Buf` from NULL, and its drop would return it to the host.
    (!addr.is_null()).then(|| Buf::of_pool(addr, len, region))
}

/// One of the host's buffer pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of each buffer, in bytes.
    pub size: u32,
    /// How many buffers one thread can always get when no other thread holds any.
    pub count: u64,
}

/// Describes the pool of buffers for `len` bytes; `None` when no pool has buffers of that size. A host too old to
/// describe its pools counts as having an unlimited one. `[any thread]`
#[must_use]
pub fn pool_for(len: u32) -> Option<Pool> {
    let host = host();
    let table = buf_table(host)?;
    let Some(pool) = table.pool else {
        return (len <= table.max_len).then_some(Pool { size: table.max_len, count: u64::MAX });
    };
    let (mut size, mut count) = (0, 0);
    // SAFETY: the results outlive the call.
    let status = unsafe { pool(host.raw, len, &raw mut size, &raw mut count) };
    (status == 0).then_some(Pool { size, count })
}

/// Returns a buffer of `len` bytes for the control path. Allocates host memory when the pools are empty or their
/// buffers are too short. The contents are undefined. `[any lightweight thread]`
///
/// # Errors
/// `ENOMEM` when the host has no memory left.
pub fn alloc(len: u32) -> Result<Buf> {
    get(len).map_or_else(|| alloc_outside_pools(len), Ok)
}

/// As [`alloc`], for a buffer that its owner keeps: the pools stay full. `[any lightweight thread]`
///
/// # Errors
/// `ENOMEM` when the host has no memory left.
pub fn alloc_outside_pools(len: u32) -> Result<Buf> {
    let host = host();
    let mut region = 0;
    // SAFETY: the result outlives the call.
    let addr = unsafe { (host.mem.alloc)(host.raw, len.into(), ALIGN, -1, &raw mut region) };
    if addr.is_null() {
        return Err(Error::new(errno::ENOMEM, format!("no memory for a buffer of {len} bytes")));
    }
    Ok(Buf { iov: bay_iov { addr, len, region }, asked: len, origin: Origin::Memory })
}

/// Calls `ready` with a buffer of `len` bytes, at once or when a buffer is free. Waiters are served in order.
/// Dropping the result leaves the queue. `[reactor]`
#[must_use = "dropping it leaves the queue"]
pub fn get_or_wait(len: u32, ready: impl FnOnce(Buf) + 'static) -> Wait {
    let waiter = Rc::new(Waiter {
        wait: Cell::new(bay_wait {
            cb: Some(buf_available),
            arg: std::ptr::null_mut(),
            link: std::ptr::null_mut(),
            rsv: 0,
        }),
        len,
        ready: Cell::new(Some(Box::new(ready))),
    });
    ask(Rc::clone(&waiter));
    Wait(waiter)
}

/// A place in the queue for a buffer. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Wait(Rc<Waiter>);

impl Drop for Wait {
    fn drop(&mut self) {
        // The callback has run already.
        if self.0.ready.take().is_none() {
            return;
        }
        let host = host();
        // SAFETY: the waiter is queued, on this thread.
        unsafe { (host.buf.abort)(host.raw, self.0.wait.as_ptr()) };
        // SAFETY: the host no longer uses the reference count that `ask` gave it.
        unsafe { Rc::decrement_strong_count(Rc::as_ptr(&self.0)) };
    }
}

type Ready = Box<dyn FnOnce(Buf)>;

struct Waiter {
    /// For the host's use while queued.
    wait: Cell<bay_wait>,
    len: u32,
    ready: Cell<Option<Ready>>,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Requests the waiter's buffer. While the waiter is queued, the host owns one reference count of it.
fn ask(waiter: Rc<Waiter>) {
    let host = host();
    let (mut region, len, wait) = (0, waiter.len, waiter.wait.as_ptr());
    let given = Rc::into_raw(waiter);
    // SAFETY: the waiter is not queued, so the host does not use it.
    unsafe { (*wait).arg = given.cast_mut().cast() };
    // SAFETY: the reference count in `given` keeps the waiter's memory alive for the host.
    let addr = unsafe { (host.buf.get)(host.raw, len, &raw mut region, wait) };
    if !addr.is_null() {
        // SAFETY: the host did not queue the waiter, so the count belongs to this function again.
        let waiter = unsafe { Rc::from_raw(given) };
        let buf = Buf::of_pool(addr, len, region);
        if let Some(ready) = waiter.ready.take() {
            ready(buf);
        }
    }
}

unsafe extern "C" fn buf_available(arg: *mut c_void) {
    // SAFETY: `arg` is the reference count that `ask` gave the host.
    let waiter = unsafe { Rc::from_raw(arg.cast_const().cast::<Waiter>()) };
    if is_poisoned() {
        // The waiter is no longer queued, and an empty `ready` tells `Wait` so. The callback is the author's code, so leak it.
        leak(waiter.ready.take());
    } else {
        enter((), || ask(waiter));
    }
}

impl Buf {
    fn of_pool(addr: *mut c_void, len: u32, region: u32) -> Self {
        Self { iov: bay_iov { addr, len, region }, asked: len, origin: Origin::Pool }
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> u32 {
        self.iov.len
    }

    /// Changes the length to `len` bytes, at most the requested length.
    pub fn set_len(&mut self, len: u32) {
        self.iov.len = len.min(self.asked);
    }

    /// Memory region of the host that contains the buffer.
    #[must_use]
    pub fn region(&self) -> u32 {
        self.iov.region
    }

    /// The buffer as a list of one element. The list moves with `self`.
    pub(crate) fn iov(&self) -> *const bay_iov {
        &raw const self.iov
    }
}

impl AsMut<Self> for Buf {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl std::ops::Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the host has initialised the memory, and `self` owns it until the put; `len` is at most the requested length.
        unsafe { std::slice::from_raw_parts(self.iov.addr.cast(), self.iov.len as usize) }
    }
}

impl std::ops::DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.iov.addr.cast(), self.iov.len as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let host = host();
        match self.origin {
            // SAFETY: the buffer came from the host's pools with this length; this is its only put.
            Origin::Pool => unsafe { (host.buf.put)(host.raw, self.iov.addr, self.asked) },
            // SAFETY: `alloc` allocated it with this length; this is its only free.
            Origin::Memory => unsafe {
                (host.mem.free)(host.raw, self.iov.addr, self.asked.into());
            },
        }
    }
}
