//! First stage: checks whether the bdev accepts the I/O and whether the module can take it in one
//! piece. `slow_path` contains all branches of the data path. Next stage: `parts` if the I/O needs
//! work, else `dispatch`.

use super::{complete, dispatch, parts, reset, zones};
use crate::bdev::state::{Channel, Io, Limits, has_row};
use crate::reactor::clock;
use drivebay_plugin_api::*;

/// Accepts an I/O from a client. The bus calls the callback exactly once, from inside this call or
/// later.
#[inline]
pub(crate) fn submit(io: Io) {
    io.change(|request| request.detail_kind = BAY_DETAIL_NONE);
    take(io.channel(), io);
}

/// Accepts an I/O that has arrived on `channel`, from a client or from a filter.
#[inline]
pub(super) fn take(channel: &Channel, io: Io) {
    io.submitted_ns.set(clock::of_round());
    if is_straight(channel, io) { dispatch::send(channel, io) } else { slow_path(channel, io) }
}

/// Whether this is the usual I/O: a read or write with one piece of memory that the module takes
/// unchanged. This must accept only I/O that `check` accepts and for which `parts::needed` finds no
/// work.
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

/// The flags that the module must support; it may ignore the others.
fn must_flags(request: &bay_io) -> u32 {
    request.flags >> 16 << 16
}

/// Handles all I/O that is not straight: invalid, split, emulated or rare.
#[inline(never)]
fn slow_path(channel: &Channel, io: Io) {
    if let Err(status) = check(channel, io) {
        return complete::finish(io, status);
    }
    let op = io.request().op;
    if op == BAY_OP_RESET {
        return reset::begin(io);
    }
    if !has_row(op) {
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

/// Checks everything that a module may rely on, by the rules of the op. An op without rules is
/// refused.
fn check(channel: &Channel, io: Io) -> Result<(), i32> {
    let request = io.request();
    let limits = &channel.limits;
    let Some(rules) = op_rules(request.op).filter(|rules| limits.allows(rules.op)) else {
        return Err(-libc::ENOTSUP);
    };
    if channel.bdev.is_removed() && !io.is_part() {
        return Err(-libc::ENODEV);
    }
    let must = must_flags(request);
    if must & !limits.must_allowed != 0 || (must != 0 && !rules.may_be_fua) {
        return Err(-libc::ENOTSUP);
    }
    if rules.writes && !io.writable.get() {
        return Err(-libc::EBADF);
    }
    if rules.writes && limits.read_only {
        return Err(-libc::EROFS);
    }
    check_extent(channel, rules, request)?;
    check_data(io, rules, limits.block_size)?;
    check_metadata(request, rules, limits)?;
    zones::check(io, limits)
}

fn check_extent(channel: &Channel, rules: &OpRules, request: &bay_io) -> Result<(), i32> {
    let unit = if rules.writes { u64::from(channel.limits.write_unit) } else { 1 };
    let (lba, nblocks, [source, _]) = (request.lba, request.nblocks, request.arg);
    let end = channel.bdev.num_blocks();
    let lies_on_it = |first: u64| first.checked_add(nblocks).is_some_and(|last| last <= end);
    let is_whole = nblocks > 0 && lba.is_multiple_of(unit) && nblocks.is_multiple_of(unit);
    let is_good = match rules.extent {
        Extent::None => true,
        Extent::Blocks => is_whole && lies_on_it(lba),
        Extent::TwoRanges => {
            let is_apart = lba.abs_diff(source) >= nblocks;
            is_whole && lies_on_it(lba) && lies_on_it(source) && is_apart
        }
        Extent::Block => lba < end,
        Extent::Zone => lba < end && lies_on_it(lba),
        Extent::Command => source != 0 && request.arg_len == NVME_COMMAND_LEN,
    };
    if is_good { Ok(()) } else { Err(-libc::EINVAL) }
}

/// Checks the metadata of I/O to a bdev with separate metadata. Modules of other bdevs ignore the
/// metadata pointer, so it needs no check there.
fn check_metadata(request: &bay_io, rules: &OpRules, limits: &Limits) -> Result<(), i32> {
    if request.md.is_null() || limits.md_size == 0 {
        return Ok(());
    }
    let len = request.nblocks.checked_mul(u64::from(limits.md_size));
    let is_whole = len == Some(u64::from(request.md_len));
    match rules.data {
        Data::Blocks if !is_whole => Err(-libc::EINVAL),
        // The bus compares data only.
        Data::Blocks if rules.op == BAY_OP_COMPARE && !limits.declared(rules.op) => {
            Err(-libc::ENOTSUP)
        }
        Data::Blocks => Ok(()),
        Data::None | Data::Bytes | Data::TwiceBlocks => Err(-libc::ENOTSUP),
    }
}

/// The length of an NVMe command, in bytes. NVM Express Base 2.0, section 3.3.3.1.
const NVME_COMMAND_LEN: u32 = 64;

fn check_data(io: Io, rules: &OpRules, block_size: u32) -> Result<(), i32> {
    let times = match rules.data {
        Data::None | Data::Bytes => return Ok(()),
        Data::Blocks => 1,
        Data::TwiceBlocks => 2,
    };
    let total: u64 = io.iov().iter().map(|element| u64::from(element.len)).sum();
    let blocks = io.request().nblocks.checked_mul(times);
    let wanted = blocks.and_then(|blocks| blocks.checked_mul(u64::from(block_size)));
    if wanted == Some(total) { Ok(()) } else { Err(-libc::EINVAL) }
}

/// Aborts the target and its children if they still wait in the bus. If the target is at the
/// module, the module decides.
fn abort(channel: &Channel, io: Io) {
    let [target, _] = io.request().arg;
    let waiting = channel.remove_queued(target);
    if !waiting.is_empty() {
        while let Some(one) = waiting.pop_front() {
            complete::finish(one, BAY_ST_ABORTED);
        }
        return complete::finish(io, 0);
    }
    if let Some(child) = channel.child_at_module(target) {
        // A module below a filter knows only the id of its own child I/O, so the abort names that
        // id.
        io.change(|request| request.arg = [child, 0]);
    }
    if channel.limits.declared(BAY_OP_ABORT) {
        dispatch::send(channel, io);
    } else {
        complete::finish(io, -libc::ENOENT);
    }
}
