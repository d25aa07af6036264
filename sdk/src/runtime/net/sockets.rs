//! One thread's connections.

use super::stream::Stream;
use crate::error::{Error, Result, errno};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Maximum number of events per `look`.
const EVENTS: usize = 64;

/// Connections, each with a value. It tracks which of them have work. It uses edge-triggered epoll, so `look` costs one system call for
/// any number of connections.
pub struct Sockets<T> {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    max: usize,
    slots: Vec<Option<Box<Slot<T>>>>,
    free: Vec<usize>,
    active: Vec<usize>,
}

struct Slot<T> {
    stream: Stream,
    value: T,
    /// Whether the connection is in the list of those with work.
    is_active: bool,
}

/// What a connection does after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has work in the next round.
    Work,
    /// It waits for the peer, or for [`Sockets::activate`].
    Wait,
    /// It has ended. The stream and the value are dropped.
    End,
}

impl<T: fmt::Debug> fmt::Debug for Sockets<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.slots.iter().flatten().map(|slot| (&slot.stream, &slot.value));
        f.debug_list().entries(used).finish()
    }
}

impl<T> Sockets<T> {
    /// Creates a set for at most `max` connections.
    ///
    /// # Errors
    /// When the system is out of descriptors or memory.
    pub fn new(max: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            max,
            slots: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
        })
    }

    /// A descriptor that is readable when a socket has changed, for [`Poller::wake_fd`](crate::poller::Poller::wake_fd).
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are no connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a connection and returns its key. The connection gets a turn in the next round.
    ///
    /// # Errors
    /// `EAGAIN` when the set is full, or the errors of epoll_ctl(2). The stream is then closed.
    pub fn add(&mut self, stream: Stream, value: T) -> Result<usize> {
        if self.len() >= self.max {
            return Err(Error::new(
                errno::EAGAIN,
                format!("all {} connections are in use", self.max),
            ));
        }
        let key = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, &stream, EventData::new_u64(key as u64), flags)
        {
            self.free.push(key);
            return Err(io::Error::from(error).into());
        }
        if let Some(place) = self.slots.get_mut(key) {
            *place = Some(Box::new(Slot { stream, value, is_active: true }));
        }
        self.active.push(key);
        Ok(key)
    }

    /// Removes and returns a connection.
    pub fn remove(&mut self, key: usize) -> Option<(Stream, T)> {
        let slot = self.slots.get_mut(key)?.take()?;
        self.free.push(key);
        // Remove its entry in the list, so that a later connection with the same key is listed only once.
        self.active.retain(|active| *active != key);
        // An error means that the system has already removed the socket.
        let _ = epoll::delete(&self.epoll, &slot.stream);
        Some((slot.stream, slot.value))
    }

    /// One connection.
    pub fn get_mut(&mut self, key: usize) -> Option<(&mut Stream, &mut T)> {
        let slot = self.slots.get_mut(key)?.as_mut()?;
        Some((&mut slot.stream, &mut slot.value))
    }

    /// All connections, with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(key, slot)| {
            let slot = slot.as_mut()?;
            Some((key, &mut slot.stream, &mut slot.value))
        })
    }

    /// Gives a connection a turn in the next round, for example to send an answer that is ready.
    pub fn activate(&mut self, key: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(key)
            && !std::mem::replace(&mut slot.is_active, true)
        {
            self.active.push(key);
        }
    }

    /// Checks once which sockets have changed. Returns whether any has.
    pub fn look(&mut self) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        let space = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, space, Some(&NOW)).is_err() {
            return false;
        }
        for event in &self.events {
            let Ok(key) = usize::try_from(event.data.u64()) else { continue };
            let Some(Some(slot)) = self.slots.get_mut(key) else { continue };
            let flags = event.flags;
            let closed = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            slot.stream.changed(
                flags.contains(EventFlags::IN),
                flags.contains(EventFlags::OUT),
                flags.intersects(closed),
            );
            if !std::mem::replace(&mut slot.is_active, true) {
                self.active.push(key);
            }
        }
        !self.events.is_empty()
    }

    /// Gives each connection with work a turn. `turn` returns what the connection does next. A connection that has ended is closed
    /// and dropped.
    pub fn round(&mut self, mut turn: impl FnMut(usize, &mut Stream, &mut T) -> Next) {
        // Keep the list's memory for the next round. `is_active` records what a turn adds.
        let mut active = std::mem::take(&mut self.active);
        active.retain(|key| {
            let Some(place) = self.slots.get_mut(*key) else { return false };
            let Some(slot) = place else { return false };
            match turn(*key, &mut slot.stream, &mut slot.value) {
                Next::Work => true,
                Next::Wait => {
                    slot.is_active = false;
                    false
                }
                Next::End => {
                    // An error means that the system has already removed the socket.
                    let _ = epoll::delete(&self.epoll, &slot.stream);
                    *place = None;
                    self.free.push(*key);
                    false
                }
            }
        });
        self.active = active;
    }

    /// Whether a connection has work that no descriptor reports, for
    /// [`Poll::prepare_sleep`](crate::poller::Poll::prepare_sleep).
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.active.is_empty()
    }
}
