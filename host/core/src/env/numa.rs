//! NUMA nodes: their number, and memory on one of them.
#![expect(unsafe_code, reason = "binding memory to a node is a system call over raw addresses")]

use crate::{Error, Result};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// The number of nodes of the machine; 1 when the system has no NUMA support. `[any thread]`
#[must_use]
pub fn nodes() -> u32 {
    static NODES: OnceLock<u32> = OnceLock::new();
    *NODES.get_or_init(|| {
        let online = std::fs::read_to_string("/sys/devices/system/node/online");
        online.ok().and_then(|text| count(&text)).unwrap_or(1)
    })
}

/// One more than the last number in a list such as `0-3,8`.
fn count(list: &str) -> Option<u32> {
    let last = list.trim().rsplit([',', '-']).next()?;
    last.parse::<u32>().ok()?.checked_add(1)
}

/// Checks a node number from a parameter; -1 = any node.
///
/// # Errors
/// `EINVAL` with the allowed range.
pub fn check(node: i32) -> Result<Option<u32>> {
    match u32::try_from(node) {
        Ok(node) if node < nodes() => Ok(Some(node)),
        Err(_) if node == -1 => Ok(None),
        _ => {
            let last = nodes() - 1;
            Err(Error::new(
                libc::EINVAL,
                format!("NUMA node {node} is not allowed; allowed: -1 (any) and 0 to {last}"),
            ))
        }
    }
}

/// Binds pages that were not touched yet to a node.
///
/// # Errors
/// The system's error. On a machine with one node there is nothing to bind, so the call succeeds.
pub(super) fn bind(addr: NonNull<u8>, len: usize, node: u32) -> Result<()> {
    /// `MPOL_BIND` of `linux/mempolicy.h`.
    const MPOL_BIND: usize = 2;
    if nodes() == 1 {
        return Ok(());
    }
    let mask = [1_u64.checked_shl(node).unwrap_or(0)];
    let bits = 64_usize;
    let mode = MPOL_BIND;
    // SAFETY: the pages are the caller's new mapping, and the mask is valid for the call.
    let status = unsafe {
        libc::syscall(libc::SYS_mbind, addr.as_ptr(), len, mode, mask.as_ptr(), bits + 1, 0_usize)
    };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_from_the_list_of_the_system() {
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("0-3\n"), Some(4));
        assert_eq!(count("0-1,4-5"), Some(6));
        assert_eq!(count(""), None);
    }

    #[test]
    fn a_node_that_is_not_there_is_refused_by_number() {
        assert_eq!(check(-1).unwrap(), None);
        assert_eq!(check(0).unwrap(), Some(0));
        let error = check(77).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        assert!(error.message().contains("NUMA node 77"), "{error}");
        assert!(check(-2).is_err());
    }
}
