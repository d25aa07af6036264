//! NVMe over Fabrics: both sides of the broker's table between the target and its fabrics.

pub mod protocol;
pub mod transport;
