//! `error`: passes I/O on to its base, except the I/O that the operator wants to fail, hold or
//! change.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use drivebay_sdk::bdev::{
    Channel, Child, Delete, StatefulFilter, check_name, delete_filter, make_filter, name_filters,
    with_filter,
};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method};
use drivebay_sdk::runtime::resident::{Member, Residents};
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value, json};

mod injection;
#[cfg(test)]
mod tests;

use injection::{ErrorType, Inject, Injections};

plugin! {
    name: "error",
    kind: "filter",
    provides: [],
    requires: [],
    methods: [
        "bdev_error_create",
        "bdev_error_delete",
        "bdev_error_inject_error",
        "bdev_error_resume_pending",
    ],
    unsafe(threads_move),
    start: start,
}

params! {
    /// Parameters of `bdev_error_create`.
    pub struct Create {
        /// Name of the base bdev. If there is no such bdev yet, the filter waits for it.
        base_name: String,
        /// UUID. If absent, it is derived from the name.
        uuid: Option<Uuid>,
    }

    /// Parameters of `bdev_error_resume_pending`.
    pub struct Resume {
        /// Name of an error bdev.
        name: String,
    }
}

fn start(app: &App) -> Result<()> {
    name_filters(app, "error");
    Method::immediate(
        "bdev_error_create",
        "Creates a bdev that can inject errors into the I/O to its base (`bdev_error_inject_error`). Its name is EE_ and the name of the base.",
        |app, params: Create| make_filter::<Faulty>(app, params).map(|_| true),
    )
    .describe(|method| method.result("true").error(-17, "exists", "The base already has an error bdev."))
    .register(app)?;
    Method::new(
        "bdev_error_delete",
        "Deletes an error bdev.\n\nThe answer comes when its I/O has completed and the bdev is gone.",
        |app, call, params: Delete| delete_filter::<Faulty>(app, &params.name, call),
    )
    .describe(|method| method.result("true").error(-19, "no_such_device", NONE))
    .register(app)?;
    Method::immediate(
        "bdev_error_inject_error",
        "Makes the next I/O of a kind fail, wait, or carry changed data.",
        |_, inject: Inject| {
            inject.check()?;
            with_filter::<Faulty, _>(&inject.name, |bdev| bdev.injections.set(&inject))??;
            Ok(true)
        },
    )
    .describe(|method| method.result("true").error(-19, "no_such_device", NONE))
    .register(app)?;
    Method::new(
        "bdev_error_resume_pending",
        "Passes on all I/O that waits because of `pending`, and removes the injections of `pending`.",
        resume,
    )
    .describe(|method| method.result("true").error(-19, "no_such_device", NONE))
    .register(app)
}

const NONE: &str = "No error bdev has that name.";

fn resume(_: &App, call: Call, Resume { name }: Resume) {
    let lanes = with_filter::<Faulty, _>(&name, |bdev| {
        bdev.injections.clear_pending();
        bdev.lanes.clone()
    });
    let lanes = match lanes {
        Ok(lanes) => lanes,
        Err(error) => return call.fail(error),
    };
    let resume = async move {
        lanes.on_all(|lane| lane.resume()).await;
        call.reply(true);
    };
    if let Err(error) = task::spawn("resume", resume).map(task::JoinHandle::detach) {
        warn!("{name}: I/O stays pending: {error}");
    }
}

struct Faulty {
    name: String,
    options: Create,
    injections: Arc<Injections>,
    lanes: Residents<Lane>,
}

/// One thread's state.
struct Lane {
    base: Channel,
    injections: Arc<Injections>,
    /// Number of I/Os at the base.
    in_flight: Cell<u64>,
    pending: RefCell<IoQueue>,
}

/// The offset of the byte of a read to change, and what to XOR it with.
type Spoil = (u64, u8);
/// Length of a `Spoil`, which is kept with the I/O.
const SPOIL_LEN: usize = size_of::<Spoil>();

impl Lane {
    fn submit(self: &Rc<Self>, mut io: BdevIo) {
        let Some(fault) = self.injections.take(io.op(), self.in_flight.get()) else {
            return self.send(io);
        };
        match fault.error_type {
            ErrorType::Failure => io.complete(Status::IO_ERROR),
            ErrorType::NvmeFailure => io.complete_with(fault.nvme_status()),
            ErrorType::Nomem => io.complete(Status::NO_RESOURCE),
            ErrorType::Pending => self.pending.borrow_mut().push(io),
            ErrorType::CorruptData => match io.op() {
                Op::Read(_) => {
                    io.set_state((fault.corrupt_offset, fault.corrupt_value));
                    self.send(io);
                }
                Op::Write(_) => self.write_spoiled(io, (fault.corrupt_offset, fault.corrupt_value)),
                _ => self.send(io),
            },
        }
    }

    fn send(&self, io: BdevIo) {
        match io.op() {
            op @ (Op::Read(_) | Op::Write(_) | Op::Unmap(_) | Op::Flush) => {
                self.in_flight.set(self.in_flight.get() + 1);
                io.fan_out().send(&self.base, op, 0);
            }
            _ => self.base.pass(io),
        }
    }

    /// Writes a copy of the data with one byte changed. The client's own data does not change.
    fn write_spoiled(&self, io: BdevIo, (offset, value): Spoil) {
        let copy = u32::try_from(io.buffers().len()).ok().and_then(buf::get);
        let Some(mut copy) = copy else { return io.complete(Status::IO_ERROR) };
        io.buffers().copy_to(&mut copy);
        if let Some(byte) = usize::try_from(offset).ok().and_then(|at| copy.get_mut(at)) {
            *byte ^= value;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let (op, flags, mut parent) = (io.op(), io.flags(), io.fan_out());
        let write = Box::new(Write { copy, child: parent.child() });
        self.base.submit(op, flags, write, |write, result| write.child.end(result));
    }

    fn resume(self: &Rc<Self>) {
        let mut pending = self.pending.take();
        while let Some(io) = pending.pop() {
            self.submit(io);
        }
    }

    fn abort_all(&self) {
        drop(self.pending.take());
    }
}

/// A write of changed data.
struct Write {
    copy: Buf,
    child: Child,
}

impl AsMut<Buf> for Write {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.copy
    }
}

impl StatefulFilter for Faulty {
    type Params = Create;
    type State = Member<Lane>;
    const PRODUCT: &'static str = "Error Injection Disk";
    const JOINS: bool = true;
    const IO_STATE_LEN: usize = SPOIL_LEN;

    fn create(_: &App, options: Create) -> Result<Self> {
        let name = check_name(format!("EE_{}", options.base_name))?;
        Ok(Self { name, options, injections: Arc::default(), lanes: Residents::default() })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn base_name(&self) -> &str {
        &self.options.base_name
    }

    fn describe(&self, _: &Info, registration: &mut Registration) {
        registration.uuid = self.options.uuid.map_or([0; 16], |uuid| uuid.0);
    }

    fn open_channel(&self, base: Channel) -> Result<Member<Lane>> {
        self.lanes.add(Lane {
            base,
            injections: Arc::clone(&self.injections),
            in_flight: Cell::new(0),
            pending: RefCell::default(),
        })
    }

    fn submit(&self, lane: &mut Member<Lane>, io: BdevIo) {
        match io.op() {
            Op::Abort(id) => match lane.pending.borrow_mut().remove(id) {
                Some(pending) => {
                    pending.complete(Status::ABORTED);
                    io.complete(Status::SUCCESS);
                }
                None => lane.base.pass(io),
            },
            Op::Reset => {
                // If the plugin stops first, dropping the queue aborts the reset.
                let (lanes, mut reset) = (self.lanes.clone(), IoQueue::new());
                reset.push(io);
                let work = async move {
                    lanes.on_all(|lane| lane.abort_all()).await;
                    reset.pop().into_iter().for_each(|io| io.complete(Status::SUCCESS));
                };
                if let Err(error) = task::spawn("reset", work).map(task::JoinHandle::detach) {
                    warn!("a reset was aborted: {error}");
                }
            }
            _ => lane.submit(io),
        }
    }

    fn joined(&self, lane: &mut Member<Lane>, io: BdevIo, result: IoResult) {
        lane.in_flight.set(lane.in_flight.get() - 1);
        let spoil = io.state::<Spoil>().filter(|_| result.status.is_success());
        if let Some((offset, value)) =
            spoil.and_then(|(at, by)| Some((usize::try_from(at).ok()?, by)))
        {
            let mut byte = 0;
            io.buffers()
                .look_at(offset, 1, &mut |seen| byte = seen.first().map_or(0, |seen| seen ^ value));
            io.buffers().fill_at(offset, &[byte]);
        }
        io.complete_with(result);
    }

    fn flush(&self, lane: &mut Member<Lane>) {
        lane.base.flush();
    }

    fn removing(&self, _: &App) {
        self.injections.close();
        self.lanes.send_all(|lane| lane.abort_all());
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let shown = json!({"base_bdev": self.options.base_name});
        Map::from_iter([("error_disk".to_owned(), shown)])
    }
}
