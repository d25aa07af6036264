//! What is on the bus, and who uses it: names, registration, descriptors, claims, events, examination,
//! removal. This room knows the state. It knows the path only to drain a bdev that leaves: `removal`
//! fails the I/O that waits, and `failed` takes over the channels of a failed module.

pub(super) mod claim;
pub mod desc;
pub mod events;
pub mod examine;
pub mod failed;
pub mod names;
mod refused;
pub mod register;
pub mod removal;
pub mod stats;
