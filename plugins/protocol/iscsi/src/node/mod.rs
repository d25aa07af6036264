//! One target node in full feature phase, without sockets and channels: its SCSI device, sessions and connections.
//!
//! The caller passes in received bytes ([`Node::receive`]), ends of I/Os ([`Node::ended`]) and the time ([`Node::tick`]). It sends what
//! each [`Link`]'s outbox holds; the [`Backend`] submits the I/Os. A link handles its own tasks. Work on several links (task management,
//! removal of a unit, turns at a unit's gate) is a `Chore`. The node does it after the link has returned, so no link is entered twice.

mod data;
pub mod histogram;
mod link;
mod management;
mod pdu;
mod scsi;
mod session;
mod table;
#[cfg(test)]
mod tests;

pub use link::{Established, Link, SEGMENT_LEN};
pub use session::{Session, SessionId};

use crate::connection::Inbox;
use drivebay_scsi::{Change, Device, Disk, Preempted, Settled, TaskKey};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op};
use histogram::Histogram;
use management::{Management, Wait};
use std::collections::BTreeMap;

/// The bdevs of a node's units.
pub trait Backend {
    /// The memory of an I/O.
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;

    /// Allocates memory of `len` bytes; `None` if there is none now. The contents are arbitrary.
    fn buffer(&mut self, len: u32) -> Option<Self::Buffer>;

    /// Submits an I/O to a unit's bdev. The caller of the node calls [`Node::ended`] when the I/O has ended, never during this call.
    fn submit(&mut self, unit: u16, op: Op, flags: IoFlags, buffer: Self::Buffer, key: IoKey);

    /// Confirms a change of reservations. The caller of the node calls [`Node::settled`] with the verdict, never during this call.
    fn settle(&mut self, change: Change, key: TaskKey);

    /// Releases a unit: no I/O of it is in flight, and none follows.
    fn unit_left(&mut self, unit: u16);
}

/// Names an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoKey {
    task: TaskKey,
    piece: u16,
}

/// Work that a link leaves to its node.
#[derive(Debug)]
enum Chore {
    /// Run a task management function.
    Manage(Management),
    /// Give tasks their turn at a unit's gate, because a task of the unit has ended.
    Turn(u16),
    /// Abort what this PREEMPT AND ABORT aborts.
    Preempted(TaskKey, Preempted),
    /// Confirm a change of reservations before its command is answered.
    Settle(TaskKey, Change),
    /// End a session.
    EndSession(SessionId),
    /// End one connection of a session.
    EndLink(u32),
}

/// State that all links of a node share.
#[derive(Debug)]
pub struct Shared<B: Backend> {
    device: Device,
    backend: B,
    sessions: BTreeMap<SessionId, Session>,
    chores: Vec<Chore>,
    /// Number of I/Os in flight, by unit.
    in_flight: BTreeMap<u16, u32>,
    /// Removed units that wait for the end of their I/Os.
    leaving: Vec<u16>,
    /// A link lacks memory for an I/O.
    is_short: bool,
    /// A link has stopped before a PDU (`Link::is_paused`).
    has_paused: bool,
    now_ns: u64,
    /// Latencies of commands, if `iscsi_enable_histogram` is on.
    histogram: Option<Box<Histogram>>,
}

/// A target node. It lives on one lightweight thread.
#[derive(Debug)]
pub struct Node<B: Backend> {
    shared: Shared<B>,
    links: Vec<Option<Box<Link<B::Buffer>>>>,
    waits: Vec<Wait>,
}

impl<B: Backend> Node<B> {
    /// Creates a node for a device.
    pub fn new(device: Device, backend: B) -> Self {
        let shared = Shared {
            device,
            backend,
            sessions: BTreeMap::new(),
            chores: Vec::new(),
            in_flight: BTreeMap::new(),
            leaving: Vec::new(),
            is_short: false,
            has_paused: false,
            now_ns: 0,
            histogram: None,
        };
        Self { shared, links: Vec::new(), waits: Vec::new() }
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut Device {
        &mut self.shared.device
    }

    /// Starts a histogram of latencies, or drops it.
    pub fn count_latencies(&mut self, is_on: bool) {
        match (is_on, &self.shared.histogram) {
            (true, Some(_)) => {}
            (true, None) => self.shared.histogram = Some(Box::default()),
            (false, _) => self.shared.histogram = None,
        }
    }

    /// The histogram of latencies, if there is one.
    pub fn histogram(&self) -> Option<&Histogram> {
        self.shared.histogram.as_deref()
    }

    /// The backend.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.shared.backend
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.shared.backend
    }

    /// Its sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.shared.sessions.values()
    }

    /// A connection.
    pub fn link(&self, id: u32) -> Option<&Link<B::Buffer>> {
        self.links.get(index(id))?.as_deref()
    }

    /// A connection, for sending.
    pub fn link_mut(&mut self, id: u32) -> Option<&mut Link<B::Buffer>> {
        self.links.get_mut(index(id))?.as_deref_mut()
    }

    /// Its connections, including those that only wait for the end of their I/Os.
    pub fn links(&self) -> impl Iterator<Item = (u32, &Link<B::Buffer>)> {
        let links = self.links.iter().enumerate();
        links.filter_map(|(id, link)| Some((u32::try_from(id).ok()?, link.as_deref()?)))
    }

    /// Takes over a connection after its login. Its session begins, or gets one more connection. Returns the number of the link.
    pub fn attach(&mut self, new: Established) -> u32 {
        let id = self.links.iter().position(Option::is_none).unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let number = u32::try_from(id).unwrap_or(u32::MAX);
        let shared = &mut self.shared;
        let device = &mut shared.device;
        let session = shared
            .sessions
            .entry(new.session)
            .or_insert_with(|| Session::new(&new, device.attach(new.identity.clone())));
        session.links.push(number);
        if let Some(place) = self.links.get_mut(id) {
            *place = Some(Box::new(Link::new(number, new, shared.now_ns)));
        }
        self.receive(number, 0);
        number
    }

    /// The inbox for a connection's received bytes.
    pub fn inbox(&mut self, id: u32) -> Option<&mut Inbox> {
        self.link_mut(id).map(|link| &mut link.inbox)
    }

    /// Handles the PDUs that are complete, after `len` bytes came into a connection's inbox.
    pub fn receive(&mut self, id: u32, len: usize) {
        if let Some(inbox) = self.inbox(id) {
            inbox.received(len);
        }
        self.work(id);
    }

    /// Handles the PDUs of a connection, then those of links that stopped before a PDU and can continue.
    fn work(&mut self, id: u32) {
        let Self { shared, links, .. } = self;
        if let Some(Some(link)) = links.get_mut(index(id)) {
            link.work(shared);
        }
        self.do_chores();
        while self.shared.has_paused && self.work_on() {
            self.do_chores();
        }
    }

    /// Lets the paused links continue. Returns whether one of them handled a PDU.
    fn work_on(&mut self) -> bool {
        let Self { shared, links, .. } = self;
        shared.has_paused = false;
        let mut did = false;
        for link in links.iter_mut().flatten().filter(|link| link.is_paused) {
            let before = link.inbox.rest().len();
            link.work(shared);
            did |= link.inbox.rest().len() != before;
        }
        did
    }

    /// Handles the end of an I/O.
    pub fn ended(&mut self, key: IoKey, buffer: B::Buffer, result: IoResult, unit: u16) {
        let Self { shared, links, .. } = self;
        if let Some(count) = shared.in_flight.get_mut(&unit) {
            *count = count.saturating_sub(1);
        }
        let (id, _) = table::split(key.task);
        if let Some(Some(link)) = links.get_mut(index(id)) {
            link.io_ended(key, buffer, result, shared);
        }
        self.look_after_units();
        self.do_chores();
    }

    /// Answers the command that changed a unit's reservations, now that the change is confirmed or must be undone.
    pub fn settled(&mut self, unit: u16, key: TaskKey, settled: Settled) {
        let Self { shared, links, .. } = self;
        let other = shared.device.settle(unit, key, settled);
        let (id, _) = table::split(key);
        let link = links.get_mut(index(id)).and_then(Option::as_mut);
        let is_there = link.is_some_and(|link| link.resume(key, other, shared));
        if !is_there && let Some(preempted) = shared.device.take_preempted() {
            shared.chores.push(Chore::Preempted(key, preempted));
        }
        self.do_chores();
    }

    /// Ends a connection whose socket is closed: aborts its tasks, and drops it when their I/Os have ended.
    pub fn lost(&mut self, id: u32) {
        self.shared.chores.push(Chore::EndLink(id));
        self.do_chores();
    }

    /// Ends a session: another session replaces it, or its target is removed.
    pub fn end_session(&mut self, session: SessionId) {
        self.shared.chores.push(Chore::EndSession(session));
        self.do_chores();
    }

    /// Checks pings and deadlines, and lets links that lacked memory try again.
    pub fn tick(&mut self, now_ns: u64) {
        self.shared.now_ns = now_ns;
        if std::mem::take(&mut self.shared.is_short) {
            self.retry();
        }
        let Self { shared, links, .. } = self;
        for link in links.iter_mut().flatten() {
            link.tick(shared);
        }
        self.expire_waits();
        self.do_chores();
    }

    /// Whether a link waits for memory.
    pub fn is_short(&self) -> bool {
        self.shared.is_short
    }

    /// Continues the tasks and PDUs that waited for room in the outbox, after something was sent.
    pub fn sent(&mut self, id: u32) {
        let Self { shared, links, .. } = self;
        if let Some(Some(link)) = links.get_mut(index(id))
            && std::mem::take(&mut link.is_held)
        {
            link.advance_all(shared);
        }
        self.work(id);
    }

    /// Asks the initiators of some connections to log out within `seconds`. RFC 7143, section 11.9.1.
    pub fn request_logout(&mut self, is_meant: impl Fn(&Link<B::Buffer>) -> bool, seconds: u16) {
        let Self { shared, links, .. } = self;
        for link in links.iter_mut().flatten().filter(|link| is_meant(link)) {
            link.request_logout(seconds, shared);
        }
    }

    /// Adds a unit. No unit with this number may be leaving.
    pub fn add_unit(&mut self, unit: u16, disk: Disk) {
        self.shared.device.add_unit(unit, disk);
    }

    /// Whether a removed unit with this number still waits for the end of its I/Os.
    pub fn is_leaving(&self, unit: u16) -> bool {
        self.shared.leaving.contains(&unit)
    }

    /// Removes a unit: no new command to it begins, and those in progress end with an error. [`Backend::unit_left`] follows.
    pub fn remove_unit(&mut self, unit: u16) {
        self.shared.device.remove_unit(unit);
        let Self { shared, links, .. } = self;
        for link in links.iter_mut().flatten() {
            link.fail_unit(unit, shared);
        }
        shared.leaving.push(unit);
        self.look_after_units();
        self.do_chores();
    }

    /// Whether no connections and no I/Os are left.
    pub fn is_empty(&self) -> bool {
        self.links.iter().all(Option::is_none) && self.shared.in_flight.values().all(|n| *n == 0)
    }

    fn look_after_units(&mut self) {
        let Shared { leaving, in_flight, backend, .. } = &mut self.shared;
        leaving.retain(|unit| {
            let is_busy = in_flight.get(unit).is_some_and(|count| *count > 0);
            if !is_busy {
                in_flight.remove(unit);
                backend.unit_left(*unit);
            }
            is_busy
        });
    }

    /// Lets the tasks that wait for memory or room try again.
    fn retry(&mut self) {
        let Self { shared, links, .. } = self;
        for link in links.iter_mut().flatten() {
            link.advance_all(shared);
        }
    }

    fn do_chores(&mut self) {
        while !self.shared.chores.is_empty() {
            for chore in std::mem::take(&mut self.shared.chores) {
                match chore {
                    Chore::Manage(management) => self.manage(&management),
                    Chore::Turn(unit) => self.turn(unit),
                    Chore::Preempted(by, preempted) => self.abort_preempted(by, &preempted),
                    Chore::Settle(key, change) => self.shared.backend.settle(change, key),
                    Chore::EndSession(session) => self.drop_session(session),
                    Chore::EndLink(id) => self.drop_link(id),
                }
            }
            self.settle_waits();
            self.sweep();
        }
        self.sweep();
    }

    fn turn(&mut self, unit: u16) {
        let Self { shared, links, .. } = self;
        while let Some(key) = shared.device.turn(unit) {
            let (id, _) = table::split(key);
            if let Some(Some(link)) = links.get_mut(index(id)) {
                link.admitted(key, shared);
            }
        }
    }

    fn drop_session(&mut self, session: SessionId) {
        let links = self.shared.sessions.get(&session).map(|session| session.links.clone());
        for id in links.unwrap_or_default() {
            self.drop_link(id);
        }
    }

    fn drop_link(&mut self, id: u32) {
        let Self { shared, links, .. } = self;
        let Some(Some(link)) = links.get_mut(index(id)) else { return };
        if !link.end(shared) {
            return;
        }
        let session_id = link.session();
        if let Some(session) = shared.sessions.get_mut(&session_id) {
            session.links.retain(|other| *other != id);
            if session.links.is_empty() {
                shared.device.detach(session.nexus);
                shared.sessions.remove(&session_id);
            }
        }
        self.forget_waits(id);
    }

    /// Drops the connections that have ended and have no work left.
    fn sweep(&mut self) {
        for place in &mut self.links {
            if place.as_ref().is_some_and(|link| link.has_gone()) {
                *place = None;
            }
        }
    }
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
