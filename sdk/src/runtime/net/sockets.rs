//! One thread's connections.

use super::stream::Stream;
use crate::error::{Error, Result, errno};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Sockets that one look takes.
const EVENTS: usize = 64;

/// Connections with a value each, and which of them have something to do. They are watched edge-triggered: a look costs one system
/// call, however many there are.
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
    /// It is in the list of those that have something to do.
    is_active: bool,
}

/// What a connection is after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has something to do in the next round.
    Work,
    /// It waits for the peer, or for [`Sockets::activate`].
    Wait,
    /// It has ended: stream and value are dropped.
    End,
}

impl<T: fmt::Debug> fmt::Debug for Sockets<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.slots.iter().flatten().map(|slot| (&slot.stream, &slot.value));
        f.debug_list().entries(used).finish()
    }
}

impl<T> Sockets<T> {
    /// Room for `max` connections.
    ///
    /// # Errors
    /// When the system lacks descriptors or memory.
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

    /// What is readable when a socket has changed: for [`Poller::wake_fd`](crate::poller::Poller::wake_fd).
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a connection, which has a turn in the next round; its key.
    ///
    /// # Errors
    /// `EAGAIN` when there is no more room; what epoll_ctl(2) tells. The stream is closed then.
    pub fn add(&mut self, stream: Stream, value: T) -> Result<usize> {
        if self.len() >= self.max {
            return Err(Error::new(errno::EAGAIN, format!("there are {} connections", self.max)));
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

    /// Takes a connection out.
    pub fn remove(&mut self, key: usize) -> Option<(Stream, T)> {
        let slot = self.slots.get_mut(key)?.take()?;
        self.free.push(key);
        // Its turn may be in the list: a later connection with this key is added to it only once more.
        self.active.retain(|active| *active != key);
        // Fails when the system has forgotten the socket already, which is as good.
        let _ = epoll::delete(&self.epoll, &slot.stream);
        Some((slot.stream, slot.value))
    }

    /// One connection.
    pub fn get_mut(&mut self, key: usize) -> Option<(&mut Stream, &mut T)> {
        let slot = self.slots.get_mut(key)?.as_mut()?;
        Some((&mut slot.stream, &mut slot.value))
    }

    /// Every connection, by key.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(key, slot)| {
            let slot = slot.as_mut()?;
            Some((key, &mut slot.stream, &mut slot.value))
        })
    }

    /// Has a connection do something in the next round, such as send an answer that has become ready.
    pub fn activate(&mut self, key: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(key)
            && !std::mem::replace(&mut slot.is_active, true)
        {
            self.active.push(key);
        }
    }

    /// Asks once which sockets have changed; whether any has.
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

    /// Gives each connection that has something to do a turn. `turn` says what it is afterwards; a connection that has ended is closed
    /// and dropped.
    pub fn round(&mut self, mut turn: impl FnMut(usize, &mut Stream, &mut T) -> Next) {
        // The list keeps its memory; what a turn would add is kept by `is_active`.
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
                    // Fails when the system has forgotten the socket already, which is as good.
                    let _ = epoll::delete(&self.epoll, &slot.stream);
                    *place = None;
                    self.free.push(*key);
                    false
                }
            }
        });
        self.active = active;
    }

    /// Whether a round has something to do though no descriptor says so: for
    /// [`Poll::prepare_sleep`](crate::poller::Poll::prepare_sleep).
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.active.is_empty()
    }
}
