//! The targets of one thread: their nodes, the sockets of their sessions, and one epoll.
//!
//! A target lives on one thread, and so do all connections of its sessions. Each round polls the epoll descriptor once, handles what
//! the sockets
//! received, and sends what is ready. The thread sleeps when there is nothing to do.

pub mod bdevs;
pub mod socket;

use crate::app;
use crate::node::histogram::Histogram;
use crate::node::{Established, Node, SessionId};
use bdevs::Bdevs;
use drivebay_reservation::Table;
use drivebay_scsi::{Device, Disk, Identity, Port, Settled, TaskKey};
use drivebay_sdk::bdev::Desc;
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::{Result, thread};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket::Socket;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// `POLLIN` of poll(2).
const POLLIN: u32 = 1;
/// Maximum number of events of sockets in one round.
const EVENTS: usize = 64;
/// Time between two checks of pings, deadlines and the space of pools, in nanoseconds.
const TICK_NS: u64 = 500_000_000;
/// Time after which links that lack memory try again, in nanoseconds.
const SHORT_NS: u64 = 1_000_000;

/// A poll group, on its thread.
#[derive(Debug)]
pub struct Group {
    /// Name of its thread.
    name: String,
    state: Rc<RefCell<State>>,
    _poller: Poller,
}

struct State {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    targets: BTreeMap<String, Served>,
    sockets: Vec<Option<Connected>>,
    tick_ns: u64,
    /// There is work that no descriptor announces, so the thread must not sleep.
    is_pending: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("targets", &self.targets).finish_non_exhaustive()
    }
}

/// A target of this thread.
struct Served {
    node: Node<Bdevs>,
    /// Units that wait until the unit before them with the same number has no I/Os any more.
    coming: Vec<Coming>,
    /// Called when nothing is left of the target; `None` while it is served.
    ending: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("node", &self.node).finish_non_exhaustive()
    }
}

struct Coming {
    unit: u16,
    desc: Arc<Desc>,
    keeps: Option<Stored>,
}

#[derive(Debug)]
struct Connected {
    socket: Socket,
    target: String,
    link: u32,
    session: SessionId,
    cid: u16,
}

/// Reservations that a file kept; `None` if it has none.
pub type Stored = Option<Table<Identity>>;

/// A connection, as `iscsi_get_connections` shows it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The target.
    pub target: String,
    /// TSIH of its session.
    pub tsih: u16,
    /// Its number (CID) in the session.
    pub cid: u16,
    /// The initiator's address.
    pub peer: String,
    /// The target's address.
    pub local: String,
    /// Name of its thread.
    pub thread: String,
}

impl Group {
    /// Creates a group on this thread, which has this name.
    ///
    /// # Errors
    /// The system's or the host's refusals.
    pub fn new(name: String) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let fd = epoll.as_raw_fd();
        let state = State {
            epoll,
            events: Vec::with_capacity(EVENTS),
            targets: BTreeMap::new(),
            sockets: Vec::new(),
            tick_ns: 0,
            is_pending: false,
        };
        let state = Rc::new(RefCell::new(state));
        let poller = Poller::register("iscsi", 0, Round(Rc::clone(&state)))?;
        poller.wake_fd(fd, POLLIN)?;
        Ok(Self { name, state, _poller: poller })
    }

    /// Adds a target without units.
    pub fn add_target(&self, name: &str) {
        let mut device = Device::new(name.to_owned());
        device.settle_reservations();
        let node = Node::new(device, Bdevs::default());
        let served = Served { node, coming: Vec::new(), ending: None };
        self.state.borrow_mut().targets.insert(name.to_owned(), served);
    }

    /// Sets a target's ports.
    pub fn set_ports(&self, target: &str, ports: Vec<Port>) {
        self.with(target, |node| node.device_mut().set_ports(ports));
    }

    /// Adds a unit to a target. If an earlier unit with this number still has I/Os, the new one waits for their end. `keeps`: the unit
    /// has a file for its reservations, and these were in it.
    pub fn add_unit(&self, target: &str, unit: u16, desc: Arc<Desc>, keeps: Option<Stored>) {
        if let Some(served) = self.state.borrow_mut().targets.get_mut(target) {
            served.coming.push(Coming { unit, desc, keeps });
            served.add_units(target);
        }
    }

    /// Removes a unit.
    pub fn remove_unit(&self, target: &str, unit: u16) {
        let mut state = self.state.borrow_mut();
        let Some(served) = state.targets.get_mut(target) else { return };
        let before = served.coming.len();
        served.coming.retain(|coming| coming.unit != unit);
        if served.coming.len() == before {
            served.node.remove_unit(unit);
        }
        state.is_pending = true;
    }

    /// Gives a unit another number of blocks.
    pub fn resize_unit(&self, target: &str, unit: u16, blocks: u64) {
        self.with(target, |node| node.device_mut().resize_unit(unit, blocks));
    }

    /// Reports whether a change of a unit's reservations is in force or must be undone.
    pub fn settled(&self, target: &str, unit: u16, key: TaskKey, settled: Settled) {
        self.with(target, |node| node.settled(unit, key, settled));
        self.state.borrow_mut().is_pending = true;
    }

    /// Starts or stops the histogram of a target's latencies.
    pub fn count_latencies(&self, target: &str, is_on: bool) {
        self.with(target, |node| node.count_latencies(is_on));
    }

    /// The histogram of a target's latencies, if it has one.
    pub fn histogram(&self, target: &str) -> Option<Histogram> {
        self.state.borrow().targets.get(target)?.node.histogram().cloned()
    }

    /// Ends the sessions of a target and removes its units. Runs `then` when nothing is left of the target.
    pub fn remove_target(&self, target: &str, then: impl FnOnce() + Send + 'static) {
        if let Some(served) = self.state.borrow_mut().targets.get_mut(target) {
            served.coming.clear();
        }
        self.with(target, |node| {
            let sessions: Vec<_> = node.sessions().map(|session| session.id).collect();
            for session in sessions {
                node.end_session(session);
            }
            for unit in node.device_mut().unit_numbers() {
                node.remove_unit(unit);
            }
        });
        let mut state = self.state.borrow_mut();
        state.is_pending = true;
        match state.targets.get_mut(target) {
            Some(served) => served.ending = Some(Box::new(then)),
            None => then(),
        }
    }

    /// Takes over a connection after its login. The session that it replaces ends first.
    pub fn attach(
        &self,
        target: &str,
        stream: TcpStream,
        new: Established,
        replaced: Option<SessionId>,
    ) {
        let state = &mut *self.state.borrow_mut();
        let (session, cid) = (new.session, new.cid);
        if let (Some(old), Some(served)) = (replaced, state.targets.get_mut(target)) {
            served.node.end_session(old);
        }
        // Close the socket of an ended link first, because the new link may get the same number.
        state.drop_over();
        let key = state.sockets.iter().position(Option::is_none).unwrap_or_else(|| {
            state.sockets.push(None);
            state.sockets.len() - 1
        });
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let watched = epoll::add(&state.epoll, &stream, EventData::new_u64(key as u64), flags);
        let served = state.targets.get_mut(target).filter(|served| served.ending.is_none());
        let (Some(served), Ok(())) = (served, watched) else {
            return app::connection_gone(session, cid);
        };
        let link = served.node.attach(new);
        let socket = Socket::new(stream);
        let target = target.to_owned();
        if let Some(place) = state.sockets.get_mut(key) {
            *place = Some(Connected { socket, target, link, session, cid });
        }
        state.is_pending = true;
    }

    /// Asks the initiators of a target to log out within `seconds`: all, or those that came through a portal group.
    pub fn request_logout(&self, target: &str, portal_group: Option<i32>, seconds: u16) {
        self.with(target, |node| {
            node.request_logout(
                |link| portal_group.is_none_or(|tag| link.portal_group() == tag),
                seconds,
            );
        });
        self.state.borrow_mut().is_pending = true;
    }

    /// The connections of the group.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let state = self.state.borrow();
        let connected = state.sockets.iter().flatten();
        connected
            .map(|one| {
                let text = |address: std::io::Result<std::net::SocketAddr>| {
                    address.map(|address| address.ip().to_canonical().to_string())
                };
                ConnectionInfo {
                    target: one.target.clone(),
                    tsih: one.session,
                    cid: one.cid,
                    peer: text(one.socket.stream().peer_addr()).unwrap_or_default(),
                    local: text(one.socket.stream().local_addr()).unwrap_or_default(),
                    thread: self.name.clone(),
                }
            })
            .collect()
    }

    fn with(&self, target: &str, call: impl FnOnce(&mut Node<Bdevs>)) {
        if let Some(served) = self.state.borrow_mut().targets.get_mut(target) {
            call(&mut served.node);
        }
    }
}

struct Round(Rc<RefCell<State>>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        self.0.borrow_mut().round()
    }

    fn prepare_sleep(&mut self) -> bool {
        let state = self.0.borrow();
        state.is_pending || state.targets.values().any(|served| served.has_ended_ios())
    }

    fn next_ns(&mut self) -> u64 {
        let state = self.0.borrow();
        let is_short = state.targets.values().any(|served| served.node.is_short());
        match (is_short, state.sockets.iter().any(Option::is_some)) {
            (true, _) => thread::now_ns().saturating_add(SHORT_NS),
            (false, true) => state.tick_ns,
            (false, false) => u64::MAX,
        }
    }
}

impl Served {
    fn has_ended_ios(&self) -> bool {
        self.node.backend().has_ended()
    }

    /// Adds the units whose number is free now.
    fn add_units(&mut self, target: &str) {
        for Coming { unit, desc, keeps } in std::mem::take(&mut self.coming) {
            if self.node.is_leaving(unit) {
                self.coming.push(Coming { unit, desc, keeps });
                continue;
            }
            let opened = desc.info().and_then(|info| {
                self.node.backend_mut().open(unit, desc)?;
                Ok(info)
            });
            match opened {
                Ok(info) => {
                    self.node.add_unit(unit, Disk::from(&info));
                    self.node.device_mut().set_space(unit, info.space());
                    if let Some(stored) = keeps {
                        self.node.device_mut().keep_reservations(unit, stored);
                    }
                }
                Err(error) => tracing::error!(target, unit, %error, "the LUN cannot be used"),
            }
        }
    }

    /// Gives each unit the space of its pool as it is now.
    fn look_at_space(&mut self) {
        for (unit, space) in self.node.backend().spaces() {
            self.node.device_mut().set_space(unit, space);
        }
    }

    /// Handles the I/Os that have ended. Returns whether there were some.
    fn take_ended(&mut self) -> bool {
        let mut did = false;
        while let Some((key, buffer, result, unit)) = self.node.backend_mut().next_ended() {
            self.node.ended(key, buffer, result, unit);
            did = true;
        }
        did
    }
}

impl State {
    fn round(&mut self) -> bool {
        self.is_pending = false;
        let mut did = self.look();
        did |= self.receive();
        for (name, served) in &mut self.targets {
            did |= served.take_ended();
            served.node.backend_mut().flush();
            did |= served.take_ended();
            if !served.coming.is_empty() {
                served.add_units(name);
            }
        }
        self.tick();
        self.settle();
        did |= self.send();
        self.end_targets();
        did
    }

    /// Asks the epoll which sockets have changed. Returns whether some have.
    fn look(&mut self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, spare, Some(&now)).is_err() {
            return false;
        }
        for event in &self.events {
            let key = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            if let Some(Some(connected)) = self.sockets.get_mut(key) {
                let flags = event.flags;
                let closed = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                let readable = flags.intersects(EventFlags::IN | closed);
                let writable = flags.intersects(EventFlags::OUT | EventFlags::ERR);
                connected.socket.changed(readable, writable);
            }
        }
        !self.events.is_empty()
    }

    fn receive(&mut self) -> bool {
        let mut did = false;
        for connected in self.sockets.iter_mut().flatten() {
            let Some(served) = self.targets.get_mut(&connected.target) else { continue };
            let Some(link) = served.node.link(connected.link) else { continue };
            if !connected.socket.is_readable() || !link.wants_bytes() {
                continue;
            }
            let Some(inbox) = served.node.inbox(connected.link) else { continue };
            let len = connected.socket.read(inbox);
            if len > 0 {
                served.node.receive(connected.link, len);
                did = true;
            }
            self.is_pending |= connected.socket.is_readable();
        }
        did
    }

    fn send(&mut self) -> bool {
        let mut did = false;
        for connected in self.sockets.iter_mut().flatten() {
            let served = self.targets.get_mut(&connected.target);
            self.is_pending |= served.is_some_and(|served| connected.serve(served, &mut did));
        }
        self.drop_over() | did
    }

    /// Closes broken sockets and those of links that are over. Returns whether there were some.
    fn drop_over(&mut self) -> bool {
        let mut did = false;
        for place in &mut self.sockets {
            let is_over = |connected: &mut Connected| {
                let served = self.targets.get(&connected.target);
                let link = served.and_then(|served| served.node.link(connected.link));
                connected.socket.is_broken() || link.is_none_or(|link| link.is_over())
            };
            let Some(connected) = place.take_if(is_over) else { continue };
            if let Some(served) = self.targets.get_mut(&connected.target) {
                served.node.lost(connected.link);
            }
            let _ = epoll::delete(&self.epoll, connected.socket.stream());
            app::connection_gone(connected.session, connected.cid);
            self.is_pending = true;
            did = true;
        }
        did
    }

    fn tick(&mut self) {
        let now_ns = thread::now_ns();
        let is_due = now_ns >= self.tick_ns;
        let is_short = self.targets.values().any(|served| served.node.is_short());
        if !is_due && !is_short {
            return;
        }
        for served in self.targets.values_mut() {
            if is_due {
                served.look_at_space();
            }
            served.node.tick(now_ns);
            served.node.backend_mut().flush();
        }
        if is_due {
            self.tick_ns = now_ns.saturating_add(TICK_NS);
        }
        self.is_pending = true;
    }

    /// Asks the app thread to confirm the changes of reservations.
    fn settle(&mut self) {
        for (name, served) in &mut self.targets {
            for (key, change, desc) in served.node.backend_mut().take_changes() {
                app::settle(name, desc, key, change);
            }
        }
    }

    /// Drops the ending targets that have no connection and no work left.
    fn end_targets(&mut self) {
        let is_over = |served: &Served| served.ending.is_some() && served.node.is_empty();
        let over: Vec<String> = self
            .targets
            .iter()
            .filter(|(_, served)| is_over(served))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            if let Some(Served { ending: Some(then), node, .. }) = self.targets.remove(&name) {
                drop(node); // drops the channels and descriptors of its bdevs, too
                then();
            }
        }
    }
}

impl Connected {
    /// Sends the output of the link. Returns whether there may be more to do at once.
    fn serve(&mut self, served: &mut Served, did: &mut bool) -> bool {
        let Some(link) = served.node.link_mut(self.link) else { return false };
        let was_full = !link.wants_bytes();
        let sent = self.socket.send(link.outbox());
        *did |= sent;
        if !sent {
            return false;
        }
        let reads_on = was_full && link.wants_bytes();
        // Sent buffers are free now: tasks that waited for buffers continue, and so do PDUs that waited in the inbox.
        served.node.sent(self.link);
        reads_on
            || !served.node.link_mut(self.link).is_none_or(|link| link.outbox().is_empty())
                && self.socket.is_writable()
    }
}
