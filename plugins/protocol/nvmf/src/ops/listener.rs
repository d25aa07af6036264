//! Listeners. Several subsystems may share an address.

use super::ana::no_listener;
use super::{lock_subsystem, on_groups};
use crate::app::AppState;
use crate::model::{Access, AnaState, matches};
use crate::tasks::until;
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_sdk::{Error, Result, errno};
use std::rc::Rc;

/// Adds a listener to a subsystem, with all ANA groups in one state.
///
/// # Errors
/// `ENODEV` without the subsystem, `EINVAL` without the transport, `EEXIST`, `EADDRINUSE`, `EADDRNOTAVAIL`.
pub async fn add_listener(
    app: &Rc<AppState>,
    nqn: &str,
    address: Address,
    state: AnaState,
) -> Result<()> {
    let _guard = lock_subsystem(app, nqn).await?;
    let is_there = {
        let model = app.model.borrow();
        let subsystem = model.subsystems.get(nqn);
        subsystem.is_some_and(|s| s.listeners.iter().any(|l| l.address == address))
    };
    if is_there {
        let Address { traddr, trsvcid, .. } = address;
        return Err(Error::new(
            errno::EEXIST,
            format!("{nqn} already listens at {traddr}:{trsvcid}"),
        ));
    }
    begin_listening(app, &address)?;
    let listener = {
        let mut model = app.model.borrow_mut();
        let subsystem = model.subsystems.get_mut(nqn).ok_or_else(|| super::no_subsystem(nqn))?;
        subsystem.new_listener(address, state)
    };
    // Poll groups need the states before a host can connect.
    let access = Some(listener.access.clone());
    if let Err(error) = publish_access(app, nqn, listener.portid, access).await {
        end_listening(app, &listener.address);
        return Err(error);
    }
    if let Some(subsystem) = app.model.borrow_mut().subsystems.get_mut(nqn) {
        subsystem.listeners.push(listener);
    }
    app.discovery_changed();
    Ok(())
}

/// Sends to every poll group how a listener serves the ANA groups; `None` removes the listener.
pub(super) async fn publish_access(
    app: &Rc<AppState>,
    nqn: &str,
    portid: u16,
    access: Option<Access>,
) -> Result<()> {
    let nqn = nqn.to_owned();
    on_groups(app, move |group, reply| {
        group.set_access(&nqn, portid, access.clone());
        reply.send(Ok(()));
    })
    .await
}

fn begin_listening(app: &AppState, address: &Address) -> Result<()> {
    let mut listening = app.listening.borrow_mut();
    if let Some((_, count)) = listening.iter_mut().find(|(other, _)| other == address) {
        *count += 1;
        return Ok(());
    }
    let transports = app.transports.borrow();
    let entry = transports.get(&address.trtype).ok_or_else(|| {
        let made: Vec<&str> = transports.keys().map(String::as_str).collect();
        let made = if made.is_empty() {
            "none; create one with nvmf_create_transport".to_owned()
        } else {
            made.join(", ")
        };
        Error::invalid("listen_address.trtype", &address.trtype, made)
    })?;
    entry.transport.listen(address)?;
    listening.push((address.clone(), 1));
    Ok(())
}

/// Removes a listener from a subsystem and ends the queues that were accepted there.
///
/// # Errors
/// `ENODEV` without the subsystem, `ENOENT` without the listener.
pub async fn remove_listener(app: &Rc<AppState>, nqn: &str, address: &Address) -> Result<()> {
    let _guard = lock_subsystem(app, nqn).await?;
    remove_locked(app, nqn, address).await
}

/// Like [`remove_listener`]. The caller has locked the subsystem.
pub(super) async fn remove_locked(app: &Rc<AppState>, nqn: &str, address: &Address) -> Result<()> {
    let place = {
        let model = app.model.borrow();
        let subsystem = model.subsystems.get(nqn);
        subsystem.and_then(|s| s.listeners.iter().position(|l| l.address == *address))
    };
    let place = place.ok_or_else(|| no_listener(nqn, address))?;
    let removed = {
        let mut model = app.model.borrow_mut();
        model.subsystems.get_mut(nqn).map(|subsystem| subsystem.listeners.remove(place))
    };
    app.discovery_changed();
    end_listening(app, address);
    let came_here = |connection: &crate::app::Connection| {
        let queue = connection.queue.as_ref();
        queue.is_some_and(|queue| queue.nqn == nqn && matches(address, &queue.local))
    };
    app.close_all(came_here);
    until(|| !app.has_connection(came_here)).await;
    match removed {
        Some(listener) => publish_access(app, nqn, listener.portid, None).await,
        None => Ok(()),
    }
}

fn end_listening(app: &AppState, address: &Address) {
    let mut listening = app.listening.borrow_mut();
    let Some(place) = listening.iter().position(|(other, _)| other == address) else { return };
    let is_last = listening.get_mut(place).is_none_or(|(_, count)| {
        *count -= 1;
        *count == 0
    });
    if !is_last {
        return;
    }
    listening.remove(place);
    let transports = app.transports.borrow();
    if let Some(entry) = transports.get(&address.trtype)
        && let Err(error) = entry.transport.stop_listen(address)
    {
        tracing::warn!("{error}");
    }
}
