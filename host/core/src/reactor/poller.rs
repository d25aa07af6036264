//! Pollers: functions that a thread calls every round, or every so many microseconds.
#![expect(unsafe_code, reason = "pollers are function pointers of the ABI with their context")]

use crate::reactor::{clock, thread};
use crate::{Error, Result};
use drivebay_plugin_api::bay_poller_ops;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::os::fd::RawFd;

/// How a poller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Paused,
    /// Unregistered; removed at the end of the round.
    Gone,
}

/// One poller. Owned by its lightweight thread.
#[derive(Debug)]
pub(crate) struct Poller {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// The host table of the plugin that registered it, 0 = the host itself.
    pub(crate) owner: usize,
    pub(crate) state: Cell<State>,
    /// 0 = every round.
    pub(crate) period_ns: u64,
    next_run_ns: Cell<u64>,
    ops: bay_poller_ops,
    ctx: *mut c_void,
    pub(crate) wake_fds: RefCell<Vec<(RawFd, u32)>>,
    pub(crate) runs: Cell<u64>,
    pub(crate) busy_runs: Cell<u64>,
}

/// What `thread_get_pollers` shows.
#[derive(Clone, Debug)]
pub struct Info {
    /// Handle.
    pub id: u64,
    /// Name.
    pub name: String,
    /// `active`, `paused` or `waiting`.
    pub state: &'static str,
    /// Rounds it ran.
    pub runs: u64,
    /// Rounds in which it found work.
    pub busy_runs: u64,
    /// Period in microseconds; 0 = every round.
    pub period_us: u64,
}

impl Poller {
    /// # Errors
    /// `EINVAL` without a `run` function.
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
            return Err(Error::new(libc::EINVAL, format!("poller {name}: it has no run function")));
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

    /// Address of its function, for the watchdog.
    pub(crate) fn function(&self) -> usize {
        self.ops.run.map_or(0, |run| run as usize)
    }

    /// Runs it if it is due; whether it found work.
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
        // SAFETY: valid together until unregistered (contract of `new`); this is its thread.
        let found = unsafe { run(self.ctx) } > 0;
        if found {
            self.busy_runs.set(self.busy_runs.get() + 1);
        }
        found
    }

    /// Whether it forbids sleep: it has work, or it can only be polled.
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

    /// When it must run next, if it must.
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

/// A poller of the host itself, on the current thread. It never keeps the reactor awake when it has
/// a period; without one it is polled only.
///
/// # Errors
/// `EPERM` outside of a lightweight thread.
pub fn register(name: &str, period_us: u64, poll: impl FnMut() -> bool + 'static) -> Result<u64> {
    let boxed: Box<Box<dyn FnMut() -> bool>> = Box::new(Box::new(poll));
    let ctx = Box::into_raw(boxed).cast::<c_void>();
    let ops = bay_poller_ops {
        size: 0,
        flags: 0,
        run: Some(run_boxed),
        prepare_sleep: None,
        woke: None,
        next_ns: None,
    };
    // The closure is never freed: the host's own pollers live as long as their thread.
    thread::with_current(|thread| {
        // SAFETY: `run_boxed` fits the context, which is leaked.
        unsafe { thread.add_poller(name.to_owned(), 0, ops, ctx, period_us) }
    })
    .unwrap_or_else(|| Err(Error::new(libc::EPERM, "not on a lightweight thread")))
}

unsafe extern "C" fn run_boxed(ctx: *mut c_void) -> i32 {
    // SAFETY: `register` leaked a box of this type as the context, and one thread runs it.
    let poll = unsafe { &mut *ctx.cast::<Box<dyn FnMut() -> bool>>() };
    i32::from(poll())
}
