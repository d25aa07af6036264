//! Quiesce: the bus holds back the I/O of a range, or of the whole bdev, before it reaches the
//! module, and calls the requester when none of it is at the module any more. I/O that arrives in
//! the meantime keeps its order and continues after `unquiesce`. Aborts and resets pass. When only
//! a range is quiesced, I/O without a range passes, too.

use super::channel::Channel;
use super::device::{self, Bdev};
use super::io::Io;
use super::local::on_channels;
use super::{dispatch, pass};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::sync::Arc;

/// A range of blocks whose I/O is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    lba: u64,
    /// 0 = the whole bdev, even after a resize.
    nblocks: u64,
}

impl Range {
    fn overlaps(self, lba: u64, nblocks: u64) -> bool {
        let (end, other_end) = (self.lba.saturating_add(self.nblocks), lba.saturating_add(nblocks));
        self.nblocks == 0 || (lba < end && self.lba < other_end)
    }

    fn holds(self, request: &bay_io) -> bool {
        if request.op == BAY_OP_ABORT {
            return false;
        }
        let (lba, nblocks, [source, _]) = (request.lba, request.nblocks, request.arg);
        match op_rules(request.op).map_or(Extent::None, |rules| rules.extent) {
            Extent::None => self.nblocks == 0,
            Extent::Blocks => self.overlaps(lba, nblocks),
            Extent::TwoRanges => self.overlaps(lba, nblocks) || self.overlaps(source, nblocks),
            // A seek or a zone op may concern any block from `lba` on.
            Extent::Block => self.overlaps(lba, u64::MAX),
            Extent::Command => true,
        }
    }
}

/// Whether one of the channel's ranges holds the I/O back.
pub(super) fn holds(channel: &Channel, io: Io) -> bool {
    channel.ranges.borrow().iter().any(|range| range.holds(io.request()))
}

/// Holds back the I/O of `nblocks` blocks from `lba` on (0 and 0: of the whole bdev). Calls `done`
/// when none of it is at the module. Ranges may overlap; each needs its own `unquiesce`. App
/// thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EINVAL` for a range that is not on the bdev.
pub fn quiesce(
    id: u64,
    lba: u64,
    nblocks: u64,
    done: impl FnOnce(i32) + Send + 'static,
) -> Result<()> {
    let bdev = device::by_id(id).ok_or_else(Error::no_such_device)?;
    let end = lba.checked_add(nblocks).filter(|&end| end <= bdev.num_blocks());
    if end.is_none() || (nblocks == 0 && lba != 0) {
        return Err(Error::new(
            libc::EINVAL,
            format!("bdev {}: {nblocks} blocks from lba {lba} are not a range on it", bdev.name),
        ));
    }
    let range = Range { lba, nblocks };
    bdev.control().quiesced.push(range);
    on_channels(&Arc::clone(&bdev), Channel::take_ranges, move |_| drain(bdev, range, done));
    Ok(())
}

/// Checks again and again until no channel has I/O of the range at the module, then calls `done`.
fn drain(bdev: Arc<Bdev>, range: Range, done: impl FnOnce(i32) + Send + 'static) {
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

fn at_module(channel: &Channel, range: Range) -> bool {
    channel.outstanding.get() != 0
        && thread::with_current(|thread| thread.bdevs.any_io(|io| is_at_module(io, channel, range)))
            .unwrap_or(false)
}

/// Whether the I/O is at the channel's module or was passed on by it, and the range holds it.
fn is_at_module(io: Io, channel: &Channel, range: Range) -> bool {
    io.lba_at_module(channel).is_some_and(|lba| {
        let mut request = *io.request();
        pass::move_to(&mut request, lba);
        range.holds(&request)
    })
}

/// Releases the I/O that `quiesce` with the same range holds back. Calls `done` when the bus has
/// sent it on. App thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EINVAL` for a range that is not quiesced.
pub fn unquiesce(
    id: u64,
    lba: u64,
    nblocks: u64,
    done: impl FnOnce(i32) + Send + 'static,
) -> Result<()> {
    let bdev = device::by_id(id).ok_or_else(Error::no_such_device)?;
    {
        let mut control = bdev.control();
        let range = Range { lba, nblocks };
        let Some(place) = control.quiesced.iter().position(|&other| other == range) else {
            return Err(Error::new(
                libc::EINVAL,
                format!("bdev {}: {nblocks} blocks from lba {lba} are not quiesced", bdev.name),
            ));
        };
        control.quiesced.remove(place);
    }
    on_channels(
        &bdev,
        |channel| {
            channel.take_ranges();
            dispatch::let_go(channel);
        },
        move |_| done(0),
    );
    Ok(())
}
