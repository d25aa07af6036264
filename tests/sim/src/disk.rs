//! A RAM disk that is late, short of resources or faulty, as its traits and the seed say. It checks
//! everything that a module may rely on.

use crate::abi::{bus, end, fields, host, size};
use crate::promises::{Entered, first_difference, gather};
use crate::sim::sim;
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

/// How a disk behaves. The unnamed units are percentages of its I/O.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    pub(crate) inline: u64,
    pub(crate) no_memory: u64,
    pub(crate) requeue: u64,
    pub(crate) io_error: u64,
    /// Maximum number of I/Os that a channel has room for; 0 = no limit.
    pub(crate) depth: usize,
    pub(crate) latency_ns: u64,
    /// The disk calls `kick` after this many completions.
    pub(crate) kick: u64,
    /// Starts I/O only at the end of a burst.
    pub(crate) doorbell: bool,
    /// Percentage of channels that are created or destroyed later.
    pub(crate) chan_later: u64,
    pub(crate) chan_fails: u64,
    pub(crate) destruct_later: bool,
}

pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) id: Cell<u64>,
    pub(crate) reg: bay_bdev_reg,
    pub(crate) traits: Traits,
    pub(crate) blocks: Cell<u64>,
    data: RefCell<Vec<u8>>,
    /// The contents after a power cut. Only a disk with a cache uses it.
    stable: RefCell<Vec<u8>>,
    dirty: RefCell<Vec<u64>>,
    /// The channels. The host has a pointer to each of them until `chan_destroy`.
    chans: RefCell<Vec<Rc<Chan>>>,
    /// Channels to create: thread and the host's handle.
    opening: RefCell<Vec<(u64, u64)>>,
    closing: RefCell<Vec<(u64, u64)>>,
    destructing: Cell<bool>,
    pub(crate) destructed: Cell<bool>,
    pub(crate) resetting: Cell<bool>,
    pub(crate) quiesced: RefCell<Vec<(u64, u64)>>,
}

pub(crate) struct Chan {
    /// The disk that made the channel. It outlives its channels: the bus destroys them first.
    disk: *const Disk,
    pub(crate) thread: u64,
    /// Whether the host is inside one of the channel's functions.
    entered: Cell<bool>,
    host_chan: u64,
    staged: RefCell<Vec<*mut bay_io>>,
    pending: RefCell<Vec<(*mut bay_io, u64)>>,
}

/// Number of blocks that have memory, so that a disk can grow.
pub(crate) const MOST_BLOCKS: u64 = 256;

static OPS: bay_bdev_ops = bay_bdev_ops {
    size: size_of::<bay_bdev_ops>() as u32,
    flags: 0,
    submit: Some(submit),
    flush: Some(doorbell),
    chan_create: Some(chan_create),
    chan_destroy: Some(chan_destroy),
    destruct: Some(destruct),
    dump_info: None,
    write_config: None,
    dump_stats: None,
    reset_stats: None,
    space: None,
};

impl Disk {
    /// Creates the disk and registers it with the bus. App thread.
    pub(crate) fn register(name: String, mut reg: bay_bdev_reg, traits: Traits) -> Rc<Self> {
        let len = (MOST_BLOCKS * u64::from(reg.block_size)) as usize;
        let cached = reg.flags & BAY_BDEV_WRITE_CACHE != 0;
        reg.size = size::<bay_bdev_reg>();
        let disk = Rc::new(Self {
            name,
            id: Cell::new(0),
            reg,
            traits,
            blocks: Cell::new(reg.num_blocks),
            data: RefCell::new(vec![0; len]),
            stable: RefCell::new(if cached { vec![0; len] } else { Vec::new() }),
            dirty: RefCell::default(),
            chans: RefCell::default(),
            opening: RefCell::default(),
            closing: RefCell::default(),
            destructing: Cell::new(false),
            destructed: Cell::new(false),
            resetting: Cell::new(false),
            quiesced: RefCell::default(),
        });
        let record = bay_bdev_reg {
            ctx: Rc::as_ptr(&disk).cast_mut().cast(),
            ops: &raw const OPS,
            name: bay_str::new(&disk.name),
            ..disk.reg
        };
        let mut id = 0;
        let register = bus().register.unwrap();
        // SAFETY: the record, its name and `id` are valid during the call. `OPS` is a static. The simulation
        // keeps the disk, which is `ctx`, until the bus has destructed it.
        let status = unsafe { register(host(), &raw const record, &raw mut id) };
        assert_eq!(status, 0, "register");
        disk.id.set(id);
        disk
    }

    /// Copies the content of a block after a power cut.
    pub(crate) fn stable(&self, lba: u64, into: &mut [u8]) {
        let from = lba as usize * self.reg.block_size as usize;
        let cached = self.reg.flags & BAY_BDEV_WRITE_CACHE != 0;
        let memory = if cached { self.stable.borrow() } else { self.data.borrow() };
        into.copy_from_slice(&memory[from..from + into.len()]);
    }

    /// Adds the threads for which the disk has work, once for each piece of work.
    pub(crate) fn work(&self, threads: &mut Vec<u64>) {
        let busy = self.chans.borrow().iter().find_map(|chan| {
            (!chan.pending.borrow().is_empty() && sim().rng.chance(50)).then_some(chan.thread)
        });
        threads.extend(busy);
        threads.extend(self.opening.borrow().first().map(|&(thread, _)| thread));
        threads.extend(self.closing.borrow().first().map(|&(thread, _)| thread));
        if self.destructing.get() {
            threads.push(thread::app());
        }
    }

    /// Does one piece of its work on this thread.
    pub(crate) fn act(&self) {
        let here = thread::current_id();
        if here == thread::app() && self.destructing.take() {
            self.destructed.set(true);
            // SAFETY: the call passes only a handle.
            return unsafe { bus().destruct_done.unwrap()(host(), self.id.get(), 0) };
        }
        let next = take_first(&self.opening, |&(thread, _)| thread == here);
        if let Some((_, host_chan)) = next {
            let fails = sim().rng.chance(self.traits.chan_fails);
            let status = if fails { -libc::ENOMEM } else { 0 };
            let chan = if fails { ptr::null_mut() } else { self.new_chan(host_chan) };
            // SAFETY: `chan` is null or in `chans`, which keeps it until `chan_destroy`.
            return unsafe { bus().chan_ready.unwrap()(host(), host_chan, chan, status) };
        }
        let next = take_first(&self.closing, |&(thread, _)| thread == here);
        if let Some((_, host_chan)) = next {
            // SAFETY: the call passes only a handle.
            return unsafe { bus().chan_closed.unwrap()(host(), host_chan) };
        }
        let chan = {
            let chans = self.chans.borrow();
            let mine: Vec<_> = chans
                .iter()
                .filter(|chan| chan.thread == here && !chan.pending.borrow().is_empty())
                .collect();
            if mine.is_empty() {
                return;
            }
            Rc::clone(sim().rng.pick(&mine))
        };
        self.complete_some(&chan);
    }

    /// The disk's state, for the message when the simulation is stuck.
    pub(crate) fn state(&self) -> String {
        let chans: Vec<String> = (self.chans.borrow().iter())
            .map(|chan| {
                let op = |io: *mut bay_io| fields(io).op;
                let pending: Vec<_> =
                    chan.pending.borrow().iter().map(|&(io, due)| (op(io), due)).collect();
                let staged: Vec<_> = chan.staged.borrow().iter().map(|&io| op(io)).collect();
                format!("thread {}: {pending:?} staged {staged:?}", chan.thread)
            })
            .collect();
        format!(
            "{}: {chans:?}, opening {:?}, closing {:?}, resetting {}, {:?}",
            self.name,
            self.opening.borrow(),
            self.closing.borrow(),
            self.resetting.get(),
            self.traits
        )
    }

    fn complete_some(&self, chan: &Chan) {
        for _ in 0..sim().rng.within(1, 6) {
            let due: Vec<usize> = {
                let pending = chan.pending.borrow();
                let is_due = |&index: &usize| {
                    pending[index].1 <= sim().now.get() && self.may_end(pending[index].0)
                };
                (0..pending.len()).filter(is_due).collect()
            };
            if due.is_empty() {
                return;
            }
            let (io, _) = chan.pending.borrow_mut().swap_remove(sim().rng.pick(&due));
            self.end_late(chan, io);
        }
    }

    /// Whether a reset may complete: no other I/O of the disk is left.
    fn may_end(&self, io: *mut bay_io) -> bool {
        let count = |chan: &Rc<Chan>| chan.pending.borrow().len() + chan.staged.borrow().len();
        fields(io).op != BAY_OP_RESET || self.chans.borrow().iter().map(count).sum::<usize>() == 1
    }

    fn end_late(&self, chan: &Chan, io: *mut bay_io) {
        let request = fields(io);
        self.check_ctx(&request);
        let (thread, host_chan) = (chan.thread, chan.host_chan);
        if request.op == BAY_OP_RESET {
            self.resetting.set(false);
            let failed = sim().rng.chance(self.traits.io_error);
            return end(io, if failed { -libc::EIO } else { 0 });
        }
        let status = if self.resetting.get() && sim().rng.chance(50) {
            sim().aborts.set(true);
            BAY_ST_ABORTED
        } else {
            self.outcome(io)
        };
        end(io, status);
        debug_assert_eq!(thread, thread::current_id());
        if sim().rng.chance(self.traits.kick) {
            // SAFETY: the call passes only a handle.
            unsafe { bus().kick.unwrap()(host(), host_chan) };
        }
    }

    /// Creates a channel. Returns the host's pointer to it, which is valid until `chan_destroy`.
    fn new_chan(&self, host_chan: u64) -> *mut c_void {
        let chan = Rc::new(Chan {
            disk: self,
            thread: thread::current_id(),
            entered: Cell::new(false),
            host_chan,
            staged: RefCell::default(),
            pending: RefCell::default(),
        });
        let handle = Rc::as_ptr(&chan).cast_mut().cast();
        self.chans.borrow_mut().push(chan);
        handle
    }

    /// Does the I/O completely, in part or not at all, and returns its status.
    fn outcome(&self, io: *mut bay_io) -> i32 {
        let request = fields(io);
        let (rng, traits) = (&sim().rng, &self.traits);
        let roll = rng.below(1000);
        let (error, no_memory) = (traits.io_error * 10, traits.no_memory * 10);
        if roll < error {
            if rng.chance(50) {
                self.transfer(io, rng.below(request.nblocks.max(1)));
            }
            return -libc::EIO;
        }
        if roll < error + no_memory {
            return BAY_ST_NOMEM;
        }
        if roll < error + no_memory + traits.requeue * 10 {
            return BAY_ST_REQUEUE;
        }
        self.transfer(io, request.nblocks)
    }

    fn transfer(&self, io: *mut bay_io, nblocks: u64) -> i32 {
        let request = &fields(io);
        let block = self.reg.block_size as usize;
        let from = request.lba as usize * block;
        let range = from..from + nblocks as usize * block;
        let mut data = self.data.borrow_mut();
        match request.op {
            BAY_OP_READ => gather(request, range.len(), |at, memory| {
                memory.copy_from_slice(&data[from + at..][..memory.len()]);
                true
            }),
            BAY_OP_WRITE => gather(request, range.len(), |at, memory| {
                data[from + at..][..memory.len()].copy_from_slice(memory);
                true
            }),
            BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES => {
                data[range.clone()].fill(0);
                None
            }
            BAY_OP_COMPARE => {
                let differs = gather(request, range.len(), |at, memory| {
                    memory == &data[from + at..][..memory.len()]
                });
                if let Some(offset) = differs {
                    let place = offset + first_difference(request, offset, &data[from + offset..]);
                    // SAFETY: the disk has borrowed `io` (invariant of `abi`), and `request` is a copy.
                    let io = unsafe { &mut *io };
                    (io.detail_kind, io.detail) = (BAY_DETAIL_OFFSET, place as u64);
                    return BAY_ST_MISCOMPARE;
                }
                None
            }
            _ => None,
        };
        if self.reg.flags & BAY_BDEV_WRITE_CACHE == 0 {
            return 0;
        }
        let mut stable = self.stable.borrow_mut();
        match request.op {
            BAY_OP_WRITE | BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES => {
                if request.flags & BAY_IO_FUA != 0 {
                    stable[range.clone()].copy_from_slice(&data[range]);
                } else {
                    self.dirty.borrow_mut().extend(request.lba..request.lba + nblocks);
                }
            }
            _ => {}
        }
        0
    }

    fn flush_cache(&self) {
        let block = self.reg.block_size as usize;
        let (data, mut stable) = (self.data.borrow(), self.stable.borrow_mut());
        for lba in self.dirty.borrow_mut().drain(..) {
            let range = lba as usize * block..(lba as usize + 1) * block;
            stable[range.clone()].copy_from_slice(&data[range]);
        }
    }

    fn start(&self, chan: &Chan, io: *mut bay_io) {
        let request = fields(io);
        let rng = &sim().rng;
        if request.op == BAY_OP_FLUSH {
            self.flush_cache(); // covers earlier writes, not later ones
        }
        if request.op != BAY_OP_RESET && rng.chance(self.traits.inline) {
            return end(io, self.outcome(io));
        }
        self.mark_ctx(&request);
        let due = sim().now.get() + rng.below(self.traits.latency_ns + 1);
        chan.pending.borrow_mut().push((io, due));
    }

    fn abort(&self, chan: &Chan, io: *mut bay_io) {
        let [target, _] = fields(io).arg;
        let is_target = |io: &*mut bay_io| {
            let request = fields(*io);
            request.id == target && request.op != BAY_OP_RESET
        };
        let found = take_first(&chan.staged, is_target)
            .or_else(|| take_first(&chan.pending, |(io, _)| is_target(io)).map(|(io, _)| io));
        if let Some(found) = found {
            end(found, BAY_ST_ABORTED);
            return end(io, 0);
        }
        end(io, -libc::ENOENT);
    }
}

/// Removes and returns the first element that `is_it` accepts.
pub(crate) fn take_first<T>(list: &RefCell<Vec<T>>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    let mut list = list.borrow_mut();
    let place = list.iter().position(is_it)?;
    Some(list.remove(place))
}

impl Chan {
    fn disk(&self) -> &Disk {
        // SAFETY: the disk outlives its channels: the bus destroys them before it destructs the disk.
        unsafe { &*self.disk }
    }
}

/// The disk behind the context that the host passes to a function of `OPS`.
fn disk<'a>(ctx: *mut c_void) -> &'a Disk {
    // SAFETY: `register` set the context to the disk, and the simulation keeps the disk until the host
    // has destructed it.
    unsafe { &*ctx.cast::<Disk>() }
}

/// The channel behind the pointer that the host passes to a function of `OPS`.
fn channel<'a>(chan: *mut c_void) -> &'a Chan {
    // SAFETY: the pointer comes from `new_chan`. `Disk::chans` keeps the channel until `chan_destroy`,
    // which the host calls last, and never inside another call of the channel.
    unsafe { &*chan.cast::<Chan>() }
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    let chan = channel(chan);
    let disk = chan.disk();
    let request = fields(io);
    let _entered = Entered::new(&chan.entered);
    disk.check(chan, &request);
    match request.op {
        BAY_OP_ABORT => return disk.abort(chan, io),
        BAY_OP_RESET => disk.resetting.set(true),
        _ => {
            let has = chan.pending.borrow().len() + chan.staged.borrow().len();
            if disk.traits.depth != 0 && has >= disk.traits.depth {
                return end(io, BAY_ST_NOMEM);
            }
        }
    }
    if disk.traits.doorbell {
        return chan.staged.borrow_mut().push(io);
    }
    disk.start(chan, io);
}

unsafe extern "C" fn doorbell(chan: *mut c_void) {
    let chan = channel(chan);
    let _entered = Entered::new(&chan.entered);
    for io in chan.staged.take() {
        chan.disk().start(chan, io);
    }
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    let disk = disk(bdev);
    // SAFETY: the host's arguments are valid during the call.
    let args = unsafe { *args };
    if sim().rng.chance(disk.traits.chan_later) {
        disk.opening.borrow_mut().push((args.thread, args.host_chan));
        return 1;
    }
    if sim().rng.chance(disk.traits.chan_fails) {
        return -libc::ENOMEM;
    }
    // SAFETY: the host passes a place for the channel.
    unsafe { chan.write(disk.new_chan(args.host_chan)) };
    0
}

unsafe extern "C" fn chan_destroy(bdev: *mut c_void, chan: *mut c_void) -> i32 {
    let disk = disk(bdev);
    let is_it = |other: &Rc<Chan>| ptr::eq(Rc::as_ptr(other), chan.cast::<Chan>());
    let chan = take_first(&disk.chans, is_it).expect("a channel of this disk");
    assert!(chan.pending.borrow().is_empty(), "a channel with I/O was destroyed");
    assert!(chan.staged.borrow().is_empty(), "a channel with I/O was destroyed");
    assert!(!chan.entered.get(), "a channel was destroyed inside one of its calls");
    assert_eq!(chan.thread, thread::current_id());
    if sim().rng.chance(disk.traits.chan_later) {
        disk.closing.borrow_mut().push((chan.thread, chan.host_chan));
        return 1;
    }
    0
}

unsafe extern "C" fn destruct(bdev: *mut c_void) -> i32 {
    let disk = disk(bdev);
    let open =
        disk.chans.borrow().len() + disk.opening.borrow().len() + disk.closing.borrow().len();
    assert_eq!(open, 0, "destructed with open channels");
    assert_eq!(thread::current_id(), thread::app());
    assert!(!disk.destructed.get() && !disk.destructing.get(), "destructed twice");
    if disk.traits.destruct_later {
        disk.destructing.set(true);
        return 1;
    }
    disk.destructed.set(true);
    0
}
