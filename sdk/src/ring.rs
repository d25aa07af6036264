//! Lets the ring take an I/O of the bus as a request: the kernel reads and writes its buffers in place.
#![expect(unsafe_code, reason = "implements the trait that promises valid memory during I/O")]

use crate::bdev::{BdevIo, Op};
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
