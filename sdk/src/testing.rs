//! A small fake host, so that a plugin's own tests can load its door, call its methods and drive its
//! bdevs through [`crate::bdev::open`].
//!
//! Each test thread has a fake host of its own, with one lightweight thread. The names of bdevs are
//! shared by the tests of a library: give each test its own.
//!
//! It checks what a module may get wrong: an I/O that is completed twice, or never, panics.
#![expect(unsafe_code, reason = "plays the host's side of the ABI")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "for tests")]

use crate::bdev::{self, Channel, IoFlags, IoResult, Op, size_of_table};
use crate::buf::{self, Buf};
use crate::host;
use crate::plugin::Door;
use api::{bay_bdev_ops, bay_bdev_reg, bay_host, bay_io, bay_str};
use drivebay_plugin_api as api;
use drivebay_spec_jsonrpc::RpcError;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The handle of the one thread there is.
const THREAD: u64 = 1;

static FAKE: AtomicBool = AtomicBool::new(false);

/// Whether the library is under a fake host.
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
    raw: *mut c_void,
    outstanding: u32,
    /// The module is being called. What comes for it meanwhile waits, as the ABI promises.
    is_entered: bool,
    deferred: VecDeque<*mut bay_io>,
    flush_wanted: bool,
    close_wanted: bool,
}

struct Method {
    record: api::bay_rpc_method,
    name: String,
}

#[derive(Default)]
struct State {
    next: u64,
    door: Option<&'static api::bay_plugin>,
    bdevs: HashMap<u64, Bdev>,
    descs: HashMap<u64, Desc>,
    chans: HashMap<u64, Chan>,
    /// The bdevs of channels whose end is pending.
    closing: HashMap<u64, u64>,
    methods: Vec<Method>,
    /// Tables that plugins offer each other: handle, id, table.
    offers: Vec<(u64, String, *const c_void)>,
    answers: HashMap<u64, Result<Value, RpcError>>,
    messages: VecDeque<*mut api::bay_msg>,
    waiters: VecDeque<*mut api::bay_wait>,
    pollers: HashMap<u64, (api::bay_poller_ops, *mut c_void)>,
    ios_in_use: usize,
    ios_max: usize,
    bufs_in_use: usize,
    bufs_max: usize,
    now_ns: u64,
    log: Vec<String>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State { ios_max: 64, bufs_max: usize::MAX, ..State::default() });
}

/// Never borrowed while the plugin is called.
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
pub struct FakeHost(());

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// A host without a plugin: the services work.
    #[must_use]
    pub fn new() -> Self {
        FAKE.store(true, Ordering::Relaxed);
        // SAFETY: the table is for ever.
        unsafe { host::adopt(&raw const TABLE.0) }.expect("the fake host has every function");
        Self(())
    }

    /// Initialises and starts a plugin by its door: `&bay_door::bay_plugin_v1`.
    #[must_use]
    pub fn load(door: &'static Door) -> Self {
        let this = Self::new();
        let door = door.raw();
        state(|state| state.door = Some(door));
        let mut plugin = std::ptr::null_mut();
        // SAFETY: the door's function with the host's table.
        assert_eq!(unsafe { door.init.unwrap()(&raw const TABLE.0, &raw mut plugin) }, 0);
        // SAFETY: initialised just now.
        assert_eq!(unsafe { door.start.unwrap()(plugin, api::BAY_START_FRESH) }, 0);
        this
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The method's.
    ///
    /// # Panics
    /// When there is no such method or no answer comes.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        let record = state(|state| {
            state.methods.iter().find(|known| known.name == method).map(|known| known.record)
        });
        let record = record.unwrap_or_else(|| panic!("no method {method}"));
        let (id, text) = (new_id(), params.to_string());
        // SAFETY: the registered function with its context; the text lives through the call.
        unsafe { record.call.unwrap()(record.ctx, id, bay_str::new(&text)) };
        for _ in 0..1000 {
            if let Some(answer) = state(|state| state.answers.remove(&id)) {
                return answer;
            }
            self.run();
        }
        panic!("{method} gave no answer");
    }

    /// One round: what is due of messages and waiters, each poller once, and the end of the burst.
    pub fn run(&self) {
        while let Some(msg) = state(|state| state.messages.pop_front()) {
            // SAFETY: a message that was sent, received once.
            let msg = unsafe { *msg };
            // SAFETY: as above.
            unsafe { msg.call.unwrap()(msg.arg) };
        }
        let due = state(|state| std::mem::take(&mut state.waiters));
        for wait in due {
            // SAFETY: a queued waiter, called once.
            let wait = unsafe { *wait };
            // SAFETY: as above.
            unsafe { wait.cb.unwrap()(wait.arg) };
        }
        let ids: Vec<u64> = state(|state| state.pollers.keys().copied().collect());
        for id in ids {
            if let Some((ops, ctx)) = state(|state| state.pollers.get(&id).copied()) {
                // SAFETY: a registered poller.
                unsafe { ops.run.unwrap()(ctx) };
            }
        }
        let chans: Vec<u64> = state(|state| state.chans.keys().copied().collect());
        for chan in chans {
            // SAFETY: a live channel, as it was not put by the flush of another.
            unsafe { flush(&raw const TABLE.0, chan) };
        }
    }

    /// Does one I/O and waits for its end; `data` is what is written, or becomes what is read.
    ///
    /// # Panics
    /// When the I/O does not end.
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

    /// Runs until `done` gives something.
    ///
    /// # Panics
    /// After ten seconds.
    pub fn wait<R>(&self, done: impl Fn() -> Option<R>) -> R {
        let begin = Instant::now();
        loop {
            if let Some(done) = done() {
                return done;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "it never ended");
            self.run();
        }
    }

    /// Lets only so many I/Os be in flight.
    pub fn set_io_limit(&self, ios_max: usize) {
        state(|state| state.ios_max = ios_max);
    }

    /// Lets only so many buffers of the pools be in use.
    pub fn set_buf_limit(&self, bufs_max: usize) {
        state(|state| state.bufs_max = bufs_max);
    }

    /// Sets the clock, which stands still otherwise; in nanoseconds.
    pub fn set_now_ns(&self, now_ns: u64) {
        state(|state| state.now_ns = now_ns);
    }

    /// The calls that make the bdevs again, as JSON.
    ///
    /// # Panics
    /// When a bdev writes no JSON.
    #[must_use]
    pub fn config(&self) -> Vec<Value> {
        let bdevs: Vec<_> =
            state(|state| state.bdevs.values().map(|bdev| (bdev.ops, bdev.reg.ctx)).collect());
        let texts = bdevs.into_iter().map(|(ops, ctx)| {
            let mut text = String::new();
            let sink = api::bay_sink { ctx: (&raw mut text).cast(), write: Some(sink_write) };
            // SAFETY: a registered bdev.
            unsafe { ops.write_config.unwrap()(ctx, &raw const sink) };
            serde_json::from_str(&text).unwrap()
        });
        texts.collect()
    }

    /// What the plugin logged.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        state(|state| state.log.clone())
    }

    /// What the bus was told of a bdev.
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
        let desc = bdev::open(name, true, |_| {}).unwrap();
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

/// A request; the module sees its first field.
#[repr(C)]
struct FakeIo {
    io: bay_io,
    chan: u64,
    cb: Option<api::bay_io_cb_fn>,
    arg: *mut c_void,
    is_in_flight: bool,
}

struct Constant<T>(T);
// SAFETY: constant tables.
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
            // SAFETY: numbers and functions that may be null.
            let mut table: api::$api = unsafe { std::mem::zeroed() };
            table.size = size_of_table::<api::$api>();
            $(table.$function = Some($value);)*
            table
        });
    };
}

table!(BDEV: bay_bdev_api {
    register: register, unregister: unregister, chan_closed: chan_closed, resize: resize,
});
table!(CLIENT: bay_bdev_client_api {
    open: open, close: close, info: info, claim: claim, unclaim: unclaim, chan_get: chan_get,
    chan_put: chan_put, io_get: io_get, io_derive: io_derive, submit: submit,
    complete_from: complete_from, flush: flush, pass: pass, io_abort: io_abort,
});
table!(THREADS: bay_thread_api {
    current: this_thread, app_thread: this_thread, next_core: next_core, create: thread_create,
    exit: thread_exit, set_cpumask: set_cpumask, send: send, now_ns: now_ns,
});
table!(POLLERS: bay_poller_api {
    register: poller_register, unregister: poller_unregister, pause: poller_ok, resume: poller_ok,
    wake_fd: wake_fd,
});
table!(BUFS: bay_buf_api { get: buf_get, put: buf_put, abort: buf_abort });
table!(MEM: bay_mem_api { alloc: mem_alloc, free: mem_free });
table!(RPC: bay_rpc_api {
    register: rpc_register, unregister: rpc_unregister, reply: rpc_reply, error: rpc_error,
});
table!(BROKER: bay_broker_api {
    provide: provide, withdraw: withdraw, acquire: acquire, release: release,
});
table!(NOTIFY: bay_notify_api { notify: notify, subsystem: subsystem });

type H = *const bay_host;

unsafe extern "C" fn get_iface(_: H, id: bay_str, _: u32) -> *const c_void {
    // SAFETY: valid for the call.
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
        _ => std::ptr::null(),
    }
}

unsafe extern "C" fn log(_: H, _: u32, target: bay_str, text: bay_str) {
    // SAFETY: valid for the call.
    let target = unsafe { host::text(target) };
    // SAFETY: valid for the call.
    let text = unsafe { host::text(text) };
    if target == "panic" {
        eprintln!("{text}"); // What failed the test.
    }
    let _ = STATE.try_with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            state.log.push(format!("{target}: {text}"));
        }
    });
}

unsafe extern "C" fn sink_write(ctx: *mut c_void, text: bay_str) {
    // SAFETY: valid for the call.
    let text = unsafe { host::text(text) };
    // SAFETY: the `String` of the sink.
    unsafe { &mut *ctx.cast::<String>() }.push_str(text);
}

unsafe extern "C" fn register(_: H, reg: *const bay_bdev_reg, id: *mut u64) -> i32 {
    // SAFETY: the module's record, valid for the call.
    let reg = unsafe { *reg };
    // SAFETY: lives as long as the bdev.
    let ops = unsafe { *reg.ops };
    // SAFETY: valid for the call.
    let name = unsafe { host::text(reg.name) }.to_owned();
    if state(|state| state.bdevs.values().any(|bdev| bdev.name == name)) {
        return -crate::errno::EEXIST;
    }
    let handle = new_id();
    // SAFETY: the caller's place.
    unsafe { *id = handle };
    let shown = name.clone();
    state(|state| state.bdevs.insert(handle, Bdev { reg, ops, name, leaving: None }));
    examine(&shown);
    0
}

fn examine(name: &str) {
    let Some(get) = state(|state| state.door).and_then(|door| door.get_iface) else { return };
    let id = bay_str::new(api::id::BDEV_MODULE);
    // SAFETY: the plugin's function.
    let table = unsafe { get(std::ptr::null_mut(), id, 0) }.cast::<api::bay_bdev_module>();
    // SAFETY: NULL or the plugin's table.
    if let Some(call) = unsafe { table.as_ref() }.and_then(|table| table.examine_config) {
        // SAFETY: the text lives through the call.
        unsafe { call(std::ptr::null_mut(), bay_str::new(name)) };
    }
}

unsafe extern "C" fn unregister(
    _: H,
    id: u64,
    done: Option<api::bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let is_known = state(|state| match state.bdevs.get_mut(&id) {
        Some(bdev) if bdev.leaving.is_none() => {
            bdev.leaving = Some((done, arg));
            true
        }
        _ => false,
    });
    if !is_known {
        return -crate::errno::ENODEV;
    }
    tell(id, api::BAY_EVENT_REMOVE, 0);
    leave_if_unused(id);
    0
}

fn tell(bdev: u64, event: u32, value: u64) {
    let descs: Vec<Desc> =
        state(|state| state.descs.values().filter(|desc| desc.bdev == bdev).copied().collect());
    for desc in descs {
        if let Some(call) = desc.event {
            // SAFETY: the descriptor is open.
            unsafe { call(std::ptr::with_exposed_provenance_mut(desc.arg), event, value) };
        }
    }
}

fn leave_if_unused(id: u64) {
    let gone = state(|state| {
        let is_open = state.descs.values().any(|desc| desc.bdev == id)
            || state.closing.values().any(|bdev| *bdev == id);
        let is_leaving = state.bdevs.get(&id).is_some_and(|bdev| bdev.leaving.is_some());
        if is_leaving && !is_open { state.bdevs.remove(&id) } else { None }
    });
    if let Some(bdev) = gone {
        // SAFETY: nothing refers to the bdev any more.
        assert_eq!(unsafe { bdev.ops.destruct.unwrap()(bdev.reg.ctx) }, 0);
        if let Some((Some(done), arg)) = bdev.leaving {
            // SAFETY: called once.
            unsafe { done(arg, 0) };
        }
    }
}

unsafe extern "C" fn chan_closed(_: H, chan: u64) {
    let bdev = state(|state| state.closing.remove(&chan)).expect("the channel is not closing");
    leave_if_unused(bdev);
}

unsafe extern "C" fn resize(_: H, id: u64, num_blocks: u64) -> i32 {
    state(|state| state.bdevs.get_mut(&id).unwrap().reg.num_blocks = num_blocks);
    tell(id, api::BAY_EVENT_RESIZE, num_blocks);
    0
}

unsafe extern "C" fn open(
    _: H,
    name: bay_str,
    _: u32,
    event: Option<api::bay_bdev_event_fn>,
    arg: *mut c_void,
    desc: *mut u64,
) -> i32 {
    // SAFETY: valid for the call.
    let name = unsafe { host::text(name) };
    let found = state(|state| {
        let mut bdevs = state.bdevs.iter();
        bdevs.find(|(_, bdev)| bdev.name == name && bdev.leaving.is_none()).map(|(id, _)| *id)
    });
    let Some(bdev) = found else { return -crate::errno::ENODEV };
    let handle = new_id();
    let opened = Desc { bdev, event, arg: arg.expose_provenance(), is_claimed: false };
    state(|state| state.descs.insert(handle, opened));
    // SAFETY: the caller's place.
    unsafe { *desc = handle };
    0
}

unsafe extern "C" fn close(_: H, desc: u64) -> i32 {
    let bdev = state(|state| state.descs.remove(&desc)).unwrap().bdev;
    leave_if_unused(bdev);
    0
}

unsafe extern "C" fn info(_: H, desc: u64, info: *mut api::bay_bdev_info) -> i32 {
    // SAFETY: the caller's place, filled before.
    let info = unsafe { &mut *info };
    state(|state| {
        let bdev = &state.bdevs[&state.descs[&desc].bdev];
        info.flags = bdev.reg.flags;
        info.num_blocks = bdev.reg.num_blocks;
        info.block_size = bdev.reg.block_size;
        info.ops_mask = bdev.reg.ops_mask;
        info.must_flags = bdev.reg.must_flags;
        info.uuid = bdev.reg.uuid;
        info.optimal_boundary = bdev.reg.optimal_boundary;
        info.numa = -1;
        info.name = bay_str { ptr: bdev.name.as_ptr(), len: bdev.name.len() };
    });
    0
}

unsafe extern "C" fn claim(_: H, desc: u64, _: u32, _: u64) -> i32 {
    state(|state| {
        let bdev = state.descs[&desc].bdev;
        if state.descs.values().any(|other| other.bdev == bdev && other.is_claimed) {
            return -crate::errno::EPERM;
        }
        state.descs.get_mut(&desc).unwrap().is_claimed = true;
        0
    })
}

unsafe extern "C" fn unclaim(_: H, desc: u64) -> i32 {
    state(|state| state.descs.get_mut(&desc).unwrap().is_claimed = false);
    0
}

unsafe extern "C" fn chan_get(_: H, desc: u64, chan: *mut u64) -> i32 {
    let (bdev, ctx, ops) = state(|state| {
        let id = state.descs[&desc].bdev;
        let bdev = &state.bdevs[&id];
        (id, bdev.reg.ctx, bdev.ops)
    });
    let handle = new_id();
    let args = api::bay_chan_args {
        size: size_of_table::<api::bay_chan_args>(),
        numa: -1,
        thread: THREAD,
        host_chan: handle,
        handover: std::ptr::null(),
    };
    let mut raw = std::ptr::null_mut();
    // SAFETY: a registered bdev.
    let status = unsafe { ops.chan_create.unwrap()(ctx, &raw const args, &raw mut raw) };
    if status == 0 {
        let made = Chan {
            bdev,
            raw,
            outstanding: 0,
            is_entered: false,
            deferred: VecDeque::new(),
            flush_wanted: false,
            close_wanted: false,
        };
        state(|state| state.chans.insert(handle, made));
        // SAFETY: the caller's place.
        unsafe { *chan = handle };
    }
    status
}

unsafe extern "C" fn chan_put(_: H, chan: u64) -> i32 {
    let (is_used, is_entered) = state(|state| {
        let chan = state.chans.get_mut(&chan).unwrap();
        chan.close_wanted = chan.is_entered && chan.outstanding == 0;
        (chan.outstanding > 0, chan.is_entered)
    });
    if is_used {
        return -crate::errno::EBUSY;
    }
    if !is_entered {
        close_chan(chan);
    }
    0
}

fn close_chan(handle: u64) {
    let (bdev, chan, ctx, ops) = state(|state| {
        let chan = state.chans.remove(&handle).unwrap();
        state.closing.insert(handle, chan.bdev);
        let bdev = &state.bdevs[&chan.bdev];
        (chan.bdev, chan.raw, bdev.reg.ctx, bdev.ops)
    });
    // SAFETY: no I/O is outstanding.
    if unsafe { ops.chan_destroy.unwrap()(ctx, chan) } == 0 {
        state(|state| state.closing.remove(&handle));
        leave_if_unused(bdev);
    }
}

unsafe extern "C" fn io_get(_: H, chan: u64, wait: *mut api::bay_wait) -> *mut bay_io {
    let is_free = state(|state| {
        let is_free = state.ios_in_use < state.ios_max;
        if is_free {
            state.ios_in_use += 1;
        } else if !wait.is_null() {
            state.waiters.push_back(wait);
        }
        is_free
    });
    if is_free { new_io(chan) } else { std::ptr::null_mut() }
}

fn new_io(chan: u64) -> *mut bay_io {
    // SAFETY: numbers, pointers and functions that may be null.
    let mut io: bay_io = unsafe { std::mem::zeroed() };
    io.id = new_id();
    io.done = Some(done);
    let arg = std::ptr::null_mut();
    Box::into_raw(Box::new(FakeIo { io, chan, cb: None, arg, is_in_flight: false })).cast()
}

unsafe extern "C" fn io_derive(_: H, chan: u64, parent: *mut bay_io) -> *mut bay_io {
    state(|state| state.ios_in_use += 1);
    let child = new_io(chan);
    // SAFETY: a live request.
    let parent = unsafe { *parent };
    // SAFETY: made just now.
    let id = unsafe { (*child).id };
    // SAFETY: made just now.
    unsafe { *child = bay_io { id, done: Some(done), ..parent } };
    child
}

unsafe extern "C" fn submit(
    _: H,
    io: *mut bay_io,
    cb: Option<api::bay_io_cb_fn>,
    arg: *mut c_void,
) {
    // SAFETY: a request of `new_io`.
    let fake = unsafe { &mut *io.cast::<FakeIo>() };
    (fake.cb, fake.arg, fake.is_in_flight) = (cb, arg, true);
    let (call, raw, takes) = state(|state| {
        let chan = state.chans.get_mut(&fake.chan).unwrap();
        chan.outstanding += 1;
        let bdev = &state.bdevs[&chan.bdev];
        let takes = bdev.reg.ops_mask & (1 << fake.io.op) != 0
            && fake.io.lba.checked_add(fake.io.nblocks).is_some_and(|e| e <= bdev.reg.num_blocks);
        (bdev.ops.submit.unwrap(), chan.raw, takes)
    });
    if !takes {
        // SAFETY: in flight.
        return unsafe { done(io, -crate::errno::EOPNOTSUPP) };
    }
    let handle = fake.chan;
    if enter(handle, |chan| chan.deferred.push_back(io)) {
        // SAFETY: a live channel.
        unsafe { call(raw, io) };
        leave(handle);
    }
}

/// Whether the module may be called now; if not, `wait` notes what for.
fn enter(handle: u64, wait: impl FnOnce(&mut Chan)) -> bool {
    state(|state| {
        let chan = state.chans.get_mut(&handle).unwrap();
        let is_free = !std::mem::replace(&mut chan.is_entered, true);
        if !is_free {
            wait(chan);
        }
        is_free
    })
}

/// The module has returned: what came meanwhile goes on, one after the other.
fn leave(handle: u64) {
    loop {
        let (raw, ops, next, flushes, closes) = state(|state| {
            let chan = state.chans.get_mut(&handle).unwrap();
            let next = chan.deferred.pop_front();
            let flushes = next.is_none() && std::mem::take(&mut chan.flush_wanted);
            chan.is_entered = next.is_some() || flushes;
            (chan.raw, state.bdevs[&chan.bdev].ops, next, flushes, chan.close_wanted)
        });
        match next {
            // SAFETY: a live channel and an I/O that waited for it.
            Some(io) => unsafe { ops.submit.unwrap()(raw, io) },
            // SAFETY: a live channel.
            None if flushes => unsafe { ops.flush.unwrap()(raw) },
            None if closes => return close_chan(handle),
            None => return,
        }
    }
}

unsafe extern "C" fn done(io: *mut bay_io, status: i32) {
    // SAFETY: a request of `new_io`.
    let fake = unsafe { &mut *io.cast::<FakeIo>() };
    assert!(std::mem::take(&mut fake.is_in_flight), "an I/O was completed twice");
    state(|state| state.chans.get_mut(&fake.chan).unwrap().outstanding -= 1);
    // SAFETY: the client's callback, called once.
    unsafe { fake.cb.unwrap()(fake.arg, io, status) };
    state(|state| state.ios_in_use -= 1);
    // Never freed: a late touch or second completion is seen. It is a test.
}

unsafe extern "C" fn complete_from(_: H, parent: *mut bay_io, child: *mut bay_io, status: i32) {
    // SAFETY: a live request.
    let ended = unsafe { *child };
    // SAFETY: another live request.
    let fields = unsafe { &mut *parent };
    (fields.detail, fields.detail_kind) = (ended.detail, ended.detail_kind);
    // SAFETY: in flight.
    unsafe { done(parent, status) };
}

unsafe extern "C" fn pass(host: H, chan: u64, io: *mut bay_io, lba: u64) {
    // SAFETY: the module's request.
    let child = unsafe { io_derive(host, chan, io) };
    // SAFETY: made just now.
    unsafe { (*child).lba = lba };
    // SAFETY: as above; the parent is in flight until its child has ended.
    unsafe { submit(host, child, Some(passed), io.cast()) };
}

unsafe extern "C" fn passed(parent: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `pass` gave the parent, which is in flight.
    unsafe { complete_from(&raw const TABLE.0, parent.cast(), child, status) };
}

unsafe extern "C" fn io_abort(_: H, _: u64, wait: *mut api::bay_wait) -> i32 {
    state(|state| match state.waiters.iter().position(|waiter| *waiter == wait) {
        Some(place) => {
            state.waiters.remove(place);
            0
        }
        None => -crate::errno::ENOENT,
    })
}

unsafe extern "C" fn flush(_: H, chan: u64) {
    let (raw, call) = state(|state| {
        let chan = &state.chans[&chan];
        (chan.raw, state.bdevs[&chan.bdev].ops.flush)
    });
    if let Some(call) = call
        && enter(chan, |chan| chan.flush_wanted = true)
    {
        // SAFETY: a live channel.
        unsafe { call(raw) };
        leave(chan);
    }
}

unsafe extern "C" fn this_thread(_: H) -> u64 {
    THREAD
}
unsafe extern "C" fn next_core(_: H, after: i32) -> i32 {
    if after < 0 { 0 } else { -1 }
}
unsafe extern "C" fn thread_create(_: H, _: bay_str, _: bay_str, thread: *mut u64) -> i32 {
    // SAFETY: the caller's place.
    unsafe { *thread = THREAD };
    0
}
unsafe extern "C" fn thread_exit(_: H, _: u64) -> i32 {
    0
}
unsafe extern "C" fn set_cpumask(_: H, _: u64, _: bay_str) -> i32 {
    0
}
unsafe extern "C" fn send(_: H, _: u64, msg: *mut api::bay_msg) -> i32 {
    state(|state| state.messages.push_back(msg));
    0
}
unsafe extern "C" fn now_ns(_: H) -> u64 {
    state(|state| state.now_ns)
}

unsafe extern "C" fn poller_register(
    _: H,
    ops: *const api::bay_poller_ops,
    ctx: *mut c_void,
    _: u64,
    _: bay_str,
    poller: *mut u64,
) -> i32 {
    let handle = new_id();
    // SAFETY: lives as long as the poller.
    let ops = unsafe { *ops };
    state(|state| state.pollers.insert(handle, (ops, ctx)));
    // SAFETY: the caller's place.
    unsafe { *poller = handle };
    0
}
unsafe extern "C" fn poller_unregister(_: H, poller: u64) -> i32 {
    state(|state| state.pollers.remove(&poller));
    0
}
unsafe extern "C" fn poller_ok(_: H, _: u64) -> i32 {
    0
}
unsafe extern "C" fn wake_fd(_: H, _: u64, _: i32, _: u32) -> i32 {
    0
}

fn allocate(len: u64) -> *mut c_void {
    let len = usize::try_from(len).unwrap();
    let layout = std::alloc::Layout::from_size_align(len.max(1), 4096).unwrap();
    // SAFETY: not empty.
    unsafe { std::alloc::alloc_zeroed(layout) }.cast()
}

unsafe fn deallocate(addr: *mut c_void, len: u64) {
    let len = usize::try_from(len).unwrap();
    let layout = std::alloc::Layout::from_size_align(len.max(1), 4096).unwrap();
    // SAFETY: of `allocate` with this length.
    unsafe { std::alloc::dealloc(addr.cast(), layout) };
}

unsafe extern "C" fn buf_get(_: H, len: u32, _: *mut u32, wait: *mut api::bay_wait) -> *mut c_void {
    let is_free = state(|state| {
        let is_free = state.bufs_in_use < state.bufs_max;
        if is_free {
            state.bufs_in_use += 1;
        } else if !wait.is_null() {
            state.waiters.push_back(wait);
        }
        is_free
    });
    if is_free { allocate(len.into()) } else { std::ptr::null_mut() }
}
unsafe extern "C" fn buf_put(_: H, addr: *mut c_void, len: u32) {
    state(|state| state.bufs_in_use -= 1);
    // SAFETY: of `buf_get` with this length.
    unsafe { deallocate(addr, len.into()) };
}
unsafe extern "C" fn buf_abort(_: H, wait: *mut api::bay_wait) {
    state(|state| state.waiters.retain(|waiter| *waiter != wait));
}
unsafe extern "C" fn mem_alloc(_: H, len: u64, _: u64, _: i32, _: *mut u32) -> *mut c_void {
    if len > 1 << 30 { std::ptr::null_mut() } else { allocate(len) }
}
unsafe extern "C" fn mem_free(_: H, addr: *mut c_void, len: u64) {
    // SAFETY: of `mem_alloc` with this length.
    unsafe { deallocate(addr, len) };
}

unsafe extern "C" fn rpc_register(_: H, method: *const api::bay_rpc_method, id: *mut u64) -> i32 {
    // SAFETY: valid for the call.
    let record = unsafe { *method };
    // SAFETY: valid for the call.
    let name = unsafe { host::text(record.name) }.to_owned();
    state(|state| state.methods.push(Method { record, name }));
    // SAFETY: the caller's place.
    unsafe { *id = new_id() };
    0
}
unsafe extern "C" fn rpc_unregister(_: H, _: u64) -> i32 {
    0
}
unsafe extern "C" fn rpc_reply(_: H, req: u64, result: bay_str) -> i32 {
    // SAFETY: valid for the call.
    let result = serde_json::from_str(unsafe { host::text(result) }).unwrap();
    let before = state(|state| state.answers.insert(req, Ok(result)));
    assert!(before.is_none(), "a call was answered twice");
    0
}
unsafe extern "C" fn rpc_error(_: H, req: u64, code: i32, text: bay_str, data: bay_str) -> i32 {
    // SAFETY: valid for the call.
    let message = unsafe { host::text(text) }.to_owned();
    // SAFETY: valid for the call.
    let data = serde_json::from_str(unsafe { host::text(data) }).ok();
    let error = RpcError { code: code.into(), message, data };
    let before = state(|state| state.answers.insert(req, Err(error)));
    assert!(before.is_none(), "a call was answered twice");
    0
}

unsafe extern "C" fn provide(_: H, id: bay_str, table: *const c_void, handle: *mut u64) -> i32 {
    // SAFETY: valid for the call.
    let id = unsafe { host::text(id) }.to_owned();
    let number = new_id();
    state(|state| state.offers.push((number, id, table)));
    // SAFETY: the caller's place.
    unsafe { *handle = number };
    0
}
unsafe extern "C" fn withdraw(
    _: H,
    handle: u64,
    done: Option<api::bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    state(|state| state.offers.retain(|(number, _, _)| *number != handle));
    // SAFETY: the caller's callback with its argument.
    unsafe { done.unwrap()(arg, 0) };
    0
}
unsafe extern "C" fn acquire(
    _: H,
    id: bay_str,
    _: Option<api::bay_broker_revoked_fn>,
    _: *mut c_void,
    reference: *mut u64,
) -> *const c_void {
    // SAFETY: valid for the call.
    let id = unsafe { host::text(id) };
    let offered = state(|state| state.offers.iter().find(|(_, of, _)| of == id).map(|o| o.2));
    // SAFETY: the caller's place.
    unsafe { *reference = new_id() };
    offered.unwrap_or(std::ptr::null())
}
unsafe extern "C" fn release(_: H, _: u64) -> i32 {
    0
}
unsafe extern "C" fn notify(_: H, _: bay_str, _: bay_str) {}
unsafe extern "C" fn subsystem(
    _: H,
    _: bay_str,
    _: Option<api::bay_subsystem_config_fn>,
    _: *mut c_void,
) -> i32 {
    0
}
