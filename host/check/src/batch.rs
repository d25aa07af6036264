//! A list of I/O on one lightweight thread: runs a limited number at a time, records how each one
//! completed, and reports all of them at the end. The batch owns the memory of the data, so an I/O
//! that never completes harms nobody.
#![expect(unsafe_code, reason = "passes its memory to requests")]

use crate::breach;
use crate::client::own_host;
use crate::guard::bdev::{GuardedChannel, flush_module};
use crate::guard::core;
use crate::guard::request::{self, Origin, op_name};
use drivebay_core::env::memory;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};

/// The alignment of pieces of data.
const PAGE: usize = 4096;
/// The number of bytes after each piece that nobody may write to.
const FENCE: usize = 64;
const FENCE_BYTE: u8 = 0xa5;

/// One I/O to submit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// `BAY_OP_*`.
    pub op: u16,
    /// The flags of the I/O.
    pub flags: u32,
    /// The first block.
    pub lba: u64,
    /// The number of blocks.
    pub nblocks: u64,
    /// The data to write or to compare, or the memory for a read.
    pub data: Vec<u8>,
    /// The lengths of the elements of the list, in bytes. Together they cover the data. Empty = one
    /// element.
    pub pieces: Vec<usize>,
}

impl Io {
    /// An I/O without data.
    #[must_use]
    pub fn new(op: u16, lba: u64, nblocks: u64) -> Self {
        Self { op, lba, nblocks, ..Self::default() }
    }

    /// Adds the data, or the memory for a read.
    #[must_use]
    pub fn with(mut self, data: Vec<u8>) -> Self {
        self.data = data;
        self
    }

    /// Splits the data into elements of these lengths.
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

/// One I/O that has completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The I/O. For a read, its data is what was read.
    pub io: Io,
    /// The status of its completion.
    pub status: i32,
}

/// The receiver of I/O.
#[derive(Clone, Copy)]
pub(crate) enum Via {
    /// The bus, on a channel of this thread.
    Bus(u64),
    /// The module itself, without the bus, on its channel of this thread.
    Module(*const GuardedChannel),
}

// SAFETY: it is only carried to the thread of the channel.
unsafe impl Send for Via {}

type Done = Box<dyn FnOnce(Vec<Completed>)>;

/// A list of I/O in progress.
pub(crate) struct Batch {
    via: Via,
    places: Vec<Place>,
    depth: usize,
    next: Cell<usize>,
    in_flight: Cell<usize>,
    /// Whether `go_on` is already on the stack.
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

/// DMA memory of the host.
struct Memory(Option<NonNull<u8>>);

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(addr) = self.0 {
            memory::free(addr.as_ptr());
        }
    }
}

impl Batch {
    /// Starts the list on the current lightweight thread. `done` is called on this thread.
    pub(crate) fn begin(
        via: Via,
        ios: Vec<Io>,
        depth: usize,
        done: impl FnOnce(Vec<Completed>) + 'static,
    ) {
        let len: usize = ios.iter().flat_map(Io::piece_lens).map(room).sum();
        let Ok((addr, region)) = memory::alloc(len.max(PAGE), PAGE) else {
            return done(
                ios.into_iter().map(|io| Completed { io, status: -libc::ENOMEM }).collect(),
            );
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

    /// Submits as many I/Os as may be in flight. I/O that completes inside its submit is handled
    /// here.
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
            // SAFETY: the channel lives longer than the batch.
            flush_module(unsafe { &*channel });
        }
        self.is_going.set(false);
    }

    /// When nothing is left, reports the results, once, and frees the batch.
    fn end_if_over(this: *const Self) {
        // SAFETY: `begin` leaked it, and it is only freed below.
        let batch = unsafe { &*this };
        if batch.in_flight.get() > 0
            || batch.next.get() < batch.places.len()
            || batch.is_going.get()
        {
            return;
        }
        let Some(done) = batch.done.take() else { return };
        // SAFETY: `begin` leaked it, and none of its I/O is in flight.
        let batch = unsafe { Box::from_raw(this.cast_mut()) };
        let ended: Vec<Completed> = batch.places.into_iter().map(Place::result).collect();
        drop(batch.memory);
        done(ended);
    }
}

/// The number of bytes that a piece takes, including its fence.
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
            // SAFETY: as above; the fence is inside the piece's room.
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
        // SAFETY: it is a channel of this thread, and the call passes no waiter.
        let io = unsafe { get(own_host(), channel, ptr::null_mut()) };
        if io.is_null() {
            return self.end(-libc::ENOBUFS);
        }
        // SAFETY: it is a new request of the bus.
        self.fill(unsafe { &mut *io });
        // SAFETY: the request is filled. The list, the data and the argument stay valid until the
        // completion.
        unsafe { submit(own_host(), io, Some(io_done), self.arg()) };
    }

    fn to_module(&self, channel: *const GuardedChannel) {
        // SAFETY: numbers, raw pointers and optional functions may all be zero.
        let mut io: bay_io = unsafe { std::mem::zeroed() };
        self.fill(&mut io);
        io.id = ptr::from_ref(self) as u64;
        // SAFETY: the channel lives longer than the batch.
        let channel = unsafe { &*channel };
        request::submit(channel, &io, Origin::Suite(io_done, self.arg()));
    }

    fn end(&self, status: i32) {
        let batch = self.batch.get();
        if self.status.replace(Some(status)).is_some() {
            return breach::record(
                "the client's callback is called once",
                format!("{} completed twice for its client", op_name(self.io.op)),
            );
        }
        // SAFETY: a batch lives until all of its I/O has completed.
        let going = unsafe { &*batch };
        going.in_flight.set(going.in_flight.get() - 1);
        going.go_on();
        Batch::end_if_over(batch);
    }

    /// The result of this I/O.
    fn result(self) -> Completed {
        let mut io = self.io;
        let reads = io.op == BAY_OP_READ;
        let mut found = Vec::with_capacity(io.data.len());
        for piece in &self.list {
            let len = piece.len as usize;
            // SAFETY: the piece and its fence are inside the batch's memory, and nothing is in
            // flight.
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
        Completed { io, status: self.status.get().unwrap_or(-libc::EIO) }
    }
}

unsafe extern "C" fn io_done(arg: *mut c_void, _io: *mut bay_io, status: i32) {
    // SAFETY: the I/O was submitted with this place, which lives until the batch has ended.
    unsafe { &*arg.cast_const().cast::<Place>() }.end(status);
}
