//! One I/O: the ABI's request with the host's private part before it. Also the pool from which channels take
//! I/Os.

use super::channel::Channel;
use crate::reactor::clock;
use drivebay_plugin_api::{bay_io, bay_io_cb_fn, bay_iov};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// The host's private part and the request. The module's `drv_ctx_size` bytes follow in memory.
///
/// # Invariants
/// A slot lives as long as the channel whose pool it came from. Until a filter passes the I/O on, that
/// channel is `channel`. Between `Pool::get` and `Pool::put` exactly one party owns the I/O: the client that
/// fills it, the bus, or a module.
#[repr(C, align(64))]
pub(crate) struct Slot {
    // First cache line: fields that every I/O needs.
    /// The channel that the I/O is on now.
    channel: Cell<*const Channel>,
    pub(super) cb: Cell<bay_io_cb_fn>,
    pub(super) arg: Cell<*mut c_void>,
    /// Link of the queue or free list that contains the I/O.
    next: Cell<*mut Slot>,
    /// When the I/O arrived on its current channel.
    pub(super) submitted_ns: Cell<u64>,
    /// How many filters have passed it on: the number of valid elements in `way`.
    hops: Cell<u16>,
    /// What the completion must know about the I/O; see [`State`].
    pub(super) state: State,
    /// Whether the client's descriptor may write.
    pub(super) writable: Cell<bool>,
    // Second cache line: fields of an I/O that was split into parts.
    /// The status of the first part that failed; 0 = none has.
    pub(super) failure: Cell<i32>,
    /// Parts in flight.
    pub(super) pending: Cell<u32>,
    /// The number of blocks that are done or were started.
    pub(super) progress: Cell<u64>,
    /// The buffer of a bounced or emulated I/O, its length as requested, and its region.
    pub(super) buffer: Cell<(*mut u8, u32, u32)>,
    /// The scatter/gather list of a part. Its memory is reused.
    pub(super) list: RefCell<Vec<bay_iov>>,
    /// For a child: the id of the client's I/O that it was derived from, and the child's own id at that time.
    descent: Cell<(u64, u64)>,
    /// The filters that passed the I/O on, the outermost first.
    way: [Hop; MOST_HOPS],
    pub(super) request: UnsafeCell<bay_io>,
}

/// What the completion of an I/O must know, in one byte.
pub(super) struct State(Cell<u8>);

impl State {
    /// The I/O is at the module.
    const SENT: u8 = 1;
    /// The I/O is a part of another I/O.
    const PART: u8 = 2;
    /// The I/O is a reset.
    const RESET: u8 = 4;
    /// The statistics have no row for the op.
    const RARE: u8 = 8;

    /// Whether the I/O is at the module and no other bit is set.
    #[inline]
    pub(super) fn is_just_sent(&self) -> bool {
        self.0.get() == Self::SENT
    }

    pub(super) fn is_sent(&self) -> bool {
        self.0.get() & Self::SENT != 0
    }

    pub(super) fn is_reset(&self) -> bool {
        self.0.get() & Self::RESET != 0
    }

    #[inline]
    pub(super) fn set_sent(&self) {
        self.0.set(self.0.get() | Self::SENT);
    }

    #[inline]
    pub(super) fn clear_sent(&self) {
        self.0.set(self.0.get() & !Self::SENT);
    }

    pub(super) fn set_rare(&self) {
        self.0.set(self.0.get() | Self::RARE);
    }

    pub(super) fn set_reset(&self) {
        self.0.set(self.0.get() | Self::RESET);
    }
}

/// The state that an I/O had at a filter, to restore on the way back.
struct Hop {
    channel: Cell<*const Channel>,
    submitted_ns: Cell<u64>,
    lba: Cell<u64>,
}

/// The callback of an I/O whose client set no callback. It does nothing.
unsafe extern "C" fn nobody_is_told(_arg: *mut c_void, _io: *mut bay_io, _status: i32) {}

/// How many filters can pass on the same request. After that many, the bus uses a child request.
pub(super) const MOST_HOPS: usize = 5;

const _: () = assert!(offset_of!(Slot, failure) <= 64 && offset_of!(Slot, request) == 256);

/// A reference to an I/O, copied freely inside the bus. The invariants of [`Slot`] say who may use
/// the I/O when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Io(NonNull<Slot>);

impl std::ops::Deref for Io {
    type Target = Slot;
    fn deref(&self) -> &Slot {
        // SAFETY: a slot lives as long as its pool's channel, and the channel outlives its I/O.
        unsafe { self.0.as_ref() }
    }
}

impl Io {
    /// Returns the slot around a request.
    ///
    /// # Safety
    /// `io` came from [`Io::abi`] and its slot is alive.
    pub(crate) unsafe fn from_abi(io: *mut bay_io) -> Self {
        // SAFETY: requests only exist as this field of a slot.
        let slot = unsafe { io.byte_sub(offset_of!(Slot, request)) };
        // SAFETY: a field's struct is not at address 0.
        Self(unsafe { NonNull::new_unchecked(slot.cast()) })
    }

    pub(crate) fn abi(self) -> *mut bay_io {
        self.request.get()
    }

    /// The channel that the I/O is on now.
    pub(super) fn channel<'a>(self) -> &'a Channel {
        // SAFETY: a channel does not move, outlives its slots, and is not freed while I/O that was
        // passed to it is in flight. No caller keeps the borrow beyond the channel's end.
        unsafe { &*self.channel.get() }
    }

    /// Whether it is a part of another I/O on its current channel. Parts are not counted in the
    /// statistics.
    pub(super) fn is_part(self) -> bool {
        self.state.0.get() & State::PART != 0 && !self.is_passed()
    }

    /// Whether a filter has passed the I/O on, so that the I/O returns to that filter when it completes.
    pub(super) fn is_passed(self) -> bool {
        self.hops.get() != 0
    }

    /// The only element of its scatter/gather list, if there is exactly one.
    #[inline]
    pub(super) fn only_piece(&self) -> Option<&bay_iov> {
        let request = self.request();
        if request.iovcnt != 1 {
            return None;
        }
        // SAFETY: null, or valid: the client keeps the element until completion (ABI, `submit`).
        unsafe { request.iov.as_ref() }
    }

    /// Prepares an I/O from the pool for a client (`part` is false) or as a part.
    pub(super) fn begin(self, writable: bool, part: bool) {
        self.writable.set(writable);
        self.state.0.set(if part { State::PART } else { 0 });
        self.change(|request| {
            request.holds = 0;
            // The slot still has the metadata pointer of the previous I/O, which is not valid for this I/O.
            request.md = ptr::null_mut();
        });
    }

    /// Borrows the request.
    pub(super) fn request(&self) -> &bay_io {
        // SAFETY: the caller owns the I/O, so nobody else writes to it.
        unsafe { &*self.request.get() }
    }

    /// Changes the request. The closure must not access the request in another way.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut bay_io) -> T) -> T {
        // SAFETY: the caller owns the I/O, and the closure has the only reference.
        f(unsafe { &mut *self.request.get() })
    }

    /// The scatter/gather list.
    pub(super) fn iov(&self) -> &[bay_iov] {
        let request = self.request();
        if request.iov.is_null() {
            return &[];
        }
        // SAFETY: the client keeps `iovcnt` elements valid until completion (ABI, `submit`).
        unsafe { std::slice::from_raw_parts(request.iov, usize::from(request.iovcnt)) }
    }

    /// Records that this I/O is a child of `parent`, so that an abort of the client's I/O also
    /// aborts this one.
    pub(super) fn descend_from(self, parent: Self) {
        self.descent.set((parent.root_id(), self.request().id));
    }

    /// The id of the client's I/O that this I/O is or was derived from.
    fn root_id(self) -> u64 {
        let (own, (root, of)) = (self.request().id, self.descent.get());
        if of == own { root } else { own }
    }

    /// Whether an abort of the id `id` applies to this I/O.
    pub(super) fn is_named(self, id: u64) -> bool {
        self.request().id == id || self.root_id() == id
    }

    /// Converts the I/O to the argument of a callback.
    pub(super) fn into_arg(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// Converts a callback's argument back to the I/O.
    ///
    /// # Safety
    /// `arg` came from [`Io::into_arg`] and the slot is alive.
    pub(super) unsafe fn from_arg(arg: *mut c_void) -> Self {
        // SAFETY: the caller guarantees this.
        Self(unsafe { NonNull::new_unchecked(arg.cast()) })
    }
}

impl Io {
    /// Moves the I/O on to `base`, the next bdev below. Returns false when it has already passed through the
    /// maximum number of filters.
    #[inline]
    pub(super) fn hop(self, base: &Channel) -> bool {
        let hops = self.hops.get();
        let Some(hop) = self.way.get(usize::from(hops)) else { return false };
        hop.channel.set(self.channel.replace(base));
        hop.submitted_ns.set(self.submitted_ns.replace(clock::of_round()));
        hop.lba.set(self.request().lba);
        self.hops.set(hops + 1);
        true
    }

    /// Whether the I/O is at the module of `channel`, which has not passed it on.
    pub(super) fn is_at_module_of(self, channel: &Channel) -> bool {
        ptr::eq(self.channel.get(), channel) && self.state.is_sent()
    }

    /// The first block of the I/O as the module of `channel` got it, even if the module has passed
    /// it on since. `None` when the module does not have it.
    pub(super) fn lba_at_module(self, channel: &Channel) -> Option<u64> {
        if self.is_at_module_of(channel) {
            return Some(self.request().lba);
        }
        let way = self.way.get(..usize::from(self.hops.get()))?;
        way.iter().find(|hop| ptr::eq(hop.channel.get(), channel)).map(|hop| hop.lba.get())
    }

    /// Moves the I/O back to the filter that passed it on last; `None` when there is none.
    #[inline]
    pub(super) fn hop_back<'a>(self) -> Option<&'a Channel> {
        self.hop_back_if(|_| true)
    }

    /// As `hop_back`, but only if `is_wanted` accepts the filter; otherwise `None`.
    #[inline]
    pub(super) fn hop_back_if<'a>(
        self,
        is_wanted: impl FnOnce(&Channel) -> bool,
    ) -> Option<&'a Channel> {
        let left = self.hops.get().wrapping_sub(1);
        let hop = self.way.get(usize::from(left))?;
        // SAFETY: as in `channel`; each hop in use has a channel.
        let filter = unsafe { &*hop.channel.get() };
        if !is_wanted(filter) {
            return None;
        }
        self.hops.set(left);
        self.channel.set(filter);
        self.submitted_ns.set(hop.submitted_ns.get());
        Some(filter)
    }
}

/// A first-in, first-out queue, linked through the slots.
#[derive(Default)]
pub(super) struct Queue {
    head: Cell<Option<Io>>,
    tail: Cell<Option<Io>>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    pub(super) fn front(&self) -> Option<Io> {
        self.head.get()
    }

    pub(super) fn push_back(&self, io: Io) {
        io.next.set(ptr::null_mut());
        match self.tail.replace(Some(io)) {
            Some(last) => last.next.set(io.0.as_ptr()),
            None => self.head.set(Some(io)),
        }
    }

    pub(super) fn push_front(&self, io: Io) {
        let head = self.head.replace(Some(io));
        io.next.set(head.map_or(ptr::null_mut(), |head| head.0.as_ptr()));
        if head.is_none() {
            self.tail.set(Some(io));
        }
    }

    pub(super) fn pop_front(&self) -> Option<Io> {
        let io = self.head.get()?;
        let next = NonNull::new(io.next.get()).map(Io);
        self.head.set(next);
        if next.is_none() {
            self.tail.set(None);
        }
        Some(io)
    }

    /// Moves everything into a new queue and returns it.
    pub(super) fn take(&self) -> Self {
        Self { head: Cell::new(self.head.take()), tail: Cell::new(self.tail.take()) }
    }

    /// Removes the first I/O to which an abort of `id` applies.
    pub(super) fn remove(&self, id: u64) -> Option<Io> {
        let mut found = None;
        let rest = Self::default();
        while let Some(io) = self.pop_front() {
            if found.is_none() && io.is_named(id) {
                found = Some(io);
            } else {
                rest.push_back(io);
            }
        }
        self.head.set(rest.head.get());
        self.tail.set(rest.tail.get());
        found
    }
}

/// The free I/Os of one channel. The I/O that was freed last is used first, so that few I/Os stay in use and
/// in the CPU cache.
pub(super) struct Pool {
    free: Cell<*mut Slot>,
    chunks: RefCell<Vec<Chunk>>,
    stride: usize,
    made: Cell<u32>,
}

/// I/Os that were allocated together.
struct Chunk {
    first: NonNull<u8>,
    layout: std::alloc::Layout,
    count: usize,
}

/// The maximum number of I/O in one allocation.
const CHUNK: u32 = 32;

impl Pool {
    /// Creates a pool of I/O with `drv_ctx_size` bytes for the module. It is empty at first.
    pub(super) fn new(drv_ctx_size: u32) -> Self {
        let stride = size_of::<Slot>() + (drv_ctx_size as usize).next_multiple_of(64);
        Self {
            free: Cell::new(ptr::null_mut()),
            chunks: RefCell::default(),
            stride,
            made: Cell::new(0),
        }
    }

    /// The number of bytes that each I/O has for the module.
    pub(super) fn drv_ctx_size(&self) -> usize {
        self.stride - size_of::<Slot>()
    }

    /// The number of I/O allocated so far, free or not.
    pub(super) fn made(&self) -> u32 {
        self.made.get()
    }

    /// Returns an I/O with a new id, if one is free.
    pub(super) fn get_free(&self) -> Option<Io> {
        let io = Io(NonNull::new(self.free.get())?);
        self.free.set(io.next.get());
        // The upper half of the id counts how often the slot was used.
        io.change(|request| request.id = request.id.wrapping_add(1 << 32));
        Some(io)
    }

    /// Whether `is_so` returns true for one of the pool's I/Os, free or not. It visits all I/Os of the pool,
    /// so it is slow.
    pub(super) fn any(&self, is_so: impl Fn(Io) -> bool) -> bool {
        self.chunks.borrow().iter().any(|chunk| {
            (0..chunk.count).any(|index| {
                // SAFETY: `index * stride` is inside the chunk.
                let slot = unsafe { chunk.first.add(index * self.stride) };
                is_so(Io(slot.cast()))
            })
        })
    }

    /// Returns an I/O with a new id. The pool grows when none is free.
    pub(super) fn get(&self, channel: &Channel) -> Io {
        loop {
            match self.get_free() {
                Some(io) => return io,
                None => self.grow(channel),
            }
        }
    }

    pub(super) fn put(&self, io: Io) {
        io.next.set(self.free.replace(io.0.as_ptr()));
    }

    #[cold]
    fn grow(&self, channel: &Channel) {
        // Allocates up to the clients' limit. Beyond it one at a time, because only parts and
        // children may exceed the limit.
        let left = super::channel::most_io().saturating_sub(self.made.get());
        let count = left.clamp(1, CHUNK) as usize;
        let size = self.stride * count;
        let Ok(layout) = std::alloc::Layout::from_size_align(size, 64) else {
            std::process::abort() // a driver context of gigabytes was refused at registration
        };
        // SAFETY: the size is not 0.
        let chunk = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(chunk) = NonNull::new(chunk) else { std::alloc::handle_alloc_error(layout) };
        for index in 0..count {
            // SAFETY: `index * stride` is inside the chunk.
            let slot = unsafe { chunk.add(index * self.stride) }.cast::<Slot>();
            // SAFETY: `stride - size_of::<Slot>()` bytes of driver context follow the slot.
            let drv_ctx = unsafe { slot.add(1) }.cast::<c_void>();
            let fresh = Slot::new(channel, drv_ctx.as_ptr());
            // SAFETY: aligned to 64, inside the chunk, not yet in use.
            unsafe { slot.write(fresh) };
            self.put(Io(slot));
            self.made.set(self.made.get() + 1);
        }
        self.chunks.borrow_mut().push(Chunk { first: chunk, layout, count });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        while let Some(slot) = NonNull::new(self.free.get()) {
            self.free.set(Io(slot).next.get());
            // SAFETY: the slot is on the free list, so nobody uses it; its chunk is freed below.
            unsafe { slot.drop_in_place() };
        }
        for Chunk { first, layout, .. } in self.chunks.take() {
            // SAFETY: allocated by `grow` with this layout.
            unsafe { std::alloc::dealloc(first.as_ptr(), layout) };
        }
    }
}

impl Slot {
    fn new(channel: &Channel, drv_ctx: *mut c_void) -> Self {
        // One counter for the whole process, because an I/O that a filter passes on keeps its id on
        // other channels.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            channel: Cell::new(channel),
            cb: Cell::new(nobody_is_told),
            arg: Cell::new(ptr::null_mut()),
            next: Cell::new(ptr::null_mut()),
            submitted_ns: Cell::new(0),
            hops: Cell::new(0),
            state: State(Cell::new(0)),
            writable: Cell::new(false),
            failure: Cell::new(0),
            pending: Cell::new(0),
            progress: Cell::new(0),
            buffer: Cell::new((ptr::null_mut(), 0, 0)),
            list: RefCell::default(),
            descent: Cell::new((0, 0)),
            way: [const {
                Hop {
                    channel: Cell::new(ptr::null()),
                    submitted_ns: Cell::new(0),
                    lba: Cell::new(0),
                }
            }; MOST_HOPS],
            request: UnsafeCell::new(bay_io {
                done: Some(super::complete::done),
                drv_ctx,
                id: NEXT.fetch_add(1, Ordering::Relaxed).into(),
                ..bay_io::EMPTY
            }),
        }
    }
}

impl Io {
    /// Gives an I/O that the client did not submit back to its pool.
    pub(crate) fn give_back(self) {
        self.channel().give_back(self);
    }

    /// Sets the function that is called when the I/O completes.
    pub(crate) fn set_callback(self, cb: Option<bay_io_cb_fn>, arg: *mut c_void) {
        self.cb.set(cb.unwrap_or(nobody_is_told));
        self.arg.set(arg);
    }
}
