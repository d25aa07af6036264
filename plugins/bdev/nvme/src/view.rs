//! What the methods show of every channel: its legs, which the channel writes when one changes, and its counters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::path::Path;
use crate::paths::Paths;
use crate::stats::ChannelCounts;

static CHANNELS: Mutex<Vec<Weak<View>>> = Mutex::new(Vec::new());

/// The view of one channel.
#[derive(Debug)]
pub(crate) struct View {
    /// Name of the channel's reactor.
    pub(crate) thread: String,
    /// The paths of its bdev.
    pub(crate) paths: Arc<Paths>,
    /// Whether the controllers are on PCIe.
    pub(crate) is_pci: bool,
    pub(crate) counts: ChannelCounts,
    legs: Mutex<Vec<LegView>>,
}

/// A leg, as it was after its last change.
#[derive(Clone, Debug)]
pub(crate) struct LegView {
    pub(crate) path: Arc<Path>,
    /// Whether it takes I/O now.
    pub(crate) is_current: bool,
    pub(crate) is_connected: bool,
    /// Whether the namespace's ANA state permits I/O.
    pub(crate) is_accessible: bool,
}

impl View {
    /// The view of a new channel. `[any lightweight thread]`
    pub(crate) fn new(paths: Arc<Paths>, is_pci: bool) -> Arc<Self> {
        let thread = std::thread::current().name().unwrap_or("reactor").to_owned();
        let view = Arc::new(Self {
            thread,
            paths,
            is_pci,
            counts: ChannelCounts::default(),
            legs: Mutex::default(),
        });
        let mut channels = lock(&CHANNELS);
        channels.retain(|other| other.strong_count() > 0);
        channels.push(Arc::downgrade(&view));
        view
    }

    pub(crate) fn set(&self, legs: impl Iterator<Item = LegView>) {
        let mut shown = lock(&self.legs);
        shown.clear();
        shown.extend(legs);
    }

    pub(crate) fn legs(&self) -> Vec<LegView> {
        lock(&self.legs).clone()
    }
}

/// The views of all channels.
pub(crate) fn all() -> Vec<Arc<View>> {
    lock(&CHANNELS).iter().filter_map(Weak::upgrade).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
