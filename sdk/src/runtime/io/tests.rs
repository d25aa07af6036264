//! I/O futures, with a disk that may keep its I/O in flight.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "for tests")]

use super::*;
use crate::app::App;
use crate::bdev::{self, Bdev, BdevIo, Geometry, IoQueue, OpSet, register};
use crate::mem::DmaRegion;
use crate::rpc::NoParams;
use crate::runtime::task;
use crate::testing::FakeHost;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk of 64 blocks. Its I/O completes in a poll, unless the test holds it.
struct Memory(&'static str, DmaRegion, Arc<AtomicBool>);

impl Bdev for Memory {
    type Params = NoParams;
    type Channel = IoQueue;
    const PRODUCT: &'static str = "memory";
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::WRITE_ZEROES);
    const POLLS: bool = true;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        self.0
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 64).unwrap()
    }
    fn open_channel(&self) -> Result<IoQueue> {
        Ok(IoQueue::new())
    }
    fn submit(&self, kept: &mut IoQueue, io: BdevIo) {
        kept.push(io);
    }
    fn poll(&self, kept: &mut IoQueue) -> bool {
        if self.2.load(Ordering::Relaxed) {
            return false;
        }
        let Some(io) = kept.pop() else { return false };
        let status = match io.op() {
            Op::Read(range) => self.1.read(range, io.buffers()),
            Op::Write(range) => self.1.write(range, io.buffers()),
            Op::WriteZeroes(range) => self.1.zero(range),
            Op::Flush => Status::SUCCESS,
            _ => Status::NOT_SUPPORTED,
        };
        io.complete(status);
        true
    }
}

struct Setup {
    host: FakeHost,
    io: BlockIo,
    holds: Arc<AtomicBool>,
}

fn setup(name: &'static str) -> Setup {
    let (host, holds) = (FakeHost::new(), Arc::new(AtomicBool::new(false)));
    let memory = DmaRegion::alloc_zeroed(Geometry::new(512, 64).unwrap()).unwrap();
    let disk = Memory(name, memory, Arc::clone(&holds));
    register(host.app(), disk, "none", serde_json::Value::Null).unwrap();
    let io =
        BlockIo::new(&Arc::new(bdev::open(host.app(), name, true, |_, _| {}).unwrap())).unwrap();
    Setup { host, io, holds }
}

impl Setup {
    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let to = Rc::clone(&result);
        let run = async move {
            let output = future.await;
            *to.borrow_mut() = Some(output);
        };
        task::spawn("test", run).unwrap().detach();
        self.host.wait(|| result.take())
    }
}

#[test]
fn what_was_written_is_read_back_and_zeroes_are_zero() {
    let setup = setup("io_round_trip");
    let io = setup.io.clone();
    let seen = setup.run(async move {
        let mut buf = io.buffer(2)?;
        buf.fill(7);
        let buf = io.write(Range::new(4, 2), buf).await?;
        io.flush().await?;
        io.write_zeroes(Range::new(5, 1)).await?;
        let buf = io.read_into(Range::new(4, 2), buf).await?;
        Ok::<_, Error>((buf[511], buf[512], io.read(Range::new(0, 64)).await?.len()))
    });
    assert_eq!(seen, Ok((7, 0, 32_768)));
}

#[test]
fn a_buffer_of_another_length_and_an_op_that_fails_are_named() {
    let setup = setup("io_errors");
    let io = setup.io.clone();
    let (short, unmap, none) = setup.run(async move {
        let short = io.write(Range::new(0, 2), io.buffer(1).unwrap()).await.unwrap_err();
        let unmap = io.unmap(Range::new(0, 1)).await.unwrap_err();
        (short, unmap, io.buffer(0).unwrap_err())
    });
    assert_eq!(short.message(), "the buffer's length 512 is not allowed; allowed: 1024");
    assert_eq!(unmap.errno(), errno::EOPNOTSUPP);
    assert!(unmap.message().starts_with("bdev io_errors: unmap 1 blocks at 0: "), "{unmap}");
    assert_eq!(none.errno(), errno::EINVAL);
}

#[test]
fn the_control_path_goes_on_when_the_pools_are_empty() {
    let setup = setup("io_no_pool");
    setup.host.set_buf_limit(0);
    let io = setup.io.clone();
    assert!(setup.run(async move { io.read(Range::new(0, 1)).await }).is_ok());
}

#[test]
fn a_dropped_future_leaves_its_io_in_flight_and_the_stop_waits_for_it() {
    let Setup { host, io, holds } = setup("io_dropped");
    holds.store(true, Ordering::Relaxed);
    let reads = async move { io.read(Range::new(0, 8)).await };
    let mut read = task::spawn("reads", reads).unwrap();
    host.run();
    read.cancel();
    drop(read);
    host.run();
    assert!(task::list().is_empty());
    let in_flight = task::list_in_flight();
    assert_eq!(in_flight[0].name, "bdev io_dropped: read 8 blocks at 0");
    let has_ended = Rc::new(Cell::new(false));
    let to = Rc::clone(&has_ended);
    task::end_all(true, move || to.set(true));
    host.run();
    assert!(!has_ended.get(), "the host still has its buffer");
    holds.store(false, Ordering::Relaxed);
    host.wait(|| has_ended.get().then_some(()));
    assert!(task::list_in_flight().is_empty());
}
