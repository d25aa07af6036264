//! Between two modules: a filter passes an I/O on to another bdev with only its first block
//! changed, or submits children of it, each with a part of its data.
//!
//! The bus passes on the same request. The request remembers the filter's channel and returns there
//! when the module below has completed it (`complete`); the filter gets no callback. The bus uses a
//! child request instead when the module below needs a larger driver context than this request has,
//! or when the request has already passed through too many filters.

use super::{complete, dispatch, parts, submit};
use crate::bdev::state::{self, Channel, Io, Limits, Way};
use drivebay_plugin_api::*;
use std::ffi::c_void;

/// Passes `io`, which is at the caller's module, on to the bdev of `handle` at block `lba`.
pub(crate) fn pass(handle: u64, io: Io, lba: u64) {
    match io.channel().vouched_base(handle) {
        Some(base) if is_straight(base, io, lba) && io.hop(base) => {
            io.change(|request| request.lba = lba);
            dispatch::send_on(base, io);
        }
        _ => slow_path(handle, io, lba),
    }
}

/// Whether the checks of the filter's `submit` stage also cover the base. Only the base's size and
/// boundary need a check here.
#[inline]
fn is_straight(base: &Channel, io: Io, lba: u64) -> bool {
    let request = io.request();
    let last = lba.wrapping_add(request.nblocks).wrapping_sub(1);
    (request.op == BAY_OP_READ || request.op == BAY_OP_WRITE)
        && base.bdev.reaches(last)
        && (lba ^ last) < base.limits.straight.boundary
}

/// Passes an I/O on with all checks of the base's `submit` stage.
#[inline(never)]
fn slow_path(handle: u64, io: Io, lba: u64) {
    let filter = io.channel();
    let passed = state::with(handle, |Way { channel: base, writable }| {
        let has_room = filter.pool.drv_ctx_size() >= base.pool.drv_ctx_size();
        if has_room
            && (writable || filter.limits.read_only)
            && is_as_strict(&filter.limits, &base.limits)
        {
            filter.vouch(handle, base);
        }
        if has_room && io.hop(base) {
            io.writable.set(writable);
            io.change(|request| move_to(request, lba));
            submit::take(base, io);
        } else {
            pass_child(handle, io, lba);
        }
    });
    if passed.is_none() {
        refuse(io);
    }
}

/// Changes the blocks that the request names so that the first one is `lba`. The source of a copy
/// moves by the same distance.
pub(super) fn move_to(request: &mut bay_io, lba: u64) {
    if op_rules(request.op).is_some_and(|rules| rules.extent == Extent::TwoRanges) {
        let [source, _] = &mut request.arg;
        *source = source.wrapping_add(lba).wrapping_sub(request.lba);
    }
    request.lba = lba;
}

/// Fails an I/O because the handle is not valid.
#[cold]
fn refuse(io: Io) {
    // SAFETY: the module owns the I/O and completes it here.
    unsafe { complete::done(io.abi(), -libc::EBADF) };
}

/// Whether the base's module can take every read and write that passes `submit` under the filter's
/// limits. The position is not part of this check: the I/O must still be on the base and not cross
/// its boundary.
fn is_as_strict(filter: &Limits, base: &Limits) -> bool {
    let declares = |op| !filter.declared(op) || base.declared(op);
    declares(BAY_OP_READ)
        && declares(BAY_OP_WRITE)
        && filter.block_size == base.block_size
        && filter.must_allowed & !base.must_allowed == 0
        && (base.fua_declared || !filter.fua_declared)
        && (filter.read_only || !base.read_only)
        && base.write_unit == 1
        && filter.align >= base.align
        && base.straight.most_blocks != 0
        && filter.pieces_fit(base)
}

/// Submits a child in place of `parent`. The parent completes when the child does.
#[cold]
fn pass_child(handle: u64, parent: Io, lba: u64) {
    let Some(child) = derive(handle, parent) else { return refuse(parent) };
    child.change(|request| move_to(request, lba));
    child.set_callback(Some(child_done), parent.into_arg());
    parent.change(|request| request.holds += 1);
    submit::submit(child);
}

unsafe extern "C" fn child_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `pass_child` set the parent as the argument, and the parent waits for its child.
    let parent = unsafe { Io::from_arg(arg) };
    parent.change(|request| request.holds -= 1);
    // SAFETY: the I/O is alive until its callback returns.
    complete_from(parent, unsafe { Io::from_abi(child) }, status);
}

/// Creates a child of `parent` on another channel. It copies all fields except those that identify
/// the request. Children do not count toward the limit of the channel's clients.
pub(crate) fn derive(handle: u64, parent: Io) -> Option<Io> {
    state::with(handle, |way| {
        let io = way.channel.pool.get(way.channel);
        io.begin(way.writable, false);
        io.descend_from(parent);
        let from = *parent.request();
        io.change(|to| {
            let bay_io { done, drv_ctx, link, id, .. } = *to;
            *to = bay_io { done, drv_ctx, link, id, holds: 0, ..from };
        });
        io
    })
}

/// As [`derive`], for the data and metadata of `nblocks` blocks from block `first` of `parent`.
/// Also `None` when the parent does not have these blocks.
pub(crate) fn derive_part(handle: u64, parent: Io, first: u64, nblocks: u64) -> Option<Io> {
    let all = parent.request().nblocks;
    if first.checked_add(nblocks).is_none_or(|end| end > all) {
        return None;
    }
    let child = derive(handle, parent)?;
    if nblocks != all {
        parts::slice(parent, child, first, nblocks);
    }
    Some(child)
}

/// Completes `parent` with the status of its child. Called from the child's callback.
pub(crate) fn complete_from(parent: Io, child: Io, status: i32) {
    let (detail, kind) = (child.request().detail, child.request().detail_kind);
    parent.change(|request| {
        request.detail = detail;
        request.detail_kind = kind;
    });
    // SAFETY: the module owns the parent and completes it here.
    unsafe { complete::done(parent.abi(), status) };
}
