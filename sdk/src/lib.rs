//! The SDK for authors of Drivebay plugins: safe traits over the ABI.
//!
//! Each loaded copy of the library is one plugin instance. `init` copies the host's tables once, and all
//! functions here use them. The modules:
//!
//! - [`plugin!`] writes the door of the library; [`rpc`] its methods of the control plane.
//! - [`bdev`] is for both sides of the bus: modules that make bdevs, and clients that use them.
//! - [`nvmf`] is where the NVMe over Fabrics target and its fabrics meet.
//! - [`runtime`] is what operations of several steps are written in: tasks, timers, locks, metadata I/O, poll groups, workers, sockets.
//! - [`thread`], [`poller`], [`buf`], [`mem`], [`notify`], [`broker`] are the host's services; [`pci`] is for those
//!   to whom the operator grants it.
//!
//! Every entry point catches panics. After the first panic the host cannot enter the library again.

mod app;
pub mod bdev;
pub mod broker;
pub mod buf;
mod entry;
mod error;
mod host;
mod log;
pub mod mem;
#[cfg(doctest)]
mod misuse;
pub mod notify;
pub mod nvmf;
pub mod pci;
mod plugin;
pub mod poller;
pub mod region;
#[cfg(feature = "ring")]
mod ring;
pub mod rpc;
pub mod runtime;
mod shared_copy;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod thread;
pub mod throttle;

pub use app::App;
pub use error::{Error, Result, Status, errno};
pub use host::Sink;
pub use plugin::Stopping;
#[cfg(feature = "ring")]
pub use ring::KernelBox;
pub use {serde, serde_json, tracing};

/// The names that most plugins use.
pub mod prelude {
    pub use crate::bdev::{
        Bdev, BdevIo, Buffers, Disk, Filter, Geometry, Info, IoFlags, IoQueue, IoResult, Op, OpSet,
        Range, Registration, Uuid, With,
    };
    pub use crate::mem::DmaRegion;
    pub use crate::rpc::params;
    pub use crate::{App, Error, Result, Status, errno};
    pub use crate::{bdev_module, channel_does_io, filter_module, plugin};
    pub use tracing::{debug, error, info, trace, warn};
}

#[doc(hidden)]
pub mod private {
    //! Names that the macros expand to.
    pub use crate::app::App;
    pub use crate::plugin::{Door, Library, Manifest, Plugin, Stopping, door, manifest};
    pub use drivebay_plugin_api as api;
}
