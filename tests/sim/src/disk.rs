//! A RAM disk that is late, short of resources or faulty, as its traits and the seed say. It checks
//! everything that a module may rely on.

use crate::abi::{bus, end, host, size};
use crate::promises::{Entered, first_difference, gather};
use crate::sim::sim;
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;

/// How a disk behaves. The unnamed units are percentages of its I/O.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    pub(crate) inline: u64,
    pub(crate) no_memory: u64,
    pub(crate) requeue: u64,
    pub(crate) io_error: u64,
    /// Most I/O that a channel has room for; 0 = no limit.
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
    chans: RefCell<Vec<*mut Chan>>,
    /// Channels to create: thread and the host's handle.
    opening: RefCell<Vec<(u64, u64)>>,
    closing: RefCell<Vec<(u64, u64)>>,
    destructing: Cell<bool>,
    pub(crate) destructed: Cell<bool>,
    pub(crate) resetting: Cell<bool>,
    pub(crate) quiesced: RefCell<Vec<(u64, u64)>>,
}

pub(crate) struct Chan {
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
};

impl Disk {
    /// Creates the disk and registers it with the bus. App thread.
    pub(crate) fn register(name: String, mut reg: bay_bdev_reg, traits: Traits) -> Box<Self> {
        let len = (MOST_BLOCKS * u64::from(reg.block_size)) as usize;
        let cached = reg.flags & BAY_BDEV_WRITE_CACHE != 0;
        reg.size = size::<bay_bdev_reg>();
        let mut disk = Box::new(Self {
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
        disk.reg.ctx = (&raw const *disk).cast_mut().cast();
        disk.reg.ops = &raw const OPS;
        disk.reg.name = bay_str::new(&disk.name);
        let mut id = 0;
        let register = bus().register.unwrap();
        assert_eq!(unsafe { register(host(), &raw const disk.reg, &raw mut id) }, 0, "register");
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
        let busy = self.chans.borrow().iter().map(|&chan| unsafe { &*chan }).find_map(|chan| {
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
            return unsafe { bus().destruct_done.unwrap()(host(), self.id.get(), 0) };
        }
        let next = take_first(&self.opening, |&(thread, _)| thread == here);
        if let Some((_, host_chan)) = next {
            let fails = sim().rng.chance(self.traits.chan_fails);
            let status = if fails { -libc::ENOMEM } else { 0 };
            let chan = if fails { ptr::null_mut() } else { self.new_chan(host_chan) };
            return unsafe { bus().chan_ready.unwrap()(host(), host_chan, chan.cast(), status) };
        }
        let next = take_first(&self.closing, |&(thread, _)| thread == here);
        if let Some((_, host_chan)) = next {
            return unsafe { bus().chan_closed.unwrap()(host(), host_chan) };
        }
        let chan = {
            let chans = self.chans.borrow();
            let mine: Vec<_> = chans
                .iter()
                .copied()
                .filter(|&chan| unsafe {
                    (*chan).thread == here && !(*chan).pending.borrow().is_empty()
                })
                .collect();
            if mine.is_empty() { return } else { sim().rng.pick(&mine) }
        };
        self.complete_some(unsafe { &*chan });
    }

    /// The disk's state, for the message when the simulation is stuck.
    pub(crate) fn state(&self) -> String {
        let chans: Vec<String> = (self.chans.borrow().iter())
            .map(|&chan| unsafe { &*chan })
            .map(|chan| {
                let op = |io: *mut bay_io| unsafe { (*io).op };
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
        let count = |chan: &*mut Chan| unsafe {
            (**chan).pending.borrow().len() + (**chan).staged.borrow().len()
        };
        let op = unsafe { (*io).op };
        op != BAY_OP_RESET || self.chans.borrow().iter().map(count).sum::<usize>() == 1
    }

    fn end_late(&self, chan: &Chan, io: *mut bay_io) {
        let request = unsafe { &*io };
        self.check_ctx(request);
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
            unsafe { bus().kick.unwrap()(host(), host_chan) };
        }
    }

    fn new_chan(&self, host_chan: u64) -> *mut Chan {
        let chan = Box::into_raw(Box::new(Chan {
            disk: self,
            thread: thread::current_id(),
            entered: Cell::new(false),
            host_chan,
            staged: RefCell::default(),
            pending: RefCell::default(),
        }));
        self.chans.borrow_mut().push(chan);
        chan
    }

    /// Does the I/O completely, in part or not at all, and returns its status.
    fn outcome(&self, io: *mut bay_io) -> i32 {
        let request = unsafe { &*io };
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
        let request = unsafe { *io };
        let request = &request;
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
                    unsafe { (*io).detail_kind = BAY_DETAIL_OFFSET };
                    unsafe { (*io).detail = place as u64 };
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
        let request = unsafe { &*io };
        let rng = &sim().rng;
        if request.op == BAY_OP_FLUSH {
            self.flush_cache(); // covers earlier writes, not later ones
        }
        if request.op != BAY_OP_RESET && rng.chance(self.traits.inline) {
            return end(io, self.outcome(io));
        }
        self.mark_ctx(request);
        let due = sim().now.get() + rng.below(self.traits.latency_ns + 1);
        chan.pending.borrow_mut().push((io, due));
    }

    fn abort(&self, chan: &Chan, io: *mut bay_io) {
        let [target, _] = unsafe { (*io).arg };
        let is_target =
            |io: &*mut bay_io| unsafe { (**io).id == target && (**io).op != BAY_OP_RESET };
        let found = take_first(&chan.staged, is_target)
            .or_else(|| take_first(&chan.pending, |(io, _)| is_target(io)).map(|(io, _)| io));
        if let Some(found) = found {
            end(found, BAY_ST_ABORTED);
            return end(io, 0);
        }
        end(io, -libc::ENOENT);
    }
}

fn take_first<T>(list: &RefCell<Vec<T>>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    let mut list = list.borrow_mut();
    let place = list.iter().position(is_it)?;
    Some(list.remove(place))
}

fn disk<'a>(ctx: *mut c_void) -> &'a Disk {
    unsafe { &*ctx.cast::<Disk>() }
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    let chan = unsafe { &*chan.cast::<Chan>() };
    let disk = unsafe { &*chan.disk };
    let request = unsafe { &*io };
    let _entered = Entered::new(&chan.entered);
    disk.check(chan, request);
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
    let chan = unsafe { &*chan.cast::<Chan>() };
    let _entered = Entered::new(&chan.entered);
    for io in chan.staged.take() {
        unsafe { &*chan.disk }.start(chan, io);
    }
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    let (disk, args) = (disk(bdev), unsafe { &*args });
    if sim().rng.chance(disk.traits.chan_later) {
        disk.opening.borrow_mut().push((args.thread, args.host_chan));
        return 1;
    }
    if sim().rng.chance(disk.traits.chan_fails) {
        return -libc::ENOMEM;
    }
    unsafe { chan.write(disk.new_chan(args.host_chan).cast()) };
    0
}

unsafe extern "C" fn chan_destroy(bdev: *mut c_void, chan: *mut c_void) -> i32 {
    let disk = disk(bdev);
    let gone = chan.cast::<Chan>();
    disk.chans.borrow_mut().retain(|&other| other != gone);
    let chan = unsafe { Box::from_raw(gone) };
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
