//! The channels of a lightweight thread, and the handles by which clients name them.

use super::channel::Channel;
use super::desc::Desc;
use super::gate::Gate;
use super::io::Io;
use super::{Bdev, Phase};
use crate::reactor::{clock, thread};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The channels of one lightweight thread.
#[derive(Default)]
pub(crate) struct ThreadChannels {
    channels: RefCell<Vec<*mut Channel>>,
    /// Indexed by the lower half of the handle. Each borrow is inside one method of `ThreadChannels`, which
    /// calls no other code during the borrow.
    references: UnsafeCell<Vec<Reference>>,
    next_number: Cell<u32>,
    /// The channels whose module gets a `flush` at the end of the round.
    dirty: RefCell<Vec<*const Channel>>,
    /// The channels that the thread checks at the end of the round.
    scheduled: RefCell<Vec<*const Channel>>,
    /// The list that `walk` visits. Its memory is reused.
    walked: RefCell<Vec<*const Channel>>,
    next_handle: Cell<u64>,
}

/// One client's reference to a channel.
struct Reference {
    /// The reference's number and its index in the table; [`FREE`] when the entry is unused.
    handle: u64,
    channel: *const Channel,
    writable: bool,
    desc: Option<Arc<Desc>>,
}

/// A handle that no lookup can find, because its index is beyond every table.
const FREE: u64 = u64::MAX;

impl Reference {
    const NONE: Self = Self { handle: FREE, channel: ptr::null(), writable: false, desc: None };
}

/// The fields of a reference that the data path needs.
#[derive(Clone, Copy)]
pub(in crate::bdev) struct Way<'a> {
    pub(in crate::bdev) channel: &'a Channel,
    pub(in crate::bdev) writable: bool,
}

/// Releases a reference to a channel. The client's I/O must have completed.
///
/// # Errors
/// `EINVAL` when this thread has no such handle; `EPERM` outside of a lightweight thread.
pub(crate) fn put(handle: u64) -> Result<()> {
    thread::with_current(|thread| thread.bdevs.put(handle))
        .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

/// Runs `f` with the channel that a client's handle names on the current thread; `None` when there
/// is none.
pub(in crate::bdev) fn with<T>(handle: u64, f: impl FnOnce(Way<'_>) -> T) -> Option<T> {
    thread::with_current(|thread| thread.bdevs.resolve(handle).map(f))?
}

/// Returns an I/O of a channel that the client fills and submits. `None`: the limit is reached or
/// the handle is not valid. In the first case `wait`, if given, is queued.
///
/// # Safety
/// `wait` is null or stays valid until its callback or [`io_abort`].
pub(crate) unsafe fn io_get(handle: u64, wait: *mut bay_wait) -> Option<Io> {
    with(handle, |way| {
        // SAFETY: the caller guarantees this.
        let io = unsafe { way.channel.io_get(wait) }?;
        io.begin(way.writable, false);
        Some(io)
    })?
}

/// Removes `wait` from the queue of clients that wait for an I/O. Returns whether it was queued.
pub(crate) fn io_abort(handle: u64, wait: *mut bay_wait) -> bool {
    with(handle, |way| way.channel.io_abort(wait)).unwrap_or(false)
}

/// Runs `visit` on every thread that has a channel of the bdev, then `done` on the current thread.
pub(in crate::bdev) fn on_channels<T: Send + 'static>(
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

/// Copies the descriptor's right to write to all its channels.
pub(in crate::bdev) fn follow_writable(desc: &Arc<Desc>) {
    let desc = Arc::clone(desc);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.set_writable(&desc)),
        |_| {},
    );
}

/// Runs `f` with the channel that a module's handle names on the current thread.
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

// ---- handles --------------------------------------------------------------------------------------

impl ThreadChannels {
    fn references(&self) -> &[Reference] {
        // SAFETY: nobody changes the table during the borrow (see the field).
        unsafe { &*self.references.get() }
    }

    fn change_references<T>(&self, f: impl FnOnce(&mut Vec<Reference>) -> T) -> T {
        // SAFETY: nobody reads the table during the borrow (see the field), and `f` calls no other
        // code.
        f(unsafe { &mut *self.references.get() })
    }

    #[inline]
    pub(in crate::bdev) fn resolve(&self, handle: u64) -> Option<Way<'_>> {
        let reference = self.references().get(place(handle))?;
        if reference.handle != handle {
            return None;
        }
        // SAFETY: a referenced channel is alive.
        Some(Way { channel: unsafe { &*reference.channel }, writable: reference.writable })
    }

    /// Adds a reference of `desc` to one of the thread's channels. Returns its handle.
    pub(in crate::bdev) fn add_reference(&self, desc: &Arc<Desc>, channel: &Channel) -> u64 {
        channel.refs.set(channel.refs.get() + 1);
        channel.gate.clear(Gate::LEFT);
        desc.channels.fetch_add(1, Ordering::AcqRel);
        let number = self.next_number.get().wrapping_add(1).max(1);
        self.next_number.set(number);
        self.change_references(|references| {
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
        })
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
        // Filters must check again: they recorded what their bases can take while the right to
        // write was another.
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
        // SAFETY: it was referenced until now. Channels are freed only at the end of a round.
        let channel = unsafe { &*reference.channel };
        channel.refs.set(channel.refs.get() - 1);
        if channel.refs.get() == 0 {
            channel.gate.set(Gate::LEFT);
            channel.schedule_on(self);
        }
        if let Some(desc) = &reference.desc {
            desc.channels.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Releases every reference that belongs to a descriptor for which `is_meant` returns true.
    pub(in crate::bdev) fn put_all(&self, is_meant: impl Fn(&Desc) -> bool) {
        let is_meant = |reference: &&Reference| reference.desc.as_deref().is_some_and(&is_meant);
        let meant = self.references().iter().filter(is_meant);
        let handles: Vec<u64> = meant.map(|reference| reference.handle).collect();
        for handle in handles {
            let _ = self.put(handle); // found just now
        }
    }
}

/// The index of a handle in the table of references.
fn place(handle: u64) -> usize {
    usize::try_from(handle & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

// ---- channels -------------------------------------------------------------------------------------

impl ThreadChannels {
    fn find(&self, bdev: &Arc<Bdev>) -> Option<*mut Channel> {
        self.channels.borrow().iter().copied().find(|&channel| {
            // SAFETY: channels in the list are alive.
            let channel = unsafe { &*channel };
            Arc::ptr_eq(&channel.bdev, bdev) && channel.phase.get() != Phase::Closing
        })
    }

    /// Returns the channel of a bdev on this thread.
    pub(in crate::bdev) fn of(&self, bdev: &Arc<Bdev>) -> Option<&Channel> {
        // SAFETY: channels in the list are alive, and freed only at the end of a round.
        self.find(bdev).map(|channel| unsafe { &*channel })
    }

    /// A handle for a new channel's module. The thread never uses a handle twice.
    pub(in crate::bdev) fn next_handle(&self) -> u64 {
        let handle = self.next_handle.get() + 1;
        self.next_handle.set(handle);
        handle
    }

    /// Adds a channel to the thread.
    pub(in crate::bdev) fn insert(&self, channel: Channel) -> &Channel {
        let channel = Box::into_raw(Box::new(channel));
        self.channels.borrow_mut().push(channel);
        // SAFETY: just allocated, and alive until `remove`.
        unsafe { &*channel }
    }

    /// Removes a channel from every list of the thread. It lives until the caller drops the box.
    pub(in crate::bdev) fn remove(&self, channel: *const Channel) -> Option<Box<Channel>> {
        let mut channels = self.channels.borrow_mut();
        let index = channels.iter().position(|&other| ptr::eq(other, channel))?;
        let channel = channels.remove(index);
        self.dirty.borrow_mut().retain(|&other| !ptr::eq(other, channel));
        self.scheduled.borrow_mut().retain(|&other| !ptr::eq(other, channel));
        // SAFETY: `insert` boxed it, and no list of the thread has it any more.
        Some(unsafe { Box::from_raw(channel) })
    }

    /// Runs `visit` with each of the thread's channels. A visit may free channels: it completes I/O,
    /// and the callbacks may report that a module has destroyed its part of another channel.
    pub(in crate::bdev) fn for_each(&self, visit: impl Fn(&Channel)) {
        let channels = self.channels.borrow().clone();
        for channel in channels {
            if self.channels.borrow().contains(&channel) {
                // SAFETY: channels in the list are alive.
                visit(unsafe { &*channel });
            }
        }
    }

    /// Whether `is_so` returns true for one of the thread's I/Os, free or not. It visits all I/Os
    /// of the thread, so it is slow.
    pub(in crate::bdev) fn any_io(&self, is_so: impl Fn(Io) -> bool) -> bool {
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

// ---- the end of a round ---------------------------------------------------------------------------

impl ThreadChannels {
    pub(in crate::bdev) fn add_dirty(&self, channel: &Channel) {
        self.dirty.borrow_mut().push(channel);
    }

    pub(in crate::bdev) fn add_scheduled(&self, channel: &Channel) {
        self.scheduled.borrow_mut().push(channel);
    }

    /// Visits the channels whose module gets a `flush`, and forgets them.
    pub(in crate::bdev) fn visit_dirty(&self, visit: impl Fn(&Channel)) {
        if !self.dirty.borrow().is_empty() {
            self.walk(&self.dirty, visit);
        }
    }

    /// Visits the channels that are scheduled for the end of the round, and forgets them. A visit
    /// may free its own channel.
    pub(in crate::bdev) fn visit_scheduled(&self, visit: impl Fn(&Channel)) {
        if !self.scheduled.borrow().is_empty() {
            self.walk(&self.scheduled, visit);
        }
    }

    /// Empties the list and visits its channels. Channels that are added during the visits wait for
    /// the next round. Both lists keep their memory, so a round allocates nothing.
    fn walk(&self, list: &RefCell<Vec<*const Channel>>, visit: impl Fn(&Channel)) {
        let mut walked = self.walked.take();
        std::mem::swap(&mut walked, &mut list.borrow_mut());
        for channel in walked.drain(..) {
            // SAFETY: the channel is alive: each channel is in a list once, and during this loop
            // only its own visit may free it.
            visit(unsafe { &*channel });
        }
        self.walked.replace(walked);
    }

    /// Whether the thread must not sleep, because a channel needs it in this round.
    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.borrow().is_empty() || self.deadline().is_some_and(|at| at <= clock::now())
    }

    /// The earliest time when a channel must be checked again, if any.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let scheduled = self.scheduled.borrow();
        // SAFETY: channels in the list are alive.
        scheduled.iter().map(|&channel| unsafe { &*channel }.deadline()).min()
    }
}
