//! Listeners: an address may be shared by several subsystems.

use super::lock_subsystem;
use crate::app::App;
use crate::model::matches;
use crate::tasks::until;
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_sdk::{Error, Result, errno};
use std::rc::Rc;

/// Lets a subsystem be reached at an address.
///
/// # Errors
/// `ENODEV` without the subsystem, `EINVAL` without the transport, `EEXIST`, `EADDRINUSE`, `EADDRNOTAVAIL`.
pub async fn add_listener(app: &Rc<App>, nqn: &str, address: Address) -> Result<()> {
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
            format!("{nqn} listens at {traddr}:{trsvcid} already"),
        ));
    }
    begin_listening(app, &address)?;
    if let Some(subsystem) = app.model.borrow_mut().subsystems.get_mut(nqn) {
        subsystem.add_listener(address);
    }
    app.discovery_changed();
    Ok(())
}

fn begin_listening(app: &App, address: &Address) -> Result<()> {
    let mut listening = app.listening.borrow_mut();
    if let Some((_, count)) = listening.iter_mut().find(|(other, _)| other == address) {
        *count += 1;
        return Ok(());
    }
    let transports = app.transports.borrow();
    let entry = transports.get(&address.trtype).ok_or_else(|| {
        let made: Vec<&str> = transports.keys().map(String::as_str).collect();
        let made = if made.is_empty() {
            "none; nvmf_create_transport makes one".to_owned()
        } else {
            made.join(", ")
        };
        Error::invalid("listen_address.trtype", &address.trtype, made)
    })?;
    entry.transport.listen(address)?;
    listening.push((address.clone(), 1));
    Ok(())
}

/// Lets a subsystem be reached at an address no more; queues that came there end.
///
/// # Errors
/// `ENODEV` without the subsystem, `ENOENT` without the listener.
pub async fn remove_listener(app: &Rc<App>, nqn: &str, address: &Address) -> Result<()> {
    let _guard = lock_subsystem(app, nqn).await?;
    remove_locked(app, nqn, address).await
}

/// As [`remove_listener`], by an operation that has the subsystem's lock.
pub(super) async fn remove_locked(app: &Rc<App>, nqn: &str, address: &Address) -> Result<()> {
    let place = {
        let model = app.model.borrow();
        let subsystem = model.subsystems.get(nqn);
        subsystem.and_then(|s| s.listeners.iter().position(|l| l.address == *address))
    };
    let Some(place) = place else {
        let Address { traddr, trsvcid, .. } = address;
        return Err(Error::new(
            errno::ENOENT,
            format!("{nqn} does not listen at {traddr}:{trsvcid}"),
        ));
    };
    if let Some(subsystem) = app.model.borrow_mut().subsystems.get_mut(nqn) {
        subsystem.listeners.remove(place);
    }
    app.discovery_changed();
    end_listening(app, address);
    let came_here = |connection: &crate::app::Connection| {
        let queue = connection.queue.as_ref();
        queue.is_some_and(|queue| queue.nqn == nqn && matches(address, &queue.local))
    };
    app.close_all(came_here);
    until(|| !app.has_connection(came_here)).await;
    Ok(())
}

fn end_listening(app: &App, address: &Address) {
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
