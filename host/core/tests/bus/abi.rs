//! The bus as a plugin sees it: its tables, and the calls that the tests make through them.
//!
//! The bus checks every handle (bdev, descriptor, channel) before it uses it. So a call that passes
//! only handles and numbers is safe with any values.

use drivebay_core::services;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;

/// The handle of the plugin that the tests stand for. The bus only compares it.
pub(crate) fn host() -> *const bay_host {
    ptr::without_provenance(0x1000)
}

pub(crate) fn bus() -> &'static bay_bdev_api {
    let table = services::table(id::BDEV).unwrap();
    // SAFETY: the core returns its static table of this type for this id.
    unsafe { &*table.cast() }
}

pub(crate) fn client() -> &'static bay_bdev_client_api {
    let table = services::table(id::BDEV_CLIENT).unwrap();
    // SAFETY: the core returns its static table of this type for this id.
    unsafe { &*table.cast() }
}

// ---- for the registration of a bdev --------------------------------------------------------------

/// A registration with only a name and the functions. The caller fills the other fields.
pub(crate) fn registration(name: &str, ops: &'static bay_bdev_ops) -> bay_bdev_reg {
    // SAFETY: all zero bytes are a valid value of an open struct (`Open`).
    let empty: bay_bdev_reg = unsafe { std::mem::zeroed() };
    bay_bdev_reg {
        size: size_of_table::<bay_bdev_reg>(),
        ops: ptr::from_ref(ops),
        name: bay_str::new(name),
        ..empty
    }
}

/// Registers a bdev. Returns its handle. App thread.
///
/// # Safety
/// The texts of `reg` are valid for the call. Its functions and its context are valid until the bdev
/// is destructed.
pub(crate) unsafe fn register(reg: &bay_bdev_reg) -> Result<u64, i32> {
    let (mut id, register) = (0, bus().register.unwrap());
    // SAFETY: the caller promises what the bus requires of `reg`, and `id` is valid for the call.
    let status = unsafe { register(host(), ptr::from_ref(reg), &raw mut id) };
    if status == 0 { Ok(id) } else { Err(status) }
}

pub(crate) fn unregister(bdev: u64) -> i32 {
    let unregister = bus().unregister.unwrap();
    // SAFETY: the bus checks the handle, and there is no callback that could use the argument.
    unsafe { unregister(host(), bdev, None, ptr::null_mut()) }
}

pub(crate) fn resize(bdev: u64, nblocks: u64) -> i32 {
    // SAFETY: the bus checks the handle.
    unsafe { bus().resize.unwrap()(host(), bdev, nblocks) }
}

/// Adds an alias (`add` = 1) or removes it (0).
pub(crate) fn alias(bdev: u64, name: &str, add: u32) -> i32 {
    // SAFETY: the bus checks the handle and copies the text, which is valid for the call.
    unsafe { bus().alias.unwrap()(host(), bdev, bay_str::new(name), add) }
}

/// Reports that blocks lost their data.
pub(crate) fn media(bdev: u64, lba: u64, nblocks: u64) -> i32 {
    // SAFETY: the bus checks the handle and the range.
    unsafe { bus().media.unwrap()(host(), bdev, lba, nblocks) }
}

// ---- for clients ---------------------------------------------------------------------------------

/// Opens a bdev without a callback for its events. Returns the descriptor.
pub(crate) fn open(name: &str, flags: u32) -> Result<u64, i32> {
    let (mut desc, open) = (0, client().open.unwrap());
    let name = bay_str::new(name);
    // SAFETY: the text and `desc` are valid for the call, and no callback could use the argument.
    let status = unsafe { open(host(), name, flags, None, ptr::null_mut(), &raw mut desc) };
    if status == 0 { Ok(desc) } else { Err(status) }
}

pub(crate) fn close(desc: u64) -> i32 {
    // SAFETY: the bus checks the handle.
    unsafe { client().close.unwrap()(host(), desc) }
}

pub(crate) fn claim(desc: u64, kind: u32, key: u64) -> i32 {
    // SAFETY: the bus checks the handle and the kind.
    unsafe { client().claim.unwrap()(host(), desc, kind, key) }
}

pub(crate) fn unclaim(desc: u64) -> i32 {
    // SAFETY: the bus checks the handle.
    unsafe { client().unclaim.unwrap()(host(), desc) }
}

/// Asks for the properties of a bdev, as a plugin whose struct is `size` bytes long.
pub(crate) fn info(desc: u64, size: u32) -> Result<bay_bdev_info, i32> {
    // SAFETY: all zero bytes are a valid value of an open struct (`Open`).
    let empty: bay_bdev_info = unsafe { std::mem::zeroed() };
    let mut info = bay_bdev_info { size, ..empty };
    // SAFETY: the bus checks the handle, and writes at most `size` bytes into `info`, which is not shorter.
    let status = unsafe { client().info.unwrap()(host(), desc, &raw mut info) };
    if status == 0 { Ok(info) } else { Err(status) }
}

/// Returns the next range of blocks that lost their data: its first block and its length.
pub(crate) fn media_next(desc: u64) -> Result<(u64, u64), i32> {
    let (mut lba, mut nblocks) = (0, 0);
    let next = client().media_next.unwrap();
    // SAFETY: the bus checks the handle, and both places are valid for the call.
    let status = unsafe { next(host(), desc, &raw mut lba, &raw mut nblocks) };
    if status == 0 { Ok((lba, nblocks)) } else { Err(status) }
}

pub(crate) fn chan_get(desc: u64) -> u64 {
    let mut chan = 0;
    // SAFETY: the bus checks the handle, and `chan` is valid for the call.
    let status = unsafe { client().chan_get.unwrap()(host(), desc, &raw mut chan) };
    assert_eq!(status, 0, "chan_get");
    chan
}

pub(crate) fn chan_put(chan: u64) {
    // SAFETY: the bus checks the handle.
    let status = unsafe { client().chan_put.unwrap()(host(), chan) };
    assert_eq!(status, 0, "chan_put");
}

pub(crate) fn flush(chan: u64) {
    // SAFETY: the bus checks the handle.
    unsafe { client().flush.unwrap()(host(), chan) };
}

/// Submits an I/O that `fill` has filled. The fields of its blocks, memory and arguments are zero
/// before.
///
/// # Safety
/// `cb` accepts `arg` when the I/O completes. The memory that `fill` names is valid until then.
pub(crate) unsafe fn submit(
    chan: u64,
    fill: impl FnOnce(&mut bay_io),
    cb: bay_io_cb_fn,
    arg: *mut c_void,
) {
    // SAFETY: the bus checks the handle, and there is no waiter.
    let io = unsafe { client().io_get.unwrap()(host(), chan, ptr::null_mut()) };
    // SAFETY: NULL, or an I/O that only this client uses until it submits it.
    let request = unsafe { io.as_mut() }.unwrap();
    request.flags = 0;
    request.iov = ptr::null();
    request.iovcnt = 0;
    request.nblocks = 0;
    request.lba = 0;
    request.arg = [0; 2];
    request.arg_len = 0;
    fill(request);
    // SAFETY: the I/O came from `io_get`. The caller promises what the bus requires of the rest.
    unsafe { client().submit.unwrap()(host(), io, Some(cb), arg) };
}

// ---- for modules ---------------------------------------------------------------------------------

/// A request that the bus gave to a module. The module owns it until it completes the request or
/// passes it on; both take the value.
pub(crate) struct ModuleIo(*mut bay_io);

impl ModuleIo {
    /// # Safety
    /// The bus gave `io` to the module, and the module still owns it. The caller uses no second
    /// value for it after one has given it back.
    pub(crate) unsafe fn new(io: *mut bay_io) -> Self {
        Self(io)
    }

    pub(crate) fn as_ptr(&self) -> *mut bay_io {
        self.0
    }

    /// A copy of the request.
    pub(crate) fn request(&self) -> bay_io {
        // SAFETY: the module owns the request (`new`), so it is alive and nobody else writes to it.
        unsafe { *self.0 }
    }

    /// Stores a number in the module's own field of the request.
    pub(crate) fn set_link(&self, number: usize) {
        // SAFETY: the module owns the request (`new`), and no reference to it lasts beyond a call.
        unsafe { (*self.0).link = ptr::without_provenance_mut(number) };
    }

    /// Stores the block that the request returns.
    pub(crate) fn set_block(&self, block: u64) {
        // SAFETY: as in `set_link`.
        unsafe { (*self.0).detail = block };
        // SAFETY: as in `set_link`.
        unsafe { (*self.0).detail_kind = BAY_DETAIL_BLOCK };
    }

    /// Derives a child with `nblocks` blocks of the data, from block `first` of the request on. NULL
    /// when the request does not have them.
    pub(crate) fn derive_part(&self, chan: u64, first: u64, nblocks: u64) -> *mut bay_io {
        let derive = client().io_derive_part.unwrap();
        // SAFETY: the bus checks the handle and the range, and the module owns the request (`new`).
        unsafe { derive(host(), chan, self.0, first, nblocks) }
    }

    /// Passes the request on to the bdev of another channel, at block `lba`.
    pub(crate) fn pass(self, chan: u64, lba: u64) {
        // SAFETY: the bus checks the handle. The module owns the request (`new`) until here.
        unsafe { client().pass.unwrap()(host(), chan, self.0, lba) };
    }

    pub(crate) fn complete(self, status: i32) {
        let done = self.request().done.unwrap();
        // SAFETY: the module owns the request (`new`) until here, so this completes it once.
        unsafe { done(self.0, status) };
    }
}
