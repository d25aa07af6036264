//! A small fake host. With it a plugin's own tests load the door, call the methods, and do I/O to the
//! bdevs through [`crate::bdev::open`].
//!
//! Each test thread has its own fake host. [`FakeHost::run`] runs its lightweight threads one after another; the
//! test itself runs on the app thread. All tests of a library share the names of bdevs, so give each test its own names.
//!
//! The fake host checks for mistakes of a module: it panics when an I/O completes twice or never.
#![expect(unsafe_code, reason = "implements the host's side of the ABI")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "for tests")]

mod bus;
mod disk;
mod quiesce;
mod services;
mod threads;
mod workers;

use crate::app::App;
use crate::bdev::{self, Channel, IoFlags, IoResult, Op, size_of_table};
use crate::buf::{self, Buf};
use crate::host;
use crate::plugin::Door;
use api::{bay_bdev_ops, bay_bdev_reg, bay_host, bay_io, bay_str};
use drivebay_plugin_api as api;
use drivebay_spec_jsonrpc::RpcError;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bus::*;
pub use disk::FakeDisk;
use services::*;
use threads::*;
use workers::*;

static FAKE: AtomicBool = AtomicBool::new(false);

/// Whether the library runs under a fake host.
pub(crate) fn is_fake() -> bool {
    FAKE.load(Ordering::Relaxed)
}

type Callback = (Option<api::bay_cb_fn>, *mut c_void);

struct Bdev {
    reg: bay_bdev_reg,
    ops: bay_bdev_ops,
    name: String,
    leaving: Option<Callback>,
}

#[derive(Clone, Copy)]
struct Desc {
    bdev: u64,
    event: Option<api::bay_bdev_event_fn>,
    arg: usize,
    is_claimed: bool,
}

struct Chan {
    bdev: u64,
    thread: u64,
    raw: *mut c_void,
    outstanding: u32,
    /// Whether the module is being called. Meanwhile its other calls are deferred, as the ABI promises.
    is_entered: bool,
    deferred: VecDeque<*mut bay_io>,
    flush_wanted: bool,
    close_wanted: bool,
}

struct Method {
    record: api::bay_rpc_method,
    name: String,
}

#[derive(Clone, Copy)]
struct Poller {
    thread: u64,
    ops: api::bay_poller_ops,
    ctx: *mut c_void,
    is_paused: bool,
}

#[derive(Default)]
struct State {
    next: u64,
    door: Option<&'static api::bay_plugin>,
    bdevs: HashMap<u64, Bdev>,
    descs: HashMap<u64, Desc>,
    chans: HashMap<u64, Chan>,
    /// The bdevs of channels that are being closed.
    closing: HashMap<u64, u64>,
    /// Bdevs whose `destruct` is pending.
    destructing: HashMap<u64, Callback>,
    methods: Vec<Method>,
    /// Tables that plugins provide: handle, id, table.
    offers: Vec<(u64, String, *const c_void)>,
    answers: HashMap<u64, Result<Value, RpcError>>,
    threads: Threads,
    /// Jobs that no worker has started yet, with their threads.
    jobs: VecDeque<(u64, *mut api::bay_job)>,
    /// Number of cores that have a reactor.
    cores: i32,
    /// Waiters for an I/O or a buffer, with their threads.
    waiters: VecDeque<(u64, *mut api::bay_wait)>,
    pollers: BTreeMap<u64, Poller>,
    ios_in_use: usize,
    ios_max: usize,
    bufs_in_use: usize,
    bufs_max: usize,
    now_ns: u64,
    log: Vec<String>,
    quiesced: quiesce::Quiesced,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State { ios_max: 64, bufs_max: usize::MAX, cores: 1, ..State::default() });
}

/// Runs `body` on the fake host's state. `body` must not call the plugin, which would borrow the state again.
fn state<R>(body: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(body)
}

fn new_id() -> u64 {
    state(|state| {
        state.next += 1;
        state.next
    })
}

/// The fake host of this thread.
#[derive(Debug)]
pub struct FakeHost(PhantomData<*const ()>);

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// Creates a host without a plugin. All services work.
    #[must_use]
    pub fn new() -> Self {
        FAKE.store(true, Ordering::Relaxed);
        // SAFETY: the table is a constant.
        unsafe { host::adopt(&raw const TABLE.0) }.expect("the fake host has every function");
        state(|state| state.threads.begin());
        Self(PhantomData)
    }

    /// The app thread; it is the test's own thread.
    #[must_use]
    pub fn app(&self) -> &App {
        // SAFETY: a fake host stays on the OS thread that is its app thread.
        unsafe { App::assume() }
    }

    /// Initialises and starts a plugin from its door: `&bay_door::bay_plugin_v1`.
    #[must_use]
    pub fn load(door: &'static Door) -> Self {
        let this = Self::new();
        let door = door.raw();
        state(|state| state.door = Some(door));
        let mut plugin = std::ptr::null_mut();
        // SAFETY: the door's function with the host's table.
        assert_eq!(unsafe { door.init.unwrap()(&raw const TABLE.0, &raw mut plugin) }, 0);
        // SAFETY: the plugin was just initialised.
        assert_eq!(unsafe { door.start.unwrap()(plugin, api::BAY_START_FRESH) }, 0);
        this
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The errors of the method.
    ///
    /// # Panics
    /// When there is no such method, or when the method does not answer.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        let record = state(|state| {
            state.methods.iter().find(|known| known.name == method).map(|known| known.record)
        });
        let record = record.unwrap_or_else(|| panic!("no method {method}"));
        let (id, text) = (new_id(), params.to_string());
        // SAFETY: the registered function with its context; the text outlives the call.
        unsafe { record.call.unwrap()(record.ctx, id, bay_str::new(&text)) };
        for _ in 0..1000 {
            if let Some(answer) = state(|state| state.answers.remove(&id)) {
                return answer;
            }
            self.run();
        }
        panic!("{method} did not answer");
    }

    /// Runs one round: jobs of workers, messages and waiters that are due, each poller once, and the end of the burst.
    pub fn run(&self) {
        run_jobs();
        quiesce::call_back();
        while let Some((thread, msg)) = state(|state| state.threads.next_message()) {
            // SAFETY: the message was sent and is received once.
            let msg = unsafe { *msg };
            // SAFETY: as above.
            on_thread(thread, || unsafe { msg.call.unwrap()(msg.arg) });
        }
        let due = state(|state| std::mem::take(&mut state.waiters));
        for (thread, wait) in due {
            // SAFETY: the waiter is queued and is called once.
            let wait = unsafe { *wait };
            // SAFETY: as above.
            on_thread(thread, || unsafe { wait.cb.unwrap()(wait.arg) });
        }
        let ids: Vec<u64> = state(|state| state.pollers.keys().copied().collect());
        for id in ids {
            let poller = state(|state| state.pollers.get(&id).copied());
            if let Some(Poller { thread, ops, ctx, is_paused: false }) = poller {
                on_thread(thread, || {
                    // SAFETY: `ctx` belongs to a registered poller.
                    unsafe { ops.run.unwrap()(ctx) };
                });
            }
        }
        let chans: Vec<_> =
            state(|state| state.chans.iter().map(|(id, c)| (*id, c.thread)).collect());
        for (chan, thread) in chans {
            // SAFETY: the channel is live, because the flush of another channel did not release it.
            on_thread(thread, || unsafe { flush(&raw const TABLE.0, chan) });
        }
    }

    /// Does one I/O and waits for its completion. `data` is the data to write, or receives the data of a read.
    ///
    /// # Panics
    /// When the I/O does not complete.
    pub fn io(&self, channel: &Channel, op: Op, flags: IoFlags, data: &mut Vec<u8>) -> IoResult {
        let ended = Rc::new(Cell::new(None));
        if data.is_empty() {
            WAITED.with(|waited| waited.set(None));
            channel.submit(op, flags, (), |(), result| WAITED.set(Some(result)));
            return self.wait(|| WAITED.get());
        }
        let mut buf = buf::get(u32::try_from(data.len()).unwrap()).unwrap();
        buf.copy_from_slice(data);
        let context = Box::new(OneIo { buf, ended: Rc::clone(&ended) });
        channel.submit(op, flags, context, |one, result| {
            let OneIo { buf, ended } = *one;
            ended.set(Some((buf.to_vec(), result)));
        });
        let (after, result) = self.wait(|| ended.take());
        *data = after;
        result
    }

    /// Runs rounds until `done` returns a value.
    ///
    /// # Panics
    /// After ten seconds.
    pub fn wait<R>(&self, done: impl Fn() -> Option<R>) -> R {
        let begin = Instant::now();
        loop {
            if let Some(done) = done() {
                return done;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "the test waited for ten seconds in vain"
            );
            self.run();
        }
    }

    /// Limits the number of I/Os in flight.
    pub fn set_io_limit(&self, ios_max: usize) {
        state(|state| state.ios_max = ios_max);
    }

    /// Limits the number of pool buffers in use.
    pub fn set_buf_limit(&self, bufs_max: usize) {
        state(|state| state.bufs_max = bufs_max);
    }

    /// Sets the clock, in nanoseconds. The clock does not run by itself.
    pub fn set_now_ns(&self, now_ns: u64) {
        state(|state| state.now_ns = now_ns);
    }

    /// Advances the clock and runs a round.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap();
        state(|state| state.now_ns += by);
        self.run();
    }

    /// Gives cores `0..cores` reactors. The default is 1.
    pub fn set_cores(&self, cores: i32) {
        state(|state| state.cores = cores);
    }

    /// Returns the RPC calls that create the bdevs again.
    ///
    /// # Panics
    /// When the output of a bdev is not JSON.
    #[must_use]
    pub fn config(&self) -> Vec<Value> {
        let bdevs: Vec<_> =
            state(|state| state.bdevs.values().map(|bdev| (bdev.ops, bdev.reg.ctx)).collect());
        let texts = bdevs.into_iter().map(|(ops, ctx)| {
            let mut text = api::Collected::new(1 << 20);
            let sink = text.sink();
            // SAFETY: `ctx` belongs to a registered bdev.
            unsafe { ops.write_config.unwrap()(ctx, &raw const sink) };
            serde_json::from_str(&text.into_text()).unwrap()
        });
        texts.collect()
    }

    /// Returns the lines that the plugin has logged.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        state(|state| state.log.clone())
    }

    /// Returns the registration of a bdev.
    #[must_use]
    pub fn registered(&self, name: &str) -> Option<bay_bdev_reg> {
        state(|state| state.bdevs.values().find(|bdev| bdev.name == name).map(|bdev| bdev.reg))
    }

    /// Opens a bdev for writing and gets a channel.
    ///
    /// # Panics
    /// When there is no such bdev.
    #[must_use]
    pub fn open(&self, name: &str) -> (Channel, bdev::Desc) {
        let desc = bdev::open(self.app(), name, true, |_, _| {}).unwrap();
        (desc.channel().unwrap(), desc)
    }
}

thread_local! {
    static WAITED: Cell<Option<IoResult>> = const { Cell::new(None) };
}

type Ended = Cell<Option<(Vec<u8>, IoResult)>>;

struct OneIo {
    buf: Buf,
    ended: Rc<Ended>,
}

impl AsMut<Buf> for OneIo {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

/// A request. The module gets a pointer to its first field.
#[repr(C)]
struct FakeIo {
    io: bay_io,
    chan: u64,
    cb: Option<api::bay_io_cb_fn>,
    arg: *mut c_void,
    is_in_flight: bool,
}

struct Constant<T>(T);
// SAFETY: the tables are constants.
unsafe impl<T> Sync for Constant<T> {}

static LEVEL: u32 = api::BAY_LOG_DEBUG;
static TABLE: Constant<bay_host> = Constant(bay_host {
    size: size_of_table::<bay_host>(),
    abi_major: api::BAY_ABI_MAJOR,
    abi_minor: api::BAY_ABI_MINOR,
    ctx: std::ptr::null_mut(),
    get_iface: Some(get_iface),
    log_level: &raw const LEVEL,
    log: Some(log),
});

macro_rules! table {
    ($NAME:ident: $api:ident { $($function:ident: $value:expr),* $(,)? }) => {
        static $NAME: Constant<api::$api> = Constant({
            // SAFETY: all zero bytes are a valid table: its fields are numbers and functions that may be NULL.
            let mut table: api::$api = unsafe { std::mem::zeroed() };
            table.size = size_of_table::<api::$api>();
            $(table.$function = Some($value);)*
            table
        });
    };
}

table!(BDEV: bay_bdev_api {
    reserve: reserve_name, release: release_name,
    register: register, unregister: unregister, destruct_done: destruct_done,
    chan_ready: chan_ready, chan_closed: chan_closed, resize: resize, kick: kick,
    quiesce: quiesce::quiesce, unquiesce: quiesce::unquiesce, examine_done: examine_done, alias: alias, media: media,
});
table!(CLIENT: bay_bdev_client_api {
    open: open, close: close, info: info, claim: claim, unclaim: unclaim, chan_get: chan_get,
    chan_put: chan_put, io_get: io_get, io_derive: io_derive, io_derive_part: io_derive_part,
    submit: submit, media_next: media_next,
    complete_from: complete_from, flush: flush, pass: pass, io_abort: io_abort,
});
table!(THREADS: bay_thread_api {
    current: current, app_thread: app_thread, next_core: next_core, create: thread_create,
    exit: thread_exit, set_cpumask: set_cpumask, send: send, now_ns: now_ns,
});
table!(POLLERS: bay_poller_api {
    register: poller_register, unregister: poller_unregister, pause: poller_pause,
    resume: poller_resume, wake_fd: wake_fd,
});
table!(BUFS: bay_buf_api { get: buf_get, put: buf_put, abort: buf_abort, pool: buf_pool });
table!(MEM: bay_mem_api { alloc: mem_alloc, free: mem_free, zero: mem_zero });
table!(RPC: bay_rpc_api {
    register: rpc_register, unregister: rpc_unregister, reply: rpc_reply, error: rpc_error,
});
table!(BROKER: bay_broker_api {
    provide: provide, withdraw: withdraw, acquire: acquire, release: release,
});
table!(WORKER: bay_worker_api { submit: job_submit, cancel: job_cancel });
table!(NOTIFY: bay_notify_api { notify: notify, subsystem: subsystem });

type H = *const bay_host;

unsafe extern "C" fn get_iface(_: H, id: bay_str, _: u32) -> *const c_void {
    // SAFETY: the text is valid for the call.
    match unsafe { host::text(id) } {
        api::id::BDEV => (&raw const BDEV.0).cast(),
        api::id::BDEV_CLIENT => (&raw const CLIENT.0).cast(),
        api::id::THREAD => (&raw const THREADS.0).cast(),
        api::id::POLLER => (&raw const POLLERS.0).cast(),
        api::id::BUF => (&raw const BUFS.0).cast(),
        api::id::MEM => (&raw const MEM.0).cast(),
        api::id::RPC => (&raw const RPC.0).cast(),
        api::id::BROKER => (&raw const BROKER.0).cast(),
        api::id::NOTIFY => (&raw const NOTIFY.0).cast(),
        api::id::WORKER => (&raw const WORKER.0).cast(),
        _ => std::ptr::null(),
    }
}

unsafe extern "C" fn log(_: H, _: u32, target: bay_str, text: bay_str) {
    // SAFETY: the text is valid for the call.
    let target = unsafe { host::text(target) };
    // SAFETY: the text is valid for the call.
    let text = unsafe { host::text(text) };
    if target == "panicked" {
        eprintln!("{text}"); // Printed, so that the output of a failed test shows the plugin's log.
    }
    let _ = STATE.try_with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            state.log.push(format!("{target}: {text}"));
        }
    });
}
