//! A device that runs: its rings on one lightweight thread, and the service behind them.
//!
//! A round of the poller: hand back what has ended, take new requests, ring the doorbells of bdevs. Completions are gathered
//! in a list first, so one look at the driver's wish and one call serve a whole burst.

use crate::pace::{Coalescing, Pace};
use crate::{blk, scsi};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::{thread, tracing};
use drivebay_virtio::{Queue, Request};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Requests that one ring takes in a round, so that no guest holds the thread.
const BURST: usize = 64;
/// Readable, as poll(2) says it.
const POLLIN: u32 = 1;

/// A ring that is about to run.
#[derive(Debug)]
pub struct Ring {
    /// Its number.
    pub index: usize,
    /// The rings in the guest's memory.
    pub queue: Queue,
    /// Readable when the driver has added requests; `None` = it is polled.
    pub kick: Option<OwnedFd>,
    /// Written when requests were handed back; `None` = the driver polls.
    pub call: Option<OwnedFd>,
    /// Writes are durable when they end.
    pub writes_through: bool,
}

/// A device on its thread.
pub struct Device {
    inner: Rc<Inner>,
    poller: Option<Poller>,
}

struct Inner {
    rings: RefCell<Vec<Rc<Running>>>,
    service: Service,
    coalescing: Cell<Coalescing>,
    /// Requests in flight, for lists.
    in_flight: Arc<AtomicU32>,
}

/// What serves the requests.
#[derive(Debug)]
pub enum Service {
    /// One disk.
    Blk(blk::Service),
    /// SCSI targets.
    Scsi(Rc<scsi::Service>),
}

/// A ring that runs.
struct Running {
    index: usize,
    state: RefCell<State>,
    /// Requests that have ended and were not handed back yet.
    ended: RefCell<Vec<Taken>>,
    in_flight: Cell<usize>,
    writes_through: bool,
    kick: Option<OwnedFd>,
    /// Told the base when nothing is in flight any more; it takes no requests from then on.
    stopping: RefCell<Option<Stopped>>,
    is_broken: Cell<bool>,
}

/// What is called when a ring has stopped: where the next device begins.
type Stopped = Box<dyn FnOnce(u32) + Send>;

struct State {
    queue: Queue,
    call: Option<OwnedFd>,
    pace: Pace,
    /// Requests to be used again.
    #[expect(clippy::vec_box, reason = "a request is lent to the bus by its address")]
    free: Vec<Box<Request<Owner>>>,
}

/// Whose a request is, and how it ended.
#[derive(Default)]
pub struct Owner {
    ring: Option<Rc<Running>>,
    /// Bytes that were written to it.
    pub written: u64,
}

/// A request of the driver.
pub type Taken = Box<Request<Owner>>;

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").field("written", &self.written).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("rings", &self.inner.rings.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Device {
    /// A device without rings, on this thread. It keeps `in_flight` at the number of requests in flight.
    #[must_use]
    pub fn new(service: Service, coalescing: Coalescing, in_flight: Arc<AtomicU32>) -> Self {
        let coalescing = Cell::new(coalescing);
        let inner = Rc::new(Inner { rings: RefCell::default(), service, coalescing, in_flight });
        let poller = Poller::register("vhost", 0, Round(Rc::clone(&inner)));
        let poller = poller.inspect_err(|error| tracing::error!("vhost: no poller: {error}")).ok();
        Self { inner, poller }
    }

    /// What serves the requests.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.inner.service
    }

    /// Calls drivers as `coalescing` says from now on.
    pub fn set_coalescing(&self, coalescing: Coalescing) {
        self.inner.coalescing.set(coalescing);
        for ring in self.inner.rings.borrow().iter() {
            ring.state.borrow_mut().pace.set(coalescing);
        }
    }

    /// Runs a ring.
    pub fn start(&self, ring: Ring) {
        let Ring { index, queue, kick, call, writes_through } = ring;
        if let (Some(kick), Some(poller)) = (&kick, &self.poller)
            && let Err(error) = poller.wake_fd(kick.as_raw_fd(), POLLIN)
        {
            tracing::warn!("ring {index} is served only while the thread is awake: {error}");
        }
        // The driver may have missed the last device's call, or that of a ring which stopped meanwhile.
        notify(call.as_ref());
        let mut pace = Pace::default();
        pace.set(self.inner.coalescing.get());
        let running = Running {
            index,
            state: RefCell::new(State { queue, call, pace, free: Vec::new() }),
            ended: RefCell::default(),
            in_flight: Cell::new(0),
            writes_through,
            kick,
            stopping: RefCell::new(None),
            is_broken: Cell::new(false),
        };
        self.inner.rings.borrow_mut().push(Rc::new(running));
    }

    /// Stops a ring: no more requests are taken, and `stopped` is called when the last one has been handed back.
    pub fn stop(&self, index: usize, stopped: Stopped) {
        let ring = self.inner.rings.borrow().iter().find(|ring| ring.index == index).cloned();
        let Some(ring) = ring else { return stopped(0) };
        self.forget_kick(&ring);
        *ring.stopping.borrow_mut() = Some(stopped);
    }

    /// The kick of a ring leaves the poller before it is closed.
    fn forget_kick(&self, ring: &Running) {
        if let (Some(kick), Some(poller)) = (&ring.kick, &self.poller) {
            let _ = poller.wake_fd(kick.as_raw_fd(), 0); // it was not added if that fails
        }
    }

    /// Calls another descriptor from now on.
    pub fn set_call(&self, index: usize, call: Option<OwnedFd>) {
        if let Some(ring) = self.inner.rings.borrow().iter().find(|ring| ring.index == index) {
            ring.state.borrow_mut().call = call;
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for ring in self.inner.rings.borrow().iter() {
            self.forget_kick(ring);
        }
    }
}

impl Service {
    /// Serves a request of a ring.
    fn submit(&self, ring: usize, request: Taken, writes_through: bool) {
        match self {
            Self::Blk(disk) => disk.submit(request, writes_through),
            Self::Scsi(scsi) => scsi.submit(ring, request),
        }
    }

    /// Whether requests of a ring are taken now.
    fn wants(&self, ring: usize) -> bool {
        match self {
            Self::Blk(_) => true,
            Self::Scsi(scsi) => scsi.wants(ring),
        }
    }

    /// Continues what waited for I/O. Returns whether there was something to do.
    fn progress(&self) -> bool {
        match self {
            Self::Blk(_) => false,
            Self::Scsi(scsi) => scsi.progress(),
        }
    }

    /// Whether [`progress`](Self::progress) has something to do.
    fn has_work(&self) -> bool {
        match self {
            Self::Blk(_) => false,
            Self::Scsi(scsi) => scsi.has_work(),
        }
    }

    /// Rings the doorbells of the bdevs.
    fn flush(&self) {
        match self {
            Self::Blk(disk) => disk.flush(),
            Self::Scsi(scsi) => scsi.flush(),
        }
    }
}

struct Round(Rc<Inner>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let mut did = self.0.service.progress();
        let mut place = 0;
        // By place: a ring that ends leaves the list, and its successor moves up.
        while let Some(ring) = self.0.ring_at(place) {
            did |= ring.hand_back();
            did |= ring.take(&self.0);
            did |= ring.hand_back();
            ring.call_if_due();
            let has_ended = self.0.end_if_stopped(&ring);
            did |= has_ended;
            place += usize::from(!has_ended);
        }
        if did {
            self.0.service.flush();
            self.0.count();
        }
        did
    }

    fn next_ns(&mut self) -> u64 {
        let rings = self.0.rings.borrow();
        rings.iter().map(|ring| ring.state.borrow().pace.next_ns()).min().unwrap_or(u64::MAX)
    }

    fn prepare_sleep(&mut self) -> bool {
        let service = &self.0.service;
        let mut has_work = service.has_work();
        for ring in self.0.rings.borrow().iter() {
            ring.drain_kick();
            has_work |= !ring.ended.borrow().is_empty() || ring.can_end(service);
            // A driver that never kicks is polled.
            has_work |= ring.kick.is_none();
            if ring.takes(service) {
                has_work |= ring.state.borrow_mut().queue.arm();
            }
        }
        has_work
    }

    fn woke(&mut self) {
        for ring in self.0.rings.borrow().iter() {
            ring.state.borrow_mut().queue.disarm();
        }
    }
}

impl Inner {
    /// Tells how many requests are in flight.
    fn count(&self) {
        let rings = self.rings.borrow();
        let count: usize = rings.iter().map(|ring| ring.in_flight.get()).sum();
        self.in_flight.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    fn ring_at(&self, place: usize) -> Option<Rc<Running>> {
        self.rings.borrow().get(place).cloned()
    }

    /// Takes a ring out that is to stop and has nothing in flight.
    fn end_if_stopped(&self, ring: &Rc<Running>) -> bool {
        if !ring.can_end(&self.service) {
            return false;
        }
        let Some(stopped) = ring.stopping.borrow_mut().take() else { return false };
        self.rings.borrow_mut().retain(|other| !Rc::ptr_eq(other, ring));
        let mut state = ring.state.borrow_mut();
        state.free.clear();
        if state.pace.end() {
            notify(state.call.as_ref());
        }
        drop(state);
        if let Service::Scsi(scsi) = &self.service {
            scsi.rest();
        }
        let base = ring.state.borrow().queue.base();
        stopped(base);
        true
    }
}

impl Running {
    fn can_end(&self, service: &Service) -> bool {
        self.stopping.borrow().is_some()
            && !self.takes(service)
            && self.in_flight.get() == 0
            && self.ended.borrow().is_empty()
    }

    /// Whether it takes requests. It takes those that the last device left in any case: the next device would not find them.
    fn takes(&self, service: &Service) -> bool {
        let is_open = self.stopping.borrow().is_none() && service.wants(self.index);
        !self.is_broken.get() && (is_open || self.state.borrow().queue.is_resuming())
    }

    /// Takes new requests and submits them.
    fn take(self: &Rc<Self>, inner: &Inner) -> bool {
        for taken in 0..BURST {
            if !self.takes(&inner.service) {
                return taken > 0;
            }
            let Some(request) = self.next() else { return taken > 0 };
            inner.service.submit(self.index, request, self.writes_through);
        }
        true
    }

    /// The next request of the driver.
    fn next(self: &Rc<Self>) -> Option<Taken> {
        let mut state = self.state.borrow_mut();
        let State { queue, free, .. } = &mut *state;
        let mut request = free
            .pop()
            .unwrap_or_else(|| Request::new(Arc::clone(queue.memory()), Owner::default()));
        match queue.pop(&mut request.chain) {
            Ok(true) => {
                request.state.ring = Some(Rc::clone(self));
                self.in_flight.set(self.in_flight.get() + 1);
                Some(request)
            }
            Ok(false) => {
                free.push(request);
                None
            }
            Err(broken) => {
                tracing::warn!(
                    "ring {} stops until the guest resets its disk: {broken}",
                    self.index
                );
                self.is_broken.set(true);
                None
            }
        }
    }

    /// Hands what has ended back to the driver, and calls it if it wants to be called.
    fn hand_back(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let State { queue, call, pace, free } = &mut *state;
        let mut ended = self.ended.borrow_mut();
        if ended.is_empty() {
            return false;
        }
        let count = ended.len() as u64;
        for mut request in ended.drain(..) {
            let written = u32::try_from(request.state.written).unwrap_or(u32::MAX);
            queue.push(&request.chain, written);
            request.state.ring = None;
            free.push(request);
            self.in_flight.set(self.in_flight.get() - 1);
        }
        let is_wanted = queue.publish();
        if pace.handed_back(count, is_wanted, thread::now_ns) {
            notify(call.as_ref());
        }
        true
    }

    /// Makes a call that was put off, if its time has come.
    #[inline]
    fn call_if_due(&self) {
        let mut state = self.state.borrow_mut();
        if state.pace.is_due(thread::now_ns) {
            notify(state.call.as_ref());
        }
    }

    /// Takes the kicks that have come: the rings are looked at in every round anyway.
    fn drain_kick(&self) {
        if let Some(kick) = &self.kick {
            let _ = rustix::io::read(kick.as_fd(), &mut [0_u8; 8]);
        }
    }
}

/// Calls the driver.
fn notify(call: Option<&OwnedFd>) {
    let Some(call) = call else { return };
    // A write to a full counter fails, and the counter wakes the driver all the same.
    #[expect(clippy::host_endian_bytes, reason = "an eventfd takes a number of this machine")]
    let one = 1_u64.to_ne_bytes();
    let _ = rustix::io::write(call, &one);
}

/// Adds a request to those that are handed back next. `written` bytes were written to it.
pub fn finish(mut request: Taken, written: u64) {
    request.state.written = written;
    if let Some(ring) = request.state.ring.clone() {
        ring.ended.borrow_mut().push(request);
    }
}
