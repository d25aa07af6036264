//! One thread's session with a unit, and its I/O: outstanding, or waiting for the session.
//!
//! ```text
//! connecting ──▶ connected ── fault, or a command takes too long ──▶ connecting …
//!                             outstanding I/O goes to the front of the waiting I/O
//! ```
//!
//! The target ends the old session before it admits the new one (same ISID), but its disk may still execute I/O of the old session.
//! So the channel connects again, and sends I/O again, no earlier than [`QUIET`] after it lost the session.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_scsi::initiator::{Verdict, command, may_be_another_unit};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{Next, Sockets, Stream};
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, JoinHandle};
use drivebay_sdk::thread;

use crate::app;
use crate::disk::Disk;
use crate::probe;
use crate::request::{Request, judge};
use crate::session::Session;

/// Shortest time from the loss of a session to the next login.
const QUIET: Duration = Duration::from_secs(2);
/// Longest wait between two tries to connect.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// How often the channel checks time limits.
const TICK: Duration = Duration::from_secs(1);
/// The channel pings a target that has been silent for this time. After twice this time its session is lost. It is also lost when the
/// target has requested a logout and does not end it within this time while I/O waits.
const SILENCE_NS: u64 = 15_000_000_000;
/// Pause before a command is sent again to a busy unit.
const BUSY_DELAY: Duration = Duration::from_millis(100);
/// Maximum number of bytes received in one round, so that one connection does not hold up others.
const ROUND_LEN: usize = 512 << 10;

/// One thread's state.
pub struct Channel {
    disk: Arc<Disk>,
    sockets: Sockets<Session<Request>>,
    /// The session's key in `sockets`; `None` = there is no session.
    key: Option<usize>,
    news: Rc<News>,
    tasks: Vec<JoinHandle<()>>,
    waiting: VecDeque<Request>,
    /// I/O that a busy unit did not accept. It moves to `waiting` after [`BUSY_DELAY`].
    later: Vec<Request>,
    /// When the session was lost, or the channel opened, on the host's clock in nanoseconds.
    away_ns: u64,
    /// When the target last sent bytes.
    heard_ns: u64,
    /// `heard_ns` at the last ping, so that each silence gets one ping.
    pinged_ns: u64,
    /// When the target last had a command, or accepted one, or no I/O waited.
    accepted_ns: u64,
}

/// Messages between a channel and its tasks.
#[derive(Default)]
struct News {
    has_any: Cell<bool>,
    connected: RefCell<Option<(Stream, Session<Request>)>>,
    /// The channel has a session, or one is in `connected`.
    is_connected: Cell<bool>,
    is_time: Cell<bool>,
    changed: Notify,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("disk", &self.disk.name).finish_non_exhaustive()
    }
}

impl Channel {
    pub(crate) fn open(disk: Arc<Disk>) -> Result<Self> {
        let news = Rc::new(News::default());
        let now_ns = thread::now_ns();
        let mut channel = Self {
            disk: Arc::clone(&disk),
            sockets: Sockets::new(1)?,
            key: None,
            news: Rc::clone(&news),
            tasks: Vec::new(),
            waiting: VecDeque::new(),
            later: Vec::new(),
            away_ns: now_ns,
            heard_ns: now_ns,
            pinged_ns: 0,
            accepted_ns: now_ns,
        };
        // An error drops the channel, which cancels its tasks.
        channel.tasks.push(task::spawn("iscsi session", keep_connected(disk, Rc::clone(&news)))?);
        channel.tasks.push(task::spawn("iscsi time", tick(TICK, news))?);
        Ok(channel)
    }

    /// Accepts an I/O. [`Self::flush`] sends it.
    pub(crate) fn submit(&mut self, io: BdevIo) {
        if matches!(io.op(), Op::Flush) && !self.disk.unit.has_write_cache {
            return io.complete(Status::SUCCESS);
        }
        self.waiting.push_back(Request::new(io));
    }

    /// Sends the submitted I/O, at the end of a burst.
    pub(crate) fn flush(&mut self) {
        self.round(false);
    }

    /// Runs one round. Returns whether it did work.
    pub(crate) fn poll(&mut self) -> bool {
        let has_news = self.hear();
        let has_come = self.sockets.look();
        let has_work = self.sockets.has_work();
        self.round(true);
        has_news || has_come || has_work
    }

    pub(crate) fn prepare_sleep(&self) -> bool {
        self.news.has_any.get() || self.sockets.has_work()
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.sockets.wake_fd()
    }

    /// Submits waiting I/O to the session, sends, and receives if `receives`.
    fn round(&mut self, receives: bool) {
        self.send_waiting();
        let Self { sockets, heard_ns, .. } = self;
        let mut lost = None;
        sockets.round(|_, stream, session| {
            let turn = send(stream, session)
                .and_then(
                    |()| if receives { receive(stream, session, heard_ns) } else { Ok(false) },
                )
                .and_then(|has_more| send(stream, session).map(|()| has_more));
            match turn {
                Ok(true) => Next::Work,
                // The edge of this input has passed, so the next turn must read it.
                Ok(false) if stream.is_readable() => Next::Work,
                Ok(false) => Next::Wait,
                Err(why) => {
                    lost = Some(why);
                    Next::Wait
                }
            }
        });
        let is_doubtful = self.settle();
        if let Some(why) = lost {
            self.lose(&why);
        } else if is_doubtful {
            self.lose("the target reports that another unit may have this LUN");
        }
    }

    /// Completes finished I/O, and submits I/O that must be sent again. Returns whether another unit may have the LUN now.
    fn settle(&mut self) -> bool {
        let Some((_, session)) = self.key.and_then(|key| self.sockets.get_mut(key)) else {
            return false;
        };
        let mut is_doubtful = false;
        let mut again = Vec::new();
        while let Some(mut done) = session.done() {
            is_doubtful |= may_be_another_unit(done.sense);
            match judge(&mut done) {
                Verdict::End(result) => done.request.io.complete_with(result),
                Verdict::Later => {
                    if self.later.is_empty() {
                        wake_after(BUSY_DELAY, &self.news);
                    }
                    self.later.push(done.request);
                }
                Verdict::Again { is_resized } => {
                    if is_resized {
                        app::size_changed(&self.disk.name);
                    }
                    again.push(done.request);
                }
            }
        }
        again.into_iter().rev().for_each(|request| self.waiting.push_front(request));
        if !is_doubtful {
            self.send_waiting();
        }
        is_doubtful
    }

    fn send_waiting(&mut self) {
        let Some(key) = self.key.filter(|_| !self.waiting.is_empty()) else { return };
        let Some((_, session)) = self.sockets.get_mut(key) else { return };
        let block_size = self.disk.unit.block_size;
        let now_ns = thread::now_ns();
        while let Some(mut request) = self.waiting.pop_front() {
            let Some((cdb, transfer)) = command(request.io.op(), block_size) else {
                request.io.complete(Status::NOT_SUPPORTED);
                continue;
            };
            request.sent_ns = now_ns;
            if let Err(request) = session.submit(cdb, transfer, request) {
                self.waiting.push_front(request);
                break;
            }
            self.accepted_ns = now_ns;
        }
        self.sockets.activate(key);
    }

    /// Handles what the tasks reported. Returns whether there was any.
    fn hear(&mut self) -> bool {
        if !self.news.has_any.replace(false) {
            return false;
        }
        let connected = self.news.connected.take();
        if let Some((stream, session)) = connected {
            self.heard_ns = thread::now_ns();
            self.accepted_ns = self.heard_ns;
            match self.sockets.add(stream, session) {
                Ok(key) => self.key = Some(key),
                Err(error) => self.lose(error.message()),
            }
        }
        self.later.drain(..).for_each(|request| self.waiting.push_back(request));
        if self.news.is_time.replace(false) {
            self.send_waiting();
            self.check_limits();
        }
        true
    }

    /// Ends what exceeded its time limit, and pings a silent target. Runs after [`Self::send_waiting`].
    fn check_limits(&mut self) {
        let now_ns = thread::now_ns();
        let limit = self.disk.io_limit().map(|limit| limit.as_nanos());
        let is_over = |since_ns: u64| {
            limit.is_some_and(|limit| u128::from(now_ns.saturating_sub(since_ns)) > limit)
        };
        let Some(key) = self.key else {
            if is_over(self.away_ns) || self.disk.is_ending() {
                self.fail_waiting();
            }
            return;
        };
        let Some((_, session)) = self.sockets.get_mut(key) else { return };
        let (mut has_any, mut has_overdue) = (false, false);
        for request in session.requests_mut() {
            has_any = true;
            if is_over(request.sent_ns) {
                request.count_overdue();
                has_overdue = true;
            }
        }
        if has_overdue {
            return self.lose("a command takes too long");
        }
        if has_any || self.waiting.is_empty() {
            self.accepted_ns = now_ns;
        } else if is_over(self.accepted_ns) {
            self.fail_waiting();
            return self.lose("the target accepts no commands");
        } else if session.is_leaving() && now_ns.saturating_sub(self.accepted_ns) > SILENCE_NS {
            return self.lose("the target does not answer the logout that it requested");
        }
        let silent_ns = now_ns.saturating_sub(self.heard_ns);
        if silent_ns > 2 * SILENCE_NS {
            self.lose("the target does not answer");
        } else if silent_ns > SILENCE_NS && self.pinged_ns != self.heard_ns {
            self.pinged_ns = self.heard_ns;
            session.ping();
            self.sockets.activate(key);
        }
    }

    fn fail_waiting(&mut self) {
        self.waiting.drain(..).for_each(|request| request.io.complete(Status::IO_ERROR));
    }

    /// Ends the session. Outstanding I/O waits for the next one, or fails.
    fn lose(&mut self, why: &str) {
        warn!("{}: the session is lost: {why}", self.disk.name);
        let session = self.key.take().and_then(|key| self.sockets.remove(key));
        if let Some((_, session)) = session {
            let is_ending = self.disk.is_ending();
            let count_loss = |mut request: Request| {
                request.count_loss();
                request
            };
            let (hopeless, again): (Vec<Request>, Vec<Request>) = session
                .into_requests()
                .map(count_loss)
                .partition(|request| is_ending || request.is_hopeless());
            again.into_iter().rev().for_each(|request| self.waiting.push_front(request));
            hopeless.into_iter().for_each(|request| request.io.complete(Status::IO_ERROR));
        }
        self.away_ns = thread::now_ns();
        self.news.is_connected.set(false);
        self.news.changed.notify();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tasks.iter_mut().for_each(JoinHandle::cancel);
    }
}

/// Sends as much as the socket accepts.
fn send(stream: &mut Stream, session: &mut Session<Request>) -> Result<(), String> {
    while stream.is_writable() && !session.output().is_empty() {
        let bytes = std::io::IoSlice::new(session.output());
        let len = stream.write(&[bytes], false).map_err(|error| error.to_string())?;
        session.sent(len);
    }
    Ok(())
}

/// Receives at most about [`ROUND_LEN`] bytes. Returns whether there may be more.
fn receive(
    stream: &mut Stream,
    session: &mut Session<Request>,
    heard_ns: &mut u64,
) -> Result<bool, String> {
    let mut received = 0;
    while stream.is_readable() {
        if received >= ROUND_LEN {
            return Ok(true);
        }
        let room = std::io::IoSliceMut::new(session.room());
        let len = stream.read(&mut [room]).map_err(|error| error.to_string())?;
        match len {
            None => break,
            Some(0) => return Err("the target closed the connection".to_owned()),
            Some(len) => {
                session.received(len).map_err(|fault| fault.to_string())?;
                received += len;
                *heard_ns = thread::now_ns();
            }
        }
    }
    Ok(false)
}

/// Connects whenever the channel has no session, at longer and longer intervals while that fails.
async fn keep_connected(disk: Arc<Disk>, news: Rc<News>) {
    let isid = disk.isids.next();
    let mut delay = Duration::ZERO;
    let mut failure = String::new();
    loop {
        match probe::connect(&disk.place, isid, &disk.unit).await {
            Ok((stream, session, num_blocks)) => {
                if num_blocks != disk.unit.num_blocks {
                    app::size_changed(&disk.name);
                }
                delay = Duration::ZERO;
                failure.clear();
                news.connected.replace(Some((stream, session)));
                news.is_connected.set(true);
                news.has_any.set(true);
                news.changed.until(|| !news.is_connected.get()).await;
            }
            // Log a reason once, not at each try.
            Err(error) if error.message() != failure => {
                warn!("{}: {}", disk.name, error.message());
                error.message().clone_into(&mut failure);
            }
            Err(_) => {}
        }
        delay = (delay * 2).clamp(QUIET, DELAY_MAX);
        task::sleep(delay).await;
    }
}

/// Lets the channel check time limits once each `period`.
async fn tick(period: Duration, news: Rc<News>) {
    loop {
        task::sleep(period).await;
        news.is_time.set(true);
        news.has_any.set(true);
    }
}

/// Lets the channel run a round after `delay`.
fn wake_after(delay: Duration, news: &Rc<News>) {
    let news = Rc::clone(news);
    let wake = async move {
        task::sleep(delay).await;
        news.has_any.set(true);
    };
    match task::spawn("iscsi busy", wake) {
        Ok(task) => task.detach(),
        // The next tick does the same.
        Err(error) => warn!("{error}"),
    }
}
