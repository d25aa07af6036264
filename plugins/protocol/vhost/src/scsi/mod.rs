//! SCSI targets for virtual machines. virtio 1.3, section 5.6. `sdk/scsi` carries out the commands.

mod command;
mod control;
mod service;
mod target;

pub use service::Service;
pub use target::TargetDisk;

use drivebay_spec_vhost::message::F_PROTOCOL_FEATURES;
use drivebay_spec_vhost::ring;
use drivebay_spec_vhost::scsi::{config_bytes, feature};

/// Maximum number of targets of one controller. Each has one unit, LUN 0.
pub const TARGETS_MAX: u8 = 8;

/// Features that a device offers.
pub const FEATURES: u64 = ring::feature::VERSION_1
    | ring::feature::INDIRECT_DESC
    | ring::feature::EVENT_IDX
    | F_PROTOCOL_FEATURES
    | feature::INOUT
    | feature::HOTPLUG
    | feature::CHANGE;

/// The configuration space of a device with `num_rings` rings, including the control and the event ring.
#[must_use]
pub fn config(num_rings: usize) -> Vec<u8> {
    config_bytes(u32::try_from(num_rings.saturating_sub(2)).unwrap_or(u32::MAX), TARGETS_MAX.into())
}
