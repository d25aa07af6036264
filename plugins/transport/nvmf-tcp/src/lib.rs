#![forbid(unsafe_code)]
//! NVMe/TCP 1.0 for the NVMe over Fabrics target.
mod connection;
