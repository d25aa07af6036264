//! `counted`: a null disk whose channels count their I/O. `cargo xtask door` measures the cost of a
//! channel with state. That cost is in `sdk/src/bdev/vtable.rs`.
#![forbid(unsafe_code)]

use drivebay_sdk::prelude::*;

bdev_module!("counted", Counted, unsafe(threads_move));

/// A disk that keeps no data and counts its I/O.
#[derive(Debug)]
pub struct Counted {
    disk: Disk,
}

/// One thread's counts.
#[derive(Debug, Default)]
pub struct Counts {
    ios: u64,
    last_lba: u64,
}

params! {
    /// Parameters of `bdev_counted_create`, beyond those of every disk.
    pub struct Own {}
}

impl Bdev for Counted {
    type Params = With<Own>;
    type Channel = Counts;
    const PRODUCT: &'static str = "Counted disk";
    const OPS: OpSet = OpSet::READ_WRITE;

    fn create(app: &App, params: Self::Params) -> Result<Self> {
        Ok(Self { disk: params.disk.check(app, "Counted")? })
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
    }

    fn open_channel(&self) -> Result<Counts> {
        Ok(Counts::default())
    }

    fn submit(&self, counts: &mut Counts, io: BdevIo) {
        counts.ios += 1;
        match io.op() {
            Op::Read(range) | Op::Write(range) => counts.last_lba = range.lba,
            _ => return io.complete(Status::NOT_SUPPORTED),
        }
        io.complete(Status::SUCCESS);
    }
}
