//! The plugin interface `bay.bdev/1`: the module's side of bdevs.

use super::{Callback, failed, on_app_thread, status, string};
use crate::bdev::path::{channel_life, quiesce};
use crate::bdev::register::{self, Texts};
use crate::bdev::state::{self, Bdev};
use crate::bdev::{self, events, examine, names, removal};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::sync::Arc;

pub(super) static TABLE: bay_bdev_api = bay_bdev_api {
    size: size_of_table::<bay_bdev_api>(),
    flags: 0,
    register: Some(register),
    unregister: Some(unregister),
    destruct_done: Some(destruct_done),
    chan_ready: Some(chan_ready),
    chan_closed: Some(chan_closed),
    resize: Some(resize),
    kick: Some(kick),
    quiesce: Some(quiesce),
    unquiesce: Some(unquiesce),
    examine_done: Some(examine_done),
    reserve: Some(reserve),
    release: Some(release),
    alias: Some(alias),
    media: Some(media),
};

unsafe extern "C" fn register(
    host: *const bay_host,
    reg: *const bay_bdev_reg,
    id: *mut u64,
) -> i32 {
    if let Err(error) = on_app_thread() {
        return error.status();
    }
    // SAFETY: an open struct of the ABI, valid for the call.
    let Some(record) = (unsafe { copy_open(reg) }) else { return -libc::EINVAL };
    // SAFETY: as above; the functions live as long as the bdev.
    let Some(ops) = (unsafe { copy_open(record.ops) }) else { return -libc::EINVAL };
    let count = record.naliases.min(64) as usize;
    let aliases = if record.aliases.is_null() {
        &[]
    } else {
        // SAFETY: the list has this many elements and is valid for the call.
        unsafe { std::slice::from_raw_parts(record.aliases, count) }
    };
    // SAFETY: the texts of the record are valid for the call.
    let text = |text: bay_str| unsafe { string(text) };
    let base = text(record.base);
    let texts = Texts {
        name: text(record.name),
        product: text(record.product),
        aliases: aliases.iter().map(|&alias| text(alias)).collect(),
        base: (!base.is_empty()).then_some(base),
    };
    // SAFETY: the plugin keeps the functions and the context until `destruct`.
    match unsafe { register::register(host as usize, texts, record, ops) } {
        Ok(handle) => {
            if !id.is_null() {
                // SAFETY: the caller passes a valid pointer for the handle.
                unsafe { id.write(handle) };
            }
            0
        }
        Err(error) => failed(&error),
    }
}

unsafe extern "C" fn unregister(
    _host: *const bay_host,
    id: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let callback = Callback::new(done, arg);
    status(
        on_app_thread().and_then(|()| removal::unregister(id, move |status| callback.run(status))),
    )
}

unsafe extern "C" fn destruct_done(_host: *const bay_host, id: u64, status: i32) {
    removal::destruct_done(id, status);
}

unsafe extern "C" fn chan_ready(
    _host: *const bay_host,
    host_chan: u64,
    chan: *mut c_void,
    status: i32,
) {
    state::with_module_handle(host_chan, |channel| channel_life::ready(channel, chan, status));
}

unsafe extern "C" fn chan_closed(_host: *const bay_host, host_chan: u64) {
    state::with_module_handle(host_chan, channel_life::closed);
}

unsafe extern "C" fn resize(_host: *const bay_host, id: u64, num_blocks: u64) -> i32 {
    status(on_app_thread().and_then(|()| register::resize(id, num_blocks)))
}

unsafe extern "C" fn alias(_host: *const bay_host, id: u64, alias: bay_str, add: u32) -> i32 {
    // SAFETY: the text is valid for the call.
    let alias = unsafe { string(alias) };
    let change = if add == 0 { names::remove_alias } else { names::add_alias };
    status(on_app_thread().and_then(|()| change(id, &alias)))
}

unsafe extern "C" fn media(_host: *const bay_host, id: u64, lba: u64, nblocks: u64) -> i32 {
    status(on_app_thread().and_then(|()| events::report_media(id, lba, nblocks)))
}

unsafe extern "C" fn quiesce(
    _host: *const bay_host,
    id: u64,
    lba: u64,
    nblocks: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let callback = Callback::new(done, arg);
    status(on_app_thread().and_then(|()| {
        quiesce::quiesce(&bdev_of(id)?, lba, nblocks, move |status| callback.run(status))
    }))
}

unsafe extern "C" fn unquiesce(
    _host: *const bay_host,
    id: u64,
    lba: u64,
    nblocks: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let callback = Callback::new(done, arg);
    status(on_app_thread().and_then(|()| {
        quiesce::unquiesce(&bdev_of(id)?, lba, nblocks, move |status| callback.run(status))
    }))
}

fn bdev_of(id: u64) -> Result<Arc<Bdev>> {
    bdev::by_id(id).ok_or_else(Error::no_such_device)
}

unsafe extern "C" fn kick(_host: *const bay_host, host_chan: u64) {
    state::with_module_handle(host_chan, channel_life::kick);
}

unsafe extern "C" fn examine_done(_host: *const bay_host, token: u64) {
    examine::close_token(token);
}

unsafe extern "C" fn reserve(host: *const bay_host, name: bay_str, uuid: *const u8) -> i32 {
    // SAFETY: the text is valid for the call.
    let name = unsafe { string(name) };
    // SAFETY: null or 16 bytes, valid for the call.
    let uuid = unsafe { uuid.cast::<[u8; 16]>().as_ref() }.copied().unwrap_or_default();
    status(on_app_thread().and_then(|()| names::reserve(host as usize, &name, uuid)))
}

unsafe extern "C" fn release(host: *const bay_host, name: bay_str) -> i32 {
    // SAFETY: the text is valid for the call.
    let name = unsafe { string(name) };
    status(on_app_thread().and_then(|()| names::release(host as usize, &name)))
}
