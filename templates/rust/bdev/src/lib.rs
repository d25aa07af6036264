//! `{{name}}`: disks in memory. Replace them with your device.
#![forbid(unsafe_code)]

use drivebay_sdk::prelude::*;

#[cfg(test)]
mod tests;

// Defines the door of the library, and the methods `bdev_{{name}}_create` and `bdev_{{name}}_delete`.
bdev_module!("{{name}}", RamDisk);

/// One disk. All reactors share it.
#[derive(Debug)]
pub struct RamDisk {
    disk: Disk,
    boundary: u32,
    memory: DmaRegion,
}

params! {
    /// Parameters of `bdev_{{name}}_create`, besides those of every disk (`name`, `num_blocks`, `block_size`, `uuid` …).
    pub struct Own {
        /// The host splits I/O at multiples of this many blocks. 0 = no splitting.
        #[range(0..=65536)]
        boundary: u32 = 0,
    }
}

impl Bdev for RamDisk {
    type Params = With<Own>;
    /// One thread's state. It is empty, because every I/O completes inside `submit`.
    type Channel = ();
    const PRODUCT: &'static str = "{{name}} disk";
    // The ops that `submit` accepts. The bus emulates others if it can: compare with reads, write zeroes with writes.
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::RESET);

    fn create(app: &App, params: Self::Params) -> Result<Self> {
        let disk = params.disk.check(app, "{{name}}")?;
        let memory = DmaRegion::alloc_zeroed(disk.geometry())?;
        Ok(Self { disk, boundary: params.own.boundary, memory })
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
        registration.must_flags = IoFlags::FUA; // Nothing to do: written RAM cannot become more durable.
    }

    fn open_channel(&self) -> Result<()> {
        Ok(())
    }

    // The bus has checked the op against `OPS` and its range against the geometry.
    fn submit(&self, _channel: &mut (), io: BdevIo) {
        let status = match io.op() {
            Op::Read(range) => self.memory.read(range, io.buffers()),
            Op::Write(range) => self.memory.write(range, io.buffers()),
            Op::Flush | Op::Reset => Status::SUCCESS, // There is no cache and no I/O in flight.
            _ => Status::NOT_SUPPORTED,
        };
        io.complete(status);
    }
}
