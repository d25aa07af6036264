//! The disk, its client on the app thread, and test steps that run there.

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_core::services;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

pub(crate) const BLOCK: usize = 512;
pub(crate) const METADATA: usize = 8;
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
    pub(crate) kept: RefCell<Vec<*mut bay_io>>,
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

pub(crate) fn disk<'a>(ctx: *mut c_void) -> &'a Disk {
    unsafe { &*ctx.cast::<Disk>() }
}

unsafe extern "C" fn chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    disk(bdev).channels.set(disk(bdev).channels.get() + 1);
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
    let request = unsafe { *io };
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
        transfer(disk, &request);
        0
    };
    unsafe { request.done.unwrap()(io, status) };
    disk.depth.set(disk.depth.get() - 1);
}

pub(crate) fn transfer(disk: &Disk, request: &bay_io) {
    let mut at = request.lba as usize * BLOCK;
    let mut data = disk.data.borrow_mut();
    if request.op == BAY_OP_UNMAP {
        data[at..at + request.nblocks as usize * BLOCK].fill(0);
    }
    for index in 0..usize::from(request.iovcnt) {
        let element = unsafe { *request.iov.add(index) };
        let len = element.len as usize;
        let memory = element.addr.cast::<u8>();
        match request.op {
            BAY_OP_READ => unsafe { ptr::copy_nonoverlapping(data[at..].as_ptr(), memory, len) },
            BAY_OP_WRITE => unsafe {
                ptr::copy_nonoverlapping(memory, data[at..].as_mut_ptr(), len);
            },
            _ => {}
        }
        at += len;
    }
    if !request.md.is_null() {
        let mut metadata = disk.metadata.borrow_mut();
        let at = request.lba as usize * METADATA;
        let stored = &mut metadata[at..at + request.nblocks as usize * METADATA];
        assert_eq!(request.md_len as usize, stored.len());
        let md = request.md.cast::<u8>();
        match request.op {
            BAY_OP_READ => unsafe { ptr::copy_nonoverlapping(stored.as_ptr(), md, stored.len()) },
            BAY_OP_WRITE => unsafe {
                ptr::copy_nonoverlapping(md, stored.as_mut_ptr(), stored.len());
            },
            _ => {}
        }
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
};

pub(crate) fn host() -> *const bay_host {
    ptr::without_provenance(0x1000)
}

pub(crate) fn bus() -> &'static bay_bdev_api {
    unsafe { &*services::table(id::BDEV).unwrap().cast() }
}

pub(crate) fn client() -> &'static bay_bdev_client_api {
    unsafe { &*services::table(id::BDEV_CLIENT).unwrap().cast() }
}

// ---- a bdev, its descriptor and its channel, on the app thread -----------------------------------

pub(crate) struct Fixture {
    pub(crate) disk: Box<Disk>,
    pub(crate) id: u64,
    pub(crate) desc: u64,
    pub(crate) chan: u64,
    pub(crate) events: Box<RefCell<Vec<(u32, u64)>>>,
}

unsafe extern "C" fn on_event(arg: *mut c_void, event: u32, value: u64) {
    unsafe { &*arg.cast::<RefCell<Vec<(u32, u64)>>>() }.borrow_mut().push((event, value));
}

impl Fixture {
    /// A disk of 64 blocks, opened for writing. `edit` changes its registration.
    pub(crate) fn new(name: &str, edit: impl FnOnce(&mut bay_bdev_reg)) -> Self {
        let disk = Box::new(Disk::default());
        *disk.data.borrow_mut() = vec![0; 64 * BLOCK];
        *disk.metadata.borrow_mut() = vec![0; 64 * METADATA];
        let mut reg: bay_bdev_reg = unsafe { std::mem::zeroed() };
        reg.size = size_of::<bay_bdev_reg>() as u32;
        reg.ctx = (&raw const *disk).cast_mut().cast();
        reg.ops = &raw const OPS;
        reg.name = bay_str::new(name);
        reg.block_size = BLOCK as u32;
        reg.num_blocks = 64;
        reg.ops_mask = ALL_OPS;
        edit(&mut reg);
        let (mut id, mut desc, mut chan) = (0, 0, 0);
        let events = Box::new(RefCell::new(Vec::new()));
        let arg = (&raw const *events).cast_mut().cast();
        let name = bay_str::new(name);
        unsafe {
            assert_eq!(bus().register.unwrap()(host(), &raw const reg, &raw mut id), 0);
            let open = client().open.unwrap();
            assert_eq!(open(host(), name, BAY_OPEN_WRITE, Some(on_event), arg, &raw mut desc), 0);
            assert_eq!(client().chan_get.unwrap()(host(), desc, &raw mut chan), 0);
        }
        Self { disk, id, desc, chan, events }
    }

    /// A channel of a descriptor that may not write.
    pub(crate) fn reader(&self, name: &str) -> u64 {
        let (mut desc, mut chan) = (0, 0);
        let (open, get) = (client().open.unwrap(), client().chan_get.unwrap());
        unsafe {
            assert_eq!(
                open(host(), bay_str::new(name), 0, None, ptr::null_mut(), &raw mut desc),
                0
            );
            assert_eq!(get(host(), desc, &raw mut chan), 0);
        }
        chan
    }

    /// Submits an I/O. The cell holds its status and detail when it has completed.
    pub(crate) fn submit(&self, fill: impl FnOnce(&mut bay_io)) -> Outcome {
        Self::submit_on(self.chan, fill)
    }

    pub(crate) fn submit_on(chan: u64, fill: impl FnOnce(&mut bay_io)) -> Outcome {
        let result = Rc::new(Cell::new(None));
        let io = unsafe { client().io_get.unwrap()(host(), chan, ptr::null_mut()) };
        let request = unsafe { &mut *io };
        request.flags = 0;
        request.iov = ptr::null();
        request.iovcnt = 0;
        request.nblocks = 0;
        request.lba = 0;
        request.arg = [0; 2];
        request.arg_len = 0;
        fill(request);
        let arg = Rc::into_raw(Rc::clone(&result)).cast_mut().cast();
        unsafe { client().submit.unwrap()(host(), io, Some(ended), arg) };
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
            let request = unsafe { *io };
            if status == 0 {
                transfer(&self.disk, &request);
            }
            unsafe { request.done.unwrap()(io, status) };
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.disk.seen.take()
    }
}

unsafe extern "C" fn ended(arg: *mut c_void, io: *mut bay_io, status: i32) {
    let result: Outcome = unsafe { Rc::from_raw(arg.cast()) };
    assert!(result.get().is_none(), "completed twice");
    result.set(Some((status, unsafe { (*io).detail })));
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
unsafe impl<T> Send for Carry<T> {}
impl<T> Carry<T> {
    pub(crate) fn take(self) -> T {
        self.0
    }
}

pub(crate) fn next<S: 'static>(mut run: Run<S>) {
    let Some(step) = run.steps.first() else {
        let _ = run.sender.send(Ok(()));
        return std::mem::forget(run.state); // the bdev is still on the bus
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
