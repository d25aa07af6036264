//! The disk below a filter that is being checked: a RAM disk with faults from a seed.
//!
//! The check decides what the disk does: it completes I/O at once, late, or with an error, asks for
//! a retry, or holds all I/O back until the check releases it.
#![expect(unsafe_code, reason = "implements a bdev module")]

use crate::client::{Lane, own_host};
use crate::guard::core;
use crate::random::Random;
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

/// The maximum number of rounds of the thread that a late completion takes.
const LATE_ROUNDS: u64 = 16;

/// How often each fault happens to an I/O, out of 1,024 times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The I/O fails with `EIO`.
    pub io_error: u32,
    /// The disk completes the I/O with "no resource", which asks for a retry.
    pub no_memory: u32,
    /// The I/O completes some rounds later.
    pub late: u32,
}

/// A disk of the suite itself. It is never freed, because a faulty plugin may use it late.
pub struct Base {
    /// The name of the bdev.
    pub name: String,
    block_size: u32,
    data: Mutex<Vec<u8>>,
    faults: Mutex<Faults>,
    seed: AtomicU64,
    is_holding: AtomicBool,
    errors: AtomicU32,
    handle: AtomicU64,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One thread's part of the disk.
struct BaseChannel {
    base: &'static Base,
    random: RefCell<Random>,
    held: RefCell<Vec<*mut bay_io>>,
    /// Whether a message is on its way to this thread that makes it check `held` again.
    is_looking: Cell<bool>,
}

static OPS: bay_bdev_ops = bay_bdev_ops {
    size: OPS_SIZE,
    flags: 0,
    submit: Some(submit),
    flush: None,
    chan_create: Some(chan_create),
    chan_destroy: Some(chan_destroy),
    destruct: Some(destruct),
    dump_info: None,
    write_config: None,
    dump_stats: None,
    reset_stats: None,
    space: None,
};

#[expect(clippy::cast_possible_truncation, reason = "a table of a hundred bytes")]
const OPS_SIZE: u32 = size_of::<bay_bdev_ops>() as u32;

impl Base {
    /// Creates a disk and registers it on the bus.
    ///
    /// # Errors
    /// The bus's error.
    pub fn new(
        name: &str,
        block_size: u32,
        num_blocks: u64,
        seed: u64,
    ) -> Result<&'static Self, String> {
        let len = usize::try_from(num_blocks).unwrap_or(0) * block_size as usize;
        let base: &'static Self = Box::leak(Box::new(Self {
            name: name.to_owned(),
            block_size,
            data: Mutex::new(vec![0; len]),
            faults: Mutex::default(),
            seed: AtomicU64::new(seed),
            is_holding: AtomicBool::new(false),
            errors: AtomicU32::new(0),
            handle: AtomicU64::new(0),
        }));
        let added = Lane::app().run(move || base.register(num_blocks));
        match added {
            Ok(0) => Ok(base),
            Ok(status) => Err(format!("the bus refused the suite's own disk: {status}")),
            Err(_) => Err("the suite's own disk was not registered in time".to_owned()),
        }
    }

    fn register(&'static self, num_blocks: u64) -> i32 {
        // SAFETY: it has only numbers, texts and pointers, for which zero is a valid value.
        let mut record: bay_bdev_reg = unsafe { std::mem::zeroed() };
        record.size = u32::try_from(size_of::<bay_bdev_reg>()).unwrap_or(0);
        record.ctx = ptr::from_ref(self).cast_mut().cast();
        record.ops = &raw const OPS;
        record.name = bay_str::new(&self.name);
        record.product = bay_str::new("Disk of the conformance suite");
        record.block_size = self.block_size;
        record.num_blocks = num_blocks;
        record.numa = -1;
        record.must_flags = BAY_IO_FUA;
        record.ops_mask = [
            BAY_OP_READ,
            BAY_OP_WRITE,
            BAY_OP_FLUSH,
            BAY_OP_UNMAP,
            BAY_OP_WRITE_ZEROES,
            BAY_OP_COMPARE,
            BAY_OP_ABORT,
        ]
        .iter()
        .fold(0, |mask, op| mask | 1 << op);
        let mut handle = 0;
        let Some(register) = core::bdev().register else { return -libc::ENOSYS };
        // SAFETY: the record and what it points to are valid for the call, and the disk is never
        // freed.
        let status = unsafe { register(own_host(), &raw const record, &raw mut handle) };
        self.handle.store(handle, Ordering::Release);
        status
    }

    /// Removes the disk from the bus: a hot removal, as the filter above sees it.
    pub fn remove(&self) -> mpsc::Receiver<i32> {
        let handle = self.handle.load(Ordering::Acquire);
        let (sender, gone) = mpsc::channel();
        Lane::app().send(move || {
            let tell = Box::into_raw(Box::new(sender));
            if let Some(unregister) = core::bdev().unregister {
                // SAFETY: the bdev belongs to the suite, and the bus owns the box until it calls
                // back.
                unsafe { unregister(own_host(), handle, Some(removed), tell.cast()) };
            }
        });
        gone
    }

    /// Sets the faults for all later I/O.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Starts to hold all I/O back, or releases it.
    pub fn hold(&self, is_holding: bool) {
        self.is_holding.store(is_holding, Ordering::Release);
    }

    /// The number of I/Os that failed so far.
    pub fn errors(&self) -> u32 {
        self.errors.load(Ordering::Acquire)
    }

    fn do_io(&self, io: &bay_io) -> i32 {
        let size = self.block_size as usize;
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(io.lba).unwrap_or(usize::MAX).saturating_mul(size);
        let len = usize::try_from(io.nblocks).unwrap_or(usize::MAX).saturating_mul(size);
        if io.op == BAY_OP_FLUSH {
            return 0;
        }
        let Some(blocks) = data.get_mut(from..from.saturating_add(len)) else {
            return -libc::EINVAL;
        };
        match io.op {
            BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES => {
                blocks.fill(0);
                return 0;
            }
            BAY_OP_READ | BAY_OP_WRITE | BAY_OP_COMPARE => {}
            BAY_OP_ABORT => return -libc::ENOENT,
            _ => return -libc::ENOTSUP,
        }
        let mut rest = blocks;
        for piece in pieces(io) {
            let (part, after) = rest.split_at_mut((piece.len as usize).min(rest.len()));
            let addr = piece.addr.cast::<u8>();
            match io.op {
                // SAFETY: the element belongs to the request until its completion.
                BAY_OP_READ => unsafe { ptr::copy_nonoverlapping(part.as_ptr(), addr, part.len()) },
                BAY_OP_WRITE => {
                    // SAFETY: the element belongs to the request until its completion.
                    unsafe { ptr::copy_nonoverlapping(addr, part.as_mut_ptr(), part.len()) }
                }
                _ => {
                    // SAFETY: the element belongs to the request until its completion.
                    let theirs = unsafe { std::slice::from_raw_parts(addr, part.len()) };
                    if theirs != part {
                        return BAY_ST_MISCOMPARE;
                    }
                }
            }
            rest = after;
        }
        0
    }
}

fn pieces(io: &bay_io) -> &[bay_iov] {
    if io.iov.is_null() {
        return &[];
    }
    // SAFETY: the list has this many elements and stays valid until the completion of the request.
    unsafe { std::slice::from_raw_parts(io.iov, io.iovcnt.into()) }
}

impl BaseChannel {
    fn submit(&self, io: *mut bay_io) {
        if self.base.is_holding.load(Ordering::Acquire) {
            self.held.borrow_mut().push(io);
            return self.look_again();
        }
        let faults = *self.base.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let mut random = self.random.borrow_mut();
        if random.of_1024(faults.no_memory) {
            drop(random);
            return end(io, BAY_ST_NOMEM);
        }
        let fails = random.of_1024(faults.io_error);
        let is_late = random.of_1024(faults.late);
        let rounds = if is_late { 1 + random.below(LATE_ROUNDS) } else { 0 };
        drop(random);
        if fails {
            self.base.errors.fetch_add(1, Ordering::AcqRel);
        }
        self.end_after(rounds, Ending { io, fails, base: self.base });
    }

    fn end_after(&self, rounds: u64, ending: Ending) {
        if rounds == 0 {
            return ending.end();
        }
        later(rounds, ending);
    }

    /// Checks the held I/O again in the next round.
    fn look_again(&self) {
        if self.is_looking.replace(true) {
            return;
        }
        let address = ptr::from_ref(self) as usize;
        thread::send_boxed(thread::current_id(), move || {
            // SAFETY: a channel lives while it has I/O, and held I/O counts.
            let channel = unsafe { &*(address as *const Self) };
            channel.is_looking.set(false);
            if channel.base.is_holding.load(Ordering::Acquire) {
                return channel.look_again();
            }
            for io in channel.held.take() {
                Ending { io, fails: false, base: channel.base }.end();
            }
        });
    }
}

/// A request, and how it will complete.
struct Ending {
    io: *mut bay_io,
    fails: bool,
    base: &'static Base,
}

// SAFETY: it is only sent to its own thread.
unsafe impl Send for Ending {}

impl Ending {
    fn end(self) {
        // SAFETY: the request belongs to this module until its completion.
        let request = unsafe { &*self.io };
        let status = if self.fails { -libc::EIO } else { self.base.do_io(request) };
        end(self.io, status);
    }
}

fn later(rounds: u64, ending: Ending) {
    thread::send_boxed(thread::current_id(), move || {
        if rounds > 1 { later(rounds - 1, ending) } else { ending.end() }
    });
}

fn end(io: *mut bay_io, status: i32) {
    // SAFETY: the request belongs to this module, which completes it once.
    let done = unsafe { (*io).done };
    if let Some(done) = done {
        // SAFETY: called once for its submit, on its thread.
        unsafe { done(io, status) };
    }
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    // SAFETY: `chan_create` made this channel.
    unsafe { &*chan.cast_const().cast::<BaseChannel>() }.submit(io);
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    // SAFETY: the disk is never freed.
    let base: &'static Base = unsafe { &*bdev.cast_const().cast::<Base>() };
    let seed = base.seed.fetch_add(1, Ordering::Relaxed);
    let made = Box::new(BaseChannel {
        base,
        random: RefCell::new(Random::new(seed)),
        held: RefCell::default(),
        is_looking: Cell::new(false),
    });
    // SAFETY: the bus passes a valid pointer for the result.
    unsafe { chan.write(Box::into_raw(made).cast()) };
    0
}

unsafe extern "C" fn chan_destroy(_bdev: *mut c_void, chan: *mut c_void) -> i32 {
    // SAFETY: `chan_create` made this channel, and nothing is in flight.
    drop(unsafe { Box::from_raw(chan.cast::<BaseChannel>()) });
    0
}

unsafe extern "C" fn destruct(_bdev: *mut c_void) -> i32 {
    0
}

unsafe extern "C" fn removed(arg: *mut c_void, status: i32) {
    // SAFETY: the box comes from `remove` and is taken back once.
    let tell = unsafe { Box::from_raw(arg.cast::<mpsc::Sender<i32>>()) };
    let _ = tell.send(status);
}
