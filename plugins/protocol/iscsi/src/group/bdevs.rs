//! The bdevs of a node's units, on a poll group's thread.

use crate::node::{Backend, IoKey};
use drivebay_scsi::{Change, TaskKey};
use drivebay_sdk::bdev::{Channel, Desc, IoFlags, IoResult, Op};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::{Result, Status};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// An I/O and its memory.
#[derive(Debug)]
pub struct InFlight {
    buf: Buf,
    key: Option<IoKey>,
    unit: u16,
    result: IoResult,
    ended: Ended,
}

type Ended = Rc<RefCell<VecDeque<Box<InFlight>>>>;

impl AsMut<Buf> for InFlight {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

/// Memory of an I/O.
#[derive(Debug)]
pub struct Memory(Box<InFlight>);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0.buf
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0.buf
    }
}

/// The I/O has ended: it waits until its node looks.
fn ended(mut io: Box<InFlight>, result: IoResult) {
    io.result = result;
    let queue = Rc::clone(&io.ended);
    queue.borrow_mut().push_back(io);
}

/// A bdev, open on this thread.
#[derive(Debug)]
struct Opened {
    // Dropped in this order: a channel goes before its descriptor.
    channel: Channel,
    _desc: Arc<Desc>,
    is_dirty: bool,
    /// A read leaves its memory as it is.
    keeps_no_data: bool,
}

/// The bdevs of a node's units.
#[derive(Debug, Default)]
pub struct Bdevs {
    units: BTreeMap<u16, Opened>,
    ended: Ended,
    changes: Vec<(TaskKey, Change)>,
}

impl Bdevs {
    /// Gets a channel of a unit's bdev.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn open(&mut self, unit: u16, desc: Arc<Desc>) -> Result<()> {
        let keeps_no_data = desc.info()?.keeps_no_data();
        let channel = desc.channel()?;
        let opened = Opened { channel, _desc: desc, is_dirty: false, keeps_no_data };
        self.units.insert(unit, opened);
        Ok(())
    }

    /// The next I/O that has ended.
    pub fn next_ended(&mut self) -> Option<(IoKey, Memory, IoResult, u16)> {
        let mut io = self.ended.borrow_mut().pop_front()?;
        let (key, result, unit) = (io.key.take()?, io.result, io.unit);
        Some((key, Memory(io), result, unit))
    }

    /// Changes of reservations for the app thread.
    pub fn take_changes(&mut self) -> Vec<(TaskKey, Change)> {
        std::mem::take(&mut self.changes)
    }

    /// Whether an I/O has ended that nobody has looked at.
    pub fn has_ended(&self) -> bool {
        !self.ended.borrow().is_empty()
    }

    /// A burst of submits has ended.
    pub fn flush(&mut self) {
        for unit in self.units.values_mut().filter(|unit| unit.is_dirty) {
            unit.is_dirty = false;
            unit.channel.flush();
        }
    }
}

impl Backend for Bdevs {
    type Buffer = Memory;

    fn buffer(&mut self, len: u32) -> Option<Memory> {
        let buf = buf::get(len)?;
        let result = IoResult::new(Status::SUCCESS);
        let ended = Rc::clone(&self.ended);
        Some(Memory(Box::new(InFlight { buf, key: None, unit: 0, result, ended })))
    }

    fn submit(&mut self, unit: u16, op: Op, flags: IoFlags, buffer: Memory, key: IoKey) {
        let mut io = buffer.0;
        (io.key, io.unit) = (Some(key), unit);
        match self.units.get_mut(&unit) {
            Some(opened) => {
                if opened.keeps_no_data && matches!(op, Op::Read(_)) {
                    io.buf.fill(0);
                }
                opened.is_dirty = true;
                opened.channel.submit(op, flags, io, ended);
            }
            None => ended(io, IoResult::new(Status::errno(drivebay_sdk::errno::ENODEV))),
        }
    }

    fn settle(&mut self, change: Change, key: TaskKey) {
        self.changes.push((key, change));
    }

    fn unit_left(&mut self, unit: u16) {
        self.units.remove(&unit);
    }
}
