//! Operations of the control plane, each a future on the app thread.
//!
//! Each subsystem has one operation at a time, in the order of the calls ([`lock`]). [`on_groups`] sends work to all poll groups and
//! waits for their answers.

mod ana;
mod groups;
mod listener;
mod namespace;
mod stop;
mod subsystem;
mod transport;

pub use ana::{set_ana_state, set_ns_ana_group};
pub use groups::{Reply, Wait, collect_stats, ensure_groups, on_groups};
pub use listener::{add_listener, remove_listener};
pub use namespace::{NewNamespace, add_namespace, remove_namespace};
pub use stop::stop;
pub use subsystem::{create_subsystem, delete_subsystem, remove_host};
pub use transport::{create_transport, fabric_leaves};

use crate::app::AppState;
use crate::tasks::until;
use drivebay_sdk::{Error, Result, errno};
use std::rc::Rc;

/// A lock. Other operations with the same name wait until it is dropped.
#[derive(Debug)]
pub struct Guard {
    app: Rc<AppState>,
    name: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.app.busy.borrow_mut().remove(&self.name);
        self.app.tasks.run();
    }
}

/// Locks a name. Waits while another operation has locked it.
pub async fn lock(app: &Rc<AppState>, name: &str) -> Guard {
    until(|| !app.busy.borrow().contains(name)).await;
    app.busy.borrow_mut().insert(name.to_owned());
    Guard { app: Rc::clone(app), name: name.to_owned() }
}

/// Like [`lock`], for a subsystem that must exist.
///
/// # Errors
/// `ENODEV` when it does not exist once the lock is taken.
pub async fn lock_subsystem(app: &Rc<AppState>, nqn: &str) -> Result<Guard> {
    let guard = lock(app, nqn).await;
    if app.model.borrow().subsystems.contains_key(nqn) { Ok(guard) } else { Err(no_subsystem(nqn)) }
}

/// The error for a missing subsystem.
pub fn no_subsystem(nqn: &str) -> Error {
    Error::new(errno::ENODEV, format!("nqn {nqn}: no such subsystem"))
}

/// The error for a parameter that is not supported.
pub fn not_supported(field: &str, given: impl std::fmt::Display, allowed: &str) -> Error {
    Error::invalid(field, given, allowed)
}
