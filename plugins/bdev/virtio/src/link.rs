//! The queues of the current session, which a controller shares with the channels of its bdev.
//!
//! Each session has its own memory, queues and kicks, so an earlier back end cannot damage a later session. The generation
//! counts changes. A channel compares it in each round, and takes its new queue when it differs.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::{Error, Result, errno};
use drivebay_virtio::driver::DriverQueue;
use rustix::event::{EventfdFlags, eventfd};

/// The place of a channel. It outlives sessions. Channels write to their seats in each round, so seats share no cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Seat {
    /// Wakes the channel when the device has handed back requests, or the session has changed.
    pub(crate) call: OwnedFd,
    /// Requests at the device.
    num_at_device: AtomicU32,
    /// I/O that the device has ended, modulo 2^32.
    num_done: AtomicU32,
}

impl Seat {
    /// Stores what the device has and has done. `[reactor]`
    #[inline]
    pub(crate) fn note(&self, num_at_device: u32, num_done: u32) {
        self.num_at_device.store(num_at_device, Ordering::Relaxed);
        self.num_done.store(num_done, Ordering::Relaxed);
    }

    /// What the device has done, if it has requests now.
    fn progress(&self) -> Option<u32> {
        let has_some = self.num_at_device.load(Ordering::Relaxed) > 0;
        has_some.then(|| self.num_done.load(Ordering::Relaxed))
    }
}

/// The state of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A back end serves the queues.
    Up,
    /// There is no back end, and I/O waits for it.
    Waiting,
    /// I/O fails, because there is no back end for too long, or the last one broke a rule.
    Failing,
}

#[derive(Debug)]
pub(crate) struct Link {
    generation: AtomicU64,
    seats: Box<[Seat]>,
    state: Mutex<State>,
    /// Notified when a channel finds a broken device.
    pub(crate) broken: Notify,
    /// Notified when a channel finds a doubtful unit.
    pub(crate) doubted: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The queue of each seat, unless a channel has it.
    queues: Vec<Option<DriverQueue>>,
    /// For each seat, the eventfd that tells the device of the current session that there are requests.
    kicks: Vec<Arc<OwnedFd>>,
    is_taken: Vec<bool>,
    /// The last generation in which I/O failed; 0 = none.
    failed: u64,
    /// The broken rule that a channel found, with the generation.
    broken: Option<(u64, String)>,
}

/// The current session for a channel.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) generation: u64,
    /// The last generation in which I/O failed; 0 = none. A channel that knows only an earlier generation must fail the I/O that it
    /// has at the device, even if there is a session again.
    pub(crate) failed: u64,
    pub(crate) phase: Phase,
    pub(crate) queue: Option<DriverQueue>,
    pub(crate) kick: Option<Arc<OwnedFd>>,
}

impl Link {
    /// Creates a link without a session.
    ///
    /// # Errors
    /// `EMFILE` when the system is out of descriptors.
    pub(crate) fn new(num_queues: u16) -> Result<Self> {
        let seat =
            |_| Ok(Seat { call: new_eventfd()?, num_at_device: 0.into(), num_done: 0.into() });
        let seats = (0..num_queues).map(seat).collect::<Result<_>>()?;
        let state = State {
            phase: Phase::Waiting,
            queues: (0..num_queues).map(|_| None).collect(),
            kicks: Vec::new(),
            is_taken: vec![false; num_queues.into()],
            failed: 0,
            broken: None,
        };
        let (generation, state) = (AtomicU64::new(1), Mutex::new(state));
        Ok(Self { generation, seats, state, broken: Notify::new(), doubted: Notify::new() })
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Begins a session with these queues and their kicks. I/O in flight moves to them. `[app thread]`
    pub(crate) fn up(&self, queues: Vec<DriverQueue>, kicks: Vec<Arc<OwnedFd>>) {
        self.change(Phase::Up, queues.into_iter().map(Some).collect(), kicks);
    }

    /// Ends a session. I/O waits for the next one. `[app thread]`
    pub(crate) fn down(&self) {
        self.state().phase = Phase::Waiting;
    }

    /// Fails all I/O, including the I/O in flight, until the next session begins. `[app thread]`
    pub(crate) fn fail(&self) {
        self.change(Phase::Failing, self.seats.iter().map(|_| None).collect(), Vec::new());
    }

    fn change(&self, phase: Phase, queues: Vec<Option<DriverQueue>>, kicks: Vec<Arc<OwnedFd>>) {
        let mut state = self.state();
        (state.phase, state.queues, state.kicks, state.broken) = (phase, queues, kicks, None);
        let generation = self.generation.fetch_add(1, Ordering::Release) + 1;
        if phase == Phase::Failing {
            state.failed = generation;
        }
        self.wake_seats(&state);
    }

    /// Wakes the channels, because I/O of a doubtful unit can go on or fail. `[app thread]`
    pub(crate) fn wake(&self) {
        self.wake_seats(&self.state());
    }

    fn wake_seats(&self, state: &State) {
        for seat in
            self.seats.iter().zip(&state.is_taken).filter_map(|(seat, taken)| taken.then_some(seat))
        {
            signal(&seat.call);
        }
    }

    /// For each seat, what the device has done, if it has requests of the seat now. A seat whose value stays the same makes no
    /// progress. `[app thread]`
    pub(crate) fn progress(&self) -> Vec<Option<u32>> {
        self.seats.iter().map(Seat::progress).collect()
    }

    /// The rule that the device broke, if a channel has found one. `[app thread]`
    pub(crate) fn why_broken(&self) -> Option<String> {
        self.state().broken.as_ref().map(|(_, why)| why.clone())
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes a seat for a channel. `[reactor]`
    ///
    /// # Errors
    /// `EBUSY` when all seats are taken.
    pub(crate) fn sit(&self) -> Result<usize> {
        let mut state = self.state();
        let free = state.is_taken.iter().position(|is_taken| !is_taken);
        let seat = free.ok_or_else(|| {
            let count = state.is_taken.len();
            let why = format!(
                "all {count} queues are taken, one by each thread that uses the bdev; attach with a larger vq_count"
            );
            Error::new(errno::EBUSY, why)
        })?;
        if let Some(is_taken) = state.is_taken.get_mut(seat) {
            *is_taken = true;
        }
        Ok(seat)
    }

    /// Returns the current session, with the seat's queue. `[reactor]`
    pub(crate) fn look(&self, seat: usize) -> Found {
        let mut state = self.state();
        let queue = state.queues.get_mut(seat).and_then(Option::take);
        let kick = state.kicks.get(seat).cloned();
        let (generation, failed, phase) = (self.generation(), state.failed, state.phase);
        Found { generation, failed, phase, queue, kick }
    }

    /// Frees the seat of a channel, and returns the queue of its generation. `[reactor]`
    pub(crate) fn leave(&self, seat: usize, queue: Option<DriverQueue>, generation: u64) {
        let mut state = self.state();
        if self.generation() == generation
            && let Some(place) = state.queues.get_mut(seat)
        {
            *place = queue;
        }
        if let Some(is_taken) = state.is_taken.get_mut(seat) {
            *is_taken = false;
        }
    }

    /// Reports that the device broke a rule. `[reactor]`
    pub(crate) fn report(&self, generation: u64, why: String) {
        let mut state = self.state();
        if self.generation() == generation && state.broken.is_none() {
            state.broken = Some((generation, why));
        }
        drop(state);
        self.broken.notify();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates an eventfd that does not block.
///
/// # Errors
/// `EMFILE` when the system is out of descriptors.
pub(crate) fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::new(error.raw_os_error(), format!("eventfd: {error}")))
}

/// Adds one to an eventfd. If it is full, it wakes its reader anyway.
pub(crate) fn signal(fd: &OwnedFd) {
    #[expect(clippy::host_endian_bytes, reason = "an eventfd uses the byte order of this machine")]
    let one = 1_u64.to_ne_bytes();
    let _ = rustix::io::write(fd, &one);
}

/// Empties an eventfd.
pub(crate) fn clear(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_a_queue_of_its_own_and_the_error_names_the_parameter_when_there_is_none() {
        let link = Link::new(2).unwrap();
        assert_eq!((link.sit().unwrap(), link.sit().unwrap()), (0, 1));
        let error = link.sit().unwrap_err();
        assert_eq!(error.errno(), errno::EBUSY);
        assert!(error.message().contains("vq_count"), "{error}");
        link.leave(0, None, link.generation());
        assert_eq!(link.sit().unwrap(), 0);
    }

    #[test]
    fn an_earlier_back_end_cannot_take_the_kicks_of_a_later_session() {
        let link = Link::new(1).unwrap();
        let seat = link.sit().unwrap();
        let kick = || {
            link.up(Vec::new(), vec![Arc::new(new_eventfd().unwrap())]);
            link.look(seat).kick.unwrap()
        };
        let (earlier, later) = (kick(), kick());
        signal(&later);
        let mut count = [0; 8];
        assert!(rustix::io::read(&*earlier, &mut count).is_err(), "no kick");
        assert_eq!(rustix::io::read(&*later, &mut count).unwrap(), 8);
    }

    #[test]
    fn a_change_wakes_the_channels_and_forgets_what_was_found_before() {
        let link = Link::new(2).unwrap();
        let seat = link.sit().unwrap();
        let before = link.look(seat);
        assert_eq!(before.phase, Phase::Waiting);
        link.report(before.generation, "a jump".to_owned());
        assert_eq!(link.why_broken().as_deref(), Some("a jump"));
        link.fail();
        assert_eq!(link.why_broken(), None);
        link.report(before.generation, "too late".to_owned());
        assert_eq!(link.why_broken(), None);
        let now = link.look(seat);
        assert_eq!((now.phase, now.generation), (Phase::Failing, before.generation + 1));
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&link.seats()[0].call, &mut count).unwrap(), 8);
        assert!(rustix::io::read(&link.seats()[1].call, &mut count).is_err(), "nobody sits there");
    }

    #[test]
    fn a_channel_that_slept_through_a_failure_still_learns_of_it_in_the_next_session() {
        let link = Link::new(1).unwrap();
        let seat = link.sit().unwrap();
        link.up(Vec::new(), Vec::new());
        let before = link.look(seat);
        assert_eq!(before.failed, 0);
        link.fail();
        link.up(Vec::new(), Vec::new());
        let now = link.look(seat);
        assert_eq!(now.phase, Phase::Up);
        assert!(now.failed > before.generation);
        link.up(Vec::new(), Vec::new());
        assert!(link.look(seat).failed < now.generation, "a later session fails nothing");
    }
}
