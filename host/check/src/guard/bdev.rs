//! `bay.bdev/1` for a guarded plugin: each bdev is registered with the guard's functions, which
//! call the plugin's.

use super::core;
use super::request::{self, Origin};
use crate::breach;
use crate::calls::{self, Call};
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Handles of channels that the suite makes without the bus have this bit.
pub(crate) const OF_SUITE: u64 = 1 << 63;

/// A bdev of the guarded plugin.
pub struct Guarded {
    /// The record of the registration. Its texts and lists are not valid any more.
    pub record: bay_bdev_reg,
    /// The name of the bdev.
    pub name: String,
    pub(crate) submit: bay_submit_fn,
    ops: bay_bdev_ops,
    /// The functions that the bus got. They live as long as the bdev.
    shown: bay_bdev_ops,
}

// SAFETY: the plugin's context is only passed to its own functions, on the threads that the ABI
// names.
unsafe impl Send for Guarded {}
// SAFETY: as above; all other fields are constant.
unsafe impl Sync for Guarded {}

/// Gets the status of a pending operation.
type ChannelDone = fn(*const GuardedChannel, i32);

/// One thread's part of a bdev.
pub(crate) struct GuardedChannel {
    pub(crate) bdev: Arc<Guarded>,
    pub(crate) module: Cell<*mut c_void>,
    pub(crate) outstanding: Cell<u32>,
    is_entered: Cell<bool>,
    host_chan: u64,
    /// Called when a pending creation or destruction has finished, for channels of the suite.
    pub(crate) on_done: Cell<Option<ChannelDone>>,
}

/// The host is inside one of a channel's functions until this is dropped.
pub(crate) struct Inside<'a> {
    channel: &'a GuardedChannel,
    is_nested: bool,
    _entered: calls::Entered,
}

impl GuardedChannel {
    /// Records that the host enters the channel. It must not do so from inside another function of
    /// the channel, because modules rely on that.
    pub(crate) fn enter(&self, call: Call) -> Inside<'_> {
        let is_nested = self.is_entered.replace(true);
        if is_nested {
            breach::record(
                "the host calls only one of submit, flush and chan_destroy of a channel at a time",
                format!("it called {} from inside another one", calls::name(call as u32)),
            );
        }
        Inside { channel: self, is_nested, _entered: calls::enter(call) }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.channel.is_entered.set(self.is_nested);
    }
}

#[derive(Default)]
struct Table {
    bdevs: BTreeMap<u64, Arc<Guarded>>,
    /// The channels whose creation or destruction is pending, by thread and handle.
    pending: BTreeMap<(u64, u64), usize>,
}

static ALL: Mutex<Option<Table>> = Mutex::new(None);

fn with_all<T>(f: impl FnOnce(&mut Table) -> T) -> T {
    let mut all: MutexGuard<'_, Option<Table>> = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    f(all.get_or_insert_with(Table::default))
}

/// The guarded plugin's bdevs, the oldest first.
#[must_use]
pub fn bdevs() -> Vec<Arc<Guarded>> {
    with_all(|all| all.bdevs.values().cloned().collect())
}

pub(super) static TABLE: LazyLock<bay_bdev_api> = LazyLock::new(|| bay_bdev_api {
    register: Some(register),
    unregister: Some(unregister),
    destruct_done: Some(destruct_done),
    chan_ready: Some(chan_ready),
    chan_closed: Some(chan_closed),
    kick: Some(kick),
    ..*core::bdev()
});

impl Guarded {
    pub(crate) fn drv_ctx_len(&self) -> usize {
        self.record.drv_ctx_size as usize
    }

    /// Whether the bdev declares the op.
    #[must_use]
    pub fn declares(&self, op: u16) -> bool {
        op < 64 && self.record.ops_mask & (1 << op) != 0
    }
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("name", &self.name).finish_non_exhaustive()
    }
}

unsafe extern "C" fn register(
    host: *const bay_host,
    reg: *const bay_bdev_reg,
    id: *mut u64,
) -> i32 {
    let _host = calls::leave();
    // SAFETY: an open struct of the ABI, valid for the call.
    let Some(mut record) = (unsafe { copy_open(reg) }) else { return -libc::EINVAL };
    // SAFETY: as above; the functions live as long as the bdev.
    let Some(ops) = (unsafe { copy_open(record.ops) }) else { return -libc::EINVAL };
    let Some(submit) = ops.submit else { return -libc::EINVAL };
    check_record(&record);
    // SAFETY: the text is valid for the call.
    let name = unsafe { drivebay_core::services::string(record.name) };
    let bdev = Arc::new(Guarded { record, name, submit, ops, shown: shown(&ops) });
    record.size = drivebay_size::<bay_bdev_reg>();
    record.ops = &raw const bdev.shown;
    record.ctx = Arc::into_raw(Arc::clone(&bdev)).cast_mut().cast();
    let mut handle = 0;
    let Some(register) = core::bdev().register else { return -libc::ENOSYS };
    // SAFETY: the record is a copy of the plugin's, with the guard's functions.
    let status = unsafe { register(host, &raw const record, &raw mut handle) };
    if status != 0 {
        // SAFETY: the bus refused the bdev, so it still belongs to us.
        drop(unsafe { Arc::from_raw(record.ctx.cast_const().cast::<Guarded>()) });
        return status;
    }
    with_all(|all| all.bdevs.insert(handle, bdev));
    if !id.is_null() {
        // SAFETY: the plugin passes a valid pointer for the handle.
        unsafe { id.write(handle) };
    }
    0
}

fn drivebay_size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}

fn check_record(record: &bay_bdev_reg) {
    const RULE: &str = "a bdev only declares what the ABI defines";
    let known_ops = (1_u64 << (BAY_OP_COPY + 1)) - 2;
    if record.ops_mask & !known_ops != 0 {
        breach::record(RULE, format!("ops_mask {:#x} has bits that are not ops", record.ops_mask));
    }
    let known = BAY_BDEV_WRITE_CACHE
        | BAY_BDEV_READ_ONLY
        | BAY_BDEV_FILTER
        | BAY_BDEV_NO_DATA
        | BAY_BDEV_UNMAPPED_ZEROES;
    if record.flags & !known != 0 {
        breach::record(RULE, format!("flags {:#x} has bits that are not BAY_BDEV_*", record.flags));
    }
    if record.must_flags & !BAY_IO_FUA != 0 {
        breach::record(RULE, format!("must_flags {:#x} has unknown bits", record.must_flags));
    }
}

/// The guard's functions, one for each function that the plugin has.
fn shown(ops: &bay_bdev_ops) -> bay_bdev_ops {
    bay_bdev_ops {
        size: drivebay_size::<bay_bdev_ops>(),
        flags: ops.flags,
        submit: Some(submit),
        flush: ops.flush.map(|_| flush as bay_flush_fn),
        chan_create: ops.chan_create.map(|_| chan_create as bay_chan_create_fn),
        chan_destroy: ops.chan_destroy.map(|_| chan_destroy as bay_chan_destroy_fn),
        destruct: ops.destruct.map(|_| destruct as bay_destruct_fn),
        dump_info: ops.dump_info.map(|_| dump_info as bay_dump_fn),
        write_config: ops.write_config.map(|_| write_config as bay_dump_fn),
        dump_stats: ops.dump_stats.map(|_| dump_stats as bay_dump_fn),
        reset_stats: ops.reset_stats.map(|_| reset_stats as bay_reset_stats_fn),
        space: ops.space.map(|_| space as bay_space_fn),
    }
}

/// # Safety
/// `ctx` is what `register` gave the bus, and the bdev is not destructed.
unsafe fn of<'a>(ctx: *mut c_void) -> &'a Guarded {
    // SAFETY: the bus holds a count of it (contract).
    unsafe { &*ctx.cast_const().cast::<Guarded>() }
}

/// # Safety
/// As for [`of`].
unsafe fn counted(ctx: *mut c_void) -> Arc<Guarded> {
    let bdev = ctx.cast_const().cast::<Guarded>();
    // SAFETY: `Arc::into_raw` made it, and the bus holds a count of it (contract).
    unsafe { Arc::increment_strong_count(bdev) };
    // SAFETY: this is the count of the line before.
    unsafe { Arc::from_raw(bdev) }
}

/// Releases the bus's count.
fn forget(ctx: *mut c_void) {
    // SAFETY: `register` gave it away, and it is taken back once, after the destruction.
    let bdev = unsafe { Arc::from_raw(ctx.cast_const().cast::<Guarded>()) };
    with_all(|all| all.bdevs.retain(|_, other| !Arc::ptr_eq(other, &bdev)));
}

unsafe extern "C" fn submit(chan: *mut c_void, io: *mut bay_io) {
    // SAFETY: `chan_create` made this channel, and the bus has not destroyed it.
    let channel = unsafe { &*chan.cast_const().cast::<GuardedChannel>() };
    // SAFETY: it is the bus's request, which the guard owns until its `done`.
    let from = unsafe { &*io };
    request::submit(channel, from, Origin::Bus(io));
}

unsafe extern "C" fn flush(chan: *mut c_void) {
    // SAFETY: the channel is alive.
    flush_module(unsafe { &*chan.cast_const().cast::<GuardedChannel>() });
}

/// Calls the module's `flush`: a burst has ended.
pub(crate) fn flush_module(channel: &GuardedChannel) {
    if let Some(flush) = channel.bdev.ops.flush {
        let _inside = channel.enter(Call::Flush);
        // SAFETY: these are the module's own function and channel, on its thread.
        unsafe { flush(channel.module.get()) };
    }
}

unsafe extern "C" fn chan_create(
    ctx: *mut c_void,
    args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    // SAFETY: the bdev is alive.
    let bdev = unsafe { counted(ctx) };
    // SAFETY: the bus passes arguments that are valid for the call.
    let args = unsafe { &*args };
    let (status, channel) = open_channel(bdev, args);
    // SAFETY: the bus passes a valid pointer for the result.
    unsafe { chan.write(channel.cast_mut().cast()) };
    status
}

/// Makes the module create a channel: 0, 1 for pending, or a negative errno with a null pointer.
pub(crate) fn open_channel(
    bdev: Arc<Guarded>,
    args: &bay_chan_args,
) -> (i32, *const GuardedChannel) {
    let Some(create) = bdev.ops.chan_create else { return (-libc::EINVAL, ptr::null()) };
    let ctx = bdev.record.ctx;
    let channel = Box::into_raw(Box::new(GuardedChannel {
        bdev,
        module: Cell::new(ptr::null_mut()),
        outstanding: Cell::new(0),
        is_entered: Cell::new(false),
        host_chan: args.host_chan,
        on_done: Cell::new(None),
    }));
    let key = (thread::current_id(), args.host_chan);
    with_all(|all| all.pending.insert(key, channel as usize));
    let mut module = ptr::null_mut();
    let status = {
        let _entered = calls::enter(Call::ChanCreate);
        // SAFETY: these are the module's own function and context.
        unsafe { create(ctx, args, &raw mut module) }
    };
    if status == 1 {
        return (1, channel);
    }
    with_all(|all| all.pending.remove(&key));
    if status == 0 {
        // SAFETY: it was just made.
        unsafe { (*channel).module.set(module) };
        return (0, channel);
    }
    // SAFETY: nobody else has it.
    drop(unsafe { Box::from_raw(channel) });
    (status, ptr::null())
}

unsafe extern "C" fn chan_ready(
    host: *const bay_host,
    host_chan: u64,
    chan: *mut c_void,
    status: i32,
) {
    let _host = calls::leave();
    let Some(channel) = take_pending(host_chan, "chan_ready") else { return };
    // SAFETY: pending channels are alive.
    let made = unsafe { &*channel };
    made.module.set(chan);
    if host_chan & OF_SUITE != 0 {
        made.on_done.take().into_iter().for_each(|done| done(channel, status));
        return;
    }
    if let Some(ready) = core::bdev().chan_ready {
        let shown = if status == 0 { channel.cast_mut().cast() } else { ptr::null_mut() };
        // SAFETY: forwards the answer that the bus waits for, on its thread.
        unsafe { ready(host, host_chan, shown, status) };
    }
    if status != 0 {
        // SAFETY: the bus got no channel.
        drop(unsafe { Box::from_raw(channel.cast_mut()) });
    }
}

fn take_pending(host_chan: u64, what: &str) -> Option<*const GuardedChannel> {
    let found = with_all(|all| all.pending.remove(&(thread::current_id(), host_chan)));
    if found.is_none() {
        breach::record(
            "a pending operation finishes once, on its own thread",
            format!("{what} of a channel that is not pending on this thread"),
        );
    }
    found.map(|channel| channel as *const GuardedChannel)
}

unsafe extern "C" fn chan_destroy(_ctx: *mut c_void, chan: *mut c_void) -> i32 {
    close_channel(chan.cast_const().cast())
}

/// Makes the module destroy a channel: 0, or 1 for pending.
pub(crate) fn close_channel(channel: *const GuardedChannel) -> i32 {
    // SAFETY: it is alive until the end of this function, or until the pending destruction
    // finishes.
    let closing = unsafe { &*channel };
    let key = (thread::current_id(), closing.host_chan);
    with_all(|all| all.pending.insert(key, channel as usize));
    let status = closing.bdev.ops.chan_destroy.map_or(0, |destroy| {
        let _inside = closing.enter(Call::ChanDestroy);
        // SAFETY: these are the module's own function and channel, which has no I/O and is not used
        // again.
        unsafe { destroy(closing.bdev.record.ctx, closing.module.get()) }
    });
    if status == 1 {
        return 1;
    }
    if with_all(|all| all.pending.remove(&key)).is_some() && !closing.is_entered.get() {
        // SAFETY: `open_channel` made it, and nobody uses it any more.
        drop(unsafe { Box::from_raw(channel.cast_mut()) });
    }
    0
}

unsafe extern "C" fn chan_closed(host: *const bay_host, host_chan: u64) {
    let _host = calls::leave();
    let Some(channel) = take_pending(host_chan, "chan_closed") else { return };
    if host_chan & OF_SUITE != 0 {
        // SAFETY: pending channels are alive.
        unsafe { (*channel).on_done.take() }.into_iter().for_each(|done| done(channel, 0));
    } else if let Some(closed) = core::bdev().chan_closed {
        // SAFETY: forwards the answer that the bus waits for, on its thread.
        unsafe { closed(host, host_chan) };
    }
    // SAFETY: `open_channel` made it, and its destruction has finished.
    drop(unsafe { Box::from_raw(channel.cast_mut()) });
}

unsafe extern "C" fn kick(host: *const bay_host, host_chan: u64) {
    let _host = calls::leave();
    // Channels of the suite need no resubmission, because the suite submits everything itself.
    if host_chan & OF_SUITE == 0
        && let Some(kick) = core::bdev().kick
    {
        // SAFETY: forwards the call.
        unsafe { kick(host, host_chan) };
    }
}

unsafe extern "C" fn destruct(ctx: *mut c_void) -> i32 {
    // SAFETY: the bdev is alive.
    let bdev = unsafe { of(ctx) };
    let status = bdev.ops.destruct.map_or(0, |destruct| {
        let _entered = calls::enter(Call::Destruct);
        // SAFETY: these are the module's own function and context, for the last time.
        unsafe { destruct(bdev.record.ctx) }
    });
    if status != 1 {
        forget(ctx);
    }
    status
}

unsafe extern "C" fn destruct_done(host: *const bay_host, id: u64, status: i32) {
    let _host = calls::leave();
    if let Some(bdev) = with_all(|all| all.bdevs.get(&id).cloned()) {
        forget(Arc::as_ptr(&bdev).cast_mut().cast());
    }
    if let Some(done) = core::bdev().destruct_done {
        // SAFETY: forwards the call.
        unsafe { done(host, id, status) };
    }
}

unsafe extern "C" fn unregister(
    host: *const bay_host,
    id: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let _host = calls::leave();
    let Some(unregister) = core::bdev().unregister else { return -libc::ENOSYS };
    let waiting = Box::into_raw(Box::new((done, arg)));
    // SAFETY: forwards the call, with the plugin's callback in a box of the guard.
    let status = unsafe { unregister(host, id, Some(unregistered), waiting.cast()) };
    if status != 0 {
        // SAFETY: a refused call does not keep the box.
        drop(unsafe { Box::from_raw(waiting) });
    }
    status
}

unsafe extern "C" fn unregistered(arg: *mut c_void, status: i32) {
    // SAFETY: the box comes from `unregister` and is taken back once.
    let (done, arg) = *unsafe { Box::from_raw(arg.cast::<(Option<bay_cb_fn>, *mut c_void)>()) };
    if let Some(done) = done {
        let _entered = calls::enter(Call::Done);
        // SAFETY: these are the plugin's function and argument, called once.
        unsafe { done(arg, status) };
    }
}

unsafe extern "C" fn dump_info(ctx: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the bdev is alive, and the sink is valid for the call.
    unsafe { dump(ctx, sink, Call::DumpInfo, |ops| ops.dump_info) };
}

unsafe extern "C" fn write_config(ctx: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the bdev is alive, and the sink is valid for the call.
    unsafe { dump(ctx, sink, Call::WriteConfig, |ops| ops.write_config) };
}

unsafe extern "C" fn dump_stats(ctx: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the bdev is alive, and the sink is valid for the call.
    unsafe { dump(ctx, sink, Call::DumpStats, |ops| ops.dump_stats) };
}

/// # Safety
/// As for [`of`]; `sink` is valid for the call.
unsafe fn dump(
    ctx: *mut c_void,
    sink: *const bay_sink,
    call: Call,
    which: fn(&bay_bdev_ops) -> Option<bay_dump_fn>,
) {
    // SAFETY: the caller guarantees this.
    let bdev = unsafe { of(ctx) };
    if let Some(dump) = which(&bdev.ops) {
        let _entered = calls::enter(call);
        // SAFETY: these are the module's own function and context, and the sink is valid for the
        // call.
        unsafe { dump(bdev.record.ctx, sink) };
    }
}

unsafe extern "C" fn reset_stats(ctx: *mut c_void) {
    // SAFETY: the bdev is alive.
    let bdev = unsafe { of(ctx) };
    if let Some(reset) = bdev.ops.reset_stats {
        let _entered = calls::enter(Call::ResetStats);
        // SAFETY: these are the module's own function and context.
        unsafe { reset(bdev.record.ctx) };
    }
}

unsafe extern "C" fn space(ctx: *mut c_void, total: *mut u64, free: *mut u64) {
    // SAFETY: the bdev is alive.
    let bdev = unsafe { of(ctx) };
    if let Some(space) = bdev.ops.space {
        let _entered = calls::enter(Call::Space);
        // SAFETY: these are the module's own function and context, and the results are valid for the call.
        unsafe { space(bdev.record.ctx, total, free) };
    }
}
