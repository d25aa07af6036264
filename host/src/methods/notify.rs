//! `notify_*`.

use super::Entry;
use crate::host::Host;
use crate::rpc::handler;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, params};
use std::sync::Arc;

params! {
    /// Parameters of `notify_get_notifications`.
    pub(crate) struct GetNotifications {
        /// Number of the first event that is wanted; the oldest that is kept when it is gone.
        id: u64 = 0,
        /// How many events at most; all when absent.
        max: Option<u64>,
    }
}

pub(super) fn entries(host: &Arc<Host>) -> Vec<Entry> {
    let (kinds, events) = (Arc::clone(&host.notifications), Arc::clone(&host.notifications));
    vec![
        (
            Method::new::<NoParams>("notify_get_types", Role::Read, "Lists the kinds of events.")
                .result("Array of names."),
            handler(move |NoParams {}| Ok(kinds.kinds())),
        ),
        (
            Method::new::<GetNotifications>(
                "notify_get_notifications",
                Role::Read,
                "Tells events. The last 1024 are kept.",
            )
            .result("Array of objects of type, ctx and id."),
            handler(move |GetNotifications { id, max }| {
                let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
                Ok(events.from(id, max))
            }),
        ),
    ]
}
