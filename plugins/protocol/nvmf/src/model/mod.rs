//! The configuration of a target: subsystems with namespaces, hosts and listeners; referrals; limits.
//!
//! Plain values without I/O. The app thread owns all of them.

mod ana;
mod limits;
mod names;
mod namespace;
pub mod reservation;
pub mod reservation_file;
mod subsystem;
mod target;

pub use ana::{Access, AnaState, refusal};
pub use limits::TransportLimits;
pub use names::{address_of, check_text, hex, is_any, matches, parse_hex, uuid_text};
pub use namespace::{CommandLimits, Geometry, Namespace, Ops};
pub use subsystem::{Listener, MAX_NAMESPACES, Options, Subsystem};
pub use target::{DiscoveryFilter, Model, Referral};

/// What a controller serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// Namespaces.
    Io,
    /// The discovery log.
    Discovery,
}

#[cfg(test)]
pub(crate) mod tests {
    //! Values for the tests of other modules.
    pub(crate) use super::namespace::tests::{geometry, namespace};
    pub(crate) use super::subsystem::tests::subsystem;
    pub(crate) use super::target::tests::model;
}
