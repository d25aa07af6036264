//! The app thread's side: the configuration, the controllers, and the execution of admin commands.
//!
//! Poll groups send commands that they cannot answer themselves (`AppState::connect`, `AppState::admin`, `AppState::reservation`), and report changes of
//! their queues. RPCs run [`crate::ops`]. Only the app thread uses this state.

mod admission;
mod hosts;
pub mod reservation;
mod rounds;

use crate::controller::admin::{self, Answer, Outcome, Received};
use crate::controller::{QueueId, Ticket};
use crate::group::{Group, Nvmf, Stats};
use crate::model::{Model, TransportLimits};
use crate::tasks::Tasks;
use drivebay_sdk::bdev::Desc;
use drivebay_sdk::nvmf::protocol::{Address, GroupRef, Server, Transport};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::{OnApp, Resident};
use drivebay_sdk::throttle::Throttle;
use drivebay_sdk::{Result, thread};
use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::{Command, Status};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use admission::Waiting;
use hosts::Hosts;
use rounds::Rounds;

static APP: OnApp<AppState> = OnApp::new();

/// Time between two checks of keep alive timeouts and of waiting Connects, in microseconds.
const TIME_PERIOD_US: u64 = 1_000_000;

/// The app thread's state.
#[derive(Debug)]
pub struct AppState {
    /// The configuration, and the controllers.
    pub model: RefCell<Model>,
    /// Transports by type.
    pub transports: RefCell<BTreeMap<String, Rc<TransportEntry>>>,
    /// All connections.
    pub queues: RefCell<BTreeMap<QueueId, Connection>>,
    /// The bdevs of namespaces, by subsystem and number.
    pub bdevs: RefCell<BTreeMap<(String, u32), Arc<Desc>>>,
    /// The addresses where transports listen, each with its number of listeners.
    pub listening: RefCell<Vec<(Address, usize)>>,
    /// The parameters of `nvmf_set_config`.
    pub config: RefCell<Option<crate::rpc::SetConfig>>,
    /// Operations in progress.
    pub tasks: Tasks,
    /// Subsystems and transports that an operation has locked.
    pub(crate) busy: RefCell<BTreeSet<String>>,
    /// The answers of poll groups that operations wait for.
    pub(crate) waits: RefCell<BTreeMap<u64, crate::ops::Wait>>,
    pub(crate) last_wait: Cell<u64>,
    /// Counters that poll groups have sent, by operation.
    pub(crate) stats: RefCell<BTreeMap<u64, Vec<Stats>>>,
    /// The queues of each host, and the Connects that wait for ended queues to drain.
    hosts: RefCell<Hosts<Waiting>>,
    /// Work that waits until poll groups have checked their sockets.
    rounds: RefCell<Rounds>,
    server: OnceCell<Server<Nvmf>>,
    time: RefCell<Option<Poller>>,
}

/// A transport that exists.
#[derive(Debug)]
pub struct TransportEntry {
    /// The transport.
    pub transport: Transport<Nvmf>,
    /// The options that the target itself enforces.
    pub limits: TransportLimits,
}

/// A connection, as the app thread knows it.
#[derive(Debug)]
pub struct Connection {
    /// The transport of the connection.
    pub transport_id: u64,
    /// The queue; `None` until its Connect is admitted.
    pub queue: Option<ConnectedQueue>,
    /// Whether it is ending.
    pub is_ending: bool,
    /// Whether it has ended and its controller has been updated.
    is_gone: bool,
}

/// A queue of a controller.
#[derive(Clone, Debug)]
pub struct ConnectedQueue {
    /// Name of the subsystem.
    pub nqn: String,
    /// Identifier of the controller.
    pub cntlid: u16,
    /// Identifier of the queue.
    pub qid: u16,
    /// Name of the host.
    pub hostnqn: String,
    /// The host's identifier.
    pub hostid: [u8; 16],
    /// The address that the host connected to.
    pub local: Address,
    /// The address of the host.
    pub peer: Address,
}

/// The app's state, on the app thread.
pub fn app() -> Option<Rc<AppState>> {
    APP.get()
}

/// The handle with which other threads send messages to the app's state.
pub fn app_handle() -> Option<Resident<AppState>> {
    APP.handle()
}

impl AppState {
    /// Creates the app's state. [`serve_with`](Self::serve_with) sets `server` later.
    ///
    /// # Errors
    /// `EPERM` when the thread is not the app thread.
    pub fn start() -> Result<Rc<Self>> {
        APP.get_or_init(|| Self {
            model: RefCell::default(),
            transports: RefCell::default(),
            queues: RefCell::default(),
            bdevs: RefCell::default(),
            listening: RefCell::default(),
            config: RefCell::default(),
            tasks: Tasks::default(),
            busy: RefCell::default(),
            waits: RefCell::default(),
            last_wait: Cell::new(0),
            stats: RefCell::default(),
            hosts: RefCell::default(),
            rounds: RefCell::default(),
            server: OnceCell::new(),
            time: RefCell::default(),
        })
    }

    /// Sets the server of the fabrics. Only the first call has an effect.
    pub fn serve_with(&self, server: Server<Nvmf>) {
        if self.server.set(server).is_err() {
            tracing::error!("the target was started twice");
        }
    }

    /// The server of the fabrics.
    pub fn server(&self) -> Option<&Server<Nvmf>> {
        self.server.get()
    }

    /// The poll groups; none before they have started.
    pub fn groups(&self) -> Vec<GroupRef<Nvmf>> {
        self.server().map(Server::groups).unwrap_or_default()
    }

    /// Runs `call` on a poll group's thread.
    fn in_group(&self, index: usize, call: impl FnOnce(&Group) + Send + 'static) {
        if let Some(group) = self.groups().get(index) {
            group.send(move |group| call(group.state()));
        }
    }

    fn answer(&self, ticket: Ticket, answer: Answer) {
        self.in_group(ticket.queue.group, move |group| group.answer(ticket, &answer));
    }

    /// Ends a connection.
    pub fn close(&self, queue: QueueId) {
        if let Some(connection) = self.queues.borrow_mut().get_mut(&queue) {
            connection.is_ending = true;
        }
        self.hosts.borrow_mut().drain(queue);
        self.in_group(queue.group, move |group| group.close(queue.number));
    }

    /// Ends every connection for which `is_one` returns true. Returns their number.
    pub fn close_all(&self, is_one: impl Fn(&Connection) -> bool) -> usize {
        let queues = self.queues.borrow();
        let ids: Vec<QueueId> =
            queues.iter().filter(|(_, connection)| is_one(connection)).map(|(id, _)| *id).collect();
        drop(queues);
        for id in &ids {
            self.close(*id);
        }
        ids.len()
    }

    /// Whether there is a connection for which `is_one` returns true.
    pub fn has_connection(&self, is_one: impl Fn(&Connection) -> bool) -> bool {
        self.queues.borrow().values().any(is_one)
    }

    /// A poll group has a new connection.
    pub(crate) fn queue_came(&self, id: QueueId, transport_id: u64) {
        let connection = Connection { transport_id, queue: None, is_ending: false, is_gone: false };
        self.queues.borrow_mut().insert(id, connection);
        let is_leaving =
            !self.transports.borrow().values().any(|t| t.transport.id() == transport_id);
        if is_leaving {
            self.close(id);
        }
    }

    /// Handles the end of a connection. Its controller loses the queue, and ends if that was the admin queue.
    pub(crate) fn queue_disconnected(&self, id: QueueId) {
        self.hosts.borrow_mut().drain(id);
        let queue = self.queues.borrow_mut().get_mut(&id).and_then(|connection| {
            connection.is_ending = true;
            let was_gone = std::mem::replace(&mut connection.is_gone, true);
            connection.queue.clone().filter(|_| !was_gone)
        });
        let Some(queue) = queue else { return };
        let mut ends = Vec::new();
        let mut model = self.model.borrow_mut();
        if let Some(subsystem) = model.subsystems.get_mut(&queue.nqn) {
            if queue.qid == 0 {
                let controller = subsystem.controllers.remove(&queue.cntlid);
                ends.extend(controller.iter().flat_map(|controller| controller.io_queues()));
            } else if let Some(controller) = subsystem.controllers.get_mut(&queue.cntlid)
                && controller.queues.get(&queue.qid) == Some(&id)
            {
                controller.queues.remove(&queue.qid);
            }
        }
        drop(model);
        for io_queue in ends {
            self.close(io_queue);
        }
        if queue.qid == 0 {
            tracing::debug!(nqn = queue.nqn, cntlid = queue.cntlid, "controller ends");
            self.watch_time();
        }
    }

    /// A connection has completed its last request and is freed.
    pub(crate) fn queue_went(&self, id: QueueId) {
        self.queue_disconnected(id);
        self.queues.borrow_mut().remove(&id);
        let freed = self.hosts.borrow_mut().remove(id);
        self.admit_freed(freed);
        self.tasks.run();
    }

    /// Executes a command of an admin queue and answers it.
    pub(crate) fn admin(&self, ticket: Ticket, command: &Command, len: u32, data: &[u8]) {
        let queue = self.queues.borrow().get(&ticket.queue).and_then(|c| c.queue.clone());
        let Some(queue) = queue else {
            return self.answer(ticket, admin::GONE.into());
        };
        let received = Received {
            nqn: &queue.nqn,
            cntlid: queue.cntlid,
            ticket,
            command,
            len,
            data,
            now_ns: thread::now_ns(),
        };
        let outcome = admin::execute(&mut self.model.borrow_mut(), received);
        match outcome {
            Outcome::Answer(answer) => self.answer(ticket, answer),
            Outcome::Waits => {}
            Outcome::AndReset(answer, aborted) => {
                for waiting in aborted {
                    self.answer(waiting, Status::ABORTED_BY_REQUEST.into());
                }
                self.close_all(|connection| {
                    connection.queue.as_ref().is_some_and(|other| {
                        other.nqn == queue.nqn && other.cntlid == queue.cntlid && other.qid != 0
                    })
                });
                self.answer(ticket, answer);
            }
            Outcome::AndAbort(answer, waiting) => {
                self.answer(waiting, Status::ABORTED_BY_REQUEST.into());
                self.answer(ticket, answer);
            }
        }
    }

    /// Completes Asynchronous Event Requests with their events.
    pub fn tell(&self, events: impl IntoIterator<Item = (Ticket, AsyncEvent)>) {
        for (ticket, event) in events {
            self.answer(ticket, Answer::dw0(event.to_dw0()));
        }
    }

    /// Notifies hosts that the discovery log has changed.
    pub fn discovery_changed(&self) {
        let events = self.model.borrow_mut().discovery_changed();
        self.tell(events);
    }

    /// Notifies hosts that a namespace was added, removed or changed.
    pub fn namespace_changed(&self, nqn: &str, nsid: u32) {
        let mut model = self.model.borrow_mut();
        let Some(subsystem) = model.subsystems.get_mut(nqn) else { return };
        let controllers = subsystem.controllers.values_mut();
        let events: Vec<_> = controllers.filter_map(|c| c.namespace_changed(nsid)).collect();
        drop(model);
        self.tell(events);
    }

    /// Notifies hosts that the ANA log of a listener has changed; `None` means every listener.
    pub fn ana_changed(&self, nqn: &str, portid: Option<u16>) {
        let mut model = self.model.borrow_mut();
        let Some(subsystem) = model.subsystems.get_mut(nqn) else { return };
        let mut reported: Vec<u16> = subsystem.controllers.keys().copied().collect();
        reported.retain(|cntlid| {
            let port =
                subsystem.controllers.get(cntlid).and_then(|c| subsystem.ana_port(&c.listener));
            port.is_some() && (portid.is_none() || port == portid)
        });
        let events: Vec<_> = reported
            .iter()
            .filter_map(|cntlid| subsystem.controllers.get_mut(cntlid)?.ana_changed())
            .collect();
        drop(model);
        self.tell(events);
    }

    /// Runs the timer while there are controllers or waiting Connects.
    fn watch_time(&self) {
        let is_needed = {
            let model = self.model.borrow();
            let mut subsystems = model.subsystems.values();
            subsystems.any(|s| !s.controllers.is_empty()) || self.hosts.borrow().has_waiting()
        };
        let is_watching = self.time.borrow().is_some();
        if is_needed == is_watching {
            return;
        }
        let poller =
            is_needed.then(|| Poller::register("nvmf_time", TIME_PERIOD_US, Time { next_ns: 0 }));
        match poller.transpose() {
            Ok(poller) => drop(self.time.replace(poller)),
            Err(error) => tracing::error!("keep alive: {error}"),
        }
    }

    /// Ends the controllers whose hosts were silent too long. First the poll groups receive what the hosts have sent, because this process
    /// may have been paused.
    fn end_silent_controllers(&self, now_ns: u64) -> bool {
        let mut groups = BTreeSet::new();
        for subsystem in self.model.borrow_mut().subsystems.values_mut() {
            for controller in subsystem.controllers.values_mut() {
                if controller.has_timed_out(now_ns) && !controller.is_suspect {
                    controller.is_suspect = true;
                    groups.extend(controller.queues.values().map(|queue| queue.group));
                }
            }
        }
        let is_suspicious = !groups.is_empty();
        if is_suspicious {
            let groups: Vec<usize> = groups.into_iter().collect();
            self.after_rounds(&groups, move |app| app.end_suspects(now_ns));
        }
        is_suspicious
    }

    /// Ends the suspected controllers whose hosts were silent until `now_ns`.
    fn end_suspects(&self, now_ns: u64) {
        static SILENT: Throttle = Throttle::new();
        let mut silent = Vec::new();
        for subsystem in self.model.borrow_mut().subsystems.values_mut() {
            for controller in subsystem.controllers.values_mut().filter(|c| c.is_suspect) {
                controller.is_suspect = false;
                if !controller.has_timed_out(now_ns) {
                    continue;
                }
                if let Some(left_out) = SILENT.admit() {
                    tracing::warn!(
                        "{}: controller {} of host {} ends: nothing was heard within its keep alive timeout of {} ms \
                         ({left_out} such lines left out)",
                        subsystem.nqn,
                        controller.cntlid,
                        controller.hostnqn,
                        controller.features.kato_ms,
                    );
                }
                controller.csts.cfs = true;
                silent.extend(controller.queues.values().copied());
            }
        }
        for queue in silent {
            self.close(queue);
        }
    }
}

struct Time {
    next_ns: u64,
}

impl Poll for Time {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let now_ns = thread::now_ns();
        self.next_ns = now_ns + TIME_PERIOD_US * 1000;
        app().is_some_and(|app| {
            let did = app.end_silent_controllers(now_ns) | app.refuse_overdue(now_ns);
            // Poll the operations, because one may wait for a point in time.
            app.tasks.run();
            did
        })
    }

    fn next_ns(&mut self) -> u64 {
        self.next_ns
    }
}
