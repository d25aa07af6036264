//! A connection's link to the target, for lending requests.
#![expect(unsafe_code, reason = "the target is known by its pointers")]

use super::Request;
use drivebay_plugin_api as api;
use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;

/// The target's handle of a connection.
#[derive(Debug)]
pub struct Qpair<B> {
    pub(super) target: *mut c_void,
    pub(super) exec: api::bay_nvmf_exec_fn,
    pub(super) disconnected: api::bay_nvmf_disconnected_fn,
    pub(super) raw: *mut c_void,
    pub(super) conn: *mut c_void,
    pub(super) is_gone: Cell<bool>,
    pub(super) _requests: PhantomData<fn(Request<B>)>,
}

impl<B: 'static> Qpair<B> {
    /// Lends a request. It returns through [`Group::completed`](super::Group::completed), after this call. Drops the request
    /// if the connection was reported closed.
    pub fn exec(&self, request: Request<B>) {
        if self.is_gone.get() {
            return;
        }
        let raw = request.into_raw(self.conn);
        // SAFETY: the target's function; the qpair lives until `free`, and the target owns the request until it returns it.
        unsafe { (self.exec)(self.target, self.raw, raw) };
    }

    /// Reports that the connection is closed. [`Group::free`](super::Group::free) follows once all requests have returned.
    pub fn disconnected(&self) {
        if !self.is_gone.replace(true) {
            // SAFETY: as in `exec`.
            unsafe { (self.disconnected)(self.target, self.raw) };
        }
    }
}
