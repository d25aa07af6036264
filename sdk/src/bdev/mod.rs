//! Block devices: those a plugin makes, and those it uses.

mod client;
mod desc;
mod examine;
mod filter;
mod io;
mod module;
mod op;
mod params;
mod registration;
mod registry;
#[cfg(test)]
mod tests;
mod vtable;

pub use crate::error::Status;
pub use client::{Channel, IoContext};
pub use desc::{Claim, Desc, Event, Info, open};
pub use examine::{Examine, on_examine};
pub use filter::{Filter, serve_filter};
pub use io::{BdevIo, Buffers, IoQueue, IoResult};
pub use module::Bdev;
pub use op::{Geometry, IoFlags, IoId, Op, OpSet, Range};
pub use params::{Disk, DiskParams, Uuid, With, check_name, only};
pub use registration::Registration;
pub use registry::{Delete, Registered, find, register, serve};

pub(crate) use examine::examine;
pub(crate) use filter::{base_appears, write_config};
pub(crate) use registry::unregister_all;

/// What a table says of its size.
#[expect(clippy::cast_possible_truncation, reason = "a table is far smaller than 4 GiB")]
pub(crate) const fn size_of_table<T>() -> u32 {
    size_of::<T>() as u32
}
