//! A toy store on the fake host. One operation uses every part of the runtime, as a volume or a raid would.
#![allow(clippy::unwrap_used, reason = "for tests")]

use super::io::BlockIo;
use super::lock::Locks;
use super::{OnApp, task, worker};
use crate::app::App;
use crate::bdev::{self, Bdev, BdevIo, Claim, Geometry, Op, OpSet, Range, register};
use crate::error::{Error, Result, Status, errno};
use crate::mem::DmaRegion;
use crate::rpc::{Method, NoParams, params};
use crate::testing::FakeHost;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

params! {
    /// Parameters of `toy_create`.
    pub struct Create {
        /// Name of the base bdev.
        base: String,
        /// What the label says.
        label: String,
    }
}

/// The plugin's state, on the app thread.
#[derive(Default)]
struct Toy {
    locks: Locks,
    stores: RefCell<Vec<BlockIo>>,
}

static TOY: OnApp<Toy> = OnApp::new();

/// Opens the base, checks that it has no label, computes a checksum on a worker, writes the label and reads it back.
async fn create(app: &App, params: Create) -> Result<String> {
    let toy = TOY.get().ok_or_else(Error::no_such_device)?;
    let _guard = toy.locks.try_lock(&params.base, "create")?;
    let desc = Arc::new(bdev::open(app, &params.base, true, |_, _| {})?);
    desc.claim(app, Claim::ExclusiveWrite)?;
    let io = BlockIo::new(&desc)?;
    let first = Range::new(0, 1);
    let limit = Duration::from_secs(5);
    let mut block = task::timeout(limit, io.read(first)).await??;
    if block.iter().any(|byte| *byte != 0) {
        return Err(Error::new(errno::EEXIST, format!("{} has a label", params.base)));
    }
    let label = params.label.into_bytes();
    let (label, sum) = worker::run("checksum", move || {
        let sum = label.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        (label, sum)
    })
    .await?;
    for (to, from) in block.iter_mut().zip([sum].iter().chain(&label)) {
        *to = *from;
    }
    // Simulates a disk that starts slowly.
    task::sleep(Duration::from_millis(10)).await;
    io.write(first, block).await?;
    io.flush().await?;
    let found = io.read(first).await?;
    let text = found.iter().skip(1).take_while(|byte| **byte != 0).copied().collect();
    toy.stores.borrow_mut().push(io);
    Ok(String::from_utf8(text).unwrap_or_default())
}

/// Blocks of 512 bytes. Each I/O completes at once.
struct Base(DmaRegion);

impl Bdev for Base {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "base";
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH);

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        "toy_base"
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 8).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        let status = match io.op() {
            Op::Read(range) => self.0.read(range, io.buffers()),
            Op::Write(range) => self.0.write(range, io.buffers()),
            Op::Flush => Status::SUCCESS,
            _ => Status::NOT_SUPPORTED,
        };
        io.complete(status);
    }
}

#[test]
fn an_operation_reads_works_waits_and_writes_while_others_learn_that_it_runs() {
    let host = FakeHost::new();
    let region = DmaRegion::alloc_zeroed(Geometry::new(512, 8).unwrap()).unwrap();
    register(host.app(), Base(region), "none", Value::Null).unwrap();
    let toy = TOY.get_or_init(Toy::default).unwrap();
    Method::task("toy_create", "Labels a base bdev.", create).register(host.app()).unwrap();

    let outcome = Rc::new(RefCell::new(None));
    let to = Rc::clone(&outcome);
    let first = Create { base: "toy_base".into(), label: "first".into() };
    let run = task::spawn_app(host.app(), "first", async move |app| {
        let created = create(app, first).await;
        *to.borrow_mut() = Some(created);
    });
    run.unwrap().detach();
    host.run();

    let params = json!({"base": "toy_base", "label": "second"});
    let busy = host.call("toy_create", &params).unwrap_err();
    assert_eq!(busy.message, "toy_base is busy: create is under way");
    let created = host.wait(|| {
        host.advance(Duration::from_millis(1));
        outcome.take()
    });
    assert_eq!(created, Ok("first".to_owned()));
    assert!(toy.locks.list().is_empty() && task::list_in_flight().is_empty());

    let claimed = host.call("toy_create", &params).unwrap_err();
    assert_eq!(claimed.code, -1, "the store has claimed the base");
    toy.stores.take();
    let labeled = host.call("toy_create", &params).unwrap_err();
    assert_eq!(labeled.message, "toy_base has a label");
}
