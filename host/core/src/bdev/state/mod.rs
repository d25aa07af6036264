//! What the bus remembers. Nothing here submits, completes or removes: this room knows neither the
//! path nor the registry. An I/O, its queue and pool, its channel and the channels of a thread refer
//! to each other. Every other file refers only to what its types contain.

mod bdev;
mod channel;
mod claim;
mod counters;
mod desc;
pub(super) mod failed_owners;
mod gate;
mod io;
mod limits;
mod pool;
mod queue;
mod quiesced;
mod reserve;
pub(super) mod stats;
mod thread_channels;
mod waiters;

pub use bdev::{Bdev, Geometry, Space};
pub(super) use bdev::{Control, JSON_MAX, Removal, uuid_text};
pub(crate) use channel::Channel;
pub(super) use channel::{Calls, Phase};
pub use claim::Claim;
pub(super) use counters::{Tally, has_row};
pub use desc::Desc;
pub(super) use gate::Gate;
pub(crate) use io::Io;
pub(super) use io::SentIo;
pub(super) use limits::Limits;
pub use pool::set_most_io;
pub(super) use quiesced::Quiesced;
pub(crate) use thread_channels::{ThreadChannels, io_abort, io_get, put, with_module_handle};
pub(super) use thread_channels::{Way, follow_writable, on_channels, with};
