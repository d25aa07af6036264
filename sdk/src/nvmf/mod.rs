//! NVMe over Fabrics: both sides of the broker table between the target and its fabrics.

pub mod protocol;
pub mod transport;
