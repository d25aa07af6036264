//! One I/O: the ABI's request with the host's private part before it, and the pool it comes from.

use super::channel::Channel;
use drivebay_plugin_api::{bay_io, bay_io_cb_fn, bay_iov};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::{self, NonNull};

/// The host's part and the request. Behind it lie the module's `drv_ctx_size` bytes.
///
/// # Invariants
/// Lives as long as its channel. Between `Pool::get` and `Pool::put` exactly one party has it: the
/// client that fills it, the bus, or the module.
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(super) channel: *const Channel,
    pub(super) cb: Cell<Option<bay_io_cb_fn>>,
    pub(super) arg: Cell<*mut c_void>,
    /// Link of the queue or free list that it is in.
    next: Cell<*mut Slot>,
    pub(super) submitted_ns: Cell<u64>,
    /// Blocks done or begun, of a parent of parts.
    pub(super) progress: Cell<u64>,
    /// Parts in flight.
    pub(super) pending: Cell<u32>,
    /// First status of a part that was not 0.
    pub(super) failure: Cell<i32>,
    // second cache line
    pub(super) flags: Cell<Flags>,
    /// Buffer of a bounced or emulated I/O, and its length as asked for.
    pub(super) buffer: Cell<(*mut u8, u32, u32)>,
    /// List of a part; its memory is kept.
    pub(super) list: RefCell<Vec<bay_iov>>,
    pub(super) request: UnsafeCell<bay_io>,
}

/// What the bus remembers of an I/O.
#[derive(Clone, Copy, Default)]
pub(super) struct Flags {
    /// The descriptor it came through may write.
    pub(super) writable: bool,
    /// It is a part of another I/O: no statistics.
    pub(super) part: bool,
    /// It is at the module.
    pub(super) sent: bool,
}

/// An I/O that somebody has. Copied freely inside the bus; the invariants of [`Slot`] say who may
/// use it when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Io(NonNull<Slot>);

impl std::ops::Deref for Io {
    type Target = Slot;
    fn deref(&self) -> &Slot {
        // SAFETY: slots live as long as their channel, which outlives its I/O.
        unsafe { self.0.as_ref() }
    }
}

impl Io {
    /// The slot around a request.
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

    pub(super) fn channel<'a>(self) -> &'a Channel {
        // SAFETY: a channel outlives its slots and is not moved (invariant of `Slot`); the borrow
        // is never kept across the channel's end, which waits for its I/O.
        unsafe { &*self.channel }
    }

    /// The request, to read.
    pub(super) fn request(&self) -> &bay_io {
        // SAFETY: whoever calls this has the I/O, so nobody writes it meanwhile.
        unsafe { &*self.request.get() }
    }

    /// The request, to change. The closure must not reach the request in another way.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut bay_io) -> T) -> T {
        // SAFETY: whoever calls this has the I/O, and the closure has the only reference.
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

    /// Names this I/O as the argument of a callback.
    pub(super) fn into_arg(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// The I/O that a callback's argument names.
    ///
    /// # Safety
    /// `arg` came from [`Io::into_arg`] and the slot is alive.
    pub(super) unsafe fn from_arg(arg: *mut c_void) -> Self {
        // SAFETY: by the contract.
        Self(unsafe { NonNull::new_unchecked(arg.cast()) })
    }
}

/// First in, first out, linked through the slots.
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

    /// Everything that is in it; empty afterwards.
    pub(super) fn take(&self) -> Self {
        Self { head: Cell::new(self.head.take()), tail: Cell::new(self.tail.take()) }
    }

    /// Takes out the I/O with this id.
    pub(super) fn remove(&self, id: u64) -> Option<Io> {
        let mut found = None;
        let rest = Self::default();
        while let Some(io) = self.pop_front() {
            if found.is_none() && io.request().id == id {
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

/// The free I/O of one channel, newest first, so that the same few stay in the cache.
pub(super) struct Pool {
    free: Cell<*mut Slot>,
    chunks: RefCell<Vec<Chunk>>,
    stride: usize,
    made: Cell<u32>,
}

/// I/O that were made together.
struct Chunk {
    first: NonNull<u8>,
    layout: std::alloc::Layout,
    count: usize,
}

/// Most I/O that are made together.
const CHUNK: u32 = 32;

impl Pool {
    /// A pool of I/O with `drv_ctx_size` bytes for the module, none made yet.
    pub(super) fn new(drv_ctx_size: u32) -> Self {
        let stride = size_of::<Slot>() + (drv_ctx_size as usize).next_multiple_of(64);
        Self {
            free: Cell::new(ptr::null_mut()),
            chunks: RefCell::default(),
            stride,
            made: Cell::new(0),
        }
    }

    /// How many there are, free or not.
    pub(super) fn made(&self) -> u32 {
        self.made.get()
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.get().is_null()
    }

    /// Whether it is so for one of its I/O, free or not. Looks at all of them.
    pub(super) fn any(&self, is_so: impl Fn(Io) -> bool) -> bool {
        self.chunks.borrow().iter().any(|chunk| {
            (0..chunk.count).any(|index| {
                // SAFETY: `index * stride` is inside the chunk.
                let slot = unsafe { chunk.first.add(index * self.stride) };
                is_so(Io(slot.cast()))
            })
        })
    }

    /// An I/O with a fresh id; grows the pool when none is free.
    pub(super) fn get(&self, channel: &Channel) -> Io {
        if self.free.get().is_null() {
            self.grow(channel);
        }
        // SAFETY: `grow` ends the process rather than leave the list empty.
        let io = Io(unsafe { NonNull::new_unchecked(self.free.get()) });
        self.free.set(io.next.get());
        // The generation is in the upper half.
        io.change(|request| request.id = request.id.wrapping_add(1 << 32));
        io
    }

    pub(super) fn put(&self, io: Io) {
        io.next.set(self.free.replace(io.0.as_ptr()));
    }

    #[cold]
    fn grow(&self, channel: &Channel) {
        // No more than the limit, unless that is reached: what comes then is parts and children.
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
            // SAFETY: behind the slot there is `stride - size_of::<Slot>()` bytes of driver context.
            let drv_ctx = unsafe { slot.add(1) }.cast::<c_void>();
            let number = u64::from(self.made.replace(self.made.get() + 1));
            let fresh = Slot::new(channel, number, drv_ctx.as_ptr());
            // SAFETY: aligned to 64, inside the chunk, not yet in use.
            unsafe { slot.write(fresh) };
            self.put(Io(slot));
        }
        self.chunks.borrow_mut().push(Chunk { first: chunk, layout, count });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        while let Some(slot) = NonNull::new(self.free.get()) {
            self.free.set(Io(slot).next.get());
            // SAFETY: on the free list, so nobody has it; its chunk is freed below.
            unsafe { slot.drop_in_place() };
        }
        for Chunk { first, layout, .. } in self.chunks.take() {
            // SAFETY: allocated by `grow` with this layout.
            unsafe { std::alloc::dealloc(first.as_ptr(), layout) };
        }
    }
}

impl Slot {
    fn new(channel: &Channel, number: u64, drv_ctx: *mut c_void) -> Self {
        Self {
            channel,
            cb: Cell::new(None),
            arg: Cell::new(ptr::null_mut()),
            next: Cell::new(ptr::null_mut()),
            submitted_ns: Cell::new(0),
            progress: Cell::new(0),
            pending: Cell::new(0),
            failure: Cell::new(0),
            flags: Cell::new(Flags::default()),
            buffer: Cell::new((ptr::null_mut(), 0, 0)),
            list: RefCell::default(),
            request: UnsafeCell::new(bay_io {
                op: 0,
                iovcnt: 0,
                flags: 0,
                lba: 0,
                nblocks: 0,
                iov: ptr::null(),
                done: Some(super::complete::done),
                drv_ctx,
                link: ptr::null_mut(),
                ext: ptr::null(),
                md: ptr::null_mut(),
                md_len: 0,
                md_region: 0,
                detail: 0,
                detail_kind: 0,
                prio: 0,
                rsv0: 0,
                arg_len: 0,
                arg: [0; 2],
                id: number,
                rsv1: 0,
            }),
        }
    }
}

impl Io {
    /// Who is told of the end.
    pub(crate) fn set_callback(self, cb: Option<bay_io_cb_fn>, arg: *mut c_void) {
        self.cb.set(cb);
        self.arg.set(arg);
    }
}
