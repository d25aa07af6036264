//! A disk that can hold its I/O until the test releases it.

use drivebay_sdk::bdev::{self, Bdev, BdevIo, Geometry, IoQueue, Op, OpSet, Registration};
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::{Result, Status};
use std::cell::{Cell, RefCell};

thread_local! {
    static HOLDS: Cell<bool> = const { Cell::new(false) };
    static HELD: RefCell<IoQueue> = const { RefCell::new(IoQueue::new()) };
    static OPS: RefCell<Vec<Op>> = const { RefCell::new(Vec::new()) };
}

/// 64 blocks of 512 bytes. A read returns sevens, or leaves the memory unchanged.
#[derive(Debug)]
pub(super) struct HeldDisk {
    name: String,
    keeps_no_data: bool,
}

/// Registers a disk.
pub(super) fn make(name: &str) {
    register(name, false);
}

/// Registers a disk whose reads leave the memory unchanged.
pub(super) fn make_empty(name: &str) {
    register(name, true);
}

fn register(name: &str, keeps_no_data: bool) {
    let disk = HeldDisk { name: name.into(), keeps_no_data };
    drivebay_sdk::App::here(|app| bdev::register(app, disk, "none", serde_json::json!({})))
        .unwrap()
        .unwrap();
}

/// Sets whether I/O waits for [`let_go`].
pub(super) fn hold(holds: bool) {
    HOLDS.set(holds);
}

/// Completes all held I/O.
pub(super) fn let_go() {
    while let Some(io) = HELD.with_borrow_mut(IoQueue::pop) {
        end(io);
    }
}

/// Takes the list of operations that were submitted.
pub(super) fn ops() -> Vec<Op> {
    OPS.take()
}

fn end(io: BdevIo) {
    if let Op::Read(_) = io.op() {
        io.buffers().fill_from(&[7; 8192]);
    }
    io.complete(Status::SUCCESS);
}

impl Bdev for HeldDisk {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "held";
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::UNMAP).with(OpSet::FLUSH);

    fn create(_: &drivebay_sdk::App, _: NoParams) -> Result<Self> {
        Ok(Self { name: "held".into(), keeps_no_data: false })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self, registration: &mut Registration) {
        registration.keeps_no_data = self.keeps_no_data;
        registration.uuid = [if self.keeps_no_data { 2 } else { 1 }; 16];
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(512, 64).unwrap()
    }

    fn open_channel(&self) -> Result<()> {
        Ok(())
    }

    fn submit(&self, _channel: &mut (), io: BdevIo) {
        OPS.with_borrow_mut(|ops| ops.push(io.op()));
        if self.keeps_no_data {
            io.complete(Status::SUCCESS);
        } else if HOLDS.get() {
            HELD.with_borrow_mut(|held| held.push(io));
        } else {
            end(io);
        }
    }
}
