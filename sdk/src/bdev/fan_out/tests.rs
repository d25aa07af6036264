//! Two modules, each on two RAM disks: one concatenates its disks, the other mirrors them.

use super::*;
use crate::app::App;
use crate::bdev::{Bdev, Desc, Geometry, OpSet, Range, open, register};
use crate::error::{Error, Result};
use crate::rpc::NoParams;
use crate::testing::FakeHost;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const BLOCK: usize = 512;
const BLOCKS: u64 = 8;

struct Ram {
    name: String,
    data: Arc<Mutex<Vec<u8>>>,
    fails: Arc<AtomicBool>,
}

impl Bdev for Ram {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "ram";
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH);

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, BLOCKS).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        if self.fails.load(Ordering::Relaxed) {
            return io.complete_with(IoResult::with_nvme(Status::MEDIA, 7));
        }
        let mut data = self.data.lock().unwrap();
        let bytes = |range: Range| self.geometry().bytes(range).unwrap();
        match io.op() {
            Op::Read(range) => _ = io.buffers().fill_from(&data[bytes(range)]),
            Op::Write(range) => _ = io.buffers().copy_to(&mut data[bytes(range)]),
            _ => {}
        }
        drop(data);
        io.complete(Status::SUCCESS);
    }
}

/// What both modules share.
struct Pair {
    name: String,
    disks: [Desc; 2],
}

struct Ends(Pair);

impl Bdev for Ends {
    type Params = NoParams;
    type Channel = [Channel; 2];
    const PRODUCT: &'static str = "ends";
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH);

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.0.name
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 2 * BLOCKS).unwrap()
    }
    fn open_channel(&self) -> Result<[Channel; 2]> {
        let [first, second] = &self.0.disks;
        Ok([first.channel()?, second.channel()?])
    }
    fn submit(&self, [first, second]: &mut [Channel; 2], io: BdevIo) {
        let of: fn(Range) -> Op = match io.op() {
            Op::Read(_) => Op::Read,
            Op::Write(_) => Op::Write,
            op => {
                let mut children = io.fan_out();
                children.send(first, op, 0);
                return children.send(second, op, 0);
            }
        };
        let (Op::Read(range) | Op::Write(range)) = io.op() else { return };
        let in_first = BLOCKS.saturating_sub(range.lba).min(range.nblocks);
        let in_second = range.nblocks - in_first;
        let mut children = io.fan_out();
        if in_first > 0 {
            children.send(first, of(Range::new(range.lba, in_first)), 0);
        }
        if in_second > 0 {
            let lba = range.lba + in_first - BLOCKS;
            children.send(second, of(Range::new(lba, in_second)), in_first);
        }
    }
}

struct Mirror(Pair);

/// The leg that a read was sent to.
#[derive(Clone, Copy)]
struct Leg(usize);

impl Bdev for Mirror {
    type Params = NoParams;
    type Channel = [Channel; 2];
    const PRODUCT: &'static str = "mirror";
    const OPS: OpSet = OpSet::READ_WRITE;
    const JOINS: bool = true;
    const IO_STATE_LEN: usize = size_of::<Leg>();

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.0.name
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, BLOCKS).unwrap()
    }
    fn open_channel(&self) -> Result<[Channel; 2]> {
        let [first, second] = &self.0.disks;
        Ok([first.channel()?, second.channel()?])
    }
    fn submit(&self, legs: &mut [Channel; 2], mut io: BdevIo) {
        let op = io.op();
        if op.writes() {
            let mut children = io.fan_out();
            legs.iter().for_each(|leg| children.send(leg, op, 0));
        } else {
            assert!(io.state::<Leg>().is_none(), "the state belongs to an earlier I/O");
            io.set_state(Leg(0));
            io.fan_out().send(&legs[0], op, 0);
        }
    }
    fn joined(&self, legs: &mut [Channel; 2], mut io: BdevIo, result: IoResult) {
        let op = io.op();
        match io.state() {
            Some(Leg(0)) if !result.status.is_success() => {
                io.set_state(Leg(1));
                io.fan_out().send(&legs[1], op, 0);
            }
            _ => io.complete_with(result),
        }
    }
}

type Data = Arc<Mutex<Vec<u8>>>;

/// Two disks: their contents, and whether they fail.
fn disks(host: &FakeHost, name: &str) -> (Pair, [Data; 2], [Arc<AtomicBool>; 2]) {
    let data = [(); 2].map(|()| Arc::new(Mutex::new(vec![0; 8 * BLOCK])));
    let fails = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let disks = [0, 1].map(|index| {
        let name = format!("{name} {index}");
        let (data, fails) = (Arc::clone(&data[index]), Arc::clone(&fails[index]));
        register(
            host.app(),
            Ram { name: name.clone(), data, fails },
            "none",
            serde_json::Value::Null,
        )
        .unwrap();
        open(host.app(), &name, true, |_, _| {}).unwrap()
    });
    (Pair { name: name.to_owned(), disks }, data, fails)
}

fn pattern(blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[test]
fn children_have_the_parts_of_the_parents_data_that_belong_to_them() {
    let host = FakeHost::new();
    let (pair, data, fails) = disks(&host, "ends");
    register(host.app(), Ends(pair), "none", serde_json::Value::Null).unwrap();
    let (channel, _desc) = host.open("ends");
    for (lba, blocks) in [(0_u8, 2_u8), (6, 4), (7, 2), (8, 8), (0, 16)] {
        let range = Range::new(lba.into(), blocks.into());
        let (lba, blocks) = (usize::from(lba), usize::from(blocks));
        let mut written = pattern(blocks);
        let result = host.io(&channel, Op::Write(range), IoFlags::NONE, &mut written);
        assert_eq!(result.status, Status::SUCCESS);
        let all = [data[0].lock().unwrap().clone(), data[1].lock().unwrap().clone()].concat();
        let at = lba * BLOCK;
        assert_eq!(all[at..at + blocks * BLOCK], pattern(blocks));
        let mut read = vec![0; blocks * BLOCK];
        host.io(&channel, Op::Read(range), IoFlags::NONE, &mut read);
        assert_eq!(read, pattern(blocks));
    }
    fails[1].store(true, Ordering::Relaxed);
    let across = Op::Write(Range::new(7, 2));
    let result = host.io(&channel, across, IoFlags::NONE, &mut pattern(2));
    assert_eq!((result.status, result.nvme()), (Status::MEDIA, Some(7)));
    let result = host.io(&channel, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert_eq!(result.status, Status::MEDIA);
}

#[test]
fn a_module_that_joins_goes_on_with_the_io_that_its_child_failed() {
    let host = FakeHost::new();
    let (pair, data, fails) = disks(&host, "mirror");
    register(host.app(), Mirror(pair), "none", serde_json::Value::Null).unwrap();
    let (channel, _desc) = host.open("mirror");
    let range = Range::new(2, 3);
    host.io(&channel, Op::Write(range), IoFlags::NONE, &mut pattern(3));
    assert_eq!(*data[0].lock().unwrap(), *data[1].lock().unwrap());
    for failing in [[false, false], [true, false], [true, true]] {
        for (leg, fails_now) in failing.into_iter().enumerate() {
            fails[leg].store(fails_now, Ordering::Relaxed);
        }
        let mut read = vec![0; 3 * BLOCK];
        let result = host.io(&channel, Op::Read(range), IoFlags::NONE, &mut read);
        if failing == [true, true] {
            assert_eq!((result.status, result.nvme()), (Status::MEDIA, Some(7)));
        } else {
            assert_eq!((result.status, read), (Status::SUCCESS, pattern(3)));
        }
    }
}

#[test]
fn a_parent_ends_when_the_last_of_its_children_has_and_with_the_first_failure() {
    let host = FakeHost::new();
    let (pair, ..) = disks(&host, "slow");
    register(host.app(), Slow(pair), "none", serde_json::Value::Null).unwrap();
    let (channel, _desc) = host.open("slow");
    let result = host.io(&channel, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert_eq!(result.status, Status::NOT_FOUND);
}

/// Completes three children of its own, one per round: with success, with a failure, and by a drop.
struct Slow(Pair);

impl Bdev for Slow {
    type Params = NoParams;
    type Channel = Vec<Child>;
    const PRODUCT: &'static str = "slow";
    const OPS: OpSet = OpSet::FLUSH;
    const POLLS: bool = true;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.0.name
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, BLOCKS).unwrap()
    }
    fn open_channel(&self) -> Result<Vec<Child>> {
        Ok(Vec::new())
    }
    fn submit(&self, children: &mut Vec<Child>, io: BdevIo) {
        let mut parent = io.fan_out();
        children.extend([(); 3].map(|()| parent.child()));
    }
    fn poll(&self, children: &mut Vec<Child>) -> bool {
        let Some(child) = children.pop() else { return false };
        match children.len() {
            2 => child.end(IoResult::new(Status::SUCCESS)),
            1 => child.end(IoResult::new(Status::NOT_FOUND)),
            _ => drop(child),
        }
        true
    }
}
