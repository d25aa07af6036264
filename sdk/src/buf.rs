//! Buffers from the host's pools.
//!
//! A buffer from the pool holds what its last user left in it: whoever sends one out zeroes or
//! fills it first.
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

/// A buffer that devices can reach, 4096-aligned; given back when dropped, on a reactor.
#[derive(Debug)]
pub struct Buf {
    /// Also the scatter/gather list of an I/O that owns the buffer.
    iov: bay_iov,
    /// Length that the host was asked for, in bytes.
    asked: u32,
    origin: Origin,
}

/// Where a buffer goes back to.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Pool,
    Memory,
}

/// A buffer of `len` bytes, if there is one now.
#[must_use]
pub fn get(len: u32) -> Option<Buf> {
    let host = host();
    let mut region = 0;
    // SAFETY: no waiter; the result lives through the call.
    let addr = unsafe { (host.buf.get)(host.raw, len, &raw mut region, std::ptr::null_mut()) };
    // Not `then_some`: a buffer that is none must not be made, since it would be given back.
    (!addr.is_null()).then(|| Buf::of_pool(addr, len, region))
}

/// One of the host's buffer pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of its buffers, in bytes.
    pub size: u32,
    /// Buffers that one thread can always get when nobody else holds any.
    pub count: u64,
}

/// The pool that buffers of `len` bytes come from; `None` when no pool has buffers of that size. For a host that is too
/// old to say, the pool counts as unlimited. `[any thread]`
#[must_use]
pub fn pool_for(len: u32) -> Option<Pool> {
    let host = host();
    let table = buf_table(host)?;
    let Some(pool) = table.pool else {
        return (len <= table.max_len).then_some(Pool { size: table.max_len, count: u64::MAX });
    };
    let (mut size, mut count) = (0, 0);
    // SAFETY: the results live through the call.
    let status = unsafe { pool(host.raw, len, &raw mut size, &raw mut count) };
    (status == 0).then_some(Pool { size, count })
}

/// A buffer of `len` bytes for the control path: from the pools, or of the host's memory when they are empty or have none as long. What
/// is in it is undefined. `[any lightweight thread]`
///
/// # Errors
/// `ENOMEM`.
pub fn alloc(len: u32) -> Result<Buf> {
    if let Some(buf) = get(len) {
        return Ok(buf);
    }
    let host = host();
    let mut region = 0;
    // SAFETY: the result lives through the call.
    let addr = unsafe { (host.mem.alloc)(host.raw, len.into(), ALIGN, -1, &raw mut region) };
    if addr.is_null() {
        return Err(Error::new(errno::ENOMEM, format!("no memory for a buffer of {len} bytes")));
    }
    Ok(Buf { iov: bay_iov { addr, len, region }, asked: len, origin: Origin::Memory })
}

/// Calls `ready` with a buffer of `len` bytes: now, or when one comes free, in the order of the
/// calls. Dropping what is returned gives the place up.
#[must_use = "dropping it gives the place in the queue up"]
pub fn get_or_wait(len: u32, ready: impl FnOnce(Buf) + 'static) -> Wait {
    let waiter = Rc::new(Waiter {
        wait: Cell::new(bay_wait {
            cb: Some(turn),
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

/// A place in the queue for a buffer.
#[derive(Debug)]
pub struct Wait(Rc<Waiter>);

impl Drop for Wait {
    fn drop(&mut self) {
        // Empty once the call was made.
        if self.0.ready.take().is_none() {
            return;
        }
        let host = host();
        // SAFETY: the waiter is queued, on this thread.
        unsafe { (host.buf.abort)(host.raw, self.0.wait.as_ptr()) };
        // SAFETY: the host has let go of the count that `ask` gave it.
        unsafe { Rc::decrement_strong_count(Rc::as_ptr(&self.0)) };
    }
}

type Ready = Box<dyn FnOnce(Buf)>;

struct Waiter {
    /// The host's while queued.
    wait: Cell<bay_wait>,
    len: u32,
    ready: Cell<Option<Ready>>,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Asks for the waiter's buffer; one count of `waiter` is the host's while it is queued.
fn ask(waiter: Rc<Waiter>) {
    let host = host();
    let (mut region, len, wait) = (0, waiter.len, waiter.wait.as_ptr());
    let given = Rc::into_raw(waiter);
    // SAFETY: the waiter is not queued.
    unsafe { (*wait).arg = given.cast_mut().cast() };
    // SAFETY: the count in `given` keeps the waiter's memory for the host.
    let addr = unsafe { (host.buf.get)(host.raw, len, &raw mut region, wait) };
    if !addr.is_null() {
        // SAFETY: not queued, so the count is ours again.
        let waiter = unsafe { Rc::from_raw(given) };
        let buf = Buf::of_pool(addr, len, region);
        if let Some(ready) = waiter.ready.take() {
            ready(buf);
        }
    }
}

unsafe extern "C" fn turn(arg: *mut c_void) {
    // SAFETY: the count that `ask` gave the host.
    let waiter = unsafe { Rc::from_raw(arg.cast_const().cast::<Waiter>()) };
    if is_poisoned() {
        // The host no longer has it queued, which `Wait` must know. The callback is the author's code, so it leaks.
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

    /// Uses only the first `len` bytes from now on, or as many again as were asked for.
    pub fn set_len(&mut self, len: u32) {
        self.iov.len = len.min(self.asked);
    }

    /// Memory region of the host that holds the buffer.
    #[must_use]
    pub fn region(&self) -> u32 {
        self.iov.region
    }

    /// The buffer as a list of one element, at an address that moves with `self`.
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
        // SAFETY: the host's memory is initialised and ours until it is put; `len` is at most what was asked for.
        unsafe { std::slice::from_raw_parts(self.iov.addr.cast(), self.iov.len as usize) }
    }
}

impl std::ops::DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `deref`, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.iov.addr.cast(), self.iov.len as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let host = host();
        match self.origin {
            // SAFETY: got from the host's pools with this length, put once.
            Origin::Pool => unsafe { (host.buf.put)(host.raw, self.iov.addr, self.asked) },
            // SAFETY: allocated by `alloc` with this length, freed once.
            Origin::Memory => unsafe {
                (host.mem.free)(host.raw, self.iov.addr, self.asked.into());
            },
        }
    }
}
