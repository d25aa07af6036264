//! What a target is made of: subsystems with namespaces, hosts and listeners; referrals; limits.
//!
//! Plain values without I/O. All of it is owned by the app thread.

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
    //! What the tests of other modules start from.
    pub(crate) use super::namespace::tests::{geometry, namespace};
    pub(crate) use super::subsystem::tests::subsystem;
    pub(crate) use super::target::tests::model;
}
