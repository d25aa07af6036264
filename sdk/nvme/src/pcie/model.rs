//! A model of a controller in memory, for tests. It behaves as a controller should, or breaks the rules on request.

use super::{Controller, Memory, Queue, Registers, Ring};
use drivebay_spec_nvme::Completion;
use drivebay_spec_nvme::property::{Cap, css};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Address of the first memory, for the model.
const FIRST_IOVA: u64 = 1 << 32;
pub(super) const QID: u16 = 3;

/// Memory that driver and model share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    iova: u64,
    words: Rc<Vec<Cell<u64>>>,
}

impl Shared {
    pub(super) fn new(number: u64, len: usize) -> Self {
        let words = (0..len / 8).map(|_| Cell::new(0)).collect();
        Self { iova: FIRST_IOVA + (number << 24), words: Rc::new(words) }
    }
}

impl Memory for Shared {
    fn iova(&self) -> u64 {
        self.iova
    }

    fn words(&self) -> usize {
        self.words.len()
    }

    fn load(&self, index: usize) -> u64 {
        self.words[index].get()
    }

    fn store(&self, index: usize, value: u64) {
        self.words[index].set(value);
    }
}

/// Registers that keep what the driver writes, and count the writes.
#[derive(Debug, Default)]
pub(super) struct Registers32 {
    values: RefCell<BTreeMap<usize, u32>>,
    pub(super) writes: RefCell<BTreeMap<usize, usize>>,
    /// Everything reads as all ones.
    pub(super) is_gone: Cell<bool>,
    /// Whether CSTS follows CC, as in a good controller.
    pub(super) is_obedient: Cell<bool>,
}

impl Registers32 {
    pub(super) fn new() -> Rc<Self> {
        let this = Self::default();
        this.is_obedient.set(true);
        let cap = Cap { mqes: 63, to: 1, css: css::CAP_NVM, ..Cap::default() }.bits();
        this.set(0, u32::try_from(cap & 0xffff_ffff).unwrap());
        this.set(4, u32::try_from(cap >> 32).unwrap());
        Rc::new(this)
    }

    pub(super) fn set(&self, at: usize, value: u32) {
        self.values.borrow_mut().insert(at, value);
    }

    pub(super) fn get(&self, at: usize) -> u32 {
        self.values.borrow().get(&at).copied().unwrap_or(0)
    }

    pub(super) fn num_writes(&self, at: usize) -> usize {
        self.writes.borrow().get(&at).copied().unwrap_or(0)
    }
}

impl Registers for Rc<Registers32> {
    fn len_bytes(&self) -> usize {
        0x2000
    }

    fn read32(&self, at: usize) -> u32 {
        if self.is_gone.get() { u32::MAX } else { self.get(at) }
    }

    fn write32(&self, at: usize, value: u32) {
        self.set(at, value);
        *self.writes.borrow_mut().entry(at).or_insert(0) += 1;
        if at == 0x14 && self.is_obedient.get() {
            let is_ready = value & 1;
            let shut_down = if value >> 14 & 3 != 0 { 2 << 2 } else { 0 };
            self.set(0x1c, is_ready | shut_down);
        }
    }
}

/// The controller's side of a queue pair.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) registers: Rc<Registers32>,
    sq: Shared,
    cq: Shared,
    entries: u16,
    pub(super) head: u16,
    tail: u16,
    phase: bool,
}

impl Model {
    pub(super) fn sq_doorbell() -> usize {
        0x1000 + 8 * usize::from(QID)
    }

    pub(super) fn cq_doorbell() -> usize {
        Self::sq_doorbell() + 4
    }

    /// The commands whose doorbell the driver has rung, as words.
    pub(super) fn fetch(&mut self) -> Vec<[u64; 8]> {
        let told = u16::try_from(self.registers.get(Self::sq_doorbell())).unwrap();
        let mut commands = Vec::new();
        while self.head != told {
            let at = usize::from(self.head) * 8;
            commands.push(std::array::from_fn(|index| self.sq.load(at + index)));
            self.head = (self.head + 1) % self.entries;
        }
        commands
    }

    /// Completes a command.
    pub(super) fn complete(&mut self, cid: u16) {
        self.post(Completion { cid, sqid: QID, sqhd: self.head, ..Completion::default() });
    }

    /// Writes a completion with any contents and the right phase bit.
    pub(super) fn post(&mut self, completion: Completion) {
        let bytes = Completion { phase: self.phase, ..completion }.encode();
        let (low, high) = bytes.split_at(8);
        let at = usize::from(self.tail) * 2;
        self.cq.store(at, u64::from_le_bytes(low.try_into().unwrap()));
        self.cq.store(at + 1, u64::from_le_bytes(high.try_into().unwrap()));
        self.tail = (self.tail + 1) % self.entries;
        self.phase ^= self.tail == 0;
    }

    /// Writes any word into the completion queue.
    pub(super) fn scribble(&self, index: usize, value: u64) {
        self.cq.store(index % self.cq.words(), value);
    }
}

/// A ring and the controller at its other end.
pub(super) fn pair<P: super::Payload>(
    entries: u16,
) -> (Ring<Shared, P>, Controller<Rc<Registers32>>, Model) {
    let registers = Registers32::new();
    let len = usize::from(entries);
    let (sq, cq) = (Shared::new(0, len * 64), Shared::new(1, len * 16));
    let lists = Shared::new(2, len * 4096);
    let queue = Queue { qid: QID, entries, sq: sq.clone(), cq: cq.clone(), lists };
    let controller = Controller::new(Rc::clone(&registers)).unwrap();
    let model = Model { registers, sq, cq, entries, head: 0, tail: 0, phase: true };
    (Ring::new(queue), controller, model)
}
