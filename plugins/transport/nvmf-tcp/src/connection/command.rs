//! The commands of one connection: a slot each, from the capsule's arrival until its answer is out.

use super::Carrier;
use drivebay_spec_nvme::Status;

/// R2Ts of one command that are outstanding at most, whatever the host permits.
pub(crate) const R2TS: usize = 4;

/// Slots of one connection at most: a slot and the number of an R2T make a 16-bit tag.
pub(crate) const SLOTS_MAX: u16 = 1 << 14;

/// Data that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// Offset of the next byte that is to come, in the command's data.
    pub(crate) next: u32,
    /// Offset behind the last.
    pub(crate) end: u32,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is free.
    Free,
    /// Waits for memory: a read, or a write whose data is to be asked for.
    Memory,
    /// Its data arrives in the capsule.
    Capsule,
    /// Its data was asked for.
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
    /// How much of the data was asked for, in bytes.
    pub(crate) asked: u32,
    pub(crate) grants: [Option<Grant>; R2TS],
    /// Since when its data is to come, on the host's clock in nanoseconds.
    pub(crate) since_ns: u64,
    /// The command is answered with this as soon as its data is through, and not executed.
    pub(crate) failed: Option<Status>,
}

/// All slots; they are made as they are needed, and stay.
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

    /// Takes a free slot, or makes one with `make`; `None` at the limit.
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

    /// As [`Commands::take`]; the request is taken out of its slot.
    #[inline]
    pub(crate) fn take_out(&mut self, make: impl FnOnce(u16) -> R) -> Option<R> {
        let slot = self.take(make)?;
        self.get_mut(slot)?.request.take()
    }

    /// A request that was taken out is in its slot again, which goes on.
    #[inline]
    pub(crate) fn put_in(&mut self, request: R) -> u16 {
        let slot = request.slot();
        if let Some(command) = self.get_mut(slot) {
            command.request = Some(request);
        }
        slot
    }

    /// A request that was taken out and not used is in its slot again, which is free.
    #[inline]
    pub(crate) fn put_back(&mut self, request: R) {
        let slot = self.put_in(request);
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

    /// Gives a slot back, and its data to the pools.
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

    /// Gives back every slot that the target has not, those whose data is being sent only with `sending`.
    pub(crate) fn release_all(&mut self, sending: bool) {
        for slot in 0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX) {
            let Some(state) = self.get(slot).map(|command| command.state) else { return };
            if state != State::Lent && (sending || state != State::Sending) {
                self.release(slot);
            }
        }
    }

    /// Whether there is none.
    pub(crate) fn are_free(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether some command is such a one.
    pub(crate) fn any(&self, is_one: impl Fn(&Command<R>) -> bool) -> bool {
        self.slots.iter().any(is_one)
    }

    /// How many the target has.
    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.slots.iter().filter(|command| command.state == State::Lent).count()
    }
}
