//! Lets the ring take an I/O of the bus as a request: the kernel reads and writes its buffers in place. It also lets a ublk queue
//! own a box with a buffer in it.
#![expect(unsafe_code, reason = "implements the trait that promises valid memory during I/O")]

use crate::bdev::{BdevIo, Op};
use crate::buf::Buf;
use drivebay_ring::ublk::KernelBuffer;
use drivebay_ring::{IoBuffers, Segment};

// SAFETY: a `BdevIo` owns its request from submit to `done`. Only `complete` and `drop` call `done`, and both
// consume the value. Until then the ABI lends the list and the memory it refers to: neither moves, and the
// client does not touch the memory of a read or change the memory of a write. A leaked I/O keeps its buffers
// for ever.
unsafe impl IoBuffers for BdevIo {
    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.hold_by_device();
        self.buffers().pieces().map(|(ptr, len)| Segment { ptr, len })
    }

    fn writable(&self) -> bool {
        matches!(self.op(), Op::Read(_))
    }
}

/// A box with a buffer in it, as the buffer of a tag of a ublk queue.
#[derive(Debug)]
pub struct KernelBox<T>(pub Box<T>);

// SAFETY: the box owns its buffer, whose memory does not move; `as_mut` proves that there is no other reference to it. Only the
// owner of the box can reach it again.
unsafe impl<T: AsMut<Buf> + 'static> KernelBuffer for KernelBox<T> {
    fn memory(&mut self) -> Segment {
        let buf: &mut [u8] = (*self.0).as_mut();
        Segment { ptr: buf.as_mut_ptr(), len: buf.len() }
    }
}
