//! How an I/O ended: 0, a negative errno, or one of these.
//!
//! The values lie in ranges by class so that a receiver that does not know one can map its class.

/// No resource now: the bus queues the I/O and submits it again after `kick`, or by a timer when
/// nothing of the channel is outstanding. Not allowed for a reset.
pub const BAY_ST_NOMEM: i32 = -4096;
/// The module gave the I/O back unstarted (an upgrade): the bus submits it again.
pub const BAY_ST_REQUEUE: i32 = -4097;
/// The I/O was aborted on request.
pub const BAY_ST_ABORTED: i32 = -4112;
/// Compare found a difference.
pub const BAY_ST_MISCOMPARE: i32 = -4128;
/// The other half of a fused pair failed.
pub const BAY_ST_FUSED_FAILED: i32 = -4129;
/// Protection information: guard check failed.
pub const BAY_ST_PI_GUARD: i32 = -4144;
/// Protection information: application tag check failed.
pub const BAY_ST_PI_APP: i32 = -4145;
/// Protection information: reference tag check failed.
pub const BAY_ST_PI_REF: i32 = -4146;
/// Conflict with a reservation.
pub const BAY_ST_RESERVATION: i32 = -4160;
/// The medium lost the data.
pub const BAY_ST_MEDIA: i32 = -4176;
