//! The target's side of NVMe over Fabrics: what serves the connections that fabrics bring.
//!
//! A plugin implements [`Target`] and calls [`serve`] on the app thread. Fabrics register by themselves; the host loads the plugin of
//! one that is not there when [`Server::fabric`] asks for it. Per poll group there is one [`Resident`](crate::runtime::Resident) group, and everything of a
//! qpair happens on its thread:
//!
//! ```text
//!  Server::fabric ─▶ Fabric::create ─▶ Transport::join (each group) ─▶ Transport::listen                      app thread
//!  new connection ─▶ round robin ─▶ Target::qpair, Target::joined ─▶ Target::exec(Request) ─▶ Request::complete   group's thread
//!  connection gone ─▶ Target::disconnected ─▶ (last request completed) ─▶ Target::released                        group's thread
//! ```
//!
//! A [`Request`] is lent by the fabric with its data; it is a value that must be completed. It is also the context of an I/O: given to
//! [`Channel::submit`](crate::bdev::Channel::submit), its data goes to the bdev without being copied or anything being allocated.

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

/// What a target does. Apart from what it returns, all state is the author's; shared references only, since a completed I/O may come back
/// from inside its own submit.
pub trait Target: Sized + 'static {
    /// One poll group's state; it stays on the group's thread.
    type Group: 'static;
    /// What the target keeps of a qpair.
    type Qpair: 'static;

    /// A connection was given to a poll group: the state of its qpair. `[poll group's thread]`
    fn qpair(group: &Self::Group) -> Self::Qpair;

    /// The fabric has taken the connection; requests may come. `[poll group's thread]`
    fn joined(qpair: &Rc<Qpair<Self>>);

    /// A request came. `[poll group's thread]`
    fn exec(qpair: &Qpair<Self>, request: Request<Self>);

    /// The connection is gone. What the target keeps of its requests must be completed, though nobody hears it. `[poll group's thread]`
    fn disconnected(qpair: &Qpair<Self>);

    /// The last request of a connection that is gone was completed: forget the qpair. `[poll group's thread]`
    fn released(qpair: &Qpair<Self>);
}
