//! The pool from which a channel takes its I/O.

use super::Channel;
use super::io::{Io, Slot};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// The maximum number of I/O that the clients of one channel may have at a time.
static MOST_IO: AtomicU32 = AtomicU32::new(65_535);

/// Sets how many I/O the clients of one channel may have at a time (`bdev_set_options`,
/// `bdev_io_pool_size`); at least 1. Parts and children of I/O do not count toward this limit.
pub fn set_most_io(most: u32) {
    MOST_IO.store(most.max(1), Ordering::Relaxed);
}

pub(in crate::bdev) fn most_io() -> u32 {
    MOST_IO.load(Ordering::Relaxed)
}

/// The free I/Os of one channel. The I/O that was freed last is used first, so that few I/Os stay in use and
/// in the CPU cache.
pub(in crate::bdev) struct Pool {
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
    pub(in crate::bdev) fn new(drv_ctx_size: u32) -> Self {
        let stride = size_of::<Slot>() + (drv_ctx_size as usize).next_multiple_of(64);
        Self {
            free: Cell::new(ptr::null_mut()),
            chunks: RefCell::default(),
            stride,
            made: Cell::new(0),
        }
    }

    /// The number of bytes that each I/O has for the module.
    pub(in crate::bdev) fn drv_ctx_size(&self) -> usize {
        self.stride - size_of::<Slot>()
    }

    /// The number of I/O allocated so far, free or not.
    pub(in crate::bdev) fn made(&self) -> u32 {
        self.made.get()
    }

    /// Returns an I/O with a new id, if one is free.
    pub(in crate::bdev) fn get_free(&self) -> Option<Io> {
        let io = Io(NonNull::new(self.free.get())?);
        self.free.set(io.next.get());
        // The upper half of the id counts how often the slot was used.
        io.change(|request| request.id = request.id.wrapping_add(1 << 32));
        Some(io)
    }

    /// Whether `is_so` returns true for one of the pool's I/Os, free or not. It visits all I/Os of the pool,
    /// so it is slow.
    pub(in crate::bdev) fn any(&self, is_so: impl Fn(Io) -> bool) -> bool {
        self.chunks.borrow().iter().any(|chunk| {
            (0..chunk.count).any(|index| {
                // SAFETY: `index * stride` is inside the chunk.
                let slot = unsafe { chunk.first.add(index * self.stride) };
                is_so(Io(slot.cast()))
            })
        })
    }

    /// Returns an I/O with a new id. The pool grows when none is free.
    pub(in crate::bdev) fn get(&self, channel: &Channel) -> Io {
        loop {
            match self.get_free() {
                Some(io) => return io,
                None => self.grow(channel),
            }
        }
    }

    pub(in crate::bdev) fn put(&self, io: Io) {
        io.next.set(self.free.replace(io.0.as_ptr()));
    }

    #[cold]
    fn grow(&self, channel: &Channel) {
        // Allocates up to the clients' limit. Beyond it one at a time, because only parts and
        // children may exceed the limit.
        let left = most_io().saturating_sub(self.made.get());
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
