//! The request that a guarded module gets. A guarded module does not get the bus's own request, but
//! a request of the guard that stands for it. So the guard sees when a module completes a request
//! twice or on another thread, or touches it after the completion, and this harms nobody.
//!
//! ```text
//! bus's io ── submit ──▶ guard's io ── submit ──▶ module
//!    ▲                      │ ▲                     │
//!    └──── done ────────────┘ └──────── done ───────┘   then it is kept, filled with a pattern
//! ```

use super::bdev::GuardedChannel;
use crate::breach;
use crate::calls::{self, Call};
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of completed requests that are kept and watched before they are used again.
pub(crate) const RESTING: usize = 1024;
/// The pattern that fills a completed request.
const PATTERN: u8 = 0xdb;
/// The number of bytes of `drv_ctx` that are watched.
const WATCHED_DRV: usize = 256;

const ONCE: &str = "an I/O is completed exactly once";
const THREAD: &str = "an I/O is completed on the thread that submitted it";
const UNTOUCHED: &str = "a request is not touched after its completion";
const UNCHANGED: &str = "a module changes only the detail and the link of a request";
const STATUS: &str = "a status is 0, a negative errno, or a BAY_ST_* that the op may have";

const WITH_MODULE: u32 = 1;
const ENDED: u32 = 2;

/// The receiver of a request's completion.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// The bus, which owns this request.
    Bus(*mut bay_io),
    /// The suite itself, without the bus.
    Suite(bay_io_cb_fn, *mut c_void),
}

/// One request. Requests are reused and never freed, so that the guard sees when a module touches
/// one too late.
#[repr(C)]
pub(crate) struct Request {
    state: AtomicU32,
    thread: u64,
    origin: Origin,
    channel: *const GuardedChannel,
    /// The request as it was submitted.
    given: bay_io,
    drv_ctx: *mut u8,
    drv_len: usize,
    io: bay_io,
}

struct Retired(VecDeque<*mut Request>);

// SAFETY: requests are never freed, and whoever takes one out of the queue has it alone.
unsafe impl Send for Retired {}

static RETIRED: Mutex<Retired> = Mutex::new(Retired(VecDeque::new()));
/// The number of requests that are at modules now.
static AT_MODULE: AtomicU64 = AtomicU64::new(0);

fn retired() -> MutexGuard<'static, Retired> {
    RETIRED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of requests that are at modules now.
#[must_use]
pub fn at_module() -> u64 {
    AT_MODULE.load(Ordering::Acquire)
}

/// Checks whether any completed request was touched since its completion.
pub fn check_retired() {
    for request in &retired().0 {
        // SAFETY: it is never freed, and only a plugin that breaks the rules writes to it.
        check_untouched(unsafe { &**request });
    }
}

/// Gives `from` to the module as a request of the guard. The caller must be on the channel's
/// thread.
pub(crate) fn submit(channel: &GuardedChannel, from: &bay_io, origin: Origin) {
    let request = make(channel.bdev.drv_ctx_len());
    // SAFETY: it was just taken out of the queue or made, so this is the only reference.
    let fresh = unsafe { &mut *request };
    fresh.thread = thread::current_id();
    fresh.origin = origin;
    fresh.channel = channel;
    let drv_ctx = if fresh.drv_len == 0 { std::ptr::null_mut() } else { fresh.drv_ctx.cast() };
    fresh.io = bay_io { done: Some(done), drv_ctx, link: std::ptr::null_mut(), ..*from };
    fresh.given = fresh.io;
    fresh.state.store(WITH_MODULE, Ordering::Release);
    AT_MODULE.fetch_add(1, Ordering::AcqRel);
    channel.outstanding.set(channel.outstanding.get() + 1);
    let io = &raw mut fresh.io;
    let _inside = channel.enter(Call::Submit);
    // SAFETY: these are the module's own function and channel, which is alive. The module owns the
    // request until it calls `done`.
    unsafe { (channel.bdev.submit)(channel.module.get(), io) };
}

/// The bus's request behind a module's request, if the bus sent it.
///
/// # Safety
/// `io` is a request that the module owns.
pub(crate) unsafe fn behind(io: *mut bay_io) -> Option<*mut bay_io> {
    // SAFETY: the caller guarantees this.
    match unsafe { &*of(io) }.origin {
        Origin::Bus(io) => Some(io),
        Origin::Suite(..) => None,
    }
}

/// The guard's request around the `bay_io` of a module.
fn of(io: *mut bay_io) -> *mut Request {
    io.cast::<u8>().wrapping_sub(offset_of!(Request, io)).cast()
}

fn make(drv_len: usize) -> *mut Request {
    let mut rest = retired();
    let at = if rest.0.len() < RESTING {
        None
    } else {
        // SAFETY: it is in the queue, so it is not in use.
        rest.0.iter().position(|request| unsafe { (**request).drv_len } >= drv_len)
    };
    if let Some(request) = at.and_then(|at| rest.0.remove(at)) {
        // SAFETY: it was taken out of the queue, so only we have it.
        check_untouched(unsafe { &*request });
        return request;
    }
    drop(rest);
    // SAFETY: numbers, raw pointers and optional functions may all be zero.
    let io: bay_io = unsafe { std::mem::zeroed() };
    let drv_ctx = Vec::leak(vec![[0_u8; 64]; drv_len.div_ceil(64) + 1]).as_mut_ptr().cast::<u8>();
    let to_64 = drv_ctx.align_offset(64);
    Box::into_raw(Box::new(Request {
        state: AtomicU32::new(ENDED),
        thread: 0,
        origin: Origin::Bus(std::ptr::null_mut()),
        channel: std::ptr::null(),
        given: io,
        drv_ctx: drv_ctx.wrapping_add(to_64),
        drv_len,
        io,
    }))
}

/// `bay_io.done` of every request of the guard.
unsafe extern "C" fn done(io: *mut bay_io, status: i32) {
    let _host = calls::leave();
    let at = of(io);
    // SAFETY: modules get no other `bay_io` with this `done`, and requests are never freed.
    let request = unsafe { &*at };
    if request.state.swap(ENDED, Ordering::AcqRel) != WITH_MODULE {
        return breach::record(ONCE, format!("{} was completed twice", name_of(&request.given)));
    }
    AT_MODULE.fetch_sub(1, Ordering::AcqRel);
    if thread::current_id() != request.thread {
        let op = name_of(&request.given);
        breach::record(THREAD, format!("{op} was completed on another thread"));
        let carried = Carried(at);
        return thread::send_boxed(request.thread, move || finish(carried.get(), status));
    }
    finish(at, status);
}

/// A request on its way to its own thread.
struct Carried(*mut Request);

// SAFETY: it is only carried, and it is used on its own thread.
unsafe impl Send for Carried {}

impl Carried {
    fn get(self) -> *mut Request {
        self.0
    }
}

fn finish(at: *mut Request, status: i32) {
    // SAFETY: it has completed, so the module does not own it any more; it is never freed.
    let request = unsafe { &mut *at };
    check_unchanged(request);
    check_status(request.given.op, status);
    let (detail, detail_kind) = (request.io.detail, request.io.detail_kind);
    if detail_kind > BAY_DETAIL_BLOCK {
        breach::record(STATUS, format!("detail_kind {detail_kind} is not one of BAY_DETAIL_*"));
    }
    // SAFETY: a channel outlives its requests.
    let outstanding = unsafe { &(*request.channel).outstanding };
    outstanding.set(outstanding.get().saturating_sub(1));
    let origin = request.origin;
    let mut ended = request.io;
    retire(at);
    match origin {
        Origin::Bus(io) => {
            // SAFETY: it is the bus's request, which the guard owns until its `done`.
            let to = unsafe { &mut *io };
            to.detail = detail;
            to.detail_kind = detail_kind;
            if let Some(done) = to.done {
                // SAFETY: called once for its submit, on its thread.
                unsafe { done(io, status) };
            }
        }
        // SAFETY: these are the suite's function and argument, called once, on the thread of the
        // submit.
        Origin::Suite(cb, arg) => unsafe { cb(arg, &raw mut ended, status) },
    }
}

/// Fills the request with the pattern and queues it.
fn retire(at: *mut Request) {
    // SAFETY: it has completed and is in no queue, so only we have it.
    let request = unsafe { &mut *at };
    let io: *mut bay_io = &raw mut request.io;
    // SAFETY: any bytes are a valid `bay_io`, except for `done`, which is set below.
    unsafe { io.cast::<u8>().write_bytes(PATTERN, size_of::<bay_io>()) };
    let place = io.cast::<u8>().wrapping_add(offset_of!(bay_io, done));
    // SAFETY: this is the address of that field. A module that completes the request again still
    // calls the guard.
    unsafe { place.cast::<Option<bay_done_fn>>().write(Some(done)) };
    // SAFETY: the memory has this length.
    unsafe { request.drv_ctx.write_bytes(PATTERN, request.drv_len) };
    retired().0.push_back(at);
}

fn check_untouched(request: &Request) {
    if request.given.op == 0 {
        return;
    }
    let io = (&raw const request.io).cast::<u8>();
    // SAFETY: these are the bytes of a `bay_io`.
    let bytes = unsafe { std::slice::from_raw_parts(io, size_of::<bay_io>()) };
    let function = offset_of!(bay_io, done)..offset_of!(bay_io, done) + size_of::<usize>();
    let is_touched = |(at, byte): (usize, &u8)| !function.contains(&at) && *byte != PATTERN;
    if bytes.iter().enumerate().any(is_touched) {
        breach::record(UNTOUCHED, format!("{} was written to", name_of(&request.given)));
    }
    let len = request.drv_len.min(WATCHED_DRV);
    // SAFETY: the memory has this length.
    let drv_ctx = unsafe { std::slice::from_raw_parts(request.drv_ctx, len) };
    if drv_ctx.iter().any(|byte| *byte != PATTERN) {
        let seen = format!("the drv_ctx of {} was written to", name_of(&request.given));
        breach::record(UNTOUCHED, seen);
    }
}

fn check_unchanged(request: &Request) {
    let (is, was) = (&request.io, &request.given);
    let changed = [
        ("op", is.op != was.op),
        ("iovcnt", is.iovcnt != was.iovcnt),
        ("flags", is.flags != was.flags),
        ("lba", is.lba != was.lba),
        ("nblocks", is.nblocks != was.nblocks),
        ("iov", is.iov != was.iov),
        ("drv_ctx", is.drv_ctx != was.drv_ctx),
        ("ext", is.ext != was.ext),
        ("md", is.md != was.md || is.md_len != was.md_len),
        ("arg", is.arg != was.arg || is.arg_len != was.arg_len),
        ("id", is.id != was.id),
    ];
    for (field, _) in changed.iter().filter(|(_, is_changed)| *is_changed) {
        breach::record(UNCHANGED, format!("{field} of {} was changed", name_of(was)));
    }
}

fn check_status(op: u16, status: i32) {
    let is_errno = (-4095..=0).contains(&status);
    let is_ours = (-8191..=BAY_ST_NOMEM).contains(&status);
    let again = status == BAY_ST_NOMEM || status == BAY_ST_REQUEUE;
    if !is_errno && !is_ours {
        breach::record(STATUS, format!("{} ended with {status}", op_name(op)));
    } else if again && op == BAY_OP_RESET {
        breach::record(STATUS, format!("a reset ended with {status}, which asks for a retry"));
    }
}

fn name_of(io: &bay_io) -> String {
    op_name(io.op)
}

/// The name of an op, as text for people.
#[must_use]
pub fn op_name(op: u16) -> String {
    op_rules(op).map_or_else(|| format!("op {op}"), |rules| rules.name.to_owned())
}
