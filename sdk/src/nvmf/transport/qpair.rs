//! A connection's link to the target, for lending requests.
#![expect(unsafe_code, reason = "the target is known by its pointers")]

use super::Request;
use drivebay_plugin_api as api;
use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::rc::Rc;

/// Whether the group may use its link to the target. The SDK and the group's [`Qpair`] share it, because the group may keep the
/// `Qpair` of a connection that it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// [`Group::add`](super::Group::add) has not returned.
    Adding,
    /// As `Adding`, and the group has already reported the end of the connection.
    AddingClosed,
    Open,
    /// The group has refused the connection, or reported its end.
    Closed,
}

/// The target's handle of a connection. It works once [`Group::add`](super::Group::add) has returned a key.
#[derive(Debug)]
pub struct Qpair<B> {
    pub(super) target: *mut c_void,
    pub(super) exec: api::bay_nvmf_exec_fn,
    pub(super) disconnected: api::bay_nvmf_disconnected_fn,
    pub(super) raw: *mut c_void,
    pub(super) conn: *mut c_void,
    pub(super) link: Rc<Cell<Link>>,
    pub(super) _requests: PhantomData<fn(Request<B>)>,
}

impl<B: 'static> Qpair<B> {
    /// Lends a request. It returns through [`Group::completed`](super::Group::completed), after this call. Drops the request
    /// if the connection is not open: its `add` has not returned, or the group refused it or reported its end.
    pub fn exec(&self, request: Request<B>) {
        if self.link.get() != Link::Open {
            return;
        }
        let raw = request.into_raw(self.conn);
        // SAFETY: the target's function. The link is open, so the qpair lives until `free`, and the target owns the request until it
        // returns it.
        unsafe { (self.exec)(self.target, self.raw, raw) };
    }

    /// Reports that the connection is closed. [`Group::free`](super::Group::free) follows once all requests have returned.
    pub fn disconnected(&self) {
        match self.link.get() {
            Link::Adding => self.link.set(Link::AddingClosed),
            Link::Open => {
                self.link.set(Link::Closed);
                // SAFETY: the target's function; the link was open, so the target has not released the qpair.
                unsafe { (self.disconnected)(self.target, self.raw) };
            }
            Link::AddingClosed | Link::Closed => {}
        }
    }
}
