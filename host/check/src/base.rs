//! The disk below a filter that is checked: RAM, with faults by seed.
//!
//! It ends I/O at once, late, or with an error, asks for a retry, or holds everything back until it
//! is let go, as the check wants.
#![expect(unsafe_code, reason = "is a bdev module of its own")]

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

/// Rounds of the thread that a late completion takes at most.
const LATE_ROUNDS: u64 = 16;

/// How often what happens to an I/O, of 1,024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// It fails with `EIO`.
    pub io_error: u32,
    /// It asks to be sent again.
    pub no_memory: u32,
    /// It ends some rounds later.
    pub late: u32,
}

/// A disk of the suite's own. Leaked: a plugin that is wrong may come back late.
pub struct Base {
    /// Its name.
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

/// One thread's part.
struct Channel {
    base: &'static Base,
    random: RefCell<Random>,
    held: RefCell<Vec<*mut bay_io>>,
    /// A message to this thread will look at `held` again.
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
};

#[expect(clippy::cast_possible_truncation, reason = "a table of a hundred bytes")]
const OPS_SIZE: u32 = size_of::<bay_bdev_ops>() as u32;

impl Base {
    /// Puts one on the bus.
    ///
    /// # Errors
    /// What the bus says.
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
            Ok(status) => Err(format!("the suite's own disk was refused: {status}")),
            Err(_) => Err("the suite's own disk was not registered in time".to_owned()),
        }
    }

    fn register(&'static self, num_blocks: u64) -> i32 {
        // SAFETY: numbers, texts and pointers; zeroes are a value.
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
        // SAFETY: the record and what it points at live through the call, the disk for ever.
        let status = unsafe { register(own_host(), &raw const record, &raw mut handle) };
        self.handle.store(handle, Ordering::Release);
        status
    }

    /// Takes it off the bus: a hot remove, seen from the filter above.
    pub fn remove(&self) -> mpsc::Receiver<i32> {
        let handle = self.handle.load(Ordering::Acquire);
        let (sender, gone) = mpsc::channel();
        Lane::app().send(move || {
            let tell = Box::into_raw(Box::new(sender));
            if let Some(unregister) = core::bdev().unregister {
                // SAFETY: a bdev of the suite's; the box is the bus's until it calls back.
                unsafe { unregister(own_host(), handle, Some(removed), tell.cast()) };
            }
        });
        gone
    }

    /// From now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Holds all I/O back from now on, or lets it go.
    pub fn hold(&self, is_holding: bool) {
        self.is_holding.store(is_holding, Ordering::Release);
    }

    /// How many I/Os failed so far.
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
                // SAFETY: the element is the request's until its end.
                BAY_OP_READ => unsafe { ptr::copy_nonoverlapping(part.as_ptr(), addr, part.len()) },
                BAY_OP_WRITE => {
                    // SAFETY: the element is the request's until its end.
                    unsafe { ptr::copy_nonoverlapping(addr, part.as_mut_ptr(), part.len()) }
                }
                _ => {
                    // SAFETY: the element is the request's until its end.
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
    // SAFETY: the list has so many elements and stays until the end of the request.
    unsafe { std::slice::from_raw_parts(io.iov, io.iovcnt.into()) }
}

impl Channel {
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

    /// Looks at what is held in the next round.
    fn look_again(&self) {
        if self.is_looking.replace(true) {
            return;
        }
        let address = ptr::from_ref(self) as usize;
        thread::send_boxed(thread::current_id(), move || {
            // SAFETY: a channel lives while it has I/O, and what is held is I/O.
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

/// A request and how it will end.
struct Ending {
    io: *mut bay_io,
    fails: bool,
    base: &'static Base,
}

// SAFETY: only sent to its own thread.
unsafe impl Send for Ending {}

impl Ending {
    fn end(self) {
        // SAFETY: a request of this module's until its end.
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
    // SAFETY: a request of this module's, ended once.
    let done = unsafe { (*io).done };
    if let Some(done) = done {
        // SAFETY: once for its submit, on its thread.
        unsafe { done(io, status) };
    }
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    // SAFETY: what `chan_create` made.
    unsafe { &*chan.cast_const().cast::<Channel>() }.submit(io);
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    // SAFETY: the disk is leaked.
    let base: &'static Base = unsafe { &*bdev.cast_const().cast::<Base>() };
    let seed = base.seed.fetch_add(1, Ordering::Relaxed);
    let made = Box::new(Channel {
        base,
        random: RefCell::new(Random::new(seed)),
        held: RefCell::default(),
        is_looking: Cell::new(false),
    });
    // SAFETY: the bus's place for the result.
    unsafe { chan.write(Box::into_raw(made).cast()) };
    0
}

unsafe extern "C" fn chan_destroy(_bdev: *mut c_void, chan: *mut c_void) -> i32 {
    // SAFETY: what `chan_create` made; nothing is in flight.
    drop(unsafe { Box::from_raw(chan.cast::<Channel>()) });
    0
}

unsafe extern "C" fn destruct(_bdev: *mut c_void) -> i32 {
    0
}

unsafe extern "C" fn removed(arg: *mut c_void, status: i32) {
    // SAFETY: the box of `remove`, given back once.
    let tell = unsafe { Box::from_raw(arg.cast::<mpsc::Sender<i32>>()) };
    let _ = tell.send(status);
}
