//! The door of a plugin: maps a staged library, copies its descriptor, and calls its entry points.
//!
//! A mapped library stays mapped for the life of the process (retirement). So its code and
//! everything that it points to stay valid.
#![expect(unsafe_code, reason = "maps libraries and calls what they export")]

use super::error::{Error, Result};
use super::inspect::{DOOR, Inspection};
use super::manifest::Manifest;
use super::outside::Core;
use super::services::Grant;
use super::stage::Staged;
use drivebay_core::reactor::watch;
use drivebay_plugin_api::{
    BAY_ABI_MAJOR, BAY_ABI_MINOR, BAY_MAGIC, BAY_PF_THREADS_MOVE, BAY_START_FRESH, bay_bdev_module,
    bay_log_iface, bay_plugin, bay_quiesce, bay_str, copy_open, id,
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

/// The longest name or version in the descriptor, in bytes.
const DOOR_TEXT_MAX: usize = 128;

/// A mapped library whose descriptor was checked against its manifest.
pub(super) struct Door {
    plugin: bay_plugin,
    /// The library is never closed.
    _library: ManuallyDrop<Library>,
}

// SAFETY: it holds addresses in the library, which stays mapped. Nothing calls them before `init`
// takes the value on the app thread.
unsafe impl Send for Door {}

/// A plugin between `init` and `fini`. App thread.
pub(super) struct Instance {
    door: Door,
    state: *mut c_void,
    has_ended: Cell<bool>,
}

impl Door {
    /// Maps a staged copy. If the library has constructors, they run now, on this thread. Any
    /// thread.
    ///
    /// # Errors
    /// The error of the dynamic loader, or how the descriptor differs from the manifest.
    pub(super) fn open(staged: &Staged) -> Result<Self> {
        let manifest = staged.inspection.allowed()?;
        let path = &staged.path;
        // SAFETY: the owner and the notes were checked, so the library claims to keep the rules of
        // the ABI. They only allow constructors that touch the library itself.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = ManuallyDrop::new(library.map_err(|e| {
            Error::new(libc::ENOEXEC, format!("the dynamic loader refuses it: {}", root_of(&e)))
        })?);
        // SAFETY: the symbol is only used as an address, whatever it is.
        let symbol = unsafe { library.get::<*const u8>(DOOR.as_bytes()) };
        let symbol = symbol
            .map_err(|e| Error::new(libc::ENOEXEC, format!("no door {DOOR}: {}", root_of(&e))))?;
        let plugin = copy_door(symbol.into_raw().cast::<u8>(), &staged.inspection)?;
        check(&plugin, manifest)?;
        Ok(Self { plugin, _library: library })
    }

    /// Records for the watchdog that one of its functions is being called, until the result is
    /// dropped.
    fn watched(&self, function: &str) -> watch::Call {
        watch::call(format!("plugin {}: {function}", door_text(self.plugin.name)))
    }

    /// Whether the host may move lightweight threads that have state of this plugin.
    pub(super) fn lets_threads_move(&self) -> bool {
        self.plugin.flags & BAY_PF_THREADS_MOVE != 0
    }

    /// Calls `init` and makes the instance.
    ///
    /// # Errors
    /// The errno that `init` returns.
    pub(super) fn init(self, grant: &'static Grant) -> Result<Instance> {
        let Some(init) = self.plugin.init else {
            return Err(Error::new(libc::ENOEXEC, "its door has no init"));
        };
        let mut state = ptr::null_mut();
        let _call = self.watched("init");
        // SAFETY: this is `init` of a plugin with our ABI (the layout was compared), and `grant` is
        // never freed.
        let status = unsafe { init(grant.host(), &raw mut state) };
        succeeded("init", status)?;
        Ok(Instance { door: self, state, has_ended: Cell::new(false) })
    }
}

impl Instance {
    /// Calls `start`, after which the plugin serves.
    ///
    /// # Errors
    /// The errno that `start` returns.
    pub(super) fn start(&self) -> Result<()> {
        let Some(start) = self.door.plugin.start else { return Ok(()) };
        let _call = self.door.watched("start");
        // SAFETY: `state` came from `init` of the same plugin, and `fini` has not been called.
        let status = unsafe { start(self.state, BAY_START_FRESH) };
        succeeded("start", status)
    }

    /// Asks the plugin to quiesce. Calls `done` with 0 or a negative errno when it has quiesced, or
    /// at once when it has nothing to stop.
    pub(super) fn quiesce(&self, done: Box<dyn FnOnce(i32)>) {
        let Some(begin) = self.quiesce_table().and_then(|table| table.begin) else {
            return done(0);
        };
        let _call = self.door.watched("quiesce");
        let arg = Box::into_raw(Box::new(done));
        // SAFETY: `state` belongs to the plugin. `quiesced`, which is called once, takes `arg`
        // back.
        unsafe { begin(self.state, Some(quiesced), arg.cast()) }
    }

    /// Shows the plugin the bdevs if it has a bdev module. Called once, after `start`.
    pub(super) fn examine_bdevs(&self, core: &dyn Core, grant: &Grant) {
        let table = self.interface(id::BDEV_MODULE).cast::<bay_bdev_module>();
        if !table.is_null() {
            // SAFETY: the table with this id is a `bay_bdev_module` that belongs to this plugin's
            // state.
            unsafe { core.add_bdev_module(grant.host(), self.state, table) };
        }
    }

    /// Tells the plugin that the log level has changed.
    pub(super) fn log_level_changed(&self) {
        let table = self.interface(id::LOG);
        // SAFETY: the table with this id is a `bay_log_iface`, which begins with its size.
        let table = unsafe { copy_open(table.cast::<bay_log_iface>()) };
        if let Some(changed) = table.and_then(|table| table.changed) {
            // SAFETY: `state` came from `init` of the same plugin, and `fini` has not been called.
            unsafe { changed(self.state) }
        }
    }

    /// The plugin's table with this id, or null.
    fn interface(&self, id: &str) -> *const c_void {
        let Some(get) = self.door.plugin.get_iface else { return ptr::null() };
        // SAFETY: `state` came from `init` of the same plugin, and the id is valid for the call.
        unsafe { get(self.state, bay_str::new(id), 0) }
    }

    fn quiesce_table(&self) -> Option<bay_quiesce> {
        let table = self.interface(id::QUIESCE);
        // SAFETY: the table with this id is a `bay_quiesce`, which begins with its size.
        unsafe { copy_open(table.cast::<bay_quiesce>()) }
    }

    /// Calls `fini`, once. The library stays mapped.
    pub(super) fn fini(&self, reason: u32) {
        let Some(fini) = self.door.plugin.fini else { return };
        if self.has_ended.replace(true) {
            return;
        }
        let _call = self.door.watched("fini");
        // SAFETY: `state` came from `init` of the same plugin, and this is its last use.
        unsafe { fini(self.state, reason) }
    }
}

/// # Safety
/// `arg` comes from `quiesce`, and this is called once with it.
unsafe extern "C" fn quiesced(arg: *mut c_void, status: i32) {
    // SAFETY: it is the box that `quiesce` gave away (contract), and this is its only use.
    let done = unsafe { Box::from_raw(arg.cast::<Box<dyn FnOnce(i32)>>()) };
    done(status);
}

/// Copies the descriptor: as many bytes as both sides have, the rest zero.
fn copy_door(symbol: *const u8, inspection: &Inspection) -> Result<bay_plugin> {
    const SIZE_AT: usize = std::mem::offset_of!(bay_plugin, size);
    let no = |message: String| Err(Error::new(libc::ENOEXEC, message));
    // The symbol table's size was checked to cover both words; 0 would mean "unknown".
    let exported = usize::try_from(inspection.door_size.unwrap_or(0)).unwrap_or(0);
    // SAFETY: the symbol has at least 12 bytes.
    let magic = unsafe { symbol.cast::<u64>().read_unaligned() };
    if magic != BAY_MAGIC {
        return no(format!("its door has magic {magic:#018x}; {BAY_MAGIC:#018x} is required"));
    }
    // SAFETY: as above.
    let size_word = unsafe { symbol.add(SIZE_AT) };
    // SAFETY: as above.
    let size = unsafe { size_word.cast::<u32>().read_unaligned() } as usize;
    let least = std::mem::offset_of!(bay_plugin, get_iface);
    if size < least || size > exported {
        return no(format!(
            "its door says {size} bytes; allowed: {least} to {exported}, the size of its symbol"
        ));
    }
    let mut plugin = MaybeUninit::<bay_plugin>::zeroed();
    let len = size.min(size_of::<bay_plugin>());
    // SAFETY: `len` bytes are inside the symbol and inside `plugin`, which do not overlap.
    unsafe { ptr::copy_nonoverlapping(symbol, plugin.as_mut_ptr().cast::<u8>(), len) };
    // SAFETY: integers, raw pointers and optional function pointers may all be zero. The copied
    // part comes from the plugin, whose layout was compared with ours.
    Ok(unsafe { plugin.assume_init() })
}

fn check(plugin: &bay_plugin, manifest: &Manifest) -> Result<()> {
    let differ = |what: &str, door: &dyn fmt::Display, note: &dyn fmt::Display| {
        let message = format!("its door says {what} {door}; its manifest says {note}");
        Err(Error::new(libc::ENOEXEC, message))
    };
    let (major, minor) = manifest.abi;
    if (plugin.abi_major, plugin.abi_minor) != (major, minor) {
        let door = format!("{}.{}", plugin.abi_major, plugin.abi_minor);
        return differ("ABI", &door, &format!("{major}.{minor}"));
    }
    if plugin.abi_major != BAY_ABI_MAJOR || plugin.needs_minor > BAY_ABI_MINOR {
        let needs = plugin.needs_minor;
        let message = format!("its door needs ABI {}.{needs}", plugin.abi_major);
        return Err(Error::new(libc::ENOEXEC, message));
    }
    let name = door_text(plugin.name);
    if name != manifest.name {
        return differ("name", &name, &manifest.name);
    }
    let version = door_text(plugin.version);
    if version != manifest.version.to_string() {
        return differ("version", &version, &manifest.version);
    }
    Ok(())
}

fn door_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the ABI requires a NUL-terminated text in the library, which stays mapped.
    let text = unsafe { CStr::from_ptr(text) };
    String::from_utf8_lossy(text.to_bytes()).chars().take(DOOR_TEXT_MAX).collect()
}

fn succeeded(what: &str, status: i32) -> Result<()> {
    if status >= 0 {
        return Ok(());
    }
    let errno = status.checked_neg().unwrap_or(libc::EINVAL);
    let reason = std::io::Error::from_raw_os_error(errno);
    Err(Error::new(errno, format!("{what} failed: {reason}")))
}

/// The dynamic loader's message. libloading's own message only says that `dlopen` failed.
fn root_of(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instance")
    }
}
