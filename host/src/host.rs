//! The state that methods, configuration, start and stop of the host share.
#![forbid(unsafe_code)]

use crate::loader::{self, Manager};
use crate::notifications::Notifications;
use crate::rpc::{Outcome, Registry, Responder};
use crate::subsystems::Subsystems;
use drivebay_core::reactor::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};

/// What the main thread waits for.
#[derive(Debug)]
pub enum Event {
    /// A signal requests the stop.
    Stop,
    /// `framework_start_init` was called.
    StartInit(Responder),
    /// The host received the answer to a call of the configuration.
    Answer(Outcome),
}

/// The state that all methods of the host share.
#[derive(Debug)]
pub struct Host {
    /// The methods.
    pub registry: Arc<Registry>,
    /// The plugins.
    pub manager: Arc<Manager>,
    /// The list of events for `notify_get_notifications`.
    pub notifications: Arc<Notifications>,
    /// The subsystems of plugins.
    pub subsystems: Arc<Subsystems>,
    /// The sender of events to the main thread.
    pub events: Sender<Event>,
    is_initialized: AtomicBool,
}

impl Host {
    pub(crate) fn new(
        registry: Arc<Registry>,
        manager: Arc<Manager>,
        notifications: Arc<Notifications>,
        subsystems: Arc<Subsystems>,
        events: Sender<Event>,
    ) -> Self {
        let is_initialized = AtomicBool::new(false);
        Self { registry, manager, notifications, subsystems, events, is_initialized }
    }

    /// Whether the configuration is loaded.
    pub fn is_initialized(&self) -> bool {
        self.is_initialized.load(Ordering::Acquire)
    }

    /// Records that the configuration is loaded.
    pub(crate) fn set_initialized(&self) {
        self.is_initialized.store(true, Ordering::Release);
    }
}

/// Runs `work` on the app thread and waits for its result. Must not be called on the app thread.
pub(crate) fn on_app_thread<T: Send + 'static>(
    work: impl FnOnce() -> loader::Result<T> + Send + 'static,
) -> loader::Result<T> {
    let (sender, result) = mpsc::channel();
    thread::send_app(move || {
        let _ = sender.send(work());
    });
    let gone = || loader::Error::new(libc::ESHUTDOWN, "the app thread has ended");
    result.recv().unwrap_or_else(|_| Err(gone()))
}
