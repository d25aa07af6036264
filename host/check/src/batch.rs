//! A list of I/O on one lightweight thread: so many at once, each one's end kept, all told at the
//! end. The memory of the data is the batch's, so that an I/O which never ends harms nobody.
#![expect(unsafe_code, reason = "lends its memory to requests")]

use crate::breach;
use crate::client::own_host;
use crate::guard::bdev::{Channel as ModuleChannel, flush_module};
use crate::guard::core;
use crate::guard::request::{self, Origin, op_name};
use drivebay_core::env::memory;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};

/// Where pieces of data begin.
const PAGE: usize = 4096;
/// Bytes behind each piece that nobody may write to.
const FENCE: usize = 64;
const FENCE_BYTE: u8 = 0xa5;

/// One I/O to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// `BAY_OP_*`.
    pub op: u16,
    /// Must-understand and other flags.
    pub flags: u32,
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub nblocks: u64,
    /// What is written or compared; where a read goes.
    pub data: Vec<u8>,
    /// Lengths of the elements of the list, in bytes; together the data. Empty = one element.
    pub pieces: Vec<usize>,
}

impl Io {
    /// An I/O without data.
    #[must_use]
    pub fn new(op: u16, lba: u64, nblocks: u64) -> Self {
        Self { op, lba, nblocks, ..Self::default() }
    }

    /// With so much data, or place for it.
    #[must_use]
    pub fn with(mut self, data: Vec<u8>) -> Self {
        self.data = data;
        self
    }

    /// With elements of these lengths.
    #[must_use]
    pub fn in_pieces(mut self, pieces: Vec<usize>) -> Self {
        self.pieces = pieces;
        self
    }

    fn piece_lens(&self) -> Vec<usize> {
        match (self.pieces.is_empty(), self.data.is_empty()) {
            (false, _) => self.pieces.clone(),
            (true, true) => Vec::new(),
            (true, false) => vec![self.data.len()],
        }
    }
}

/// One I/O that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The I/O; a read's data is what was read.
    pub io: Io,
    /// How it ended.
    pub status: i32,
}

/// Where I/O goes.
#[derive(Clone, Copy)]
pub(crate) enum Via {
    /// Through the bus, on a channel of this thread.
    Bus(u64),
    /// To a module, on its channel of this thread.
    Module(*const ModuleChannel),
}

// SAFETY: only carried to the thread of the channel.
unsafe impl Send for Via {}

type Done = Box<dyn FnOnce(Vec<Ended>)>;

/// A list of I/O under way.
pub(crate) struct Batch {
    via: Via,
    places: Vec<Place>,
    depth: usize,
    next: Cell<usize>,
    in_flight: Cell<usize>,
    /// The stack has `go_on` already.
    is_going: Cell<bool>,
    memory: Memory,
    done: RefCell<Option<Done>>,
}

/// One I/O with its list.
struct Place {
    batch: Cell<*const Batch>,
    io: Io,
    list: Vec<bay_iov>,
    status: Cell<Option<i32>>,
}

/// Memory of the host that devices can reach.
struct Memory(Option<NonNull<u8>>);

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(addr) = self.0 {
            memory::free(addr.as_ptr());
        }
    }
}

impl Batch {
    /// Begins the list on the current lightweight thread; `done` is called there.
    pub(crate) fn begin(
        via: Via,
        ios: Vec<Io>,
        depth: usize,
        done: impl FnOnce(Vec<Ended>) + 'static,
    ) {
        let len: usize = ios.iter().flat_map(Io::piece_lens).map(room).sum();
        let Ok((addr, region)) = memory::alloc(len.max(PAGE), PAGE) else {
            return done(ios.into_iter().map(|io| Ended { io, status: -libc::ENOMEM }).collect());
        };
        let mut at = 0;
        let places = ios.into_iter().map(|io| Place::new(io, addr, region, &mut at)).collect();
        let batch = Box::leak(Box::new(Self {
            via,
            places,
            depth: depth.max(1),
            next: Cell::new(0),
            in_flight: Cell::new(0),
            is_going: Cell::new(false),
            memory: Memory(Some(addr)),
            done: RefCell::new(Some(Box::new(done))),
        }));
        let address: *const Self = batch;
        batch.places.iter().for_each(|place| place.batch.set(address));
        batch.go_on();
        Self::end_if_over(address);
    }

    /// Submits as much as may be in flight. I/O that ends inside of its submit is seen here.
    fn go_on(&self) {
        if self.is_going.replace(true) {
            return;
        }
        let mut sent = false;
        while self.in_flight.get() < self.depth {
            let Some(place) = self.places.get(self.next.get()) else { break };
            self.next.set(self.next.get() + 1);
            self.in_flight.set(self.in_flight.get() + 1);
            sent = true;
            match self.via {
                Via::Bus(channel) => place.to_bus(channel),
                Via::Module(channel) => place.to_module(channel),
            }
        }
        if sent && let Via::Module(channel) = self.via {
            // SAFETY: the channel lives until after the batch.
            flush_module(unsafe { &*channel });
        }
        self.is_going.set(false);
    }

    /// Tells the end, once, when nothing is left. The batch is gone then.
    fn end_if_over(this: *const Self) {
        // SAFETY: leaked by `begin`, and freed below only.
        let batch = unsafe { &*this };
        if batch.in_flight.get() > 0
            || batch.next.get() < batch.places.len()
            || batch.is_going.get()
        {
            return;
        }
        let Some(done) = batch.done.take() else { return };
        // SAFETY: leaked by `begin`; nothing of it is in flight.
        let batch = unsafe { Box::from_raw(this.cast_mut()) };
        let ended: Vec<Ended> = batch.places.into_iter().map(Place::ended).collect();
        drop(batch.memory);
        done(ended);
    }
}

/// Bytes that a piece takes, its fence included.
fn room(len: usize) -> usize {
    (len + FENCE).next_multiple_of(PAGE)
}

impl Place {
    fn new(io: Io, memory: NonNull<u8>, region: u32, at: &mut usize) -> Self {
        let mut rest = io.data.as_slice();
        let mut list = Vec::new();
        for len in io.piece_lens() {
            let addr = memory.as_ptr().wrapping_add(*at);
            let (data, after) = rest.split_at(len.min(rest.len()));
            // SAFETY: `begin` allocated room for every piece, and `at` goes through it in order.
            unsafe { ptr::copy_nonoverlapping(data.as_ptr(), addr, data.len()) };
            // SAFETY: as above; the fence lies in the piece's room.
            unsafe { addr.wrapping_add(len).write_bytes(FENCE_BYTE, FENCE) };
            let len_32 = u32::try_from(len).unwrap_or(u32::MAX);
            list.push(bay_iov { addr: addr.cast(), len: len_32, region });
            rest = after;
            *at += room(len);
        }
        Self { batch: Cell::new(ptr::null()), io, list, status: Cell::new(None) }
    }

    fn fill(&self, to: &mut bay_io) {
        to.op = self.io.op;
        to.flags = self.io.flags;
        (to.lba, to.nblocks) = (self.io.lba, self.io.nblocks);
        to.iov = if self.list.is_empty() { ptr::null() } else { self.list.as_ptr() };
        to.iovcnt = u16::try_from(self.list.len()).unwrap_or(u16::MAX);
    }

    fn arg(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    fn to_bus(&self, channel: u64) {
        let api = core::client();
        let (Some(get), Some(submit)) = (api.io_get, api.submit) else { return };
        // SAFETY: a channel of this thread; nobody waits.
        let io = unsafe { get(own_host(), channel, ptr::null_mut()) };
        if io.is_null() {
            return self.end(-libc::ENOBUFS);
        }
        // SAFETY: a fresh request of the bus's.
        self.fill(unsafe { &mut *io });
        // SAFETY: filled; list, data and argument stay until the end.
        unsafe { submit(own_host(), io, Some(ended), self.arg()) };
    }

    fn to_module(&self, channel: *const ModuleChannel) {
        // SAFETY: numbers, raw pointers and optional functions may all be zero.
        let mut io: bay_io = unsafe { std::mem::zeroed() };
        self.fill(&mut io);
        io.id = ptr::from_ref(self) as u64;
        // SAFETY: alive until after the batch.
        let channel = unsafe { &*channel };
        request::submit(channel, &io, Origin::Suite(ended, self.arg()));
    }

    fn end(&self, status: i32) {
        let batch = self.batch.get();
        if self.status.replace(Some(status)).is_some() {
            return breach::record(
                "the client's callback comes once",
                format!("{} ended twice for its client", op_name(self.io.op)),
            );
        }
        // SAFETY: a batch lives until all of its I/O has ended.
        let going = unsafe { &*batch };
        going.in_flight.set(going.in_flight.get() - 1);
        going.go_on();
        Batch::end_if_over(batch);
    }

    /// What became of it.
    fn ended(self) -> Ended {
        let mut io = self.io;
        let reads = io.op == BAY_OP_READ;
        let mut found = Vec::with_capacity(io.data.len());
        for piece in &self.list {
            let len = piece.len as usize;
            // SAFETY: the piece and its fence lie in the batch's memory; nothing is in flight.
            let seen = unsafe { std::slice::from_raw_parts(piece.addr.cast::<u8>(), len + FENCE) };
            let (data, fence) = seen.split_at(len);
            found.extend_from_slice(data);
            if fence.iter().any(|byte| *byte != FENCE_BYTE) {
                breach::record(
                    "memory outside of the buffers is not written",
                    format!("{} wrote behind an element of its list", op_name(io.op)),
                );
            }
        }
        if reads {
            io.data = found;
        } else if found != io.data {
            breach::record(
                "the buffers of a write are not written",
                format!("{} changed its buffers", op_name(io.op)),
            );
        }
        Ended { io, status: self.status.get().unwrap_or(-libc::EIO) }
    }
}

unsafe extern "C" fn ended(arg: *mut c_void, _io: *mut bay_io, status: i32) {
    // SAFETY: the place that the I/O was submitted with, which lives until the batch is over.
    unsafe { &*arg.cast_const().cast::<Place>() }.end(status);
}
