//! Reports in which callback a child process crashes.
#![expect(unsafe_code, reason = "signal handlers")]

use drivebay_check::calls;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

static TO: AtomicI32 = AtomicI32::new(-1);

/// Makes a crash write a report to `to`, which must stay open.
pub(super) fn report_to(to: RawFd) {
    TO.store(to, Ordering::Release);
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::Handler(on_crash), flags, SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT]
    {
        // SAFETY: the handler only makes async-signal-safe calls. If the handler cannot be set, the
        // signal alone is reported.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// Writes one line for the supervisor, then lets the signal take its normal effect.
extern "C" fn on_crash(signal: i32) {
    for piece in [r#"{"event":"crash","seen":""#, calls::running_here(), "\"}\n"] {
        // SAFETY: write(2) is async-signal-safe, and the piece is a static text.
        unsafe { libc::write(TO.load(Ordering::Acquire), piece.as_ptr().cast(), piece.len()) };
    }
    // SAFETY: raise(3) is async-signal-safe, and the handler was reset before it ran.
    unsafe { libc::raise(signal) };
}
