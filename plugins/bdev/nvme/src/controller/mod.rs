//! A controller: connects it, watches it, and connects it again when the connection is lost. `[app thread]`
//!
//! One task follows a controller from its first connection to its end ([`Controller::follow`]). A caller that needs an operation, such as
//! a reset, leaves a [`Wish`] and wakes that task. So a controller has only one operation at a time.

mod ana;
pub(crate) mod bring_up;
mod keep_alive;
mod namespaces;
mod timeouts;
mod trids;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_nvme_driver::spec::event::AsyncEvent;
use drivebay_nvme_driver::spec::identify;
use drivebay_nvme_driver::spec::log::{AnaState, lid};
use drivebay_nvme_driver::spec::{Command, NSID_ALL, opcode};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either};
use drivebay_sdk::thread;

use crate::admin::{Admin, Data};
use crate::channel::QUIET;
use crate::group::Group;
use crate::hotplug;
use crate::options::{Limits, Timeouts};
use crate::path::{Live, Path, State};
use crate::paths::Spread;
use crate::pci::{self, Function};
use crate::reach::{Reach, Way};
use crate::rpc::Attach;
use bring_up::{Enabled, enable};
use keep_alive::{KeepAlive, notices_after};
pub(crate) use namespaces::Found;
pub(crate) use trids::{Removed, Trid, Trids};

/// The maximum number of entries in an I/O queue; fewer when the controller allows fewer.
const IO_ENTRIES: u16 = 257;
/// How long to wait between two attempts to connect when `reconnect_delay_sec` is 0.
const DELAY: Duration = Duration::from_secs(1);
/// How long a detach waits for the controller's outstanding commands.
const DRAIN: Duration = Duration::from_secs(5);

/// Errno values of Linux.
const ENXIO: i32 = 6;
pub(crate) const EALREADY: i32 = 114;

/// How a controller is used, from the call that attached it and the options.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) attach: Attach,
    pub(crate) limits: Limits,
    pub(crate) keep_alive_ms: u32,
    pub(crate) num_queues: u16,
    pub(crate) retry_count: i32,
    pub(crate) enable_flush: bool,
    pub(crate) timeouts: Timeouts,
    /// Whether I/O is counted for each path.
    pub(crate) counts_paths: bool,
    /// How the bdevs use their paths.
    pub(crate) spread: Spread,
    /// Whether a discovery service listed it.
    pub(crate) is_discovered: bool,
}

/// A controller.
pub(crate) struct Controller {
    /// Its name. The names of its bdevs begin with it.
    pub(crate) name: String,
    pub(crate) settings: Settings,
    /// Its addresses.
    pub(crate) trids: Trids,
    pub(crate) path: Arc<Path>,
    connection: RefCell<Option<Connection>>,
    /// Identify Controller.
    data: RefCell<Arc<identify::Controller>>,
    pub(crate) cntlid: Cell<u16>,
    generation: Cell<u64>,
    pub(crate) phase: Cell<Phase>,
    /// The bdevs that it shares with other controllers.
    pub(crate) group: Rc<Group>,
    /// ANA states of the namespaces; `None` when the controller does not report ANA.
    ana: RefCell<Option<BTreeMap<u32, AnaState>>>,
    max_transfer_len: Cell<Option<u64>>,
    /// The smallest page size of the controller, in bytes.
    page_len: Cell<u64>,
    wish: Cell<Option<Wish>>,
    has_ended: Cell<bool>,
    /// Calls that wait until their wish is done.
    calls: RefCell<Vec<task::oneshot::Sender<Result<()>>>>,
    changed: Notify,
}

/// An admin queue that is connected.
struct Connection {
    admin: Rc<Admin>,
    keep_alive: KeepAlive,
    way: Way,
    /// The address that the controller is connected to. A call may have removed this address from the list since.
    trid: Rc<Trid>,
}

/// What a controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Enabled,
    Resetting,
    /// It waits before it connects again.
    Delayed,
    /// A caller disabled it.
    Disabled,
    Deleting,
}

impl Phase {
    /// The reference's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Resetting => "resetting",
            Self::Delayed => "reconnect_is_delayed",
            Self::Disabled => "disabled",
            Self::Deleting => "deleting",
        }
    }
}

/// What a caller wants a controller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Reset,
    Disable,
    Enable,
    Detach,
}

/// What happened last. It decides what [`Controller::follow`] does next.
enum Next {
    Connected,
    /// The connection is lost, and why.
    Lost(String),
    Wish(Wish),
    /// The plugin gives up the controller: it was disconnected for too long, the kernel wants the device back, or the device is gone.
    GivenUp(Error),
}

impl Controller {
    /// Connects a controller and makes bdevs of its namespaces.
    ///
    /// # Errors
    /// The controller could not be connected. Nothing of it is left then.
    pub(crate) async fn attach(
        group: Rc<Group>,
        settings: Settings,
        reach: Reach,
    ) -> Result<Rc<Self>> {
        let path = Path::new(settings.limits);
        let controller = Rc::new(Self {
            name: settings.attach.name.clone(),
            trids: Trids::new(Trid::new(settings.attach.clone(), reach)),
            settings,
            path,
            connection: RefCell::new(None),
            data: RefCell::default(),
            cntlid: Cell::new(0),
            generation: Cell::new(0),
            phase: Cell::new(Phase::Enabled),
            group,
            ana: RefCell::default(),
            max_transfer_len: Cell::new(None),
            page_len: Cell::new(4096),
            wish: Cell::new(None),
            has_ended: Cell::new(false),
            calls: RefCell::default(),
            changed: Notify::new(),
        });
        let found = controller.connect(0).await?;
        if let Err(error) = controller.group.check(&controller) {
            controller.end().await;
            return Err(error);
        }
        controller.group.join(&controller);
        controller.group.converge(&controller, found).await;
        Ok(controller)
    }

    /// Adds an address that replaces the address in use when that one fails.
    ///
    /// # Errors
    /// `EINVAL` when another subsystem answers at the address, `ENODEV` when the controller is being removed, or the error of the
    /// connection.
    pub(crate) async fn add_trid(&self, trid: Trid) -> Result<()> {
        let Enabled { admin, data, .. } =
            enable(&trid.target, 0, 0, self.settings.timeouts).await?;
        if let Err(error) = admin.shut_down().await {
            info!("{}: {}", self.name, error.message());
        }
        let known = self.data();
        if (data.subnqn, data.sn) != (known.subnqn, known.sn) {
            let why = format!("{} is not in the same subsystem as {}", trid.target, self.name);
            return Err(Error::new(errno::EINVAL, why));
        }
        if self.phase.get() == Phase::Deleting {
            return Err(detached());
        }
        self.trids.add(trid);
        Ok(())
    }

    /// The admin queue.
    ///
    /// # Errors
    /// `EIO` when the controller is not connected.
    pub(crate) fn connected(&self) -> Result<Rc<Admin>> {
        self.admin().ok_or_else(Self::is_away)
    }

    /// The error of a call that needs a connected controller.
    pub(crate) fn is_away() -> Error {
        Error::new(errno::EIO, "the controller is not connected")
    }

    /// Follows the controller until its bdevs are gone, then calls `ended`.
    pub(crate) async fn follow(self: Rc<Self>, ended: impl FnOnce()) {
        let mut next = self.stay().await;
        let why = loop {
            next = match next {
                Next::Connected => {
                    info!("{}: connected again", self.name);
                    self.answer_calls(&Ok(()));
                    self.stay().await
                }
                Next::Lost(why) => {
                    warn!("{}: the connection is lost: {why}", self.name);
                    self.leave().await;
                    self.trids.advance();
                    self.reconnect().await
                }
                Next::Wish(Wish::Reset | Wish::Enable) => {
                    self.leave().await;
                    self.reconnect().await
                }
                Next::Wish(Wish::Disable) => self.rest().await,
                Next::Wish(Wish::Detach) => break detached(),
                Next::GivenUp(error) => {
                    error!("{}: {}; its bdevs are removed", self.name, error.message());
                    break error;
                }
            };
        };
        self.phase.set(Phase::Deleting);
        self.answer_calls(&Err(why));
        self.end().await;
        self.has_ended.set(true);
        ended();
    }

    /// Serves a connected controller until its connection is lost or a caller wants something.
    async fn stay(self: &Rc<Self>) -> Next {
        let Some(admin) = self.admin() else {
            return Next::Lost("there is no admin queue".into());
        };
        let events = task::spawn("nvme events", self.clone().events(admin.clone()));
        let timeouts = task::spawn("nvme timeouts", self.clone().watch_timeouts(admin.clone()));
        let ana = task::spawn("nvme ana", self.clone().watch_ana(admin.clone()));
        let generation = self.generation.get();
        let mut of_queue = None;
        let queue_lost = self.path.events.until(|| {
            of_queue = self.path.take_lost(generation);
            of_queue.is_some()
        });
        let wished = self.changed.until(|| self.wish.get().is_some());
        let lost = task::select(admin.lost(), queue_lost);
        let next = match task::select(wished, lost).await {
            Either::Left(()) => Next::Wish(self.wish.take().unwrap_or(Wish::Reset)),
            Either::Right(Either::Left(why)) => Next::Lost(why),
            Either::Right(Either::Right(())) => Next::Lost(String::new()),
        };
        for task in [events, timeouts, ana] {
            match task {
                Ok(mut task) => task.cancel(),
                Err(error) => warn!("{}: {error}", self.name),
            }
        }
        match next {
            // The loss may be noticed before the removal that caused it.
            Next::Lost(why)
                if self.function().is_some_and(|function| function.look_for_removal()) =>
            {
                Next::GivenUp(Error::new(errno::ENODEV, why))
            }
            Next::Lost(why) if why.is_empty() => Next::Lost(of_queue.unwrap_or_default()),
            next => next,
        }
    }

    /// Makes every channel close its connection, then closes the admin queue. The target sees the end of all old connections before it gets
    /// a request for a new one.
    async fn leave(&self) {
        self.phase.set(Phase::Resetting);
        if !self.stop_function("the controller is reset").await
            && let (_, State::Live(live)) = self.path.state()
            && let Some(connection) = &*self.connection.borrow()
        {
            let notices = live.notices_after.map(|time| thread::now_ns() + nanos(time + QUIET));
            self.trids.left(&connection.trid, notices.unwrap_or(u64::MAX));
        }
        if let Some(connection) = &mut *self.connection.borrow_mut() {
            // The target may need up to the keep alive timeout to notice the loss. That time begins now.
            connection.keep_alive.stop();
        }
        self.path.set(State::Away);
        self.path.all_closed().await;
        if let Some(connection) = self.connection.take() {
            connection.admin.give_up("the controller is reset".into());
        }
    }

    /// Stops a controller on PCIe and returns true; returns false on TCP. Channels take their commands back only from a stopped
    /// controller, because it no longer accesses memory. A stopped controller answers nothing, so calls that wait on the admin queue end
    /// with `why`.
    async fn stop_function(&self, why: &str) -> bool {
        let Some(function) = self.function() else { return false };
        function.stop().await;
        if let Some(admin) = self.admin() {
            admin.give_up(why.to_owned());
        }
        true
    }

    /// Connects again within the limits, unless a caller wants something else first. The connections are closed.
    async fn reconnect(self: &Rc<Self>) -> Next {
        let since_ns = thread::now_ns();
        let tries = self.try_to_connect(since_ns + nanos(QUIET));
        let limited = task::select(tries, self.limits_are_over(since_ns));
        let wished =
            self.changed.until(|| matches!(self.wish.get(), Some(Wish::Detach | Wish::Disable)));
        match task::select(limited, wished).await {
            Either::Left(Either::Left(Ok(found))) => {
                self.group.converge(self, found).await;
                Next::Connected
            }
            Either::Left(Either::Left(Err(error)) | Either::Right(error)) => Next::GivenUp(error),
            Either::Right(()) => Next::Wish(self.wish.take().unwrap_or(Wish::Detach)),
        }
    }

    /// Stays disconnected, and I/O fails, until a caller enables or detaches the controller.
    async fn rest(&self) -> Next {
        self.leave().await;
        self.phase.set(Phase::Disabled);
        self.path.set(State::Failing);
        self.answer_calls(&Ok(()));
        self.changed.until(|| self.wish.get().is_some()).await;
        Next::Wish(self.wish.take().unwrap_or(Wish::Detach))
    }

    /// Tries the controller's addresses in turn until one connects.
    ///
    /// # Errors
    /// The machine no longer has the PCI device, for example because somebody pulled it out during a reset.
    async fn try_to_connect(self: &Rc<Self>, quiet_ns: u64) -> Result<Found> {
        let limits = self.settings.limits;
        let delay = match limits.delay_sec {
            0 => DELAY,
            sec => Duration::from_secs(sec.into()),
        };
        let mut tried = 0;
        loop {
            let error = match self.connect(self.trids.quiet_ns(quiet_ns)).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            warn!("{}: {}", self.name, error.message());
            if self.is_pci() && hotplug::is_absent(&self.settings.attach.traddr) {
                return Err(error);
            }
            tried += 1;
            self.trids.advance();
            if tried % self.trids.count() != 0 {
                continue;
            }
            if limits.loss_sec == 0 {
                self.fail_io(error);
            }
            self.phase.set(Phase::Delayed);
            let reset = self.changed.until(|| self.wish.get() == Some(Wish::Reset));
            if let Either::Left(()) = task::select(reset, task::sleep(delay)).await {
                self.wish.take();
            }
            self.phase.set(Phase::Resetting);
        }
    }

    /// Waits until the controller has been disconnected for too long. Fails I/O after `fast_io_fail_timeout_sec`, even during an attempt
    /// to connect.
    async fn limits_are_over(&self, since_ns: u64) -> Error {
        let Limits { loss_sec, fast_fail_sec, .. } = self.settings.limits;
        let at = |sec: u32| since_ns + nanos(Duration::from_secs(sec.into()));
        let away = |sec: u32| Error::new(errno::ETIMEDOUT, format!("not connected for {sec} s"));
        if fast_fail_sec > 0 {
            task::sleep_until(at(fast_fail_sec)).await;
            self.fail_io(away(fast_fail_sec));
        }
        match u32::try_from(loss_sec) {
            Ok(sec) if sec > 0 => {
                task::sleep_until(at(sec)).await;
                away(sec)
            }
            _ => std::future::pending().await,
        }
    }

    /// Fails the calls that wait for the controller. From now until the controller is connected, I/O fails instead of waiting.
    fn fail_io(&self, why: Error) {
        self.path.set(State::Failing);
        self.answer_calls(&Err(why));
    }

    /// Answers every call that waits.
    fn answer_calls(&self, answer: &Result<()>) {
        for waiting in self.calls.borrow_mut().drain(..) {
            let _ = waiting.send(answer.clone());
        }
    }

    /// Connects, looks at the namespaces, and tells the channels; returns the namespaces for [`Group::converge`]. `quiet_ns`: when
    /// commands of earlier connections can no longer execute. Dropping the future undoes everything.
    async fn connect(self: &Rc<Self>, quiet_ns: u64) -> Result<Found> {
        let Settings { keep_alive_ms, num_queues, timeouts, .. } = self.settings;
        // A call may remove the address meanwhile.
        let trid = self.trids.current();
        let Enabled { admin, keep_alive, way, cntlid, cap, data, num_queues } =
            enable(&trid.target, keep_alive_ms, num_queues, timeouts).await?;
        admin.inject(&self.path);
        let entries = cap.mqes.saturating_add(1).min(IO_ENTRIES);
        let capsule = data.ioccsz.saturating_mul(16).saturating_sub(64).min(64 << 10);
        let in_capsule_len = if data.icdoff == 0 { capsule } else { 0 };
        let page = 4096u64 << cap.mpsmin;
        self.page_len.set(page);
        let max_len = (data.mdts > 0).then(|| page << data.mdts.min(16));
        self.max_transfer_len.set(match &way {
            Way::Tcp(_) => max_len,
            Way::Pci(_) => Some(max_len.unwrap_or(u64::MAX).min(pci::len_max())),
        });
        let notices_after = notices_after(keep_alive_ms, &data);
        *self.data.borrow_mut() = Arc::new(data);
        self.cntlid.set(cntlid);

        let found = self.look_at_namespaces(&admin).await?;
        self.read_ana(&admin).await?;
        if !self.trids.has(&trid) {
            let why = format!("{} was removed while it was connected", trid.target);
            return Err(Error::new(errno::ENODEV, why));
        }
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let live = Arc::new(Live::new(
            generation,
            way.clone(),
            cntlid,
            entries,
            in_capsule_len,
            quiet_ns,
            notices_after,
            self.usable(&found),
            num_queues,
        ));
        self.connection.replace(Some(Connection { admin, keep_alive, way, trid }));
        self.path.set(State::Live(live));
        self.phase.set(Phase::Enabled);
        Ok(found)
    }

    /// The admin queue, while the controller is connected.
    pub(crate) fn admin(&self) -> Option<Rc<Admin>> {
        self.connection.borrow().as_ref().map(|connection| Rc::clone(&connection.admin))
    }

    /// Whether it is on PCIe.
    pub(crate) fn is_pci(&self) -> bool {
        self.settings.attach.is_pci()
    }

    /// The open PCI function of the controller; `None` on TCP and while the function is closed.
    fn function(&self) -> Option<Arc<Function>> {
        match &self.connection.borrow().as_ref()?.way {
            Way::Tcp(_) => None,
            Way::Pci(function) => Some(Arc::clone(function)),
        }
    }

    /// Identify Controller, as of the last connection.
    pub(crate) fn data(&self) -> Arc<identify::Controller> {
        Arc::clone(&self.data.borrow())
    }

    /// Waits for events, and handles them.
    async fn events(self: Rc<Self>, admin: Rc<Admin>) {
        loop {
            let command = Command::new(opcode::admin::ASYNC_EVENT_REQUEST);
            let answer = admin.send("Asynchronous Event Request", command, Data::None).await;
            let Ok(answer) = answer.and_then(|answer| answer.ok("Asynchronous Event Request"))
            else {
                return;
            };
            let event = AsyncEvent::from_dw0(answer.completion.dw0());
            debug!("{}: event {event:?}", self.name);
            if event == AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED {
                // Reading the log lets the controller send the next event. Its content is not used: all namespaces are looked at.
                let log = admin.log_page(lid::CHANGED_NAMESPACES, NSID_ALL, 0, 4096).await;
                let result = match log {
                    Ok(_) => self.rescan(&admin).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    warn!(
                        "{}: the namespaces changed, but could not be read: {}",
                        self.name,
                        error.message()
                    );
                }
            } else if event == AsyncEvent::ANA_CHANGE {
                if !self.ana_changed(&admin).await {
                    // Another task reads it again.
                    self.path.doubt_ana();
                }
            } else if event.lid != 0 {
                // Reading the log lets the controller send the next event.
                let _ = admin.log_page(event.lid, NSID_ALL, 0, 512).await;
            }
        }
    }

    /// Resets, disables or enables the controller, and waits until that is done.
    ///
    /// # Errors
    /// `ENXIO` when the controller is being removed; `EALREADY` when it is disabled or already in the requested state; `EBUSY` when it is
    /// being reset; or the error of the connection.
    pub(crate) async fn control(&self, wish: Wish) -> Result<()> {
        let refused = |errno, why: &str| Err(Error::new(errno, why));
        let phase = self.phase.get();
        match (phase, wish) {
            (Phase::Deleting, _) => return refused(ENXIO, "the controller is being removed"),
            (Phase::Disabled, Wish::Reset | Wish::Disable) => {
                return refused(EALREADY, "the controller is disabled");
            }
            (Phase::Enabled | Phase::Resetting | Phase::Delayed, Wish::Enable) => {
                return refused(EALREADY, "the controller is not disabled");
            }
            (Phase::Resetting, Wish::Disable) => {
                return refused(errno::EBUSY, "the controller is being reset");
            }
            _ => {}
        }
        let (sender, receiver) = task::oneshot::channel();
        self.calls.borrow_mut().push(sender);
        if phase != Phase::Resetting {
            self.wish(wish);
        }
        receiver.await.unwrap_or_else(|_| Err(detached()))
    }

    /// Whether it is removed.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Asks for the controller's end: [`Self::follow`] ends when its bdevs are gone.
    pub(crate) fn detach(&self) {
        self.wish(Wish::Detach);
    }

    fn wish(&self, wish: Wish) {
        // A detach overrides everything else.
        if self.wish.get() != Some(Wish::Detach) {
            self.wish.set(Some(wish));
        }
        self.changed.notify();
    }

    /// Removes the bdevs that have no other path, then shuts the controller down.
    async fn end(&self) {
        if self.function().is_some_and(|function| function.look_for_removal()) {
            // The kernel waits for the device, so the plugin does not wait for outstanding commands.
            self.stop_function("the kernel wants the device back").await;
            self.path.set(State::Failing);
        }
        // I/O that waits must not keep the bdevs.
        match self.path.state() {
            (_, State::Live(live)) => {
                live.begin_end();
                self.path.touch();
            }
            _ => self.path.set(State::Failing),
        }
        // Outstanding commands may still end on this path.
        let mut drained = pin!(async {
            self.group.leave(self).await;
            self.path.all_closed().await;
        });
        let is_drained = task::timeout(DRAIN, drained.as_mut()).await.is_ok();
        if !is_drained {
            self.stop_function("the controller was detached").await;
        }
        self.path.set(State::Gone);
        if !is_drained {
            warn!("{}: its last commands took longer than {DRAIN:?} and are given up", self.name);
            drained.await;
        }
        self.path.all_closed().await;
        let Some(Connection { admin, way, .. }) = self.connection.take() else { return };
        let shut_down = match &way {
            Way::Tcp(_) => admin.shut_down().await,
            Way::Pci(function) if function.is_stopped() => Ok(()),
            Way::Pci(function) => {
                let rtd3e = Duration::from_micros(self.data().rtd3e.into());
                let shut_down = function.shut_down(rtd3e).await;
                function.stop().await;
                shut_down
            }
        };
        if let Err(error) = shut_down {
            info!("{}: {}", self.name, error.message());
        }
        // End the calls that still wait for an answer, because each of them keeps the connection open.
        admin.give_up("the controller was detached".into());
    }
}

fn detached() -> Error {
    Error::new(errno::ENODEV, "the controller was detached")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
