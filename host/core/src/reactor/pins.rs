//! Plugins whose state may belong to one OS thread.
//!
//! While such a plugin is loaded, every lightweight thread stays on its reactor. The door flag
//! `BAY_PF_THREADS_MOVE` says that a plugin does not need this.

use crate::{Error, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Pin {
    owner: usize,
    plugin: String,
}

static PINS: Mutex<Vec<Pin>> = Mutex::new(Vec::new());

fn pins() -> MutexGuard<'static, Vec<Pin>> {
    PINS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps every thread on its reactor until [`release`] is called for the same owner. Call it before
/// the plugin's code runs for the first time. Any OS thread.
pub fn add(owner: usize, plugin: &str) {
    pins().push(Pin { owner, plugin: plugin.to_owned() });
}

/// Lets threads move again, unless another plugin forbids it. Call it when no code and no state of
/// the plugin is left. Any OS thread.
pub fn release(owner: usize) {
    pins().retain(|pin| pin.owner != owner);
}

/// Fails when a plugin keeps all threads on their reactors. `thread` is the name of the one to move.
///
/// # Errors
/// `EBUSY`, naming the plugin.
pub(super) fn check(thread: &str) -> Result<()> {
    let Some(plugin) = pins().first().map(|pin| pin.plugin.clone()) else { return Ok(()) };
    let message = format!(
        "thread {thread} cannot move to another core, because plugin {plugin} may keep thread-local \
         state (its door lacks BAY_PF_THREADS_MOVE); unload the plugin first"
    );
    Err(Error::new(libc::EBUSY, message))
}
