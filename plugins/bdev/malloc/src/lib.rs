//! `malloc`: a RAM disk. The smallest bdev module, and the one to copy.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::only;
use drivebay_sdk::prelude::*;
use std::sync::Arc;

mod zeroing;

#[cfg(test)]
mod tests;

use zeroing::Zeroing;

bdev_module!("malloc", Malloc, unsafe(threads_move));

/// A RAM disk: one region of DMA memory, shared by every reactor.
#[derive(Debug)]
pub struct Malloc {
    disk: Disk,
    boundary: u32,
    memory: Arc<DmaRegion>,
}

params! {
    /// Parameters of `bdev_malloc_create`, besides those of every disk.
    pub struct Own {
        /// The host splits I/O at multiples of this many blocks. 0 = no splitting.
        optimal_io_boundary: u32 = 0,
        /// If true, the metadata of a block follows its data. Only false is supported yet.
        md_interleave: bool = false,
        /// NUMA node of the memory. -1 = any node.
        numa_id: i32 = -1,
    }
}

impl Bdev for Malloc {
    type Params = With<Own>;
    /// Long unmaps and write zeroes, which do not complete inside `submit`.
    type Channel = Zeroing;
    const PRODUCT: &'static str = "Malloc disk";
    const OPS: OpSet = OpSet::READ_WRITE
        .with(OpSet::FLUSH)
        .with(OpSet::UNMAP)
        .with(OpSet::WRITE_ZEROES)
        .with(OpSet::COMPARE)
        .with(OpSet::ABORT);

    fn create(app: &App, params: Self::Params) -> Result<Self> {
        only("md_interleave", params.own.md_interleave, false)?;
        let disk = params.disk.check(app, "Malloc")?;
        let memory = DmaRegion::alloc_zeroed_on(disk.geometry(), params.own.numa_id)?;
        Ok(Self { disk, boundary: params.own.optimal_io_boundary, memory: Arc::new(memory) })
    }

    fn name(&self) -> &str {
        self.disk.name()
    }

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn describe(&self, registration: &mut Registration) {
        self.disk.describe(registration);
        registration.optimal_boundary = self.boundary;
        registration.unmapped_reads_zeroes = true;
        registration.must_flags = IoFlags::FUA; // RAM needs no flush: a write is complete at once, and no later step makes it more durable.
    }

    fn open_channel(&self) -> Result<Zeroing> {
        Ok(Zeroing::new(&self.memory, self.geometry()))
    }

    fn submit(&self, zeroing: &mut Zeroing, io: BdevIo) {
        let status = match io.op() {
            Op::Read(range) => self.memory.read(range, io.buffers()),
            Op::Write(range) => self.memory.write(range, io.buffers()),
            Op::Unmap(range) | Op::WriteZeroes(range) => {
                if zeroing.is_long(range) {
                    return zeroing.push(io, range);
                }
                self.memory.zero(range)
            }
            Op::Compare(range) => self.memory.compare(range, io.buffers()),
            Op::Flush => Status::SUCCESS, // RAM has no write cache, so FUA needs no extra work.
            Op::Abort(target) => zeroing.abort(target),
            _ => Status::NOT_SUPPORTED,
        };
        io.complete(status);
    }
}
