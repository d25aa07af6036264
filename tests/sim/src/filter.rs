//! Filters as a plugin writes them: pass on, a slice of the base, two striped bases, pass on later.

use crate::abi::{self, bus, client, close, end, fields, get_chan, host, open, put_chan, size};
use crate::disk::take_first;
use crate::promises::Entered;
use crate::sim::sim;
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Pass,
    /// The base from this block on.
    Slice(u64),
    /// Chunks of this many blocks, alternating between two bases.
    Stripe(u64),
    /// Passes on when the scheduler decides.
    Later,
}

pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) id: Cell<u64>,
    pub(crate) kind: Kind,
    reg: bay_bdev_reg,
    bases: RefCell<Vec<u64>>,
    /// The channels. The host has a pointer to each of them until `chan_destroy`.
    chans: RefCell<Vec<Rc<Chan>>>,
    pub(crate) destructed: Cell<bool>,
    pub(crate) unregistered: Cell<bool>,
    pub(crate) quiesced: RefCell<Vec<(u64, u64)>>,
}

struct Chan {
    /// The filter that made the channel. It outlives its channels: the bus destroys them first.
    filter: *const Filter,
    thread: u64,
    bases: Vec<u64>,
    kept: RefCell<Vec<*mut bay_io>>,
    in_flight: Cell<u32>,
    /// Whether the host is inside one of the channel's functions.
    entered: Cell<bool>,
}

/// State in `drv_ctx` of a request that goes to several bases.
struct Several {
    pending: Cell<u32>,
    status: Cell<i32>,
}

static OPS: bay_bdev_ops = bay_bdev_ops {
    size: size_of::<bay_bdev_ops>() as u32,
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

impl Filter {
    /// Creates the filter over open bases. App thread.
    pub(crate) fn register(
        name: String,
        kind: Kind,
        mut reg: bay_bdev_reg,
        bases: &[&str],
    ) -> Rc<Self> {
        reg.size = size::<bay_bdev_reg>();
        reg.flags |= BAY_BDEV_FILTER;
        reg.drv_ctx_size = size::<Several>();
        reg.max_children = bases.len() as u32;
        let filter = Rc::new(Self {
            name,
            id: Cell::new(0),
            kind,
            reg,
            bases: RefCell::default(),
            chans: RefCell::default(),
            destructed: Cell::new(false),
            unregistered: Cell::new(false),
            quiesced: RefCell::default(),
        });
        let ctx: *mut c_void = Rc::as_ptr(&filter).cast_mut().cast();
        for base in bases {
            filter.bases.borrow_mut().push(open(base, on_event, ctx).unwrap());
        }
        let record = bay_bdev_reg {
            ctx,
            ops: &raw const OPS,
            name: bay_str::new(&filter.name),
            base: bay_str::new(bases[0]),
            ..filter.reg
        };
        let mut id = 0;
        let register = bus().register.unwrap();
        // SAFETY: the record, its names and `id` are valid during the call. `OPS` is a static. The simulation
        // keeps the filter, which is `ctx`, until the bus has destructed it.
        let status = unsafe { register(host(), &raw const record, &raw mut id) };
        assert_eq!(status, 0, "register");
        filter.id.set(id);
        filter
    }

    /// The base and the block there for a block of the filter.
    pub(crate) fn place(&self, lba: u64) -> (usize, u64) {
        match self.kind {
            Kind::Pass | Kind::Later => (0, lba),
            Kind::Slice(offset) => (0, lba + offset),
            Kind::Stripe(chunk) => {
                let number = lba / chunk;
                ((number % 2) as usize, number / 2 * chunk + lba % chunk)
            }
        }
    }

    /// Adds the threads for which the filter has work.
    pub(crate) fn work(&self, threads: &mut Vec<u64>) {
        let chans = self.chans.borrow();
        let busy = chans.iter().filter(|chan| !chan.kept.borrow().is_empty());
        threads.extend(busy.map(|chan| chan.thread));
    }

    /// Passes on an I/O that it kept on this thread.
    pub(crate) fn act(&self) {
        let here = thread::current_id();
        let chans = self.chans.borrow().clone();
        for chan in chans {
            if chan.thread != here || chan.kept.borrow().is_empty() {
                continue;
            }
            let io = {
                let mut kept = chan.kept.borrow_mut();
                let index = sim().rng.index(kept.len());
                kept.swap_remove(index)
            };
            self.pass_on(&chan, io);
        }
    }

    fn check(&self, request: &bay_io) {
        assert!(self.reg.ops_mask & (1 << request.op) != 0, "op {} is not declared", request.op);
        assert_eq!(request.flags >> 16 & !(self.reg.must_flags >> 16), 0, "undeclared flag");
        if matches!(request.op, BAY_OP_RESET | BAY_OP_ABORT) {
            return;
        }
        let hit = self.quiesced.borrow().iter().any(|&(lba, nblocks)| {
            nblocks == 0
                || (request.op != BAY_OP_FLUSH
                    && request.lba < lba + nblocks
                    && lba < request.lba + request.nblocks)
        });
        assert!(!hit, "submitted to a quiesced range");
    }

    fn pass_on(&self, chan: &Chan, io: *mut bay_io) {
        let request = fields(io);
        let has_range = !matches!(request.op, BAY_OP_FLUSH | BAY_OP_RESET);
        if has_range || chan.bases.len() == 1 {
            let (base, lba) = self.place(request.lba);
            let child = abi::derive(chan.bases[base], io);
            if has_range {
                // SAFETY: the filter has borrowed the child until it submits it (invariant of `abi`).
                unsafe { (*child).lba = lba };
            }
            return abi::submit(child, child_done, io.cast());
        }
        let several = request.drv_ctx.cast::<Several>();
        let count = chan.bases.len() as u32;
        // SAFETY: `drv_ctx` has `drv_ctx_size` bytes, the size of a `Several`, aligned to 64. It belongs to
        // the filter until the parent completes.
        unsafe { several.write(Several { pending: Cell::new(count), status: Cell::new(0) }) };
        let children: Vec<_> = chan.bases.iter().map(|&base| abi::derive(base, io)).collect();
        for child in children {
            abi::submit(child, part_done, io.cast());
        }
    }
}

impl Chan {
    fn filter(&self) -> &Filter {
        // SAFETY: the filter outlives its channels: the bus destroys them before it destructs the filter.
        unsafe { &*self.filter }
    }
}

/// The filter behind the argument of a function of `OPS` or of an event.
fn filter<'a>(ctx: *mut c_void) -> &'a Filter {
    // SAFETY: `register` passed the filter as the context and to `open`. The simulation keeps it until
    // the host has destructed it, and `destruct` closes its descriptors.
    unsafe { &*ctx.cast::<Filter>() }
}

/// The channel behind the pointer that `chan_create` gave to the host.
fn channel<'a>(chan: *mut c_void) -> &'a Chan {
    // SAFETY: `Filter::chans` keeps the channel until `chan_destroy`, which the host calls when the
    // channel has no I/O left, and never inside another call of the channel.
    unsafe { &*chan.cast::<Chan>() }
}

unsafe extern "C" fn child_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: the filter has borrowed the parent, which `left` returns, and gives it back here. The host
    // keeps the child until this callback returns.
    unsafe { client().complete_from.unwrap()(host(), left(arg), child, status) };
}

unsafe extern "C" fn part_done(arg: *mut c_void, _child: *mut bay_io, status: i32) {
    // SAFETY: `arg` is the parent. `pass_on` wrote a `Several` to its `drv_ctx`, which stays in place until
    // the last child completes the parent.
    let several = unsafe { &*fields(arg.cast()).drv_ctx.cast::<Several>() };
    if status != 0 {
        several.status.set(status);
    }
    several.pending.set(several.pending.get() - 1);
    if several.pending.get() == 0 {
        let status = several.status.get();
        end(left(arg), status);
    }
}

/// Takes the parent back from its channel.
fn left(arg: *mut c_void) -> *mut bay_io {
    let io = arg.cast::<bay_io>();
    let chan = channel(fields(io).link); // `submit` set the link
    assert_eq!(chan.thread, thread::current_id(), "completed on another thread");
    chan.in_flight.set(chan.in_flight.get() - 1);
    io
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    let chan = channel(chan);
    let filter = chan.filter();
    let _entered = Entered::new(&chan.entered);
    filter.check(&fields(io));
    // SAFETY: the host lends `io` to the filter here, and `link` is the filter's until it gives `io` back.
    unsafe { (*io).link = (&raw const *chan).cast_mut().cast() };
    chan.in_flight.set(chan.in_flight.get() + 1);
    if matches!(filter.kind, Kind::Later) && sim().rng.chance(60) {
        return chan.kept.borrow_mut().push(io);
    }
    filter.pass_on(chan, io);
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    let filter = filter(bdev);
    let mut bases = Vec::new();
    for &desc in filter.bases.borrow().iter() {
        match get_chan(desc) {
            Ok(base) => bases.push(base),
            Err(errno) => {
                bases.into_iter().for_each(put_chan);
                return errno;
            }
        }
    }
    // SAFETY: the host's arguments are valid during the call.
    let args = unsafe { *args };
    let made = Rc::new(Chan {
        filter,
        thread: args.thread,
        bases,
        kept: RefCell::default(),
        in_flight: Cell::new(0),
        entered: Cell::new(false),
    });
    // SAFETY: the host passes a place for the channel.
    unsafe { chan.write(Rc::as_ptr(&made).cast_mut().cast()) };
    filter.chans.borrow_mut().push(made);
    0
}

unsafe extern "C" fn chan_destroy(bdev: *mut c_void, chan: *mut c_void) -> i32 {
    let is_it = |other: &Rc<Chan>| ptr::eq(Rc::as_ptr(other), chan.cast::<Chan>());
    let chan = take_first(&filter(bdev).chans, is_it).expect("a channel of this filter");
    assert_eq!(chan.in_flight.get(), 0, "a channel with I/O was destroyed");
    assert_eq!(chan.thread, thread::current_id());
    chan.bases.iter().copied().for_each(put_chan);
    0
}

unsafe extern "C" fn destruct(bdev: *mut c_void) -> i32 {
    let filter = filter(bdev);
    assert!(filter.chans.borrow().is_empty(), "destructed with open channels");
    assert!(!filter.destructed.replace(true), "destructed twice");
    filter.bases.take().into_iter().for_each(close);
    0
}

unsafe extern "C" fn on_event(arg: *mut c_void, event: u32, value: u64) {
    let filter = filter(arg);
    let grows = matches!(filter.kind, Kind::Pass | Kind::Later);
    if event == BAY_EVENT_REMOVE {
        filter.unregister();
    } else if event == BAY_EVENT_RESIZE && grows && !filter.unregistered.get() {
        let status = abi::resize(filter.id.get(), value);
        assert_eq!(status, 0, "resize of a filter");
    }
}

impl Filter {
    /// Unregisters the filter, once. App thread.
    pub(crate) fn unregister(&self) {
        if !self.unregistered.replace(true) {
            sim().unregister(self.id.get());
        }
    }
}
