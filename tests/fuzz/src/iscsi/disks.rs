//! The disks of a target. They hold nothing, and their I/Os end when the script says so.

use crate::node::{Backend, IoKey, Node};
use drivebay_scsi::{Change, Device, Disk, Settled, TaskKey};
use drivebay_sdk::Status;
use drivebay_sdk::bdev::{IoFlags, IoResult, Op};
use std::cell::Cell;
use std::rc::Rc;

/// Blocks of a disk.
pub(super) const BLOCKS: u64 = 4096;

/// Memory of an I/O. The pool counts the memory in use.
#[derive(Debug)]
pub(crate) struct Memory(Vec<u8>, Rc<Cell<usize>>);

impl Drop for Memory {
    fn drop(&mut self) {
        self.1.set(self.1.get() - 1);
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[derive(Debug)]
pub(crate) struct Disks {
    lent: Rc<Cell<usize>>,
    lent_max: usize,
    pub(super) waiting: Vec<(u16, Op, Memory, IoKey)>,
    pub(super) changes: Vec<(u16, TaskKey)>,
}

impl Disks {
    /// Buffers in use.
    pub(super) fn lent(&self) -> usize {
        self.lent.get()
    }
}

impl Backend for Disks {
    type Buffer = Memory;

    fn buffer(&mut self, len: u32) -> Option<Memory> {
        assert!(len <= drivebay_scsi::PIECE_LEN, "a piece of {len} bytes");
        (self.lent.get() < self.lent_max).then(|| {
            self.lent.set(self.lent.get() + 1);
            Memory(vec![0; len as usize], Rc::clone(&self.lent))
        })
    }

    fn submit(&mut self, unit: u16, op: Op, _: IoFlags, buffer: Memory, key: IoKey) {
        if let Op::Read(range) | Op::Write(range) | Op::WriteZeroes(range) | Op::Unmap(range) = op {
            assert!(range.lba.checked_add(range.nblocks).is_some_and(|end| end <= BLOCKS));
        }
        self.waiting.push((unit, op, buffer, key));
    }

    fn settle(&mut self, change: Change, key: TaskKey) {
        self.changes.push((change.unit, key));
    }

    fn unit_left(&mut self, unit: u16) {
        assert!(self.waiting.iter().all(|(of, ..)| *of != unit), "unit {unit} left under I/O");
    }
}

pub(super) fn disk(unit: u16) -> Disk {
    Disk {
        name: format!("d{unit}"),
        uuid: [unit as u8 + 1; 16],
        block_len: 512,
        blocks: BLOCKS,
        can_unmap: true,
        reads_zeros: true,
        write_cache: unit == 0,
        read_only: false,
    }
}

/// A target with two units. It has at most `lent_max` buffers.
pub(super) fn target(name: &str, lent_max: usize) -> Node<Disks> {
    let disks = Disks { lent: Rc::default(), lent_max, waiting: Vec::new(), changes: Vec::new() };
    let mut device = Device::new(name.into());
    device.settle_reservations();
    let mut node = Node::new(device, disks);
    for unit in 0..2 {
        node.add_unit(unit, disk(unit));
        node.device_mut().keep_reservations(unit, None);
    }
    node
}

/// Ends the I/Os that wait, and stores reservations. Returns whether there were any.
pub(super) fn end_all(node: &mut Node<Disks>) -> bool {
    let changes = std::mem::take(&mut node.backend_mut().changes);
    let waiting = std::mem::take(&mut node.backend_mut().waiting);
    let has_any = !changes.is_empty() || !waiting.is_empty();
    for (unit, key) in changes {
        node.settled(unit, key, Settled::Kept);
    }
    for (unit, _, buffer, key) in waiting {
        node.ended(key, buffer, IoResult::new(Status::SUCCESS), unit);
    }
    has_any
}

/// Ends the connections, then the I/Os that hang. Nothing of a connection is left.
pub(super) fn end(mut node: Node<Disks>, links: &[u32]) {
    for link in links {
        node.lost(*link);
    }
    while end_all(&mut node) {}
    assert!(node.is_empty(), "something is left of a connection");
    assert_eq!(node.backend().lent(), 0, "memory does not come back");
}
