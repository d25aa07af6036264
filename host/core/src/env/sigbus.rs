//! Memory that its owner takes away while the host reads it, and devices that are pulled out.
//!
//! A guest's memory is a file that the guest's process may make shorter at any time. Touching a page that is no
//! longer there raises SIGBUS, which would end the host. The handler gives an imported region private zeroed
//! pages instead and marks it as broken; whoever serves that guest looks at the mark and ends the session. For
//! any other address the signal does what it did before.
#![expect(unsafe_code, reason = "signal handlers are set by system calls over raw pointers")]

use super::{pci, region};
use crate::{Error, Result};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// The action before ours.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Sets the handler, once.
///
/// # Errors
/// When the system refuses it.
pub(super) fn install() -> Result<()> {
    static INSTALLED: OnceLock<Result<()>> = OnceLock::new();
    INSTALLED.get_or_init(set).clone()
}

fn set() -> Result<()> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: a query; the result lives through the call.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the call succeeded and filled it. The handler reads it, so it is stored before the handler is set.
    let before = unsafe { before.assume_init() };
    if BEFORE.set(before).is_err() {
        return Err(Error::new(libc::EALREADY, "SIGBUS is handled already"));
    }
    // SAFETY: all zeroes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action lives through the call; the handler is async-signal-safe.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Only atomics and system calls: this may interrupt anything.
unsafe extern "C" fn handle(_signal: i32, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel's, valid for the call.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS carries an address.
    let addr = unsafe { info.si_addr() } as usize;
    if pci::bar_is_gone(addr) {
        return;
    }
    if let Some((base, len)) = region::broken(addr) {
        // The whole region: part of a mapping of hugepages cannot be replaced.
        // SAFETY: the region's own mapping is replaced, under whoever uses it, by zeroed pages of the same length.
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
    // Not ours, or not to be helped: the access is tried again under the action that was there before.
    if let Some(before) = BEFORE.get() {
        // SAFETY: `before` was filled by the kernel.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}
