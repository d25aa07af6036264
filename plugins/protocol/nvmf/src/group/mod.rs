//! A poll group: the queues of one thread, and its copy of the namespaces.
//!
//! An I/O stays on this thread. [`crate::io`] plans the command, the thread's channel of the bdev executes it, and the queue gets the
//! answer. The I/O path reads nothing that another thread writes. Admin, Connect and reservation commands are parked, and go to the app thread as
//! messages. The app thread sends its changes as messages, too ([`Group::add_namespace`] …).

mod copy;
mod namespace;
mod path;
mod pieces;
mod queue;
mod reservation;

pub use namespace::{LocalNamespace, LocalSubsystem};
pub use queue::{Phase, Queue};

use crate::app::AppState;
use crate::controller::admin::Answer;
use crate::controller::connect::Admitted;
use crate::controller::io_counts::IoCounts;
use crate::controller::{QueueId, Ticket};
use crate::model::{Access, CommandLimits, Geometry, Namespace};
use crate::ops::Reply;
use drivebay_sdk::Result;
use drivebay_sdk::bdev::Desc;
use drivebay_sdk::nvmf::protocol::{Address, Qpair, Request, Target, Transfer};
use drivebay_sdk::poller::Poller;
use drivebay_sdk::runtime::Resident;
use drivebay_spec_nvme::{Command, Completion, Status};
use namespace::{Chores, DoChores};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// The target's type for the SDK.
#[derive(Debug)]
pub struct Nvmf;

/// The state of one poll group.
#[derive(Debug)]
pub struct Group {
    index: usize,
    app: Resident<AppState>,
    subsystems: RefCell<BTreeMap<String, Rc<LocalSubsystem>>>,
    queues: RefCell<BTreeMap<u64, Rc<Qpair<Nvmf>>>>,
    next_ticket: Cell<u64>,
    chores: Rc<Chores>,
    _poller: Option<Poller>,
    counters: Counters,
}

/// The counters of a poll group for `nvmf_get_stats`.
#[derive(Debug, Default)]
pub struct Counters {
    admin_qpairs: Cell<u32>,
    io_qpairs: Cell<u32>,
    completed: Cell<u64>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Index of the group.
    pub index: usize,
    /// Admin queues since the start.
    pub admin_qpairs: u32,
    /// I/O queues since the start.
    pub io_qpairs: u32,
    /// Admin queues now.
    pub current_admin_qpairs: u32,
    /// Number of I/O queues now.
    pub current_io_qpairs: u32,
    /// Connections that are not queues yet.
    pub current_unassociated_qpairs: u32,
    /// I/Os in the bdevs.
    pub pending_bdev_io: u64,
    /// Completed I/Os.
    pub completed_nvme_io: u64,
}

/// A Connect that a poll group sends to the app thread.
#[derive(Debug)]
pub struct ConnectRequest {
    /// Names the request.
    pub ticket: Ticket,
    /// The command.
    pub command: Command,
    /// Its data.
    pub data: Vec<u8>,
    /// The transport of the connection.
    pub transport_id: u64,
    /// The address that the host connected to.
    pub local: Address,
    /// The address of the host.
    pub peer: Address,
}

impl Target for Nvmf {
    type Group = Group;
    type Qpair = Queue;

    fn qpair(_group: &Group) -> Queue {
        Queue::default()
    }

    fn joined(qpair: &Rc<Qpair<Self>>) {
        let group = qpair.group();
        group.queues.borrow_mut().insert(qpair.number(), Rc::clone(qpair));
        let (id, transport_id) = (group.id_of(qpair), qpair.transport_id());
        group.app.send(move |app| app.queue_came(id, transport_id));
    }

    #[inline]
    fn exec(qpair: &Qpair<Self>, request: Request<Self>) {
        path::exec(qpair, request);
    }

    fn disconnected(qpair: &Qpair<Self>) {
        let group = qpair.group();
        qpair.state().phase.set(Phase::Ended);
        for request in qpair.state().take_parked() {
            finish(request, Status::ABORTED_SQ_DELETION, 0);
        }
        let id = group.id_of(qpair);
        group.app.send(move |app| app.queue_disconnected(id));
    }

    fn released(qpair: &Qpair<Self>) {
        let group = qpair.group();
        group.queues.borrow_mut().remove(&qpair.number());
        let id = group.id_of(qpair);
        group.app.send(move |app| app.queue_went(id));
    }
}

impl Group {
    /// Creates a group without queues. `[group's thread]`
    pub fn new(index: usize, app: Resident<AppState>) -> Self {
        let chores = Rc::new(Chores::default());
        let poller = Poller::register("nvmf_chores", 0, DoChores(Rc::clone(&chores)));
        if let Err(error) = &poller {
            tracing::error!("poll group {index}: {error}");
        }
        Self {
            index,
            app,
            subsystems: RefCell::default(),
            queues: RefCell::default(),
            next_ticket: Cell::new(1),
            chores,
            _poller: poller.ok(),
            counters: Counters::default(),
        }
    }

    /// Sends a message to the app thread.
    pub fn tell_app(&self, call: impl FnOnce(&AppState) + Send + 'static) {
        self.app.send(move |app| call(app));
    }

    fn id_of(&self, qpair: &Qpair<Nvmf>) -> QueueId {
        QueueId { group: self.index, number: qpair.number() }
    }

    /// Parks a request until the app thread answers it.
    fn park(&self, qpair: &Qpair<Nvmf>, request: Request<Nvmf>) -> Ticket {
        let number = self.next_ticket.replace(self.next_ticket.get() + 1);
        let cid = Command::parse(request.command()).cid();
        qpair.state().park(number, request);
        Ticket { queue: self.id_of(qpair), number, cid }
    }

    fn unpark(&self, ticket: Ticket) -> Option<Request<Nvmf>> {
        let qpair = self.queues.borrow().get(&ticket.queue.number).cloned()?;
        qpair.state().unpark(ticket.number)
    }

    /// Completes a parked request. Does nothing if its queue has ended.
    pub fn answer(&self, ticket: Ticket, answer: &Answer) {
        let Some(mut request) = self.unpark(ticket) else { return };
        if request.transfer() == Transfer::ToHost {
            request.fill_data(&answer.data);
        }
        finish(request, answer.status, answer.result);
    }

    /// Completes a Connect and makes the connection a queue.
    pub fn admit(
        &self,
        ticket: Ticket,
        admitted: &Admitted,
        counts: Arc<IoCounts>,
        max_io_size: u32,
    ) {
        let Some(request) = self.unpark(ticket) else { return };
        let subsystem = self.subsystem(&admitted.nqn);
        request.qpair().state().admit(admitted, subsystem, counts, max_io_size);
        let place = match admitted.qid {
            0 => &self.counters.admin_qpairs,
            _ => &self.counters.io_qpairs,
        };
        place.set(place.get() + 1);
        request.qpair().connected(admitted.qid, admitted.entries, admitted.has_flow_control);
        if admitted.has_flow_control {
            finish(request, Status::SUCCESS, admitted.dw0().into());
        } else {
            // FFFFh in this completion, and only here, means no flow control. NVMe over Fabrics 1.1, section 3.3.
            let completion =
                Completion { sqhd: 0xffff, ..Completion::new(ticket.cid, Status::SUCCESS) };
            request.complete(completion.with_dw0(admitted.dw0()).encode());
        }
    }

    /// Refuses a Connect. The connection may try again.
    pub fn refuse(&self, ticket: Ticket, status: Status, dw0: u32) {
        let Some(request) = self.unpark(ticket) else { return };
        request.qpair().state().phase.set(Phase::New);
        finish(request, status, dw0.into());
    }

    /// Ends a queue.
    pub fn close(&self, number: u64) {
        let qpair = self.queues.borrow().get(&number).cloned();
        if let Some(qpair) = qpair {
            qpair.close();
        }
    }

    fn subsystem(&self, nqn: &str) -> Rc<LocalSubsystem> {
        let mut subsystems = self.subsystems.borrow_mut();
        Rc::clone(subsystems.entry(nqn.to_owned()).or_default())
    }

    /// Removes a subsystem without queues and namespaces.
    pub fn forget_subsystem(&self, nqn: &str) {
        self.subsystems.borrow_mut().remove(nqn);
    }

    /// Adds a namespace, with this thread's channel of its bdev.
    ///
    /// # Errors
    /// The error of the bdev's module.
    pub fn add_namespace(
        &self,
        nqn: &str,
        namespace: &Namespace,
        desc: &Arc<Desc>,
        limits: CommandLimits,
    ) -> Result<()> {
        let channel = desc.channel()?;
        let local = LocalNamespace::new(namespace, limits, channel, Rc::clone(&self.chores));
        self.subsystem(nqn).add(namespace.nsid, local);
        Ok(())
    }

    /// Moves a namespace to another ANA group.
    pub fn set_ana_group(&self, nqn: &str, nsid: u32, anagrpid: u32) {
        if let Some(namespace) = self.subsystem(nqn).find(nsid) {
            namespace.anagrpid.set(anagrpid);
        }
    }

    /// Sets how a listener serves the ANA groups; `None` removes the listener.
    pub fn set_access(&self, nqn: &str, portid: u16, access: Option<Access>) {
        self.subsystem(nqn).set_access(portid, access);
    }

    /// Removes a namespace. No further I/O begins. Sends `reply` when no I/O is in flight and the channel is put.
    pub fn remove_namespace(&self, nqn: &str, nsid: u32, reply: Reply) {
        let subsystem = self.subsystem(nqn);
        match subsystem.find(nsid) {
            Some(namespace) => namespace.end(move || {
                subsystem.remove(nsid);
                reply.send(Ok(()));
            }),
            None => reply.send(Ok(())),
        }
    }

    /// Changes the size of a namespace.
    pub fn resize_namespace(&self, nqn: &str, nsid: u32, geometry: Geometry) {
        if let Some(namespace) = self.subsystem(nqn).find(nsid) {
            namespace.geometry.set(geometry);
        }
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        let queues = self.queues.borrow();
        let count = |is_it: fn(Phase) -> bool| {
            let count = queues.values().filter(|qpair| is_it(qpair.state().phase.get())).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let in_flight = |subsystem: &Rc<LocalSubsystem>| subsystem.in_flight();
        Stats {
            index: self.index,
            admin_qpairs: self.counters.admin_qpairs.get(),
            io_qpairs: self.counters.io_qpairs.get(),
            current_admin_qpairs: count(|phase| phase == Phase::Admin),
            current_io_qpairs: count(|phase| phase == Phase::Io),
            current_unassociated_qpairs: count(|p| matches!(p, Phase::New | Phase::Connecting)),
            pending_bdev_io: self.subsystems.borrow().values().map(in_flight).sum(),
            completed_nvme_io: self.counters.completed.get(),
        }
    }
}

/// Completes a request. `result` is DW0 and DW1.
#[inline]
pub fn finish(request: Request<Nvmf>, status: Status, result: u64) {
    let [_, _, cid_low, cid_high, ..] = *request.command();
    let sqhd = request.qpair().state().advance();
    let cid = u16::from_le_bytes([cid_low, cid_high]);
    let completion = Completion { result, sqhd, ..Completion::new(cid, status) };
    request.complete(completion.encode());
}
