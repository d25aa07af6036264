//! Tests of the bus through the tables of the ABI, as a plugin uses them. The fixture is a RAM disk
//! whose limits, faults and timing each test chooses, with a client that submits and waits.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    reason = "one foreign plugin as a fixture; every call follows the table's doc comment"
)]

mod claims;
mod data;
mod filters;
mod fixture;
mod holding;
mod life;
