//! Bdevs whose plugin has failed: it panicked, and its library takes no further call. From then on the bus answers for them. New I/O
//! ends with `EIO`. I/O that the module had also ends with `EIO`, but not before its buffers are free: while the module's children or a
//! device hold an I/O (`bay_io.holds`), it is quarantined. The bdevs stay on the bus until they are deleted.
//!
//! Descriptors of the plugin stay open, with their claims, until its last bdev is gone or the bdev below is removed.

use super::channel::{Channel, Gate, Phase};
use super::io::Io;
use super::{complete, desc, device, examine};
use crate::reactor::thread;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// What clients of a failed module get.
const STATUS: i32 = -libc::EIO;
/// How often the bus checks whether quarantined I/O can end.
const LOOK_NS: u64 = 100_000_000;

/// The host tables of failed plugins, and whether the bus may end the I/O that they had.
static FAILED: Mutex<BTreeMap<usize, bool>> = Mutex::new(BTreeMap::new());

fn failed<T>(f: impl FnOnce(&mut BTreeMap<usize, bool>) -> T) -> T {
    f(&mut FAILED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The plugin with this host table has failed. `marks_held`: its library sets `bay_io.holds`. If it does not, the bus cannot end the
/// I/O that it had. Any thread.
pub fn fail(owner: usize, marks_held: bool) {
    failed(|failed| failed.insert(owner, marks_held));
    thread::send_app(move || {
        examine::close_tokens_of(owner);
        device::fail_all(owner);
        thread::for_each(
            move || thread::with_current(|thread| thread.bdevs.fail_owner(owner)),
            move |_| close_when_unused(owner),
        );
    });
}

/// Whether the plugin with this host table has failed.
pub(super) fn has_failed(owner: usize) -> bool {
    failed(|failed| failed.contains_key(&owner))
}

/// How many I/Os of a failed plugin's bdevs are quarantined.
#[must_use]
pub fn quarantined(owner: usize) -> usize {
    device::of_owner(owner).iter().map(|bdev| bdev.quarantined()).sum()
}

/// Takes a channel over from its failed module. The channel may be gone afterwards.
pub(super) fn take_over(channel: &Channel) {
    match channel.phase.get() {
        Phase::Creating => channel.ready(std::ptr::null_mut(), STATUS),
        Phase::Ready => {
            channel.failure.set(STATUS);
            channel.phase.set(Phase::Failed);
            channel.gate.set(Gate::CREATION);
            channel.fail_waiting(STATUS);
            end_requests(channel);
        }
        Phase::Closing => channel.closed(),
        Phase::Failed => {}
    }
}

/// Ends the I/O of the module that nobody holds. If some is left, the channel is checked again later.
pub(super) fn end_requests(channel: &Channel) {
    let may_end = failed(|failed| failed.get(&channel.bdev.owner).copied()).unwrap_or(false);
    if may_end {
        for io in at_module(channel) {
            // Ending an I/O before it may have changed this one.
            if io.is_at_module_of(channel) && io.request().holds == 0 {
                // SAFETY: the request is at the module, which does not run any more, and nobody else holds it.
                unsafe { complete::done(io.abi(), STATUS) };
            }
        }
    }
    let left = u32::try_from(at_module(channel).len()).unwrap_or(u32::MAX);
    let before = channel.quarantined.replace(left);
    channel.bdev.quarantined.fetch_add(left.wrapping_sub(before), Ordering::Relaxed);
    if left != 0 && may_end {
        channel.look_again_after(LOOK_NS);
    }
}

/// The I/O that the channel's module has and has not passed on.
fn at_module(channel: &Channel) -> Vec<Io> {
    let found = RefCell::new(Vec::new());
    if channel.outstanding.get() != 0 {
        thread::with_current(|thread| {
            thread.bdevs.any_io(|io| {
                if io.is_at_module_of(channel) {
                    found.borrow_mut().push(io);
                }
                false
            })
        });
    }
    found.into_inner()
}

/// A bdev of a plugin is gone. The descriptors of a failed plugin are closed after its last bdev. App thread.
pub(super) fn close_when_unused(owner: usize) {
    if has_failed(owner) && device::owned(owner) == 0 {
        close_descriptors(owner, None);
    }
}

/// Closes the descriptors that a failed plugin has of the bdev `of`, or all of them.
pub(super) fn close_descriptors(owner: usize, of: Option<u64>) {
    let is_meant =
        move |desc: &desc::Desc| desc.owner == owner && of.is_none_or(|bdev| desc.bdev.id == bdev);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.put_all(is_meant)),
        move |_| desc::close_all(is_meant),
    );
}
