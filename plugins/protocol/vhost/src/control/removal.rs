//! Removes a SCSI target from all sessions of a controller.

use super::Control;
use crate::controllers;
use crate::device::Service;
use drivebay_sdk::{thread, tracing};
use std::fmt;
use std::sync::Arc;

/// The call to make when a target has left all sessions.
pub(super) struct Removal(Box<dyn FnOnce()>);

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Removal")
    }
}

/// Shared by the sessions that still have the target. The last session that drops it sends a message to the app thread.
struct Leaving(u64);

impl Drop for Leaving {
    fn drop(&mut self) {
        let key = self.0;
        let tell = move || {
            if let Ok(all) = controllers::all() {
                all.control.removed(key);
            }
        };
        if let Err(error) = thread::app().send(tell) {
            tracing::error!("the app thread is gone: {error}");
        }
    }
}

impl Control {
    /// Removes a target from all sessions of a controller, then calls `done`.
    pub fn remove_target(&self, controller: &str, number: u8, done: impl FnOnce() + 'static) {
        let key = self.key();
        self.removals.borrow_mut().insert(key, Removal(Box::new(done)));
        let leaving = Arc::new(Leaving(key));
        self.for_each_device(controller, move |device| {
            if let Service::Scsi(scsi) = device.service() {
                let leaving = Arc::clone(&leaving);
                scsi.remove(number, Box::new(move || drop(leaving)));
            }
        });
    }

    /// Makes the call of a target that has left all sessions.
    fn removed(&self, key: u64) {
        let removal = self.removals.borrow_mut().remove(&key);
        if let Some(Removal(done)) = removal {
            done();
        }
    }
}
