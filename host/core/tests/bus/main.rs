//! Tests of the bus through the tables of the ABI, as a plugin uses them. The fixture is a RAM disk
//! whose limits, faults and timing each test chooses, with a client that submits and waits.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    reason = "test helpers: a panic fails the test, numbers are small, the bus uses what is forgotten"
)]

mod abi;
mod claims;
mod data;
mod filters;
mod fixture;
mod holding;
mod life;
mod zones;
