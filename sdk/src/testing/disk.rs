//! A disk for tests.

use super::FakeHost;
use crate::app::App;
use crate::bdev::{self, Bdev, BdevIo, Geometry, OpSet, Registration};
use crate::error::{Error, Result, Status};
use crate::rpc::NoParams;

/// 64 blocks of 512 bytes. It completes each I/O at once with success.
#[derive(Debug)]
pub struct FakeDisk {
    name: String,
    ops: OpSet,
    serve: fn(&str, &BdevIo),
}

impl FakeHost {
    /// Registers a disk that accepts `ops`. It calls `serve` with its name and each I/O, before it completes the I/O.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn add_disk(&self, name: &str, ops: OpSet, serve: fn(&str, &BdevIo)) {
        let disk = FakeDisk { name: name.to_owned(), ops, serve };
        bdev::register(self.app(), disk, "none", serde_json::Value::Null).unwrap();
    }
}

impl Bdev for FakeDisk {
    type Params = NoParams;
    type Channel = ();
    /// `describe` sets the ops.
    const OPS: OpSet = OpSet::from_bits(0);
    const PRODUCT: &'static str = "fake disk";

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(512, 64).unwrap()
    }

    fn describe(&self, registration: &mut Registration) {
        registration.ops = self.ops;
    }

    fn open_channel(&self) -> Result<()> {
        Ok(())
    }

    fn submit(&self, (): &mut (), io: BdevIo) {
        (self.serve)(&self.name, &io);
        io.complete(Status::SUCCESS);
    }
}
