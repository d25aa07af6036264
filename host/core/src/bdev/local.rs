//! A lightweight thread's channels, and the handles by which its clients know them.

use super::channel::{Channel, Gate, Phase};
use super::io::Io;
use super::{Bdev, Desc, device, failed};
use crate::reactor::{clock, thread};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One client's claim on a channel.
struct Reference {
    /// Its number and its place in the table; [`FREE`] when there is no such claim.
    handle: u64,
    channel: *const Channel,
    writable: bool,
    desc: Option<Arc<Desc>>,
}

/// A handle that no lookup can find: its place is beyond every table.
const FREE: u64 = u64::MAX;

impl Reference {
    const NONE: Self = Self { handle: FREE, channel: ptr::null(), writable: false, desc: None };
}

/// What the data path needs of a reference.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) channel: &'a Channel,
    pub(super) writable: bool,
}

/// A lightweight thread's channels.
#[derive(Default)]
pub(crate) struct Local {
    channels: RefCell<Vec<*mut Channel>>,
    /// By the lower half of the handle. Borrowed within single methods of `Local` only, none of
    /// which calls out meanwhile.
    references: UnsafeCell<Vec<Reference>>,
    next_number: Cell<u32>,
    dirty: RefCell<Vec<*const Channel>>,
    attention: RefCell<Vec<*const Channel>>,
    /// The list that `end_round` walks; its memory is kept.
    walked: RefCell<Vec<*const Channel>>,
    next_handle: Cell<u64>,
}

/// Gets the current thread's channel; the handle is good on this thread only.
///
/// # Errors
/// `EPERM` outside of a lightweight thread, `ENODEV` for a bdev that is gone, what the module says.
pub fn get(desc: &Arc<Desc>) -> Result<u64> {
    thread::with_current(|thread| thread.bdevs.get(desc))
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

/// Gives a channel back; its I/O must have ended.
///
/// # Errors
/// `EINVAL` for a handle that is not one of this thread.
pub fn put(handle: u64) -> Result<()> {
    thread::with_current(|thread| thread.bdevs.put(handle))
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

/// Runs `f` with the channel that a client's handle names on the current thread.
pub(super) fn with<T>(handle: u64, f: impl FnOnce(Way<'_>) -> T) -> Option<T> {
    thread::with_current(|thread| thread.bdevs.resolve(handle).map(f))?
}

/// An I/O of a channel, to fill and submit. `None`: the limit is reached or the handle is not good;
/// `wait`, if given, is queued in the first case.
///
/// # Safety
/// `wait` is null or stays valid until its callback or [`io_abort`].
pub(crate) unsafe fn io_get(handle: u64, wait: *mut bay_wait) -> Option<Io> {
    with(handle, |way| {
        // SAFETY: by the contract.
        let io = unsafe { way.channel.io_get(wait) }?;
        io.begin(way.writable, false);
        Some(io)
    })?
}

/// Leaves the queue of those that wait for an I/O; whether `wait` was there.
pub(crate) fn io_abort(handle: u64, wait: *mut bay_wait) -> bool {
    with(handle, |way| way.channel.io_abort(wait)).unwrap_or(false)
}

/// Ends a burst.
pub(crate) fn flush(handle: u64) {
    with(handle, |way| way.channel.flush());
}

/// Runs `visit` for the bdev's channel on every thread that has one, then `done` here.
pub(super) fn on_channels<T: Send + 'static>(
    bdev: &Arc<Bdev>,
    visit: impl Fn(&Channel) -> T + Send + Sync + 'static,
    done: impl FnOnce(Vec<T>) + Send + 'static,
) {
    let bdev = Arc::clone(bdev);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.of(&bdev).map(&visit)).flatten(),
        move |results| done(results.into_iter().flatten().collect()),
    );
}

/// Lets every channel of the descriptor write, or not, as the descriptor may now.
pub(super) fn follow_writable(desc: &Arc<Desc>) {
    let desc = Arc::clone(desc);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.set_writable(&desc)),
        |_| {},
    );
}

/// The channel that a module's handle names, on the current thread.
pub(crate) fn with_module_handle<T>(handle: u64, f: impl FnOnce(&Channel) -> T) -> Option<T> {
    let channel = thread::with_current(|thread| {
        let channels = thread.bdevs.channels.borrow();
        channels.iter().copied().find(|&channel| {
            // SAFETY: channels in the list are alive.
            unsafe { (*channel).handle == handle }
        })
    })??;
    // SAFETY: as above; this thread frees channels only at the end of a round.
    Some(f(unsafe { &*channel }))
}

// ---- handles ------------------------------------------------------------------------------------

impl Local {
    fn references(&self) -> &[Reference] {
        // SAFETY: nobody changes the table meanwhile (see the field).
        unsafe { &*self.references.get() }
    }

    fn change_references<T>(&self, f: impl FnOnce(&mut Vec<Reference>) -> T) -> T {
        // SAFETY: nobody looks at the table meanwhile (see the field); `f` does not call out.
        f(unsafe { &mut *self.references.get() })
    }

    #[inline]
    pub(super) fn resolve(&self, handle: u64) -> Option<Way<'_>> {
        let reference = self.references().get(place(handle))?;
        if reference.handle != handle {
            return None;
        }
        // SAFETY: a referenced channel is alive.
        Some(Way { channel: unsafe { &*reference.channel }, writable: reference.writable })
    }

    fn get(&self, desc: &Arc<Desc>) -> Result<u64> {
        if desc.bdev.is_removed() {
            return Err(Error::no_such_device());
        }
        let channel = match self.find(&desc.bdev) {
            Some(channel) => channel,
            None => self.create(&desc.bdev)?,
        };
        // SAFETY: found or made just now; alive while it is in the list.
        let made = unsafe { &*channel };
        made.refs.set(made.refs.get() + 1);
        made.gate.clear(Gate::LEFT);
        desc.channels.fetch_add(1, Ordering::AcqRel);
        let number = self.next_number.get().wrapping_add(1).max(1);
        self.next_number.set(number);
        Ok(self.change_references(|references| {
            let is_free = |reference: &Reference| reference.handle == FREE;
            let free = references.iter().position(is_free).unwrap_or(references.len());
            if free == references.len() {
                references.push(Reference::NONE);
            }
            let handle = (u64::from(number) << 32) | free as u64;
            if let Some(place) = references.get_mut(free) {
                let (writable, desc) = (desc.is_writable(), Some(Arc::clone(desc)));
                *place = Reference { handle, channel, writable, desc };
            }
            handle
        }))
    }

    fn set_writable(&self, desc: &Arc<Desc>) {
        let handles = self.change_references(|references| {
            let of_desc = references.iter_mut().filter(|reference| {
                reference.desc.as_ref().is_some_and(|other| Arc::ptr_eq(other, desc))
            });
            let changed = of_desc.map(|reference| {
                reference.writable = desc.is_writable();
                reference.handle
            });
            changed.collect::<Vec<_>>()
        });
        // A filter vouches for a base that it may write.
        for &channel in self.channels.borrow().iter() {
            // SAFETY: channels in the list are alive.
            handles.iter().for_each(|handle| unsafe { &*channel }.forget_base(*handle));
        }
    }

    fn put(&self, handle: u64) -> Result<()> {
        if self.resolve(handle).is_none() {
            return Err(Error::new(libc::EINVAL, "no channel of this thread has this handle"));
        }
        let reference = self.change_references(|references| {
            references.get_mut(place(handle)).map(|place| std::mem::replace(place, Reference::NONE))
        });
        let Some(reference) = reference else { return Ok(()) };
        for &channel in self.channels.borrow().iter() {
            // SAFETY: channels in the list are alive.
            unsafe { &*channel }.forget_base(handle);
        }
        // SAFETY: it was referenced until now and is freed at the end of a round at the earliest.
        let channel = unsafe { &*reference.channel };
        channel.refs.set(channel.refs.get() - 1);
        if channel.refs.get() == 0 {
            channel.gate.set(Gate::LEFT);
            channel.ask_for_attention_in(self);
        }
        if let Some(desc) = &reference.desc {
            desc.channels.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

impl Local {
    /// Puts every channel that came from such a descriptor.
    pub(super) fn put_all(&self, is_meant: impl Fn(&Desc) -> bool) {
        let is_meant = |reference: &&Reference| reference.desc.as_deref().is_some_and(&is_meant);
        let meant = self.references().iter().filter(is_meant);
        let handles: Vec<u64> = meant.map(|reference| reference.handle).collect();
        for handle in handles {
            let _ = self.put(handle); // found just now
        }
    }

    /// The plugin of these bdevs has failed.
    pub(super) fn fail_owner(&self, owner: usize) {
        let channels = self.channels.borrow().clone();
        for channel in channels {
            // SAFETY: channels in the list are alive, and a visit frees no channel but its own.
            let channel = unsafe { &*channel };
            if channel.bdev.owner == owner {
                failed::take_over(channel);
            }
        }
    }
}

/// Place of a handle in the table of references.
fn place(handle: u64) -> usize {
    usize::try_from(handle & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

// ---- channels -----------------------------------------------------------------------------------

impl Local {
    fn find(&self, bdev: &Arc<Bdev>) -> Option<*mut Channel> {
        self.channels.borrow().iter().copied().find(|&channel| {
            // SAFETY: channels in the list are alive.
            let channel = unsafe { &*channel };
            Arc::ptr_eq(&channel.bdev, bdev) && channel.phase.get() != Phase::Closing
        })
    }

    /// The channel of a bdev on this thread.
    pub(super) fn of(&self, bdev: &Arc<Bdev>) -> Option<&Channel> {
        // SAFETY: channels in the list are alive, and freed only at the end of a round.
        self.find(bdev).map(|channel| unsafe { &*channel })
    }

    fn create(&self, bdev: &Arc<Bdev>) -> Result<*mut Channel> {
        let (Some(submit), Some(chan_create)) = (bdev.ops.submit, bdev.ops.chan_create) else {
            return Err(Error::new(libc::EINVAL, "the module has no submit or chan_create"));
        };
        let handle = self.next_handle.get() + 1;
        self.next_handle.set(handle);
        let channel = Box::into_raw(Box::new(Channel::new(bdev, submit, handle)));
        self.channels.borrow_mut().push(channel);
        bdev.channels.fetch_add(1, Ordering::AcqRel);
        if bdev.has_failed() {
            // SAFETY: in the list, so alive.
            failed::take_over(unsafe { &*channel });
            return Ok(channel);
        }
        let args = bay_chan_args {
            size: size_of_table::<bay_chan_args>(),
            numa: bdev.record.numa,
            thread: thread::current_id(),
            host_chan: handle,
            handover: ptr::null(),
        };
        let mut module = ptr::null_mut();
        // SAFETY: the bdev's context belongs to its operations; both outlive the channel.
        let status = unsafe { chan_create(bdev.ctx, &raw const args, &raw mut module) };
        // SAFETY: in the list, so alive.
        let made = unsafe { &*channel };
        match status {
            1 => {} // chan_ready follows
            0 => made.ready(module, 0),
            errno => {
                self.channels.borrow_mut().retain(|&other| other != channel);
                // SAFETY: out of the list, no reference was given out.
                drop(unsafe { Box::from_raw(channel) });
                bdev.channels.fetch_sub(1, Ordering::AcqRel);
                return Err(Error::new(
                    -errno,
                    format!("bdev {}: its module could not make a channel", bdev.name),
                ));
            }
        }
        Ok(channel)
    }

    fn close(&self, channel: &Channel) {
        let was = channel.phase.replace(Phase::Closing);
        let pending = was == Phase::Ready
            && channel.bdev.ops.chan_destroy.is_some_and(|destroy| {
                // SAFETY: the module's channel is alive, has no I/O, and is not used again.
                unsafe { destroy(channel.bdev.ctx, channel.module.get()) == 1 }
            });
        if !pending {
            self.free(channel);
        }
    }

    /// The module's part is gone.
    pub(super) fn free(&self, channel: &Channel) {
        let channel: *const Channel = channel;
        self.channels.borrow_mut().retain(|&other| !ptr::eq(other, channel));
        self.dirty.borrow_mut().retain(|&other| other != channel);
        self.attention.borrow_mut().retain(|&other| other != channel);
        // SAFETY: it was boxed by `create`, is in no list any more and has no I/O.
        let channel = unsafe { Box::from_raw(channel.cast_mut()) };
        channel.bdev.retired.add(&channel.stats);
        channel.bdev.channels.fetch_sub(1, Ordering::AcqRel);
        device::channel_is_gone(&channel.bdev);
    }

    /// Whether it is so for one of the thread's I/O, free or not. Looks at all of them.
    pub(super) fn any_io(&self, is_so: impl Fn(Io) -> bool) -> bool {
        self.channels.borrow().iter().any(|&channel| {
            // SAFETY: channels in the list are alive.
            unsafe { &*channel }.pool.any(&is_so)
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.channels.borrow().is_empty()
    }

    pub(crate) fn channel_names(&self) -> Vec<(String, u64)> {
        let channels = self.channels.borrow();
        channels
            .iter()
            .map(|&channel| {
                // SAFETY: channels in the list are alive.
                let channel = unsafe { &*channel };
                (channel.bdev.name.clone(), channel.refs.get().into())
            })
            .collect()
    }
}

// ---- the end of a round -------------------------------------------------------------------------

impl Local {
    pub(super) fn add_dirty(&self, channel: &Channel) {
        self.dirty.borrow_mut().push(channel);
    }

    pub(super) fn add_attention(&self, channel: &Channel) {
        self.attention.borrow_mut().push(channel);
    }

    /// Ends bursts, sends again what waits, frees what nobody references.
    pub(crate) fn end_round(&self) {
        if !self.dirty.borrow().is_empty() {
            self.walk(&self.dirty, Channel::flush);
        }
        if !self.attention.borrow().is_empty() {
            self.walk(&self.attention, |channel| {
                if channel.attend(self) {
                    self.close(channel);
                }
            });
        }
    }

    /// Empties the list and visits what was in it. What the visits add is for the next round. Both
    /// lists keep their memory, so that a round allocates nothing.
    fn walk(&self, list: &RefCell<Vec<*const Channel>>, visit: impl Fn(&Channel)) {
        let mut walked = self.walked.take();
        std::mem::swap(&mut walked, &mut list.borrow_mut());
        for channel in walked.drain(..) {
            // SAFETY: alive: during a walk a channel is freed by its own visit at most, and it is in
            // a list once.
            visit(unsafe { &*channel });
        }
        self.walked.replace(walked);
    }

    /// Whether the thread must not sleep.
    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.borrow().is_empty() || self.deadline().is_some_and(|at| at <= clock::now())
    }

    /// When something must be looked at again, if anything.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let attention = self.attention.borrow();
        // SAFETY: channels in the list are alive.
        attention.iter().map(|&channel| unsafe { &*channel }.deadline()).min()
    }
}
