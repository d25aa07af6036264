//! The ABI's gates: the C header with its generator, and helpers for the tests of this crate.
#![forbid(unsafe_code)]

mod c_type;
mod constants;
pub mod header;
