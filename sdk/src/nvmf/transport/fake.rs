//! A target for the tests of fabrics. It keeps the requests that it is lent.
#![expect(unsafe_code, reason = "acts as the target, which fabrics know by pointers")]

use super::qpair::Link;
use super::{Qpair, Request};
use drivebay_plugin_api::bay_nvmf_req;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::rc::Rc;

/// A target that keeps lent requests and counts closed connections.
pub struct FakeTarget<B> {
    /// The lent requests, oldest first.
    pub lent: RefCell<Vec<Request<B>>>,
    /// Number of connections that were reported closed.
    pub gone: Cell<u32>,
}

impl<B> fmt::Debug for FakeTarget<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeTarget").field("gone", &self.gone).finish_non_exhaustive()
    }
}

impl<B: 'static> FakeTarget<B> {
    /// A target without connections.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self { lent: RefCell::default(), gone: Cell::new(0) })
    }

    /// A connection of this target. The test returns requests by calling [`Group::completed`](super::Group::completed).
    #[must_use]
    pub fn qpair(self: &Rc<Self>) -> Qpair<B> {
        Qpair {
            // The reference count is never released; this is acceptable in a test.
            target: Rc::into_raw(Rc::clone(self)).cast_mut().cast(),
            exec: lend::<B>,
            disconnected: disconnected::<B>,
            raw: ptr::null_mut(),
            conn: ptr::null_mut(),
            link: Rc::new(Cell::new(Link::Open)),
            _requests: PhantomData,
        }
    }
}

unsafe extern "C" fn lend<B>(target: *mut c_void, _qpair: *mut c_void, req: *mut bay_nvmf_req) {
    // SAFETY: `target` is the reference count from `FakeTarget::qpair`.
    let target = unsafe { &*target.cast_const().cast::<FakeTarget<B>>() };
    // SAFETY: the request was just lent and is taken once.
    target.lent.borrow_mut().push(unsafe { Request::from_raw(req) });
}

unsafe extern "C" fn disconnected<B>(target: *mut c_void, _qpair: *mut c_void) {
    // SAFETY: `target` is the reference count from `FakeTarget::qpair`.
    let target = unsafe { &*target.cast_const().cast::<FakeTarget<B>>() };
    target.gone.set(target.gone.get() + 1);
}
