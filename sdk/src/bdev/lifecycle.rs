//! Answers that a module may give later: a channel was created or destroyed, or a bdev was destructed.
#![expect(unsafe_code, reason = "reports the answers to the host")]

use super::module::Bdev;
use super::vtable::{ModuleChannel, OnBus, make_channel};
use crate::error::{Error, Result, errno};
use crate::host::host;
use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

/// Whether the host's call is still on the stack, and the answer given so far.
#[derive(Debug)]
enum Answer<T> {
    InCall,
    Given(T),
    /// The host's call has returned, so the answer comes later.
    Pending,
}

/// The side that returns the answer to the host.
struct Asked<T>(Rc<Cell<Answer<T>>>);

impl<T> Asked<T> {
    fn new() -> (Self, Rc<Cell<Answer<T>>>) {
        let cell = Rc::new(Cell::new(Answer::InCall));
        (Self(Rc::clone(&cell)), cell)
    }

    /// Called at the end of the host's call. Returns the answer, or `None` when it comes later.
    fn end_of_call(self) -> Option<T> {
        match self.0.replace(Answer::Pending) {
            Answer::Given(answer) => Some(answer),
            Answer::InCall | Answer::Pending => None,
        }
    }
}

/// Stores the answer, if the host's call is still running. If that call has returned, gives the answer back
/// to the caller, which then sends it to the host.
fn answer<T>(cell: &Cell<Answer<T>>, given: T) -> Option<T> {
    match cell.replace(Answer::Pending) {
        Answer::InCall => {
            cell.set(Answer::Given(given));
            None
        }
        Answer::Given(_) | Answer::Pending => Some(given),
    }
}

type Made<B> = Result<NonNull<ModuleChannel<B>>>;

/// A request for a channel. The channel gets I/O once this is answered. It stays on its thread.
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
    /// Requests a channel from the module. Returns the channel, or `None` when it comes later.
    ///
    /// # Safety
    /// `on_bus` is a live bdev that outlives its channels.
    pub(super) unsafe fn ask(on_bus: NonNull<OnBus<B>>, host_chan: u64) -> Option<Made<B>> {
        let (asked, cell) = Asked::new();
        // SAFETY: the caller's promise.
        let bdev = unsafe { &on_bus.as_ref().bdev };
        bdev.open_channel_later(Self { on_bus, host_chan, cell });
        asked.end_of_call()
    }

    /// Answers with a channel or an error. `[thread of the open_channel_later call]`
    pub fn answer(self, channel: Result<B::Channel>) {
        let mut this = std::mem::ManuallyDrop::new(self);
        this.complete(channel);
        // SAFETY: `complete` no longer uses the cell, and `ManuallyDrop` prevents a second drop.
        unsafe { ptr::drop_in_place(&raw mut this.cell) };
    }

    fn complete(&mut self, channel: Result<B::Channel>) {
        // SAFETY: the host keeps the bdev while one of its channels is being created.
        let made = channel
            .and_then(|state| unsafe { make_channel::<B>(self.on_bus, self.host_chan, state) });
        let Some(made) = answer(&self.cell, made) else { return };
        let (channel, status) = match &made {
            Ok(channel) => (channel.as_ptr().cast::<c_void>(), 0),
            Err(error) => (ptr::null_mut(), error.status()),
        };
        let host = host();
        // SAFETY: this finishes the pending `chan_create`, on its thread.
        unsafe { (host.bdev.chan_ready)(host.raw, self.host_chan, channel, status) };
    }
}

impl<B: Bdev> Drop for Opening<B> {
    fn drop(&mut self) {
        self.complete(Err(Error::new(errno::EIO, "the module did not create the channel")));
    }
}

/// A channel that is being destroyed. Dropping this value, on the channel's thread, finishes that.
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
    /// Runs `close` inside the host's call. Returns whether the channel's destruction finishes later.
    pub(super) fn in_call(host_chan: u64, close: impl FnOnce(Self)) -> bool {
        let (asked, cell) = Asked::new();
        close(Self { host_chan, cell });
        asked.end_of_call().is_none()
    }

    /// For a channel whose destruction is pending at the host.
    pub(super) fn later(host_chan: u64) -> Self {
        Self { host_chan, cell: Rc::new(Cell::new(Answer::Pending)) }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if answer(&self.cell, ()).is_some() {
            let host = host();
            // SAFETY: this finishes the pending `chan_destroy`, on its thread.
            unsafe { (host.bdev.chan_closed)(host.raw, self.host_chan) };
        }
    }
}

/// An unregistered bdev that is being destructed. Dropping this value, on the app thread, finishes that and
/// frees the bdev.
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
    /// Lets the module end the bdev inside the host's call. Returns whether the destruct finishes later.
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
            // SAFETY: this finishes the pending `destruct`, on the app thread.
            unsafe { (host.bdev.destruct_done)(host.raw, self.id, 0) };
        }
    }
}
