//! Changes of the machine's PCI devices. The kernel reports them on a netlink socket (uevents), and one thread of the host waits for them.
//! Linux, lib/kobject_uevent.c.
#![expect(unsafe_code, reason = "receives from a netlink socket")]

use crate::{Error, Result};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The multicast group of the kernel's events. Group 2 has those of udev.
const KERNEL_GROUP: u32 = 1;
/// The kernel's limit of an event, in bytes.
const EVENT_LEN_MAX: usize = 8192;

struct Watch {
    /// Eventfds by the plugin that watches.
    of_plugins: BTreeMap<usize, EventFd>,
    is_running: bool,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { of_plugins: BTreeMap::new(), is_running: false });

fn watch() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the eventfd of a plugin that becomes readable when a PCI device appears, disappears, or gets another driver. `[any thread]`
///
/// # Errors
/// The kernel's error when it does not report changes to this process.
pub fn changes_fd(owner: usize) -> Result<RawFd> {
    let mut watch = watch();
    if !watch.is_running {
        let socket = open().map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            Error::new(errno, format!("the kernel does not report changes of PCI devices: {error}"))
        })?;
        std::thread::Builder::new().name("pci events".into()).spawn(move || listen(&socket))?;
        watch.is_running = true;
    }
    Ok(match watch.of_plugins.entry(owner) {
        Entry::Occupied(known) => known.get().as_raw_fd(),
        Entry::Vacant(new) => {
            new.insert(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?).as_raw_fd()
        }
    })
}

/// Closes the eventfd of a plugin that has ended. `[any thread]`
pub(crate) fn release_owner(owner: usize) {
    watch().of_plugins.remove(&owner);
}

/// Waits for events until the socket fails.
fn listen(socket: &OwnedFd) {
    let mut event = [0; EVENT_LEN_MAX];
    loop {
        match receive(socket, &mut event) {
            Ok(len) if !is_of_pci(event.get(..len).unwrap_or_default()) => continue,
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                // The kernel dropped events, which may have been about PCI devices.
                Some(libc::ENOBUFS) => {}
                _ => {
                    tracing::warn!("the host no longer notices new PCI devices: {error}");
                    watch().is_running = false;
                    return;
                }
            },
        }
        for fd in watch().of_plugins.values() {
            // An error means that the count is at its limit, so the eventfd is readable.
            let _ = fd.write(1);
        }
    }
}

/// Whether an event of the kernel is about a PCI device. It is a list of texts, each with a zero at its end: `ACTION@PATH`, then
/// `NAME=VALUE`.
fn is_of_pci(event: &[u8]) -> bool {
    event.split(|byte| *byte == 0).any(|text| text == b"SUBSYSTEM=pci")
}

fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call has no pointer.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut address = no_address();
    address.nl_groups = KERNEL_GROUP;
    // SAFETY: the address lives through the call, and the length is its own.
    let status = unsafe { libc::bind(fd, (&raw const address).cast(), ADDRESS_LEN) };
    if status == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Receives an event, and returns its length; 0 for an event that is not the kernel's.
fn receive(socket: &OwnedFd, event: &mut [u8]) -> io::Result<usize> {
    let (mut from, mut from_len) = (no_address(), ADDRESS_LEN);
    // SAFETY: the buffer and the address live through the call, and the lengths are theirs.
    let len = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            event.as_mut_ptr().cast(),
            event.len(),
            0,
            (&raw mut from).cast(),
            &raw mut from_len,
        )
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok(if from.nl_pid == 0 { len } else { 0 })
}

#[expect(clippy::cast_possible_truncation, reason = "an address is 12 bytes long")]
const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_nl>() as libc::socklen_t;

fn no_address() -> libc::sockaddr_nl {
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = u16::try_from(libc::AF_NETLINK).unwrap_or(0);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_pci_devices_count() {
        let of = |subsystem: &str| {
            let path = "add@/devices/pci0000:00/0000:01:00.0";
            format!("{path}\0ACTION=add\0SUBSYSTEM={subsystem}\0PCI_CLASS=10802\0SEQNUM=9\0")
        };
        assert!(is_of_pci(of("pci").as_bytes()));
        assert!(!is_of_pci(of("pci_bus").as_bytes()));
        assert!(!is_of_pci(of("block").as_bytes()));
        assert!(!is_of_pci(&[]));
        assert!(!is_of_pci(&[0xff; 100]));
    }

    #[test]
    fn a_plugin_has_one_eventfd_until_it_ends() {
        let fd = changes_fd(17).unwrap();
        assert_eq!(changes_fd(17).unwrap(), fd);
        assert_ne!(changes_fd(18).unwrap(), fd);
        release_owner(17);
        release_owner(18);
        assert!(!watch().of_plugins.contains_key(&17));
    }
}
