//! A running device: its rings on one lightweight thread, and the service behind them.
//!
//! A round of the poller hands back the requests that have ended, takes new ones, and rings the doorbells of bdevs.
//! Completions first go into a list, so the device checks once per burst whether the driver wants a call.

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

/// Maximum number of requests that one ring takes in a round, so that no guest holds the thread.
const BURST: usize = 64;
/// The event "readable" of poll(2).
const POLLIN: u32 = 1;

/// A ring to start.
#[derive(Debug)]
pub struct Ring {
    /// Its number.
    pub index: usize,
    /// The rings in the guest's memory.
    pub queue: Queue,
    /// Readable when the driver has added requests. `None`: the device polls the ring.
    pub kick: Option<OwnedFd>,
    /// The device writes it when it has handed back requests. `None`: the driver polls.
    pub call: Option<OwnedFd>,
    /// Whether writes must be durable when they end.
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
    /// Requests in flight, for `vhost_get_controllers`.
    in_flight: Arc<AtomicU32>,
}

/// Serves the requests of a device.
#[derive(Debug)]
pub enum Service {
    /// One disk.
    Blk(blk::Service),
    /// SCSI targets.
    Scsi(Rc<scsi::Service>),
}

/// A running ring.
struct Running {
    index: usize,
    state: RefCell<State>,
    /// Requests that have ended, to be handed back.
    ended: RefCell<Vec<Taken>>,
    in_flight: Cell<usize>,
    writes_through: bool,
    kick: Option<OwnedFd>,
    /// Set while the ring stops and takes no more requests. It is called when nothing is in flight any more.
    stopping: RefCell<Option<Stopped>>,
    is_broken: Cell<bool>,
}

/// Called when a ring has stopped, with the base at which the next device begins.
type Stopped = Box<dyn FnOnce(u32) + Send>;

struct State {
    queue: Queue,
    call: Option<OwnedFd>,
    pace: Pace,
    /// Requests to reuse.
    #[expect(clippy::vec_box, reason = "the bus holds the address of a request")]
    free: Vec<Box<Request<Owner>>>,
}

/// The ring of a request, and its result.
#[derive(Default)]
pub struct Owner {
    ring: Option<Rc<Running>>,
    /// Bytes that the device has written to it.
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
    /// Creates a device without rings on this thread. It stores the number of requests in flight in `in_flight`.
    #[must_use]
    pub fn new(service: Service, coalescing: Coalescing, in_flight: Arc<AtomicU32>) -> Self {
        let coalescing = Cell::new(coalescing);
        let inner = Rc::new(Inner { rings: RefCell::default(), service, coalescing, in_flight });
        let poller = Poller::register("vhost", 0, Round(Rc::clone(&inner)));
        let poller = poller.inspect_err(|error| tracing::error!("vhost: no poller: {error}")).ok();
        Self { inner, poller }
    }

    /// The service of the device.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.inner.service
    }

    /// Changes how calls of drivers are delayed.
    pub fn set_coalescing(&self, coalescing: Coalescing) {
        self.inner.coalescing.set(coalescing);
        for ring in self.inner.rings.borrow().iter() {
            ring.state.borrow_mut().pace.set(coalescing);
        }
    }

    /// Starts a ring.
    pub fn start(&self, ring: Ring) {
        let Ring { index, queue, kick, call, writes_through } = ring;
        if let (Some(kick), Some(poller)) = (&kick, &self.poller)
            && let Err(error) = poller.wake_fd(kick.as_raw_fd(), POLLIN)
        {
            tracing::warn!("ring {index} is served only while the thread is awake: {error}");
        }
        // Call the driver once: it may have missed a call of the last device, or of this ring before it stopped.
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

    /// Stops a ring. It takes no more requests, and calls `stopped` when it has handed back the last one.
    pub fn stop(&self, index: usize, stopped: Stopped) {
        let ring = self.inner.rings.borrow().iter().find(|ring| ring.index == index).cloned();
        let Some(ring) = ring else { return stopped(0) };
        self.forget_kick(&ring);
        *ring.stopping.borrow_mut() = Some(stopped);
    }

    /// Removes the kick of a ring from the poller, before it is closed.
    fn forget_kick(&self, ring: &Running) {
        if let (Some(kick), Some(poller)) = (&ring.kick, &self.poller) {
            let _ = poller.wake_fd(kick.as_raw_fd(), 0); // an error means that it was not added
        }
    }

    /// Replaces the descriptor with which the ring calls the driver.
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

    /// Whether the service takes requests of a ring now.
    fn wants(&self, ring: usize) -> bool {
        match self {
            Self::Blk(_) => true,
            Self::Scsi(scsi) => scsi.wants(ring),
        }
    }

    /// Continues requests that waited for I/O. Returns whether there was something to do.
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

    /// When a time limit ends, on the host's clock in nanoseconds; `u64::MAX` when there is none.
    fn next_ns(&self) -> u64 {
        match self {
            Self::Blk(_) => u64::MAX,
            Self::Scsi(scsi) => scsi.next_ns(),
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
        // Iterate by index, because the rings after an ended ring move up.
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
        let calls = rings.iter().map(|ring| ring.state.borrow().pace.next_ns());
        calls.min().unwrap_or(u64::MAX).min(self.0.service.next_ns())
    }

    fn prepare_sleep(&mut self) -> bool {
        let service = &self.0.service;
        let mut has_work = service.has_work();
        for ring in self.0.rings.borrow().iter() {
            ring.drain_kick();
            has_work |= !ring.ended.borrow().is_empty() || ring.can_end(service);
            // Without a kick, the device polls the ring.
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
    /// Stores how many requests are in flight.
    fn count(&self) {
        let rings = self.rings.borrow();
        let count: usize = rings.iter().map(|ring| ring.in_flight.get()).sum();
        self.in_flight.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    fn ring_at(&self, place: usize) -> Option<Rc<Running>> {
        self.rings.borrow().get(place).cloned()
    }

    /// Removes a ring that stops and has nothing in flight. Returns whether it did.
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

    /// Whether the ring takes requests. It always takes the requests that the last device left unfinished, because the next device would
    /// not find them.
    fn takes(&self, service: &Service) -> bool {
        let is_open = self.stopping.borrow().is_none() && service.wants(self.index);
        !self.is_broken.get() && (is_open || self.state.borrow().queue.is_resuming())
    }

    /// Takes new requests and submits them. Returns whether there were any.
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

    /// Takes the next request of the driver.
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

    /// Hands back the requests that have ended, and calls the driver if it wants a call. Returns whether there were any.
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

    /// Makes a delayed call when it is due.
    #[inline]
    fn call_if_due(&self) {
        let mut state = self.state.borrow_mut();
        if state.pace.is_due(thread::now_ns) {
            notify(state.call.as_ref());
        }
    }

    /// Empties the kick. The value does not matter, because every round checks the rings.
    fn drain_kick(&self) {
        if let Some(kick) = &self.kick {
            let _ = rustix::io::read(kick.as_fd(), &mut [0_u8; 8]);
        }
    }
}

/// Calls the driver.
fn notify(call: Option<&OwnedFd>) {
    let Some(call) = call else { return };
    // A write to a full counter fails, but the counter wakes the driver anyway.
    #[expect(clippy::host_endian_bytes, reason = "an eventfd uses the byte order of this machine")]
    let one = 1_u64.to_ne_bytes();
    let _ = rustix::io::write(call, &one);
}

/// Completes a request, to which the device has written `written` bytes. The next round hands it back.
pub fn finish(mut request: Taken, written: u64) {
    request.state.written = written;
    if let Some(ring) = request.state.ring.clone() {
        ring.ended.borrow_mut().push(request);
    }
}
