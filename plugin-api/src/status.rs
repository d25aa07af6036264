//! The status of a completed I/O: 0, a negative errno, or one of these values.
//!
//! Each class of status has its own range of values. A receiver that does not know a value can still tell its class.

/// A resource is used up for now: the bus queues the I/O and submits it again after `kick`, or by a timer when the
/// channel has no I/O outstanding. Not allowed for a reset.
pub const BAY_ST_NOMEM: i32 = -4096;
/// The module returned the I/O without starting it (during an upgrade): the bus submits it again.
pub const BAY_ST_REQUEUE: i32 = -4097;
/// The I/O was aborted on request.
pub const BAY_ST_ABORTED: i32 = -4112;
/// A compare found a difference.
pub const BAY_ST_MISCOMPARE: i32 = -4128;
/// The other half of a fused pair failed.
pub const BAY_ST_FUSED_FAILED: i32 = -4129;
/// Protection information: the guard check failed.
pub const BAY_ST_PI_GUARD: i32 = -4144;
/// Protection information: the application tag check failed.
pub const BAY_ST_PI_APP: i32 = -4145;
/// Protection information: the reference tag check failed.
pub const BAY_ST_PI_REF: i32 = -4146;
/// The I/O conflicts with a reservation.
pub const BAY_ST_RESERVATION: i32 = -4160;
/// The medium lost the data.
pub const BAY_ST_MEDIA: i32 = -4176;
