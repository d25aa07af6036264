//! One thread's way over one path: a connection while the controller is connected, and the task that follows the controller.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_nvme_driver::qpair::Qpair;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::{self, Either, JoinHandle};
use drivebay_sdk::thread;

use crate::io::Request;
use crate::path::{Access, Live, Path, State, Ticket};
use crate::reach::Opened;
use crate::stats::LegCounts;

/// How long a leg waits before it tries again when the controller is connected but refuses the I/O queue.
const QUEUE_DELAY: Duration = Duration::from_millis(500);

/// A leg of a channel.
pub(crate) struct Leg {
    /// Names the leg in its channel.
    pub(crate) id: u64,
    pub(crate) path: Arc<Path>,
    /// The queue, while there is one.
    pub(crate) key: Option<Key>,
    /// Whether the controller serves the namespace on this path, and how well.
    pub(crate) access: Access,
    /// What happens to I/O while there is no queue.
    pub(crate) absent: Absent,
    /// The path is no longer listed: the leg ends with its last command.
    pub(crate) is_leaving: bool,
    /// Counters of its I/O; `None` unless the option `io_path_stat` is set.
    pub(crate) counts: Option<Arc<LegCounts>>,
    follower: JoinHandle<()>,
}

/// The place of a leg's queue in its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Key of a connection in the channel's sockets.
    Socket(usize),
    /// Key of a queue in the channel's rings.
    Ring(usize),
}

/// A queue on its connection. The ticket comes last: it is dropped after the socket is closed.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) leg: u64,
    pub(crate) qpair: Qpair<Request>,
    pub(crate) ticket: Ticket,
}

/// What happens to I/O while there is no queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Wait,
    Fail,
}

/// What the tasks of a channel report to it.
#[derive(Default)]
pub(crate) struct News {
    has_any: Cell<bool>,
    /// It is time to look for commands that take too long.
    pub(crate) is_watch_due: Cell<bool>,
    /// The list of paths has changed.
    pub(crate) is_list_new: Cell<bool>,
    changes: RefCell<VecDeque<(u64, Change)>>,
}

/// A change of a leg.
pub(crate) enum Change {
    Connected(Opened),
    /// The controller serves the namespace better or worse than before.
    Access(Access),
    /// The queue, if there is one, can no longer be used.
    Away(Absent),
}

impl News {
    pub(crate) fn say(&self, leg: u64, change: Change) {
        self.changes.borrow_mut().push_back((leg, change));
        self.wake();
    }

    /// Makes the channel do a round.
    pub(crate) fn wake(&self) {
        self.has_any.set(true);
    }

    pub(crate) fn has_any(&self) -> bool {
        self.has_any.get()
    }

    pub(crate) fn take_any(&self) -> bool {
        self.has_any.replace(false)
    }

    pub(crate) fn next(&self) -> Option<(u64, Change)> {
        self.changes.borrow_mut().pop_front()
    }
}

impl Leg {
    pub(crate) fn new(
        id: u64,
        path: Arc<Path>,
        nsid: u32,
        counts: Option<Arc<LegCounts>>,
        news: &Rc<News>,
    ) -> Result<Self> {
        let follow = follow(Arc::clone(&path), nsid, id, Rc::clone(news));
        let follower = task::spawn("nvme path", follow)?;
        Ok(Self {
            id,
            path,
            key: None,
            access: Access::Unusable,
            absent: Absent::Wait,
            is_leaving: false,
            counts,
            follower,
        })
    }

    /// Whether it takes commands.
    pub(crate) fn is_open(&self) -> bool {
        self.key.is_some() && self.access >= Access::NonOptimized && !self.is_leaving
    }

    /// Whether the leg may take commands later: it has a queue, or it waits for one.
    pub(crate) fn may_open(&self) -> bool {
        !self.is_leaving && (self.key.is_some() || self.absent == Absent::Wait)
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.follower.cancel();
    }
}

/// Follows the controller: connects a queue whenever the controller is connected, and tells the channel when it is not.
async fn follow(path: Arc<Path>, nsid: u32, leg: u64, news: Rc<News>) {
    let mut connected = None;
    // When the connected controller first refused a queue.
    let mut refused_ns = None;
    loop {
        let (version, state) = path.state();
        let (live, absent) = match state {
            State::Live(live) => match live.serves(nsid) {
                // The controller no longer has the namespace. I/O that waits must not keep its bdev.
                None => (None, Absent::Fail),
                Some(Access::Unusable) => (None, Absent::Wait),
                Some(access) => {
                    news.say(leg, Change::Access(access));
                    (Some(live), Absent::Wait)
                }
            },
            State::Away => (None, Absent::Wait),
            State::Failing => (None, Absent::Fail),
            State::Gone => return news.say(leg, Change::Away(Absent::Fail)),
        };
        let Some(live) = live else {
            (connected, refused_ns) = (None, None);
            news.say(leg, Change::Away(absent));
            path.changed_from(version).await;
            continue;
        };
        if connected != Some(live.generation) {
            let connecting = connect(&path, &live, leg, &news);
            match task::select(connecting, path.generation_is_over(live.generation)).await {
                Either::Left(Ok(())) => (connected, refused_ns) = (Some(live.generation), None),
                // The controller is disconnected, so the follower does not wait for an answer of the target.
                Either::Right(()) => continue,
                Either::Left(Err(error)) => {
                    connected = None;
                    let now = thread::now_ns();
                    if refused_ns.is_none() {
                        warn!("{}: no I/O queue: {}", live.way, error.message());
                    }
                    let without = now - *refused_ns.get_or_insert(now);
                    let is_over = path.limits.fails_io_after(Duration::from_nanos(without));
                    if is_over || live.is_ending() {
                        news.say(leg, Change::Away(Absent::Fail));
                    }
                    let changed = path.changed_from(version);
                    task::select(changed, task::sleep(QUEUE_DELAY)).await;
                    continue;
                }
            }
        }
        path.changed_from(version).await;
    }
}

/// Connects a queue.
///
/// # Errors
/// `EAGAIN` when the controller has no queue left; or the queue could not be connected.
async fn connect(path: &Arc<Path>, live: &Arc<Live>, leg: u64, news: &News) -> Result<()> {
    let ticket = Ticket::take(path, live)?;
    news.say(leg, Change::Connected(ticket.open().await?));
    Ok(())
}
