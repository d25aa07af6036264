//! A model of a controller in memory, for tests and the fuzzer. It behaves as a controller should, or breaks the rules on request.

use super::{Controller, Memory, Payload, Queue, Registers, Ring, Sgl, Shadow};
use drivebay_spec_nvme::Completion;
use drivebay_spec_nvme::property::{Cap, css, offset};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Address of the first memory, for the model.
const FIRST_IOVA: u64 = 1 << 32;
/// The queue identifier of the model.
pub const QID: u16 = 3;

/// Memory that driver and model share.
#[derive(Clone, Debug)]
pub struct Shared {
    iova: u64,
    words: Arc<[AtomicU64]>,
}

impl Shared {
    fn new(number: u64, len: usize) -> Self {
        let words = (0..len / 8).map(|_| AtomicU64::new(0)).collect();
        Self { iova: FIRST_IOVA + (number << 24), words }
    }

    /// A word. An access beyond the end of the memory ends the test.
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        let word = self.words.get(index);
        assert!(word.is_some(), "word {index} of {}", self.words.len());
        word
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
        self.word(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Registers that keep what the driver writes, and count the writes.
#[derive(Debug, Default)]
pub struct Registers32 {
    values: RefCell<BTreeMap<usize, u32>>,
    writes: RefCell<BTreeMap<usize, usize>>,
    /// Everything reads as all ones.
    pub is_gone: Cell<bool>,
    /// Whether CSTS follows CC, as in a good controller.
    pub is_obedient: Cell<bool>,
}

impl Registers32 {
    /// The registers of a disabled controller.
    #[must_use]
    pub fn new() -> Rc<Self> {
        let this = Self::default();
        this.is_obedient.set(true);
        let cap = Cap { mqes: 63, to: 1, css: css::CAP_NVM, ..Cap::default() }.bits();
        let half = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        this.set(offset::CAP as usize, half(cap));
        this.set(offset::CAP as usize + 4, half(cap >> 32));
        Rc::new(this)
    }

    /// Changes a register.
    pub fn set(&self, at: usize, value: u32) {
        self.values.borrow_mut().insert(at, value);
    }

    /// The value of a register; 0 before the first write.
    #[must_use]
    pub fn get(&self, at: usize) -> u32 {
        self.values.borrow().get(&at).copied().unwrap_or(0)
    }

    /// How many times the driver wrote a register.
    #[must_use]
    pub fn num_writes(&self, at: usize) -> usize {
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
        if at == offset::CC as usize && self.is_obedient.get() {
            let is_ready = value & 1;
            let shut_down = if value >> 14 & 3 != 0 { 2 << 2 } else { 0 };
            self.set(offset::CSTS as usize, is_ready | shut_down);
        }
    }
}

/// The controller's side of a queue pair.
#[derive(Debug)]
pub struct Model {
    /// The controller's registers.
    pub registers: Rc<Registers32>,
    sq: Shared,
    cq: Shared,
    /// The lists that describe data.
    pub lists: Shared,
    /// The shadow doorbells and the event indexes; one word for each queue.
    pub shadow: Option<(Shared, Shared)>,
    entries: u16,
    head: u16,
    tail: u16,
    phase: bool,
}

impl Model {
    /// Offset of the submission queue's doorbell.
    #[must_use]
    pub fn sq_doorbell() -> usize {
        0x1000 + 8 * usize::from(QID)
    }

    /// Offset of the completion queue's doorbell.
    #[must_use]
    pub fn cq_doorbell() -> usize {
        Self::sq_doorbell() + 4
    }

    /// How many times the driver wrote a doorbell.
    #[must_use]
    pub fn num_doorbells(&self) -> usize {
        self.registers.num_writes(Self::sq_doorbell())
            + self.registers.num_writes(Self::cq_doorbell())
    }

    /// The commands that the driver has told the controller about, as words. With shadow doorbells, the controller then sleeps: it asks for
    /// a write of the register at the next command.
    pub fn fetch(&mut self) -> Vec<[u64; 8]> {
        let mut commands = Vec::new();
        while self.head != self.told() {
            let at = usize::from(self.head) * 8;
            commands.push(std::array::from_fn(|index| self.sq.load(at + index)));
            self.head = (self.head + 1) % self.entries;
        }
        if let Some((_, events)) = &self.shadow {
            events.store(QID.into(), self.head.into());
        }
        commands
    }

    /// The entry after the last command that the controller was told about.
    fn told(&self) -> u16 {
        let told = match &self.shadow {
            Some((doorbells, _)) => doorbells.load(QID.into()),
            None => self.registers.get(Self::sq_doorbell()).into(),
        };
        u16::try_from(told & 0xffff).unwrap_or(0) % self.entries
    }

    /// Completes a command.
    pub fn complete(&mut self, cid: u16) {
        self.post(Completion { cid, sqid: QID, sqhd: self.head, ..Completion::default() });
    }

    /// Writes a completion with any contents and the right phase bit.
    pub fn post(&mut self, completion: Completion) {
        let bytes = Completion { phase: self.phase, ..completion }.encode();
        let at = usize::from(self.tail) * 2;
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            self.cq.store(at + index, word);
        }
        self.tail = (self.tail + 1) % self.entries;
        self.phase ^= self.tail == 0;
    }

    /// Writes any word into the completion queue.
    pub fn scribble(&self, index: usize, value: u64) {
        self.cq.store(index % self.cq.words(), value);
    }
}

/// A ring and the controller at its other end. `sgl`: what the controller accepts. `has_shadow`: it has shadow doorbells.
#[must_use]
pub fn pair<P: Payload>(
    entries: u16,
    sgl: Sgl,
    has_shadow: bool,
) -> (Ring<Shared, P>, Controller<Rc<Registers32>>, Model) {
    let registers = Registers32::new();
    let len = usize::from(entries);
    let (sq, cq) = (Shared::new(0, len * 64), Shared::new(1, len * 16));
    let lists = Shared::new(2, len * 4096);
    let pages = has_shadow.then(|| (Shared::new(3, 4096), Shared::new(4, 4096)));
    let shadow = pages.clone().map(|(doorbells, events)| {
        let shadow = Shadow::new(Arc::new(doorbells), Arc::new(events));
        shadow.clear(QID);
        shadow
    });
    let queue = Queue {
        qid: QID,
        entries,
        sq: sq.clone(),
        cq: cq.clone(),
        lists: lists.clone(),
        sgl,
        shadow,
    };
    #[expect(clippy::expect_used, reason = "the model's own registers")]
    let controller = Controller::new(Rc::clone(&registers)).expect("a good controller");
    let model =
        Model { registers, sq, cq, lists, shadow: pages, entries, head: 0, tail: 0, phase: true };
    (Ring::new(queue), controller, model)
}
