//! The bdevs of a node's units, on a poll group's thread.

use crate::node::{Backend, IoKey};
use drivebay_scsi::{Change, TaskKey};
use drivebay_sdk::bdev::{Channel, Desc, IoFlags, IoResult, Op, Space};
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

/// Queues an I/O that has ended, until its node takes it.
fn ended(mut io: Box<InFlight>, result: IoResult) {
    io.result = result;
    let queue = Rc::clone(&io.ended);
    queue.borrow_mut().push_back(io);
}

/// A bdev, open on this thread.
#[derive(Debug)]
struct Opened {
    // Rust drops the fields in this order: the channel must go before its descriptor.
    channel: Channel,
    desc: Arc<Desc>,
    /// I/Os were submitted since the last flush.
    is_dirty: bool,
    /// The bdev keeps no data: a read does not write the memory of its I/O.
    keeps_no_data: bool,
}

/// The bdevs of a node's units.
#[derive(Debug, Default)]
pub struct Bdevs {
    units: BTreeMap<u16, Opened>,
    ended: Ended,
    changes: Vec<(TaskKey, Change, Arc<Desc>)>,
}

impl Bdevs {
    /// Gets a channel of a unit's bdev. The caller makes sure that an earlier unit with this number has left.
    ///
    /// # Errors
    /// The host's refusals.
    pub fn open(&mut self, unit: u16, desc: Arc<Desc>) -> Result<()> {
        let keeps_no_data = desc.info()?.keeps_no_data();
        let channel = desc.channel()?;
        let opened = Opened { channel, desc, is_dirty: false, keeps_no_data };
        self.units.insert(unit, opened);
        Ok(())
    }

    /// The space of each unit's pool as it is now.
    pub fn spaces(&self) -> Vec<(u16, Option<Space>)> {
        let space = |opened: &Opened| opened.desc.info().ok()?.space();
        self.units.iter().map(|(unit, opened)| (*unit, space(opened))).collect()
    }

    /// Takes the next I/O that has ended.
    pub fn next_ended(&mut self) -> Option<(IoKey, Memory, IoResult, u16)> {
        let mut io = self.ended.borrow_mut().pop_front()?;
        let (key, result, unit) = (io.key.take()?, io.result, io.unit);
        Some((key, Memory(io), result, unit))
    }

    /// Takes the changes of reservations that the app thread must confirm, each with the bdev of its unit.
    pub fn take_changes(&mut self) -> Vec<(TaskKey, Change, Arc<Desc>)> {
        std::mem::take(&mut self.changes)
    }

    /// Whether [`next_ended`](Self::next_ended) returns an I/O.
    pub fn has_ended(&self) -> bool {
        !self.ended.borrow().is_empty()
    }

    /// Passes submitted I/Os on to the bdevs. Called after each burst of submits.
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
        if let Some(opened) = self.units.get(&change.unit) {
            self.changes.push((key, change, Arc::clone(&opened.desc)));
        }
    }

    fn unit_left(&mut self, unit: u16) {
        self.units.remove(&unit);
    }
}
