//! What the channels of all threads know about a controller: whether it is connected, and how to connect an I/O queue to it.
//!
//! The app thread changes the state, and each channel follows. Every connection of a controller has its own generation number, so a
//! channel that opens or closes in the middle of a reset needs no special treatment.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drivebay_nvme_driver::qpair::Agreed;
use drivebay_nvme_driver::spec::fabrics::Connect;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;

use crate::dial::Dialed;
use crate::inject::Injections;
use crate::options::Limits;
use crate::pci::queue;
use crate::reach::{Opened, Way};

/// A controller, as channels see it.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It is not connected: I/O waits.
    Away,
    /// It is not connected, and I/O fails.
    Failing,
    /// It is connected.
    Live(Arc<Live>),
    /// It is removed.
    Gone,
}

/// How well a controller serves a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// The namespace identifier now belongs to another disk.
    Unusable,
    /// Not now: the ANA state is Inaccessible, Persistent Loss or Change.
    Inaccessible,
    NonOptimized,
    /// The best state. Namespaces of a controller that does not report ANA have this state.
    Optimized,
}

/// A connected controller.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) generation: u64,
    pub(crate) way: Way,
    pub(crate) cntlid: u16,
    /// Entries in an I/O queue.
    pub(crate) entries: u16,
    /// Longest data in a capsule of an I/O queue, in bytes.
    pub(crate) in_capsule_len: u32,
    /// When commands of earlier connections can no longer execute, on the host's clock in nanoseconds.
    pub(crate) quiet_ns: u64,
    /// How long the controller may take to notice that its host is gone; `None` = forever.
    pub(crate) notices_after: Option<Duration>,
    /// It is being removed: I/O does not wait for a queue that it refuses.
    is_ending: AtomicBool,
    /// Namespaces that the controller lists, and how well it serves them.
    namespaces: Mutex<BTreeMap<u32, Access>>,
    /// Identifiers of I/O queues that are free. The one that was freed last is used last.
    free_qids: Mutex<VecDeque<u16>>,
}

impl Live {
    #[expect(clippy::too_many_arguments, reason = "the same steps find all of them")]
    pub(crate) fn new(
        generation: u64,
        way: Way,
        cntlid: u16,
        entries: u16,
        in_capsule_len: u32,
        quiet_ns: u64,
        notices_after: Option<Duration>,
        namespaces: BTreeMap<u32, Access>,
        num_queues: u16,
    ) -> Self {
        let free_qids = Mutex::new((1..=num_queues).collect());
        let namespaces = Mutex::new(namespaces);
        Self {
            generation,
            way,
            cntlid,
            entries,
            in_capsule_len,
            quiet_ns,
            notices_after,
            is_ending: AtomicBool::new(false),
            namespaces,
            free_qids,
        }
    }

    /// How well the controller serves a namespace; `None` when it does not list it.
    pub(crate) fn serves(&self, nsid: u32) -> Option<Access> {
        lock(&self.namespaces).get(&nsid).copied()
    }

    /// Whether the controller is being removed.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Says how well the controller serves its namespaces. [`Path::touch`] tells the channels.
    pub(crate) fn set_namespaces(&self, namespaces: BTreeMap<u32, Access>) {
        *lock(&self.namespaces) = namespaces;
    }

    /// Changes how well the controller serves the namespaces that may be used. [`Path::touch`] tells the channels.
    pub(crate) fn update_access(&self, access: impl Fn(u32) -> Access) {
        for (nsid, known) in lock(&self.namespaces).iter_mut() {
            if *known > Access::Unusable {
                *known = access(*nsid);
            }
        }
    }

    /// Prepares the controller's end. I/O of namespaces that may not be used fails from now on, and so does I/O that waits for a queue
    /// that the controller refuses. [`Path::touch`] tells the channels.
    pub(crate) fn begin_end(&self) {
        self.is_ending.store(true, Ordering::Release);
        lock(&self.namespaces).retain(|_, access| *access > Access::Inaccessible);
    }
}

/// Maximum number of reports of commands that take too long.
const OVERDUE_MAX: usize = 64;

/// A command that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// The connection of the controller that the command belongs to.
    pub(crate) generation: u64,
    pub(crate) qid: u16,
    pub(crate) cid: u16,
    /// How many timeouts have passed: 1 or 2.
    pub(crate) times: u8,
}

/// A controller, shared by the app thread and the channels.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) limits: Limits,
    state: Mutex<State>,
    /// Counts the changes of `state`.
    version: AtomicU64,
    changed: Notify,
    /// How many I/O connections are open.
    open: AtomicU64,
    /// Wakes the app thread when an I/O connection is closed or lost.
    pub(crate) events: Notify,
    /// Commands that take too long.
    overdue: Mutex<Vec<Overdue>>,
    /// Whether a command has ended with an ANA status that its channel did not expect.
    is_ana_doubted: AtomicBool,
    /// The latest generation in which a channel lost its connection, and why.
    lost: Mutex<Option<(u64, String)>>,
    /// Errors that an operator injects into commands.
    pub(crate) admin_injections: Injections,
    pub(crate) io_injections: Injections,
}

impl Path {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::new(State::Away),
            version: AtomicU64::new(1),
            changed: Notify::new(),
            open: AtomicU64::new(0),
            events: Notify::new(),
            overdue: Mutex::default(),
            is_ana_doubted: AtomicBool::new(false),
            lost: Mutex::new(None),
            admin_injections: Injections::default(),
            io_injections: Injections::default(),
        })
    }

    /// The version number and the state.
    pub(crate) fn state(&self) -> (u64, State) {
        let state = lock(&self.state);
        (self.version.load(Ordering::Acquire), state.clone())
    }

    /// Changes the state. `[app thread]`
    pub(crate) fn set(&self, to: State) {
        let mut state = lock(&self.state);
        *state = to;
        self.version.fetch_add(1, Ordering::Release);
        drop(state);
        self.changed.notify();
    }

    /// Tells the channels about a change inside the same state, such as which namespaces may be used. `[app thread]`
    pub(crate) fn touch(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify();
    }

    /// Waits until the version is no longer this one. `[any lightweight thread]`
    pub(crate) async fn changed_from(&self, version: u64) {
        self.changed.until(|| self.version.load(Ordering::Acquire) != version).await;
    }

    /// Waits until the controller is no longer connected in this generation. `[any lightweight thread]`
    pub(crate) async fn generation_is_over(&self, generation: u64) {
        let is_live =
            |state: &State| matches!(state, State::Live(live) if live.generation == generation);
        self.changed.until(|| !is_live(&lock(&self.state))).await;
    }

    /// Records that a channel lost a connection of this generation. `[any lightweight thread]`
    pub(crate) fn report_lost(&self, generation: u64, why: String) {
        let mut lost = lock(&self.lost);
        // A late report about an older connection must not hide this one.
        if lost.as_ref().is_none_or(|(of, _)| *of < generation) {
            *lost = Some((generation, why));
        }
        drop(lost);
        self.events.notify();
    }

    /// Takes the report of a channel that lost its connection, and returns the reason. Drops a report about another generation. `[app
    /// thread]`
    pub(crate) fn take_lost(&self, generation: u64) -> Option<String> {
        let (of, why) = lock(&self.lost).take()?;
        (of == generation).then_some(why)
    }

    /// Reports a command that takes too long; false when the list of reports is full. `[any lightweight thread]`
    pub(crate) fn report_overdue(&self, overdue: Overdue) -> bool {
        let mut all = lock(&self.overdue);
        let has_room = all.len() < OVERDUE_MAX;
        if has_room {
            all.push(overdue);
        }
        drop(all);
        self.events.notify();
        has_room
    }

    /// Takes the commands that take too long. `[app thread]`
    pub(crate) fn take_overdue(&self) -> Vec<Overdue> {
        std::mem::take(&mut *lock(&self.overdue))
    }

    /// Asks for the ANA log to be read, because a command has ended with an ANA status. `[any lightweight thread]`
    pub(crate) fn doubt_ana(&self) {
        self.is_ana_doubted.store(true, Ordering::Release);
        self.events.notify();
    }

    /// Waits until a channel reports that the ANA states may be out of date. `[app thread]`
    pub(crate) async fn ana_is_doubted(&self) {
        self.events.until(|| self.is_ana_doubted.swap(false, Ordering::AcqRel)).await;
    }

    /// Waits until no I/O connection is open. `[app thread]`
    pub(crate) async fn all_closed(&self) {
        self.events.until(|| self.open.load(Ordering::Acquire) == 0).await;
    }
}

/// The right to use one I/O queue identifier of a connected controller. The owner drops it after it has closed the socket.
#[derive(Debug)]
pub(crate) struct Ticket {
    path: Arc<Path>,
    live: Arc<Live>,
    pub(crate) qid: u16,
    /// The identifier is not used again in this connection.
    is_retired: bool,
}

impl Ticket {
    /// Takes a queue identifier.
    ///
    /// # Errors
    /// `EAGAIN` when all are in use.
    pub(crate) fn take(path: &Arc<Path>, live: &Arc<Live>) -> Result<Self> {
        let qid = lock(&live.free_qids).pop_front().ok_or_else(|| {
            Error::new(errno::EAGAIN, "all I/O queues that the controller allows are in use")
        })?;
        path.open.fetch_add(1, Ordering::AcqRel);
        Ok(Self { path: Arc::clone(path), live: Arc::clone(live), qid, is_retired: false })
    }

    /// Ends the ticket of a queue that the controller may still have. Nobody uses the identifier again in this connection.
    pub(crate) fn retire(mut self) {
        self.is_retired = true;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Reports that the queue is lost. `[any lightweight thread]`
    pub(crate) fn report_lost(&self, why: String) {
        self.path.report_lost(self.live.generation, why);
    }

    /// Opens the queue.
    pub(crate) async fn open(self) -> Result<Opened> {
        let live = Arc::clone(&self.live);
        let target = match &live.way {
            Way::Tcp(target) => target,
            Way::Pci(function) => {
                let opening = queue::open(self, Arc::clone(function), live.entries);
                return opening.await.map(Opened::Ring);
            }
        };
        let sqsize = live.entries.saturating_sub(1).max(1);
        let connect = Connect { qid: self.qid, sqsize, ..Connect::default() };
        let Dialed { stream, agreed, .. } = target.dial(connect, live.cntlid).await?;
        let agreed = Agreed { in_capsule_len: live.in_capsule_len, ..agreed };
        Ok(Opened::Socket(stream, agreed, self))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_retired {
            lock(&self.live.free_qids).push_back(self.qid);
        }
        self.path.open.fetch_sub(1, Ordering::AcqRel);
        self.path.events.notify();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
