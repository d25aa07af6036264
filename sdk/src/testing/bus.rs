//! The fake host's bus: bdevs, descriptors, channels and their I/O.
#![expect(unsafe_code, reason = "implements the host's side of the ABI")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "for tests")]

use super::*;

pub(super) unsafe extern "C" fn register(_: H, reg: *const bay_bdev_reg, id: *mut u64) -> i32 {
    // SAFETY: the module's registration, valid for the call.
    let reg = unsafe { *reg };
    // SAFETY: the table lives as long as the bdev.
    let ops = unsafe { *reg.ops };
    // SAFETY: the text is valid for the call.
    let name = unsafe { host::text(reg.name) }.to_owned();
    if state(|state| state.bdevs.values().any(|bdev| bdev.name == name)) {
        return -crate::errno::EEXIST;
    }
    let handle = new_id();
    // SAFETY: the caller's place for the result.
    unsafe { *id = handle };
    let shown = name.clone();
    state(|state| state.bdevs.insert(handle, Bdev { reg, ops, name, leaving: None }));
    examine(&shown);
    0
}

/// Does nothing, because no other plugin could take the name here.
pub(super) unsafe extern "C" fn reserve_name(_: H, _: bay_str, _: *const u8) -> i32 {
    0
}

pub(super) unsafe extern "C" fn release_name(_: H, _: bay_str) -> i32 {
    0
}

pub(super) fn examine(name: &str) {
    let Some(get) = state(|state| state.door).and_then(|door| door.get_iface) else { return };
    let id = bay_str::new(api::id::BDEV_MODULE);
    // SAFETY: the plugin's function; the fake host's plugins have no state.
    let table = unsafe { get(std::ptr::null_mut(), id, 0) }.cast::<api::bay_bdev_module>();
    // SAFETY: NULL or the plugin's table.
    if let Some(call) = unsafe { table.as_ref() }.and_then(|table| table.examine_config) {
        // SAFETY: the text outlives the call.
        unsafe { call(std::ptr::null_mut(), bay_str::new(name)) };
    }
    // SAFETY: NULL or the plugin's table.
    if let Some(call) = unsafe { table.as_ref() }.and_then(|table| table.examine_disk) {
        // SAFETY: as above.
        unsafe { call(std::ptr::null_mut(), bay_str::new(name), 0) };
    }
}

/// Does nothing, because nothing waits for examinations here.
pub(super) unsafe extern "C" fn examine_done(_: H, _: u64) {}

pub(super) unsafe extern "C" fn unregister(
    _: H,
    id: u64,
    done: Option<api::bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let is_known = state(|state| match state.bdevs.get_mut(&id) {
        Some(bdev) if bdev.leaving.is_none() => {
            bdev.leaving = Some((done, arg));
            true
        }
        _ => false,
    });
    if !is_known {
        return -crate::errno::ENODEV;
    }
    send_event(id, api::BAY_EVENT_REMOVE, 0);
    remove_if_unused(id);
    0
}

pub(super) fn send_event(bdev: u64, event: u32, value: u64) {
    let descs: Vec<Desc> =
        state(|state| state.descs.values().filter(|desc| desc.bdev == bdev).copied().collect());
    for desc in descs {
        if let Some(call) = desc.event {
            // SAFETY: the descriptor is open.
            unsafe { call(std::ptr::with_exposed_provenance_mut(desc.arg), event, value) };
        }
    }
}

pub(super) fn remove_if_unused(id: u64) {
    let gone = state(|state| {
        let is_open = state.descs.values().any(|desc| desc.bdev == id)
            || state.closing.values().any(|bdev| *bdev == id);
        let is_leaving = state.bdevs.get(&id).is_some_and(|bdev| bdev.leaving.is_some());
        if is_leaving && !is_open { state.bdevs.remove(&id) } else { None }
    });
    if let Some(bdev) = gone {
        state(|state| state.destructing.extend(bdev.leaving.map(|leaving| (id, leaving))));
        // SAFETY: there is no reference to the bdev any more.
        let status = unsafe { bdev.ops.destruct.unwrap()(bdev.reg.ctx) };
        if status == 0 {
            // SAFETY: the same call as the plugin would make.
            unsafe { destruct_done(&raw const TABLE.0, id, 0) };
        } else {
            assert_eq!(status, 1, "destruct returned a status other than 0 or 1");
        }
    }
}

pub(super) unsafe extern "C" fn destruct_done(_: H, id: u64, status: i32) {
    let leaving = state(|state| state.destructing.remove(&id)).expect("it is not being destructed");
    if let (Some(done), arg) = leaving {
        // SAFETY: this is the only call of the callback.
        unsafe { done(arg, status) };
    }
}

/// A pending channel creation has finished. Submits the I/O that waited for it.
pub(super) unsafe extern "C" fn chan_ready(_: H, handle: u64, raw: *mut c_void, status: i32) {
    let failed = state(|state| {
        let chan = state.chans.get_mut(&handle).unwrap();
        chan.raw = raw;
        if status == 0 { VecDeque::new() } else { std::mem::take(&mut chan.deferred) }
    });
    for io in failed {
        // SAFETY: the I/O is in flight.
        unsafe { done(io, status) };
    }
    leave(handle);
}

pub(super) unsafe extern "C" fn chan_closed(_: H, chan: u64) {
    let bdev = state(|state| state.closing.remove(&chan)).expect("the channel is not closing");
    remove_if_unused(bdev);
}

pub(super) unsafe extern "C" fn resize(_: H, id: u64, num_blocks: u64) -> i32 {
    state(|state| state.bdevs.get_mut(&id).unwrap().reg.num_blocks = num_blocks);
    send_event(id, api::BAY_EVENT_RESIZE, num_blocks);
    0
}

pub(super) unsafe extern "C" fn open(
    _: H,
    name: bay_str,
    _: u32,
    event: Option<api::bay_bdev_event_fn>,
    arg: *mut c_void,
    desc: *mut u64,
) -> i32 {
    // SAFETY: the text is valid for the call.
    let name = unsafe { host::text(name) };
    let found = state(|state| {
        let mut bdevs = state.bdevs.iter();
        let is_it =
            |bdev: &Bdev| bdev.name == name || bdev::Uuid(bdev.reg.uuid).to_string() == name;
        bdevs.find(|(_, bdev)| is_it(bdev) && bdev.leaving.is_none()).map(|(id, _)| *id)
    });
    let Some(bdev) = found else { return -crate::errno::ENODEV };
    let handle = new_id();
    let opened = Desc { bdev, event, arg: arg.expose_provenance(), is_claimed: false };
    state(|state| state.descs.insert(handle, opened));
    // SAFETY: the caller's place for the result.
    unsafe { *desc = handle };
    0
}

pub(super) unsafe extern "C" fn close(_: H, desc: u64) -> i32 {
    let bdev = state(|state| state.descs.remove(&desc)).unwrap().bdev;
    remove_if_unused(bdev);
    0
}

pub(super) unsafe extern "C" fn info(_: H, desc: u64, info: *mut api::bay_bdev_info) -> i32 {
    // SAFETY: the caller's place for the result, which it has filled in before.
    let info = unsafe { &mut *info };
    let (space, ctx) = state(|state| {
        let bdev = &state.bdevs[&state.descs[&desc].bdev];
        info.flags = bdev.reg.flags;
        info.num_blocks = bdev.reg.num_blocks;
        info.block_size = bdev.reg.block_size;
        info.ops_mask = bdev.reg.ops_mask;
        info.must_flags = bdev.reg.must_flags;
        info.uuid = bdev.reg.uuid;
        info.optimal_boundary = bdev.reg.optimal_boundary;
        info.zone_size = bdev.reg.zone_size;
        info.max_open_zones = bdev.reg.max_open_zones;
        info.max_active_zones = bdev.reg.max_active_zones;
        info.optimal_open_zones = bdev.reg.optimal_open_zones;
        info.max_zone_append = bdev.reg.max_zone_append;
        info.numa = -1;
        info.name = bay_str { ptr: bdev.name.as_ptr(), len: bdev.name.len() };
        (bdev.ops.space, bdev.reg.ctx)
    });
    if let Some(space) = space {
        // SAFETY: the bdev is registered, and both results outlive the call.
        unsafe { space(ctx, &raw mut info.pool_blocks, &raw mut info.pool_free) };
    }
    0
}

pub(super) unsafe extern "C" fn claim(_: H, desc: u64, _: u32, _: u64) -> i32 {
    state(|state| {
        let bdev = state.descs[&desc].bdev;
        if state.descs.values().any(|other| other.bdev == bdev && other.is_claimed) {
            return -crate::errno::EPERM;
        }
        state.descs.get_mut(&desc).unwrap().is_claimed = true;
        0
    })
}

pub(super) unsafe extern "C" fn unclaim(_: H, desc: u64) -> i32 {
    state(|state| state.descs.get_mut(&desc).unwrap().is_claimed = false);
    0
}

pub(super) unsafe extern "C" fn chan_get(_: H, desc: u64, chan: *mut u64) -> i32 {
    let (bdev, ctx, ops) = state(|state| {
        let id = state.descs[&desc].bdev;
        let bdev = &state.bdevs[&id];
        (id, bdev.reg.ctx, bdev.ops)
    });
    let handle = new_id();
    let args = api::bay_chan_args {
        size: size_of_table::<api::bay_chan_args>(),
        numa: -1,
        thread: state(|state| state.threads.current()),
        host_chan: handle,
        handover: std::ptr::null(),
    };
    let mut raw = std::ptr::null_mut();
    // SAFETY: the bdev is registered.
    let status = unsafe { ops.chan_create.unwrap()(ctx, &raw const args, &raw mut raw) };
    if status == 0 || status == 1 {
        let made = Chan {
            bdev,
            thread: args.thread,
            raw,
            outstanding: 0,
            // A channel that is still being created takes no I/O.
            is_entered: status == 1,
            deferred: VecDeque::new(),
            flush_wanted: false,
            close_wanted: false,
        };
        state(|state| state.chans.insert(handle, made));
        // SAFETY: the caller's place for the result.
        unsafe { *chan = handle };
        return 0;
    }
    status
}

pub(super) unsafe extern "C" fn chan_put(_: H, chan: u64) -> i32 {
    let (is_used, is_entered) = state(|state| {
        let chan = state.chans.get_mut(&chan).unwrap();
        chan.close_wanted = chan.is_entered && chan.outstanding == 0;
        (chan.outstanding > 0, chan.is_entered)
    });
    if is_used {
        return -crate::errno::EBUSY;
    }
    if !is_entered {
        close_chan(chan);
    }
    0
}

pub(super) fn close_chan(handle: u64) {
    let (bdev, chan, ctx, ops) = state(|state| {
        let chan = state.chans.remove(&handle).unwrap();
        state.closing.insert(handle, chan.bdev);
        let bdev = &state.bdevs[&chan.bdev];
        (chan.bdev, chan.raw, bdev.reg.ctx, bdev.ops)
    });
    // SAFETY: the channel has no I/O outstanding.
    if unsafe { ops.chan_destroy.unwrap()(ctx, chan) } == 0 {
        state(|state| state.closing.remove(&handle));
        remove_if_unused(bdev);
    }
}

pub(super) unsafe extern "C" fn io_get(_: H, chan: u64, wait: *mut api::bay_wait) -> *mut bay_io {
    let is_free = state(|state| {
        let is_free = state.ios_in_use < state.ios_max;
        if is_free {
            state.ios_in_use += 1;
        } else if !wait.is_null() {
            let thread = state.threads.current();
            state.waiters.push_back((thread, wait));
        }
        is_free
    });
    if is_free { new_io(chan) } else { std::ptr::null_mut() }
}

pub(super) fn new_io(chan: u64) -> *mut bay_io {
    let drv_ctx_len = state(|state| state.bdevs[&state.chans[&chan].bdev].reg.drv_ctx_size);
    // SAFETY: all zero bytes are valid: the fields are numbers, pointers and functions that may be NULL.
    let mut io: bay_io = unsafe { std::mem::zeroed() };
    io.id = new_id();
    io.done = Some(done);
    let drv_ctx = vec![DrvCtx([0xdb; 64]); (drv_ctx_len as usize).div_ceil(64)];
    io.drv_ctx = Vec::leak(drv_ctx).as_mut_ptr().cast();
    let arg = std::ptr::null_mut();
    Box::into_raw(Box::new(FakeIo { io, chan, cb: None, arg, is_in_flight: false })).cast()
}

pub(super) unsafe extern "C" fn io_derive(_: H, chan: u64, parent: *mut bay_io) -> *mut bay_io {
    state(|state| state.ios_in_use += 1);
    let child = new_io(chan);
    // SAFETY: the request is live.
    let parent = unsafe { *parent };
    // SAFETY: the child was just made.
    let bay_io { id, drv_ctx, .. } = unsafe { *child };
    // SAFETY: the child was just made.
    unsafe { *child = bay_io { id, drv_ctx, done: Some(done), ..parent } };
    child
}

pub(super) unsafe extern "C" fn io_derive_part(
    host: H,
    chan: u64,
    parent: *mut bay_io,
    first: u64,
    nblocks: u64,
) -> *mut bay_io {
    // SAFETY: the request is live.
    let whole = unsafe { *parent };
    if first.checked_add(nblocks).is_none_or(|end| end > whole.nblocks) {
        return std::ptr::null_mut();
    }
    // SAFETY: as above.
    let child = unsafe { io_derive(host, chan, parent) };
    let block_size = state(|state| {
        let fake = parent.cast::<FakeIo>();
        // SAFETY: `new_io` made the request.
        let bdev = state.chans[&unsafe { (*fake).chan }].bdev;
        u64::from(state.bdevs[&bdev].reg.block_size)
    });
    let (mut skip, mut left) = (first * block_size, nblocks * block_size);
    let mut list = Vec::new();
    let pieces = if whole.iov.is_null() {
        &[]
    } else {
        // SAFETY: the client's list is valid until its I/O completes.
        unsafe { std::slice::from_raw_parts(whole.iov, whole.iovcnt.into()) }
    };
    for piece in pieces {
        let begin = skip.min(piece.len.into());
        skip -= begin;
        let len = (u64::from(piece.len) - begin).min(left);
        left -= len;
        if len > 0 {
            let addr = piece.addr.wrapping_byte_add(usize::try_from(begin).unwrap());
            let len = u32::try_from(len).unwrap();
            list.push(api::bay_iov { addr, len, region: piece.region });
        }
    }
    // SAFETY: the child was just made. The list is never freed; this is acceptable in a test.
    unsafe { (*child).iovcnt = u16::try_from(list.len()).unwrap() };
    // SAFETY: as above.
    unsafe { (*child).iov = Vec::leak(list).as_ptr() };
    child
}

pub(super) unsafe extern "C" fn kick(_: H, _: u64) {}

/// The module's memory of an I/O, in units with its alignment.
#[derive(Clone)]
#[repr(align(64))]
struct DrvCtx(#[expect(dead_code, reason = "memory for a module")] [u8; 64]);

pub(super) unsafe extern "C" fn submit(
    _: H,
    io: *mut bay_io,
    cb: Option<api::bay_io_cb_fn>,
    arg: *mut c_void,
) {
    // SAFETY: `new_io` made the request.
    let fake = unsafe { &mut *io.cast::<FakeIo>() };
    (fake.cb, fake.arg, fake.is_in_flight) = (cb, arg, true);
    let takes = state(|state| {
        let chan = state.chans.get_mut(&fake.chan).unwrap();
        chan.outstanding += 1;
        let bdev = &state.bdevs[&chan.bdev];
        bdev.reg.ops_mask & (1 << fake.io.op) != 0
            && fake.io.lba.checked_add(fake.io.nblocks).is_some_and(|e| e <= bdev.reg.num_blocks)
    });
    if !takes {
        // SAFETY: the I/O is in flight.
        return unsafe { done(io, -crate::errno::EOPNOTSUPP) };
    }
    if quiesce::lets_begin(io) {
        begin(io);
    }
}

/// Passes an I/O to the module.
pub(super) fn begin(io: *mut bay_io) {
    // SAFETY: `new_io` made the request.
    let handle = unsafe { (*io.cast::<FakeIo>()).chan };
    if enter(handle, |chan| chan.deferred.push_back(io)) {
        let (call, raw) = state(|state| {
            let chan = &state.chans[&handle];
            (state.bdevs[&chan.bdev].ops.submit.unwrap(), chan.raw)
        });
        // SAFETY: the channel is live.
        unsafe { call(raw, io) };
        leave(handle);
    }
}

/// Returns whether the module may be called now. If not, `wait` records the call for later.
pub(super) fn enter(handle: u64, wait: impl FnOnce(&mut Chan)) -> bool {
    state(|state| {
        let chan = state.chans.get_mut(&handle).unwrap();
        let is_free = !std::mem::replace(&mut chan.is_entered, true);
        if !is_free {
            wait(chan);
        }
        is_free
    })
}

/// The module has returned. Runs the deferred calls, one after another.
pub(super) fn leave(handle: u64) {
    loop {
        let (raw, ops, next, flushes, closes) = state(|state| {
            let chan = state.chans.get_mut(&handle).unwrap();
            let next = chan.deferred.pop_front();
            let flushes = next.is_none() && std::mem::take(&mut chan.flush_wanted);
            chan.is_entered = next.is_some() || flushes;
            (chan.raw, state.bdevs[&chan.bdev].ops, next, flushes, chan.close_wanted)
        });
        match next {
            // SAFETY: the channel is live, and the I/O waited for it.
            Some(io) => unsafe { ops.submit.unwrap()(raw, io) },
            // SAFETY: the channel is live.
            None if flushes => unsafe { ops.flush.unwrap()(raw) },
            None if closes => return close_chan(handle),
            None => return,
        }
    }
}

pub(super) unsafe extern "C" fn done(io: *mut bay_io, status: i32) {
    // SAFETY: `new_io` made the request.
    let fake = unsafe { &mut *io.cast::<FakeIo>() };
    assert!(std::mem::take(&mut fake.is_in_flight), "an I/O was completed twice");
    quiesce::ended(io);
    state(|state| state.chans.get_mut(&fake.chan).unwrap().outstanding -= 1);
    // SAFETY: the client's callback; this is the only call.
    unsafe { fake.cb.unwrap()(fake.arg, io, status) };
    state(|state| state.ios_in_use -= 1);
    // The request is never freed, so a late access or a second completion is detected. This is acceptable in a test.
}

pub(super) unsafe extern "C" fn complete_from(
    _: H,
    parent: *mut bay_io,
    child: *mut bay_io,
    status: i32,
) {
    // SAFETY: the request is live.
    let ended = unsafe { *child };
    // SAFETY: this is another live request.
    let fields = unsafe { &mut *parent };
    (fields.detail, fields.detail_kind) = (ended.detail, ended.detail_kind);
    // SAFETY: the parent is in flight.
    unsafe { done(parent, status) };
}

pub(super) unsafe extern "C" fn pass(host: H, chan: u64, io: *mut bay_io, lba: u64) {
    // SAFETY: the module owns the request.
    let child = unsafe { io_derive(host, chan, io) };
    // SAFETY: the child was just made.
    unsafe { (*child).lba = lba };
    // SAFETY: as above; the parent is in flight until its child has completed.
    unsafe { submit(host, child, Some(passed), io.cast()) };
}

pub(super) unsafe extern "C" fn passed(parent: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `pass` passed the parent, which is in flight.
    unsafe { complete_from(&raw const TABLE.0, parent.cast(), child, status) };
}

pub(super) unsafe extern "C" fn io_abort(_: H, _: u64, wait: *mut api::bay_wait) -> i32 {
    state(|state| match state.waiters.iter().position(|(_, waiter)| *waiter == wait) {
        Some(place) => {
            state.waiters.remove(place);
            0
        }
        None => -crate::errno::ENOENT,
    })
}

pub(super) unsafe extern "C" fn flush(_: H, chan: u64) {
    let (raw, call) = state(|state| {
        let chan = &state.chans[&chan];
        (chan.raw, state.bdevs[&chan.bdev].ops.flush)
    });
    if let Some(call) = call
        && enter(chan, |chan| chan.flush_wanted = true)
    {
        // SAFETY: the channel is live.
        unsafe { call(raw) };
        leave(chan);
    }
}

pub(super) unsafe extern "C" fn alias(_: H, id: u64, _: bay_str, _: u32) -> i32 {
    if state(|state| state.bdevs.contains_key(&id)) { 0 } else { -crate::errno::ENODEV }
}

pub(super) unsafe extern "C" fn media(_: H, id: u64, _: u64, _: u64) -> i32 {
    send_event(id, api::BAY_EVENT_MEDIA, 0);
    0
}

pub(super) unsafe extern "C" fn media_next(_: H, _: u64, _: *mut u64, _: *mut u64) -> i32 {
    -crate::errno::ENOENT
}
