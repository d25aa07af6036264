//! `notify_*`.

use super::entry::Entry;
use crate::host::Host;
use crate::rpc::handler;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, params};
use std::sync::Arc;

params! {
    /// Parameters of `notify_get_notifications`.
    pub(crate) struct GetNotifications {
        /// ID of the first event to return. If the host no longer has it, the answer starts with the oldest event that it has.
        id: u64 = 0,
        /// Maximum number of events to return. If absent, there is no limit.
        max: Option<u64>,
    }
}

pub(super) fn entries(host: &Arc<Host>) -> Vec<Entry> {
    let (kinds, events) = (Arc::clone(&host.notifications), Arc::clone(&host.notifications));
    vec![
        (
            Method::new::<NoParams>("notify_get_types", Role::Read, "Lists the types of events.")
                .result("Names of the types.")
                .returns::<Vec<String>>(),
            handler(move |NoParams {}| Ok(kinds.kinds())),
        ),
        (
            Method::new::<GetNotifications>(
                "notify_get_notifications",
                Role::Read,
                "Returns events. The host keeps the last 1024.",
            )
            .result("Array of objects with the members type, ctx and id."),
            handler(move |GetNotifications { id, max }| {
                let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
                Ok(events.from(id, max))
            }),
        ),
    ]
}
