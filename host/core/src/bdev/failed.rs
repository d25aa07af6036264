//! Bdevs of a failed plugin: it panicked, and the host makes no further call into its library. From
//! then on the bus completes their I/O. New I/O completes with `EIO`. I/O that was at the module
//! also completes with `EIO`, but only when nothing uses its buffers any more: while the module's
//! children or a device hold an I/O (`bay_io.holds`), it is quarantined. The bdevs stay on the bus
//! until they are deleted.
//!
//! The plugin's descriptors stay open and keep their claims until the last bdev of the plugin is
//! gone. A descriptor closes earlier when the bdev that it opened is removed.

use super::channel::{Channel, Gate, Phase};
use super::io::Io;
use super::{complete, desc, device, examine};
use crate::reactor::thread;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// The status that clients of a failed module get.
const STATUS: i32 = -libc::EIO;
/// How often the bus checks whether quarantined I/O can complete, in nanoseconds.
const LOOK_NS: u64 = 100_000_000;

/// The owners that failed, each with whether the bus may complete the I/O that was at its modules.
static FAILED: Mutex<BTreeMap<usize, bool>> = Mutex::new(BTreeMap::new());

fn failed<T>(f: impl FnOnce(&mut BTreeMap<usize, bool>) -> T) -> T {
    f(&mut FAILED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Records that the plugin with the host table `owner` has failed. `marks_held`: its library sets
/// `bay_io.holds`. Without that count the bus cannot know when a device has stopped using buffers,
/// so it never completes I/O that was at the plugin's modules. Any thread.
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

/// The number of quarantined I/Os on the bdevs of a failed plugin.
#[must_use]
pub fn quarantined(owner: usize) -> usize {
    device::of_owner(owner).iter().map(|bdev| bdev.quarantined()).sum()
}

/// Takes a channel over from its failed module. It may free the channel.
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

/// Completes the module's I/O that neither a child nor a device holds. If held I/O remains, the
/// channel is checked again later.
pub(super) fn end_requests(channel: &Channel) {
    let may_end = failed(|failed| failed.get(&channel.bdev.owner).copied()).unwrap_or(false);
    if may_end {
        for io in at_module(channel) {
            // Check again: the completion of an earlier I/O in the list may have completed or
            // changed this I/O.
            if io.is_at_module_of(channel) && io.request().holds == 0 {
                // SAFETY: the I/O is at the module, which does not run any more, and nobody else
                // holds it.
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

/// The I/O that is at the channel's module and was not passed on.
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

/// A bdev of this owner is gone. When it was the last one of a failed plugin, closes the plugin's
/// descriptors. App thread.
pub(super) fn close_when_unused(owner: usize) {
    if has_failed(owner) && device::owned(owner) == 0 {
        close_descriptors(owner, None);
    }
}

/// Closes the descriptors that a failed plugin has on the bdev `of`, or all of them.
pub(super) fn close_descriptors(owner: usize, of: Option<u64>) {
    let is_meant =
        move |desc: &desc::Desc| desc.owner == owner && of.is_none_or(|bdev| desc.bdev.id == bdev);
    thread::for_each(
        move || thread::with_current(|thread| thread.bdevs.put_all(is_meant)),
        move |_| desc::close_all(is_meant),
    );
}
