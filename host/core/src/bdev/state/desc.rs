//! A descriptor: one client's open bdev.

use super::Bdev;
use drivebay_plugin_api::bay_bdev_event_fn;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// An open bdev.
#[derive(Debug)]
pub struct Desc {
    /// Handle.
    pub id: u64,
    /// The bdev.
    pub bdev: Arc<Bdev>,
    /// Whether it was opened for writing.
    pub(in crate::bdev) was_opened_writable: bool,
    /// Whether writes are allowed, because of the open or of a claim.
    pub(in crate::bdev) writable: AtomicBool,
    /// The address of the host table of the plugin that opened it; 0 = the host.
    pub owner: usize,
    /// The id of the thread that opened it and gets its events; 0 = the app thread.
    pub(in crate::bdev) thread: u64,
    pub(in crate::bdev) event: Option<bay_bdev_event_fn>,
    pub(in crate::bdev) arg: usize,
    pub(in crate::bdev) channels: AtomicU32,
    /// Ranges of blocks that lost their data and that the owner has not read yet.
    pub(in crate::bdev) media: Mutex<VecDeque<(u64, u64)>>,
}

impl Desc {
    /// Whether writes are allowed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    pub(in crate::bdev) fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Relaxed);
    }
}
