//! How many blocks the module takes in one part.

use crate::bdev::state::{Channel, Io};
use drivebay_plugin_api::*;

/// The number of blocks, from block `begun` of the I/O on, that the module takes in one part. It is
/// 0 when the module cannot take even the smallest part.
pub(super) fn next_data_part(channel: &Channel, io: Io, begun: u64) -> u64 {
    let limits = &channel.limits;
    let request = io.request();
    let mut len = request.nblocks - begun;
    if limits.max_io_blocks != 0 {
        len = len.min(u64::from(limits.max_io_blocks));
    }
    if limits.optimal_boundary != 0 {
        let boundary = u64::from(limits.optimal_boundary);
        len = len.min(boundary - (request.lba + begun) % boundary);
    }
    if limits.max_segments != 0 || limits.max_segment_size != 0 {
        len = len.min(blocks_within_segments(channel, io, begun));
    }
    in_units(channel, request.op, len)
}

/// How many of the `len` blocks at `lba` the module takes in one part when they are contiguous in
/// memory. The bus does not put more into the buffer, because the part would then be split again,
/// at worse places.
pub(super) fn one_piece(channel: &Channel, op: u16, lba: u64, mut len: u64) -> u64 {
    let limits = &channel.limits;
    if op == BAY_OP_ZONE_APPEND {
        return len; // `submit` has checked it against the limits
    }
    if limits.max_io_blocks != 0 {
        len = len.min(u64::from(limits.max_io_blocks));
    }
    if limits.optimal_boundary != 0 {
        let boundary = u64::from(limits.optimal_boundary);
        len = len.min(boundary - lba % boundary);
    }
    if limits.max_segment_size != 0 {
        len = len.min(u64::from(limits.max_segment_size / limits.block_size));
    }
    in_units(channel, op, len)
}

pub(super) fn blocks_within_segments(channel: &Channel, io: Io, begun: u64) -> u64 {
    let limits = &channel.limits;
    let block = u64::from(limits.block_size);
    let most = if limits.max_segments == 0 { usize::MAX } else { limits.max_segments as usize };
    let mut skip = begun * block;
    let mut bytes = 0;
    let mut segments = 0;
    for element in io.iov() {
        let len = u64::from(element.len);
        if skip >= len {
            skip -= len;
            continue;
        }
        let len = len - std::mem::take(&mut skip);
        if segments == most {
            break;
        }
        segments += 1;
        if limits.max_segment_size != 0 && len > u64::from(limits.max_segment_size) {
            bytes += u64::from(limits.max_segment_size);
            break;
        }
        bytes += len;
    }
    bytes / block
}

/// Rounds a number of blocks down to a multiple of the smallest one for this op.
pub(super) fn in_units(channel: &Channel, op: u16, nblocks: u64) -> u64 {
    let unit = smallest(channel, op);
    if unit == 1 { nblocks } else { nblocks / unit * unit }
}

/// The smallest number of blocks that an I/O with this op may have.
pub(super) fn smallest(channel: &Channel, op: u16) -> u64 {
    if op == BAY_OP_READ || op == BAY_OP_COMPARE { 1 } else { channel.limits.write_unit.into() }
}
