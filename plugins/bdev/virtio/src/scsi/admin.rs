//! The controller's own queues of a session: events of the host, and questions about its units. They are on the app thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use drivebay_scsi::initiator::Answer;
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, oneshot};
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::sense::Sense;
use drivebay_spec_vhost::scsi::{EVENT_LEN, Event, RESPONSE_LEN, Request, Response, response};
use drivebay_virtio::driver::{Data, DeviceBroken, DriverQueue, DriverRequest};

use super::ask;
use crate::connection::ANSWER_LIMIT;
use crate::link::{clear, signal};

/// The event "readable" of poll(2).
const POLLIN: u32 = 1;
/// Buffers for events.
const EVENTS: usize = 16;
/// Most events that wait for the controller. Later ones count as lost.
const WAITING_MAX: usize = 64;

/// A queue with its two eventfds.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) queue: DriverQueue,
    /// Tells the device that there are requests.
    pub(crate) kick: Arc<OwnedFd>,
    /// The device writes it when it has handed back requests.
    pub(crate) call: Arc<OwnedFd>,
}

impl Side {
    fn publish(&mut self) {
        if self.queue.publish() {
            signal(&self.kick);
        }
    }
}

/// The queues of a session that the controller uses itself.
pub(crate) struct Admin {
    inner: Rc<Inner>,
    _poller: Poller,
}

/// Whoever waits for the answer of a question.
type Asker = oneshot::Sender<Result<Answer>>;

struct Inner {
    events: RefCell<Side>,
    questions: RefCell<Side>,
    arrived: RefCell<VecDeque<Event>>,
    /// Questions at the device, by slot, with the length of the data.
    asked: RefCell<BTreeMap<u16, (Asker, u32)>>,
    broken: RefCell<Option<DeviceBroken>>,
    changed: Notify,
}

/// Something that the controller must handle.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    Event(Event),
    Broken(DeviceBroken),
}

impl Admin {
    /// Gives the device buffers for events. `[app thread]`
    ///
    /// # Errors
    /// The host's error for a poller.
    pub(crate) fn new(mut events: Side, questions: Side) -> Result<Self> {
        for _ in 0..EVENTS {
            let _ = give_buffer(&mut events.queue); // fewer slots are fewer buffers
        }
        events.publish();
        let fds = [events.call.as_raw_fd(), questions.call.as_raw_fd()];
        let inner = Rc::new(Inner {
            events: RefCell::new(events),
            questions: RefCell::new(questions),
            arrived: RefCell::default(),
            asked: RefCell::default(),
            broken: RefCell::default(),
            changed: Notify::new(),
        });
        let poller = Poller::register("virtio_scsi", 0, Round(Rc::clone(&inner)))?;
        for fd in fds {
            poller.wake_fd(fd, POLLIN)?;
        }
        Ok(Self { inner, _poller: poller })
    }

    /// Waits for an event, or for a rule that the device breaks.
    pub(crate) async fn news(&self) -> News {
        let inner = &self.inner;
        inner.changed.until(|| inner.has_news()).await;
        match (*inner.broken.borrow(), inner.arrived.borrow_mut().pop_front()) {
            (None, Some(event)) => News::Event(event),
            (Some(broken), _) => News::Broken(broken),
            (None, None) => News::Broken(DeviceBroken::Id(0)),
        }
    }

    /// Executes a command of unit 0 of a target that reads at most `len` bytes.
    ///
    /// # Errors
    /// `ENODEV` when there is no such target, `ETIMEDOUT` without an answer in time, `EIO` when the device fails.
    pub(crate) async fn execute(&self, target: u8, cdb: [u8; CDB_LEN], len: u32) -> Result<Answer> {
        let header = Request::to_bytes(target, 0, &cdb);
        let (sender, receiver) = oneshot::channel();
        {
            let mut questions = self.inner.questions.borrow_mut();
            let data = if len > 0 { Data::In(len) } else { Data::None };
            let slot = questions.queue.submit(&ask(&header, data));
            let slot = slot.ok_or_else(|| Error::new(errno::EAGAIN, "too many questions"))?;
            self.inner.asked.borrow_mut().insert(slot, (sender, len));
            questions.publish();
        }
        let answer = task::timeout(ANSWER_LIMIT, receiver).await?;
        answer.map_err(|_| Error::new(errno::EIO, "the session has ended"))?
    }
}

/// Gives the device one buffer for an event. `None` when there is no slot.
fn give_buffer(queue: &mut DriverQueue) -> Option<u16> {
    let answer_len = u32::try_from(EVENT_LEN).unwrap_or(0);
    queue.submit(&DriverRequest { header: &[], data: Data::None, answer_len, answer_first: true })
}

impl Inner {
    fn has_news(&self) -> bool {
        self.broken.borrow().is_some() || !self.arrived.borrow().is_empty()
    }

    /// Takes the events that have arrived, and gives their buffers back. Returns whether there were any.
    fn take_events(&self) -> Result<bool, DeviceBroken> {
        let mut events = self.events.borrow_mut();
        let mut arrived = self.arrived.borrow_mut();
        let mut any = false;
        while let Some(used) = events.queue.next_used()? {
            let mut bytes = [0; EVENT_LEN];
            events.queue.answer(used.slot, &mut bytes);
            events.queue.release(used.slot);
            let _ = give_buffer(&mut events.queue); // into the slot that has just become free
            if let Some(mut event) = Event::parse(&bytes) {
                if arrived.len() >= WAITING_MAX {
                    arrived.clear();
                    event.missed = true;
                }
                arrived.push_back(event);
            }
            any = true;
        }
        if any {
            events.publish();
        }
        Ok(any)
    }

    /// Takes the answers to questions. Returns whether there were any.
    fn take_answers(&self) -> Result<bool, DeviceBroken> {
        let mut questions = self.questions.borrow_mut();
        let mut any = false;
        while let Some(used) = questions.queue.next_used()? {
            let asked = self.asked.borrow_mut().remove(&used.slot);
            if let Some((sender, len)) = asked {
                let _ = sender.send(answer(&questions.queue, used.slot, len)); // nobody waits any more
            }
            questions.queue.release(used.slot);
            any = true;
        }
        Ok(any)
    }
}

/// The answer in a slot, whose data has at most `len` bytes.
fn answer(queue: &DriverQueue, slot: u16, len: u32) -> Result<Answer> {
    let mut bytes = [0; RESPONSE_LEN];
    queue.answer(slot, &mut bytes);
    let failed = || Error::new(errno::EIO, "the device failed a command");
    let parsed = Response::parse(&bytes).ok_or_else(failed)?;
    match parsed.response {
        response::OK => {}
        response::BAD_TARGET | response::INCORRECT_LUN => {
            return Err(Error::new(errno::ENODEV, "the target does not exist"));
        }
        _ => return Err(failed()),
    }
    let len = usize::try_from(len.saturating_sub(parsed.residual)).unwrap_or(0);
    let mut data = vec![0; len];
    queue.read(slot, &mut data);
    Ok(Answer { status: parsed.status, data, sense: Sense::parse(parsed.sense) })
}

struct Round(Rc<Inner>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let inner = &self.0;
        if inner.broken.borrow().is_some() {
            return false;
        }
        let taken = inner.take_events().and_then(|events| Ok(events | inner.take_answers()?));
        let did = taken.unwrap_or_else(|broken| {
            *inner.broken.borrow_mut() = Some(broken);
            inner.asked.borrow_mut().clear();
            true
        });
        if inner.has_news() {
            inner.changed.notify();
        }
        did
    }

    fn prepare_sleep(&mut self) -> bool {
        let inner = &self.0;
        if inner.broken.borrow().is_some() {
            return false;
        }
        let events = inner.events.borrow_mut().queue.arm();
        inner.questions.borrow_mut().queue.arm() || events
    }

    fn woke(&mut self) {
        for side in [&self.0.events, &self.0.questions] {
            let mut side = side.borrow_mut();
            clear(&side.call);
            side.queue.disarm();
        }
    }
}
