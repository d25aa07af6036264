//! An admin queue, or any other queue, with commands as futures. It stays on the app thread, where it was made.

use std::cell::{OnceCell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use drivebay_nvme_driver::qpair::{Agreed, Completed, Payload, Qpair, Transfer};
use drivebay_nvme_driver::spec::opcode::admin;
use drivebay_nvme_driver::spec::{Command, Completion, Status as NvmeStatus};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{Next, OutPiece, Sockets, Stream};
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either, oneshot};

use crate::link::{self, InList, OutList, Wire};
use crate::options::{TimeoutAction, Timeouts};
use crate::path::Path;
use crate::pci::admin::AdminRing;

/// Commands that create and delete I/O queues and set their doorbells. The answers say which memory the controller uses, so operators cannot
/// inject errors into these commands, and cannot send them to a controller on PCIe.
pub(crate) const OF_QUEUES: [u8; 5] = [
    admin::CREATE_IO_CQ,
    admin::CREATE_IO_SQ,
    admin::DELETE_IO_SQ,
    admin::DELETE_IO_CQ,
    admin::DOORBELL_BUFFER_CONFIG,
];
/// poll(2): there is something to read.
const POLLIN: u32 = 1;

/// The data of an admin command.
#[derive(Debug)]
pub(crate) enum Data {
    None,
    /// This many bytes from the controller.
    In(u32),
    /// These bytes to the controller, less than 4 GiB.
    Out(Vec<u8>),
    /// The addresses for the controller of one or two pages that it uses from now on, such as the memory of a queue. PCIe only.
    Pages(u64, Option<u64>),
}

/// How an admin command ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) completion: Completion,
    /// The data that the controller sent.
    pub(crate) data: Vec<u8>,
}

impl Answer {
    /// The answer itself if the command succeeded, or else an error.
    pub(crate) fn ok(self, what: &str) -> Result<Self> {
        let status = self.completion.status;
        if status.is_success() {
            return Ok(self);
        }
        Err(Error::new(errno_of(status), format!("{what} failed: {status}")))
    }
}

fn errno_of(status: NvmeStatus) -> i32 {
    match status.code() {
        NvmeStatus::INVALID_FIELD | NvmeStatus::INVALID_NAMESPACE_OR_FORMAT => errno::EINVAL,
        NvmeStatus::INVALID_OPCODE => errno::EOPNOTSUPP,
        _ => errno::EIO,
    }
}

/// A command that is outstanding. It owns its memory, so a caller may stop waiting at any time.
#[derive(Debug)]
struct AdminCommand {
    data: Vec<u8>,
    answer: oneshot::Sender<Answer>,
}

impl Payload for AdminCommand {
    fn put(&mut self, offset: u32, bytes: &[u8]) {
        let place =
            self.data.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    }

    fn look(&self, offset: u32, len: u32, see: &mut dyn FnMut(&[u8])) {
        see(self.slice(offset, len));
    }
}

impl AdminCommand {
    fn slice(&self, offset: u32, len: u32) -> &[u8] {
        let rest = self.data.get(offset as usize..).unwrap_or_default();
        rest.get(..len as usize).unwrap_or_default()
    }
}

impl Wire for AdminCommand {
    fn out<'a>(&'a self, offset: u32, len: u32, pieces: &mut OutList<'a>) {
        pieces.push(OutPiece::new(self.slice(offset, len)));
    }

    fn into<'a>(&'a self, _: u32, _: u32, _: &mut InList<'a>) {}
}

/// The queue. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Admin {
    served: Rc<Served>,
    /// The controller's path. It holds the errors that an operator injected.
    path: OnceCell<Arc<Path>>,
    _poller: Poller,
}

#[derive(Debug)]
struct Served {
    link: RefCell<Link>,
    lost: RefCell<Option<String>>,
    changed: Notify,
    timeouts: Timeouts,
}

/// The transport of the queue.
#[derive(Debug)]
enum Link {
    Socket { sockets: Sockets<Qpair<AdminCommand>>, key: usize },
    Ring(AdminRing),
}

impl Admin {
    /// Serves a queue that is connected.
    pub(crate) fn new(stream: Stream, agreed: Agreed, timeouts: Timeouts) -> Result<Self> {
        let mut sockets = Sockets::new(1)?;
        let wake_fd = sockets.wake_fd();
        let key = sockets.add(stream, Qpair::new(agreed))?;
        Self::serve(Link::Socket { sockets, key }, wake_fd, timeouts)
    }

    /// Serves the queue of a controller on PCIe.
    pub(crate) fn on_ring(ring: AdminRing, timeouts: Timeouts) -> Result<Self> {
        let wake_fd = ring.interrupts.wake_fd();
        Self::serve(Link::Ring(ring), wake_fd, timeouts)
    }

    fn serve(link: Link, wake_fd: RawFd, timeouts: Timeouts) -> Result<Self> {
        let served = Rc::new(Served {
            link: RefCell::new(link),
            lost: RefCell::new(None),
            changed: Notify::new(),
            timeouts,
        });
        let poller = Poller::register("nvme_admin", 0, Serve(Rc::clone(&served)))?;
        poller.wake_fd(wake_fd, POLLIN)?;
        Ok(Self { served, path: OnceCell::new(), _poller: poller })
    }

    /// Ends commands with the errors that an operator injected into the controller.
    pub(crate) fn inject(&self, path: &Arc<Path>) {
        self.path.get_or_init(|| Arc::clone(path));
    }

    /// Runs a command. A command that takes too long keeps its queue entry and its memory until it ends, unless the connection is
    /// ended for that (`action_on_timeout`).
    pub(crate) async fn run(&self, what: &str, command: Command, data: Data) -> Result<Answer> {
        let answer = self.send(what, command, data);
        let Timeouts { action, admin: limit, .. } = self.served.timeouts;
        match task::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(elapsed) => {
                let why = format!("{what}: {elapsed}");
                // An Abort would wait in the same queue.
                if action != TimeoutAction::None {
                    self.give_up(why.clone());
                }
                Err(Error::new(errno::ETIMEDOUT, why))
            }
        }
    }

    /// Runs a command without a time limit, such as a request for events.
    pub(crate) async fn send(&self, what: &str, command: Command, data: Data) -> Result<Answer> {
        let opcode = command.opcode();
        let path = self.path.get().filter(|_| !OF_QUEUES.contains(&opcode));
        let injections = path.map(|path| &path.admin_injections);
        if let Some((status, delay)) = injections.and_then(|errors| errors.instead(opcode)) {
            // The end of the connection ends the delay, too.
            task::select(task::sleep(delay), self.lost()).await;
            return Ok(Answer { completion: Completion::new(0, status), data: Vec::new() });
        }
        // After the loss of a ring, its commands stay in the ring, so this function must not wait for the answer.
        let answer = task::select(self.begin(what, command, data)?, self.lost()).await;
        let Either::Left(Ok(mut answer)) = answer else { return Err(self.why(what)) };
        if let Some(status) = injections.and_then(|errors| errors.after(opcode)) {
            answer.completion.status = status;
        }
        Ok(answer)
    }

    fn begin(&self, what: &str, command: Command, data: Data) -> Result<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        if self.is_lost() {
            return Err(self.why(what));
        }
        let mut link = self.served.link.borrow_mut();
        let (sockets, key) = match &mut *link {
            Link::Socket { sockets, key } => (sockets, *key),
            Link::Ring(ring) => {
                ring.submit(what, &command, data, sender)?;
                return Ok(receiver);
            }
        };
        let (transfer, data) = match data {
            Data::None | Data::Pages(..) => (Transfer::None, Vec::new()),
            Data::In(len) => (Transfer::In(len), vec![0; len as usize]),
            Data::Out(data) => (Transfer::Out(u32::try_from(data.len()).unwrap_or(0)), data),
        };
        let Some((_, qpair)) = sockets.get_mut(key) else { return Err(self.why(what)) };
        if qpair.submit(&command, transfer, AdminCommand { data, answer: sender }).is_err() {
            return Err(Error::new(errno::EAGAIN, format!("{what}: the admin queue is full")));
        }
        sockets.activate(key);
        Ok(receiver)
    }

    fn why(&self, what: &str) -> Error {
        let lost = self.served.lost.borrow();
        let why = lost.as_deref().unwrap_or("the connection has ended");
        Error::new(errno::EIO, format!("{what}: {why}"))
    }

    /// Whether the connection is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.served.lost.borrow().is_some()
    }

    /// Waits until the connection is lost, and says why.
    pub(crate) async fn lost(&self) -> String {
        self.served.changed.until(|| self.served.lost.borrow().is_some()).await;
        self.served.lost.borrow().clone().unwrap_or_default()
    }

    /// Ends the connection, for example when the controller did not answer a keep alive.
    pub(crate) fn give_up(&self, why: String) {
        if let Link::Socket { sockets, key } = &mut *self.served.link.borrow_mut() {
            drop(sockets.remove(*key));
        }
        self.served.end(why);
    }
}

impl Served {
    /// The connection is lost.
    fn end(&self, why: String) {
        self.lost.borrow_mut().get_or_insert(why);
        self.changed.notify();
    }
}

/// The poller of a queue.
struct Serve(Rc<Served>);

impl Poll for Serve {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let served = &self.0;
        let mut link = served.link.borrow_mut();
        let sockets = match &mut *link {
            Link::Socket { sockets, .. } => sockets,
            Link::Ring(_) if served.lost.borrow().is_some() => return false,
            Link::Ring(ring) => match ring.serve() {
                Ok(is_busy) => return is_busy,
                Err(error) => {
                    drop(link);
                    served.end(error.message().to_owned());
                    return true;
                }
            },
        };
        let has_come = sockets.look();
        let (mut done, mut lost) = (Vec::new(), None);
        sockets.round(|_, stream, qpair| {
            let turn = link::send(stream, qpair)
                .and_then(|()| link::receive(stream, qpair))
                .and_then(|has_more| link::send(stream, qpair).map(|()| has_more));
            done.extend(std::iter::from_fn(|| qpair.completed()));
            match turn {
                Ok(true) => Next::Work,
                Ok(false) if qpair.has_output() && stream.is_writable() => Next::Work,
                Ok(false) => Next::Wait,
                Err(why) => {
                    lost = Some(why.to_string());
                    Next::End
                }
            }
        });
        drop(link);
        let is_busy = has_come || !done.is_empty();
        for Completed { request, completion, received } in done {
            let mut data = request.data;
            data.truncate(received as usize);
            // The caller may have stopped waiting.
            let _ = request.answer.send(Answer { completion, data });
        }
        if let Some(why) = lost {
            served.end(why);
        }
        is_busy
    }

    fn prepare_sleep(&mut self) -> bool {
        match &*self.0.link.borrow() {
            Link::Socket { sockets, .. } => sockets.has_work(),
            Link::Ring(ring) => {
                let has_come = ring.prepare_sleep();
                has_come && self.0.lost.borrow().is_none()
            }
        }
    }
}
