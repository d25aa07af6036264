//! `panics`: disks that panic at a given place, with a mutex locked. From then on they panic in every `Drop`, too.
//!
//! `tests/e2e/test_panics.py` uses it to show that the host and its other disks continue.
#![forbid(unsafe_code)]

use drivebay_sdk::Stopping;
use drivebay_sdk::bdev::{self, Channel, Desc, Ending};
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::Method;
use drivebay_sdk::runtime::resident::{Member, Residents};
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::serde_json::{Map, Value};
use drivebay_sdk::thread;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

plugin! {
    name: "panics",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: ["bdev_panics_create", "bdev_panics_delete", "panics_run", "panics_later"],
    unsafe(threads_move),
    start: start,
    stop: stop,
}

params! {
    /// Parameters of `bdev_panics_create`.
    pub struct Create {
        /// Name of the bdev.
        name: String,
        /// Where it panics: the name of a method of `Bdev`, `held` (as `submit`, but it keeps the first I/O instead) or `nowhere`.
        at: String,
        /// A disk below: reads and writes go there. Empty = none.
        base: String = String::new(),
    }

    /// Parameters of `panics_run` and `panics_later`.
    pub struct Run {
        /// Where it panics. At once: `method`, `message`, `channel`, `task`, `timer`, `worker`. At its next call: `examine`, `save_config`, `stop`.
        at: String,
    }
}

/// Locked during each panic, so that a `Drop` finds it poisoned.
static STATE: Mutex<u64> = Mutex::new(0);
/// Number of I/Os that disks hold.
static HELD: AtomicU64 = AtomicU64::new(0);
/// The place where the plugin itself panics, once it gets there.
static ARMED: Mutex<String> = Mutex::new(String::new());

/// The channels of all disks.
fn channels() -> &'static Residents<()> {
    static CHANNELS: OnceLock<Residents<()>> = OnceLock::new();
    CHANNELS.get_or_init(Residents::default)
}

fn panic_at(place: &str) {
    let _held = STATE.lock();
    assert!(place.is_empty(), "told to panic in {place}");
}

fn reach(place: &str) {
    let is_armed = *ARMED.lock().unwrap_or_else(PoisonError::into_inner) == place;
    if is_armed {
        panic_at(place);
    }
}

fn start(app: &App) -> Result<()> {
    bdev::on_examine_config(app, |_, _| reach("examine"));
    bdev::on_save_config(app, |_| reach("save_config"));
    bdev::serve::<Panics>(app, "panics")?;
    Method::immediate("panics_run", "Panics.", |_, Run { at }| run(&at)).register(app)?;
    let later = async |_: &App, Run { at }: Run| {
        task::sleep(Duration::from_millis(1)).await;
        panic_at(&at);
        Ok(true)
    };
    Method::task("panics_later", "Panics in a method of several steps.", later).register(app)
}

fn run(at: &str) -> Result<bool> {
    let place = at.to_owned();
    match at {
        "method" => panic_at(at),
        "message" => thread::app().send(move || panic_at(&place))?,
        "channel" => channels().send_all(|_| panic_at("channel")),
        "task" => task::spawn("task", async move { panic_at(&place) })?.detach(),
        "timer" => task::spawn("timer", async move {
            task::sleep(Duration::from_millis(1)).await;
            panic_at(&place);
        })?
        .detach(),
        "worker" => {
            task::spawn("worker", worker::run("panics", || panic_at("worker")))?.detach();
        }
        _ => ARMED.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&place),
    }
    Ok(true)
}

fn stop(_: &App, stopping: Stopping) {
    reach("stop");
    drop(stopping);
}

struct Panics {
    name: String,
    at: String,
    base: Option<Desc>,
}

/// Panics, unless the thread is panicking already: a second panic would end the process.
struct Dropped;

impl Drop for Dropped {
    #[expect(clippy::unwrap_used, reason = "it panics a second time")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            *STATE.lock().unwrap() += 1;
        }
    }
}

struct State {
    base: Option<Channel>,
    /// Lets messages reach the channel.
    _member: Member<()>,
    held: IoQueue,
    _dropped: Dropped,
}

impl Panics {
    fn reach(&self, place: &str) {
        if self.at == place {
            panic_at(place);
        }
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.reach("drop");
            drop(Dropped);
        }
    }
}

impl Bdev for Panics {
    type Params = Create;
    type Channel = State;
    const OPS: OpSet = OpSet::READ_WRITE;
    const PRODUCT: &'static str = "Panicking disk";
    const POLLS: bool = true;
    const BURSTS: bool = true;
    const JOINS: bool = true;

    fn create(app: &App, Create { name, at, base }: Create) -> Result<Self> {
        let base = match base.as_str() {
            "" => None,
            base => Some(bdev::open(app, base, true, |_, _| {})?),
        };
        let disk = Self { name, at, base };
        disk.reach("create");
        Ok(disk)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        Geometry::new_any(512, 2048).unwrap_or_else(|_| unreachable!("the size is valid"))
    }

    fn open_channel(&self) -> Result<State> {
        self.reach("open_channel");
        let base = self.base.as_ref().map(Desc::channel).transpose()?;
        let member = channels().add(())?;
        Ok(State { base, _member: member, held: IoQueue::new(), _dropped: Dropped })
    }

    fn submit(&self, state: &mut State, io: BdevIo) {
        self.reach("submit");
        if self.at == "held" && state.held.is_empty() {
            state.held.push(io);
            HELD.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match &state.base {
            Some(base) => {
                let op = io.op();
                io.fan_out().send(base, op, 0);
            }
            None => {
                io.buffers().zero();
                io.complete(Status::SUCCESS);
            }
        }
    }

    fn joined(&self, _: &mut State, io: BdevIo, result: IoResult) {
        self.reach("joined");
        io.complete_with(result);
    }

    fn flush(&self, _: &mut State) {
        self.reach("flush");
    }

    fn poll(&self, _: &mut State) -> bool {
        self.reach("poll");
        false
    }

    fn end(&self, ending: Ending) {
        self.reach("end");
        drop(ending);
    }

    fn write_config(&self, config: &mut Config<'_>, method: &str, params: &Value) {
        config.call(method, params);
        self.reach("write_config");
    }

    fn driver_specific(&self) -> Map<String, Value> {
        self.reach("driver_specific");
        Map::from_iter([("held".to_owned(), HELD.load(Ordering::Relaxed).into())])
    }
}
