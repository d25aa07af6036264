//! A client: it uses a bdev on one lightweight thread and checks the results against the model.

use crate::abi::{self, client, fields, get_chan, host, put_chan};
use crate::memory::Memory;
use crate::model::{Tag, Use, fill};
use crate::sim::sim;
use crate::stack::Top;
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

pub(crate) struct Client {
    pub(crate) thread: u64,
    pub(crate) top: Rc<Top>,
    pub(crate) desc: Cell<u64>,
    chan: Cell<u64>,
    depth: usize,
    in_flight: RefCell<Vec<Rc<Request>>>,
    wait: RefCell<bay_wait>,
    waits: Cell<bool>,
    /// Whether the client has to release its channel, because the bdev is removed, the life ends,
    /// or the channel failed.
    leaves: Cell<bool>,
    pub(crate) closed: Cell<bool>,
}

/// The expected result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Success,
    /// The request is invalid.
    Invalid,
    /// The contents differ at this byte.
    Miscompare(u64),
    AbortOrNot,
}

pub(crate) struct Request {
    /// The simulation keeps the client until all its requests have completed.
    client: *const Client,
    op: u16,
    lba: u64,
    nblocks: u64,
    id: u64,
    durable: bool,
    tag: Tag,
    expect: Expect,
    sequence: u64,
    memory: RefCell<Option<Memory>>,
    ended: Cell<bool>,
}

impl Client {
    pub(crate) fn new(thread: u64, top: &Rc<Top>, desc: u64) -> Rc<Self> {
        let client = Rc::new(Self {
            thread,
            top: Rc::clone(top),
            desc: Cell::new(desc),
            chan: Cell::new(0),
            depth: sim().rng.pick(&[1, 2, 4, 8, 16]),
            in_flight: RefCell::default(),
            wait: RefCell::new(bay_wait {
                cb: Some(io_available),
                arg: ptr::null_mut(),
                link: ptr::null_mut(),
                rsv: 0,
            }),
            waits: Cell::new(false),
            leaves: Cell::new(false),
            closed: Cell::new(false),
        });
        client.wait.borrow_mut().arg = Rc::as_ptr(&client).cast_mut().cast();
        client
    }

    /// Does one step. Call it on the client's thread.
    pub(crate) fn step(&self) {
        let sim = sim();
        if self.closed.get() {
            return;
        }
        if self.leaves.get() || self.top.removed.get() || sim.ending.get() {
            return self.leave();
        }
        if self.chan.get() == 0 {
            match get_chan(self.desc.get()) {
                Ok(chan) => self.chan.set(chan),
                Err(errno) => {
                    assert!(matches!(-errno, libc::ENOMEM | libc::ENODEV), "chan_get: {errno}");
                    return;
                }
            }
        }
        for _ in 0..sim.rng.within(1, 4) {
            if self.in_flight.borrow().len() < self.depth && !self.waits.get() {
                self.submit_one();
            }
        }
        if sim.rng.chance(20) {
            self.end_burst();
        }
        if sim.rng.below(1000) < sim.weights.leave {
            self.leaves.set(true);
        }
    }

    fn end_burst(&self) {
        // SAFETY: the call passes only a handle.
        unsafe { client().flush.unwrap()(host(), self.chan.get()) };
    }

    /// Releases the channel when no request is in flight. Then, if it must, it closes the
    /// descriptor.
    fn leave(&self) {
        if !self.in_flight.borrow().is_empty() || self.waits.get() {
            return;
        }
        self.leaves.set(false);
        match self.chan.take() {
            0 => {}
            chan => put_chan(chan),
        }
        if self.top.removed.get() || sim().ending.get() {
            self.closed.set(true);
            let desc = self.desc.get();
            thread::send_app(move || crate::abi::close(desc));
        }
    }

    fn submit_one(&self) {
        let sim = sim();
        if sim.budget.get() == 0 || self.chan.get() == 0 {
            return;
        }
        let wait: *mut bay_wait = self.wait.as_ptr();
        // SAFETY: `waits` guards `wait`: while the host has it queued, the client does not queue it again
        // and does not close, so the simulation keeps the client.
        let io = unsafe { client().io_get.unwrap()(host(), self.chan.get(), wait) };
        if io.is_null() {
            return self.waits.set(true);
        }
        let Some(mut request) = self.choose() else {
            // SAFETY: `io` comes from `io_get` and was not submitted.
            return unsafe { client().io_put.unwrap()(host(), io) };
        };
        sim.budget.set(sim.budget.get() - 1);
        sim.submitted.set(sim.submitted.get() + 1);
        // SAFETY: `io` comes from `io_get`. Only this client uses it until the submit.
        self.fill(unsafe { &mut *io }, &mut request);
        let request = Rc::new(request);
        let arg = Rc::as_ptr(&request).cast_mut().cast();
        self.in_flight.borrow_mut().push(request);
        abi::submit(io, ended, arg);
    }

    fn fill(&self, io: &mut bay_io, request: &mut Request) {
        request.id = io.id;
        io.op = request.op;
        io.flags = if request.durable { BAY_IO_FUA } else { 0 };
        (io.lba, io.nblocks) = (request.lba, request.nblocks);
        (io.iov, io.iovcnt) = (ptr::null(), 0);
        io.arg = [request.tag, 0];
        if let Some(memory) = request.memory.get_mut() {
            (io.iov, io.iovcnt) = (memory.list.as_ptr(), memory.list.len() as u16);
        }
        if request.expect == Expect::Invalid {
            match sim().rng.below(3) {
                0 => io.lba = crate::disk::MOST_BLOCKS, // the client may not know the current size yet
                1 => io.nblocks = u64::MAX - io.lba / 2,
                _ => io.nblocks = 0,
            }
        }
    }

    /// Chooses the next request, one that does not race with a request in flight.
    fn choose(&self) -> Option<Request> {
        let (sim, top) = (sim(), &self.top);
        let rng = &sim.rng;
        let mut request = Request {
            client: self,
            op: sim.weights.op(rng),
            lba: 0,
            nblocks: 0,
            id: 0,
            durable: false,
            tag: 0,
            expect: Expect::Success,
            sequence: sim.next_sequence(),
            memory: RefCell::default(),
            ended: Cell::new(false),
        };
        if top.ops & (1 << request.op) == 0 {
            return None;
        }
        match request.op {
            BAY_OP_FLUSH | BAY_OP_RESET => return Some(request),
            BAY_OP_ABORT => {
                let in_flight = self.in_flight.borrow();
                let target = in_flight.get(rng.index(in_flight.len()))?;
                request.tag = target.id;
                request.expect = Expect::AbortOrNot;
                sim.aborts.set(true);
                return Some(request);
            }
            _ => {}
        }
        let size = top.model.len();
        let most = if rng.chance(90) { 8 } else { 64 };
        let unit = u64::from(top.write_unit);
        let how = match request.op {
            BAY_OP_READ | BAY_OP_COMPARE => Use::Read,
            _ => Use::Write,
        };
        request.nblocks = rng.within(1, most.min(size));
        request.lba = rng.below(size - request.nblocks + 1);
        if how == Use::Write && unit > 1 {
            request.lba -= request.lba % unit;
            request.nblocks = request.nblocks.next_multiple_of(unit).min(size - request.lba);
            if !request.nblocks.is_multiple_of(unit) {
                return None;
            }
        }
        if !top.model.is_free(request.lba, request.nblocks, how) {
            return None;
        }
        if rng.below(1000) < sim.weights.wrong {
            request.expect = Expect::Invalid;
        }
        request.durable = request.op != BAY_OP_READ && rng.chance(sim.weights.durable);
        self.prepare(&mut request)?;
        if request.expect != Expect::Invalid {
            top.model.begin(request.lba, request.nblocks, how, request.sequence);
        }
        Some(request)
    }

    /// Prepares the memory and its contents.
    fn prepare(&self, request: &mut Request) -> Option<()> {
        let (sim, top) = (sim(), &self.top);
        let block = top.block_size as usize;
        if matches!(request.op, BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES) {
            return Some(());
        }
        let mut scratch = sim.scratch.borrow_mut();
        scratch.clear();
        scratch.resize(request.nblocks as usize * block, 0);
        match request.op {
            BAY_OP_WRITE => {
                request.tag = sim.next_tags(request.nblocks);
                for (index, bytes) in scratch.chunks_exact_mut(block).enumerate() {
                    fill(bytes, request.tag + index as u64);
                }
            }
            BAY_OP_COMPARE => {
                let tags = top.model.known(request.lba, request.nblocks)?;
                for (tag, bytes) in tags.into_iter().zip(scratch.chunks_exact_mut(block)) {
                    fill(bytes, tag);
                }
                if sim.rng.chance(30) {
                    let place = sim.rng.index(scratch.len());
                    scratch[place] ^= 1;
                    request.expect = Expect::Miscompare(place as u64);
                }
            }
            _ => {}
        }
        let mut memory = Memory::take();
        memory.shape(scratch.len(), block);
        memory.guard();
        if request.op != BAY_OP_READ {
            memory.scatter(&scratch);
        }
        *request.memory.get_mut() = Some(memory);
        Some(())
    }

    fn ended(&self, request: &Request, io: &bay_io, status: i32) {
        let (sim, top) = (sim(), &self.top);
        let Request { op, lba, nblocks, tag, sequence, .. } = *request;
        assert_eq!(self.thread, thread::current_id(), "completed on another thread");
        assert!(!request.ended.replace(true), "completed twice");
        sim.note(&[u64::from(op), lba, nblocks, u64::from(status.unsigned_abs())]);
        self.check_status(request, io, status);
        let good = |outcome: Result<(), String>| {
            if let Err(why) = outcome {
                panic!("{}: op {op} at {lba}+{nblocks}: {why}", top.name);
            }
        };
        if request.expect != Expect::Invalid {
            let now = sim.next_sequence();
            match op {
                BAY_OP_READ | BAY_OP_COMPARE => top.model.read_completed(lba, nblocks),
                BAY_OP_WRITE => {
                    let tag = |index| tag + index;
                    top.model.write_completed(lba, nblocks, tag, status == 0, now);
                }
                BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES => {
                    top.model.write_completed(lba, nblocks, |_| 0, status == 0, now);
                }
                _ => {}
            }
            if status == 0 && op == BAY_OP_READ {
                let mut scratch = sim.scratch.borrow_mut();
                request.memory.borrow().as_ref().unwrap().gather(&mut scratch);
                good(top.model.check_read(lba, &scratch));
            }
            if status == 0 && request.durable && op != BAY_OP_COMPARE {
                good(top.model.check_stable(lba, nblocks, now, |lba, b| top.stable(lba, b)));
            }
            if status == 0 && op == BAY_OP_FLUSH {
                let all = top.model.len();
                good(top.model.check_stable(0, all, sequence, |lba, b| top.stable(lba, b)));
            }
        }
        if let Some(memory) = request.memory.borrow().as_ref() {
            assert!(memory.is_guarded(), "memory outside of the list was written");
        }
    }

    fn check_status(&self, request: &Request, io: &bay_io, status: i32) {
        let (sim, top) = (sim(), &self.top);
        let name = &top.name;
        let allowed = match (status, request.expect) {
            (0, Expect::Success | Expect::AbortOrNot) => true,
            (BAY_ST_MISCOMPARE, Expect::Miscompare(place)) => {
                assert!(io.detail_kind == BAY_DETAIL_OFFSET && io.detail == place);
                true
            }
            (errno, expect) => match -errno {
                libc::EINVAL => expect == Expect::Invalid,
                libc::ENOENT => expect == Expect::AbortOrNot,
                libc::ENODEV => top.removed.get() || sim.removing.get(),
                libc::EIO => top.errors && expect != Expect::Invalid,
                libc::ENOMEM => top.chan_fails,
                _ => errno == BAY_ST_ABORTED && sim.aborts.get(),
            },
        };
        assert!(
            allowed,
            "{name}: op {} at {}+{} ended with {status}, expected {:?}",
            request.op, request.lba, request.nblocks, request.expect
        );
        if status == -libc::ENOMEM || (status != 0 && sim.rng.chance(2)) {
            self.leaves.set(true); // the channel could not be created, another may succeed
        }
    }

    /// The client's state, for the message when the simulation is stuck.
    pub(crate) fn state(&self) -> String {
        let in_flight: Vec<String> = (self.in_flight.borrow().iter())
            .map(|request| format!("op {} at {}+{}", request.op, request.lba, request.nblocks))
            .collect();
        format!(
            "{} in flight on {}: {in_flight:?}, waits: {}",
            in_flight.len(),
            self.top.name,
            self.waits.get()
        )
    }
}

unsafe extern "C" fn ended(arg: *mut c_void, io: *mut bay_io, status: i32) {
    // SAFETY: `arg` is the request from `submit_one`. `in_flight` keeps it until it completes, then the
    // simulation keeps it until the life's end, so it is alive even if the host completes it twice.
    let request = unsafe { &*arg.cast::<Request>() };
    // SAFETY: the simulation keeps the client until all its requests have completed.
    let client = unsafe { &*request.client };
    client.ended(request, &fields(io), status);
    let is_it = |other: &Rc<Request>| ptr::eq(Rc::as_ptr(other), request);
    let place = client.in_flight.borrow().iter().position(is_it).unwrap();
    let request = client.in_flight.borrow_mut().swap_remove(place);
    let memory = request.memory.take();
    sim().completed(request, memory);
    if sim().rng.chance(30)
        && !client.leaves.get()
        && !client.waits.get()
        && !client.top.removed.get()
    {
        client.submit_one(); // from inside the callback
    }
    if sim().rng.chance(5) && !client.leaves.get() && client.chan.get() != 0 {
        client.end_burst(); // also from inside the callback
    }
}

unsafe extern "C" fn io_available(arg: *mut c_void) {
    // SAFETY: `Client::new` set `arg` to the client. The simulation keeps the client while it waits.
    let client = unsafe { &*arg.cast::<Client>() };
    assert_eq!(client.thread, thread::current_id(), "woken on another thread");
    assert!(client.waits.replace(false), "woken twice");
    if !client.leaves.get() {
        client.submit_one();
    }
}
