//! A connection as the fabric lends on it.
#![expect(unsafe_code, reason = "the target is known by its pointers")]

use super::Request;
use drivebay_plugin_api as api;
use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;

/// A connection as the target knows it.
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
    /// Lends a request; it comes back by [`Group::completed`](super::Group::completed), after this call. Dropped once the connection is told gone.
    pub fn exec(&self, request: Request<B>) {
        if self.is_gone.get() {
            return;
        }
        let raw = request.into_raw(self.conn);
        // SAFETY: the target's function; the qpair lives until `free`, and the request is its until it comes back.
        unsafe { (self.exec)(self.target, self.raw, raw) };
    }

    /// Tells the target that the connection is gone; [`Group::free`](super::Group::free) follows once all requests came back.
    pub fn disconnected(&self) {
        if !self.is_gone.replace(true) {
            // SAFETY: as `exec`.
            unsafe { (self.disconnected)(self.target, self.raw) };
        }
    }
}
