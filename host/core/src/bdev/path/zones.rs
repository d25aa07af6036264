//! The checks of the ops for zones, besides those of all ops.

use crate::bdev::state::{Io, Limits};
use drivebay_plugin_api::*;

/// Checks a report, an action or an append. Any other op passes.
///
/// # Errors
/// `EINVAL`.
pub(super) fn check(io: Io, limits: &Limits) -> Result<(), i32> {
    let request = io.request();
    let [arg, _] = request.arg;
    let is_good = match request.op {
        BAY_OP_ZONE_REPORT => has_room_for(arg, io.iov()),
        BAY_OP_ZONE_MANAGE => is_action(arg, request.lba),
        BAY_OP_ZONE_APPEND => is_append(request.nblocks, limits),
        _ => return Ok(()),
    };
    let begins_a_zone = request.lba.is_multiple_of(limits.zone_size);
    if is_good && begins_a_zone { Ok(()) } else { Err(-libc::EINVAL) }
}

/// Whether the list has room for `zones` records. A module may write a record through a pointer to it.
fn has_room_for(zones: u64, list: &[bay_iov]) -> bool {
    const RECORD: usize = size_of::<bay_zone>();
    let is_good = |element: &bay_iov| {
        (element.addr as usize).is_multiple_of(align_of::<bay_zone>())
            && (element.len as usize).is_multiple_of(RECORD)
    };
    let room: u64 = list.iter().map(|element| u64::from(element.len) / RECORD as u64).sum();
    (1..=room).contains(&zones) && list.iter().all(is_good)
}

fn is_action(arg: u64, lba: u64) -> bool {
    let is_known = (BAY_ZONE_CLOSE..=BAY_ZONE_OFFLINE).contains(&(arg & !BAY_ZONE_ALL));
    is_known && (arg & BAY_ZONE_ALL == 0 || lba == 0)
}

fn is_append(nblocks: u64, limits: &Limits) -> bool {
    let is_whole = nblocks.is_multiple_of(limits.write_unit.into());
    is_whole && (1..=u64::from(limits.max_zone_append)).contains(&nblocks)
}
