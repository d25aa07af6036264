//! Creates and ends transports. The host may have to load the fabric's plugin first.

use super::{ensure_groups, lock, remove_listener};
use crate::app::{AppState, TransportEntry};
use crate::model::TransportLimits;
use crate::tasks::until;
use drivebay_sdk::nvmf::protocol::{Leaving, Transport};
use drivebay_sdk::{Error, Result, errno};
use std::rc::Rc;

use crate::group::Nvmf;

/// Creates a transport of type `trtype`. `options` is the JSON text of the parameters.
///
/// # Errors
/// `EEXIST`; `EINVAL` when no plugin has the type; errors of the fabric.
pub async fn create_transport(app: &Rc<AppState>, trtype: &str, options: &str) -> Result<()> {
    let _guard = lock(app, trtype).await;
    if app.transports.borrow().contains_key(trtype) {
        return Err(Error::new(errno::EEXIST, format!("transport type {trtype} already exists")));
    }
    ensure_groups(app)?;
    let server = app.server().ok_or_else(|| Error::new(errno::EIO, "the target has ended"))?;
    let fabric = server.fabric(trtype).ok_or_else(|| not_available(trtype))?;
    let transport = fabric.create(options)?;
    let limits = serde_json::from_str(&transport.dump()).unwrap_or_else(|error| {
        tracing::warn!("the options of transport {trtype} are not understood: {error}");
        TransportLimits::default()
    });
    let joined = match check_blocks_fit(app, &limits) {
        Ok(()) => join_groups(app, &transport).await,
        Err(error) => Err(error),
    };
    if let Err(error) = joined {
        leave_groups(app, &transport).await?;
        transport.destroy();
        return Err(error);
    }
    let entry = Rc::new(TransportEntry { transport, limits });
    app.transports.borrow_mut().insert(trtype.to_owned(), entry);
    Ok(())
}

/// Checks that a block of every namespace fits into one command.
fn check_blocks_fit(app: &AppState, limits: &TransportLimits) -> Result<()> {
    let model = app.model.borrow();
    let namespaces = model.subsystems.values().flat_map(|subsystem| subsystem.namespaces.values());
    let largest = namespaces.max_by_key(|namespace| namespace.geometry.block_size);
    match largest.filter(|namespace| namespace.geometry.block_size > limits.max_io_size) {
        Some(namespace) => {
            let block_size = namespace.geometry.block_size;
            let allowed =
                format!("at least {block_size}, the block size of {}", namespace.bdev_name);
            Err(Error::invalid("max_io_size", limits.max_io_size, allowed))
        }
        None => Ok(()),
    }
}

fn not_available(trtype: &str) -> Error {
    Error::invalid(
        "trtype",
        trtype,
        format!(
            "a type whose plugin is on the search path; no plugin found there provides nvmf.transport/{trtype}"
        ),
    )
}

async fn join_groups(app: &Rc<AppState>, transport: &Transport<Nvmf>) -> Result<()> {
    let groups = app.groups();
    let (number, replies) = app.expect(groups.len())?;
    for (group, reply) in groups.iter().zip(replies) {
        transport.join(group, move |result| reply.send(result));
    }
    app.replies(number).await
}

async fn leave_groups(app: &Rc<AppState>, transport: &Transport<Nvmf>) -> Result<()> {
    let groups = app.groups();
    let (number, replies) = app.expect(groups.len())?;
    for (group, reply) in groups.iter().zip(replies) {
        transport.leave(group, move || reply.send(Ok(())));
    }
    app.replies(number).await
}

/// Ends a transport with its listeners, its connections and its parts of the poll groups.
pub(super) async fn end_transport(app: &Rc<AppState>, trtype: &str) -> Result<()> {
    let _guard = lock(app, trtype).await;
    let listeners: Vec<_> = {
        let model = app.model.borrow();
        let subsystems = model.subsystems.values();
        subsystems
            .flat_map(|s| s.listeners.iter().map(|l| (s.nqn.clone(), l.address.clone())))
            .filter(|(_, address)| address.trtype == trtype)
            .collect()
    };
    for (nqn, address) in listeners {
        if let Err(error) = remove_listener(app, &nqn, &address).await {
            tracing::warn!("{error}");
        }
    }
    // All listeners have ended. Remove the entry now, so that `queue_came` closes connections that arrive late.
    let Some(entry) = app.transports.borrow_mut().remove(trtype) else { return Ok(()) };
    let id = entry.transport.id();
    app.close_all(|connection| connection.transport_id == id);
    until(|| !app.has_connection(|connection| connection.transport_id == id)).await;
    leave_groups(app, &entry.transport).await?;
    if let Ok(entry) = Rc::try_unwrap(entry) {
        entry.transport.destroy();
    }
    Ok(())
}

/// Ends the transport of a fabric whose plugin is unloaded.
pub async fn fabric_leaves(app: &Rc<AppState>, leaving: Leaving) {
    let trtype = {
        let transports = app.transports.borrow();
        let mut found = transports.iter().filter(|(_, entry)| entry.transport.id() == leaving.id());
        found.next().map(|(trtype, _)| trtype.clone())
    };
    if let Some(trtype) = trtype
        && let Err(error) = end_transport(app, &trtype).await
    {
        tracing::error!("transport {trtype}: {error}");
    }
    drop(leaving);
}
