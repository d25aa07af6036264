//! Creates and deletes subsystems, and removes hosts from them.

use super::listener::remove_locked as remove_listener_locked;
use super::namespace::remove_locked as remove_namespace_locked;
use super::{lock_subsystem, on_groups};
use crate::app::{AppState, Connection};
use crate::model::{Options, Subsystem, check_text};
use crate::tasks::until;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_nvme::nqn;
use std::rc::Rc;

const SERIAL_NUMBER_MAX: usize = 20;
const MODEL_NUMBER_MAX: usize = 40;

/// Creates a subsystem.
///
/// # Errors
/// `EEXIST`; `EINVAL` with the name of the field; `ENOSPC` when `max_subsystems` is reached.
pub fn create_subsystem(
    app: &AppState,
    name: &str,
    options: Options,
    allow_any_host: bool,
) -> Result<()> {
    nqn::check(name).map_err(|why| Error::invalid("nqn", name, why))?;
    for (field, text, max) in [
        ("serial_number", &options.serial_number, SERIAL_NUMBER_MAX),
        ("model_number", &options.model_number, MODEL_NUMBER_MAX),
    ] {
        if !check_text(text, max) {
            return Err(Error::invalid(
                field,
                text,
                format!("at most {max} printable ASCII characters"),
            ));
        }
    }
    let (min, max) = (*options.cntlids.start(), *options.cntlids.end());
    if min == 0 || min > max || max > 0xffef {
        let given = format!("{min} to {max}");
        return Err(Error::invalid(
            "min_cntlid, max_cntlid",
            given,
            "1 to 65519, min_cntlid at most max_cntlid",
        ));
    }
    let mut model = app.model.borrow_mut();
    if model.subsystems.contains_key(name) {
        return Err(Error::new(errno::EEXIST, format!("subsystem {name} already exists")));
    }
    if model.num_subsystems() >= model.max_subsystems as usize {
        let max = model.max_subsystems;
        return Err(Error::new(errno::ENOSPC, format!("max_subsystems {max} is reached")));
    }
    let mut subsystem = Subsystem::new(name, options);
    subsystem.allow_any_host = allow_any_host || name == nqn::DISCOVERY;
    model.subsystems.insert(name.to_owned(), subsystem);
    drop(model);
    app.discovery_changed();
    Ok(())
}

/// Deletes a subsystem with its listeners, controllers and namespaces.
///
/// # Errors
/// `ENODEV` when it does not exist.
pub async fn delete_subsystem(app: &Rc<AppState>, name: &str) -> Result<()> {
    let _guard = lock_subsystem(app, name).await?;
    let (listeners, nsids) = {
        let mut model = app.model.borrow_mut();
        let subsystem = model.subsystems.get_mut(name).ok_or_else(|| super::no_subsystem(name))?;
        // From now on no host can connect.
        subsystem.allow_any_host = false;
        subsystem.hosts.clear();
        let listeners: Vec<_> = subsystem.listeners.iter().map(|l| l.address.clone()).collect();
        (listeners, subsystem.namespaces.keys().copied().collect::<Vec<_>>())
    };
    for address in &listeners {
        remove_listener_locked(app, name, address).await?;
    }
    disconnect(app, |connection| connection.queue.as_ref().is_some_and(|queue| queue.nqn == name))
        .await;
    for nsid in nsids {
        remove_namespace_locked(app, name, nsid).await?;
    }
    app.model.borrow_mut().subsystems.remove(name);
    let gone = name.to_owned();
    on_groups(app, move |group, reply| {
        group.forget_subsystem(&gone);
        reply.send(Ok(()));
    })
    .await?;
    app.discovery_changed();
    Ok(())
}

/// Ends connections and waits until they have ended.
async fn disconnect(app: &Rc<AppState>, is_one: impl Fn(&Connection) -> bool + Copy) {
    app.close_all(is_one);
    until(|| !app.has_connection(is_one)).await;
}

/// Removes a host from the list of a subsystem, and ends its connections.
///
/// # Errors
/// `ENODEV` without the subsystem, `ENOENT` when the host is not listed.
pub async fn remove_host(app: &Rc<AppState>, name: &str, hostnqn: &str) -> Result<()> {
    let _guard = lock_subsystem(app, name).await?;
    let was_listed = {
        let mut model = app.model.borrow_mut();
        model.subsystems.get_mut(name).is_some_and(|subsystem| subsystem.hosts.remove(hostnqn))
    };
    if !was_listed {
        return Err(Error::new(errno::ENOENT, format!("host {hostnqn} is not listed in {name}")));
    }
    app.discovery_changed();
    disconnect(app, |connection| {
        let queue = connection.queue.as_ref();
        queue.is_some_and(|queue| queue.nqn == name && queue.hostnqn == hostnqn)
    })
    .await;
    Ok(())
}
