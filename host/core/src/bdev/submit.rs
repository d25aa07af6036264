//! First stage: is the I/O one that this bdev can be asked, and in one piece? All branching of the
//! data path is in `with_care`. Next: `parts` when it is not in one piece, else `dispatch`.

use super::channel::Channel;
use super::io::Io;
use super::{complete, dispatch, parts, reset, stats};
use crate::reactor::clock;
use drivebay_plugin_api::*;

/// Takes an I/O from a client; its callback comes exactly once, from inside or later.
#[inline]
pub(crate) fn submit(io: Io) {
    io.change(|request| request.detail_kind = BAY_DETAIL_NONE);
    take(io.channel(), io);
}

/// Takes an I/O that has come to `channel`, where it is.
#[inline]
pub(super) fn take(channel: &Channel, io: Io) {
    io.submitted_ns.set(clock::of_round());
    if is_straight(channel, io) { dispatch::send(channel, io) } else { with_care(channel, io) }
}

/// Whether it is what nearly all I/O is: a read or write of one piece of memory that the module takes
/// as it is. What is true here, `check` and `parts::needed` would find too, one by one.
#[inline]
fn is_straight(channel: &Channel, io: Io) -> bool {
    let (request, straight) = (io.request(), &channel.limits.straight);
    let is_writable = || request.op == BAY_OP_WRITE && straight.writes && io.writable.get();
    if request.op != BAY_OP_READ && !is_writable() {
        return false;
    }
    let (lba, nblocks) = (request.lba, request.nblocks);
    let last = lba.wrapping_add(nblocks).wrapping_sub(1);
    let Some(piece) = io.only_piece() else { return false };
    must_flags(request) == 0
        && nblocks.wrapping_sub(1) < straight.most_blocks
        && channel.bdev.reaches(last)
        && (lba ^ last) < straight.boundary
        && u64::from(piece.len) == nblocks.wrapping_mul(channel.limits.block_size.into())
        && (piece.addr as usize | piece.len as usize) & straight.align_mask == 0
}

/// Flags that must be understood.
fn must_flags(request: &bay_io) -> u32 {
    request.flags >> 16 << 16
}

/// What is not straight: bad, split, emulated, rare.
#[inline(never)]
fn with_care(channel: &Channel, io: Io) {
    if let Err(status) = check(channel, io) {
        return complete::finish(io, status);
    }
    let op = io.request().op;
    if op == BAY_OP_RESET {
        return reset::begin(io);
    }
    if !stats::has_row(op) {
        io.state.set_rare();
    }
    if op == BAY_OP_ABORT {
        return abort(channel, io);
    }
    if let Some(work) = parts::needed(channel, io) {
        return parts::begin(io, work);
    }
    dispatch::send(channel, io);
}

/// Range and list checks: everything a module may rely on.
fn check(channel: &Channel, io: Io) -> Result<(), i32> {
    let request = io.request();
    let limits = &channel.limits;
    if request.op >= 64 || limits.ops_allowed & (1 << request.op) == 0 {
        return Err(-libc::ENOTSUP);
    }
    if channel.bdev.is_removed() && !io.is_part() {
        return Err(-libc::ENODEV);
    }
    let must = must_flags(request);
    if must & !limits.must_allowed != 0 || (must != 0 && !moves_data(request.op)) {
        return Err(-libc::ENOTSUP);
    }
    let writes = matches!(request.op, BAY_OP_WRITE | BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES);
    if writes && !io.writable.get() {
        return Err(-libc::EBADF);
    }
    if writes && limits.read_only {
        return Err(-libc::EROFS);
    }
    if writes && limits.write_unit > 1 {
        let unit = u64::from(limits.write_unit);
        if !request.lba.is_multiple_of(unit) || !request.nblocks.is_multiple_of(unit) {
            return Err(-libc::EINVAL);
        }
    }
    match request.op {
        BAY_OP_READ | BAY_OP_WRITE | BAY_OP_COMPARE => {
            check_range(channel, request)?;
            check_list(io, request.nblocks, limits.block_size)
        }
        BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES => check_range(channel, request),
        _ => Ok(()),
    }
}

/// Ops that FUA says something of.
fn moves_data(op: u16) -> bool {
    matches!(op, BAY_OP_READ | BAY_OP_WRITE | BAY_OP_COMPARE | BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES)
}

fn check_range(channel: &Channel, request: &bay_io) -> Result<(), i32> {
    let end = request.lba.checked_add(request.nblocks);
    match end {
        Some(end) if request.nblocks > 0 && end <= channel.bdev.num_blocks() => Ok(()),
        _ => Err(-libc::EINVAL),
    }
}

fn check_list(io: Io, nblocks: u64, block_size: u32) -> Result<(), i32> {
    let total: u64 = io.iov().iter().map(|element| u64::from(element.len)).sum();
    let wanted = nblocks.checked_mul(u64::from(block_size));
    if wanted == Some(total) { Ok(()) } else { Err(-libc::EINVAL) }
}

/// What still waits in the bus is aborted here; what is at the module is the module's affair.
fn abort(channel: &Channel, io: Io) {
    let [target, _] = io.request().arg;
    if let Some(waiting) = channel.remove_queued(target) {
        complete::finish(waiting, BAY_ST_ABORTED);
        return complete::finish(io, 0);
    }
    if channel.limits.declared(BAY_OP_ABORT) {
        dispatch::send(channel, io);
    } else {
        complete::finish(io, -libc::ENOENT);
    }
}
