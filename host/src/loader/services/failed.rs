//! A plugin that has panicked. The host makes no further call into its library. It answers the plugin's RPC calls itself, and deletes the
//! plugin's disks when an operator asks. Until a disk is deleted, the core completes its I/O (`drivebay_core::bdev::failed`).

use super::grant::Grant;
use crate::loader::error::{Error, rpc_error_of};
use crate::rpc::Call;
use drivebay_spec_jsonrpc::RpcError;
use serde::Deserialize;
use std::sync::Arc;

/// The parameters of a method that deletes one bdev.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    name: String,
}

impl Grant {
    /// Handles a panic of the plugin. `marks_held`: its library sets `bay_io.holds`. Any thread.
    pub(super) fn panicked(&self, place_and_message: &str, marks_held: bool) {
        if self.panic.set(place_and_message.to_owned()).is_err() {
            return;
        }
        let plugin = self.name.as_str();
        tracing::error!(plugin, "it has failed: its disks return errors until they are deleted");
        let events = &self.outside.events;
        events.panicked(self.number, self.host() as usize);
        events.notify("plugin_failed", &format!("{}: {place_and_message}", self.name));
        self.outside.core.fail_owner(self.host(), marks_held);
        let (calls, number) = (Arc::clone(&self.calls), self.number);
        let refusal = self.refusal(place_and_message);
        self.outside.core.send_to_app(Box::new(move || {
            for responder in calls.take_all(number) {
                responder.error(refusal.clone());
            }
        }));
    }

    /// The place and the message of its first panic. Any thread.
    pub(in crate::loader) fn panic(&self) -> Option<&str> {
        self.panic.get().map(String::as_str)
    }

    /// Why a plugin that has panicked is listed as failed.
    pub(in crate::loader) fn reason_of_failure(&self) -> Option<String> {
        let panic = self.panic()?;
        Some(match self.outside.core.quarantined(self.host()) {
            0 => format!("it panicked: {panic}"),
            many => format!(
                "it panicked: {panic}; {many} I/O are quarantined, because a device may still access their buffers"
            ),
        })
    }

    /// Answers an RPC call for a plugin that has panicked: deletes a disk, or refuses the call. App
    /// thread.
    pub(super) fn answer_for_failed(&self, panic: &str, call: Call) {
        let Call { method, params, responder, .. } = call;
        let text = params.as_deref().map_or("", serde_json::value::RawValue::get);
        let Some(name) = self.deleted_by(&method, text) else {
            return responder.error(self.refusal(panic));
        };
        // Record it as a call in flight of the plugin. If the plugin is unloaded before the disk is gone, the unload answers the call.
        let Ok(number) = self.calls.open(self.number, responder) else { return };
        let (calls, owner) = (Arc::clone(&self.calls), self.number);
        let done = Box::new(move |_| {
            calls.take(owner, number).into_iter().for_each(|responder| responder.ok(&true));
        });
        if let Err(error) = self.outside.core.delete_bdev(self.host(), &name, done) {
            let responder = self.calls.take(owner, number).into_iter();
            responder.for_each(|responder| responder.error(rpc_error_of(&error)));
        }
    }

    /// The disk that a call deletes. `None` unless the method is the delete method that belongs to the disk's create method, because only
    /// the plugin knows what its other methods do.
    fn deleted_by(&self, method: &str, params: &str) -> Option<String> {
        let kind = method.strip_suffix("_delete")?;
        let Delete { name } = serde_json::from_str(params).ok()?;
        let made_by = self.outside.events.made_by(&name)?;
        (made_by.strip_suffix("_create") == Some(kind)).then_some(name)
    }

    fn refusal(&self, panic: &str) -> RpcError {
        let message = format!(
            "plugin {} has failed: it panicked: {panic}; unload and load it, or restart the host",
            self.name
        );
        rpc_error_of(&Error::new(libc::EIO, message))
    }
}
