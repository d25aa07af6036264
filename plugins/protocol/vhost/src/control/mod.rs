//! The sockets: listeners and sessions. One poller of the app thread serves all of them.

mod listener;
mod removal;

use crate::blk;
use crate::controllers;
use crate::device::{Device, Service};
use crate::personality::Personality;
use crate::session::{Answer, Outcome, Session};
use crate::socket::{End, Message, Socket};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::resident::Resident;
use drivebay_sdk::{Error, Result, errno, thread, tracing};
use drivebay_spec_vhost::message::{Request, reply};
use removal::Removal;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Maximum number of sessions of one controller. A VMM has one, and a second one while it connects again.
const SESSIONS_MAX: usize = 8;
/// Maximum number of messages of one session in a round.
const MESSAGES_MAX: usize = 32;
/// Maximum number of sockets that one round serves.
const EVENTS_MAX: usize = 32;
/// The event "readable" of poll(2).
const POLLIN: u32 = 1;

/// All sockets of the plugin.
#[derive(Debug)]
pub struct Control {
    epoll: OwnedFd,
    poller: RefCell<Option<Poller>>,
    entries: RefCell<BTreeMap<u64, Entry>>,
    next_key: Cell<u64>,
    /// Calls to make when a controller has no session left.
    ends: RefCell<Vec<AtEnd>>,
    /// Calls to make when a target has left all sessions, by key.
    removals: RefCell<BTreeMap<u64, Removal>>,
    /// Keys of the listeners that pause, because descriptors or memory have run out.
    resting: RefCell<Vec<u64>>,
    /// The end of their pause, on the host's clock in nanoseconds; `u64::MAX` while none pauses.
    rests_until_ns: Cell<u64>,
    /// Whether the log already reports that descriptors or memory have run out.
    is_exhausted: Cell<bool>,
}

#[derive(Debug)]
enum Entry {
    Listener { controller: String, listener: UnixListener, path: PathBuf },
    Session(Box<Open>),
}

/// A session with its socket.
#[derive(Debug)]
struct Open {
    controller: String,
    socket: Socket,
    session: Session,
    /// Requests in flight.
    in_flight: Arc<AtomicU32>,
    /// A message whose rings are stopping.
    waiting: Option<(Message, Request)>,
    /// Rings that are stopping.
    stopping: usize,
    is_closing: bool,
    /// Whether its messages wait for the I/O of an earlier session of the controller. Its guest may submit the same requests
    /// again, which must not happen before that I/O has ended.
    is_held: bool,
}

/// A session in a list.
#[derive(Clone, Copy, Debug)]
pub struct SessionInfo {
    /// Its number, which no other session of this host has.
    pub key: u64,
    /// Whether a ring runs.
    pub is_started: bool,
    /// Rings that the VMM has set up.
    pub num_rings: usize,
    /// Requests in flight.
    pub in_flight: u32,
}

struct AtEnd {
    controller: String,
    call: Box<dyn FnOnce()>,
}

impl fmt::Debug for AtEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtEnd").field("controller", &self.controller).finish_non_exhaustive()
    }
}

struct Round(std::rc::Weak<Control>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        self.0.upgrade().is_some_and(|control| control.round())
    }

    // The epoll is level-triggered, so an event that is already there ends the sleep at once.
    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn next_ns(&mut self) -> u64 {
        self.0.upgrade().map_or(u64::MAX, |control| control.rests_until_ns.get())
    }
}

impl Control {
    /// Creates the poller, without sockets. `[app thread]`
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub fn start() -> Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let fd = epoll.as_raw_fd();
        let control = Rc::new(Self {
            epoll,
            poller: RefCell::new(None),
            entries: RefCell::default(),
            next_key: Cell::new(0),
            ends: RefCell::default(),
            removals: RefCell::default(),
            resting: RefCell::default(),
            rests_until_ns: Cell::new(u64::MAX),
            is_exhausted: Cell::new(false),
        });
        let poller = Poller::register("vhost-control", 0, Round(Rc::downgrade(&control)))?;
        poller.wake_fd(fd, POLLIN)?;
        *control.poller.borrow_mut() = Some(poller);
        Ok(control)
    }

    /// Ends the sessions of a controller, then calls `done`.
    pub fn end_sessions(&self, controller: &str, done: impl FnOnce() + 'static) {
        let at_end = AtEnd { controller: controller.to_owned(), call: Box::new(done) };
        self.ends.borrow_mut().push(at_end);
        for key in self.sessions_of(controller) {
            self.close(key);
        }
        self.call_ends();
    }

    /// Reports the new size of a bdev to the sessions of its block device.
    pub fn resized(&self, controller: &str, disk: &blk::Disk) {
        for key in self.sessions_of(controller) {
            if let Some(Entry::Session(open)) = self.entries.borrow_mut().get_mut(&key) {
                open.session.changed(Personality::Blk(disk.clone()));
            }
        }
        let disk = disk.clone();
        self.for_each_device(controller, move |device| {
            if let Service::Blk(service) = device.service() {
                service.resized(disk.clone());
            }
        });
    }

    /// Calls `call` for the device of each session of a controller, on the device's thread.
    pub fn for_each_device(
        &self,
        controller: &str,
        call: impl Fn(&Device) + Clone + Send + 'static,
    ) {
        for key in self.sessions_of(controller) {
            if let Some(Entry::Session(open)) = self.entries.borrow().get(&key) {
                let call = call.clone();
                open.session.device().send(move |device| call(device));
            }
        }
    }

    /// The number of sessions of all controllers.
    pub fn num_sessions(&self) -> usize {
        self.entries.borrow().values().filter(|entry| matches!(entry, Entry::Session(_))).count()
    }

    /// The sessions of a controller, for lists.
    pub fn list_sessions(&self, controller: &str) -> Vec<SessionInfo> {
        let entries = self.entries.borrow();
        let sessions = entries.iter().filter_map(|(&key, entry)| match entry {
            Entry::Session(open) if open.controller == controller => Some((key, &**open)),
            _ => None,
        });
        let info = |(key, open): (u64, &Open)| SessionInfo {
            key,
            is_started: !open.session.running().is_empty(),
            num_rings: open.session.num_rings(),
            in_flight: open.in_flight.load(Ordering::Relaxed),
        };
        sessions.map(info).collect()
    }

    /// Whether a controller has sessions, including those that only wait for their I/O.
    pub fn has_sessions(&self, controller: &str) -> bool {
        !self.sessions_of(controller).is_empty()
    }

    /// Whether a session of a controller waits for its I/O, because the session or some of its rings end.
    fn waits_for_io(&self, name: &str) -> bool {
        self.entries.borrow().values().any(|entry| match entry {
            Entry::Session(open) => {
                open.controller == name && (open.is_closing || open.stopping > 0)
            }
            Entry::Listener { .. } => false,
        })
    }

    fn sessions_of(&self, name: &str) -> Vec<u64> {
        let entries = self.entries.borrow();
        let of = |entry: &Entry| matches!(entry, Entry::Session(open) if open.controller == name);
        entries.iter().filter(|(_, entry)| of(entry)).map(|(&key, _)| key).collect()
    }

    fn round(&self) -> bool {
        let has_woken = self.end_rest();
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&timeout)) else {
            return has_woken;
        };
        let keys: Vec<u64> = ready.iter().map(|event| event.data.u64()).collect();
        for &key in &keys {
            self.serve(key);
        }
        has_woken || !keys.is_empty()
    }

    fn serve(&self, key: u64) {
        let is_session = matches!(self.entries.borrow().get(&key), Some(Entry::Session(_)));
        if is_session {
            self.converse(key);
        } else if let Some((controller, stream)) = self.accept(key)
            && let Err(error) = self.begin(&controller, stream)
        {
            tracing::warn!("vhost controller {controller}: a VMM is refused: {error}");
        }
    }

    /// Begins a session.
    fn begin(&self, name: &str, stream: UnixStream) -> Result<()> {
        // A VMM that comes back has closed its earlier connection, which may not have been read yet.
        for key in self.sessions_of(name) {
            self.converse(key);
        }
        if self.sessions_of(name).len() == SESSIONS_MAX {
            return Err(Error::new(errno::EBUSY, format!("it has {SESSIONS_MAX} sessions")));
        }
        let controller = controllers::all()?.get(name)?;
        let (personality, service) = (controller.personality()?, controller.service()?);
        let socket = Socket::new(stream)?;
        let key = self.key();
        let is_held = self.waits_for_io(name);
        if !is_held {
            self.watch(&socket, key)?;
        }
        let device_thread = thread::create(&format!("vhost.{name}"), &controller.config.cpumask)?;
        let coalescing = controller.config.coalescing;
        let in_flight = Arc::new(AtomicU32::new(0));
        let of_device = Arc::clone(&in_flight);
        let device =
            Resident::new(device_thread, move || Device::new(service(), coalescing, of_device))?;
        tracing::info!("vhost controller {name}: a VMM has connected");
        let open = Open {
            controller: name.to_owned(),
            socket,
            session: Session::new(personality, device),
            in_flight,
            waiting: None,
            stopping: 0,
            is_closing: false,
            is_held,
        };
        self.entries.borrow_mut().insert(key, Entry::Session(Box::new(open)));
        Ok(())
    }

    /// Handles the messages of a session.
    fn converse(&self, key: u64) {
        for _ in 0..MESSAGES_MAX {
            let mut entries = self.entries.borrow_mut();
            let Some(Entry::Session(open)) = entries.get_mut(&key) else { return };
            if open.is_closing || open.is_held || open.stopping > 0 {
                return;
            }
            let result = open.next();
            match result {
                Ok(Next::Nothing) => return,
                Ok(Next::Taken) => {}
                Ok(Next::Stop(rings)) => {
                    self.stop_rings(key, open, &rings);
                    return;
                }
                Err(end) => {
                    let name = open.controller.clone();
                    drop(entries);
                    match end {
                        End::Closed => {
                            tracing::info!("vhost controller {name}: the VMM has closed")
                        }
                        End::Failed(why) => {
                            tracing::warn!("vhost controller {name}: the session ends: {why}");
                        }
                    }
                    self.close(key);
                    return;
                }
            }
        }
    }

    /// Stops rings. Reads no messages of the session until they have stopped.
    fn stop_rings(&self, key: u64, open: &mut Open, rings: &[usize]) {
        open.stopping += rings.len();
        // Remove the socket from the epoll, which would report a closed socket in every round, even without requested events.
        let _ = epoll::delete(&self.epoll, &open.socket);
        for &index in rings {
            open.session.device().send(move |device| {
                device.stop(
                    index,
                    Box::new(move |base| {
                        let tell = move || {
                            if let Ok(all) = controllers::all() {
                                all.control.stopped(key, index, base);
                            }
                        };
                        if let Err(error) = thread::app().send(tell) {
                            tracing::error!("the app thread is gone: {error}");
                        }
                    }),
                );
            });
        }
    }

    /// A ring has stopped.
    fn stopped(&self, key: u64, index: usize, base: u32) {
        let mut entries = self.entries.borrow_mut();
        let Some(Entry::Session(open)) = entries.get_mut(&key) else { return };
        open.session.stopped(index, base);
        open.stopping -= 1;
        if open.stopping > 0 {
            return;
        }
        if open.is_closing {
            // The session ended while a message was stopping only some of its rings.
            let rest = open.session.running();
            if rest.is_empty() {
                drop(entries);
                return self.gone(key);
            }
            return self.stop_rings(key, open, &rest);
        }
        let name = open.controller.clone();
        let watched = self.watch(&open.socket, key);
        let Some((mut message, request)) = open.waiting.take() else { return };
        let finished = watched
            .map_err(|error| End::Failed(error.to_string()))
            .and_then(|()| open.session.finish(&request, &mut message.fds))
            .and_then(|answer| open.answer(&message, answer));
        drop(entries);
        if let Err(end) = finished {
            tracing::warn!("vhost controller {name}: the session ends: {end}");
            self.close(key);
        }
        self.release(&name);
    }

    /// Ends a session. Stops its rings first.
    fn close(&self, key: u64) {
        let mut entries = self.entries.borrow_mut();
        let Some(Entry::Session(open)) = entries.get_mut(&key) else { return };
        if std::mem::replace(&mut open.is_closing, true) {
            return;
        }
        open.waiting = None;
        let _ = epoll::delete(&self.epoll, &open.socket);
        // Rings that are already stopping call `stopped`.
        let rings = if open.stopping == 0 { open.session.running() } else { Vec::new() };
        if rings.is_empty() && open.stopping == 0 {
            drop(entries);
            return self.gone(key);
        }
        self.stop_rings(key, open, &rings);
    }

    /// Drops a session without running rings, with its device and its memory.
    fn gone(&self, key: u64) {
        let Some(Entry::Session(open)) = self.entries.borrow_mut().remove(&key) else { return };
        let name = open.controller.clone();
        let still_running = open.session.running();
        debug_assert!(still_running.is_empty(), "{still_running:?}");
        open.session.device().end(|| {
            if let Some(Err(error)) = thread::current().map(thread::Thread::exit) {
                tracing::error!("a thread of vhost does not end: {error}");
            }
        });
        drop(open);
        self.release(&name);
        self.call_ends();
    }

    /// Serves the sessions that waited for the end of an earlier one.
    fn release(&self, name: &str) {
        if self.waits_for_io(name) {
            return;
        }
        for key in self.sessions_of(name) {
            let watched = match self.entries.borrow_mut().get_mut(&key) {
                Some(Entry::Session(open)) if open.is_held => {
                    open.is_held = false;
                    self.watch(&open.socket, key)
                }
                _ => Ok(()),
            };
            if let Err(error) = watched {
                tracing::warn!("vhost controller {name}: the session ends: {error}");
                self.close(key);
            }
        }
    }

    /// Makes the calls that wait for the end of a controller's sessions, if it has none left.
    fn call_ends(&self) {
        let all = std::mem::take(&mut *self.ends.borrow_mut());
        let (ended, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|end| self.sessions_of(&end.controller).is_empty());
        self.ends.borrow_mut().extend(others);
        for end in ended {
            (end.call)();
        }
    }

    fn key(&self) -> u64 {
        self.next_key.replace(self.next_key.get() + 1)
    }

    fn watch(&self, socket: &impl AsFd, key: u64) -> Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(key), EventFlags::IN)
            .map_err(std::io::Error::from)?;
        Ok(())
    }
}

/// The result of reading a session's socket.
enum Next {
    Nothing,
    Taken,
    Stop(Vec<usize>),
}

impl Open {
    /// Handles one message, if there is one.
    fn next(&mut self) -> Result<Next, End> {
        let Some(mut message) = self.socket.receive()? else { return Ok(Next::Nothing) };
        match self.session.begin(&mut message)? {
            (_, Outcome::Done(answer)) => {
                self.answer(&message, answer)?;
                Ok(Next::Taken)
            }
            (request, Outcome::Stop(rings)) => {
                self.waiting = Some((message, request));
                Ok(Next::Stop(rings))
            }
        }
    }

    /// Answers a message with its payload, or with "done" if the VMM asks for it.
    fn answer(&self, message: &Message, answer: Answer) -> Result<(), End> {
        let done = message.header.needs_reply.then(|| reply::number(0));
        let fd = answer.fd.as_ref().map(AsFd::as_fd);
        match answer.payload.or(done) {
            Some(payload) => self.socket.answer(message.header.request, &payload, fd),
            None => Ok(()),
        }
    }
}
