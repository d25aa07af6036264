//! The end of the target: everything it serves ends first.

use super::transport::end_transport;
use super::{delete_subsystem, lock};
use crate::app::App;
use drivebay_sdk::{Stopping, thread};
use drivebay_spec_nvme::nqn;
use std::rc::Rc;

/// Ends subsystems, transports and poll groups, then drops the token.
pub async fn stop(app: &Rc<App>, stopping: Stopping) {
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
    let _guard = lock(app, "").await;
    end_groups(app).await;
    if let Some(server) = app.server() {
        server.withdraw();
    }
    drop(stopping);
}

async fn end_groups(app: &Rc<App>) {
    let Some(server) = app.server() else { return };
    let groups = server.take_groups();
    let Ok((number, replies)) = app.expect(groups.len()) else { return };
    for (group, reply) in groups.iter().zip(replies) {
        group.end(move || {
            if let Some(thread) = thread::current()
                && let Err(error) = thread.exit()
            {
                tracing::warn!("poll group: {error}");
            }
            reply.send(Ok(()));
        });
    }
    if let Err(error) = app.replies(number).await {
        tracing::warn!("poll groups: {error}");
    }
}
