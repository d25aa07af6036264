//! The broker: plugins provide tables to each other, under ids from plugin-api.
#![expect(unsafe_code, reason = "tables cross the ABI as pointers")]

use crate::app::App;
use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::host;
use drivebay_plugin_api::{self as api, Open, bay_str, copy_open};
use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

/// A table that one plugin provides to others.
///
/// # Safety
/// `ID` is the id of this type in plugin-api.
pub unsafe trait Interface: Open + 'static {
    /// The table's id.
    const ID: &'static str;
}

// SAFETY: `bay.nvmf_target/1` is the id of this table.
unsafe impl Interface for api::bay_nvmf_target_api {
    const ID: &'static str = api::id::NVMF_TARGET;
}

/// A provided table. Dropping it withdraws the table. It stays on the app thread.
#[derive(Debug)]
pub struct Provided<T: Interface> {
    handle: u64,
    table: *mut T,
}

/// Provides `table` to other plugins. `[app thread]`
///
/// # Errors
/// `EEXIST` when another plugin provides the id.
pub fn provide<T: Interface>(_app: &App, table: T) -> Result<Provided<T>> {
    let host = host();
    let table = Box::into_raw(Box::new(table));
    let mut handle = 0;
    // SAFETY: the table lives until the host reports that it is withdrawn.
    let status = unsafe {
        let id = bay_str::new(T::ID);
        (host.broker.provide)(host.raw, id, table.cast_const().cast(), &raw mut handle)
    };
    if let Err(error) = check(status, T::ID) {
        // SAFETY: the host refused the table, so this function still owns it.
        drop(unsafe { Box::from_raw(table) });
        return Err(error);
    }
    Ok(Provided { handle, table })
}

impl<T: Interface> Drop for Provided<T> {
    fn drop(&mut self) {
        let host = host();
        let arg = self.table.cast();
        // SAFETY: `self` owns the handle; `withdrawn` frees the table when all references are released.
        let status =
            unsafe { (host.broker.withdraw)(host.raw, self.handle, Some(withdrawn::<T>), arg) };
        if status != 0 {
            tracing::error!("withdrawing {} failed with status {status}", T::ID);
        }
    }
}

unsafe extern "C" fn withdrawn<T>(arg: *mut c_void, _status: i32) {
    // SAFETY: `arg` is the box from `provide`; no reference to the table is left.
    drop(unsafe { Box::from_raw(arg.cast::<T>()) });
}

/// A reference to another plugin's table. Dropping it releases the reference. It stays on the app thread.
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
    /// A copy of the table. Functions that the provider lacks are `None`. Its pointers are valid as long as the
    /// reference.
    #[must_use]
    pub fn table(&self) -> &T {
        &self.table
    }
}

/// Acquires the table `T` of another plugin. The host calls `revoked` when the provider withdraws the table:
/// drop the reference soon afterwards. `[app thread]`
///
/// # Errors
/// `ENOENT` when no plugin provides it.
pub fn acquire<T: Interface>(
    _app: &App,
    revoked: impl FnOnce(&App) + 'static,
) -> Result<Reference<T>> {
    let host = host();
    let revoked: Rc<Revoked> = Rc::new(Cell::new(Some(Box::new(revoked))));
    let revoked = Rc::into_raw(revoked);
    let arg = revoked.cast_mut().cast();
    let mut reference = 0;
    // SAFETY: `arg` lives until the release, the result variable as long as the call.
    let table = unsafe {
        let id = bay_str::new(T::ID);
        (host.broker.acquire)(host.raw, id, Some(provider_revoked), arg, &raw mut reference)
    };
    // SAFETY: NULL, or the table with this id.
    let Some(table) = (unsafe { copy_open(table.cast::<T>()) }) else {
        if !table.is_null() {
            // SAFETY: the host has just returned this reference.
            unsafe { (host.broker.release)(host.raw, reference) };
        }
        // SAFETY: the host does not use `arg` after it refused the call or released the reference.
        drop(unsafe { Rc::from_raw(revoked) });
        return Err(Error::new(errno::ENOENT, format!("no plugin provides {}", T::ID)));
    };
    Ok(Reference { reference, table, revoked })
}

unsafe extern "C" fn provider_revoked(arg: *mut c_void) {
    let revoked = arg.cast_const().cast::<Revoked>();
    // SAFETY: the reference is not released yet, so its count on `revoked` is still held.
    unsafe { Rc::increment_strong_count(revoked) };
    // SAFETY: this code owns the count it has just added; the callback may drop the reference.
    let revoked = unsafe { Rc::from_raw(revoked) };
    // SAFETY: the host calls this function on the app thread.
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
        // SAFETY: `self` owns the reference.
        unsafe { (host.broker.release)(host.raw, self.reference) };
        // SAFETY: the reference is released, so the host does not call `revoked` again.
        drop(unsafe { Rc::from_raw(self.revoked) });
    }
}
