//! The target's side of NVMe over Fabrics: it serves the connections of the fabrics.
//!
//! A plugin implements [`Target`] and calls [`serve`] on the app thread. Fabrics register by themselves. If a fabric is not
//! registered when [`Server::fabric`] looks for it, the host loads its plugin. Each poll group has one
//! [`Resident`](crate::runtime::Resident) group, and everything of a qpair happens on the group's thread:
//!
//! ```text
//!  Server::fabric ─▶ Fabric::create ─▶ Transport::join (each group) ─▶ Transport::listen                      app thread
//!  new connection ─▶ least loaded ─▶ Target::qpair, Target::joined ─▶ Target::exec(Request) ─▶ Request::complete   group's thread
//!  connection gone ─▶ Target::disconnected ─▶ (last request completed) ─▶ Target::released                        group's thread
//! ```
//!
//! The fabric lends a [`Request`] with its data, and the target must complete it. A request can also be the context of an I/O:
//! [`Channel::submit`](crate::bdev::Channel::submit) passes its data to the bdev without a copy or an allocation.

mod fabric;
mod group;
mod qpair;
mod request;
mod server;

pub use super::transport::{Address, Transfer};
pub use fabric::{Fabric, Leaving, Transport};
pub use group::{Group, GroupRef};
pub use qpair::Qpair;
pub use request::Request;
pub use server::{Server, serve};

use std::rc::Rc;

/// The functions of a target. The author keeps all state. The functions get shared references only, because an I/O may
/// complete while its submit is still running.
pub trait Target: Sized + 'static {
    /// One poll group's state. It stays on the group's thread.
    type Group: 'static;
    /// The target's state of a qpair.
    type Qpair: 'static;

    /// Creates the state of a qpair, when a poll group gets a connection. `[poll group's thread]`
    fn qpair(group: &Self::Group) -> Self::Qpair;

    /// The SDK is about to give the connection to the fabric's part of the group; requests may arrive from now on. If the fabric
    /// refuses it, [`released`](Self::released) follows. `[poll group's thread]`
    fn joined(qpair: &Rc<Qpair<Self>>);

    /// Handles a request. `[poll group's thread]`
    fn exec(qpair: &Qpair<Self>, request: Request<Self>);

    /// The connection is closed. The target must complete the requests it still has, although no host gets the responses.
    /// `[poll group's thread]`
    fn disconnected(qpair: &Qpair<Self>);

    /// The last request of a closed connection is completed: drop all references to the qpair. `[poll group's thread]`
    fn released(qpair: &Qpair<Self>);
}
