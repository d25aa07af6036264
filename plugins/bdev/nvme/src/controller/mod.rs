//! A controller: connected, watched, connected again when it was lost. `[app thread]`
//!
//! One task follows it from its first connection to its end ([`Controller::follow`]). Who wants something of it, such as a reset,
//! leaves a word and wakes that task, so nothing of a controller ever happens twice at once.

pub(crate) mod bring_up;
mod namespaces;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_nvme_driver::spec::event::AsyncEvent;
use drivebay_nvme_driver::spec::identify;
use drivebay_nvme_driver::spec::log::lid;
use drivebay_nvme_driver::spec::{Command, NSID_ALL, opcode};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either, JoinHandle};
use drivebay_sdk::thread;

use crate::admin::Admin;
use crate::bdev::{Identified, Shared};
use crate::dial::Target;
use crate::options::Limits;
use crate::path::{Live, Path, State};
use crate::rpc::Attach;
use bring_up::{Enabled, enable};

/// Entries of an I/O queue, as far as the controller has as many.
const IO_ENTRIES: u16 = 257;
/// Between two tries to connect where the operator names no time.
const DELAY: Duration = Duration::from_secs(1);
/// How long a write is held back whose connection was lost, before it is sent again by a new one. A target has closed the old
/// connection when it answers Connect; what of it still executes in the target has this long to end.
const QUIET: Duration = Duration::from_secs(2);

/// How a controller is used, from the call that attached it and the options.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) attach: Attach,
    pub(crate) limits: Limits,
    pub(crate) keep_alive_ms: u32,
    pub(crate) num_queues: u16,
    pub(crate) retry_count: i32,
    pub(crate) enable_flush: bool,
}

/// A controller.
pub(crate) struct Controller {
    /// Name of its bdevs, without the number.
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) target: Target,
    pub(crate) path: Arc<Path>,
    admin: RefCell<Option<Rc<Admin>>>,
    /// Identify Controller.
    data: RefCell<Arc<identify::Controller>>,
    pub(crate) cntlid: Cell<u16>,
    generation: Cell<u64>,
    pub(crate) phase: Cell<Phase>,
    /// Bdevs, by namespace.
    bdevs: RefCell<BTreeMap<u32, Identified>>,
    max_transfer_len: Cell<Option<u64>>,
    wish: Cell<Option<Wish>>,
    /// Counts the resets that have ended, well or not.
    resets: RefCell<Vec<task::oneshot::Sender<Result<()>>>>,
    changed: Notify,
}

/// What a controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Enabled,
    Resetting,
    /// It waits before it connects again.
    Delayed,
    Deleting,
}

impl Phase {
    /// The reference's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Resetting => "resetting",
            Self::Delayed => "reconnect_is_delayed",
            Self::Deleting => "deleting",
        }
    }
}

/// What somebody wants of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Reset,
    Detach,
}

/// Why a connection ended.
enum End {
    Lost(String),
    Wish(Wish),
}

impl Controller {
    /// Connects a controller and makes bdevs of its namespaces.
    ///
    /// # Errors
    /// It could not be connected; nothing is left of it then.
    pub(crate) async fn attach(settings: Settings, target: Target) -> Result<Rc<Self>> {
        let path = Path::new();
        let controller = Rc::new(Self {
            name: settings.attach.name.clone(),
            settings,
            target,
            path,
            admin: RefCell::new(None),
            data: RefCell::default(),
            cntlid: Cell::new(0),
            generation: Cell::new(0),
            phase: Cell::new(Phase::Enabled),
            bdevs: RefCell::default(),
            max_transfer_len: Cell::new(None),
            wish: Cell::new(None),
            resets: RefCell::default(),
            changed: Notify::new(),
        });
        controller.connect(0).await?;
        Ok(controller)
    }

    /// Names of the bdevs.
    pub(crate) fn bdev_names(&self) -> Vec<String> {
        self.bdevs.borrow().keys().map(|nsid| self.bdev_name(*nsid)).collect()
    }

    fn bdev_name(&self, nsid: u32) -> String {
        format!("{}n{nsid}", self.name)
    }

    /// Follows the controller to its end, when its bdevs are gone. `ended` is called then.
    pub(crate) async fn follow(self: Rc<Self>, ended: impl FnOnce()) {
        loop {
            let end = self.stay().await;
            let since_ns = thread::now_ns();
            match &end {
                End::Lost(why) => warn!("{}: the connection is lost: {why}", self.name),
                End::Wish(Wish::Reset) => info!("{}: reset", self.name),
                End::Wish(Wish::Detach) => break,
            }
            self.leave().await;
            let connected = self.come_back(since_ns).await;
            let answer = connected.as_ref().map(|_| ()).map_err(Clone::clone);
            for waiting in self.resets.borrow_mut().drain(..) {
                let _ = waiting.send(answer.clone());
            }
            match connected {
                Ok(true) => info!("{}: connected again", self.name),
                Ok(false) => break,
                Err(error) => {
                    error!("{}: {}; its bdevs are removed", self.name, error.message());
                    break;
                }
            }
        }
        self.phase.set(Phase::Deleting);
        self.end().await;
        ended();
    }

    /// Serves a controller that is connected, until something is amiss or wanted.
    async fn stay(self: &Rc<Self>) -> End {
        let Some(admin) = self.admin.borrow().clone() else {
            return End::Lost("there is no admin queue".into());
        };
        let mut tasks: Vec<JoinHandle<()>> = Vec::new();
        tasks.extend(task::spawn("nvme keep alive", self.clone().keep_alive(admin.clone())).ok());
        tasks.extend(task::spawn("nvme events", self.clone().events(admin.clone())).ok());
        let generation = self.generation.get();
        let mut of_queue = None;
        let queue_lost = self.path.events.until(|| {
            of_queue = self.path.take_lost(generation);
            of_queue.is_some()
        });
        let wished = self.changed.until(|| self.wish.get().is_some());
        let lost = task::select(admin.lost(), queue_lost);
        let end = match task::select(wished, lost).await {
            Either::Left(()) => End::Wish(self.wish.take().unwrap_or(Wish::Reset)),
            Either::Right(Either::Left(why)) => End::Lost(why),
            Either::Right(Either::Right(())) => End::Lost(String::new()),
        };
        for task in &mut tasks {
            task.cancel();
        }
        match end {
            End::Lost(why) if why.is_empty() => End::Lost(of_queue.unwrap_or_default()),
            end => end,
        }
    }

    /// Has every channel close its connection, then closes the admin queue: the target sees the end of all of them before it is asked
    /// for new ones.
    async fn leave(&self) {
        self.phase.set(Phase::Resetting);
        self.path.set(State::Away);
        self.path.all_closed().await;
        self.admin.replace(None);
    }

    /// Connects again. `false`: somebody wants it detached meanwhile.
    async fn come_back(self: &Rc<Self>, since_ns: u64) -> Result<bool> {
        let limits = self.settings.limits;
        let delay = match limits.delay_sec {
            0 => DELAY,
            sec => Duration::from_secs(sec.into()),
        };
        loop {
            let error = match self.connect(since_ns + nanos(QUIET)).await {
                Ok(()) => return Ok(true),
                Err(error) => error,
            };
            let away = Duration::from_nanos(thread::now_ns().saturating_sub(since_ns));
            let is_over = |sec: u32| sec > 0 && away >= Duration::from_secs(sec.into());
            let loss_sec = u32::try_from(limits.loss_sec).unwrap_or(0);
            if is_over(loss_sec) {
                let why = format!("not connected for {loss_sec} s: {}", error.message());
                return Err(Error::new(error.errno(), why));
            }
            warn!("{}: {}", self.name, error.message());
            if limits.loss_sec == 0 || is_over(limits.fast_fail_sec) {
                self.path.set(State::Failing);
                self.fail_resets(&error);
            }
            self.phase.set(Phase::Delayed);
            let wished = self.changed.until(|| self.wish.get().is_some());
            if let Either::Left(()) = task::select(wished, task::sleep(delay)).await
                && self.wish.take() == Some(Wish::Detach)
            {
                return Ok(false);
            }
            self.phase.set(Phase::Resetting);
        }
    }

    fn fail_resets(&self, error: &Error) {
        for waiting in self.resets.borrow_mut().drain(..) {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// Connects, looks at the namespaces, and tells the channels. `quiet_ns`: when nothing of an earlier connection executes any more.
    async fn connect(self: &Rc<Self>, quiet_ns: u64) -> Result<()> {
        let Settings { keep_alive_ms, num_queues, .. } = self.settings;
        let Enabled { admin, cntlid, cap, data, num_queues } =
            enable(&self.target, keep_alive_ms, num_queues).await?;
        let entries = cap.mqes.saturating_add(1).min(IO_ENTRIES);
        let capsule = data.ioccsz.saturating_mul(16).saturating_sub(64).min(64 << 10);
        let in_capsule_len = if data.icdoff == 0 { capsule } else { 0 };
        let page = 4096u64 << cap.mpsmin;
        self.max_transfer_len.set((data.mdts > 0).then(|| page << data.mdts.min(16)));
        *self.data.borrow_mut() = Arc::new(data);
        self.cntlid.set(cntlid);

        let (found, _) = self.look_at_namespaces(&admin).await?;
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let live = Arc::new(Live::new(
            generation,
            self.target.clone(),
            cntlid,
            entries,
            in_capsule_len,
            quiet_ns,
            self.usable(&found),
            num_queues,
        ));
        *self.admin.borrow_mut() = Some(Rc::new(admin));
        self.path.set(State::Live(live));
        self.phase.set(Phase::Enabled);
        self.converge(found).await;
        Ok(())
    }

    /// What a bdev shares with this controller.
    fn shared(&self) -> Shared {
        Shared {
            path: Arc::clone(&self.path),
            controller: Arc::clone(&self.data.borrow()),
            max_transfer_len: self.max_transfer_len.get(),
            retry_count: self.settings.retry_count,
            enable_flush: self.settings.enable_flush,
        }
    }

    /// Identify Controller, as it was when connecting.
    pub(crate) fn data(&self) -> Arc<identify::Controller> {
        Arc::clone(&self.data.borrow())
    }

    /// Asks for keep alives to be answered.
    async fn keep_alive(self: Rc<Self>, admin: Rc<Admin>) {
        let kato_ms = self.settings.keep_alive_ms;
        if kato_ms == 0 {
            return;
        }
        let period = Duration::from_millis(u64::from(kato_ms / 2).max(1));
        loop {
            task::sleep(period).await;
            let answer = task::timeout(period * 2, admin.keep_alive()).await;
            match answer.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                Ok(()) => {}
                Err(error) => return admin.give_up(format!("keep alive: {}", error.message())),
            }
        }
    }

    /// Waits for events.
    async fn events(self: Rc<Self>, admin: Rc<Admin>) {
        loop {
            let command = Command::new(opcode::admin::ASYNC_EVENT_REQUEST);
            let answer = admin.wait("Asynchronous Event Request", command).await;
            let Ok(answer) = answer.and_then(|answer| answer.ok("Asynchronous Event Request"))
            else {
                return;
            };
            let event = AsyncEvent::from_dw0(answer.completion.dw0());
            debug!("{}: event {event:?}", self.name);
            if event == AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED {
                // Reading the log asks for the next event; what changed is looked at anyway.
                let log = admin.log_page(lid::CHANGED_NAMESPACES, NSID_ALL, 0, 4096).await;
                let result = match log {
                    Ok(_) => self.rescan(&admin).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    warn!("{}: namespaces have changed: {}", self.name, error.message());
                }
            } else if event.lid != 0 {
                // Reading its log asks for the next one.
                let _ = admin.log_page(event.lid, NSID_ALL, 0, 512).await;
            }
        }
    }

    /// Resets the controller: it is connected anew. I/O waits meanwhile.
    pub(crate) async fn reset(&self) -> Result<()> {
        let (sender, receiver) = task::oneshot::channel();
        self.resets.borrow_mut().push(sender);
        if self.phase.get() != Phase::Resetting {
            self.wish(Wish::Reset);
        }
        let ended = receiver.await;
        ended.unwrap_or_else(|_| Err(Error::new(errno::ENODEV, "the controller was detached")))
    }

    /// Has the controller end: [`Self::follow`] ends when its bdevs are gone.
    pub(crate) fn detach(&self) {
        self.wish(Wish::Detach);
    }

    fn wish(&self, wish: Wish) {
        // Who wants it gone wants nothing else any more.
        if self.wish.get() != Some(Wish::Detach) {
            self.wish.set(Some(wish));
        }
        self.changed.notify();
    }

    /// Takes the bdevs off the bus, then shuts the controller down.
    async fn end(&self) {
        if !matches!(self.path.state().1, State::Live(_)) {
            // I/O that waits for it must not keep its bdevs.
            self.path.set(State::Failing);
        }
        self.remove_all().await;
        self.path.set(State::Gone);
        self.path.all_closed().await;
        let admin = self.admin.take();
        if let Some(admin) = admin
            && let Err(error) = admin.shut_down().await
        {
            info!("{}: {}", self.name, error.message());
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
