//! Quiesce: I/O of a range, or all of it, is held back in front of the module, and whoever asked is
//! told when none of it is at the module any more. What arrives meanwhile keeps its order and goes on
//! after `unquiesce`. Reset, abort and, beside a range, what has no range pass.

use super::channel::Channel;
use super::device::{self, Bdev};
use super::io::Io;
use super::local::on_channels;
use super::{dispatch, pass};
use crate::reactor::thread;
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::sync::Arc;

/// Blocks whose I/O is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    lba: u64,
    /// 0 = the whole bdev, whatever its size becomes.
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
            // It may concern any block from there on.
            Extent::Block => self.overlaps(lba, u64::MAX),
            Extent::Command => true,
        }
    }
}

/// Whether one of the channel's ranges holds the I/O back.
pub(super) fn holds(channel: &Channel, io: Io) -> bool {
    channel.ranges.borrow().iter().any(|range| range.holds(io.request()))
}

/// Holds back the I/O of `nblocks` blocks from `lba` on (0 and 0: of the whole bdev); `done` when none
/// of it is at the module. Ranges may overlap; each is let go on its own. App thread.
///
/// # Errors
/// `ENODEV`; `EINVAL` for a range that is not on the bdev.
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
            format!("bdev {}: lba {lba} with {nblocks} blocks is not a range of it", bdev.name),
        ));
    }
    let range = Range { lba, nblocks };
    bdev.control().quiesced.push(range);
    on_channels(&Arc::clone(&bdev), Channel::take_ranges, move |_| drain(bdev, range, done));
    Ok(())
}

/// Looks again until no channel has I/O of the range at the module.
fn drain(bdev: Arc<Bdev>, range: Range, done: impl FnOnce(i32) + Send + 'static) {
    on_channels(
        &Arc::clone(&bdev),
        move |channel| at_module(channel, range),
        move |found| {
            if bdev.has_failed() {
                done(-libc::EIO); // quarantined I/O may never end
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

/// Whether the channel's module has the I/O, or has passed it on.
fn is_at_module(io: Io, channel: &Channel, range: Range) -> bool {
    io.lba_at_module(channel).is_some_and(|lba| {
        let mut request = *io.request();
        pass::move_to(&mut request, lba);
        range.holds(&request)
    })
}

/// Lets go what `quiesce` with the same range holds back; `done` when it is on its way. App thread.
///
/// # Errors
/// `ENODEV`; `EINVAL` for a range that is not quiesced.
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
                format!("bdev {}: lba {lba} with {nblocks} blocks is not quiesced", bdev.name),
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
