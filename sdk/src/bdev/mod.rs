//! Block devices: those that a plugin provides, and those that it uses.

mod client;
mod control;
mod desc;
mod examine;
mod export;
mod fan_out;
mod filter;
mod home;
mod io;
mod lifecycle;
mod module;
mod op;
mod params;
mod part;
mod registration;
mod registry;
#[cfg(test)]
mod tests;
mod vtable;
mod zone;

pub use crate::error::Status;
pub use client::{Channel, IoContext};
pub use desc::{Claim, Desc, Event, Info, Space, open};
pub use examine::{Examine, on_examine, on_examine_config, on_save_config};
pub use export::{open_export, own_export, share_export};
pub use fan_out::{Child, FanOut};
pub use filter::{
    Filter, StatefulFilter, delete_filter, make_filter, name_filters, serve_filter, with_filter,
};
pub use home::ChannelHandle;
pub use io::{BdevIo, Buffers, IoQueue, IoResult};
pub use lifecycle::{Closing, Ending, Opening};
pub use module::Bdev;
pub use op::{Geometry, IoFlags, IoId, Op, OpSet, Range};
pub use params::{Disk, DiskParams, Uuid, With, check_name, only};
pub use part::Part;
pub use registration::Registration;
pub use registry::{Delete, Registered, find, register, serve};
pub use zone::{Zone, ZoneAction, ZoneKind, ZoneState, Zoning};

pub(crate) use examine::{examine, examine_config, save_config};
pub(crate) use registry::unregister_all;

pub(crate) use drivebay_plugin_api::size_of_table;
