//! The door: what a plugin exports, and the first thing it is given.

use crate::layout::{functions, structs};
use core::ffi::{c_char, c_void};

/// First eight bytes of every door, `BAYPLUG1` in memory order.
pub const BAY_MAGIC: u64 = u64::from_le_bytes(*b"BAYPLUG1");
/// The ABI major of this header; it is also in the name of the exported symbol.
pub const BAY_ABI_MAJOR: u16 = 1;
/// The ABI minor of this header: one number for all tables.
pub const BAY_ABI_MINOR: u16 = 0;

/// Door flag: the library may be unmapped after `fini` once the sweep finds nothing of it left.
pub const BAY_PF_UNLOADABLE: u32 = 1;
/// Door flag: the plugin may be placed in a child process.
pub const BAY_PF_OUT_OF_PROCESS_OK: u32 = 2;
/// Door flag: at most one instance may be loaded.
pub const BAY_PF_SINGLETON: u32 = 4;

/// `start`: the plugin begins with nothing.
pub const BAY_START_FRESH: u32 = 0;
/// `start`: state is handed over by an older instance.
pub const BAY_START_UPGRADE: u32 = 1;

/// `fini`: the plugin is unloaded by an operator.
pub const BAY_FINI_UNLOAD: u32 = 0;
/// `fini`: a newer instance has taken over; nothing that was handed over may be shut down.
pub const BAY_FINI_UPGRADED: u32 = 1;
/// `fini`: the host ends.
pub const BAY_FINI_SHUTDOWN: u32 = 2;

/// Log levels, as SPDK numbers them.
pub const BAY_LOG_ERROR: u32 = 0;
/// Something is wrong and was dealt with.
pub const BAY_LOG_WARN: u32 = 1;
/// What an operator should know.
pub const BAY_LOG_NOTICE: u32 = 2;
/// What explains an operation.
pub const BAY_LOG_INFO: u32 = 3;
/// What only a developer reads.
pub const BAY_LOG_DEBUG: u32 = 4;

/// `target` of a log line: the plugin panicked, and its library takes no further call. The line has the place and the message. From
/// then on the plugin's code touches no request, so the host ends the requests that nobody holds (`bay_io.holds`).
pub const LOG_TARGET_POISONED: &str = "poisoned";
/// As `LOG_TARGET_POISONED`, for a library that does not set `bay_io.holds`: the host ends none of its requests.
pub const LOG_TARGET_PANIC: &str = "panic";

functions! {
    /// Writes one piece of a text into the receiver's sink. `[caller's thread]`
    fn bay_sink_write_fn(ctx: *mut c_void, text: bay_str);
    /// An asynchronous operation ended: `status` is 0 or a negative errno. `[thread of the call]`
    fn bay_cb_fn(arg: *mut c_void, status: i32);
    /// Makes one instance and stores its state; may look up interfaces, registers nothing. 0 or a negative errno. `[app thread]`
    fn bay_init_fn(host: *const bay_host, state: *mut *mut c_void) -> i32;
    /// Begins to serve: registers modules and methods. `how` is `BAY_START_*`. `[app thread]`
    fn bay_start_fn(state: *mut c_void, how: u32) -> i32;
    /// Ends the instance; nothing of the plugin may run afterwards. `reason` is `BAY_FINI_*`. `[app thread]`
    fn bay_fini_fn(state: *mut c_void, reason: u32);
    /// The plugin's table for an interface id, or NULL. The table lives as long as the instance. `[app thread]`
    fn bay_plugin_get_iface_fn(state: *mut c_void, id: bay_str, min_minor: u32) -> *const c_void;
    /// The host's table for an interface id; NULL when absent or not granted. Valid until `fini` returns. `[any thread]`
    fn bay_host_get_iface_fn(host: *const bay_host, id: bay_str, min_minor: u32) -> *const c_void;
    /// Writes one line to the host's log. `[any thread]`
    fn bay_log_fn(host: *const bay_host, level: u32, target: bay_str, text: bay_str);
}

structs! {
    /// Borrowed UTF-8 text, not NUL-terminated; valid for the call only.
    closed struct bay_str {
        /// First byte; may be NULL when `len` is 0.
        ptr: *const u8,
        /// Length in bytes.
        len: usize,
    }

    /// Where the callee writes a text of unknown length; valid for the call only.
    closed struct bay_sink {
        /// First argument of `write`.
        ctx: *mut c_void,
        /// Appends a piece.
        write: Option<bay_sink_write_fn>,
    }

    /// The door: exported as data under the symbol `bay_plugin_v1`.
    open struct bay_plugin {
        /// `BAY_MAGIC`.
        magic: u64,
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_ABI_MAJOR` of the header it was compiled with.
        abi_major: u16,
        /// `BAY_ABI_MINOR` of the header it was compiled with.
        abi_minor: u16,
        /// Oldest host minor it can run on.
        needs_minor: u16,
        /// Zero.
        rsv0: u16,
        /// `BAY_PF_*`.
        flags: u32,
        /// NUL-terminated; equal to the manifest's.
        name: *const c_char,
        /// NUL-terminated semantic version; equal to the manifest's.
        version: *const c_char,
        /// Makes an instance.
        init: Option<bay_init_fn>,
        /// Begins to serve.
        start: Option<bay_start_fn>,
        /// Ends the instance.
        fini: Option<bay_fini_fn>,
        /// Interfaces the plugin offers to the host; may be NULL.
        get_iface: Option<bay_plugin_get_iface_fn>,
    }

    /// What a plugin is given: one per instance, first argument of every service, so that all it makes has an owner.
    open struct bay_host {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// The host's ABI major.
        abi_major: u16,
        /// The host's ABI minor.
        abi_minor: u16,
        /// The host's own.
        ctx: *mut c_void,
        /// Looks up a service table by id.
        get_iface: Option<bay_host_get_iface_fn>,
        /// The level up to which lines are wanted; read relaxed before formatting.
        log_level: *const u32,
        /// Writes a log line.
        log: Option<bay_log_fn>,
    }
}
