//! The root capabilities that a host keeps.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// For pinned memory of devices, and for ports below 1024.
const KEPT: [Capability; 2] = [Capability::CAP_IPC_LOCK, Capability::CAP_NET_BIND_SERVICE];

/// Drops all other capabilities of this thread and of the threads that it starts.
///
/// # Errors
/// The kernel's error.
pub(super) fn drop_most() -> Result<String, String> {
    let kept = reduce().map_err(|error| format!("--sandbox: capabilities: {error}"))?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    Ok(format!("capabilities: {names}"))
}

fn reduce() -> Result<CapsHashSet, CapsError> {
    let before = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|one| before.contains(one)).collect();
    if before.contains(&Capability::CAP_SETPCAP) {
        for other in caps::all().into_iter().filter(|one| !KEPT.contains(one)) {
            // A capability that this kernel does not know cannot be dropped.
            let _ = caps::drop(None, CapSet::Bounding, other);
        }
    }
    // The ambient set first, because it may only contain what the other sets contain.
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_but_the_kept_ones_are_left() {
        // Use a separate thread: capabilities belong to a thread, and the thread of the test keeps its own.
        let confined = std::thread::spawn(|| {
            drop_most().unwrap();
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                let left = caps::read(None, set).unwrap();
                assert!(left.iter().all(|one| KEPT.contains(one)), "{set:?}: {left:?}");
            }
        });
        confined.join().unwrap();
    }
}
