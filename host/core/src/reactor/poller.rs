//! Pollers: functions that a thread calls in every round, or once in a period.
#![expect(unsafe_code, reason = "pollers are function pointers of the ABI with their context")]

use crate::reactor::clock;
use crate::{Error, Result};
use drivebay_plugin_api::bay_poller_ops;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::os::fd::RawFd;

/// The state of a poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Paused,
    /// Unregistered; it is removed at the end of the round.
    Gone,
}

/// One poller. Its lightweight thread owns it.
#[derive(Debug)]
pub(crate) struct Poller {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// The address of the host table of the plugin that registered it; 0 = the host.
    pub(crate) owner: usize,
    pub(crate) state: Cell<State>,
    /// The period in nanoseconds; 0 = every round.
    pub(crate) period_ns: u64,
    next_run_ns: Cell<u64>,
    ops: bay_poller_ops,
    ctx: *mut c_void,
    pub(crate) wake_fds: RefCell<Vec<(RawFd, u32)>>,
    pub(crate) runs: Cell<u64>,
    pub(crate) busy_runs: Cell<u64>,
}

/// What `thread_get_pollers` reports about one poller.
#[derive(Clone, Debug)]
pub struct Info {
    /// Handle.
    pub id: u64,
    /// Name.
    pub name: String,
    /// `active`, `paused` or `waiting`.
    pub state: &'static str,
    /// The number of rounds in which it ran.
    pub runs: u64,
    /// The number of rounds in which it found work.
    pub busy_runs: u64,
    /// The period in microseconds; 0 = every round.
    pub period_us: u64,
}

impl Poller {
    /// # Errors
    /// `EINVAL` when there is no `run` function.
    ///
    /// # Safety
    /// The functions and `ctx` belong together and stay valid until the poller is unregistered.
    pub(crate) unsafe fn new(
        id: u64,
        name: String,
        owner: usize,
        ops: bay_poller_ops,
        ctx: *mut c_void,
        period_us: u64,
    ) -> Result<Self> {
        if ops.run.is_none() {
            return Err(Error::new(
                libc::EINVAL,
                format!("poller {name}: the run function is required"),
            ));
        }
        let period_ns = period_us.saturating_mul(1000);
        Ok(Self {
            id,
            name,
            owner,
            state: Cell::new(State::Active),
            period_ns,
            next_run_ns: Cell::new(clock::now().saturating_add(period_ns)),
            ops,
            ctx,
            wake_fds: RefCell::new(Vec::new()),
            runs: Cell::new(0),
            busy_runs: Cell::new(0),
        })
    }

    /// The address of its function, for the watchdog.
    pub(crate) fn function(&self) -> usize {
        self.ops.run.map_or(0, |run| run as usize)
    }

    /// Runs it if it is due. Returns whether it found work.
    pub(crate) fn round(&self, now_ns: u64) -> bool {
        if self.state.get() != State::Active {
            return false;
        }
        if self.period_ns != 0 {
            if now_ns < self.next_run_ns.get() {
                return false;
            }
            self.next_run_ns.set(now_ns.saturating_add(self.period_ns));
        }
        let Some(run) = self.ops.run else { return false };
        self.runs.set(self.runs.get() + 1);
        // SAFETY: both are valid until the poller is unregistered (contract of `new`), and this is
        // its thread.
        let found = unsafe { run(self.ctx) } > 0;
        if found {
            self.busy_runs.set(self.busy_runs.get() + 1);
        }
        found
    }

    /// Whether the poller keeps the reactor awake, because it has work or can only be polled.
    pub(crate) fn prepare_sleep(&self) -> bool {
        if self.state.get() != State::Active || self.period_ns != 0 {
            return false;
        }
        match self.ops.prepare_sleep {
            // SAFETY: as in `round`.
            Some(prepare) => unsafe { prepare(self.ctx) > 0 },
            None => true,
        }
    }

    pub(crate) fn woke(&self) {
        if self.state.get() == State::Active
            && let Some(woke) = self.ops.woke
        {
            // SAFETY: as in `round`.
            unsafe { woke(self.ctx) };
        }
    }

    /// When the poller must run next; `None` = only when something wakes it.
    pub(crate) fn deadline(&self) -> Option<u64> {
        if self.state.get() != State::Active {
            return None;
        }
        if self.period_ns != 0 {
            return Some(self.next_run_ns.get());
        }
        // SAFETY: as in `round`.
        let next = unsafe { self.ops.next_ns?(self.ctx) };
        (next != u64::MAX).then_some(next)
    }

    pub(crate) fn info(&self) -> Info {
        let state = match (self.state.get(), self.period_ns) {
            (State::Paused, _) => "paused",
            (_, 0) => "active",
            _ => "waiting",
        };
        Info {
            id: self.id,
            name: self.name.clone(),
            state,
            runs: self.runs.get(),
            busy_runs: self.busy_runs.get(),
            period_us: self.period_ns / 1000,
        }
    }
}
