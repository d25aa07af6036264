//! New connections, on their way from the fabric's listeners to a poll group.
#![expect(unsafe_code, reason = "connections cross the ABI as pointers")]

use super::qpair::Link;
use super::registration::Fabric;
use super::round::GroupCell;
use super::{Address, Transport};
use crate::error::{Result, check};
use drivebay_plugin_api::bay_nvmf_addr;
use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::rc::Rc;

/// Passes a transport's new connections to the target. App thread.
#[derive(Debug)]
pub struct Acceptor<T> {
    pub(super) fabric: &'static Fabric,
    pub(super) _transport: PhantomData<T>,
}

impl<T: Transport> Acceptor<T> {
    /// Passes a connection to the target, which picks a poll group for it.
    ///
    /// # Errors
    /// When the target accepts no connection. This drops the connection.
    pub fn hand_over(&self, incoming: T::Incoming, local: &Address, peer: &Address) -> Result<()> {
        let conn = Box::into_raw(Box::new(Conn::<T> {
            incoming: Some(incoming),
            local: local.to_raw(),
            peer: peer.to_raw(),
            group: ptr::null(),
            key: 0,
            link: None,
            qpair: ptr::null_mut(),
        }));
        let fabric = self.fabric;
        let handle = fabric.handle.get().copied().unwrap_or(0);
        // SAFETY: the target's function, on the app thread; the target owns `conn` from here on.
        let status = unsafe { (fabric.new_qpair)(fabric.target, handle, conn.cast()) };
        if status < 0 {
            // SAFETY: the target refused the connection and does not use it.
            drop(unsafe { Box::from_raw(conn) });
        }
        check(status.min(0), "new connection")
    }
}

/// What the target's connection pointer points to.
pub(super) struct Conn<T: Transport> {
    /// `Some` until a group takes it.
    pub(super) incoming: Option<T::Incoming>,
    pub(super) local: bay_nvmf_addr,
    pub(super) peer: bay_nvmf_addr,
    /// The connection's group, which outlives it.
    pub(super) group: *const GroupCell<T::Group>,
    pub(super) key: usize,
    /// Whether the group may use its link to the target; `None` until a group takes the connection.
    pub(super) link: Option<Rc<Cell<Link>>>,
    /// The target's handle of it.
    pub(super) qpair: *mut c_void,
}
