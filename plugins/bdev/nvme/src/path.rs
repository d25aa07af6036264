//! What the channels of all threads know of a controller: whether it is connected, and how to connect an I/O queue to it.
//!
//! The app thread changes it; each channel hears of the change and follows. A connected controller has a generation of its own, so
//! a channel that comes or goes in the middle of a reset is one case among others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drivebay_sdk::runtime::notify::Notify;

use crate::dial::Target;

/// A controller, as channels see it.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It is not connected: I/O waits.
    Away,
    /// It is not connected, and I/O waits no longer.
    Failing,
    /// It is connected.
    Live(Arc<Live>),
    /// It is gone for good.
    Gone,
}

/// A connected controller.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) generation: u64,
    pub(crate) target: Target,
    pub(crate) cntlid: u16,
    /// Entries of an I/O queue.
    pub(crate) entries: u16,
    /// Longest data in a capsule of an I/O queue, in bytes.
    pub(crate) in_capsule_len: u32,
    /// The host's clock, in nanoseconds, from which on nothing of an earlier connection can execute any more.
    pub(crate) quiet_ns: u64,
    /// Namespaces that are what their bdevs were made of, with their block sizes.
    pub(crate) namespaces: Mutex<BTreeMap<u32, u32>>,
    /// Identifiers of I/O queues that nobody uses. The one that was given back last is used last.
    free_qids: Mutex<VecDeque<u16>>,
}

impl Live {
    #[expect(clippy::too_many_arguments, reason = "all of it was found out together")]
    pub(crate) fn new(
        generation: u64,
        target: Target,
        cntlid: u16,
        entries: u16,
        in_capsule_len: u32,
        quiet_ns: u64,
        namespaces: BTreeMap<u32, u32>,
        num_queues: u16,
    ) -> Self {
        let free_qids = Mutex::new((1..=num_queues).collect());
        let namespaces = Mutex::new(namespaces);
        Self {
            generation,
            target,
            cntlid,
            entries,
            in_capsule_len,
            quiet_ns,
            namespaces,
            free_qids,
        }
    }

    /// Whether a namespace may be used.
    pub(crate) fn serves(&self, nsid: u32) -> bool {
        lock(&self.namespaces).contains_key(&nsid)
    }
}

/// A controller, shared by the app thread and the channels.
#[derive(Debug)]
pub(crate) struct Path {
    state: Mutex<State>,
    /// Counts the changes of `state`.
    version: AtomicU64,
    changed: Notify,
    /// I/O connections that are open.
    open: AtomicU64,
    /// What the app thread waits for: an I/O connection closed, or was lost.
    pub(crate) events: Notify,
    /// The generation of which a channel lost a connection, and why.
    lost: Mutex<Option<(u64, String)>>,
}

impl Path {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Away),
            version: AtomicU64::new(1),
            changed: Notify::new(),
            open: AtomicU64::new(0),
            events: Notify::new(),
            lost: Mutex::new(None),
        })
    }

    /// The state, and its number.
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

    /// Says that something of the same state has changed, such as which namespaces are served. `[app thread]`
    pub(crate) fn touch(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify();
    }

    /// Waits until the state is not the one with this number any more. `[any lightweight thread]`
    pub(crate) async fn changed_from(&self, version: u64) {
        self.changed.until(|| self.version.load(Ordering::Acquire) != version).await;
    }

    /// A channel lost a connection of this generation. `[any lightweight thread]`
    pub(crate) fn report_lost(&self, generation: u64, why: String) {
        lock(&self.lost).get_or_insert((generation, why));
        self.events.notify();
    }

    /// Why a channel lost a connection of this generation, if one did; what was said of others is forgotten. `[app thread]`
    pub(crate) fn take_lost(&self, generation: u64) -> Option<String> {
        let (of, why) = lock(&self.lost).take()?;
        (of == generation).then_some(why)
    }

    /// Waits until no I/O connection is open. `[app thread]`
    pub(crate) async fn all_closed(&self) {
        self.events.until(|| self.open.load(Ordering::Acquire) == 0).await;
    }
}

/// The right to have one I/O queue of a connected controller, until it is dropped, which is after its socket was closed.
#[derive(Debug)]
pub(crate) struct Ticket {
    path: Arc<Path>,
    live: Arc<Live>,
    pub(crate) qid: u16,
}

impl Ticket {
    /// Takes a queue identifier; `None` when the controller gives no more.
    pub(crate) fn take(path: &Arc<Path>, live: &Arc<Live>) -> Option<Self> {
        let qid = lock(&live.free_qids).pop_front()?;
        path.open.fetch_add(1, Ordering::AcqRel);
        Some(Self { path: Arc::clone(path), live: Arc::clone(live), qid })
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.live.free_qids).push_back(self.qid);
        self.path.open.fetch_sub(1, Ordering::AcqRel);
        self.path.events.notify();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
