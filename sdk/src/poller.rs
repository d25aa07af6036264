//! Pollers: code that the current thread runs in every round, or periodically.
#![expect(unsafe_code, reason = "the host passes a pointer to the poller")]

use crate::entry::enter;
use crate::error::{Result, check};
use crate::host::host;
use drivebay_plugin_api::{bay_poller_ops, bay_str};
use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_void;
use std::os::fd::RawFd;
use std::rc::Rc;

/// The functions of a poller. All run on the thread that registered it.
pub trait Poll: 'static {
    /// Whether the thread may sleep. If so, [`prepare_sleep`](Self::prepare_sleep) must arm the wake-ups. A
    /// poller that cannot wake its thread keeps the reactor spinning.
    const SLEEPS: bool = false;

    /// Runs one round. Returns whether it did work.
    fn poll(&mut self) -> bool;

    /// Arms the wake-ups, then checks for work again. Returns whether there is work, so the thread must not sleep.
    fn prepare_sleep(&mut self) -> bool {
        false
    }

    /// The thread has woken up.
    fn woke(&mut self) {}

    /// When the poller must run next, on the host's clock in nanoseconds; `u64::MAX` = only when woken.
    fn next_ns(&mut self) -> u64 {
        u64::MAX
    }
}

/// A closure is a poller that never lets its thread sleep.
impl<F: FnMut() -> bool + 'static> Poll for F {
    fn poll(&mut self) -> bool {
        self()
    }
}

/// A registered poller. Dropping it unregisters it, even while it runs.
#[derive(Debug)]
pub struct Poller {
    id: u64,
    /// Keeps the memory alive that the host points to.
    _cell: Rc<dyn Any>,
}

impl Poller {
    /// Adds a poller to the current thread. `period_us` in microseconds, 0 = every round. `[reactor]`
    ///
    /// # Errors
    /// The errors of the host, such as when the caller is not on a lightweight thread.
    pub fn register<P: Poll>(name: &str, period_us: u64, poll: P) -> Result<Self> {
        let cell = Rc::new(RefCell::new(poll));
        let host = host();
        let mut id = 0;
        let ctx = Rc::as_ptr(&cell).cast_mut().cast();
        // SAFETY: the functions are constants, and `ctx` lives until the poller is unregistered.
        let status = unsafe {
            (host.poller.register)(
                host.raw,
                Ops::<P>::TABLE,
                ctx,
                period_us,
                bay_str::new(name),
                &raw mut id,
            )
        };
        check(status, format_args!("poller {name}"))?;
        Ok(Self { id, _cell: cell })
    }

    /// Stops the poller until [`resume`](Self::resume).
    pub fn pause(&self) {
        let host = host();
        // SAFETY: `self` owns the handle and is on the poller's thread, because it is not `Send`.
        unsafe { (host.poller.pause)(host.raw, self.id) };
    }

    /// Starts a paused poller again.
    pub fn resume(&self) {
        let host = host();
        // SAFETY: as `pause`.
        unsafe { (host.poller.resume)(host.raw, self.id) };
    }

    /// Lets a file descriptor wake the thread. `events` as in poll(2); 0 removes the descriptor.
    /// Remove the descriptor before you close it.
    ///
    /// # Errors
    /// The errors of the host, such as for a closed descriptor.
    pub fn wake_fd(&self, fd: RawFd, events: u32) -> Result<()> {
        let host = host();
        // SAFETY: `self` owns the handle, and this is its thread.
        check(unsafe { (host.poller.wake_fd)(host.raw, self.id, fd, events) }, "wake fd")
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let host = host();
        // SAFETY: `self` owns the handle, and this is its thread; the cell outlives the call.
        unsafe { (host.poller.unregister)(host.raw, self.id) };
    }
}

struct Ops<P>(P);

impl<P: Poll> Ops<P> {
    #[expect(clippy::cast_possible_truncation, reason = "a table is far smaller than 4 GiB")]
    const TABLE: &'static bay_poller_ops = &bay_poller_ops {
        size: size_of::<bay_poller_ops>() as u32,
        flags: 0,
        run: Some(run::<P>),
        prepare_sleep: if P::SLEEPS { Some(prepare_sleep::<P>) } else { None },
        woke: Some(woke::<P>),
        next_ns: if P::SLEEPS { Some(next_ns::<P>) } else { None },
    };
}

/// Runs `body` on the poller at `ctx` and keeps the poller alive meanwhile. Returns `otherwise` when it is running already.
///
/// # Safety
/// `register::<P>` gave `ctx` to the host, and the poller was not unregistered before this call.
#[inline]
unsafe fn with<P: Poll, R>(ctx: *mut c_void, otherwise: R, body: impl FnOnce(&mut P) -> R) -> R
where
    R: Copy,
{
    let cell = ctx.cast_const().cast::<RefCell<P>>();
    // SAFETY: `ctx` came from an `Rc` that a `Poller` still holds.
    unsafe { Rc::increment_strong_count(cell) };
    // SAFETY: this function owns the count that it has just added.
    let cell = unsafe { Rc::from_raw(cell) };
    enter(otherwise, move || match cell.try_borrow_mut() {
        Ok(mut poll) => body(&mut poll),
        Err(_) => otherwise,
    })
}

unsafe extern "C" fn run<P: Poll>(ctx: *mut c_void) -> i32 {
    // SAFETY: the host passes the `ctx` of a registered poller.
    unsafe { with::<P, _>(ctx, 0, |poll| i32::from(poll.poll())) }
}

unsafe extern "C" fn prepare_sleep<P: Poll>(ctx: *mut c_void) -> i32 {
    // SAFETY: as `run`.
    unsafe { with::<P, _>(ctx, 0, |poll| i32::from(poll.prepare_sleep())) }
}

unsafe extern "C" fn woke<P: Poll>(ctx: *mut c_void) {
    // SAFETY: as `run`.
    unsafe { with::<P, _>(ctx, (), Poll::woke) };
}

unsafe extern "C" fn next_ns<P: Poll>(ctx: *mut c_void) -> u64 {
    // SAFETY: as `run`.
    unsafe { with::<P, _>(ctx, u64::MAX, Poll::next_ns) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;
    use std::cell::Cell;

    #[test]
    fn a_poller_may_be_dropped_from_inside_its_own_run() {
        let host = FakeHost::new();
        let (slot, runs) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(0)));
        let (inner_slot, inner_runs) = (Rc::clone(&slot), Rc::clone(&runs));
        let poll = move || {
            drop(inner_slot.take());
            inner_runs.set(inner_runs.get() + 1);
            true
        };
        *slot.borrow_mut() = Some(Poller::register("once", 0, poll).unwrap());
        host.run();
        host.run();
        assert_eq!((runs.get(), Rc::strong_count(&runs)), (1, 1));
    }
}
