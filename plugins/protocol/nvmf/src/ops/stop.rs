//! The end of the target.

use super::transport::end_transport;
use super::{delete_subsystem, lock};
use crate::app::AppState;
use drivebay_sdk::Stopping;
use drivebay_sdk::runtime::task;
use drivebay_spec_nvme::nqn;
use std::rc::Rc;

/// Ends subsystems, transports and poll groups, in this order. Then drops the token.
pub async fn stop(app: &Rc<AppState>, stopping: Stopping) {
    let names: Vec<String> = app.model.borrow().subsystems.keys().cloned().collect();
    for name in names.iter().filter(|name| *name != nqn::DISCOVERY) {
        if let Err(error) = delete_subsystem(app, name).await {
            tracing::warn!("{error}");
        }
    }
    let trtypes: Vec<String> = app.transports.borrow().keys().cloned().collect();
    for trtype in trtypes {
        if let Err(error) = end_transport(app, &trtype).await {
            tracing::warn!("{error}");
        }
    }
    let (app, guard) = (Rc::clone(app), lock(app, "").await);
    let last = task::spawn("nvmf stop", async move {
        if let Some(server) = app.server() {
            if let Some(groups) = server.take_groups() {
                groups.end().await;
            }
            server.withdraw();
        }
        drop((guard, stopping));
    });
    match last {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!("{error}"),
    }
}
