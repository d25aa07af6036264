//! One thread's way to a namespace: a queue pair on its socket, the I/O outstanding, and the I/O that waits for the controller.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_nvme_driver::qpair::{Agreed, Completed, Qpair};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{Next, Sockets, Stream};
use drivebay_sdk::runtime::task::{self, JoinHandle};
use drivebay_sdk::thread;

use crate::dial::Dialed;
use crate::io::{Request, Verdict, judge, no_path};
use crate::link;
use crate::path::{Live, Overdue, Path, State, Ticket};

/// How long a channel waits before it tries again when the controller is connected but refuses the I/O queue.
const QUEUE_DELAY: Duration = Duration::from_millis(500);
/// How long a channel waits before it sends a command again that ended with a path error, in nanoseconds. The connection may be up
/// all the while, and would then carry nothing but that command and its error.
const PATH_DELAY_NS: u64 = 100_000_000;
/// How often a channel looks for commands that take too long.
const WATCH_MIN: Duration = Duration::from_millis(1);
const WATCH_MAX: Duration = Duration::from_secs(1);

/// What a channel needs to know about its namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) block_size: u32,
    /// Whether flushes are sent to the device.
    pub(crate) flushes: bool,
    /// How many times an I/O is retried after a status that allows it; -1 = without limit.
    pub(crate) retry_count: i32,
    /// Delays that the device may ask for, in units of 100 ms.
    pub(crate) crdt: [u16; 3],
    /// How long a command may take; `None` = forever.
    pub(crate) timeout: Option<Duration>,
    /// How long a command may end with path errors before its I/O fails, in nanoseconds.
    pub(crate) path_limit_ns: u64,
}

/// One thread's state.
pub struct Channel {
    namespace: Namespace,
    sockets: Sockets<Queue>,
    /// The queue's place in `sockets`, while there is one.
    key: Option<usize>,
    news: Rc<News>,
    connector: JoinHandle<()>,
    /// Has the channel look for commands that take too long, when they have a timeout.
    watch: Option<JoinHandle<()>>,
    path: Arc<Path>,
    /// What happens to I/O while there is no queue.
    absent: Absent,
    /// I/O that was not sent yet. The bus bounds how much: each I/O is one of the channel's requests.
    waiting: VecDeque<Request>,
    /// I/O whose connection was lost after it was sent: it may still execute.
    unproven: Vec<Request>,
    /// How long `unproven` may still execute, on the host's clock in nanoseconds.
    quiet_ns: u64,
    /// I/O to send again later, and when.
    delayed: Vec<(u64, Request)>,
    done: Vec<Completed<Request>>,
    lost: Option<String>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// A queue on its connection. The ticket comes last: it is dropped after the socket is closed.
#[derive(Debug)]
struct Queue {
    qpair: Qpair<Request>,
    ticket: Ticket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    Wait,
    Fail,
}

/// What the connector tells its channel.
#[derive(Default)]
struct News {
    has_any: Cell<bool>,
    /// It is time to look for commands that take too long.
    is_watch_due: Cell<bool>,
    change: RefCell<Option<Change>>,
}

enum Change {
    Connected(Stream, Agreed, Ticket),
    /// The queue, if there is one, can no longer be used.
    Away(Absent),
}

impl News {
    fn say(&self, change: Change) {
        *self.change.borrow_mut() = Some(change);
        self.has_any.set(true);
    }
}

impl Channel {
    pub(crate) fn open(namespace: Namespace, path: Arc<Path>) -> Result<Self> {
        let news = Rc::new(News::default());
        let connector = task::spawn(
            "nvme connector",
            follow(Arc::clone(&path), namespace.nsid, Rc::clone(&news)),
        )?;
        let watch = match namespace.timeout {
            Some(timeout) => Some(task::spawn("nvme timeouts", watch(timeout, Rc::clone(&news)))?),
            None => None,
        };
        Ok(Self {
            namespace,
            sockets: Sockets::new(1)?,
            key: None,
            news,
            connector,
            watch,
            path,
            absent: Absent::Wait,
            waiting: VecDeque::new(),
            unproven: Vec::new(),
            quiet_ns: 0,
            delayed: Vec::new(),
            done: Vec::new(),
            lost: None,
        })
    }

    /// Takes an I/O. [`Self::flush`] sends it.
    pub(crate) fn submit(&mut self, io: BdevIo) {
        if matches!(io.op(), Op::Flush) && !self.namespace.flushes {
            return io.complete(Status::SUCCESS);
        }
        self.start(Request::new(io));
    }

    fn start(&mut self, request: Request) {
        if self.waiting.is_empty() {
            self.send(request);
        } else {
            self.keep(request);
        }
    }

    /// Gives a request to the queue.
    fn send(&mut self, mut request: Request) {
        let Some(key) = self.key else { return self.keep(request) };
        let Some((_, queue)) = self.sockets.get_mut(key) else { return self.keep(request) };
        let Namespace { nsid, block_size, .. } = self.namespace;
        let Some((command, transfer)) = request.command(nsid, block_size) else {
            return request.io.complete(Status::NOT_SUPPORTED);
        };
        if self.namespace.timeout.is_some() {
            request.sent_ns = thread::now_ns();
            request.overdue.set(0);
        }
        match queue.qpair.submit(&command, transfer, request) {
            Ok(_) => self.sockets.activate(key),
            Err(request) => self.keep(request),
        }
    }

    fn keep(&mut self, request: Request) {
        match self.absent {
            Absent::Fail if self.key.is_none() => request.io.complete_with(no_path()),
            _ => self.waiting.push_back(request),
        }
    }

    /// Sends what was submitted: the burst has ended.
    pub(crate) fn flush(&mut self) {
        self.round(false);
        if !self.done.is_empty() {
            self.settle();
        }
        self.part();
    }

    /// Does one round; true when it did something.
    pub(crate) fn poll(&mut self) -> bool {
        let has_news = self.hear();
        let has_come = self.sockets.look();
        let has_work = self.sockets.has_work();
        self.round(true);
        self.settle();
        self.part();
        if self.sockets.has_work() {
            // Sends the I/O that waited for room, and the data that R2Ts asked for.
            self.round(false);
            self.part();
        }
        has_news || has_come || has_work
    }

    pub(crate) fn prepare_sleep(&self) -> bool {
        self.news.has_any.get() || self.sockets.has_work()
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.sockets.wake_fd()
    }

    /// Sends, and receives what has arrived.
    fn round(&mut self, receives: bool) {
        let Self { sockets, done, lost, .. } = self;
        sockets.round(|_, stream, queue| {
            let qpair = &mut queue.qpair;
            let mut turn = link::send(stream, qpair).map(|()| false);
            if receives && turn.is_ok() {
                turn = link::receive(stream, qpair)
                    .and_then(|has_more| link::send(stream, qpair).map(|()| has_more));
            }
            done.extend(std::iter::from_fn(|| qpair.completed()));
            match turn {
                Ok(true) => Next::Work,
                // The edge of this input is past, so the next turn has to read it.
                Ok(false) if !receives && stream.is_readable() => Next::Work,
                Ok(false) => Next::Wait,
                Err(why) => {
                    lost.get_or_insert_with(|| why.to_string());
                    Next::Wait
                }
            }
        });
    }

    /// Completes the I/O that is done, and sends the I/O that waits.
    fn settle(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        for Completed { request, completion, received } in done.drain(..) {
            match judge(&request, &completion, received) {
                Verdict::End(result) => request.io.complete_with(result),
                Verdict::Again(crd, result) => self.again(request, crd, result),
                Verdict::Path(result) => self.path_failed(request, result),
            }
        }
        self.done = done;
        self.start_due();
        while self.has_room()
            && let Some(request) = self.waiting.pop_front()
        {
            self.send(request);
        }
    }

    fn has_room(&mut self) -> bool {
        let queue = self.key.and_then(|key| self.sockets.get_mut(key));
        queue.is_some_and(|(_, queue)| queue.qpair.has_room())
    }

    /// Sends a request again that ended with a path error, until the time for that is over. The command has ended, so any command
    /// may be sent again.
    fn path_failed(&mut self, mut request: Request, result: IoResult) {
        let now = thread::now_ns();
        if request.path_failed_ns == 0 {
            request.path_failed_ns = now;
        }
        if now - request.path_failed_ns >= self.namespace.path_limit_ns {
            return request.io.complete_with(result);
        }
        self.later(request, PATH_DELAY_NS);
    }

    /// Retries a request as the device asked, or completes it when its retries are used up.
    fn again(&mut self, mut request: Request, crd: u8, result: IoResult) {
        let count = self.namespace.retry_count;
        if u32::try_from(count).is_ok_and(|count| request.retries >= count) {
            return request.io.complete_with(result);
        }
        request.retries += 1;
        let delay =
            usize::from(crd).checked_sub(1).and_then(|index| self.namespace.crdt.get(index));
        match delay.copied().unwrap_or(0) {
            0 => self.waiting.push_back(request),
            delay => self.later(request, u64::from(delay) * 100_000_000),
        }
    }

    /// Sends a request again after a delay, in nanoseconds.
    fn later(&mut self, request: Request, delay_ns: u64) {
        let due_ns = thread::now_ns() + delay_ns;
        self.delayed.push((due_ns, request));
        self.wake_at(due_ns);
    }

    /// Queues the I/O that may be sent now: its delay is over, or its lost connection can no longer execute it.
    fn start_due(&mut self) {
        if self.delayed.is_empty() && self.unproven.is_empty() {
            return;
        }
        let now = thread::now_ns();
        let (due, later) = self.delayed.drain(..).partition(|(due_ns, _)| *due_ns <= now);
        self.delayed = later;
        let due: Vec<(u64, Request)> = due;
        self.waiting.extend(due.into_iter().map(|(_, request)| request));
        if self.key.is_some() && self.quiet_ns <= now {
            // In front, because it was submitted first.
            for request in std::mem::take(&mut self.unproven).into_iter().rev() {
                self.waiting.push_front(request);
            }
        }
    }

    /// Arranges that [`Self::poll`] runs at that time.
    fn wake_at(&self, when_ns: u64) {
        let news = Rc::clone(&self.news);
        let wake = async move {
            task::sleep_until(when_ns).await;
            news.has_any.set(true);
        };
        match task::spawn("nvme retry", wake) {
            Ok(task) => task.detach(),
            // The next round finds the request anyway.
            Err(error) => warn!("{error}"),
        }
    }

    /// Follows what the connector said; true when it said something.
    fn hear(&mut self) -> bool {
        if !self.news.has_any.replace(false) {
            return false;
        }
        let change = self.news.change.borrow_mut().take();
        match change {
            Some(Change::Connected(stream, agreed, ticket)) => {
                self.connected(stream, agreed, ticket)
            }
            Some(Change::Away(absent)) => {
                self.disconnect();
                self.absent = absent;
                if absent == Absent::Fail {
                    self.fail_all();
                }
            }
            None => {}
        }
        if self.news.is_watch_due.replace(false) {
            self.report_overdue();
        }
        self.settle();
        true
    }

    /// Reports the commands that take too long, each once when its timeout is over, and once more when it is over twice.
    fn report_overdue(&mut self) {
        let Some(timeout) = self.namespace.timeout else { return };
        let Some((_, queue)) = self.key.and_then(|key| self.sockets.get_mut(key)) else { return };
        let (generation, qid) = (queue.ticket.live().generation, queue.ticket.qid);
        let now = thread::now_ns();
        for (cid, request) in queue.qpair.iter() {
            let age = Duration::from_nanos(now.saturating_sub(request.sent_ns));
            let times = u8::from(age >= timeout) + u8::from(age >= timeout * 2);
            if times > request.overdue.get()
                && self.path.report_overdue(Overdue { generation, qid, cid, times })
            {
                request.overdue.set(times);
            }
        }
    }

    fn connected(&mut self, stream: Stream, agreed: Agreed, ticket: Ticket) {
        self.disconnect();
        let live = ticket.live();
        let (generation, quiet_ns) = (live.generation, live.quiet_ns);
        match self.sockets.add(stream, Queue { qpair: Qpair::new(agreed), ticket }) {
            Ok(key) => self.key = Some(key),
            Err(error) => self.path.report_lost(generation, error.to_string()),
        }
        self.absent = Absent::Wait;
        self.quiet_ns = quiet_ns;
        if !self.unproven.is_empty() && quiet_ns > thread::now_ns() {
            self.wake_at(quiet_ns);
        }
    }

    /// Closes a connection that was lost, and reports it.
    fn part(&mut self) {
        let Some(why) = self.lost.take() else { return };
        // The last thing to send tells the target what it did wrong.
        let queue = self.key.and_then(|key| self.sockets.get_mut(key));
        let Some((stream, queue)) = queue else { return };
        let _ = link::send(stream, &mut queue.qpair);
        let generation = queue.ticket.live().generation;
        self.disconnect();
        self.path.report_lost(generation, why);
    }

    /// Closes the connection, if there is one. The I/O outstanding waits for the next one.
    fn disconnect(&mut self) {
        let Some((stream, queue)) = self.key.take().and_then(|key| self.sockets.remove(key)) else {
            return;
        };
        let Queue { qpair, ticket } = queue;
        drop(stream);
        for request in qpair.into_outstanding() {
            if request.is_repeatable() {
                self.waiting.push_back(request);
            } else {
                self.unproven.push(request);
            }
        }
        drop(ticket);
    }

    /// Fails all I/O that waits: the controller did not reconnect in time, or is removed.
    fn fail_all(&mut self) {
        let delayed = self.delayed.drain(..).map(|(_, request)| request);
        let all = self.unproven.drain(..).chain(self.waiting.drain(..)).chain(delayed);
        let all: Vec<Request> = all.collect();
        for request in all {
            request.io.complete_with(no_path());
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.connector.cancel();
        if let Some(watch) = &mut self.watch {
            watch.cancel();
        }
    }
}

/// Has the channel look for commands that take too long, a few times in each timeout.
async fn watch(timeout: Duration, news: Rc<News>) {
    let period = (timeout / 4).clamp(WATCH_MIN, WATCH_MAX);
    loop {
        task::sleep(period).await;
        news.is_watch_due.set(true);
        news.has_any.set(true);
    }
}

/// Follows the controller: connects a queue whenever the controller is connected, and tells the channel when it is not.
async fn follow(path: Arc<Path>, nsid: u32, news: Rc<News>) {
    let mut connected = None;
    // When the connected controller first refused a queue.
    let mut refused_ns = None;
    loop {
        let (version, state) = path.state();
        if !matches!(state, State::Live(_)) {
            refused_ns = None;
        }
        match state {
            State::Live(live) if live.serves(nsid) == Some(true) => {
                if connected != Some(live.generation) {
                    match connect(&path, &live, &news).await {
                        Ok(()) => (connected, refused_ns) = (Some(live.generation), None),
                        Err(error) => {
                            connected = None;
                            let now = thread::now_ns();
                            if refused_ns.is_none() {
                                warn!("{}: no I/O queue: {}", live.target.address, error.message());
                            }
                            let without = now - *refused_ns.get_or_insert(now);
                            if path.limits.fails_io_after(Duration::from_nanos(without)) {
                                news.say(Change::Away(Absent::Fail));
                            }
                            let changed = path.changed_from(version);
                            task::select(changed, task::sleep(QUEUE_DELAY)).await;
                            continue;
                        }
                    }
                }
            }
            // The controller no longer has the namespace. I/O that waits must not keep its bdev.
            State::Live(live) if live.serves(nsid).is_none() => {
                connected = None;
                news.say(Change::Away(Absent::Fail));
            }
            State::Live(_) | State::Away => {
                connected = None;
                news.say(Change::Away(Absent::Wait));
            }
            State::Failing => {
                connected = None;
                news.say(Change::Away(Absent::Fail));
            }
            State::Gone => return news.say(Change::Away(Absent::Fail)),
        }
        path.changed_from(version).await;
    }
}

/// Connects a queue.
///
/// # Errors
/// `EAGAIN` when the controller has no queue left; or the queue could not be connected.
async fn connect(path: &Arc<Path>, live: &Arc<Live>, news: &News) -> Result<()> {
    let ticket = Ticket::take(path, live)?;
    let Dialed { stream, agreed, .. } = ticket.dial().await?;
    news.say(Change::Connected(stream, agreed, ticket));
    Ok(())
}
