//! The ABI's gates: the C header and its generator, and what the tests of this crate need.
#![forbid(unsafe_code)]

mod c_type;
mod constants;
pub mod header;
