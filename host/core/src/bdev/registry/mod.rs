//! What is on the bus, and who uses it: names, registration, descriptors, claims, events, examination,
//! removal. This room uses the state. It uses the path only in two places: `removal` fails the I/O that
//! waits for a removed bdev, and `failed` takes over the channels of a failed module.

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
mod zones;
