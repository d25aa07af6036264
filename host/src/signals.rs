//! SIGTERM and SIGINT: the first one stops the host cleanly, the second one ends it at once. SIGHUP
//! opens the log file again.

use crate::log;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Calls `first` at the first SIGTERM or SIGINT, on a separate thread. A second one ends the
/// process.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn watch(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut first = Some(first);
        for signal in signals.forever() {
            if signal == SIGHUP {
                log::reopen();
                continue;
            }
            match first.take() {
                Some(first) => first(),
                // The status that a shell reports for a process that a signal ended.
                None => exit(128 + signal),
            }
        }
    })?;
    Ok(())
}

/// Ends the process at once, without waiting for or dropping anything.
pub(crate) fn exit(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}
