//! A queue pair in memory that the controller shares. NVMe over PCIe 1.0, section 3; NVMe Base 2.0, section 3.3.1.

use super::doorbells::is_awaited;
use super::prp::{self, LIST_ENTRIES, Prps};
use super::sgl;
use super::{Controller, Fault, Memory, Registers, Sgl, Shadow};
use drivebay_spec_nvme::{Command, Completion, Status};

/// Words of 8 bytes of a submission queue entry and of a completion queue entry.
const SQE_WORDS: usize = Command::LEN / 8;
const CQE_WORDS: usize = Completion::LEN / 8;
/// Bits 15 and 14 of a command's first dword: how its data is described. 1 is by a scatter gather list, 0 by pages.
const PSDT: u32 = 3 << 14;
const PSDT_SGL: u32 = 1 << 14;

/// A command's data.
pub trait Payload {
    /// Each piece of the data: its address for the controller and its length in bytes; `None` for a piece that devices cannot access. The
    /// addresses stay valid until the ring returns the request.
    fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>>;
}

/// The reason why a ring refuses a request, with the request.
#[derive(Debug)]
pub enum Refused<P> {
    /// The ring has no room, or its controller is at fault.
    Full(P),
    /// Neither pages nor the lists that the controller accepts can describe the data in place. The caller must copy the data to a buffer of
    /// the pools.
    Data(P),
}

/// The memory and the identifier of a queue pair.
#[derive(Debug)]
pub struct Queue<M> {
    /// The identifier; 0 is the admin queue.
    pub qid: u16,
    /// Entries of each queue, 2 to 4096.
    pub entries: u16,
    /// Submission queue: 64 bytes for each entry.
    pub sq: M,
    /// Completion queue: 16 bytes for each entry.
    pub cq: M,
    /// Page lists, or scatter gather lists: 4096 bytes for each entry.
    pub lists: M,
    /// The scatter gather lists that the controller accepts on this queue.
    pub sgl: Sgl,
    /// The shadow doorbells of the controller, if it has them.
    pub shadow: Option<Shadow<M>>,
}

/// A command that is outstanding.
#[derive(Debug)]
struct Slot<P> {
    request: P,
    /// How many commands were submitted before this one.
    place: u64,
}

/// A queue pair.
///
/// In each round, the owner submits commands, takes completions with [`Self::reap`], and then rings the doorbells with [`Self::ring`].
#[derive(Debug)]
pub struct Ring<M, P> {
    queue: Queue<M>,
    /// Requests outstanding, by command identifier.
    slots: Vec<Option<Slot<P>>>,
    free: Vec<u16>,
    /// How many commands were submitted, and for how many of them the doorbell was rung.
    submitted: u64,
    told: u64,
    /// The entry for the next command, and the entry that the last doorbell named.
    tail: u16,
    tail_told: u16,
    /// The entry of the next completion, and the entry that the last doorbell named.
    head: u16,
    head_told: u16,
    /// The phase bit of a new completion.
    phase: bool,
    fault: Option<Fault>,
}

impl<M: Memory, P: Payload> Ring<M, P> {
    /// Creates a queue pair in memory that is all zero. If the memory has room for fewer entries than requested, the ring has fewer.
    #[must_use]
    pub fn new(mut queue: Queue<M>) -> Self {
        let room = [
            queue.sq.words() / SQE_WORDS,
            queue.cq.words() / CQE_WORDS,
            queue.lists.words() / LIST_ENTRIES + 1,
        ];
        let room = room.into_iter().fold(usize::from(queue.entries), usize::min);
        queue.entries = u16::try_from(room).unwrap_or(u16::MAX);
        queue.shadow = queue.shadow.filter(|shadow| shadow.has(queue.qid));
        // One entry stays empty: a full queue would look like an empty one.
        let depth = queue.entries.saturating_sub(1);
        Self {
            queue,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            submitted: 0,
            told: 0,
            tail: 0,
            tail_told: 0,
            head: 0,
            head_told: 0,
            phase: true,
            fault: None,
        }
    }

    /// The memory and identifier of the queue pair.
    #[must_use]
    pub fn queue(&self) -> &Queue<M> {
        &self.queue
    }

    /// How many commands are outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether a command can be submitted.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty() && self.fault.is_none()
    }

    /// Puts a command into the queue, and returns its identifier. It fills in the identifier and the data pointer. The controller sees it
    /// after [`Self::ring`].
    ///
    /// # Errors
    /// Returns the request.
    #[inline]
    pub fn submit(&mut self, command: &Command, request: P) -> Result<u16, Refused<P>> {
        if self.fault.is_some() {
            return Err(Refused::Full(request));
        }
        let Some(cid) = self.free.pop() else { return Err(Refused::Full(request)) };
        let list = usize::from(cid) * LIST_ENTRIES;
        let Queue { sq, lists, sgl, .. } = &self.queue;
        let put = |place, word| lists.store(list + place, word);
        let list_iova = lists.iova() + (list as u64) * 8;
        let mut dw = command.with_cid(cid).dw;
        dw[0] &= !PSDT;
        let pointer = match prp::describe(request.pieces(), list_iova, put) {
            Some(Prps { first, second }) => [first, second],
            None => {
                let Some(pointer) = sgl::describe(*sgl, request.pieces(), list_iova, put) else {
                    self.free.push(cid);
                    return Err(Refused::Data(request));
                };
                dw[0] |= PSDT_SGL;
                pointer
            }
        };
        let at = usize::from(self.tail) * SQE_WORDS;
        let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        for (index, value) in [
            word(dw[0], dw[1]),
            word(dw[2], dw[3]),
            word(dw[4], dw[5]),
            pointer[0],
            pointer[1],
            word(dw[10], dw[11]),
            word(dw[12], dw[13]),
            word(dw[14], dw[15]),
        ]
        .into_iter()
        .enumerate()
        {
            sq.store(at + index, value);
        }
        self.tail = self.next(self.tail);
        if let Some(slot) = self.slots.get_mut(usize::from(cid)) {
            *slot = Some(Slot { request, place: self.submitted });
        }
        self.submitted += 1;
        Ok(cid)
    }

    fn next(&self, place: u16) -> u16 {
        if place + 1 < self.queue.entries { place + 1 } else { 0 }
    }

    /// Returns the second word of the next completion; `None` when the controller has not written it yet.
    #[inline]
    fn fresh(&self) -> Option<u64> {
        let word = self.queue.cq.load(usize::from(self.head) * CQE_WORDS + 1);
        ((word >> 48 & 1 == 1) == self.phase).then_some(word)
    }

    /// Whether a completion has arrived. An owner checks this before it sleeps.
    #[must_use]
    pub fn has_completions(&self) -> bool {
        self.fault.is_none() && self.fresh().is_some()
    }

    /// Calls `done` with each request that has ended, and returns how many did: at most as many as the queue has entries.
    ///
    /// # Errors
    /// The controller is at fault. Requests stay outstanding until [`Self::into_parts`].
    #[inline]
    pub fn reap(&mut self, mut done: impl FnMut(P, Completion)) -> Result<usize, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut count = 0;
        while count < usize::from(self.queue.entries)
            && let Some(word) = self.fresh()
        {
            let result = self.queue.cq.load(usize::from(self.head) * CQE_WORDS);
            let part = |shift: u32| u16::try_from(word >> shift & 0xffff).unwrap_or(0);
            let [sqhd, sqid, cid, status] = [part(0), part(16), part(32), part(48)];
            let told = self.told;
            let slot = self.slots.get_mut(usize::from(cid));
            // The doorbell of this command was not rung yet, so the controller cannot have executed it.
            let slot = slot.and_then(|slot| slot.take_if(|slot| slot.place < told));
            let request = match slot {
                _ if sqid != self.queue.qid => Err((slot, Fault::WrongQueue(sqid))),
                _ if sqhd >= self.queue.entries => Err((slot, Fault::WrongHead(sqhd))),
                None => Err((None, Fault::UnknownCommand(cid))),
                Some(slot) => Ok(slot.request),
            };
            let request = match request {
                Ok(request) => request,
                Err((slot, fault)) => {
                    if let Some(place) = self.slots.get_mut(usize::from(cid))
                        && slot.is_some()
                    {
                        *place = slot;
                    }
                    self.fault = Some(fault);
                    return Err(fault);
                }
            };
            self.free.push(cid);
            self.head = self.next(self.head);
            self.phase ^= self.head == 0;
            count += 1;
            let status = Status::from_bits(status >> 1);
            done(request, Completion { result, sqhd, sqid, cid, phase: self.phase, status });
        }
        Ok(count)
    }

    /// Rings both doorbells, each only if its value has changed. The doorbell of the completion queue comes first, so that the controller
    /// has room for the completions of the new commands. With shadow doorbells, the registers are written only when the controller asks for
    /// it.
    #[inline]
    pub fn ring<R: Registers>(&mut self, controller: &Controller<R>) {
        let qid = self.queue.qid;
        let (mut writes_head, mut writes_tail) =
            (self.head != self.head_told, self.tail != self.tail_told);
        if !writes_head && !writes_tail {
            return;
        }
        if let Some(shadow) = &self.queue.shadow {
            let [of_tail, of_head] = shadow.publish(qid, self.tail, self.head);
            writes_tail &= is_awaited(of_tail, self.tail, self.tail_told);
            writes_head &= is_awaited(of_head, self.head, self.head_told);
        }
        (self.head_told, self.tail_told, self.told) = (self.head, self.tail, self.submitted);
        if writes_head {
            controller.registers().write32(controller.doorbell(qid, true), self.head.into());
        }
        if writes_tail {
            controller.registers().write32(controller.doorbell(qid, false), self.tail.into());
        }
    }

    /// The requests outstanding, with their command identifiers.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &P)> {
        (0..).zip(&self.slots).filter_map(|(cid, slot)| Some((cid, &slot.as_ref()?.request)))
    }

    /// Takes the ring apart into its memory and the outstanding requests. The controller may access the memory of both until it is stopped
    /// or the queue is deleted, so the caller must not free either of them until then.
    #[must_use]
    pub fn into_parts(self) -> (Queue<M>, Vec<P>) {
        (self.queue, self.slots.into_iter().flatten().map(|slot| slot.request).collect())
    }
}
