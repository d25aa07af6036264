//! Outgoing connections, without blocking.

use super::address::Address;
use super::stream::{Options, Stream, pending_error};
use crate::error::{Error, Result};
use crate::poller::{Poll as Round, Poller};
use crate::runtime::task;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Connects within `limit`. `[any lightweight thread]`
///
/// # Errors
/// `ETIMEDOUT`, `ECONNREFUSED` and other errors of connect(2). The text names the address.
pub async fn connect(address: &Address, options: &Options, limit: Duration) -> Result<Stream> {
    let named = |error: Error| {
        let message = format!("connecting to {address}: {}", error.message());
        Error::new(error.errno(), message)
    };
    let socket = begin(address, options).map_err(named)?;
    let connected = task::timeout(limit, async {
        ready(socket.as_fd(), PollFlags::OUT).await?;
        pending_error(&socket)
    });
    connected.await.unwrap_or_else(|elapsed| Err(elapsed.into())).map_err(named)?;
    Ok(Stream::new(socket))
}

/// Starts to connect.
fn begin(address: &Address, options: &Options) -> Result<OwnedFd> {
    let family = match address {
        Address::Ip(ip) if ip.is_ipv4() => AddressFamily::INET,
        Address::Ip(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let begun = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        options.apply_buffers(&socket)?;
        let connected = match address {
            Address::Ip(ip) => {
                options.apply_tcp(&socket)?;
                rustix::net::connect(&socket, ip)
            }
            Address::Unix(path) => rustix::net::connect(&socket, &SocketAddrUnix::new(path)?),
        };
        match connected {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    };
    begun().map_err(|error| Error::from(io::Error::from(error)))
}

/// Waits until the descriptor is ready, with a poller that exists only for this wait.
pub(super) async fn ready(fd: BorrowedFd<'_>, events: PollFlags) -> Result<()> {
    if is_ready(fd, events)? {
        return Ok(());
    }
    // The poller uses a copy of the descriptor, which it owns.
    let copy = fd.try_clone_to_owned()?;
    let waker = Rc::new(RefCell::new(None));
    let raw = copy.as_raw_fd();
    let watch = Watch { fd: copy, events, waker: Rc::clone(&waker) };
    let poller = Poller::register("socket", 0, watch)?;
    poller.wake_fd(raw, u32::from(events.bits()))?;
    let waited = std::future::poll_fn(|context| match is_ready(fd, events) {
        Ok(false) => {
            waker.replace(Some(context.waker().clone()));
            Poll::Pending
        }
        ready => Poll::Ready(ready.map(drop)),
    })
    .await;
    // Drop the poller before its copy is closed.
    drop(poller);
    waited
}

fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> Result<bool> {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    match rustix::event::poll(&mut fds, Some(&NOW)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(Error::new(error.raw_os_error(), io::Error::from(error).to_string())),
    }
}

/// Wakes a task when its descriptor is ready.
struct Watch {
    fd: OwnedFd,
    events: PollFlags,
    waker: Rc<RefCell<Option<Waker>>>,
}

impl Round for Watch {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        if self.waker.borrow().is_none()
            || matches!(is_ready(self.fd.as_fd(), self.events), Ok(false))
        {
            return false;
        }
        let waker = self.waker.take();
        waker.map(Waker::wake).is_some()
    }
}
