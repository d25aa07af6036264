//! `null`: a disk that keeps no data. Every I/O succeeds at once. It is for measurements and tests.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::find;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::Method;

#[cfg(test)]
mod tests;

bdev_module!("null", Null, unsafe(threads_move), methods: ["bdev_null_resize"], start: start);

/// Bytes in a mebibyte, the unit of `bdev_null_resize`.
const MIB: u64 = 1 << 20;

/// A disk that keeps no data.
#[derive(Debug)]
pub struct Null {
    disk: Disk,
}

params! {
    /// Parameters of `bdev_null_create`, besides those of every disk.
    pub struct Own {
        /// Writes are fastest in multiples of this many blocks. Saved, but without effect yet.
        preferred_write_granularity: u32 = 0,
        /// Writes are fastest when they start at a multiple of this many blocks. Saved, but without effect yet.
        preferred_write_alignment: u32 = 0,
        /// Best length of a write, in blocks. Saved, but without effect yet.
        optimal_write_size: u32 = 0,
        /// Unmaps are fastest in multiples of this many blocks. Saved, but without effect yet.
        preferred_unmap_granularity: u32 = 0,
        /// Unmaps are fastest when they start at a multiple of this many blocks. Saved, but without effect yet.
        preferred_unmap_alignment: u32 = 0,
    }
    /// Parameters of `bdev_null_resize`.
    pub struct Resize {
        /// Name of the bdev.
        name: String,
        /// New capacity, in MiB.
        #[range(1..=8796093022207)]
        new_size: u64,
    }
}

impl Bdev for Null {
    type Params = With<Own>;
    type Channel = ();
    const PRODUCT: &'static str = "Null disk";
    const OPS: OpSet = OpSet::READ_WRITE
        .with(OpSet::FLUSH)
        .with(OpSet::UNMAP)
        .with(OpSet::WRITE_ZEROES)
        .with(OpSet::RESET)
        .with(OpSet::ABORT);

    fn create(app: &App, params: Self::Params) -> Result<Self> {
        Ok(Self { disk: params.disk.check(app, "Null")? })
    }

    fn name(&self) -> &str {
        self.disk.name()
    }

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn describe(&self, registration: &mut Registration) {
        self.disk.describe(registration);
        registration.keeps_no_data = true;
        registration.must_flags = IoFlags::FUA; // The disk keeps no data, so FUA needs no extra work.
    }

    fn open_channel(&self) -> Result<()> {
        Ok(())
    }

    // A read leaves the buffers unchanged (`keeps_no_data`), which makes it cheap.
    fn submit(&self, _channel: &mut (), io: BdevIo) {
        let status = match io.op() {
            Op::Read(_) | Op::Write(_) | Op::Flush | Op::Reset => Status::SUCCESS,
            Op::Unmap(_) | Op::WriteZeroes(_) => Status::SUCCESS,
            Op::Abort(_) => Status::NOT_FOUND,
            _ => Status::NOT_SUPPORTED,
        };
        io.complete(status);
    }
}

fn start(app: &App) -> Result<()> {
    let doc = "Changes the capacity of a null bdev.\n\nThe bdev cannot shrink while it is open.";
    Method::immediate("bdev_null_resize", doc, resize)
        .describe(|method| method.result("true"))
        .register(app)
}

fn resize(app: &App, params: Resize) -> Result<bool> {
    let null = find::<Null>(&params.name)?;
    let num_blocks = params.new_size * MIB / u64::from(null.geometry().block_size());
    null.resize(app, num_blocks).map(|()| true)
}
