//! `bay.poller/1` for a guarded plugin: every call of a poller is watched.

use super::core;
use crate::calls::{self, Call};
use drivebay_core::reactor::thread;
use drivebay_core::services::string;
use drivebay_plugin_api::*;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// The number of removed pollers that are kept, because a poller may remove itself while it runs.
const KEPT: usize = 64;

/// A poller of the plugin.
#[derive(Clone, Copy)]
struct Watched {
    ops: bay_poller_ops,
    ctx: *mut c_void,
}

#[derive(Default)]
struct All {
    /// By thread and handle: the address of the [`Watched`], and whether it keeps its reactor
    /// awake.
    live: BTreeMap<(u64, u64), (usize, bool)>,
    removed: VecDeque<usize>,
}

static ALL: Mutex<Option<All>> = Mutex::new(None);

fn with_all<T>(f: impl FnOnce(&mut All) -> T) -> T {
    let mut all: MutexGuard<'_, Option<All>> = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    f(all.get_or_insert_with(All::default))
}

/// The number of the plugin's pollers that have neither a period nor `prepare_sleep`. A reactor
/// with such a poller never sleeps.
#[must_use]
pub fn only_polled() -> usize {
    with_all(|all| all.live.values().filter(|(_, is_only_polled)| *is_only_polled).count())
}

/// The number of pollers of the plugin.
pub(super) fn live() -> u64 {
    with_all(|all| all.live.len() as u64)
}

pub(super) static TABLE: LazyLock<bay_poller_api> = LazyLock::new(|| bay_poller_api {
    register: Some(register),
    unregister: Some(unregister),
    ..*core::poller()
});

unsafe extern "C" fn register(
    host: *const bay_host,
    ops: *const bay_poller_ops,
    ctx: *mut c_void,
    period_us: u64,
    name: bay_str,
    poller: *mut u64,
) -> i32 {
    let _host = calls::leave();
    // SAFETY: an open struct of the ABI, valid for the call.
    let Some(ops) = (unsafe { copy_open(ops) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    tracing::debug!("poller {}", unsafe { string(name) });
    let Some(register) = core::poller().register else { return -libc::ENOSYS };
    let watched = Box::into_raw(Box::new(Watched { ops, ctx }));
    let shown = bay_poller_ops {
        size: u32::try_from(size_of::<bay_poller_ops>()).unwrap_or(0),
        flags: ops.flags,
        run: ops.run.map(|_| run as bay_poll_fn),
        prepare_sleep: ops.prepare_sleep.map(|_| prepare_sleep as bay_poll_fn),
        woke: ops.woke.map(|_| woke as bay_poller_woke_fn),
        next_ns: ops.next_ns.map(|_| next_ns as bay_poller_next_fn),
    };
    // SAFETY: the guard's functions call the plugin's, which live until the poller is removed.
    let status =
        unsafe { register(host, &raw const shown, watched.cast(), period_us, name, poller) };
    if status == 0 {
        // SAFETY: the plugin passes a valid pointer, which the host has filled.
        let key = (thread::current_id(), unsafe { poller.read() });
        let is_only_polled = ops.prepare_sleep.is_none() && period_us == 0;
        with_all(|all| all.live.insert(key, (watched as usize, is_only_polled)));
    } else {
        // SAFETY: the host refused the poller, so it still belongs to us.
        drop(unsafe { Box::from_raw(watched) });
    }
    status
}

unsafe extern "C" fn unregister(host: *const bay_host, poller: u64) -> i32 {
    let _host = calls::leave();
    let Some(unregister) = core::poller().unregister else { return -libc::ENOSYS };
    // SAFETY: forwards.
    let status = unsafe { unregister(host, poller) };
    let key = (thread::current_id(), poller);
    let oldest = with_all(|all| {
        let (watched, _) = all.live.remove(&key)?;
        all.removed.push_back(watched);
        if all.removed.len() > KEPT { all.removed.pop_front() } else { None }
    });
    if let Some(oldest) = oldest {
        // SAFETY: it was removed long ago, so it is not on any stack any more.
        drop(unsafe { Box::from_raw(oldest as *mut Watched) });
    }
    status
}

/// # Safety
/// `ctx` is what `register` gave the host.
unsafe fn of(ctx: *mut c_void) -> Watched {
    // SAFETY: the guard keeps it for a while after the removal (contract).
    unsafe { *ctx.cast::<Watched>() }
}

unsafe extern "C" fn run(ctx: *mut c_void) -> i32 {
    // SAFETY: the host passes the guard's context.
    let Watched { ops, ctx } = unsafe { of(ctx) };
    let _entered = calls::enter(Call::Poll);
    // SAFETY: these are the plugin's own function and context, on the poller's thread.
    ops.run.map_or(0, |run| unsafe { run(ctx) })
}

unsafe extern "C" fn prepare_sleep(ctx: *mut c_void) -> i32 {
    // SAFETY: the host passes the guard's context.
    let Watched { ops, ctx } = unsafe { of(ctx) };
    let _entered = calls::enter(Call::PrepareSleep);
    // SAFETY: as in `run`.
    ops.prepare_sleep.map_or(0, |prepare| unsafe { prepare(ctx) })
}

unsafe extern "C" fn woke(ctx: *mut c_void) {
    // SAFETY: the host passes the guard's context.
    let Watched { ops, ctx } = unsafe { of(ctx) };
    if let Some(woke) = ops.woke {
        let _entered = calls::enter(Call::Woke);
        // SAFETY: as in `run`.
        unsafe { woke(ctx) };
    }
}

unsafe extern "C" fn next_ns(ctx: *mut c_void) -> u64 {
    // SAFETY: the host passes the guard's context.
    let Watched { ops, ctx } = unsafe { of(ctx) };
    let _entered = calls::enter(Call::NextNs);
    // SAFETY: as in `run`.
    ops.next_ns.map_or(u64::MAX, |next| unsafe { next(ctx) })
}
