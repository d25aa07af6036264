//! An I/O of the bus is a request of a ring: the kernel reads and writes its buffers in place.
#![expect(unsafe_code, reason = "makes the promise about memory under I/O")]

use crate::bdev::{BdevIo, Op};
use drivebay_ring::{IoBuffers, Segment};

// SAFETY: a `BdevIo` owns its request from submit to `done`, and only `complete` or `drop`, which
// consume it, call that. Until then the ABI lends the list and the memory it names: both stay where
// they are, and the client leaves the memory of a read alone and does not change that of a write.
// The buffers of a leaked I/O are lent for ever.
unsafe impl IoBuffers for BdevIo {
    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.hold_by_device();
        self.buffers().pieces().map(|(ptr, len)| Segment { ptr, len })
    }

    fn writable(&self) -> bool {
        matches!(self.op(), Op::Read(_))
    }
}
