//! Which work an I/O needs before the module can take it.

use super::size::{blocks_within_segments, next_data_part};
use crate::bdev::state::{Channel, Io};
use drivebay_plugin_api::*;

/// The work that an I/O needs before the module can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bdev::path) enum Work {
    Split,
    Bounce,
    Zeroes,
    Compare,
    WriteThrough,
    /// A flush of a device without a write cache: nothing to do.
    Nothing,
}

/// The work that the I/O needs; `None` when the module can take it unchanged.
pub(in crate::bdev::path) fn needed(channel: &Channel, io: Io) -> Option<Work> {
    let request = io.request();
    let limits = &channel.limits;
    match request.op {
        BAY_OP_READ | BAY_OP_WRITE => {
            if must_write_through(channel, io) {
                return Some(Work::WriteThrough);
            }
            if limits.split_data {
                match next_data_part(channel, io, 0) {
                    0 => return Some(Work::Bounce), // the module cannot take even the smallest part from these pieces
                    len if len < request.nblocks => return Some(Work::Split),
                    _ => {}
                }
            }
            if limits.align > 1 && !is_aligned(io, limits.align) {
                return Some(Work::Bounce);
            }
            None
        }
        BAY_OP_ZONE_APPEND if !must_write_through(channel, io) => {
            (!is_one_append(channel, io)).then_some(Work::Bounce)
        }
        BAY_OP_ZONE_APPEND => Some(Work::WriteThrough),
        BAY_OP_COMPARE | BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES if must_write_through(channel, io) => {
            Some(Work::WriteThrough)
        }
        BAY_OP_COMPARE if !takes_whole(channel, io) => Some(Work::Compare),
        BAY_OP_WRITE_ZEROES if !limits.declared(BAY_OP_WRITE_ZEROES) => Some(Work::Zeroes),
        BAY_OP_FLUSH if !limits.declared(BAY_OP_FLUSH) => Some(Work::Nothing),
        BAY_OP_UNMAP if over(request.nblocks, limits.max_unmap) => Some(Work::Split),
        BAY_OP_WRITE_ZEROES if over(request.nblocks, limits.max_write_zeroes) => Some(Work::Split),
        _ => None,
    }
}

fn over(nblocks: u64, limit: u32) -> bool {
    limit != 0 && nblocks > u64::from(limit)
}

/// Whether every piece begins aligned and, except for the last one, ends aligned.
fn is_aligned(io: Io, align: u32) -> bool {
    let mask = align as usize - 1;
    let Some((last, others)) = io.iov().split_last() else { return true };
    last.addr as usize & mask == 0
        && others.iter().all(|element| (element.addr as usize | element.len as usize) & mask == 0)
}

/// Whether the module can take the append from these pieces of memory. An append is never split.
fn is_one_append(channel: &Channel, io: Io) -> bool {
    is_aligned(io, channel.limits.align)
        && blocks_within_segments(channel, io, 0) == io.request().nblocks
}

/// Whether the module can take the whole compare. Otherwise the bus emulates it, so that the
/// reported offset of a difference counts from the start of the whole I/O.
fn takes_whole(channel: &Channel, io: Io) -> bool {
    let limits = &channel.limits;
    limits.declared(BAY_OP_COMPARE)
        && (!limits.split_data || next_data_part(channel, io, 0) == io.request().nblocks)
        && is_aligned(io, limits.align)
}

/// Whether the I/O requests FUA, which the module does not support, and the module has a write
/// cache. Without a write cache the flag is not needed and is cleared, because the module did not
/// declare it.
fn must_write_through(channel: &Channel, io: Io) -> bool {
    let limits = &channel.limits;
    if io.request().flags & BAY_IO_FUA == 0 || limits.fua_declared {
        return false;
    }
    if !limits.write_cache {
        io.change(|request| request.flags &= !BAY_IO_FUA);
    }
    limits.write_cache
}
