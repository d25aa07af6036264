//! `delay`: completes reads and writes some time after its base.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use drivebay_sdk::bdev::{Channel, IoId, StatefulFilter, check_name, with_filter};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method, RpcError};
use drivebay_sdk::runtime::resident::{Member, Residents};
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value};
use drivebay_sdk::thread::now_ns;

mod latency;
#[cfg(test)]
mod tests;

use latency::{Percentile, draw};

filter_module!(
    "delay",
    Delay,
    unsafe(threads_move),
    methods: ["bdev_delay_update_latency"],
    start: start
);

params! {
    /// Parameters of `bdev_delay_create`. Latencies are in microseconds and are added to the latency of the base.
    pub struct Create {
        /// Name of the new bdev.
        name: String,
        /// Name of the base bdev. If there is no such bdev yet, the filter waits for it.
        base_bdev_name: String,
        /// Delay of reads, in microseconds.
        avg_read_latency: u64,
        /// Delay of one read in a hundred, in microseconds.
        p99_read_latency: u64,
        /// Delay of writes, in microseconds.
        avg_write_latency: u64,
        /// Delay of one write in a hundred, in microseconds.
        p99_write_latency: u64,
        /// UUID. If absent, it is derived from the name.
        uuid: Option<Uuid>,
        /// If true, delays are random, from 0 to twice the average. One I/O in a hundred still has the p99 delay.
        random: bool = false,
        /// Delays of reads and writes by percentile, in ascending order. If not empty, they replace the four delays.
        percentiles: Vec<Percentile> = Vec::new(),
    }

    /// Parameters of `bdev_delay_update_latency`.
    pub struct Update {
        /// Name of a delay bdev.
        delay_bdev_name: String,
        /// The delay to change.
        latency_type: LatencyType,
        /// New delay, in microseconds.
        latency_us: u64,
    }

    /// One of the four latencies.
    pub enum LatencyType {
        /// The delay of reads.
        AvgRead = "avg_read",
        /// The delay of one read in a hundred.
        P99Read = "p99_read",
        /// The delay of writes.
        AvgWrite = "avg_write",
        /// The delay of one write in a hundred.
        P99Write = "p99_write",
    }
}

/// JSON-RPC 2.0, section 5.1. SPDK answers with this code if there is no such delay bdev.
const INVALID_PARAMS: i64 = -32602;
/// Names of the four latencies, by `LatencyType`.
const LATENCIES: [&str; 4] =
    ["avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency"];

fn start(app: &App) -> Result<()> {
    Method::new("bdev_delay_update_latency", "Changes one of the delays of a delay bdev.", update)
        .describe(|method| {
            method.result("true").error(
                INVALID_PARAMS,
                "invalid_params",
                "No delay bdev has that name.",
            )
        })
        .register(app)
}

fn update(_: &App, call: Call, update: Update) {
    let Update { delay_bdev_name, latency_type, latency_us } = update;
    let store = |delay: &Delay| {
        if let Some(latency) = delay.latencies.get(latency_type as usize) {
            latency.store(latency_us, Ordering::Relaxed);
        }
    };
    match with_filter::<Delay, _>(&delay_bdev_name, store) {
        Ok(()) => call.reply(true),
        Err(_) => {
            let why = "The requested bdev does not exist.";
            call.fail(RpcError::new(INVALID_PARAMS, "invalid_params", why));
        }
    }
}

struct Delay {
    options: Create,
    /// In microseconds, by `LatencyType`.
    latencies: [AtomicU64; 4],
    /// Whether the bdev is being removed. If so, I/O is no longer delayed.
    is_removing: AtomicBool,
    lanes: Residents<Lane>,
}

/// One thread's state.
struct Lane {
    base: Channel,
    /// I/O that the base has completed, by the time when this filter completes it and by the order of arrival.
    delayed: RefCell<BTreeMap<(u64, u64), (BdevIo, IoResult)>>,
    last: Cell<u64>,
    /// The times of the armed timers.
    timers: RefCell<BTreeSet<u64>>,
    random: Cell<u64>,
}

impl Lane {
    fn delay(self: &Rc<Self>, io: BdevIo, result: IoResult, until_ns: u64) {
        self.last.set(self.last.get() + 1);
        self.delayed.borrow_mut().insert((until_ns, self.last.get()), (io, result));
        self.arm();
    }

    /// Arms a timer for the I/O that is to complete next.
    fn arm(self: &Rc<Self>) {
        let Some(next) = self.delayed.borrow().keys().next().map(|(until, _)| *until) else {
            return;
        };
        if self.timers.borrow().first().is_some_and(|first| *first <= next) {
            return;
        }
        self.timers.borrow_mut().insert(next);
        let lane = Rc::downgrade(self);
        let ring = async move {
            task::sleep_until(next).await;
            let Some(lane) = lane.upgrade() else { return };
            lane.timers.borrow_mut().remove(&next);
            lane.end_until(now_ns());
            lane.arm();
        };
        if let Err(error) = task::spawn("delay", ring).map(task::JoinHandle::detach) {
            warn!("cannot start a timer, so I/O is not delayed: {error}");
            self.timers.borrow_mut().remove(&next);
            self.end_until(u64::MAX);
        }
    }

    fn end_until(&self, now_ns: u64) {
        loop {
            let mut delayed = self.delayed.borrow_mut();
            let Some(first) = delayed.first_entry().filter(|first| first.key().0 <= now_ns) else {
                return;
            };
            let (io, result) = first.remove();
            drop(delayed); // the client may submit again
            io.complete_with(result);
        }
    }

    /// Aborts one I/O, or all of them.
    fn abort(&self, id: Option<IoId>) -> bool {
        let all = self.delayed.take();
        let (aborted, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(_, (io, _))| id.is_none_or(|id| io.id() == id));
        self.delayed.replace(rest);
        let is_any = !aborted.is_empty();
        aborted.into_iter().for_each(|(_, (io, _))| io.complete(Status::ABORTED));
        is_any
    }
}

impl Delay {
    fn latency(&self, place: usize) -> u64 {
        self.latencies.get(place).map_or(0, |latency| latency.load(Ordering::Relaxed))
    }

    /// When to complete an I/O that the base has just completed. `None`: at once.
    fn until_ns(&self, lane: &Lane, op: Op) -> Option<u64> {
        if self.is_removing.load(Ordering::Relaxed) {
            return None;
        }
        let first = match op {
            Op::Read(_) => 0,
            Op::Write(_) => 2,
            _ => return None,
        };
        let (average, p99) = (self.latency(first), self.latency(first + 1));
        let random = latency::next(&lane.random);
        let us = draw(random, average, p99, self.options.random, &self.options.percentiles);
        (us > 0).then(|| now_ns().saturating_add(us.saturating_mul(1000)))
    }
}

/// Replaces the latencies in the parameters. `latency` returns the value for a place of [`LATENCIES`].
fn with_latencies(mut params: Value, latency: impl Fn(usize) -> u64) -> Value {
    for (place, name) in LATENCIES.iter().enumerate() {
        if let Some(param) = params.get_mut(*name) {
            *param = latency(place).into();
        }
    }
    params
}

impl StatefulFilter for Delay {
    type Params = Create;
    type State = Member<Lane>;
    const PRODUCT: &'static str = "delay";
    const JOINS: bool = true;

    fn create(_: &App, options: Create) -> Result<Self> {
        check_name(options.name.clone())?;
        let given = [
            options.avg_read_latency,
            options.p99_read_latency,
            options.avg_write_latency,
            options.p99_write_latency,
        ];
        for (average, p99, name) in
            [(given[0], given[1], LATENCIES[1]), (given[2], given[3], LATENCIES[3])]
        {
            if p99 < average {
                return Err(Error::invalid(name, p99, format!("at least the average, {average}")));
            }
        }
        latency::check(&options.percentiles)?;
        Ok(Self {
            options,
            latencies: given.map(AtomicU64::new),
            is_removing: AtomicBool::new(false),
            lanes: Residents::default(),
        })
    }

    fn name(&self) -> &str {
        &self.options.name
    }

    fn base_name(&self) -> &str {
        &self.options.base_bdev_name
    }

    fn describe(&self, _: &Info, registration: &mut Registration) {
        registration.uuid = self.options.uuid.map_or([0; 16], |uuid| uuid.0);
    }

    fn open_channel(&self, base: Channel) -> Result<Member<Lane>> {
        self.lanes.add(Lane {
            base,
            delayed: RefCell::default(),
            last: Cell::new(0),
            timers: RefCell::default(),
            random: Cell::new(now_ns() | 1),
        })
    }

    fn submit(&self, lane: &mut Member<Lane>, io: BdevIo) {
        match io.op() {
            op @ (Op::Read(_) | Op::Write(_)) => io.fan_out().send(&lane.base, op, 0),
            Op::Abort(id) if lane.abort(Some(id)) => io.complete(Status::SUCCESS),
            Op::Reset => {
                // If the plugin stops first, dropping the queue aborts the reset.
                let (lanes, lane, mut reset) =
                    (self.lanes.clone(), Rc::clone(&**lane), IoQueue::new());
                reset.push(io);
                let work = async move {
                    lanes
                        .on_all(|lane| {
                            lane.abort(None);
                        })
                        .await;
                    reset.pop().into_iter().for_each(|io| lane.base.pass(io));
                };
                if let Err(error) = task::spawn("reset", work).map(task::JoinHandle::detach) {
                    warn!("a reset was aborted: {error}");
                }
            }
            _ => lane.base.pass(io),
        }
    }

    fn joined(&self, lane: &mut Member<Lane>, io: BdevIo, result: IoResult) {
        match self.until_ns(lane, io.op()) {
            Some(until_ns) => lane.delay(io, result, until_ns),
            None => io.complete_with(result),
        }
    }

    fn flush(&self, lane: &mut Member<Lane>) {
        lane.base.flush();
    }

    fn removing(&self, _: &App) {
        self.is_removing.store(true, Ordering::Relaxed);
        self.lanes.send_all(|lane| lane.end_until(u64::MAX));
    }

    fn saved_params(&self, made_with: Value) -> Value {
        with_latencies(made_with, |place| match place {
            // `bdev_delay_update_latency` may leave a p99 below its average, which `create` refuses.
            1 | 3 => self.latency(place).max(self.latency(place - 1)),
            _ => self.latency(place),
        })
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let shown = drivebay_sdk::serde_json::to_value(&self.options).unwrap_or_default();
        Map::from_iter([("delay".to_owned(), with_latencies(shown, |place| self.latency(place)))])
    }
}
