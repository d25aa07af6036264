//! Quiesce: the bus holds back the I/O of a range, or of the whole bdev, before it reaches the
//! module, and calls the requester when none of it is at the module any more. I/O that arrives in
//! the meantime keeps its order and continues after `unquiesce`. Aborts and resets pass. When only
//! a range is quiesced, I/O without a range passes, too.

use super::{dispatch, pass};
use crate::bdev::state::{Bdev, Channel, Io, Quiesced, on_channels};
use crate::reactor::thread;
use crate::{Error, Result};
use std::sync::Arc;

/// Holds back the I/O of `nblocks` blocks from `lba` on (0 and 0: of the whole bdev). Calls `done`
/// when none of it is at the module. Ranges may overlap; each needs its own `unquiesce`. App
/// thread.
///
/// # Errors
/// `EINVAL` for a range that is not on the bdev.
pub(crate) fn quiesce(
    bdev: &Arc<Bdev>,
    lba: u64,
    nblocks: u64,
    done: impl FnOnce(i32) + Send + 'static,
) -> Result<()> {
    let end = lba.checked_add(nblocks).filter(|&end| end <= bdev.num_blocks());
    if end.is_none() || (nblocks == 0 && lba != 0) {
        return Err(Error::new(
            libc::EINVAL,
            format!("bdev {}: {nblocks} blocks from lba {lba} are not a range on it", bdev.name),
        ));
    }
    let range = Quiesced { lba, nblocks };
    bdev.control().quiesced.push(range);
    let drained = Arc::clone(bdev);
    on_channels(bdev, Channel::copy_quiesced, move |_| drain(drained, range, done));
    Ok(())
}

/// Checks again and again until no channel has I/O of the range at the module, then calls `done`.
fn drain(bdev: Arc<Bdev>, range: Quiesced, done: impl FnOnce(i32) + Send + 'static) {
    on_channels(
        &Arc::clone(&bdev),
        move |channel| at_module(channel, range),
        move |found| {
            if bdev.has_failed() {
                done(-libc::EIO); // quarantined I/O may never complete
            } else if found.contains(&true) {
                drain(bdev, range, done);
            } else {
                done(0);
            }
        },
    );
}

fn at_module(channel: &Channel, range: Quiesced) -> bool {
    channel.outstanding.get() != 0
        && thread::with_current(|thread| thread.bdevs.any_io(|io| is_at_module(io, channel, range)))
            .unwrap_or(false)
}

/// Whether the I/O is at the channel's module or was passed on by it, and the range holds it.
fn is_at_module(io: Io, channel: &Channel, range: Quiesced) -> bool {
    io.lba_at_module(channel).is_some_and(|lba| {
        let mut request = *io.request();
        pass::move_to(&mut request, lba);
        range.holds(&request, channel.limits.zone_size)
    })
}

/// Releases the I/O that `quiesce` with the same range holds back. Calls `done` when the bus has
/// sent it on. App thread.
///
/// # Errors
/// `EINVAL` for a range that is not quiesced.
pub(crate) fn unquiesce(
    bdev: &Arc<Bdev>,
    lba: u64,
    nblocks: u64,
    done: impl FnOnce(i32) + Send + 'static,
) -> Result<()> {
    {
        let mut control = bdev.control();
        let range = Quiesced { lba, nblocks };
        let Some(place) = control.quiesced.iter().position(|&other| other == range) else {
            return Err(Error::new(
                libc::EINVAL,
                format!("bdev {}: {nblocks} blocks from lba {lba} are not quiesced", bdev.name),
            ));
        };
        control.quiesced.remove(place);
    }
    on_channels(
        bdev,
        |channel| {
            channel.copy_quiesced();
            dispatch::release_held(channel);
        },
        move |_| done(0),
    );
    Ok(())
}

/// Whether one of the channel's ranges holds the I/O back.
pub(super) fn holds(channel: &Channel, io: Io) -> bool {
    let zone_size = channel.limits.zone_size;
    channel.ranges.borrow().iter().any(|range| range.holds(io.request(), zone_size))
}
