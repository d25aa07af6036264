//! The host's own methods, one file for each subject.
//!
//! They run on the app thread; the RPC thread only decodes. A method that needs every thread visits
//! the threads by messages, so that nothing waits.
#![forbid(unsafe_code)]

pub mod bdev;
mod bdev_options;
mod entry;
pub mod framework;
mod iobuf;
mod iostat;
mod log;
mod notify;
mod process;
mod threads;

use crate::host::Host;
use crate::rpc::{Owner, RegisterError};
use std::sync::Arc;

/// Registers all methods of the host, and the calls that save its own options.
///
/// # Errors
/// Another owner has one of the names.
pub fn register(host: &Arc<Host>) -> Result<(), RegisterError> {
    let all = [
        framework::entries(host),
        process::entries(),
        threads::entries(),
        log::entries(host),
        notify::entries(host),
        bdev::entries(),
        bdev_options::entries(),
        iostat::entries(),
        iobuf::entries(),
    ];
    host.subsystems.save_own("iobuf", iobuf::config);
    host.subsystems.save_own("bdev", bdev_options::config);
    for (method, handler) in all.into_iter().flatten() {
        host.registry.register(&Owner::host(), method, handler)?;
    }
    Ok(())
}
