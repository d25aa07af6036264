//! Bdevs of a failed plugin: it panicked, and the host makes no further call into its library. From
//! then on the bus completes their I/O (`path/quarantine.rs`). The bdevs stay on the bus until they
//! are deleted.
//!
//! The plugin's descriptors stay open and keep their claims until the last bdev of the plugin is
//! gone. A descriptor closes earlier when the bdev that it opened is removed.

use super::{examine, names, removal};
use crate::bdev::path::quarantine;
use crate::bdev::state::failed_owners;
use crate::reactor::thread;
use std::sync::atomic::Ordering;

/// Records that the plugin with the host table `owner` has failed. `marks_held`: its library sets
/// `bay_io.holds`. Without that count the bus cannot know when a device has stopped using buffers,
/// so it never completes I/O that was at the plugin's modules. Any thread.
pub fn fail(owner: usize, marks_held: bool) {
    failed_owners::record(owner, marks_held);
    thread::send_app(move || {
        examine::close_tokens_of(owner);
        fail_all(owner);
        thread::for_each(
            move || thread::with_current(|thread| quarantine::take_over_all(&thread.bdevs, owner)),
            move |_| removal::close_when_unused(owner),
        );
    });
}

/// Ends the quiesces and destructs that a failed plugin has not answered. App thread.
fn fail_all(owner: usize) {
    for bdev in names::of_owner(owner) {
        bdev.has_failed.store(true, Ordering::Release);
        let is_destructing = {
            let mut control = bdev.control();
            control.quiesced.clear();
            control.destructing
        };
        if is_destructing {
            removal::destruct_done(bdev.id, -libc::EIO);
        }
    }
}

/// The number of quarantined I/Os on the bdevs of a failed plugin.
#[must_use]
pub fn quarantined(owner: usize) -> usize {
    names::of_owner(owner).iter().map(|bdev| bdev.quarantined()).sum()
}
