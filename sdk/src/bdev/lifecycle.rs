//! What a module may answer later: the creation of a channel, its end, and the end of a bdev.
#![expect(unsafe_code, reason = "answers the host for channels and bdevs")]

use super::module::Bdev;
use super::vtable::{Channel, OnBus, make_channel};
use crate::error::{Error, Result, errno};
use crate::host::host;
use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

/// Whether the host's call that asks is still on the stack, and what was answered meanwhile.
#[derive(Debug)]
enum Answer<T> {
    InCall,
    Given(T),
    /// The host was told that the answer comes later.
    Pending,
}

/// The host's side of an answer.
struct Asked<T>(Rc<Cell<Answer<T>>>);

impl<T> Asked<T> {
    fn new() -> (Self, Rc<Cell<Answer<T>>>) {
        let cell = Rc::new(Cell::new(Answer::InCall));
        (Self(Rc::clone(&cell)), cell)
    }

    /// The call ends: what was answered, or `None` when that comes later.
    fn end_of_call(self) -> Option<T> {
        match self.0.replace(Answer::Pending) {
            Answer::Given(answer) => Some(answer),
            Answer::InCall | Answer::Pending => None,
        }
    }
}

/// Keeps the answer for the end of the call; gives it back when that is over.
fn answer<T>(cell: &Cell<Answer<T>>, given: T) -> Option<T> {
    match cell.replace(Answer::Pending) {
        Answer::InCall => {
            cell.set(Answer::Given(given));
            None
        }
        Answer::Given(_) | Answer::Pending => Some(given),
    }
}

type Made<B> = Result<NonNull<Channel<B>>>;

/// A channel that a client asked for; it gets I/O once this was answered. It stays on its thread.
/// Dropping it refuses the channel with `EIO`.
#[must_use = "a client waits for the channel"]
pub struct Opening<B: Bdev> {
    on_bus: NonNull<OnBus<B>>,
    host_chan: u64,
    cell: Rc<Cell<Answer<Made<B>>>>,
}

impl<B: Bdev> std::fmt::Debug for Opening<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").field("host_chan", &self.host_chan).finish_non_exhaustive()
    }
}

impl<B: Bdev> Opening<B> {
    /// Asks the module for a channel: the channel, or `None` when it comes later.
    ///
    /// # Safety
    /// `on_bus` is a live bdev, which outlives its channels.
    pub(super) unsafe fn ask(on_bus: NonNull<OnBus<B>>, host_chan: u64) -> Option<Made<B>> {
        let (asked, cell) = Asked::new();
        // SAFETY: the caller's promise.
        let bdev = unsafe { &on_bus.as_ref().bdev };
        bdev.open_channel_later(Self { on_bus, host_chan, cell });
        asked.end_of_call()
    }

    /// Gives the channel, or says why there is none. `[thread of the call that asked]`
    pub fn answer(self, channel: Result<B::Channel>) {
        let mut this = std::mem::ManuallyDrop::new(self);
        this.give(channel);
        // SAFETY: `give` is done with it, and nobody drops it again.
        unsafe { ptr::drop_in_place(&raw mut this.cell) };
    }

    fn give(&mut self, channel: Result<B::Channel>) {
        // SAFETY: the host keeps the bdev as long as a channel of it is being made.
        let made = channel
            .and_then(|state| unsafe { make_channel::<B>(self.on_bus, self.host_chan, state) });
        let Some(made) = answer(&self.cell, made) else { return };
        let (channel, status) = match &made {
            Ok(channel) => (channel.as_ptr().cast::<c_void>(), 0),
            Err(error) => (ptr::null_mut(), error.status()),
        };
        let host = host();
        // SAFETY: ends the pending `chan_create`, on its thread.
        unsafe { (host.bdev.chan_ready)(host.raw, self.host_chan, channel, status) };
    }
}

impl<B: Bdev> Drop for Opening<B> {
    fn drop(&mut self) {
        self.give(Err(Error::new(errno::EIO, "the module gave no channel")));
    }
}

/// A channel that ends: it has ended when this is dropped, on its thread.
pub struct Closing {
    host_chan: u64,
    cell: Rc<Cell<Answer<()>>>,
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closing").field("host_chan", &self.host_chan).finish_non_exhaustive()
    }
}

impl Closing {
    /// Runs `close`, the end of a channel, inside of the host's call; whether the end comes later.
    pub(super) fn in_call(host_chan: u64, close: impl FnOnce(Self)) -> bool {
        let (asked, cell) = Asked::new();
        close(Self { host_chan, cell });
        asked.end_of_call().is_none()
    }

    /// Of a channel whose end the host was told to wait for.
    pub(super) fn later(host_chan: u64) -> Self {
        Self { host_chan, cell: Rc::new(Cell::new(Answer::Pending)) }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if answer(&self.cell, ()).is_some() {
            let host = host();
            // SAFETY: ends the pending `chan_destroy`, on its thread.
            unsafe { (host.bdev.chan_closed)(host.raw, self.host_chan) };
        }
    }
}

/// A bdev that is off the bus: it is gone, and its memory with it, when this is dropped, on the app
/// thread.
pub struct Ending {
    id: u64,
    cell: Rc<Cell<Answer<()>>>,
    on_bus: Option<Arc<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Ending {
    /// Lets the module end the bdev inside of the host's call; whether the end comes later.
    pub(super) fn in_call<B: Bdev>(on_bus: Arc<OnBus<B>>) -> bool {
        let (asked, cell) = Asked::new();
        let keep: Arc<dyn Any + Send + Sync> = on_bus.clone();
        on_bus.bdev.end(Self { id: on_bus.id(), cell, on_bus: Some(keep) });
        drop(on_bus);
        asked.end_of_call().is_none()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.on_bus.take());
        if answer(&self.cell, ()).is_some() {
            let host = host();
            // SAFETY: ends the pending `destruct`, on the app thread.
            unsafe { (host.bdev.destruct_done)(host.raw, self.id, 0) };
        }
    }
}
