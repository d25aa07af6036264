//! The kernel's context of libaio: submits operations and reads events.
#![expect(unsafe_code, reason = "raw system calls, and a ring that the kernel writes to")]

use std::io;
use std::mem::{offset_of, size_of};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_long, c_ulong, iocb, timespec};

use crate::Errno;

/// `struct io_event` of linux/aio_abi.h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct IoEvent {
    pub(super) data: u64,
    obj: u64,
    pub(super) res: i64,
    res2: i64,
}
const _: () = assert!(size_of::<IoEvent>() == 32);

/// Header of the event ring that `io_setup` maps: `struct aio_ring` of the kernel's fs/aio.c.
/// The context's id is the header's address. `nr` events ([`IoEvent`]) follow it.
#[repr(C)]
struct RingHeader {
    id: u32,
    nr: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compat_features: u32,
    incompat_features: u32,
    header_length: u32,
}
const _: () = assert!(size_of::<RingHeader>() == 32);
const _: () = assert!(offset_of!(RingHeader, magic) == 16);

/// `AIO_RING_MAGIC`: the ring has the layout above.
const RING_MAGIC: u32 = 0xa10a_10a1;

/// The context from `io_setup`. Dropping it destroys the context.
#[derive(Debug)]
pub(super) struct Context {
    ring: NonNull<RingHeader>,
}

// SAFETY: only `Events` accesses the changing fields of the ring, and a context has one `Events`. The
// kernel accepts system calls on a context from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// The only reader of a context's events.
#[derive(Debug)]
pub(super) struct Events(Arc<Context>);

impl Context {
    /// Creates a context for at most `depth` operations at a time.
    ///
    /// # Errors
    /// `EAGAIN` when `fs.aio-max-nr` is exhausted.
    pub(super) fn new(depth: u32) -> io::Result<(Arc<Self>, Events)> {
        let mut id: c_ulong = 0;
        // SAFETY: `id` is zero, as the call requires, and the call writes it.
        let result = unsafe {
            libc::syscall(libc::SYS_io_setup, c_ulong::from(depth), ptr::from_mut(&mut id))
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let address = usize::try_from(id).map_err(io::Error::other)?;
        let ring = NonNull::new(ptr::with_exposed_provenance_mut(address));
        let context = Arc::new(Self { ring: ring.ok_or(Errno::INVALID)? });
        Ok((Arc::clone(&context), Events(context)))
    }

    fn id(&self) -> c_ulong {
        self.ring.as_ptr().expose_provenance() as c_ulong
    }

    /// Submits blocks to the kernel. Returns how many the kernel has accepted, counted from the front. Waits
    /// as long as the file system or device makes the caller wait.
    ///
    /// # Safety
    ///
    /// The blocks must be valid, and their memory and files must stay valid until their events.
    pub(super) unsafe fn submit(&self, blocks: &mut [*mut iocb]) -> io::Result<usize> {
        // SAFETY: the caller's promise; the kernel reads the list itself only during the call.
        let result = unsafe {
            libc::syscall(libc::SYS_io_submit, self.id(), blocks.len(), blocks.as_mut_ptr())
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the id is valid until here, and `ring` is not used afterwards. The kernel waits for the
        // operations that are still in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.id()) };
    }
}

impl Events {
    /// Takes the next event from the ring in user memory. `Some(None)` when there is none, `None` when the
    /// ring has an unknown layout.
    pub(super) fn pop(&mut self) -> Option<Option<IoEvent>> {
        // SAFETY: the kernel keeps the ring mapped here until `io_destroy`; the fields that it changes are
        // atomics. Because of `&mut self`, no other reader moves `head`.
        let header = unsafe { self.0.ring.as_ref() };
        let known = header.magic == RING_MAGIC
            && header.incompat_features == 0
            && header.header_length as usize == size_of::<RingHeader>();
        if !known {
            return None;
        }
        let head = header.head.load(Ordering::Relaxed);
        // Acquire: read the event after the tail that announces it.
        if head == header.tail.load(Ordering::Acquire) || head >= header.nr {
            return Some(None);
        }
        let slots = self.0.ring.as_ptr().wrapping_add(1).cast::<IoEvent>();
        // SAFETY: `head` is below `nr`, the number of events mapped behind the header. The kernel does not
        // overwrite this event before `head` has moved on.
        let event = unsafe { slots.wrapping_add(head as usize).read() };
        let next = if head + 1 == header.nr { 0 } else { head + 1 };
        // Release: finish reading the event before the kernel may overwrite it.
        header.head.store(next, Ordering::Release);
        Some(Some(event))
    }

    /// Takes one event with a system call, if there is one.
    pub(super) fn getevents(&mut self) -> io::Result<Option<IoEvent>> {
        let mut event = IoEvent::default();
        let mut at_once = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: there is room for the one event that is requested; the timeout is valid for the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.0.id(),
                c_long::from(0),
                c_long::from(1),
                ptr::from_mut(&mut event),
                ptr::from_mut(&mut at_once),
            )
        };
        match result {
            0 => Ok(None),
            1.. => Ok(Some(event)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_the_ring_layout_that_is_read_without_a_call() {
        let (_context, mut events) = Context::new(1).unwrap();
        assert!(events.pop().is_some());
        assert!(events.getevents().unwrap().is_none());
    }
}
