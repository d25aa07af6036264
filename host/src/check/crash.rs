//! The last words of a child that crashes: in which callback.
#![expect(unsafe_code, reason = "signal handlers")]

use drivebay_check::calls;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

static TO: AtomicI32 = AtomicI32::new(-1);

/// Has a crash told to `to`, which stays open.
pub(super) fn tell(to: RawFd) {
    TO.store(to, Ordering::Release);
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::Handler(on_crash), flags, SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT]
    {
        // SAFETY: the handler calls only what may be called in one. Without it the signal alone is told.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// One line for the supervisor, then the signal does what it does.
extern "C" fn on_crash(signal: i32) {
    for piece in [r#"{"event":"crash","seen":""#, calls::running_here(), "\"}\n"] {
        // SAFETY: write(2) is async-signal-safe; the piece is a static text.
        unsafe { libc::write(TO.load(Ordering::Acquire), piece.as_ptr().cast(), piece.len()) };
    }
    // SAFETY: raise(3) is async-signal-safe; the handler was reset before it ran.
    unsafe { libc::raise(signal) };
}
