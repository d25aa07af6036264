//! One thread's way to a namespace: a leg on each path, the I/O outstanding, and the I/O that waits for a path.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_nvme_driver::qpair::{Completed, Qpair};
use drivebay_nvme_driver::spec::{Completion, Status as NvmeStatus};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{Next, Sockets};
use drivebay_sdk::runtime::task::{self, JoinHandle};
use drivebay_sdk::thread;

use crate::io::{Request, Verdict, is_ana_error, judge, no_path, result};
use crate::leg::{Absent, Change, Key, Leg, News, Queue};
use crate::legs::Legs;
use crate::link::{self, Lost};
use crate::path::{Access, Overdue, Ticket};
use crate::paths::{PATHS_MAX, Paths};
use crate::pci::rings::Rings;
use crate::reach::Opened;
use crate::view::View;

/// How long a channel waits before it sends a command again that ended with a path error, in nanoseconds. Without this delay, a connection
/// that stays up would carry only that command and its error, again and again.
const PATH_DELAY_NS: u64 = 100_000_000;
/// How long a write waits before it is sent again, after its target has closed the connection. Commands that still execute in the
/// target have this long to end.
pub(crate) const QUIET: Duration = Duration::from_secs(2);
/// How long a command that got no pool buffer waits before the next try, in nanoseconds.
const BUFFER_DELAY_NS: u64 = 200_000;
/// How often a channel looks for commands that take too long.
const WATCH_MIN: Duration = Duration::from_millis(1);
const WATCH_MAX: Duration = Duration::from_secs(1);

/// What a channel needs to know about its namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) block_size: u32,
    /// Blocks per zone; 0 = it is not zoned.
    pub(crate) zone_size: u64,
    /// Whether its controllers are on PCIe.
    pub(crate) is_pci: bool,
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
    /// Whether I/O is counted for each path.
    pub(crate) counts_paths: bool,
}

/// One thread's state.
pub struct Channel {
    namespace: Namespace,
    paths: Arc<Paths>,
    view: Arc<View>,
    legs: Legs,
    /// Names the next leg.
    next_leg: u64,
    sockets: Sockets<Queue>,
    /// The queues of controllers on PCIe; `None` when the controllers are on TCP.
    rings: Option<Rings>,
    news: Rc<News>,
    /// The task that follows the list of paths, and the one that makes the channel check for commands that take too long.
    tasks: Vec<JoinHandle<()>>,
    /// I/O that was not sent yet. The bus bounds how much: each I/O is one of the channel's requests.
    waiting: VecDeque<Request>,
    unproven: Vec<Unproven>,
    /// I/O to send again later, and when.
    delayed: Vec<(u64, Request)>,
    /// I/O that an injected error will end later, and that is not sent: when it ends, its leg, and its status.
    injected: Vec<(u64, u64, Request, NvmeStatus)>,
    /// Commands that are done, and their legs.
    done: Vec<(u64, Completed<Request>)>,
    /// Connections that are lost, by their keys.
    lost: Vec<(usize, Lost)>,
}

/// An I/O whose connection was lost after it was sent. Its target may still execute it.
#[derive(Debug)]
struct Unproven {
    request: Request,
    leg: u64,
    /// Once the target has closed the connection, it no longer executes this command after this time. On the host's clock, in nanoseconds.
    quiet_ns: u64,
    /// No target can execute this command after this time, on the host's clock in nanoseconds; `u64::MAX` = not known yet.
    free_ns: u64,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Channel {
    pub(crate) fn open(namespace: Namespace, paths: Arc<Paths>) -> Result<Self> {
        let news = Rc::new(News::default());
        let (version, listed) = paths.listed();
        let follow = follow_list(Arc::clone(&paths), version, Rc::clone(&news));
        let mut tasks = vec![task::spawn("nvme paths", follow)?];
        if let Some(timeout) = namespace.timeout {
            tasks.push(task::spawn("nvme timeouts", watch(timeout, Rc::clone(&news)))?);
        }
        let mut channel = Self {
            namespace,
            view: View::new(Arc::clone(&paths), namespace.is_pci),
            paths,
            legs: Legs::new(listed.spread),
            next_leg: 0,
            sockets: Sockets::new(PATHS_MAX)?,
            rings: if namespace.is_pci { Some(Rings::new()?) } else { None },
            news,
            tasks,
            waiting: VecDeque::new(),
            unproven: Vec::new(),
            delayed: Vec::new(),
            injected: Vec::new(),
            done: Vec::new(),
            lost: Vec::new(),
        };
        channel.follow_paths();
        Ok(channel)
    }

    /// Takes an I/O. [`Self::flush`] sends it.
    pub(crate) fn submit(&mut self, io: BdevIo) {
        if matches!(io.op(), Op::Flush) && !self.namespace.flushes {
            return io.complete(Status::SUCCESS);
        }
        let request = Request::new(io);
        if self.waiting.is_empty() {
            let Err(request) = self.send(request) else { return };
            self.waiting.push_back(request);
        } else {
            self.waiting.push_back(request);
        }
        self.view.counts.queued_requests.add(1);
    }

    /// Gives a request to a queue.
    ///
    /// # Errors
    /// Returns the request when it has to wait.
    fn send(&mut self, mut request: Request) -> Result<(), Request> {
        let Self { legs, sockets, rings, .. } = self;
        let Some(key) = legs.pick(|key| outstanding(sockets, rings.as_ref(), key)) else {
            return self.no_leg_is_open(request);
        };
        if request.is_spent() {
            request.io.complete_with(no_path());
            return Ok(());
        }
        let Namespace { nsid, block_size, .. } = self.namespace;
        let Some((command, transfer)) = request.command(nsid, block_size) else {
            request.io.complete(Status::NOT_SUPPORTED);
            return Ok(());
        };
        let found = match key {
            Key::Socket(key) => sockets.get_mut(key).map(|(_, queue)| (queue.leg, &queue.ticket)),
            Key::Ring(key) => rings.as_ref().and_then(|rings| rings.ticket(key)),
        };
        let Some((leg, ticket)) = found else { return Err(request) };
        if self.namespace.timeout.is_some() || self.namespace.counts_paths {
            request.sent_ns = thread::now_ns();
            request.overdue.set(0);
        }
        if let Some((status, delay)) = ticket.path().io_injections.instead(command.opcode()) {
            return self.end_later(leg, request, status, delay);
        }
        self.view.counts.submitted_requests.add(1);
        match key {
            Key::Socket(key) => {
                let Some((_, queue)) = self.sockets.get_mut(key) else { return Err(request) };
                queue.qpair.submit(&command, transfer, request)?;
                self.sockets.activate(key);
                Ok(())
            }
            Key::Ring(key) => {
                let Some(rings) = &mut self.rings else { return Err(request) };
                match rings.submit(key, &command, request) {
                    Err((request, true)) => {
                        self.later(request, BUFFER_DELAY_NS);
                        Ok(())
                    }
                    sent => sent.map_err(|(request, _)| request),
                }
            }
        }
    }

    /// Ends a request with a status after a delay, without sending it.
    #[cold]
    fn end_later(
        &mut self,
        leg: u64,
        request: Request,
        status: NvmeStatus,
        delay: Duration,
    ) -> Result<(), Request> {
        let due_ns = after(delay);
        self.injected.push((due_ns, leg, request, status));
        self.wake_at(due_ns);
        Ok(())
    }

    /// Makes a request wait for a leg, or fails it when none will open.
    fn no_leg_is_open(&mut self, request: Request) -> Result<(), Request> {
        if self.legs.iter().any(|leg| leg.key.is_none() && leg.may_open()) {
            return Err(request);
        }
        if self.legs.iter().any(Leg::may_open) {
            // All legs are connected, and their ANA states do not permit I/O.
            self.path_failed(request, result(NvmeStatus::ANA_INACCESSIBLE, 0), true);
        } else {
            request.io.complete_with(no_path());
        }
        Ok(())
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
        let has_come = !self.sockets.is_empty() && self.sockets.look();
        let has_work = self.sockets.has_work();
        let has_completions = self.round(true);
        let counts = &self.view.counts;
        counts.polls.add(1);
        counts.idle_polls.add((!has_come && !has_work && !has_completions).into());
        counts.socket_completions.add(has_come.into());
        self.settle();
        self.part();
        if has_completions {
            // Tells the controllers about the I/O that waited for room.
            self.round(false);
        }
        if self.sockets.has_work() {
            // Sends the I/O that waited for room, and the data that R2Ts asked for.
            self.round(false);
            self.part();
        }
        has_news || has_come || has_work || has_completions
    }

    pub(crate) fn prepare_sleep(&self) -> bool {
        let has_completions = self.rings.as_ref().is_some_and(Rings::prepare_sleep);
        has_completions || self.news.has_any() || self.sockets.has_work()
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.rings.as_ref().map_or_else(|| self.sockets.wake_fd(), Rings::wake_fd)
    }

    /// Sends, and receives what has arrived; true when a ring had completions.
    fn round(&mut self, receives: bool) -> bool {
        let Self { sockets, rings, done, lost, waiting, .. } = self;
        // A stopped controller executes no command, so the channel sends the commands that it did not complete again at once.
        let has_completions =
            rings.as_mut().is_some_and(|rings| rings.round(receives, done, waiting));
        sockets.round(|key, stream, queue| {
            let Queue { leg, qpair, ticket } = queue;
            let injections = &ticket.path().io_injections;
            let mut turn = link::send(stream, qpair).map(|()| false);
            if receives && turn.is_ok() {
                turn = link::receive(stream, qpair)
                    .and_then(|has_more| link::send(stream, qpair).map(|()| has_more));
            }
            done.extend(std::iter::from_fn(|| qpair.completed()).map(|mut completed| {
                if let Some(status) = injections.after(completed.request.opcode()) {
                    completed.completion.status = status;
                }
                (*leg, completed)
            }));
            match turn {
                Ok(true) => Next::Work,
                // The edge of this input is past, so the next turn has to read it.
                Ok(false) if !receives && stream.is_readable() => Next::Work,
                Ok(false) => Next::Wait,
                Err(why) => {
                    lost.push((key, why));
                    Next::Wait
                }
            }
        });
        has_completions
    }

    /// Completes the I/O that is done, and sends the I/O that waits.
    fn settle(&mut self) {
        self.take_injected();
        let mut done = std::mem::take(&mut self.done);
        self.view.counts.nvme_completions.add(done.len() as u64);
        for (leg, Completed { request, completion, received }) in done.drain(..) {
            if self.namespace.counts_paths && completion.status.is_success() {
                self.count(leg, &request);
            }
            match judge(&request, &completion, received, self.namespace.zone_size) {
                Verdict::End(result) => request.io.complete_with(result),
                Verdict::Again(crd, result) => self.again(request, crd, result),
                Verdict::Path(result) => {
                    let is_out = is_ana_error(completion.status);
                    if is_out {
                        self.doubt_access(leg);
                    }
                    self.path_failed(request, result, is_out);
                }
            }
        }
        self.done = done;
        self.start_due();
        while let Some(request) = self.waiting.pop_front() {
            if let Err(request) = self.send(request) {
                self.waiting.push_front(request);
                break;
            }
        }
        self.end_leaving();
    }

    /// Ends the requests that injected errors delay and whose time has come.
    fn take_injected(&mut self) {
        if self.injected.is_empty() {
            return;
        }
        let now = thread::now_ns();
        for (_, leg, request, status) in self.injected.extract_if(.., |(due_ns, ..)| *due_ns <= now)
        {
            // Report the full length, because a short read would hide the injected status.
            let received = request.data_len();
            let completion = Completion::new(0, status);
            self.done.push((leg, Completed { request, completion, received }));
        }
    }

    /// Counts a successful I/O for its path.
    fn count(&mut self, leg: u64, request: &Request) {
        let counts = self.legs.by_id(leg).and_then(|leg| leg.counts.as_ref());
        if let Some(counts) = counts {
            let latency_ns = thread::now_ns().saturating_sub(request.sent_ns);
            counts.add(request.io.op(), self.namespace.block_size, latency_ns);
        }
    }

    /// Stops using a leg whose controller refused I/O because of an ANA state, until the controller's task has read the states again.
    fn doubt_access(&mut self, id: u64) {
        let Some(leg) = self.legs.by_id(id) else { return };
        leg.access = Access::Inaccessible;
        leg.path.doubt_ana();
        self.choose();
    }

    /// Sends a request that ended with a path error again, or fails it when it has had path errors for too long. The controller has ended
    /// the command, so sending it again is safe for every opcode. `is_out`: the leg takes no commands now, so the request goes to another
    /// leg at once.
    fn path_failed(&mut self, mut request: Request, result: IoResult, is_out: bool) {
        let now = thread::now_ns();
        if request.path_failed_ns == 0 {
            request.path_failed_ns = now;
        }
        if now - request.path_failed_ns >= self.namespace.path_limit_ns {
            return request.io.complete_with(result);
        }
        if is_out && self.legs.iter().any(Leg::is_open) {
            return self.waiting.push_back(request);
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

    /// Queues the I/O that may be sent now: its delay is over, or no target can execute it any more.
    fn start_due(&mut self) {
        if self.delayed.is_empty() && self.unproven.is_empty() {
            return;
        }
        let now = thread::now_ns();
        for (_, request) in self.delayed.extract_if(.., |(due_ns, _)| *due_ns <= now) {
            self.waiting.push_back(request);
        }
        let free = self.unproven.extract_if(.., |unproven| unproven.free_ns <= now);
        let free: Vec<Unproven> = free.collect();
        // In front, because it was submitted first.
        for unproven in free.into_iter().rev() {
            self.waiting.push_front(unproven.request);
        }
    }

    /// Arranges that [`Self::poll`] runs at that time.
    fn wake_at(&self, when_ns: u64) {
        let news = Rc::clone(&self.news);
        let wake = async move {
            task::sleep_until(when_ns).await;
            news.wake();
        };
        match task::spawn("nvme retry", wake) {
            Ok(task) => task.detach(),
            // The next round finds the request anyway.
            Err(error) => warn!("{error}"),
        }
    }

    /// Applies the changes that the tasks reported; true when there were any.
    fn hear(&mut self) -> bool {
        if !self.news.take_any() {
            return false;
        }
        let news = Rc::clone(&self.news);
        while let Some((leg, change)) = news.next() {
            match change {
                Change::Connected(opened) => self.connected(leg, opened),
                Change::Access(access) => {
                    if let Some(leg) = self.legs.by_id(leg) {
                        leg.access = access;
                    }
                }
                Change::Away(absent) => {
                    self.disconnect(leg, None);
                    if let Some(leg) = self.legs.by_id(leg) {
                        leg.absent = absent;
                    }
                    if absent == Absent::Fail {
                        self.fail_unprovable(leg);
                    }
                }
            }
        }
        if news.is_list_new.replace(false) {
            self.follow_paths();
        }
        if news.is_watch_due.replace(false) {
            self.report_overdue();
        }
        self.choose();
        if !self.legs.iter().any(Leg::may_open) {
            self.fail_all();
        }
        self.settle();
        true
    }

    /// Opens legs for new paths, and closes those of paths that are gone.
    fn follow_paths(&mut self) {
        let (_, listed) = self.paths.listed();
        for path in &listed.paths {
            if self.legs.has(path) {
                continue;
            }
            self.next_leg += 1;
            let counts = self.namespace.counts_paths.then(|| self.paths.stats.open(path));
            let (id, path) = (self.next_leg, Arc::clone(path));
            match Leg::new(id, path, self.namespace.nsid, counts, &self.news) {
                Ok(leg) => self.legs.push(leg),
                Err(error) => warn!("{error}"),
            }
        }
        self.legs.arrange(listed.spread, |leg| {
            listed.paths.iter().position(|path| Arc::ptr_eq(path, &leg.path))
        });
        self.end_leaving();
    }

    /// Closes the legs of paths that are gone, when they have no command outstanding.
    fn end_leaving(&mut self) {
        if !self.legs.iter().any(|leg| leg.is_leaving) {
            return;
        }
        let Self { sockets, rings, .. } = self;
        let mut is_over = |leg: &Leg| {
            let left = leg.key.map_or(0, |key| outstanding(sockets, rings.as_ref(), key));
            leg.is_leaving && left == 0
        };
        let mut over = Vec::new();
        while let Some(leg) = self.legs.take(&mut is_over) {
            over.push(leg);
        }
        for leg in over {
            match leg.key {
                Some(Key::Socket(key)) => drop(self.sockets.remove(key)),
                Some(Key::Ring(key)) => self.abandon(key),
                None => {}
            }
            self.fail_unprovable(leg.id);
        }
        self.choose();
    }

    /// Fails I/O of a leg that will not return. Only a new connection of that leg could prove that the target no longer executes the I/O,
    /// so it cannot be sent on another leg.
    fn fail_unprovable(&mut self, id: u64) {
        let is_lost = |unproven: &mut Unproven| unproven.leg == id && unproven.free_ns == u64::MAX;
        let lost: Vec<Unproven> = self.unproven.extract_if(.., is_lost).collect();
        for unproven in lost {
            unproven.request.io.complete_with(no_path());
        }
    }

    /// Reports each command that takes too long: once after its timeout, and once more after twice that time.
    fn report_overdue(&mut self) {
        let Some(timeout) = self.namespace.timeout else { return };
        let now = thread::now_ns();
        let report = |ticket: &Ticket, cid: u16, request: &Request| {
            let (generation, qid) = (ticket.live().generation, ticket.qid);
            let age = Duration::from_nanos(now.saturating_sub(request.sent_ns));
            let times = u8::from(age >= timeout) + u8::from(age >= timeout * 2);
            if times > request.overdue.get()
                && ticket.path().report_overdue(Overdue { generation, qid, cid, times })
            {
                request.overdue.set(times);
            }
        };
        for leg in self.legs.iter() {
            let Some(Key::Socket(key)) = leg.key else { continue };
            let Some((_, queue)) = self.sockets.get_mut(key) else { continue };
            queue.qpair.iter().for_each(|(cid, request)| report(&queue.ticket, cid, request));
        }
        // Rings that no leg uses any more may have outstanding commands, too.
        let commands = self.rings.iter().flat_map(Rings::commands);
        commands.for_each(|(ticket, cid, request)| report(ticket, cid, request));
    }

    /// Chooses the leg for the next command again, after a change of a leg.
    fn choose(&mut self) {
        self.legs.choose();
        self.view.set(self.legs.views());
    }

    fn connected(&mut self, id: u64, opened: Opened) {
        self.disconnect(id, None);
        let Some(leg) = self.legs.by_id(id) else { return };
        let (stream, agreed, ticket) = match opened {
            Opened::Socket(stream, agreed, ticket) => (stream, agreed, ticket),
            Opened::Ring(queue) => {
                match self.rings.as_mut().map(|rings| rings.add(id, queue)) {
                    Some(Ok(key)) => leg.key = Some(Key::Ring(key)),
                    Some(Err(error)) => warn!("{}", error.message()),
                    // The members of a group are all on PCIe, or none of them is.
                    None => {}
                }
                leg.absent = Absent::Wait;
                return;
            }
        };
        let live = ticket.live();
        let (generation, quiet_ns) = (live.generation, live.quiet_ns);
        match self.sockets.add(stream, Queue { leg: id, qpair: Qpair::new(agreed), ticket }) {
            Ok(key) => leg.key = Some(Key::Socket(key)),
            Err(error) => leg.path.report_lost(generation, error.to_string()),
        }
        leg.absent = Absent::Wait;
        // A target that answers Connect has closed the old connection. If only this queue was connected again, the controller's `quiet_ns`
        // is from an earlier loss, so the request's own time counts, too.
        let mut last_ns = 0;
        for unproven in self.unproven.iter_mut().filter(|unproven| unproven.leg == id) {
            let free_ns = quiet_ns.max(unproven.quiet_ns);
            unproven.free_ns = unproven.free_ns.min(free_ns);
            last_ns = last_ns.max(free_ns);
        }
        if last_ns > thread::now_ns() && last_ns < u64::MAX {
            self.wake_at(last_ns);
        }
    }

    /// Closes the connections that were lost, and reports them.
    fn part(&mut self) {
        while let Some((key, why)) = self.lost.pop() {
            // Send the last PDU, which reports to the target how it broke the protocol.
            let Some((stream, queue)) = self.sockets.get_mut(key) else { continue };
            let _ = link::send(stream, &mut queue.qpair);
            let (id, generation) = (queue.leg, queue.ticket.live().generation);
            self.disconnect(id, Some(&why));
            self.choose();
            if let Some(leg) = self.legs.by_id(id) {
                leg.path.report_lost(generation, why.to_string());
            }
            self.settle();
        }
    }

    /// Stops using a ring. If its controller is stopped, takes back the commands that the controller did not complete.
    fn abandon(&mut self, key: usize) {
        if let Some(rings) = &mut self.rings {
            rings.abandon(key);
            rings.round(false, &mut self.done, &mut self.waiting);
        }
    }

    /// Closes a leg's connection, if there is one. The I/O outstanding waits for another leg, or for the next connection.
    fn disconnect(&mut self, id: u64, why: Option<&Lost>) {
        // The end of a connection also ends the requests that an injected error delays.
        for (due_ns, ..) in self.injected.iter_mut().filter(|(_, leg, ..)| *leg == id) {
            *due_ns = 0;
        }
        let Some(leg) = self.legs.by_id(id) else { return };
        let socket = match leg.key.take() {
            Some(Key::Socket(key)) => self.sockets.remove(key),
            Some(Key::Ring(key)) => return self.abandon(key),
            None => None,
        };
        let Some((mut stream, queue)) = socket else { return };
        let Queue { mut qpair, ticket, .. } = queue;
        // Takes what has arrived, and learns whether the target has closed the connection.
        let end = link::receive(&mut stream, &mut qpair).err();
        let is_by_target = [why, end.as_ref()].into_iter().flatten().any(Lost::is_by_target);
        let completed = std::iter::from_fn(|| qpair.completed());
        self.done.extend(completed.map(|completed| (id, completed)));
        drop(stream);
        let notices_after =
            if is_by_target { Some(Duration::ZERO) } else { ticket.live().notices_after };
        let quiet_ns = after(QUIET);
        let free_ns = notices_after.map_or(u64::MAX, |time| after(time + QUIET));
        let before = self.unproven.len();
        for request in qpair.into_outstanding().map(Request::taken_back) {
            if request.is_repeatable() {
                self.waiting.push_back(request);
            } else {
                self.unproven.push(Unproven { request, leg: id, quiet_ns, free_ns });
            }
        }
        drop(ticket);
        if self.unproven.len() > before && free_ns < u64::MAX {
            self.wake_at(free_ns);
        }
    }

    /// Fails all I/O that waits: no controller reconnected in time, or all are removed.
    fn fail_all(&mut self) {
        let unproven = self.unproven.drain(..).map(|unproven| unproven.request);
        let delayed = self.delayed.drain(..).map(|(_, request)| request);
        let injected = self.injected.drain(..).map(|(_, _, request, _)| request);
        let waiting = self.waiting.drain(..);
        let all: Vec<Request> = unproven.chain(waiting).chain(delayed).chain(injected).collect();
        for request in all {
            request.io.complete_with(no_path());
        }
    }
}

/// How many commands a queue has outstanding.
fn outstanding(sockets: &mut Sockets<Queue>, rings: Option<&Rings>, key: Key) -> usize {
    match key {
        Key::Socket(key) => sockets.get_mut(key).map_or(0, |(_, queue)| queue.qpair.outstanding()),
        Key::Ring(key) => rings.map_or(0, |rings| rings.outstanding(key)),
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tasks.iter_mut().for_each(JoinHandle::cancel);
    }
}

/// The host's clock after that time, in nanoseconds.
fn after(time: Duration) -> u64 {
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    thread::now_ns().saturating_add(time)
}

/// Makes the channel check for commands that take too long, a few times in each timeout.
async fn watch(timeout: Duration, news: Rc<News>) {
    let period = (timeout / 4).clamp(WATCH_MIN, WATCH_MAX);
    loop {
        task::sleep(period).await;
        news.is_watch_due.set(true);
        news.wake();
    }
}

/// Makes the channel follow the list of paths.
async fn follow_list(paths: Arc<Paths>, mut version: u64, news: Rc<News>) {
    loop {
        paths.changed_from(version).await;
        version = paths.listed().0;
        news.is_list_new.set(true);
        news.wake();
    }
}
