//! The host's tables, copied once when the host initialises the library.
#![expect(unsafe_code, reason = "reads the host's tables and shares them between threads")]

use crate::error::{Error, Result, errno};
use api::{bay_host, bay_sink, bay_str, copy_open};
use drivebay_plugin_api as api;
use std::ffi::c_void;
use std::sync::OnceLock;

/// Each loaded copy of the library is one plugin instance and has one host.
static HOST: OnceLock<Host> = OnceLock::new();

/// The host's required tables, with every function present.
#[derive(Debug)]
pub(crate) struct Host {
    /// First argument of every service.
    pub(crate) raw: *const bay_host,
    pub(crate) log_level: *const u32,
    pub(crate) log: api::bay_log_fn,
    pub(crate) bdev: Bdev,
    pub(crate) client: Client,
    pub(crate) thread: Thread,
    pub(crate) poller: Poller,
    pub(crate) buf: Buf,
    pub(crate) mem: Mem,
    pub(crate) rpc: Rpc,
    pub(crate) broker: Broker,
    pub(crate) notify: Notify,
    /// `None` on a host that lacks the interface.
    pub(crate) worker: Option<Worker>,
}

// SAFETY: the tables do not change between `init` and `fini`, and the host accepts its pointer on any thread.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// Returns the host's tables.
///
/// # Panics
/// Before `init`. The host runs no code of a plugin then.
#[inline]
pub(crate) fn host() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        None => no_host(),
    }
}

/// Returns the host's tables, or `None` before `init`.
pub(crate) fn try_host() -> Option<&'static Host> {
    HOST.get()
}

#[cold]
fn no_host() -> ! {
    panic!("the SDK is used before the host has called init")
}

/// Copies the host's tables. A second call in the same library keeps the first copies.
///
/// # Errors
/// `ENOSYS`, naming the function that the host lacks.
///
/// # Safety
/// `raw` is the host's table, valid until `fini` returns.
pub(crate) unsafe fn adopt(raw: *const bay_host) -> Result<&'static Host> {
    // SAFETY: the caller's promise.
    let copied = unsafe { copy_open(raw) }
        .ok_or_else(|| Error::new(errno::EINVAL, "the host gave no table"))?;
    // SAFETY: as above; the table and everything it points to stay valid.
    let host = unsafe { Host::read(raw, &copied) }?;
    Ok(HOST.get_or_init(|| host))
}

macro_rules! tables {
    ($(
        $(#[doc = $doc:literal])*
        $Table:ident: $id:expr, $api:ident { $($function:ident: $type:ident),* $(,)? }
    )*) => { $(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub(crate) struct $Table { $(pub(crate) $function: api::$type,)* }

        impl $Table {
            /// # Safety
            /// `raw` is the live host's table, and `host` is a copy of it.
            unsafe fn read(raw: *const bay_host, host: &bay_host) -> Result<Self> {
                let lacks = |what: &str| {
                    Error::new(errno::ENOSYS, format!("the host lacks {}{what}", $id))
                };
                let get = host.get_iface.ok_or_else(|| lacks(""))?;
                // SAFETY: this is the host's function with its own table.
                let table = unsafe { get(raw, bay_str::new($id), api::BAY_ABI_MINOR.into()) };
                // SAFETY: the id determines the type of the table.
                let table = unsafe { copy_open(table.cast::<api::$api>()) };
                let table = table.ok_or_else(|| lacks(""))?;
                Ok(Self { $(
                    $function: table.$function.ok_or_else(
                        || lacks(concat!(": ", stringify!($function)))
                    )?,
                )* })
            }
        }
    )* };
}

tables! {
    /// `bay.bdev/1`
    Bdev: api::id::BDEV, bay_bdev_api {
        register: bay_bdev_register_fn,
        unregister: bay_bdev_unregister_fn,
        destruct_done: bay_bdev_destruct_done_fn,
        chan_ready: bay_bdev_chan_ready_fn,
        chan_closed: bay_bdev_chan_closed_fn,
        resize: bay_bdev_resize_fn,
        kick: bay_bdev_kick_fn,
        quiesce: bay_bdev_quiesce_fn,
        unquiesce: bay_bdev_quiesce_fn,
        examine_done: bay_examine_done_fn,
        reserve: bay_bdev_reserve_fn,
        release: bay_bdev_release_fn,
        alias: bay_bdev_alias_fn,
        media: bay_bdev_media_fn,
    }
    /// `bay.bdev_client/1`
    Client: api::id::BDEV_CLIENT, bay_bdev_client_api {
        open: bay_client_open_fn,
        close: bay_client_close_fn,
        info: bay_client_info_fn,
        claim: bay_client_claim_fn,
        unclaim: bay_client_unclaim_fn,
        chan_get: bay_client_chan_get_fn,
        chan_put: bay_client_chan_put_fn,
        io_get: bay_client_io_get_fn,
        submit: bay_client_submit_fn,
        flush: bay_client_flush_fn,
        pass: bay_client_pass_fn,
        io_abort: bay_client_io_abort_fn,
        io_derive_part: bay_client_io_derive_part_fn,
        media_next: bay_client_media_fn,
    }
    /// `bay.thread/1`
    Thread: api::id::THREAD, bay_thread_api {
        current: bay_thread_current_fn,
        app_thread: bay_thread_app_fn,
        next_core: bay_thread_next_core_fn,
        create: bay_thread_create_fn,
        exit: bay_thread_exit_fn,
        set_cpumask: bay_thread_set_cpumask_fn,
        send: bay_thread_send_fn,
        now_ns: bay_now_ns_fn,
    }
    /// `bay.poller/1`
    Poller: api::id::POLLER, bay_poller_api {
        register: bay_poller_register_fn,
        unregister: bay_poller_fn,
        pause: bay_poller_fn,
        resume: bay_poller_fn,
        wake_fd: bay_poller_wake_fd_fn,
    }
    /// `bay.buf/1`
    Buf: api::id::BUF, bay_buf_api {
        get: bay_buf_get_fn,
        put: bay_buf_put_fn,
        abort: bay_buf_abort_fn,
    }
    /// `bay.mem/1`
    Mem: api::id::MEM, bay_mem_api {
        alloc: bay_mem_alloc_fn,
        free: bay_mem_free_fn,
    }
    /// `bay.rpc/1`
    Rpc: api::id::RPC, bay_rpc_api {
        register: bay_rpc_register_fn,
        unregister: bay_rpc_unregister_fn,
        reply: bay_rpc_reply_fn,
        error: bay_rpc_error_fn,
    }
    /// `bay.broker/1`
    Broker: api::id::BROKER, bay_broker_api {
        provide: bay_broker_provide_fn,
        withdraw: bay_broker_withdraw_fn,
        acquire: bay_broker_acquire_fn,
        release: bay_broker_release_fn,
    }
    /// `bay.notify/1`
    Notify: api::id::NOTIFY, bay_notify_api {
        notify: bay_notify_fn,
        subsystem: bay_subsystem_register_fn,
    }
    /// `bay.draft.worker/1`
    Worker: api::id::WORKER, bay_worker_api {
        submit: bay_worker_submit_fn,
        cancel: bay_worker_cancel_fn,
    }
}

impl Host {
    /// # Safety
    /// `raw` is the live host's table, and `host` is a copy of it.
    unsafe fn read(raw: *const bay_host, host: &bay_host) -> Result<Self> {
        let log = host.log.ok_or_else(|| Error::new(errno::ENOSYS, "the host lacks log"))?;
        if host.log_level.is_null() {
            return Err(Error::new(errno::ENOSYS, "the host lacks log_level"));
        }
        Ok(Self {
            raw,
            log_level: host.log_level,
            log,
            // SAFETY: the caller's promise; the same holds for all fields below.
            bdev: unsafe { Bdev::read(raw, host) }?,
            // SAFETY: as above.
            client: unsafe { Client::read(raw, host) }?,
            // SAFETY: as above.
            thread: unsafe { Thread::read(raw, host) }?,
            // SAFETY: as above.
            poller: unsafe { Poller::read(raw, host) }?,
            // SAFETY: as above.
            buf: unsafe { Buf::read(raw, host) }?,
            // SAFETY: as above.
            mem: unsafe { Mem::read(raw, host) }?,
            // SAFETY: as above.
            rpc: unsafe { Rpc::read(raw, host) }?,
            // SAFETY: as above.
            broker: unsafe { Broker::read(raw, host) }?,
            // SAFETY: as above.
            notify: unsafe { Notify::read(raw, host) }?,
            // SAFETY: as above.
            worker: unsafe { Worker::read(raw, host) }.ok(),
        })
    }
}

/// The memory interface, with functions that older hosts lack; `None` when the host does not provide it.
pub(crate) fn mem_table(host: &Host) -> Option<api::bay_mem_api> {
    let table = table(host, api::id::MEM)?;
    // SAFETY: the id determines the type of the table.
    unsafe { copy_open(table.cast::<api::bay_mem_api>()) }
}

/// The buffer interface, with functions that older hosts lack; `None` when the host does not provide it.
pub(crate) fn buf_table(host: &Host) -> Option<api::bay_buf_api> {
    let table = table(host, api::id::BUF)?;
    // SAFETY: the id determines the type of the table.
    unsafe { copy_open(table.cast::<api::bay_buf_api>()) }
}

/// The interface for PCI devices; `None` when the host does not give it to this plugin.
pub(crate) fn pci_table(host: &Host) -> Option<api::bay_pci_api> {
    let table = table(host, api::id::PCI)?;
    // SAFETY: the table that the id names.
    unsafe { copy_open(table.cast::<api::bay_pci_api>()) }
}

/// The table of an interface; `None` or NULL when the host does not offer it.
fn table(host: &Host, id: &'static str) -> Option<*const c_void> {
    // SAFETY: the live host's table.
    let raw = unsafe { copy_open(host.raw) }?;
    let get = raw.get_iface?;
    // SAFETY: this is the host's function with its own table.
    Some(unsafe { get(host.raw, bay_str::new(id), 0) })
}

/// Reads a text that the host lends for one call. Returns an empty text when it is not UTF-8.
///
/// # Safety
/// `text` is readable as long as the result is in use.
pub(crate) unsafe fn text<'a>(text: bay_str) -> &'a str {
    // SAFETY: the caller's promise.
    unsafe { text.borrow(usize::MAX) }.unwrap_or_default()
}

/// Collects a text of unknown length for the host.
#[derive(Debug)]
pub struct Sink<'a>(&'a bay_sink);

impl<'a> Sink<'a> {
    /// # Safety
    /// `sink` is NULL, or a sink of the host that is valid for `'a`.
    pub(crate) unsafe fn new(sink: *const bay_sink) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { sink.as_ref() }.map(Self)
    }

    /// Appends a piece of text.
    pub fn write(&self, text: &str) {
        if let Some(write) = self.0.write {
            // SAFETY: the host's function with the host's context; the text outlives the call.
            unsafe { write(self.0.ctx, bay_str::new(text)) };
        }
    }

    /// Appends a value as JSON text.
    pub fn write_json(&self, value: &impl serde::Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            self.write(&text);
        }
    }
}
