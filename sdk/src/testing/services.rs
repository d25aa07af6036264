//! The other services of the fake host: pollers, memory, RPC, the broker.
#![expect(unsafe_code, reason = "implements the host's side of the ABI")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "for tests")]

use super::*;

pub(super) unsafe extern "C" fn poller_register(
    _: H,
    ops: *const api::bay_poller_ops,
    ctx: *mut c_void,
    _: u64,
    _: bay_str,
    poller: *mut u64,
) -> i32 {
    let handle = new_id();
    // SAFETY: the table lives as long as the poller.
    let ops = unsafe { *ops };
    state(|state| {
        let thread = state.threads.current();
        state.pollers.insert(handle, Poller { thread, ops, ctx, is_paused: false })
    });
    // SAFETY: the caller's place for the result.
    unsafe { *poller = handle };
    0
}
pub(super) unsafe extern "C" fn poller_unregister(_: H, poller: u64) -> i32 {
    state(|state| state.pollers.remove(&poller));
    0
}
pub(super) unsafe extern "C" fn poller_pause(_: H, poller: u64) -> i32 {
    state(|state| state.pollers.get_mut(&poller).unwrap().is_paused = true);
    0
}
pub(super) unsafe extern "C" fn poller_resume(_: H, poller: u64) -> i32 {
    state(|state| state.pollers.get_mut(&poller).unwrap().is_paused = false);
    0
}
pub(super) unsafe extern "C" fn wake_fd(_: H, _: u64, _: i32, _: u32) -> i32 {
    0
}

pub(super) fn allocate(len: u64) -> *mut c_void {
    let len = usize::try_from(len).unwrap();
    let layout = std::alloc::Layout::from_size_align(len.max(1), 4096).unwrap();
    // SAFETY: the layout is not empty.
    unsafe { std::alloc::alloc_zeroed(layout) }.cast()
}

pub(super) unsafe fn deallocate(addr: *mut c_void, len: u64) {
    let len = usize::try_from(len).unwrap();
    let layout = std::alloc::Layout::from_size_align(len.max(1), 4096).unwrap();
    // SAFETY: `allocate` returned it for this length.
    unsafe { std::alloc::dealloc(addr.cast(), layout) };
}

pub(super) unsafe extern "C" fn buf_get(
    _: H,
    len: u32,
    _: *mut u32,
    wait: *mut api::bay_wait,
) -> *mut c_void {
    let is_free = state(|state| {
        let is_free = state.bufs_in_use < state.bufs_max;
        if is_free {
            state.bufs_in_use += 1;
        } else if !wait.is_null() {
            let thread = state.threads.current();
            state.waiters.push_back((thread, wait));
        }
        is_free
    });
    if is_free { allocate(len.into()) } else { std::ptr::null_mut() }
}
pub(super) unsafe extern "C" fn buf_put(_: H, addr: *mut c_void, len: u32) {
    state(|state| state.bufs_in_use -= 1);
    // SAFETY: `buf_get` returned it for this length.
    unsafe { deallocate(addr, len.into()) };
}
pub(super) unsafe extern "C" fn buf_abort(_: H, wait: *mut api::bay_wait) {
    state(|state| state.waiters.retain(|(_, waiter)| *waiter != wait));
}
pub(super) unsafe extern "C" fn buf_pool(_: H, len: u32, size: *mut u32, count: *mut u64) -> i32 {
    let pool_size = if len <= 8192 { 8192 } else { 135_168 };
    if len > pool_size {
        return -22;
    }
    // SAFETY: the caller's place for the result.
    unsafe { *size = pool_size };
    // SAFETY: the caller's place for the result.
    unsafe { *count = state(|state| state.bufs_max) as u64 };
    0
}
pub(super) unsafe extern "C" fn mem_alloc(
    _: H,
    len: u64,
    _: u64,
    _: i32,
    _: *mut u32,
) -> *mut c_void {
    if len > 1 << 30 { std::ptr::null_mut() } else { allocate(len) }
}
pub(super) unsafe extern "C" fn mem_free(_: H, addr: *mut c_void, len: u64) {
    // SAFETY: `mem_alloc` returned it for this length.
    unsafe { deallocate(addr, len) };
}
pub(super) unsafe extern "C" fn mem_zero(_: H, addr: *mut c_void, len: u64) -> i32 {
    let Ok(len) = usize::try_from(len) else { return -22 };
    // SAFETY: the bytes are part of an allocation of `mem_alloc`.
    unsafe { addr.cast::<u8>().write_bytes(0, len) };
    0
}

pub(super) unsafe extern "C" fn rpc_register(
    _: H,
    method: *const api::bay_rpc_method,
    id: *mut u64,
) -> i32 {
    // SAFETY: the record is valid for the call.
    let record = unsafe { *method };
    // SAFETY: the text is valid for the call.
    let name = unsafe { host::text(record.name) }.to_owned();
    state(|state| state.methods.push(Method { record, name }));
    // SAFETY: the caller's place for the result.
    unsafe { *id = new_id() };
    0
}
pub(super) unsafe extern "C" fn rpc_unregister(_: H, _: u64) -> i32 {
    0
}
pub(super) unsafe extern "C" fn rpc_reply(_: H, req: u64, result: bay_str) -> i32 {
    // SAFETY: the text is valid for the call.
    let result = serde_json::from_str(unsafe { host::text(result) }).unwrap();
    let before = state(|state| state.answers.insert(req, Ok(result)));
    assert!(before.is_none(), "a call was answered twice");
    0
}
pub(super) unsafe extern "C" fn rpc_error(
    _: H,
    req: u64,
    code: i32,
    text: bay_str,
    data: bay_str,
) -> i32 {
    // SAFETY: the text is valid for the call.
    let message = unsafe { host::text(text) }.to_owned();
    // SAFETY: the text is valid for the call.
    let data = serde_json::from_str(unsafe { host::text(data) }).ok();
    let error = RpcError { code: code.into(), message, data };
    let before = state(|state| state.answers.insert(req, Err(error)));
    assert!(before.is_none(), "a call was answered twice");
    0
}

pub(super) unsafe extern "C" fn provide(
    _: H,
    id: bay_str,
    table: *const c_void,
    handle: *mut u64,
) -> i32 {
    // SAFETY: the text is valid for the call.
    let id = unsafe { host::text(id) }.to_owned();
    let number = new_id();
    state(|state| state.offers.push((number, id, table)));
    // SAFETY: the caller's place for the result.
    unsafe { *handle = number };
    0
}
pub(super) unsafe extern "C" fn withdraw(
    _: H,
    handle: u64,
    done: Option<api::bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    state(|state| state.offers.retain(|(number, _, _)| *number != handle));
    // SAFETY: the caller's callback with its argument.
    unsafe { done.unwrap()(arg, 0) };
    0
}
pub(super) unsafe extern "C" fn acquire(
    _: H,
    id: bay_str,
    _: Option<api::bay_broker_revoked_fn>,
    _: *mut c_void,
    reference: *mut u64,
) -> *const c_void {
    // SAFETY: the text is valid for the call.
    let id = unsafe { host::text(id) };
    let offered = state(|state| state.offers.iter().find(|(_, of, _)| of == id).map(|o| o.2));
    // SAFETY: the caller's place for the result.
    unsafe { *reference = new_id() };
    offered.unwrap_or(std::ptr::null())
}
pub(super) unsafe extern "C" fn release(_: H, _: u64) -> i32 {
    0
}
pub(super) unsafe extern "C" fn notify(_: H, _: bay_str, _: bay_str) {}
pub(super) unsafe extern "C" fn subsystem(
    _: H,
    _: bay_str,
    _: Option<api::bay_subsystem_config_fn>,
    _: *mut c_void,
) -> i32 {
    0
}
