//! The requests in flight, each in its own slot.

use crate::transfer::Transfer;

/// Keeps a request while the kernel uses its memory.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    request: Option<T>,
    pub(crate) transfer: Transfer,
    /// The kernel does not have the request (any more), and its result waits to be returned.
    pub(crate) settled: bool,
}

/// A fixed number of slots. Slots never move, and after the first rounds no memory is allocated.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Box<[Slot<T>]>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new(depth: u32) -> Self {
        let slot = |_| Slot { request: None, transfer: Transfer::idle(), settled: false };
        Self { slots: (0..depth).map(slot).collect(), free: (0..depth).rev().collect() }
    }

    /// Puts a request into a free slot. Returns the request when there is none.
    pub(crate) fn insert(&mut self, request: T) -> Result<(u32, &mut Slot<T>), T> {
        let Some(&token) = self.free.last() else { return Err(request) };
        let Some(slot) = self.slots.get_mut(token as usize) else { return Err(request) };
        self.free.pop();
        slot.request = Some(request);
        slot.settled = false;
        Ok((token, slot))
    }

    /// Returns the slot if it has a request.
    pub(crate) fn occupied(&mut self, token: u32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(token as usize).filter(|slot| slot.request.is_some())
    }

    /// Removes and returns the request, and frees its slot.
    pub(crate) fn remove(&mut self, token: u32) -> Option<T> {
        let request = self.slots.get_mut(token as usize)?.request.take()?;
        self.free.push(token);
        Some(request)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// All slots that have a request, with their tokens.
    pub(crate) fn iter_occupied(&mut self) -> impl Iterator<Item = (u32, &mut Slot<T>)> {
        (0..).zip(self.slots.iter_mut()).filter(|(_, slot)| slot.request.is_some())
    }
}

impl<T> Slot<T> {
    /// The request; `None` only while the slot is free.
    pub(crate) fn request_and_transfer(&mut self) -> (Option<&T>, &mut Transfer) {
        (self.request.as_ref(), &mut self.transfer)
    }
}

/// Creates a value without slots, as a replacement for slots that are taken out.
impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Box::default(), free: Vec::new() }
    }
}
