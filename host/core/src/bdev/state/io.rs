//! One I/O: the ABI's request with the host's private part before it.

use super::Channel;
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
    pub(in crate::bdev) cb: Cell<bay_io_cb_fn>,
    pub(in crate::bdev) arg: Cell<*mut c_void>,
    /// Link of the queue or free list that contains the I/O.
    pub(super) next: Cell<*mut Slot>,
    /// When the I/O arrived on its current channel.
    pub(in crate::bdev) submitted_ns: Cell<u64>,
    /// How many filters have passed it on: the number of valid elements in `way`.
    hops: Cell<u16>,
    /// What the completion must know about the I/O; see [`State`].
    pub(in crate::bdev) state: State,
    /// Whether the client's descriptor may write.
    pub(in crate::bdev) writable: Cell<bool>,
    // Second cache line: fields of an I/O that was split into parts.
    /// The status of the first part that failed; 0 = none has.
    pub(in crate::bdev) failure: Cell<i32>,
    /// Parts in flight.
    pub(in crate::bdev) pending: Cell<u32>,
    /// The number of blocks that are done or were started.
    pub(in crate::bdev) progress: Cell<u64>,
    /// The buffer of a bounced or emulated I/O, its length as requested, and its region.
    pub(in crate::bdev) buffer: Cell<(*mut u8, u32, u32)>,
    /// The scatter/gather list of a part. Its memory is reused.
    pub(in crate::bdev) list: RefCell<Vec<bay_iov>>,
    /// For a child: the id of the client's I/O that it was derived from, and the child's own id at that time.
    descent: Cell<(u64, u64)>,
    /// The filters that passed the I/O on, the outermost first.
    way: [Hop; MOST_HOPS],
    pub(in crate::bdev) request: UnsafeCell<bay_io>,
}

/// What the completion of an I/O must know, in one byte.
pub(in crate::bdev) struct State(Cell<u8>);

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
    pub(in crate::bdev) fn is_just_sent(&self) -> bool {
        self.0.get() == Self::SENT
    }

    pub(in crate::bdev) fn is_sent(&self) -> bool {
        self.0.get() & Self::SENT != 0
    }

    pub(in crate::bdev) fn is_reset(&self) -> bool {
        self.0.get() & Self::RESET != 0
    }

    #[inline]
    pub(in crate::bdev) fn set_sent(&self) {
        self.0.set(self.0.get() | Self::SENT);
    }

    #[inline]
    pub(in crate::bdev) fn clear_sent(&self) {
        self.0.set(self.0.get() & !Self::SENT);
    }

    pub(in crate::bdev) fn set_rare(&self) {
        self.0.set(self.0.get() | Self::RARE);
    }

    pub(in crate::bdev) fn set_reset(&self) {
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
unsafe extern "C" fn no_callback(_arg: *mut c_void, _io: *mut bay_io, _status: i32) {}

/// How many filters can pass on the same request. After that many, the bus uses a child request.
pub(in crate::bdev) const MOST_HOPS: usize = 5;

const _: () = assert!(offset_of!(Slot, failure) <= 64 && offset_of!(Slot, request) == 256);

/// A reference to an I/O, copied freely inside the bus. The invariants of [`Slot`] say who may use
/// the I/O when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Io(pub(super) NonNull<Slot>);

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
    pub(in crate::bdev) fn channel<'a>(self) -> &'a Channel {
        // SAFETY: a channel does not move, outlives its slots, and is not freed while I/O that was
        // passed to it is in flight. No caller keeps the borrow beyond the channel's end.
        unsafe { &*self.channel.get() }
    }

    /// Whether it is a part of another I/O on its current channel. Parts are not counted in the
    /// statistics.
    pub(in crate::bdev) fn is_part(self) -> bool {
        self.state.0.get() & State::PART != 0 && !self.is_passed()
    }

    /// Whether a filter has passed the I/O on, so that the I/O returns to that filter when it completes.
    pub(in crate::bdev) fn is_passed(self) -> bool {
        self.hops.get() != 0
    }

    /// The only element of its scatter/gather list, if there is exactly one.
    #[inline]
    pub(in crate::bdev) fn only_piece(&self) -> Option<&bay_iov> {
        let request = self.request();
        if request.iovcnt != 1 {
            return None;
        }
        // SAFETY: null, or valid: the client keeps the element until completion (ABI, `submit`).
        unsafe { request.iov.as_ref() }
    }

    /// Prepares an I/O from the pool for a client (`part` is false) or as a part.
    pub(in crate::bdev) fn begin(self, writable: bool, part: bool) {
        self.writable.set(writable);
        self.state.0.set(if part { State::PART } else { 0 });
        self.change(|request| {
            request.holds = 0;
            // The slot still has the metadata pointer of the previous I/O, which is not valid for this I/O.
            request.md = ptr::null_mut();
        });
    }

    /// Borrows the request.
    pub(in crate::bdev) fn request(&self) -> &bay_io {
        // SAFETY: the caller owns the I/O, so nobody else writes to it.
        unsafe { &*self.request.get() }
    }

    /// Changes the request. The closure must not access the request in another way.
    pub(in crate::bdev) fn change<T>(&self, f: impl FnOnce(&mut bay_io) -> T) -> T {
        // SAFETY: the caller owns the I/O, and the closure has the only reference.
        f(unsafe { &mut *self.request.get() })
    }

    /// The scatter/gather list.
    pub(in crate::bdev) fn iov(&self) -> &[bay_iov] {
        let request = self.request();
        if request.iov.is_null() {
            return &[];
        }
        // SAFETY: the client keeps `iovcnt` elements valid until completion (ABI, `submit`).
        unsafe { std::slice::from_raw_parts(request.iov, usize::from(request.iovcnt)) }
    }

    /// Records that this I/O is a child of `parent`, so that an abort of the client's I/O also
    /// aborts this one.
    pub(in crate::bdev) fn descend_from(self, parent: Self) {
        self.descent.set((parent.root_id(), self.request().id));
    }

    /// The id of the client's I/O that this I/O is or was derived from.
    fn root_id(self) -> u64 {
        let (own, (root, of)) = (self.request().id, self.descent.get());
        if of == own { root } else { own }
    }

    /// Whether an abort of the id `id` applies to this I/O.
    pub(in crate::bdev) fn is_named(self, id: u64) -> bool {
        self.request().id == id || self.root_id() == id
    }

    /// Converts the I/O to the argument of a callback.
    pub(in crate::bdev) fn into_arg(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// Converts a callback's argument back to the I/O.
    ///
    /// # Safety
    /// `arg` came from [`Io::into_arg`] and the slot is alive.
    pub(in crate::bdev) unsafe fn from_arg(arg: *mut c_void) -> Self {
        // SAFETY: the caller guarantees this.
        Self(unsafe { NonNull::new_unchecked(arg.cast()) })
    }
}

impl Io {
    /// Moves the I/O on to `base`, the next bdev below. Returns false when it has already passed through the
    /// maximum number of filters.
    #[inline]
    pub(in crate::bdev) fn hop(self, base: &Channel) -> bool {
        let hops = self.hops.get();
        let Some(hop) = self.way.get(usize::from(hops)) else { return false };
        hop.channel.set(self.channel.replace(base));
        hop.submitted_ns.set(self.submitted_ns.replace(clock::of_round()));
        hop.lba.set(self.request().lba);
        self.hops.set(hops + 1);
        true
    }

    /// Whether the I/O is at the module of `channel`, which has not passed it on.
    pub(in crate::bdev) fn is_at_module_of(self, channel: &Channel) -> bool {
        ptr::eq(self.channel.get(), channel) && self.state.is_sent()
    }

    /// The first block of the I/O as the module of `channel` got it, even if the module has passed
    /// it on since. `None` when the module does not have it.
    pub(in crate::bdev) fn lba_at_module(self, channel: &Channel) -> Option<u64> {
        if self.is_at_module_of(channel) {
            return Some(self.request().lba);
        }
        let way = self.way.get(..usize::from(self.hops.get()))?;
        way.iter().find(|hop| ptr::eq(hop.channel.get(), channel)).map(|hop| hop.lba.get())
    }

    /// Moves the I/O back to the filter that passed it on last; `None` when there is none.
    #[inline]
    pub(in crate::bdev) fn hop_back<'a>(self) -> Option<&'a Channel> {
        self.hop_back_if(|_| true)
    }

    /// As `hop_back`, but only if `is_wanted` accepts the filter; otherwise `None`.
    #[inline]
    pub(in crate::bdev) fn hop_back_if<'a>(
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

impl Io {
    /// Gives an I/O that the client did not submit back to its pool.
    pub(crate) fn give_back(self) {
        self.channel().give_back(self);
    }

    /// Sets the function that is called when the I/O completes.
    pub(crate) fn set_callback(self, cb: Option<bay_io_cb_fn>, arg: *mut c_void) {
        self.cb.set(cb.unwrap_or(no_callback));
        self.arg.set(arg);
    }
}

impl Slot {
    pub(super) fn new(channel: &Channel, drv_ctx: *mut c_void) -> Self {
        // One counter for the whole process, because an I/O that a filter passes on keeps its id on
        // other channels.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            channel: Cell::new(channel),
            cb: Cell::new(no_callback),
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
                done: Some(channel.done),
                drv_ctx,
                id: NEXT.fetch_add(1, Ordering::Relaxed).into(),
                ..bay_io::EMPTY
            }),
        }
    }
}

/// An I/O that messages carry to other threads and back. Only its own thread uses it.
#[derive(Clone, Copy)]
pub(in crate::bdev) struct SentIo(Io);

// SAFETY: other threads only carry the I/O. The bus owns the I/O when it makes a `SentIo`, so nobody
// else touches it until its own thread takes it.
unsafe impl Send for SentIo {}

impl SentIo {
    pub(in crate::bdev) fn new(io: Io) -> Self {
        Self(io)
    }

    /// The I/O, for use on its own thread.
    pub(in crate::bdev) fn get(self) -> Io {
        self.0
    }
}
