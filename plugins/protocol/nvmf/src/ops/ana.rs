//! Asymmetric namespace access: the ANA groups of namespaces, and the states of the groups at each listener.
//!
//! Every poll group gets a change before hosts get the event. So I/O already follows the new state when a host reads the log.

use super::listener::publish_access;
use super::namespace::check_ana_group;
use super::{lock_subsystem, no_subsystem, on_groups};
use crate::app::AppState;
use crate::model::AnaState;
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_sdk::{Error, Result, errno};
use std::rc::Rc;

/// Sets the state of one ANA group at a listener, or of all groups. I/O in progress continues; later I/O gets the new state.
///
/// # Errors
/// `ENODEV` without the subsystem, `ENOENT` without the listener, `EINVAL` when the subsystem does not report ANA or `group` is too high.
pub async fn set_ana_state(
    app: &Rc<AppState>,
    nqn: &str,
    address: &Address,
    state: AnaState,
    group: Option<u32>,
) -> Result<()> {
    let _guard = lock_subsystem(app, nqn).await?;
    if let Some(group) = group {
        check_ana_group(app, nqn, group)?;
    }
    let (portid, access) = {
        let mut model = app.model.borrow_mut();
        let subsystem = model.subsystems.get_mut(nqn).ok_or_else(|| no_subsystem(nqn))?;
        if !subsystem.options.ana_reporting {
            let allowed = "a subsystem that was created with ana_reporting: true";
            return Err(Error::invalid("nqn", nqn, allowed));
        }
        let listener = subsystem.listeners.iter_mut().find(|l| l.address == *address);
        let listener = listener.ok_or_else(|| no_listener(nqn, address))?;
        if !listener.access.set(group, state) {
            return Ok(());
        }
        (listener.portid, listener.access.clone())
    };
    publish_access(app, nqn, portid, Some(access)).await?;
    app.ana_changed(nqn, Some(portid));
    Ok(())
}

pub(super) fn no_listener(nqn: &str, address: &Address) -> Error {
    let Address { traddr, trsvcid, .. } = address;
    Error::new(errno::ENOENT, format!("{nqn} does not listen at {traddr}:{trsvcid}"))
}

/// Moves a namespace to another ANA group.
///
/// # Errors
/// `ENODEV` without the subsystem, `ENOENT` without the namespace, `EINVAL` when `group` is too high.
pub async fn set_ns_ana_group(app: &Rc<AppState>, nqn: &str, nsid: u32, group: u32) -> Result<()> {
    let _guard = lock_subsystem(app, nqn).await?;
    check_ana_group(app, nqn, group)?;
    {
        let mut model = app.model.borrow_mut();
        let subsystem = model.subsystems.get_mut(nqn).ok_or_else(|| no_subsystem(nqn))?;
        let Some(namespace) = subsystem.namespaces.get_mut(&nsid) else {
            let text = format!("nsid {nsid}: no such namespace in {nqn}");
            return Err(Error::new(errno::ENOENT, text));
        };
        let before = std::mem::replace(&mut namespace.anagrpid, group);
        if before == group {
            return Ok(());
        }
        subsystem.ana_group_changed(before);
        subsystem.ana_group_changed(group);
    }
    let name = nqn.to_owned();
    on_groups(app, move |local, reply| {
        local.set_ana_group(&name, nsid, group);
        reply.send(Ok(()));
    })
    .await?;
    app.namespace_changed(nqn, nsid);
    app.ana_changed(nqn, None);
    Ok(())
}
