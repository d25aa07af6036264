//! The app thread's side: everything that is configured, every controller, and what becomes of admin commands.
//!
//! Poll groups send what they cannot answer alone (`App::connect`, `App::admin`) and news of their queues; RPCs run [`crate::ops`].
//! Nothing here is touched by another thread.

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

static APP: OnApp<App> = OnApp::new();

/// How often keep alive timeouts and Connects that wait are looked at, in microseconds.
const TIME_PERIOD_US: u64 = 1_000_000;

/// The app thread's state.
#[derive(Debug)]
pub struct App {
    /// What is configured, and the controllers.
    pub model: RefCell<Model>,
    /// Transports by type.
    pub transports: RefCell<BTreeMap<String, Rc<TransportEntry>>>,
    /// Every connection.
    pub queues: RefCell<BTreeMap<QueueId, Connection>>,
    /// The bdevs of namespaces, by subsystem and number.
    pub bdevs: RefCell<BTreeMap<(String, u32), Arc<Desc>>>,
    /// How many listeners share an address.
    pub listening: RefCell<Vec<(Address, usize)>>,
    /// What `nvmf_set_config` said.
    pub config: RefCell<Option<crate::rpc::SetConfig>>,
    /// Operations under way.
    pub tasks: Tasks,
    /// Subsystems and transports with an operation under way.
    pub(crate) busy: RefCell<BTreeSet<String>>,
    /// Answers of poll groups that operations wait for.
    pub(crate) waits: RefCell<BTreeMap<u64, crate::ops::Wait>>,
    pub(crate) last_wait: Cell<u64>,
    /// Counters that poll groups have sent, by operation.
    pub(crate) stats: RefCell<BTreeMap<u64, Vec<Stats>>>,
    /// The queues of each host, and the Connects that wait for those that have ended.
    hosts: RefCell<Hosts<Waiting>>,
    /// What waits until poll groups have looked at their sockets.
    rounds: RefCell<Rounds>,
    server: OnceCell<Server<Nvmf>>,
    time: RefCell<Option<Poller>>,
}

/// A transport that was made.
#[derive(Debug)]
pub struct TransportEntry {
    /// The transport.
    pub transport: Transport<Nvmf>,
    /// Its options, as far as the target keeps to them.
    pub limits: TransportLimits,
}

/// A connection, as the app thread knows it.
#[derive(Debug)]
pub struct Connection {
    /// The transport it came by.
    pub transport_id: u64,
    /// Where it belongs, once it is a queue.
    pub queue: Option<ConnectedQueue>,
    /// It ends.
    pub is_ending: bool,
    /// It is gone, and its controller knows.
    is_gone: bool,
}

/// A queue of a controller.
#[derive(Clone, Debug)]
pub struct ConnectedQueue {
    /// The subsystem.
    pub nqn: String,
    /// The controller.
    pub cntlid: u16,
    /// The queue.
    pub qid: u16,
    /// The host.
    pub hostnqn: String,
    /// The host's identifier.
    pub hostid: [u8; 16],
    /// Where the host connected to.
    pub local: Address,
    /// Where the host is.
    pub peer: Address,
}

/// The app's state, on the app thread.
pub fn app() -> Option<Rc<App>> {
    APP.get()
}

/// The handle by which other threads reach the app's state.
pub fn app_handle() -> Option<Resident<App>> {
    APP.handle()
}

impl App {
    /// Makes the app's state; `server` is set by [`serve_with`](Self::serve_with).
    ///
    /// # Errors
    /// `EPERM` on another thread than the app thread.
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

    /// Sets what serves the fabrics, once.
    pub fn serve_with(&self, server: Server<Nvmf>) {
        if self.server.set(server).is_err() {
            tracing::error!("the target was started twice");
        }
    }

    /// What serves the fabrics.
    pub fn server(&self) -> Option<&Server<Nvmf>> {
        self.server.get()
    }

    /// The poll groups; none before they are started.
    pub fn groups(&self) -> Vec<GroupRef<Nvmf>> {
        self.server().map(Server::groups).unwrap_or_default()
    }

    /// Runs `call` in a queue's poll group.
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

    /// Ends every connection of which `is_one` holds; how many there are.
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

    /// Whether a connection of which `is_one` holds is left.
    pub fn has_connection(&self, is_one: impl Fn(&Connection) -> bool) -> bool {
        self.queues.borrow().values().any(is_one)
    }

    /// A connection came to a poll group.
    pub(crate) fn queue_came(&self, id: QueueId, transport_id: u64) {
        let connection = Connection { transport_id, queue: None, is_ending: false, is_gone: false };
        self.queues.borrow_mut().insert(id, connection);
        let is_leaving =
            !self.transports.borrow().values().any(|t| t.transport.id() == transport_id);
        if is_leaving {
            self.close(id);
        }
    }

    /// A connection is gone: its controller loses the queue, and ends with its admin queue.
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

    /// Nothing is left of a connection.
    pub(crate) fn queue_went(&self, id: QueueId) {
        self.queue_disconnected(id);
        self.queues.borrow_mut().remove(&id);
        let freed = self.hosts.borrow_mut().remove(id);
        self.admit_freed(freed);
        self.tasks.run();
    }

    /// A command of an admin queue came.
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

    /// Answers requests that waited for an event.
    pub fn tell(&self, events: impl IntoIterator<Item = (Ticket, AsyncEvent)>) {
        for (ticket, event) in events {
            self.answer(ticket, Answer::dw0(event.to_dw0()));
        }
    }

    /// The discovery log changed.
    pub fn discovery_changed(&self) {
        let events = self.model.borrow_mut().discovery_changed();
        self.tell(events);
    }

    /// A namespace appeared, went or changed.
    pub fn namespace_changed(&self, nqn: &str, nsid: u32) {
        let mut model = self.model.borrow_mut();
        let Some(subsystem) = model.subsystems.get_mut(nqn) else { return };
        let controllers = subsystem.controllers.values_mut();
        let events: Vec<_> = controllers.filter_map(|c| c.namespace_changed(nsid)).collect();
        drop(model);
        self.tell(events);
    }

    /// The ANA log of the controllers of a listener changed, or of all listeners.
    pub fn ana_changed(&self, nqn: &str, portid: Option<u16>) {
        let mut model = self.model.borrow_mut();
        let Some(subsystem) = model.subsystems.get_mut(nqn) else { return };
        let mut told: Vec<u16> = subsystem.controllers.keys().copied().collect();
        told.retain(|cntlid| {
            let port =
                subsystem.controllers.get(cntlid).and_then(|c| subsystem.ana_port(&c.listener));
            port.is_some() && (portid.is_none() || port == portid)
        });
        let events: Vec<_> = told
            .iter()
            .filter_map(|cntlid| subsystem.controllers.get_mut(cntlid)?.ana_changed())
            .collect();
        drop(model);
        self.tell(events);
    }

    /// Looks at the time while there are controllers, or Connects that wait.
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

    /// Ends the controllers whose hosts were silent too long, once what the hosts have sent meanwhile was heard: this process may
    /// have been stopped for a while.
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

    /// Ends those of the suspects that were silent until `now_ns`.
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
            // An operation may wait for a moment.
            app.tasks.run();
            did
        })
    }

    fn next_ns(&mut self) -> u64 {
        self.next_ns
    }
}
