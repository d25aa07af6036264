//! The gate of a channel: why an I/O cannot go to the module at once.

use std::cell::Cell;

/// Why an I/O cannot go to the module at once. If no bit is set, it can.
#[derive(Default)]
pub(in crate::bdev) struct Gate(Cell<u8>);

impl Gate {
    /// The module can take I/O now.
    pub(in crate::bdev) const OPEN: u8 = 0;
    /// The module is being called.
    pub(in crate::bdev) const BUSY: u8 = 1;
    /// The module's part of the channel does not exist: it is still being created, or its creation
    /// failed.
    pub(in crate::bdev) const CREATION: u8 = 2;
    /// A reset is under way.
    pub(in crate::bdev) const RESET: u8 = 16;
    /// `unquiesce` has not released all ranges yet: I/O of `Channel::ranges` is held back.
    pub(in crate::bdev) const QUIESCE: u8 = 32;
    /// While one of these bits is set, all I/O waits.
    pub(in crate::bdev) const HELD: u8 = Self::CREATION | Self::RESET;
    /// I/O waits in the channel already, so new I/O queues behind it.
    pub(in crate::bdev) const WAITED: u8 = 4;
    /// No descriptor references the channel.
    pub(in crate::bdev) const LEFT: u8 = 8;

    pub(in crate::bdev) fn get(&self) -> u8 {
        self.0.get()
    }

    pub(in crate::bdev) fn has(&self, why: u8) -> bool {
        self.0.get() & why != 0
    }

    pub(in crate::bdev) fn set(&self, why: u8) {
        self.0.set(self.0.get() | why);
    }

    pub(in crate::bdev) fn clear(&self, why: u8) {
        self.0.set(self.0.get() & !why);
    }

    pub(in crate::bdev) fn put(&self, why: u8, on: bool) {
        if on { self.set(why) } else { self.clear(why) }
    }
}
