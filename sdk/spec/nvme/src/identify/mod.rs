//! Data of Identify. NVMe Base 2.0, section 5.17.2.

mod controller;
mod descriptor;
mod list;
mod namespace;

pub use controller::{
    Controller, NvmController, PowerState, anacap, cmic, cntrltype, ctratt, fna, fuses, lpa, oacs,
    ofcs, oncs, sgls, vwc,
};
pub use descriptor::{NamespaceId, namespace_id_descriptors, parse_namespace_id_descriptors};
pub use list::{controller_list, namespace_list, parse_controller_list, parse_namespace_list};
pub use namespace::{
    IndependentNamespace, LbaFormat, Namespace, NvmNamespace, dlfeat, nmic, nsfeat,
};

/// Length of every Identify structure, in bytes.
pub const LEN: usize = 4096;

/// The requested structure.
pub mod cns {
    /// [`super::Namespace`].
    pub const NAMESPACE: u8 = 0x00;
    /// [`super::Controller`].
    pub const CONTROLLER: u8 = 0x01;
    /// [`super::namespace_list`] of active namespaces.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// [`super::namespace_id_descriptors`].
    pub const NAMESPACE_ID_DESCRIPTORS: u8 = 0x03;
    /// Namespace, specific to an I/O command set; [`super::NvmNamespace`] for the NVM one.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Controller, specific to an I/O command set; [`super::NvmController`] for the NVM one.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// [`super::namespace_list`] of active namespaces of an I/O command set.
    pub const CSI_ACTIVE_NAMESPACES: u8 = 0x07;
    /// [`super::IndependentNamespace`].
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// [`super::namespace_list`] of allocated namespaces.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// [`super::Namespace`], of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// [`super::controller_list`] of the controllers of a namespace.
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    /// [`super::controller_list`] of the controllers of the subsystem.
    pub const CONTROLLERS: u8 = 0x13;
    /// I/O command sets; see [`super::io_command_sets`].
    pub const IO_COMMAND_SETS: u8 = 0x1c;
}

/// I/O command set identifiers.
pub mod csi {
    /// NVM.
    pub const NVM: u8 = 0;
    /// Key value.
    pub const KEY_VALUE: u8 = 1;
    /// Zoned namespaces.
    pub const ZONED: u8 = 2;
}

/// I/O command sets (CNS 1Ch): up to 512 combinations, each a bit set by [`csi`].
#[must_use]
pub fn io_command_sets(combinations: &[u64]) -> [u8; LEN] {
    let mut data = [0; LEN];
    for (place, combination) in data.chunks_exact_mut(8).zip(combinations) {
        place.copy_from_slice(&combination.to_le_bytes());
    }
    data
}
