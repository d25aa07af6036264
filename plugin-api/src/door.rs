//! The door: the struct a plugin exports, and the struct the host passes to it first.

use crate::layout::{functions, structs};
use core::ffi::{c_char, c_void};

/// First eight bytes of every door, `BAYPLUG1` in memory order.
pub const BAY_MAGIC: u64 = u64::from_le_bytes(*b"BAYPLUG1");
/// The ABI major of this header; it is also in the name of the exported symbol.
pub const BAY_ABI_MAJOR: u16 = 1;
/// The ABI minor of this header: one number for all tables.
pub const BAY_ABI_MINOR: u16 = 0;

/// Door flag: the host may unmap the library after `fini`. The host does not use this permission yet.
pub const BAY_PF_UNLOADABLE: u32 = 1;
/// Door flag: the host may run the plugin in a child process. The host does not use this permission yet.
pub const BAY_PF_OUT_OF_PROCESS_OK: u32 = 2;
/// Door flag: the host must not load two instances. It never does.
pub const BAY_PF_SINGLETON: u32 = 4;
/// Door flag: the plugin keeps no state that belongs to one OS thread, such as thread-local variables. The host moves
/// lightweight threads to other cores only while every loaded plugin has this flag.
pub const BAY_PF_THREADS_MOVE: u32 = 8;

/// `start`: the plugin starts without state.
pub const BAY_START_FRESH: u32 = 0;
/// `start`: the plugin takes over the state of an older instance. The host does not do this yet.
pub const BAY_START_UPGRADE: u32 = 1;

/// `fini`: an operator unloads the plugin.
pub const BAY_FINI_UNLOAD: u32 = 0;
/// `fini`: a newer instance has taken over. The plugin must not shut down anything that it handed over. The host does not
/// do this yet.
pub const BAY_FINI_UPGRADED: u32 = 1;
/// `fini`: the host shuts down.
pub const BAY_FINI_SHUTDOWN: u32 = 2;

/// Log level: an operation failed. The levels have SPDK's numbers.
pub const BAY_LOG_ERROR: u32 = 0;
/// Log level: something is wrong, and the program has handled it.
pub const BAY_LOG_WARN: u32 = 1;
/// Log level: an operator should know this.
pub const BAY_LOG_NOTICE: u32 = 2;
/// Log level: explains how an operation proceeds.
pub const BAY_LOG_INFO: u32 = 3;
/// Log level: for developers only.
pub const BAY_LOG_DEBUG: u32 = 4;

/// `target` of a log line: the plugin panicked, and its library refuses every further call. The line contains the
/// place and the message. From then on the plugin's code touches no request, so the host completes the plugin's
/// requests whose `bay_io.holds` is zero.
pub const LOG_TARGET_POISONED: &str = "poisoned";
/// As `LOG_TARGET_POISONED`, for a library that does not set `bay_io.holds`: the host completes none of its requests.
pub const LOG_TARGET_PANIC: &str = "panic";

functions! {
    /// Appends a piece of text to the receiver's sink. `[caller's thread]`
    fn bay_sink_write_fn(ctx: *mut c_void, text: bay_str);
    /// An asynchronous operation has finished. `status` is 0 or a negative errno. `[thread of the call]`
    fn bay_cb_fn(arg: *mut c_void, status: i32);
    /// Creates one instance and stores its state. It may look up interfaces but registers nothing. Returns 0 or a
    /// negative errno. `[app thread]`
    fn bay_init_fn(host: *const bay_host, state: *mut *mut c_void) -> i32;
    /// Starts the instance, which registers its modules and methods. `how` is `BAY_START_*`. `[app thread]`
    fn bay_start_fn(state: *mut c_void, how: u32) -> i32;
    /// Ends the instance. No code of the plugin may run afterwards. `reason` is `BAY_FINI_*`. `[app thread]`
    fn bay_fini_fn(state: *mut c_void, reason: u32);
    /// Returns the plugin's table for an interface id, or NULL. The table stays valid as long as the instance. `[app thread]`
    fn bay_plugin_get_iface_fn(state: *mut c_void, id: bay_str, min_minor: u32) -> *const c_void;
    /// Returns the host's table for an interface id, or NULL when the host does not have it or does not grant it. Valid
    /// until `fini` returns. `[any thread]`
    fn bay_host_get_iface_fn(host: *const bay_host, id: bay_str, min_minor: u32) -> *const c_void;
    /// Writes one line to the host's log. `[any thread]`
    fn bay_log_fn(host: *const bay_host, level: u32, target: bay_str, text: bay_str);
}

structs! {
    /// Borrowed UTF-8 text without a terminating NUL; valid for the call only.
    closed struct bay_str {
        /// First byte; may be NULL when `len` is 0.
        ptr: *const u8,
        /// Length in bytes.
        len: usize,
    }

    /// Collects a text of unknown length from the callee; valid for the call only.
    closed struct bay_sink {
        /// First argument of `write`.
        ctx: *mut c_void,
        /// Appends a piece of text.
        write: Option<bay_sink_write_fn>,
    }

    /// The door: exported as data under the symbol `bay_plugin_v1`.
    open struct bay_plugin {
        /// `BAY_MAGIC`.
        magic: u64,
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_ABI_MAJOR` of the header that the plugin was compiled with.
        abi_major: u16,
        /// `BAY_ABI_MINOR` of the header that the plugin was compiled with.
        abi_minor: u16,
        /// Oldest ABI minor of a host that can run the plugin.
        needs_minor: u16,
        /// Zero.
        rsv0: u16,
        /// `BAY_PF_*`.
        flags: u32,
        /// Plugin name, NUL-terminated; must equal the manifest's.
        name: *const c_char,
        /// Semantic version, NUL-terminated; must equal the manifest's.
        version: *const c_char,
        /// Creates an instance.
        init: Option<bay_init_fn>,
        /// Starts an instance.
        start: Option<bay_start_fn>,
        /// Ends an instance.
        fini: Option<bay_fini_fn>,
        /// Returns the interfaces that the plugin offers to the host; may be NULL.
        get_iface: Option<bay_plugin_get_iface_fn>,
    }

    /// The host, as a plugin sees it. Each instance has its own. It is the first argument of every service, so the host
    /// knows which plugin owns what the service creates.
    open struct bay_host {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// The host's ABI major.
        abi_major: u16,
        /// The host's ABI minor.
        abi_minor: u16,
        /// The host's private pointer.
        ctx: *mut c_void,
        /// Looks up a service table by id.
        get_iface: Option<bay_host_get_iface_fn>,
        /// Log level: the plugin writes lines up to this level. Read it (relaxed) before you format a line.
        log_level: *const u32,
        /// Writes a log line.
        log: Option<bay_log_fn>,
    }
}
