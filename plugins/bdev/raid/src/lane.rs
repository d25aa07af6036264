//! One thread's way to a redundant array: its channels of the members, the I/O that waits, and what was begun when.

use crate::members;
use crate::shared::{Shared, View, Views};
use drivebay_sdk::bdev::{Channel, Desc};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// A channel's state. It stays on its thread.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    /// By slot. Changed by [`adopt`](Self::adopt) only.
    pub(crate) bases: RefCell<Vec<Option<Base>>>,
    /// Blocks that are being read from each slot.
    pub(crate) reading: Vec<Cell<u64>>,
    /// Counts changes of the members, modulo 2: I/O of two generations may be in flight at once.
    generation: Cell<u8>,
    in_flight: [Cell<u32>; 2],
    drained: Notify,
    /// I/O that failed on a member, until the failure is on record. Each is one of the channel's requests.
    held: RefCell<IoQueue>,
    /// Members whose failure the app thread knows of.
    reported: RefCell<Vec<u64>>,
}

/// A member on this thread.
#[derive(Debug)]
pub(crate) struct Base {
    // Dropped in this order: a channel goes before its descriptor.
    pub(crate) channel: Channel,
    _desc: Arc<Desc>,
    pub(crate) serial: u64,
    pub(crate) offset: u64,
    pub(crate) is_readable: bool,
}

impl Base {
    fn open(view: &View) -> Result<Self> {
        Ok(Self {
            channel: view.desc.channel()?,
            _desc: Arc::clone(&view.desc),
            serial: view.serial,
            offset: view.offset,
            is_readable: view.is_readable,
        })
    }
}

/// What is kept with an I/O.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begun {
    generation: u8,
    /// Times that it was begun before.
    pub(crate) tries: u8,
    /// The slot that it is read from.
    pub(crate) slot: u8,
}

/// Times that an I/O is begun again after an abort of one of its children.
const ABORTS_MAX: u8 = 8;

impl Lane {
    pub(crate) fn new(shared: &Arc<Shared>, views: &Views) -> Result<Self> {
        let bases = views.iter().map(|view| view.as_ref().map(Base::open).transpose());
        Ok(Self {
            bases: RefCell::new(bases.collect::<Result<_>>()?),
            reading: views.iter().map(|_| Cell::new(0)).collect(),
            generation: Cell::new(0),
            in_flight: [Cell::new(0), Cell::new(0)],
            drained: Notify::new(),
            held: RefCell::default(),
            reported: RefCell::default(),
            shared: Arc::clone(shared),
        })
    }

    /// I/O that was begun in a generation and has not ended.
    #[inline]
    fn in_flight(&self, generation: u8) -> &Cell<u32> {
        let [even, odd] = &self.in_flight;
        if generation & 1 == 0 { even } else { odd }
    }

    /// Counts an I/O as begun with the members of now.
    #[inline]
    pub(crate) fn begin(&self, io: &mut BdevIo, tries: u8, slot: u8) {
        let generation = self.generation.get();
        let count = self.in_flight(generation);
        count.set(count.get() + 1);
        io.set_state(Begun { generation, tries, slot });
    }

    /// Its children have ended.
    #[inline]
    pub(crate) fn end(&self, begun: Begun) {
        let count = self.in_flight(begun.generation);
        count.set(count.get().saturating_sub(1));
        if begun.generation != self.generation.get() && count.get() == 0 {
            self.drained.notify();
        }
    }

    /// A write or flush failed on a slot. It is not acknowledged before that is on record: it waits, and is sent
    /// again to the members that remain.
    #[cold]
    pub(crate) fn failed(&self, io: BdevIo, begun: Begun, result: IoResult) {
        let Some(slot) = io.first_failed() else { return io.complete_with(result) };
        if result.status == Status::ABORTED && begun.tries < ABORTS_MAX {
            // Some members may have the data and some not: sent again, so that they agree.
            return self.submit(io, begun.tries + 1);
        }
        let serial = {
            let bases = self.bases.borrow();
            bases.get(usize::from(slot)).and_then(Option::as_ref).map(|base| base.serial)
        };
        let Some(serial) = serial else { return self.submit(io, begun.tries) };
        if !self.can_lose(slot) {
            return io.complete_with(result);
        }
        self.held.borrow_mut().push(io);
        if !self.reported.borrow().contains(&serial) {
            self.reported.borrow_mut().push(serial);
            members::report_failure(self.shared.uuid, serial, result.status);
        }
    }

    /// Whether all data can be read without a slot.
    fn can_lose(&self, slot: u8) -> bool {
        let bases = self.bases.borrow();
        let is_readable = |slot: u8| {
            bases
                .get(usize::from(slot))
                .and_then(Option::as_ref)
                .is_some_and(|base| base.is_readable)
        };
        self.shared.layout.survives(|other| other == slot || !is_readable(other))
    }

    /// Works with other members from here on; ends when no I/O is left that was begun with those before.
    pub(crate) async fn adopt(self: Rc<Self>, views: Views) -> Result<()> {
        let left = self.replace(&views)?;
        let before = self.generation.get();
        self.generation.set(before ^ 1);
        self.send_held();
        self.drained.until(|| self.in_flight(before).get() == 0).await;
        drop(left);
        Ok(())
    }

    /// Puts the members in place; gives back those that are not among them any more.
    fn replace(&self, views: &Views) -> Result<Vec<Base>> {
        let mut bases = self.bases.borrow_mut();
        let is_there = |base: &Option<Base>, view: &View| {
            base.as_ref().is_some_and(|base| base.serial == view.serial)
        };
        // Opened first: when one cannot be, nothing has changed.
        let mut opened = Vec::new();
        for (base, view) in bases.iter().zip(views) {
            opened.push(match view {
                Some(view) if !is_there(base, view) => Some(Base::open(view)?),
                _ => None,
            });
        }
        let mut left = Vec::new();
        for ((base, view), opened) in bases.iter_mut().zip(views).zip(opened) {
            match (view, opened) {
                (None, _) => left.extend(base.take()),
                (Some(_), Some(new)) => left.extend(base.replace(new)),
                (Some(view), None) => {
                    if let Some(base) = base {
                        base.is_readable = view.is_readable;
                    }
                }
            }
        }
        Ok(left)
    }

    fn send_held(&self) {
        let mut held = std::mem::take(&mut *self.held.borrow_mut());
        while let Some(io) = held.pop() {
            self.submit(io, 0);
        }
        self.flush();
    }

    /// The array goes offline: what waits ends.
    pub(crate) fn fail_held(&self) {
        let mut held = std::mem::take(&mut *self.held.borrow_mut());
        while let Some(io) = held.pop() {
            io.complete(Status::IO_ERROR);
        }
    }

    pub(crate) fn flush(&self) {
        self.bases.borrow().iter().flatten().for_each(|base| base.channel.flush());
    }

    /// Gives the channels back: the app thread may hold the state a moment longer than the members stay open.
    pub(crate) fn close(&self) {
        self.shared.leave(self);
        self.bases.borrow_mut().clear();
    }
}
