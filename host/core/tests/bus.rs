//! The bus, driven through the ABI's tables as a plugin drives it: a RAM disk whose limits, faults
//! and timing each test chooses, and a client that submits and waits.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    reason = "one foreign plugin as a fixture; every call follows the table's doc comment"
)]

use drivebay_core::bdev;
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

const BLOCK: usize = 512;
type Outcome = Rc<Cell<Option<(i32, u64)>>>;

// ---- a module whose behaviour is chosen ----------------------------------------------------------

/// What the module saw of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    op: u16,
    flags: u32,
    lba: u64,
    nblocks: u64,
    segments: u16,
}

#[derive(Default)]
struct Disk {
    data: RefCell<Vec<u8>>,
    seen: RefCell<Vec<Seen>>,
    /// Keep requests instead of completing them.
    hold: Cell<bool>,
    kept: RefCell<Vec<*mut bay_io>>,
    /// Answer this many requests with "no resource".
    no_memory: Cell<u32>,
    /// Answer the next request so.
    fail: Cell<i32>,
    channels: Cell<i32>,
    destructed: Cell<bool>,
    flushes: Cell<u32>,
    depth: Cell<u32>,
    deepest: Cell<u32>,
}

fn disk<'a>(ctx: *mut c_void) -> &'a Disk {
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

fn transfer(disk: &Disk, request: &bay_io) {
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
}

const ALL_OPS: u64 = 1 << BAY_OP_READ | 1 << BAY_OP_WRITE | 1 << BAY_OP_UNMAP | 1 << BAY_OP_FLUSH;

static OPS: bay_bdev_ops = bay_bdev_ops {
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

fn host() -> *const bay_host {
    ptr::without_provenance(0x1000)
}

fn bus() -> &'static bay_bdev_api {
    unsafe { &*services::table(id::BDEV).unwrap().cast() }
}

fn client() -> &'static bay_bdev_client_api {
    unsafe { &*services::table(id::BDEV_CLIENT).unwrap().cast() }
}

// ---- a bdev, its descriptor and its channel, on the app thread -----------------------------------

struct Fixture {
    disk: Box<Disk>,
    id: u64,
    desc: u64,
    chan: u64,
    events: Box<RefCell<Vec<(u32, u64)>>>,
}

unsafe extern "C" fn on_event(arg: *mut c_void, event: u32, value: u64) {
    unsafe { &*arg.cast::<RefCell<Vec<(u32, u64)>>>() }.borrow_mut().push((event, value));
}

impl Fixture {
    /// A disk of 64 blocks, with the record as `edit` leaves it, opened for writing.
    fn new(name: &str, edit: impl FnOnce(&mut bay_bdev_reg)) -> Self {
        let disk = Box::new(Disk::default());
        *disk.data.borrow_mut() = vec![0; 64 * BLOCK];
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

    /// Submits; the status and detail stand in the cell when it has ended.
    fn submit(&self, fill: impl FnOnce(&mut bay_io)) -> Outcome {
        let result = Rc::new(Cell::new(None));
        let io = unsafe { client().io_get.unwrap()(host(), self.chan, ptr::null_mut()) };
        let request = unsafe { &mut *io };
        request.flags = 0;
        request.iov = ptr::null();
        request.iovcnt = 0;
        request.nblocks = 0;
        request.lba = 0;
        fill(request);
        let arg = Rc::into_raw(Rc::clone(&result)).cast_mut().cast();
        unsafe { client().submit.unwrap()(host(), io, Some(ended), arg) };
        result
    }

    fn io(&self, op: u16, lba: u64, list: &[bay_iov]) -> Outcome {
        let bytes: u64 = list.iter().map(|element| u64::from(element.len)).sum();
        self.submit(|request| {
            request.op = op;
            request.lba = lba;
            request.nblocks = bytes / BLOCK as u64;
            request.iov = list.as_ptr();
            request.iovcnt = list.len() as u16;
        })
    }

    fn range(&self, op: u16, lba: u64, nblocks: u64) -> Outcome {
        self.submit(|request| {
            request.op = op;
            request.lba = lba;
            request.nblocks = nblocks;
        })
    }

    /// Completes what the module kept, oldest first.
    fn complete_kept(&self, status: i32) {
        for io in self.disk.kept.take() {
            let request = unsafe { *io };
            if status == 0 {
                transfer(&self.disk, &request);
            }
            unsafe { request.done.unwrap()(io, status) };
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.disk.seen.take()
    }
}

unsafe extern "C" fn ended(arg: *mut c_void, io: *mut bay_io, status: i32) {
    let result: Outcome = unsafe { Rc::from_raw(arg.cast()) };
    assert!(result.get().is_none(), "completed twice");
    result.set(Some((status, unsafe { (*io).detail })));
}

fn list(buffer: &mut [u8]) -> [bay_iov; 1] {
    [bay_iov { addr: buffer.as_mut_ptr().cast(), len: buffer.len() as u32, region: 0 }]
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 251) as u8).collect()
}

// ---- running on the app thread --------------------------------------------------------------------

fn reactors() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let two = CpuSet::parse("[0,1]").unwrap();
        std::mem::forget(reactor::start(&two, Mode::Adaptive).unwrap());
    });
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step holds or is tried again in the next round.
type Step<S> = Box<dyn Fn(&S) -> bool + Send>;

/// What is made on the app thread and stays there.
struct Run<S> {
    state: S,
    steps: Vec<Step<S>>,
    tries: u32,
    sender: mpsc::Sender<Result<(), String>>,
}

/// Carried by messages that a thread sends to itself.
struct Carry<T>(T);
unsafe impl<T> Send for Carry<T> {}
impl<T> Carry<T> {
    fn take(self) -> T {
        self.0
    }
}

fn next<S: 'static>(mut run: Run<S>) {
    let Some(step) = run.steps.first() else {
        let _ = run.sender.send(Ok(()));
        return std::mem::forget(run.state); // the bus still knows its bdev
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&run.state)));
    let failure = match outcome {
        Ok(true) => {
            drop(run.steps.remove(0));
            None
        }
        Ok(false) if run.tries < 200_000 => None,
        Ok(false) => Some(format!("{} steps from the end: it never held", run.steps.len())),
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

/// Runs the steps on the app thread, each in a round of its own, so that what a round ends (bursts,
/// channels, events) is seen by the next step.
fn on_app<S: 'static>(make: impl FnOnce() -> S + Send + 'static, steps: Vec<Step<S>>) {
    let _guard = reactors();
    let (sender, receiver) = mpsc::channel();
    thread::send_app(move || next(Run { state: make(), steps, tries: 0, sender }));
    match receiver.recv_timeout(Duration::from_secs(20)) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => panic!("{why}"),
        Err(error) => panic!("the app thread did not answer: {error}"),
    }
}

/// One step.
fn once(name: &'static str, edit: fn(&mut bay_bdev_reg), step: fn(&Fixture)) {
    let step: Step<Fixture> = Box::new(move |fixture| {
        step(fixture);
        true
    });
    on_app(move || Fixture::new(name, edit), vec![step]);
}

// ---- the tests --------------------------------------------------------------------------------------

#[test]
fn what_is_written_is_read_back_through_lists_of_any_shape() {
    once(
        "shape",
        |_| {},
        |f| {
            let mut data = pattern(4 * BLOCK);
            let (left, right) = data.split_at_mut(700);
            let two = [list(left)[0], list(right)[0]];
            assert_eq!(f.io(BAY_OP_WRITE, 3, &two).get(), Some((0, 0)));
            let mut back = vec![0; 4 * BLOCK];
            assert_eq!(f.io(BAY_OP_READ, 3, &list(&mut back)).get(), Some((0, 0)));
            assert_eq!(back, pattern(4 * BLOCK));
        },
    );
}

#[test]
fn a_request_that_is_wrong_never_reaches_the_module() {
    once(
        "wrong",
        |_| {},
        |f| {
            let mut one = vec![0; BLOCK];
            let status = |result: Outcome| result.get().unwrap().0;
            assert_eq!(status(f.io(BAY_OP_READ, 64, &list(&mut one))), -libc::EINVAL);
            assert_eq!(status(f.io(BAY_OP_READ, u64::MAX, &list(&mut one))), -libc::EINVAL);
            assert_eq!(status(f.range(BAY_OP_UNMAP, 0, 0)), -libc::EINVAL);
            assert_eq!(status(f.range(BAY_OP_UNMAP, 60, u64::MAX)), -libc::EINVAL);
            assert_eq!(status(f.range(BAY_OP_READ, 0, 1)), -libc::EINVAL); // no list
            assert_eq!(status(f.range(BAY_OP_COPY, 0, 1)), -libc::ENOTSUP); // not declared
            assert_eq!(status(f.range(999, 0, 1)), -libc::ENOTSUP);
            let strange_flag = f.submit(|io| {
                io.op = BAY_OP_FLUSH;
                io.flags = 1 << 31;
            });
            assert_eq!(status(strange_flag), -libc::ENOTSUP);
            assert_eq!(f.seen(), []);
        },
    );
}

#[test]
fn a_long_list_is_split_at_boundaries_and_limits() {
    let limits = |reg: &mut bay_bdev_reg| {
        reg.optimal_boundary = 8;
        reg.max_segments = 2;
    };
    once("split", limits, |f| {
        let mut data = pattern(16 * BLOCK);
        let pieces: Vec<bay_iov> = data.chunks_mut(3 * BLOCK).map(|piece| list(piece)[0]).collect();
        assert_eq!(f.io(BAY_OP_WRITE, 5, &pieces).get(), Some((0, 0)));
        let seen = f.seen();
        assert!(seen.iter().all(|io| io.segments <= 2), "{seen:?}");
        assert!(seen.iter().all(|io| io.lba / 8 == (io.lba + io.nblocks - 1) / 8), "{seen:?}");
        assert_eq!(seen.iter().map(|io| io.nblocks).sum::<u64>(), 16);
        assert_eq!(f.disk.data.borrow()[5 * BLOCK..21 * BLOCK], pattern(16 * BLOCK)[..]);
    });
}

#[test]
fn one_failed_part_fails_the_whole_with_its_status() {
    once(
        "part",
        |reg| reg.max_io_blocks = 1,
        |f| {
            f.disk.fail.set(-libc::EIO);
            let mut data = vec![0; 3 * BLOCK];
            assert_eq!(f.io(BAY_OP_READ, 0, &list(&mut data)).get().unwrap().0, -libc::EIO);
            assert_eq!(f.seen().len(), 3);
        },
    );
}

#[test]
fn memory_that_is_not_aligned_goes_through_a_buffer() {
    once(
        "bounce",
        |reg| reg.align = 512,
        |f| {
            let mut backing = vec![0; 5 * BLOCK];
            let skew = backing.as_ptr().align_offset(512) + 3;
            let memory = &mut backing[skew..skew + 3 * BLOCK];
            memory.copy_from_slice(&pattern(3 * BLOCK));
            assert_eq!(f.io(BAY_OP_WRITE, 9, &list(memory)).get(), Some((0, 0)));
            memory.fill(0);
            assert_eq!(f.io(BAY_OP_READ, 9, &list(memory)).get(), Some((0, 0)));
            assert_eq!(memory, pattern(3 * BLOCK));
            assert_eq!(f.seen().len(), 2);
        },
    );
}

#[test]
fn zeroes_and_compare_are_emulated_and_compare_says_where() {
    once(
        "emulate",
        |_| {},
        |f| {
            let mut data = pattern(8 * BLOCK);
            f.io(BAY_OP_WRITE, 0, &list(&mut data));
            assert_eq!(f.io(BAY_OP_COMPARE, 0, &list(&mut data)).get(), Some((0, 0)));
            data[3 * BLOCK + 5] ^= 1;
            let wrong = f.io(BAY_OP_COMPARE, 0, &list(&mut data)).get();
            assert_eq!(wrong, Some((BAY_ST_MISCOMPARE, 3 * BLOCK as u64 + 5)));
            assert_eq!(f.range(BAY_OP_WRITE_ZEROES, 2, 3).get(), Some((0, 0)));
            assert!(f.disk.data.borrow()[2 * BLOCK..5 * BLOCK].iter().all(|&byte| byte == 0));
            assert_eq!(f.disk.data.borrow()[5 * BLOCK], pattern(8 * BLOCK)[5 * BLOCK]);
        },
    );
}

#[test]
fn a_write_through_is_a_write_and_a_flush_when_the_module_has_a_cache() {
    once(
        "fua",
        |reg| reg.flags = BAY_BDEV_WRITE_CACHE,
        |f| {
            let mut data = vec![1; BLOCK];
            let list = list(&mut data);
            let done = f.submit(|io| {
                io.op = BAY_OP_WRITE;
                io.flags = BAY_IO_FUA;
                io.nblocks = 1;
                io.iov = list.as_ptr();
                io.iovcnt = 1;
            });
            assert_eq!(done.get(), Some((0, 0)));
            let ops: Vec<_> = f.seen().iter().map(|io| (io.op, io.flags)).collect();
            assert_eq!(ops, [(BAY_OP_WRITE, 0), (BAY_OP_FLUSH, 0)]);
        },
    );
}

#[test]
fn what_the_module_has_no_resource_for_waits_in_order_and_loses_nothing() {
    let make = || {
        let f = Fixture::new("nomem", |_| {});
        f.disk.hold.set(true);
        let first = f.range(BAY_OP_UNMAP, 0, 1); // keeps the channel busy
        f.disk.no_memory.set(1);
        let rest: Vec<_> = (1..4).map(|lba| f.range(BAY_OP_UNMAP, lba, 1)).collect();
        assert_eq!(f.seen().len(), 2, "the others wait behind the refused one");
        f.disk.hold.set(false);
        f.complete_kept(0);
        assert_eq!(first.get(), Some((0, 0)));
        assert!(rest.iter().all(|done| done.get() == Some((0, 0))));
        let lbas: Vec<_> = f.seen().iter().map(|io| io.lba).collect();
        assert_eq!(lbas, [1, 2, 3]);
        // With nothing outstanding only the timer can send it again.
        f.disk.no_memory.set(3);
        let alone = f.range(BAY_OP_UNMAP, 9, 1);
        (f, alone)
    };
    on_app(make, vec![Box::new(|(_, alone)| alone.get() == Some((0, 0)))]);
}

/// One I/O after the other, each submitted from the callback of the one before.
struct Chain {
    chan: u64,
    left: Cell<u32>,
}

impl Chain {
    fn go(&self) {
        let io = unsafe { client().io_get.unwrap()(host(), self.chan, ptr::null_mut()) };
        let request = unsafe { &mut *io };
        request.op = BAY_OP_UNMAP;
        request.flags = 0;
        request.lba = 0;
        request.nblocks = 1;
        let arg = (&raw const *self).cast_mut().cast();
        unsafe { client().submit.unwrap()(host(), io, Some(again), arg) };
    }
}

unsafe extern "C" fn again(arg: *mut c_void, _io: *mut bay_io, status: i32) {
    assert_eq!(status, 0);
    let chain = unsafe { &*arg.cast::<Chain>() };
    if chain.left.get() > 0 {
        chain.left.set(chain.left.get() - 1);
        chain.go();
    }
}

#[test]
fn a_module_that_completes_inside_submit_does_not_grow_the_stack() {
    once(
        "stack",
        |_| {},
        |f| {
            let chain = Chain { chan: f.chan, left: Cell::new(100_000) };
            chain.go();
            assert_eq!(chain.left.get(), 0);
            assert_eq!(f.disk.deepest.get(), 1);
        },
    );
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_holds_what_comes() {
    struct Story {
        f: Fixture,
        flying: Outcome,
        reset: Outcome,
        later: RefCell<Option<Outcome>>,
        rounds: Cell<u32>,
    }
    let make = || {
        let f = Fixture::new("reset", |_| {});
        f.disk.hold.set(true);
        let flying = f.range(BAY_OP_UNMAP, 0, 1);
        let reset = f.range(BAY_OP_RESET, 0, 0);
        Story { f, flying, reset, later: RefCell::default(), rounds: Cell::new(0) }
    };
    let while_draining = |s: &Story| {
        s.rounds.set(s.rounds.get() + 1);
        if s.rounds.get() < 50 {
            return false;
        }
        s.f.disk.hold.set(false);
        let later = s.f.range(BAY_OP_UNMAP, 1, 1);
        assert!(later.get().is_none(), "not held");
        *s.later.borrow_mut() = Some(later);
        assert!(s.reset.get().is_none(), "ended with I/O in flight");
        s.f.complete_kept(0);
        true
    };
    let ended = |s: &Story| {
        assert_eq!(s.flying.get(), Some((0, 0)));
        let later = s.later.borrow().as_ref().unwrap().get();
        s.reset.get() == Some((0, 0)) && later == Some((0, 0))
    };
    on_app(make, vec![Box::new(while_draining), Box::new(ended)]);
}

#[test]
fn a_removed_bdev_tells_its_clients_fails_new_io_and_goes_when_the_last_lets_go() {
    let make = || {
        let f = Fixture::new("remove", |_| {});
        f.disk.hold.set(true);
        let flying = f.range(BAY_OP_UNMAP, 0, 1);
        let unregister = bus().unregister.unwrap();
        assert_eq!(unsafe { unregister(host(), f.id, None, ptr::null_mut()) }, 0);
        (f, flying)
    };
    let let_go = |(f, flying): &(Fixture, Outcome)| {
        assert!(bdev::find("remove").is_none());
        assert_eq!(f.range(BAY_OP_UNMAP, 0, 1).get().unwrap().0, -libc::ENODEV);
        assert!(!f.disk.destructed.get());
        f.complete_kept(0);
        assert_eq!(flying.get(), Some((0, 0)));
        let close = client().close.unwrap();
        assert_eq!(unsafe { close(host(), f.desc) }, -libc::EBUSY);
        assert_eq!(unsafe { client().chan_put.unwrap()(host(), f.chan) }, 0);
        assert_eq!(unsafe { close(host(), f.desc) }, 0);
        true
    };
    on_app(
        make,
        vec![
            Box::new(|(f, _)| *f.events.borrow() == [(BAY_EVENT_REMOVE, 0)]),
            Box::new(let_go),
            Box::new(|(f, _)| f.disk.destructed.get()),
        ],
    );
}

#[test]
fn a_claim_keeps_other_writers_out_until_it_is_given_back() {
    once(
        "claim",
        |_| {},
        |f| {
            let open = |flags| {
                let mut desc = 0;
                let open = client().open.unwrap();
                let name = bay_str::new("claim");
                let status =
                    unsafe { open(host(), name, flags, None, ptr::null_mut(), &raw mut desc) };
                (status, desc)
            };
            let (_, reader) = open(0);
            let claim = client().claim.unwrap();
            assert_eq!(unsafe { claim(host(), f.desc, BAY_CLAIM_EXCL_WRITE, 0) }, 0);
            assert_eq!(open(BAY_OPEN_WRITE).0, -libc::EPERM);
            assert_eq!(unsafe { claim(host(), reader, BAY_CLAIM_EXCL_WRITE, 0) }, -libc::EPERM);
            assert_eq!(bdev::find("claim").unwrap().claim(), Some("exclusive_write"));
            assert_eq!(unsafe { client().unclaim.unwrap()(host(), f.desc) }, 0);
            assert_eq!(open(BAY_OPEN_WRITE).0, 0);
        },
    );
}

#[test]
fn a_reader_may_not_write() {
    once(
        "reader",
        |_| {},
        |f| {
            let (mut desc, mut chan) = (0, 0);
            let name = bay_str::new("reader");
            unsafe {
                client().open.unwrap()(host(), name, 0, None, ptr::null_mut(), &raw mut desc);
                client().chan_get.unwrap()(host(), desc, &raw mut chan);
            }
            let reader =
                Fixture { disk: Box::default(), id: f.id, desc, chan, events: Box::default() };
            let mut data = vec![0; BLOCK];
            let write = reader.io(BAY_OP_WRITE, 0, &list(&mut data));
            assert_eq!(write.get().unwrap().0, -libc::EBADF);
            assert_eq!(reader.io(BAY_OP_READ, 0, &list(&mut data)).get(), Some((0, 0)));
        },
    );
}

#[test]
fn a_grown_bdev_tells_its_clients_and_takes_io_at_its_new_end() {
    let make = || {
        let f = Fixture::new("grow", |reg| reg.num_blocks = 32);
        let mut one = vec![0; BLOCK];
        assert_eq!(f.io(BAY_OP_READ, 40, &list(&mut one)).get().unwrap().0, -libc::EINVAL);
        let resize = bus().resize.unwrap();
        assert_eq!(unsafe { resize(host(), f.id, 64) }, 0);
        assert_eq!(f.io(BAY_OP_READ, 40, &list(&mut one)).get(), Some((0, 0)));
        assert_eq!(unsafe { resize(host(), f.id, 16) }, -libc::EBUSY);
        f
    };
    on_app(make, vec![Box::new(|f| *f.events.borrow() == [(BAY_EVENT_RESIZE, 64)])]);
}

#[test]
fn the_module_hears_of_the_end_of_a_burst_once_a_round() {
    let make = || {
        let f = Fixture::new("burst", |_| {});
        for lba in 0..10 {
            f.range(BAY_OP_UNMAP, lba, 1);
        }
        assert_eq!(f.disk.flushes.get(), 0);
        f
    };
    let flushed = |f: &Fixture| {
        assert!(f.disk.flushes.get() <= 1, "one burst");
        f.disk.flushes.get() == 1
    };
    on_app(make, vec![Box::new(flushed)]);
}

#[test]
fn names_are_unique_and_uuids_are_names_too() {
    once(
        "unique",
        |_| {},
        |_| {
            let device = bdev::find("unique").unwrap();
            assert_eq!(bdev::find(&device.uuid_text()).unwrap().id, device.id);
            let mut reg: bay_bdev_reg = unsafe { std::mem::zeroed() };
            reg.size = size_of::<bay_bdev_reg>() as u32;
            reg.ops = &raw const OPS;
            reg.name = bay_str::new("unique");
            reg.block_size = 512;
            reg.num_blocks = 1;
            let mut id = 0;
            let register = bus().register.unwrap();
            assert_eq!(unsafe { register(host(), &raw const reg, &raw mut id) }, -libc::EEXIST);
            reg.name = bay_str::new("other");
            reg.block_size = 0;
            assert_eq!(unsafe { register(host(), &raw const reg, &raw mut id) }, -libc::EINVAL);
        },
    );
}

#[test]
fn an_alignment_above_the_block_size_and_pieces_finer_than_segments_go_through_a_buffer() {
    let limits = |reg: &mut bay_bdev_reg| {
        reg.align = 4096;
        reg.max_segments = 1;
    };
    once("fine", limits, |f| {
        let mut data = pattern(3 * BLOCK + 1);
        let pieces: Vec<bay_iov> = data[1..].chunks_mut(100).map(|piece| list(piece)[0]).collect();
        assert_eq!(f.io(BAY_OP_WRITE, 1, &pieces).get(), Some((0, 0)));
        let mut one = vec![0; 2 * BLOCK];
        assert_eq!(f.io(BAY_OP_READ, 2, &list(&mut one[1..=BLOCK])).get(), Some((0, 0)));
        assert_eq!(one[1..=BLOCK], pattern(3 * BLOCK + 1)[BLOCK + 1..=2 * BLOCK]);
        assert!(f.seen().iter().all(|io| io.segments == 1));
    });
}

#[test]
fn parts_of_writes_keep_the_write_unit_and_limits_without_room_for_it_are_refused() {
    let limits = |reg: &mut bay_bdev_reg| {
        reg.write_unit = 4;
        reg.max_io_blocks = 6;
    };
    once("unit", limits, |f| {
        let mut data = pattern(16 * BLOCK);
        assert_eq!(f.io(BAY_OP_WRITE, 8, &list(&mut data)).get(), Some((0, 0)));
        let lens: Vec<u64> = f.seen().iter().map(|io| io.nblocks).collect();
        assert_eq!(lens, [4; 4]);
        let mut reg: bay_bdev_reg = unsafe { std::mem::zeroed() };
        reg.size = size_of::<bay_bdev_reg>() as u32;
        reg.ops = &raw const OPS;
        reg.name = bay_str::new("no room");
        (reg.block_size, reg.num_blocks, reg.write_unit, reg.max_io_blocks) = (512, 8, 4, 2);
        let register = bus().register.unwrap();
        assert_eq!(unsafe { register(host(), &raw const reg, ptr::null_mut()) }, -libc::EINVAL);
    });
}

#[test]
fn write_through_reaches_no_module_that_did_not_declare_it() {
    let with_fua = |f: &Fixture, op| {
        let mut data = vec![1; BLOCK];
        let list = list(&mut data);
        let done = f.submit(|io| {
            io.op = op;
            io.flags = BAY_IO_FUA;
            io.nblocks = 1;
            (io.iov, io.iovcnt) = (list.as_ptr(), 1);
        });
        (done.get().unwrap().0, f.seen().iter().map(|io| (io.op, io.flags)).collect::<Vec<_>>())
    };
    on_app(
        || {
            (
                Fixture::new("no cache", |_| {}),
                Fixture::new("cache", |r| r.flags = BAY_BDEV_WRITE_CACHE),
            )
        },
        vec![Box::new(move |(plain, cached)| {
            assert_eq!(with_fua(plain, BAY_OP_WRITE), (0, vec![(BAY_OP_WRITE, 0)]));
            let unmapped = (0, vec![(BAY_OP_UNMAP, 0), (BAY_OP_FLUSH, 0)]);
            assert_eq!(with_fua(cached, BAY_OP_UNMAP), unmapped);
            assert_eq!(with_fua(cached, BAY_OP_FLUSH), (-libc::ENOTSUP, vec![]));
            true
        })],
    );
}

#[test]
fn a_reset_that_the_module_has_no_resource_for_fails_and_lets_go() {
    let make = || {
        let f = Fixture::new("reset nomem", |reg| reg.ops_mask |= 1 << BAY_OP_RESET);
        f.disk.no_memory.set(1);
        let reset = f.range(BAY_OP_RESET, 0, 0);
        (f, reset)
    };
    let ended = |(_, reset): &(Fixture, Outcome)| {
        reset.get().is_some_and(|(status, _)| status == -libc::EIO)
    };
    let goes_on = |(f, _): &(Fixture, Outcome)| {
        assert_eq!(f.range(BAY_OP_UNMAP, 0, 1).get(), Some((0, 0)));
        true
    };
    on_app(make, vec![Box::new(ended), Box::new(goes_on)]);
}

unsafe extern "C" fn count_calls(arg: *mut c_void, status: i32) {
    assert_eq!(status, 0);
    let calls = unsafe { &*arg.cast::<Cell<u32>>() };
    calls.set(calls.get() + 1);
}

struct Quiet {
    f: Fixture,
    told: Box<Cell<u32>>,
    flying: Outcome,
    held: RefCell<Vec<Outcome>>,
}

impl Quiet {
    /// With I/O in blocks 0 and 1 at the module.
    fn new(name: &str) -> Self {
        let f = Fixture::new(name, |_| {});
        f.disk.hold.set(true);
        let flying = f.range(BAY_OP_UNMAP, 0, 2);
        f.disk.hold.set(false);
        Self { f, told: Box::default(), flying, held: RefCell::default() }
    }

    fn call(&self, call: Option<bay_bdev_quiesce_fn>, lba: u64, nblocks: u64) -> i32 {
        let arg = (&raw const *self.told).cast_mut().cast();
        unsafe { call.unwrap()(host(), self.f.id, lba, nblocks, Some(count_calls), arg) }
    }
}

#[test]
fn quiesce_of_a_range_waits_for_its_io_holds_it_back_and_lets_the_rest_pass() {
    let make = || {
        let quiet = Quiet::new("quiesce");
        assert_eq!(quiet.call(bus().quiesce, 60, 5), -libc::EINVAL);
        assert_eq!(quiet.call(bus().unquiesce, 1, 4), -libc::EINVAL);
        assert_eq!(quiet.call(bus().quiesce, 1, 4), 0);
        quiet
    };
    let rounds = Mutex::new(0);
    let while_flying = move |q: &Quiet| {
        let mut rounds = rounds.lock().unwrap();
        *rounds += 1;
        if *rounds < 50 {
            return false;
        }
        assert_eq!(q.told.get(), 0, "told with I/O at the module");
        assert_eq!(q.f.range(BAY_OP_UNMAP, 5, 1).get(), Some((0, 0)), "beside the range");
        let held = q.f.range(BAY_OP_UNMAP, 4, 2);
        assert!(held.get().is_none(), "not held back");
        q.held.borrow_mut().push(held);
        q.f.complete_kept(0);
        assert_eq!(q.flying.get(), Some((0, 0)));
        true
    };
    let told = |q: &Quiet| q.told.get() == 1;
    let let_go = |q: &Quiet| {
        assert!(q.held.borrow()[0].get().is_none());
        assert_eq!(q.call(bus().unquiesce, 1, 4), 0);
        true
    };
    let goes_on = |q: &Quiet| q.told.get() == 2 && q.held.borrow()[0].get() == Some((0, 0));
    on_app(make, vec![Box::new(while_flying), Box::new(told), Box::new(let_go), Box::new(goes_on)]);
}

#[test]
fn what_is_quiesced_whole_can_be_reset_and_removed() {
    let make = || {
        let quiet = Quiet::new("quiesce whole");
        assert_eq!(quiet.call(bus().quiesce, 0, 0), 0);
        quiet
    };
    let all_held = |q: &Quiet| {
        q.f.complete_kept(0);
        if q.told.get() == 0 {
            return false;
        }
        q.held.borrow_mut().extend([
            q.f.range(BAY_OP_RESET, 0, 0),
            q.f.range(BAY_OP_UNMAP, 9, 1),
            q.f.range(BAY_OP_FLUSH, 0, 0),
        ]);
        true
    };
    let reset = |q: &Quiet| q.held.borrow()[0].get() == Some((0, 0));
    let remove = |q: &Quiet| {
        assert!(q.held.borrow()[1..].iter().all(|held| held.get().is_none()));
        let unregister = bus().unregister.unwrap();
        assert_eq!(unsafe { unregister(host(), q.f.id, None, ptr::null_mut()) }, 0);
        true
    };
    let failed = |q: &Quiet| {
        let held = q.held.borrow();
        held[1..].iter().all(|held| held.get() == Some((-libc::ENODEV, 0)))
    };
    on_app(make, vec![Box::new(all_held), Box::new(reset), Box::new(remove), Box::new(failed)]);
}

#[test]
fn what_is_sent_to_a_thread_that_ends_is_called() {
    let _guard = reactors();
    let (sender, receiver) = mpsc::channel();
    for round in 0..200 {
        let one = CpuSet::one(round % 2);
        let id = thread::create("short", &one).unwrap();
        thread::send_boxed(id, || assert_eq!(unsafe { exit_here() }, 0));
        for number in 0..100 {
            // Taken, or given back: then the closure is dropped and with it the sender.
            let told = Told(sender.clone(), number);
            thread::send_boxed(id, move || drop(told));
        }
    }
    drop(sender);
    let told = std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(10)).ok());
    assert_eq!(told.count(), 200 * 100);
}

unsafe fn exit_here() -> i32 {
    let threads: &bay_thread_api = unsafe { &*services::table(id::THREAD).unwrap().cast() };
    unsafe { threads.exit.unwrap()(host(), thread::current_id()) }
}

/// Tells when it is dropped.
struct Told(mpsc::Sender<u32>, u32);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

// ---- filters ----------------------------------------------------------------------------------------

/// A module that passes everything on, at another place.
struct Shift {
    base: u64,
    blocks: u64,
    drv_ctx_size: u32,
}

unsafe extern "C" fn shift(chan: *mut c_void, io: *mut bay_io) {
    let shift = unsafe { &*chan.cast::<Shift>() };
    unsafe { client().pass.unwrap()(host(), shift.base, io, (*io).lba + shift.blocks) };
}

unsafe extern "C" fn shift_chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    unsafe { chan.write(bdev) };
    0
}

unsafe extern "C" fn shift_chan_destroy(_bdev: *mut c_void, _chan: *mut c_void) -> i32 {
    0
}

unsafe extern "C" fn shift_destruct(_bdev: *mut c_void) -> i32 {
    0
}

static SHIFT_OPS: bay_bdev_ops = bay_bdev_ops {
    submit: Some(shift),
    flush: None,
    chan_create: Some(shift_chan_create),
    chan_destroy: Some(shift_chan_destroy),
    destruct: Some(shift_destruct),
    ..OPS
};

/// A filter over `base`, as a bdev of 48 blocks. Its own disk stays unused.
fn over(base: &Fixture, name: &str, shift: Shift) -> Fixture {
    let shift = Box::leak(Box::new(Shift { base: base.chan, ..shift }));
    Fixture::new(name, |reg| {
        reg.ctx = ptr::from_mut(shift).cast();
        reg.ops = &raw const SHIFT_OPS;
        reg.ops_mask = ALL_OPS | 1 << BAY_OP_ABORT;
        reg.num_blocks = 48;
        reg.drv_ctx_size = shift.drv_ctx_size;
    })
}

fn shifted(blocks: u64) -> Shift {
    Shift { base: 0, blocks, drv_ctx_size: 0 }
}

type Counted = std::sync::Arc<Mutex<Option<bdev::stats::IoStat>>>;

fn counted(name: &str) -> Counted {
    let result = Counted::default();
    let place = std::sync::Arc::clone(&result);
    bdev::stats::collect(&bdev::find(name).unwrap(), move |total, _| {
        *place.lock().unwrap() = Some(total);
    });
    result
}

#[test]
fn what_filters_pass_on_is_done_by_the_base_and_counted_on_each() {
    let make = || {
        let base = Fixture::new("passed base", |_| {});
        let low = over(&base, "passed low", shifted(8));
        let high = over(&low, "passed high", shifted(0));
        for lba in [1, 2] {
            let mut data = pattern(2 * BLOCK);
            assert_eq!(high.io(BAY_OP_WRITE, lba, &list(&mut data)).get(), Some((0, 0)));
        }
        assert_eq!(base.seen().iter().map(|io| io.lba).collect::<Vec<_>>(), [9, 10]);
        let mut back = vec![0; 2 * BLOCK];
        assert_eq!(high.io(BAY_OP_READ, 2, &list(&mut back)).get(), Some((0, 0)));
        assert_eq!(back, pattern(2 * BLOCK));
        base.disk.fail.set(-libc::EIO);
        assert_eq!(high.io(BAY_OP_READ, 2, &list(&mut back)).get(), Some((-libc::EIO, 0)));
        // The filter reaches further than its base.
        assert_eq!(low.range(BAY_OP_UNMAP, 47, 1).get(), Some((0, 0)));
        let names = ["passed base", "passed low", "passed high"];
        (base, low, high, names.map(counted))
    };
    let all_counted: Step<(Fixture, Fixture, Fixture, [Counted; 3])> = Box::new(|(.., counted)| {
        let all = counted.each_ref().map(|one| *one.lock().unwrap());
        let [Some(base), Some(low), Some(high)] = all else { return false };
        for one in [base, low, high] {
            assert_eq!((one.write.ops, one.write.blocks, one.read.ops, one.errors), (2, 4, 1, 1));
        }
        assert_eq!([base, low, high].map(|one| one.unmap.ops), [1, 1, 0]);
        true
    });
    on_app(make, vec![all_counted]);
}

#[test]
fn a_passed_io_waits_at_the_base_and_is_aborted_there_by_its_id() {
    once(
        "passed wait",
        |_| {},
        |base| {
            let filter = over(base, "passed wait filter", shifted(4));
            base.disk.hold.set(true);
            let kept = filter.range(BAY_OP_UNMAP, 0, 1);
            base.disk.no_memory.set(1);
            let mut id = 0;
            let waits = filter.submit(|io| {
                (io.op, io.lba, io.nblocks) = (BAY_OP_UNMAP, 1, 1);
                id = io.id;
            });
            let abort = filter.submit(|io| {
                io.op = BAY_OP_ABORT;
                io.arg = [id, 0];
            });
            assert_eq!(abort.get(), Some((0, 0)));
            assert_eq!(waits.get(), Some((BAY_ST_ABORTED, 0)));
            assert_eq!(kept.get(), None);
            base.complete_kept(0);
            assert_eq!(kept.get(), Some((0, 0)));
        },
    );
}

#[test]
fn a_long_stack_and_a_base_that_needs_more_room_take_a_second_request() {
    once(
        "passed deep",
        |reg| reg.drv_ctx_size = 64,
        |base| {
            let mut top = over(base, "passed deep 0", shifted(1));
            for layer in 1..12 {
                let name = format!("passed deep {layer}");
                let upper = over(&top, &name, shifted(1));
                std::mem::forget(std::mem::replace(&mut top, upper));
            }
            let mut data = pattern(BLOCK);
            for _ in 0..3 {
                assert_eq!(top.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((0, 0)));
            }
            assert!(base.seen().iter().all(|io| io.lba == 17));
            base.disk.fail.set(-libc::ENOSPC);
            assert_eq!(top.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((-libc::ENOSPC, 0)));
            std::mem::forget(top);
        },
    );
}

#[test]
fn a_base_that_goes_ends_what_its_filter_still_passes_on() {
    once(
        "passed gone",
        |_| {},
        |base| {
            let filter = over(base, "passed gone filter", shifted(0));
            let mut data = pattern(BLOCK);
            for _ in 0..2 {
                assert_eq!(filter.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((0, 0)));
            }
            unsafe { bus().unregister.unwrap()(host(), base.id, None, ptr::null_mut()) };
            assert_eq!(
                filter.io(BAY_OP_WRITE, 5, &list(&mut data)).get(),
                Some((-libc::ENODEV, 0))
            );
            // A handle that was put is none any more.
            assert_eq!(unsafe { client().chan_put.unwrap()(host(), base.chan) }, 0);
            assert_eq!(filter.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((-libc::EBADF, 0)));
        },
    );
}
