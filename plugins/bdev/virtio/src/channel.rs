//! The queue of one thread: I/O of the bus becomes requests, and their results complete the I/O.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use drivebay_sdk::bdev::IoQueue;
use drivebay_sdk::prelude::*;
use drivebay_virtio::driver::{DriverQueue, Used};

use crate::disk::{Dialect, Ended};
use crate::link::{Link, Phase, Seat, clear, signal};

/// Maximum number of completions that one round takes.
const ROUND: usize = 128;

/// The state of one thread.
#[derive(Debug)]
pub struct Channel {
    dialect: Dialect,
    link: Arc<Link>,
    seat: usize,
    generation: u64,
    phase: Phase,
    /// `None` before the first session, and when I/O fails.
    queue: Option<DriverQueue>,
    /// Tells the device that there are requests.
    kick: Option<Arc<OwnedFd>>,
    /// The I/O in each slot of the queue.
    at_device: Vec<Option<BdevIo>>,
    /// I/O that found no free slot, or whose unit is doubtful.
    waiting: IoQueue,
    num_at_device: u32,
    /// I/O that the device has ended, modulo 2^32. A request that must be sent again does not count, so a device that does nothing
    /// else makes no progress.
    num_done: u32,
    /// Whether the device broke a rule. The controller knows about it.
    is_broken: bool,
}

impl Channel {
    /// Takes a queue for this thread. `[reactor]`
    ///
    /// # Errors
    /// `EBUSY` when the controller has no free queue.
    pub(crate) fn open(dialect: Dialect, link: Arc<Link>) -> Result<Self> {
        let seat = link.sit()?;
        let mut channel = Self {
            dialect,
            link,
            seat,
            generation: 0,
            phase: Phase::Waiting,
            queue: None,
            kick: None,
            at_device: Vec::new(),
            waiting: IoQueue::new(),
            num_at_device: 0,
            num_done: 0,
            is_broken: false,
        };
        channel.look();
        Ok(channel)
    }

    /// Queues an I/O; the device sees it at the end of the burst.
    pub(crate) fn submit(&mut self, io: BdevIo) {
        if self.phase == Phase::Failing {
            return io.complete(Status::IO_ERROR);
        }
        // I/O that waits already goes first.
        match &mut self.queue {
            Some(queue)
                if self.waiting.is_empty() && queue.has_room() && self.dialect.may_submit() =>
            {
                self.put(io);
            }
            _ => self.waiting.push(io),
        }
    }

    /// Puts an I/O into the queue, which has room.
    #[inline]
    fn put(&mut self, io: BdevIo) {
        let Some(queue) = &mut self.queue else { return io.complete(Status::IO_ERROR) };
        match self.dialect.submit(queue, &io) {
            Ok(slot) => {
                self.num_at_device += 1;
                if let Some(place) = self.at_device.get_mut(usize::from(slot)) {
                    *place = Some(io);
                }
            }
            Err(status) => io.complete(status),
        }
    }

    /// Shows the device the new requests.
    pub(crate) fn flush(&mut self) {
        if let Some(queue) = &mut self.queue
            && queue.publish()
            && let Some(kick) = &self.kick
        {
            signal(kick);
        }
        // I/O of a doubtful unit counts as one request, so that a device that does not stop reporting doubts makes no progress.
        let is_held = self.queue.is_some() && !self.waiting.is_empty();
        if let Some(seat) = self.own_seat() {
            seat.note(self.num_at_device.max(is_held.into()), self.num_done);
        }
    }

    /// Completes the I/O that has ended. Returns whether there was any.
    pub(crate) fn poll(&mut self) -> bool {
        let mut did = self.complete_some();
        if self.link.generation() != self.generation {
            self.look();
            did = true;
        }
        // I/O that waits although there is room was held back by a doubt, which is cleared now.
        if did || (!self.waiting.is_empty() && self.can_put()) {
            self.refill();
            did = true;
        }
        did
    }

    fn can_put(&self) -> bool {
        self.queue.as_ref().is_some_and(DriverQueue::has_room) && self.dialect.may_submit()
    }

    fn complete_some(&mut self) -> bool {
        for count in 0..ROUND {
            let Some(queue) = &mut self.queue else { return count > 0 };
            match queue.next_used() {
                Ok(Some(used)) => self.complete(used),
                Ok(None) => return count > 0,
                Err(broken) => {
                    if !std::mem::replace(&mut self.is_broken, true) {
                        self.link.report(self.generation, broken.to_string());
                    }
                    return count > 0;
                }
            }
        }
        true
    }

    #[inline]
    fn complete(&mut self, used: Used) {
        let Some(queue) = &mut self.queue else { return };
        // The queue returns only slots that the device had, so there is an I/O.
        let place = self.at_device.get_mut(usize::from(used.slot));
        let Some(io) = place.and_then(Option::take) else { return };
        let ended = self.dialect.finish(queue, used.slot, &io);
        queue.release(used.slot);
        self.num_at_device -= 1;
        match ended {
            Ended::Done(result) => {
                self.num_done = self.num_done.wrapping_add(1);
                io.complete_with(result);
            }
            Ended::Again { is_doubtful } => {
                self.waiting.push(io);
                if is_doubtful {
                    self.link.doubted.notify();
                }
            }
        }
    }

    /// Puts waiting I/O into the free slots, and shows it to the device.
    fn refill(&mut self) {
        while self.can_put()
            && let Some(io) = self.waiting.pop()
        {
            self.put(io);
        }
        self.flush();
    }

    /// Takes the queue of the current session. I/O in flight in the last session goes into it, or fails.
    #[cold]
    fn look(&mut self) {
        let found = self.link.look(self.seat);
        // This channel may have missed the failure, because the next session began soon after it. The last back end may still execute
        // the I/O in flight, so the next one must not get it.
        let must_fail = found.failed > self.generation;
        (self.generation, self.phase, self.is_broken) = (found.generation, found.phase, false);
        (self.queue, self.kick) = (found.queue, found.kick);
        let slots = self.queue.as_ref().map_or(0, DriverQueue::num_slots);
        let before = std::mem::take(&mut self.at_device);
        self.num_at_device = 0;
        self.at_device.resize_with(slots.into(), || None);
        let mut rest = std::mem::take(&mut self.waiting);
        let mut all = IoQueue::new();
        for io in before.into_iter().flatten() {
            if must_fail { io.complete(Status::IO_ERROR) } else { all.push(io) }
        }
        while let Some(io) = rest.pop() {
            all.push(io);
        }
        if self.phase == Phase::Failing {
            while let Some(io) = all.pop() {
                io.complete(Status::IO_ERROR);
            }
        }
        self.waiting = all;
        self.refill();
    }

    /// Asks the device for a call. Returns whether there is work already.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        // The controller changes the generation, then signals the eventfd. So a change that this code misses wakes the thread.
        let has_work = self.queue.as_mut().is_some_and(|queue| !self.is_broken && queue.arm());
        has_work || self.link.generation() != self.generation
    }

    /// Asks the device for no calls, because the thread polls again.
    pub(crate) fn woke(&mut self) {
        if let Some(seat) = self.own_seat() {
            clear(&seat.call);
        }
        if let Some(queue) = &mut self.queue {
            queue.disarm();
        }
    }

    fn own_seat(&self) -> Option<&Seat> {
        self.link.seats().get(self.seat)
    }

    /// Readable when the device has handed back requests, or the session has changed.
    pub(crate) fn wake_fd(&self) -> Option<RawFd> {
        self.own_seat().map(|seat| seat.call.as_raw_fd())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The bus closes only channels without I/O, so the next channel can use the queue.
        let is_idle = self.at_device.iter().all(Option::is_none);
        let queue = self.queue.take().filter(|_| is_idle && !self.is_broken);
        self.link.leave(self.seat, queue, self.generation);
    }
}
