//! Memory that its owner takes away while the host reads it, and devices that are pulled out.
//!
//! A guest's memory is a file, and the guest's process may truncate it at any time. An access to a
//! page that is gone raises SIGBUS, which would end the host. The handler gives the imported region
//! private zeroed pages instead and marks it as broken. The plugin that serves the guest checks the
//! mark and ends the session. For an address in a mapped BAR, the handler inserts a page of all
//! ones (`pci::bars`). For any other address, the signal has the action that it had before the
//! handler was installed.
#![expect(unsafe_code, reason = "signal handlers are set by system calls over raw pointers")]

use super::{pci, region};
use crate::{Error, Result};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// The action that SIGBUS had before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once.
///
/// # Errors
/// The system's error, when it refuses the handler.
pub(super) fn install() -> Result<()> {
    static INSTALLED: OnceLock<Result<()>> = OnceLock::new();
    INSTALLED.get_or_init(set).clone()
}

fn set() -> Result<()> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: the call only queries, and the result is valid for the call.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the call succeeded and filled the result. The handler reads `BEFORE`, so it is stored
    // before the handler is set.
    let before = unsafe { before.assume_init() };
    if BEFORE.set(before).is_err() {
        return Err(Error::new(libc::EALREADY, "SIGBUS already has a handler of the host"));
    }
    // SAFETY: a `sigaction` of all zeroes is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is valid for the call, and the handler is async-signal-safe.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// The handler uses only atomics and system calls, because it may interrupt any code.
unsafe extern "C" fn handle(_signal: i32, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a pointer that is valid for the call.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS comes with an address.
    let addr = unsafe { info.si_addr() } as usize;
    if pci::bar_is_gone(addr) {
        return;
    }
    if let Some((base, len)) = region::broken(addr) {
        // Replaces the whole region, because part of a mapping of hugepages cannot be replaced.
        // SAFETY: zeroed pages of the same length replace the region's own mapping, even while
        // threads use it.
        let mapped = unsafe {
            libc::mmap(
                base,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            return;
        }
    }
    // The address is not in an imported region, or the region cannot be replaced. The access runs
    // again with the action that SIGBUS had before.
    if let Some(before) = BEFORE.get() {
        // SAFETY: the kernel filled `before`.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}
