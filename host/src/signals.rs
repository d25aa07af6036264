//! SIGTERM and SIGINT: the first ends the host in order, the second at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Calls `first` at the first signal, on a thread of its own; a second one ends the process.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn watch(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut first = Some(first);
        for signal in signals.forever() {
            match first.take() {
                Some(first) => first(),
                // As the shell tells of a process that a signal ended.
                None => signal_hook::low_level::exit(128 + signal),
            }
        }
    })?;
    Ok(())
}
