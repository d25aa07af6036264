//! Plugin meets plugin: tables offered and taken under ids of plugin-api.
#![expect(unsafe_code, reason = "tables cross the library's edge as pointers")]

use crate::app::App;
use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::host;
use drivebay_plugin_api::{self as api, Open, bay_str, copy_open};
use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

/// A table that plugins offer each other.
///
/// # Safety
/// `ID` names this type in plugin-api.
pub unsafe trait Interface: Open + 'static {
    /// The id under which it is offered.
    const ID: &'static str;
}

// SAFETY: `bay.nvmf_target/1` is this table.
unsafe impl Interface for api::bay_nvmf_target_api {
    const ID: &'static str = api::id::NVMF_TARGET;
}

/// A table on offer; dropping it withdraws the offer. It stays on the app thread.
#[derive(Debug)]
pub struct Provided<T: Interface> {
    handle: u64,
    table: *mut T,
}

/// Offers `table` to other plugins. `[app thread]`
///
/// # Errors
/// `EEXIST` when another plugin offers the id.
pub fn provide<T: Interface>(_app: &App, table: T) -> Result<Provided<T>> {
    let host = host();
    let table = Box::into_raw(Box::new(table));
    let mut handle = 0;
    // SAFETY: the table lives until the withdrawal is done.
    let status = unsafe {
        let id = bay_str::new(T::ID);
        (host.broker.provide)(host.raw, id, table.cast_const().cast(), &raw mut handle)
    };
    if let Err(error) = check(status, T::ID) {
        // SAFETY: a refused table is still ours.
        drop(unsafe { Box::from_raw(table) });
        return Err(error);
    }
    Ok(Provided { handle, table })
}

impl<T: Interface> Drop for Provided<T> {
    fn drop(&mut self) {
        let host = host();
        let arg = self.table.cast();
        // SAFETY: the handle is ours; the table is freed when every reference is gone.
        let status =
            unsafe { (host.broker.withdraw)(host.raw, self.handle, Some(withdrawn::<T>), arg) };
        if status != 0 {
            tracing::error!("withdrawing {} failed with status {status}", T::ID);
        }
    }
}

unsafe extern "C" fn withdrawn<T>(arg: *mut c_void, _status: i32) {
    // SAFETY: the box of `provide`; nobody refers to it any more.
    drop(unsafe { Box::from_raw(arg.cast::<T>()) });
}

/// Another plugin's table; dropping it gives it back. It stays on the app thread.
pub struct Reference<T: Interface> {
    reference: u64,
    table: T,
    revoked: *const Revoked,
}

type Revoked = Cell<Option<Box<dyn FnOnce(&App)>>>;

impl<T: Interface> std::fmt::Debug for Reference<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference").field("id", &T::ID).finish_non_exhaustive()
    }
}

impl<T: Interface> Reference<T> {
    /// A copy of the table: what the provider does not have is `None`. What it names is valid while
    /// the reference is.
    #[must_use]
    pub fn table(&self) -> &T {
        &self.table
    }
}

/// Takes the table that another plugin offers as `T`. `revoked` is called when the provider goes away:
/// drop the reference soon. `[app thread]`
///
/// # Errors
/// `ENOENT` when nobody offers it.
pub fn acquire<T: Interface>(
    _app: &App,
    revoked: impl FnOnce(&App) + 'static,
) -> Result<Reference<T>> {
    let host = host();
    let revoked: Rc<Revoked> = Rc::new(Cell::new(Some(Box::new(revoked))));
    let revoked = Rc::into_raw(revoked);
    let arg = revoked.cast_mut().cast();
    let mut reference = 0;
    // SAFETY: `arg` lives until the release; the result through the call.
    let table = unsafe {
        let id = bay_str::new(T::ID);
        (host.broker.acquire)(host.raw, id, Some(provider_goes), arg, &raw mut reference)
    };
    // SAFETY: NULL, or the table that the id names.
    let Some(table) = (unsafe { copy_open(table.cast::<T>()) }) else {
        if !table.is_null() {
            // SAFETY: the reference just given.
            unsafe { (host.broker.release)(host.raw, reference) };
        }
        // SAFETY: the host keeps nothing of a refused or released acquire.
        drop(unsafe { Rc::from_raw(revoked) });
        return Err(Error::new(errno::ENOENT, format!("no plugin provides {}", T::ID)));
    };
    Ok(Reference { reference, table, revoked })
}

unsafe extern "C" fn provider_goes(arg: *mut c_void) {
    let revoked = arg.cast_const().cast::<Revoked>();
    // SAFETY: the reference is not released yet.
    unsafe { Rc::increment_strong_count(revoked) };
    // SAFETY: the count just taken: the callback may drop the reference.
    let revoked = unsafe { Rc::from_raw(revoked) };
    // SAFETY: the host calls it on the app thread.
    let app = unsafe { App::assume() };
    enter((), move || {
        if let Some(call) = revoked.take() {
            call(app);
        }
        drop(revoked);
    });
}

impl<T: Interface> Drop for Reference<T> {
    fn drop(&mut self) {
        let host = host();
        // SAFETY: the handle is ours.
        unsafe { (host.broker.release)(host.raw, self.reference) };
        // SAFETY: released, so the host calls no more.
        drop(unsafe { Rc::from_raw(self.revoked) });
    }
}
