//! The library's fabric and its registration with the target.
#![expect(unsafe_code, reason = "calls the target's functions with its own pointers")]

use super::Transport;
use super::thunks::Thunks;
use crate::app::App;
use crate::broker::{self, Reference};
use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::runtime::OnApp;
use api::{bay_nvmf_target_api, bay_str};
use drivebay_plugin_api as api;
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

/// The target, as a registered fabric sees it. One for the life of the library.
#[derive(Debug)]
pub(super) struct Fabric {
    pub(super) target: *mut c_void,
    pub(super) exec: api::bay_nvmf_exec_fn,
    pub(super) disconnected: api::bay_nvmf_disconnected_fn,
    pub(super) new_qpair: api::bay_nvmf_new_qpair_fn,
    pub(super) unregister: api::bay_nvmf_unregister_fn,
    pub(super) handle: OnceLock<u64>,
}

// SAFETY: only the handle changes. The target accepts its pointer on the threads that its functions document, and
// the callers are on these threads.
unsafe impl Send for Fabric {}
// SAFETY: as above.
unsafe impl Sync for Fabric {}

/// The library's fabric, while it is registered.
static REGISTERED: OnApp<Registered> = OnApp::new();

struct Registered {
    fabric: &'static Fabric,
    /// Keeps the target's table valid.
    _reference: Reference<bay_nvmf_target_api>,
}

/// Registers the library's fabric with the target. `[app thread]`
///
/// # Errors
/// `ENOENT` when there is no target, `EEXIST` when the library has already registered a fabric or the type is taken.
pub fn register<T: Transport>(app: &App) -> Result<()> {
    if REGISTERED.get().is_some() {
        return Err(Error::new(errno::EEXIST, "the library has already registered a fabric"));
    }
    let reference = broker::acquire::<bay_nvmf_target_api>(app, |app| unregister(app, |_, _| ()))?;
    let table = reference.table();
    let lacks = |what| Error::new(errno::ENOSYS, format!("bay.nvmf_target/1 lacks {what}"));
    let register = table.register.ok_or_else(|| lacks("register"))?;
    // The last callbacks of connections may arrive after the registration has ended, so this is never freed.
    let fabric: &'static Fabric = Box::leak(Box::new(Fabric {
        target: table.target,
        exec: table.exec.ok_or_else(|| lacks("exec"))?,
        disconnected: table.disconnected.ok_or_else(|| lacks("disconnected"))?,
        new_qpair: table.new_qpair.ok_or_else(|| lacks("new_qpair"))?,
        unregister: table.unregister.ok_or_else(|| lacks("unregister"))?,
        handle: OnceLock::new(),
    }));
    let mut handle = 0;
    // SAFETY: the functions and the context are never freed.
    let status = unsafe {
        register(
            fabric.target,
            bay_str::new(T::TRTYPE),
            Thunks::<T>::OPS,
            ptr::from_ref(fabric).cast_mut().cast(),
            &raw mut handle,
        )
    };
    check(status, format_args!("transport {}", T::TRTYPE))?;
    let _ = fabric.handle.set(handle);
    REGISTERED.get_or_init(|| Registered { fabric, _reference: reference }).map(drop)
}

/// Unregisters the fabric of a poisoned library, whose `stop` cannot run. The target then closes the fabric's connections. The
/// fabric's functions do nothing any more, so there is nothing to wait for. `[app thread]`
pub(crate) fn abandon() {
    if let Some(Registered { fabric, .. }) = REGISTERED.take().as_deref() {
        let handle = fabric.handle.get().copied().unwrap_or(0);
        // SAFETY: the target's function, on the app thread; there is no callback.
        unsafe { (fabric.unregister)(fabric.target, handle, None, ptr::null_mut()) };
    }
}

/// Unregisters the fabric. The target closes its connections and ends its listeners; then `done` gets 0 or a negative
/// errno. Calls `done` at once when there is no registration. `[app thread]`
pub fn unregister(app: &App, done: impl FnOnce(&App, i32) + 'static) {
    type Done = Box<dyn FnOnce(&App, i32)>;
    unsafe extern "C" fn unregistered(arg: *mut c_void, status: i32) {
        // SAFETY: `arg` is the box passed below; this is the only call for it.
        let done = unsafe { Box::from_raw(arg.cast::<Done>()) };
        // SAFETY: the target calls this function on the app thread.
        let app = unsafe { App::assume() };
        enter((), || done(app, status));
    }
    let Some(registered) = REGISTERED.take() else {
        return done(app, 0);
    };
    let fabric = registered.fabric;
    let done: Done = Box::new(move |app, status| {
        drop(registered);
        done(app, status);
    });
    let arg = Box::into_raw(Box::new(done)).cast();
    let handle = fabric.handle.get().copied().unwrap_or(0);
    // SAFETY: the target's function, on the app thread; `unregistered` owns `arg` once the target accepts the call.
    let status = unsafe { (fabric.unregister)(fabric.target, handle, Some(unregistered), arg) };
    if status < 0 {
        // SAFETY: the target refused and does not call `unregistered`, so this function still owns the box.
        unsafe { unregistered(arg, status) };
    }
}
