//! The targets of a device, its commands, and the events for its driver.
//!
//! An I/O that has ended goes into a list, and the next round continues its command, because the bdev may end an I/O within the
//! call that submits it.

use super::command::{Commands, Part, Piece};
use super::control::Management;
use super::target::{Target, TargetDisk};
use crate::device::{Taken, finish};
use drivebay_scsi::TaskKey;
use drivebay_sdk::tracing;
use drivebay_spec_vhost::scsi::{
    CONTROL_QUEUE, EVENT_LEN, EVENT_QUEUE, event, event_bytes, feature,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Maximum number of events that wait for the driver. Later events are lost, and the next event reports that some were missed.
const EVENTS_MAX: usize = 64;

/// Serves the requests of a SCSI host.
#[derive(Default)]
pub struct Service {
    targets: RefCell<BTreeMap<u8, Rc<Target>>>,
    pub(super) commands: RefCell<Commands>,
    pub(super) managements: RefCell<Vec<Management>>,
    /// I/Os that have ended.
    pub(super) ended: RefCell<Vec<Piece>>,
    /// Commands that the next round continues, because memory was short or their turn has come.
    pub(super) ready: RefCell<VecDeque<TaskKey>>,
    /// I/O contexts to reuse.
    pub(super) free: RefCell<Vec<Part>>,
    events: RefCell<VecDeque<Event>>,
    has_missed: Cell<bool>,
    features: Cell<u64>,
}

/// An event for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    kind: u32,
    target: u8,
    reason: u32,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let targets: Vec<u8> = self.targets.borrow().keys().copied().collect();
        f.debug_struct("Service").field("targets", &targets).finish_non_exhaustive()
    }
}

impl Service {
    /// Creates a service with targets. Leaves out a target whose bdev gives no channel.
    #[must_use]
    pub fn new(targets: Vec<TargetDisk>) -> Rc<Self> {
        let service = Rc::new(Self::default());
        for target in targets {
            service.insert(target);
        }
        service
    }

    /// The features that the driver has accepted.
    pub fn set_features(&self, features: u64) {
        self.features.set(features);
    }

    /// Adds a target and reports it to the driver.
    pub fn add(&self, target: TargetDisk) {
        let number = target.number;
        if self.insert(target) {
            self.tell(feature::HOTPLUG, event::TRANSPORT_RESET, number, event::RESCAN);
        }
    }

    fn insert(&self, target: TargetDisk) -> bool {
        let name = target.disk.name.clone();
        match Target::open(target) {
            Ok(target) => {
                self.targets.borrow_mut().insert(target.number, Rc::new(target));
                true
            }
            Err(error) => {
                tracing::error!("vhost over {name}: no channel: {error}");
                false
            }
        }
    }

    /// Removes a target and reports it to the driver. Calls `gone` when the target's commands have ended.
    pub fn remove(&self, number: u8, gone: Box<dyn FnOnce() + Send>) {
        let Some(target) = self.target(number) else { return gone() };
        self.tell(feature::HOTPLUG, event::TRANSPORT_RESET, number, event::REMOVED);
        let earlier = target.leaving.borrow_mut().replace(gone);
        debug_assert!(earlier.is_none(), "target {number} is removed once");
        self.drop_if_left(&target);
    }

    /// Takes the new size of a target, in blocks, and reports it to the driver.
    pub fn resize(&self, number: u8, blocks: u64) {
        let Some(target) = self.target(number) else { return };
        target.device.borrow_mut().resize_unit(0, blocks);
        self.tell(feature::CHANGE, event::PARAMETER_CHANGE, number, event::CAPACITY);
    }

    pub(super) fn target(&self, number: u8) -> Option<Rc<Target>> {
        self.targets.borrow().get(&number).cloned()
    }

    /// Drops a target that is being removed once it has no command left.
    pub(super) fn drop_if_left(&self, target: &Rc<Target>) {
        if target.num_commands.get() > 0 {
            return;
        }
        let Some(gone) = target.leaving.borrow_mut().take() else { return };
        self.targets.borrow_mut().remove(&target.number);
        gone();
    }

    fn tell(&self, wanted: u64, kind: u32, target: u8, reason: u32) {
        if self.features.get() & wanted == 0 {
            return;
        }
        let mut events = self.events.borrow_mut();
        if events.len() == EVENTS_MAX {
            return self.has_missed.set(true);
        }
        events.push_back(Event { kind, target, reason });
    }

    /// Serves a request of a ring.
    pub(crate) fn submit(self: &Rc<Self>, ring: usize, request: Taken) {
        match ring {
            CONTROL_QUEUE => self.control(request),
            EVENT_QUEUE => self.give_event(request),
            _ => self.begin(request),
        }
    }

    /// Whether to take requests of a ring. Buffers for events stay in the ring until there is an event.
    pub(crate) fn wants(&self, ring: usize) -> bool {
        ring != EVENT_QUEUE || !self.events.borrow().is_empty()
    }

    fn give_event(&self, request: Taken) {
        // Without an event, the last device took this buffer and its event is lost. So the driver must scan its disks.
        let event = self.events.borrow_mut().pop_front();
        let Event { kind, target, reason } = event.unwrap_or_else(|| {
            self.has_missed.set(true);
            Event { kind: event::NONE, target: 0, reason: 0 }
        });
        let missed = if self.has_missed.take() { event::MISSED } else { 0 };
        let is_written = request.chain.write(0, &event_bytes(kind | missed, target, reason));
        if !is_written {
            self.has_missed.set(true);
        }
        finish(request, if is_written { EVENT_LEN as u64 } else { 0 });
    }

    /// Continues commands that waited. Returns whether there was something to do.
    pub(crate) fn progress(self: &Rc<Self>) -> bool {
        let has_settled = self.settle_managements();
        let pieces = std::mem::take(&mut *self.ended.borrow_mut());
        let ready = std::mem::take(&mut *self.ready.borrow_mut());
        let did = !pieces.is_empty() || !ready.is_empty();
        for piece in pieces {
            self.piece_ended(piece);
        }
        for key in ready {
            self.advance(key);
        }
        has_settled || did
    }

    /// Whether [`progress`](Self::progress) has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.ended.borrow().is_empty() || !self.ready.borrow().is_empty() || self.can_settle()
    }

    /// Drops the unused I/O contexts, because a ring has stopped and they would keep its memory.
    pub(crate) fn rest(&self) {
        if self.commands.borrow().is_empty() {
            self.free.borrow_mut().clear();
        }
    }

    /// Rings the doorbells of the bdevs.
    pub(crate) fn flush(&self) {
        for target in self.targets.borrow().values() {
            target.channel.flush();
        }
    }
}
