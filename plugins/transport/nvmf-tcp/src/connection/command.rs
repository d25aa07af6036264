//! The commands of one connection. Each has a slot from the arrival of its capsule until its answer is
//! sent.

use super::Carrier;
use drivebay_spec_nvme::Status;

/// The maximum number of outstanding R2Ts of one command, even if the host permits more.
pub(crate) const R2TS: usize = 4;

/// The maximum number of slots of a connection: a slot and the number of an R2T make a 16-bit tag.
pub(crate) const SLOTS_MAX: u16 = 1 << 14;

/// Data that an R2T has requested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// Offset of the next expected byte, in the command's data.
    pub(crate) next: u32,
    /// Offset behind the last requested byte.
    pub(crate) end: u32,
}

/// The state of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is free.
    Free,
    /// Waits for memory: a read, or a write that needs R2Ts.
    Memory,
    /// Its data arrives in the capsule.
    Capsule,
    /// R2Ts have requested its data.
    Data,
    /// The target has it.
    Lent,
    /// Its data is being sent.
    Sending,
}

/// One slot.
#[derive(Debug)]
pub(crate) struct Command<R> {
    /// The request; `None` while the target has it.
    pub(crate) request: Option<R>,
    pub(crate) state: State,
    pub(crate) cid: u16,
    /// Length of its data, in bytes.
    pub(crate) len: u32,
    /// Whether the data comes from the host.
    pub(crate) from_host: bool,
    /// How much of its data R2Ts have requested, in bytes.
    pub(crate) asked: u32,
    pub(crate) grants: [Option<Grant>; R2TS],
    /// The time from which its data is awaited, on the host's clock in nanoseconds.
    pub(crate) since_ns: u64,
    /// The command is not executed. It gets this status when all its data has arrived.
    pub(crate) failed: Option<Status>,
}

/// All slots. They are created when needed, and stay.
#[derive(Debug)]
pub(crate) struct Commands<R> {
    slots: Vec<Command<R>>,
    free: Vec<u16>,
    limit: u16,
}

impl<R: Carrier> Commands<R> {
    pub(crate) fn new(limit: u16) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit: limit.min(SLOTS_MAX) }
    }

    /// Takes a free slot, or creates one with `make`. `None` at the limit.
    #[inline]
    pub(crate) fn take(&mut self, make: impl FnOnce(u16) -> R) -> Option<u16> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = u16::try_from(self.slots.len()).ok().filter(|slot| *slot < self.limit)?;
        self.slots.push(Command {
            request: Some(make(slot)),
            state: State::Free,
            cid: 0,
            len: 0,
            from_host: false,
            asked: 0,
            grants: [None; R2TS],
            since_ns: 0,
            failed: None,
        });
        Some(slot)
    }

    /// Like [`Commands::take`], but also takes the request out of its slot.
    #[inline]
    pub(crate) fn take_out(&mut self, make: impl FnOnce(u16) -> R) -> Option<R> {
        let slot = self.take(make)?;
        self.get_mut(slot)?.request.take()
    }

    /// Puts a request back into its slot, which continues.
    #[inline]
    pub(crate) fn insert(&mut self, request: R) -> u16 {
        let slot = request.slot();
        if let Some(command) = self.get_mut(slot) {
            command.request = Some(request);
        }
        slot
    }

    /// Puts an unused request back into its slot, which becomes free.
    #[inline]
    pub(crate) fn insert_free(&mut self, request: R) {
        let slot = self.insert(request);
        self.free.push(slot);
    }

    #[inline]
    pub(crate) fn get(&self, slot: u16) -> Option<&Command<R>> {
        self.slots.get(usize::from(slot))
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Command<R>> {
        self.slots.get_mut(usize::from(slot))
    }

    #[inline]
    pub(crate) fn request(&self, slot: u16) -> Option<&R> {
        self.get(slot)?.request.as_ref()
    }

    /// Frees a slot, and gives its memory back to the pools.
    #[inline]
    pub(crate) fn release(&mut self, slot: u16) {
        let Some(command) = self.get_mut(slot) else { return };
        if command.state == State::Free {
            return;
        }
        command.state = State::Free;
        if command.asked > 0 {
            command.grants = [None; R2TS];
        }
        command.failed = None;
        if let Some(request) = &mut command.request {
            request.release();
        }
        self.free.push(slot);
    }

    /// Frees every slot whose request is not at the target. Frees slots with data in transmission only if
    /// `sending` is true.
    pub(crate) fn release_all(&mut self, sending: bool) {
        for slot in 0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX) {
            let Some(state) = self.get(slot).map(|command| command.state) else { return };
            if state != State::Lent && (sending || state != State::Sending) {
                self.release(slot);
            }
        }
    }

    /// Whether all slots are free.
    pub(crate) fn are_free(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether `is_one` is true for any command.
    pub(crate) fn any(&self, is_one: impl Fn(&Command<R>) -> bool) -> bool {
        self.slots.iter().any(is_one)
    }

    /// The number of requests at the target.
    #[cfg(test)]
    pub(crate) fn at_target(&self) -> usize {
        self.slots.iter().filter(|command| command.state == State::Lent).count()
    }
}
