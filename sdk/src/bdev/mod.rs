//! Block devices: those a plugin makes, and those it uses.

mod client;
mod desc;
mod io;
mod op;

pub use crate::error::Status;
pub use client::{Channel, IoContext};
pub use desc::{Claim, Desc, Event, Info, open};
pub use io::{BdevIo, Buffers, IoQueue, IoResult};
pub use op::{Geometry, IoFlags, IoId, Op, OpSet, Range};

/// What a table says of its size.
#[expect(clippy::cast_possible_truncation, reason = "a table is far smaller than 4 GiB")]
pub(crate) const fn size_of_table<T>() -> u32 {
    size_of::<T>() as u32
}
