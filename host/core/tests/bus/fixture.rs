//! The disk, its client on the app thread, and test steps that run there.

use crate::abi::{self, ModuleIo};
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;
use std::slice;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

pub(crate) const BLOCK: usize = 512;
pub(crate) const METADATA: usize = 8;
/// Where an append lands, in blocks from the start of the zone.
pub(crate) const APPENDED_AT: u64 = 3;
pub(crate) type Outcome = Rc<Cell<Option<(i32, u64)>>>;

// ---- a module whose behavior the test chooses ----------------------------------------------------

/// What the module saw of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) lba: u64,
    pub(crate) nblocks: u64,
    pub(crate) segments: u16,
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) data: RefCell<Vec<u8>>,
    /// Separate metadata, [`METADATA`] bytes for each block.
    pub(crate) metadata: RefCell<Vec<u8>>,
    pub(crate) seen: RefCell<Vec<Seen>>,
    /// Whether the module keeps requests instead of completing them.
    pub(crate) hold: Cell<bool>,
    pub(crate) kept: RefCell<Vec<ModuleIo>>,
    /// How many more requests the module completes with "no resource".
    pub(crate) no_memory: Cell<u32>,
    /// The status of the next request.
    pub(crate) fail: Cell<i32>,
    pub(crate) channels: Cell<i32>,
    pub(crate) destructed: Cell<bool>,
    pub(crate) flushes: Cell<u32>,
    pub(crate) depth: Cell<u32>,
    pub(crate) deepest: Cell<u32>,
}

/// The disk of the bdev or channel that the bus names. A channel of the disk is the disk itself.
fn disk<'a>(ctx: *mut c_void) -> &'a Disk {
    // SAFETY: `register` gave the bus a disk as the context of these functions. It is never freed.
    unsafe { &*ctx.cast::<Disk>() }
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    disk(bdev).channels.set(disk(bdev).channels.get() + 1);
    // SAFETY: the bus passes a valid place for the channel.
    unsafe { chan.write(bdev) };
    0
}

unsafe extern "C" fn chan_destroy(bdev: *mut c_void, _chan: *mut c_void) -> i32 {
    disk(bdev).channels.set(disk(bdev).channels.get() - 1);
    0
}

unsafe extern "C" fn destruct(bdev: *mut c_void) -> i32 {
    assert_eq!(disk(bdev).channels.get(), 0, "destructed with a channel");
    disk(bdev).destructed.set(true);
    0
}

unsafe extern "C" fn flush(chan: *mut c_void) {
    assert_eq!(disk(chan).depth.get(), 0, "flush was called from inside submit");
    disk(chan).flushes.set(disk(chan).flushes.get() + 1);
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    let disk = disk(chan);
    disk.depth.set(disk.depth.get() + 1);
    disk.deepest.set(disk.deepest.get().max(disk.depth.get()));
    // SAFETY: the bus gives the request to the module here.
    let io = unsafe { ModuleIo::new(io) };
    let request = io.request();
    disk.seen.borrow_mut().push(Seen {
        op: request.op,
        flags: request.flags,
        lba: request.lba,
        nblocks: request.nblocks,
        segments: request.iovcnt,
    });
    let status = if disk.no_memory.get() > 0 {
        disk.no_memory.set(disk.no_memory.get() - 1);
        BAY_ST_NOMEM
    } else if disk.fail.get() != 0 {
        disk.fail.take()
    } else if disk.hold.get() {
        disk.kept.borrow_mut().push(io);
        disk.depth.set(disk.depth.get() - 1);
        return;
    } else {
        if request.op == BAY_OP_ZONE_APPEND {
            io.set_block(request.lba + APPENDED_AT);
        }
        transfer(disk, &request);
        0
    };
    io.complete(status);
    disk.depth.set(disk.depth.get() - 1);
}

pub(crate) fn transfer(disk: &Disk, request: &bay_io) {
    let appended = if request.op == BAY_OP_ZONE_APPEND { APPENDED_AT } else { 0 };
    let mut at = (request.lba + appended) as usize * BLOCK;
    let mut data = disk.data.borrow_mut();
    if request.op == BAY_OP_UNMAP {
        data[at..at + request.nblocks as usize * BLOCK].fill(0);
    }
    for element in pieces(request) {
        let len = element.len as usize;
        copy(request.op, &mut data[at..at + len], element.addr.cast());
        at += len;
    }
    if !request.md.is_null() {
        let mut metadata = disk.metadata.borrow_mut();
        let at = request.lba as usize * METADATA;
        let stored = &mut metadata[at..at + request.nblocks as usize * METADATA];
        assert_eq!(request.md_len as usize, stored.len());
        copy(request.op, stored, request.md.cast());
    }
}

/// The scatter/gather list of a request that the module owns.
fn pieces(request: &bay_io) -> &[bay_iov] {
    if request.iovcnt == 0 {
        return &[];
    }
    // SAFETY: the client keeps `iovcnt` elements valid until the I/O completes (ABI, `submit`).
    unsafe { slice::from_raw_parts(request.iov, request.iovcnt.into()) }
}

/// Copies all of `stored` to the client's memory (read) or from it (write). The memory is as long as
/// `stored`. Other ops copy nothing.
fn copy(op: u16, stored: &mut [u8], memory: *mut u8) {
    let (data, len) = (stored.as_mut_ptr(), stored.len());
    match op {
        // SAFETY: `stored` has `len` bytes. So has the memory, which the client keeps until the I/O
        // completes, and which is not the disk's.
        BAY_OP_READ => unsafe { ptr::copy_nonoverlapping(data, memory, len) },
        // SAFETY: as for a read; `stored` is borrowed exclusively.
        BAY_OP_WRITE | BAY_OP_ZONE_APPEND => unsafe { ptr::copy_nonoverlapping(memory, data, len) },
        _ => {}
    }
}

pub(crate) const ALL_OPS: u64 =
    1 << BAY_OP_READ | 1 << BAY_OP_WRITE | 1 << BAY_OP_UNMAP | 1 << BAY_OP_FLUSH;

pub(crate) static OPS: bay_bdev_ops = bay_bdev_ops {
    size: size_of::<bay_bdev_ops>() as u32,
    flags: 0,
    submit: Some(submit),
    flush: Some(flush),
    chan_create: Some(chan_create),
    chan_destroy: Some(chan_destroy),
    destruct: Some(destruct),
    dump_info: None,
    write_config: None,
    dump_stats: None,
    reset_stats: None,
    space: None,
};

/// Registers a disk of 64 blocks. `edit` changes its registration; what it sets must be static or
/// leaked.
pub(crate) fn register(
    name: &str,
    disk: &'static Disk,
    edit: impl FnOnce(&mut bay_bdev_reg),
) -> Result<u64, i32> {
    let mut reg = abi::registration(name, &OPS);
    reg.ctx = ptr::from_ref(disk).cast_mut().cast();
    reg.block_size = BLOCK as u32;
    reg.num_blocks = 64;
    reg.ops_mask = ALL_OPS;
    edit(&mut reg);
    // SAFETY: the name is valid for the call. The functions, the disk and what `edit` set are never
    // freed.
    unsafe { abi::register(&reg) }
}

// ---- a bdev, its descriptor and its channel, on the app thread -----------------------------------

/// The bus keeps pointers to the disk and to the events, so both are leaked.
pub(crate) struct Fixture {
    pub(crate) disk: &'static Disk,
    pub(crate) id: u64,
    pub(crate) desc: u64,
    pub(crate) chan: u64,
    pub(crate) events: &'static RefCell<Vec<(u32, u64)>>,
}

unsafe extern "C" fn on_event(arg: *mut c_void, event: u32, value: u64) {
    // SAFETY: `Fixture::new` passed its list of events, which is never freed.
    let events = unsafe { &*arg.cast::<RefCell<Vec<(u32, u64)>>>() };
    events.borrow_mut().push((event, value));
}

impl Fixture {
    /// A disk of 64 blocks, opened for writing. `edit` changes its registration.
    pub(crate) fn new(name: &str, edit: impl FnOnce(&mut bay_bdev_reg)) -> Self {
        let disk: &Disk = Box::leak(Box::default());
        *disk.data.borrow_mut() = vec![0; 64 * BLOCK];
        *disk.metadata.borrow_mut() = vec![0; 64 * METADATA];
        let id = register(name, disk, edit).unwrap();
        let events: &RefCell<Vec<(u32, u64)>> = Box::leak(Box::default());
        let event: Option<bay_bdev_event_fn> = Some(on_event);
        let arg = ptr::from_ref(events).cast_mut().cast();
        let (mut desc, open) = (0, abi::client().open.unwrap());
        let (host, name) = (abi::host(), bay_str::new(name));
        // SAFETY: the name and `desc` are valid for the call. `on_event` takes the events, which are
        // never freed.
        let status = unsafe { open(host, name, BAY_OPEN_WRITE, event, arg, &raw mut desc) };
        assert_eq!(status, 0);
        Self { disk, id, desc, chan: abi::chan_get(desc), events }
    }

    /// A channel of a descriptor that may not write.
    pub(crate) fn reader(&self, name: &str) -> u64 {
        abi::chan_get(abi::open(name, 0).unwrap())
    }

    /// Submits an I/O. The cell holds its status and detail when it has completed. The test keeps
    /// the memory that `fill` names until then.
    pub(crate) fn submit(&self, fill: impl FnOnce(&mut bay_io)) -> Outcome {
        Self::submit_on(self.chan, fill)
    }

    pub(crate) fn submit_on(chan: u64, fill: impl FnOnce(&mut bay_io)) -> Outcome {
        let result = Rc::new(Cell::new(None));
        let arg = Rc::into_raw(Rc::clone(&result)).cast_mut().cast();
        // SAFETY: `ended` takes over the reference to the cell. The test keeps the memory (`submit`).
        unsafe { abi::submit(chan, fill, ended, arg) };
        result
    }

    pub(crate) fn io(&self, op: u16, lba: u64, list: &[bay_iov]) -> Outcome {
        let bytes: u64 = list.iter().map(|element| u64::from(element.len)).sum();
        self.submit(|request| {
            request.op = op;
            request.lba = lba;
            request.nblocks = bytes / BLOCK as u64;
            request.iov = list.as_ptr();
            request.iovcnt = list.len() as u16;
        })
    }

    pub(crate) fn range(&self, op: u16, lba: u64, nblocks: u64) -> Outcome {
        self.submit(|request| {
            request.op = op;
            request.lba = lba;
            request.nblocks = nblocks;
        })
    }

    /// Completes the requests that the module kept, the oldest first.
    pub(crate) fn complete_kept(&self, status: i32) {
        for io in self.disk.kept.take() {
            if status == 0 {
                transfer(self.disk, &io.request());
            }
            io.complete(status);
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.disk.seen.take()
    }
}

unsafe extern "C" fn ended(arg: *mut c_void, io: *mut bay_io, status: i32) {
    // SAFETY: `submit_on` passed this reference to the cell, for one call.
    let result: Outcome = unsafe { Rc::from_raw(arg.cast()) };
    assert!(result.get().is_none(), "completed twice");
    // SAFETY: the client's I/O is alive until this callback returns (ABI, `bay_io_cb_fn`).
    let detail = unsafe { (*io).detail };
    result.set(Some((status, detail)));
}

pub(crate) fn list(buffer: &mut [u8]) -> [bay_iov; 1] {
    [bay_iov { addr: buffer.as_mut_ptr().cast(), len: buffer.len() as u32, region: 0 }]
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 251) as u8).collect()
}

// ---- running on the app thread --------------------------------------------------------------------

pub(crate) fn reactors() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let two = CpuSet::parse("[0,1]").unwrap();
        std::mem::forget(reactor::start(&two, Mode::Adaptive).unwrap());
    });
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step returns whether its condition holds. If not, it runs again in the next round.
pub(crate) type Step<S> = Box<dyn Fn(&S) -> bool + Send>;

/// State that is made on the app thread and stays there, with the steps to run.
pub(crate) struct Run<S> {
    pub(crate) state: S,
    pub(crate) steps: Vec<Step<S>>,
    pub(crate) tries: u32,
    pub(crate) sender: mpsc::Sender<Result<(), String>>,
}

/// A value in a message that a thread sends to itself.
pub(crate) struct Carry<T>(T);
// SAFETY: `next` sends it only to the thread that it runs on, so the value stays on its thread.
unsafe impl<T> Send for Carry<T> {}
impl<T> Carry<T> {
    pub(crate) fn take(self) -> T {
        self.0
    }
}

pub(crate) fn next<S: 'static>(mut run: Run<S>) {
    let Some(step) = run.steps.first() else {
        let _ = run.sender.send(Ok(()));
        return std::mem::forget(run.state); // the bus still uses parts of it
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&run.state)));
    let failure = match outcome {
        Ok(true) => {
            drop(run.steps.remove(0));
            None
        }
        Ok(false) if run.tries < 200_000 => None,
        Ok(false) => {
            Some(format!("{} steps from the end: the condition never held", run.steps.len()))
        }
        Err(panic) => Some(
            panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "the step panicked".into()),
        ),
    };
    if let Some(failure) = failure {
        let _ = run.sender.send(Err(failure));
        return std::mem::forget(run.state);
    }
    run.tries += 1;
    let run = Carry(run);
    thread::send_boxed(thread::current_id(), move || next(run.take()));
}

/// Runs the steps on the app thread, each in its own round. So each step sees what the end of the
/// round before it did (bursts, channels, events).
pub(crate) fn on_app<S: 'static>(make: impl FnOnce() -> S + Send + 'static, steps: Vec<Step<S>>) {
    let _guard = reactors();
    let (sender, receiver) = mpsc::channel();
    thread::send_app(move || next(Run { state: make(), steps, tries: 0, sender }));
    match receiver.recv_timeout(Duration::from_secs(20)) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => panic!("{why}"),
        Err(error) => panic!("the app thread did not answer: {error}"),
    }
}

/// Runs a single step with a new fixture.
pub(crate) fn once(name: &'static str, edit: fn(&mut bay_bdev_reg), step: fn(&Fixture)) {
    let step: Step<Fixture> = Box::new(move |fixture| {
        step(fixture);
        true
    });
    on_app(move || Fixture::new(name, edit), vec![step]);
}
