//! How a reactor sleeps: `announce` orders sleep and wake-up; epoll and an eventfd do the waiting.
#![expect(unsafe_code, reason = "epoll and eventfd are system calls")]

use super::announce::Announcement;
use crate::Result;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[derive(Debug)]
pub(super) struct Sleeper {
    epoll: OwnedFd,
    event: OwnedFd,
    asleep: Announcement,
    /// Whether the reactor waits in the kernel. Only the reactor writes it.
    waits: AtomicBool,
}

/// The longest sleep, in milliseconds, so that counters stay current.
const LONGEST_MS: i32 = 10_000;
/// The thread id that the reactor's own eventfd uses: no thread has it.
const NOBODY: u64 = 0;

impl Sleeper {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: the call has no pointers, and its result is checked.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call has no pointers, and its result is checked.
        let event = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let (asleep, waits) = (Announcement::new(), AtomicBool::new(false));
        let sleeper = Self { epoll, event, asleep, waits };
        sleeper.watch(sleeper.event.as_raw_fd(), libc::EPOLLIN as u32, NOBODY)?;
        Ok(sleeper)
    }

    /// Adds a thread's descriptor that ends the sleep; with `events` 0 it removes the descriptor. A
    /// descriptor may be watched only once.
    pub(super) fn watch(&self, fd: RawFd, events: u32, thread: u64) -> Result<()> {
        let mut event = libc::epoll_event { events, u64: thread };
        let op = if events == 0 { libc::EPOLL_CTL_DEL } else { libc::EPOLL_CTL_ADD };
        // SAFETY: `event` is valid for the call, and the kernel refuses bad descriptors.
        let status = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &raw mut event) };
        if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }

    /// Whether the reactor waits in the kernel, after its callbacks have prepared for it. Any
    /// thread; the answer is not ordered with other memory accesses.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    pub(super) fn announce(&self) {
        self.asleep.make();
    }

    pub(super) fn revoke(&self) {
        self.asleep.revoke();
    }

    /// Waits for a wake-up, a descriptor or the deadline (nanoseconds on the host's clock). Returns
    /// the thread whose descriptor ended the sleep.
    pub(super) fn wait(&self, deadline: Option<u64>, now: u64) -> Option<u64> {
        let timeout = deadline.map_or(LONGEST_MS, |deadline| {
            // Rounded up, because a wake-up before the deadline would find nothing to do and sleep
            // again.
            let ms = deadline.saturating_sub(now).div_ceil(1_000_000);
            i32::try_from(ms).unwrap_or(LONGEST_MS).min(LONGEST_MS)
        });
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        self.waits.store(true, Ordering::Relaxed);
        // SAFETY: the array is valid for the call and has 8 elements.
        let found =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 8, timeout) };
        self.waits.store(false, Ordering::Relaxed);
        self.revoke();
        let found = events.iter().take(usize::try_from(found).unwrap_or(0));
        // I/O wakes through a thread's descriptor, and its round must start without an extra system
        // call. So the eventfd is only read when its event is in the list. If the list is full
        // without that event, the eventfd ends the next sleep.
        if found.clone().any(|event| event.u64 == NOBODY) {
            let mut count = 0_u64;
            // SAFETY: the call writes eight bytes to a local variable.
            unsafe { libc::read(self.event.as_raw_fd(), (&raw mut count).cast(), 8) };
        }
        found.map(|event| event.u64).find(|&thread| thread != NOBODY)
    }

    /// Wakes the reactor if it sleeps. Called after the work was made visible.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        self.wake_fenced();
    }

    /// As `wake`, for a caller that already has a full fence after its work.
    pub(super) fn wake_fenced(&self) {
        if self.asleep.is_made() {
            let one = 1_u64;
            // SAFETY: the call reads eight bytes from a local variable. If the counter is full, a
            // wake-up is already pending.
            unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }
}

fn owned(fd: RawFd) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
