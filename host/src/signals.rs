//! SIGTERM and SIGINT: the first ends the host in order, the second at once. SIGHUP opens the log file
//! anew.

use crate::log;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Calls `first` at the first signal to end, on a thread of its own; a second one ends the process.
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
                // The status with which a shell reports a process that a signal ended.
                None => exit(128 + signal),
            }
        }
    })?;
    Ok(())
}

/// Ends the process at once: nothing of it is waited for or dropped.
pub(crate) fn exit(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}
