//! The door: what a library exports, and its life cycle from `init` to `fini`.
#![expect(unsafe_code, reason = "the host calls into the library here")]

use crate::app::App;
use crate::entry::{enter, enter_with, guard, is_poisoned};
use crate::error::{Result, errno};
use crate::host::Sink;
use crate::notify::Config;
use crate::nvmf::transport;
use crate::runtime::task;
use crate::{bdev, host, log, rpc, thread};
use api::{bay_bdev_module, bay_cb_fn, bay_host, bay_log_iface, bay_quiesce, bay_sink, bay_str};
use drivebay_plugin_api as api;
use std::ffi::c_void;
use std::sync::OnceLock;

/// The contents of `plugin!`. A table rather than a trait object, because it lives in a static.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plugin {
    /// Registers the plugin's modules and methods. `[app thread]`
    pub start: fn(&App) -> Result<()>,
    /// Ends the plugin's work, then drops the token. The SDK unregisters bdevs and methods. `[app thread]`
    pub stop: fn(&App, Stopping),
}

/// Links the door to its [`Plugin`].
#[doc(hidden)]
pub trait Library {
    /// The contents of `plugin!`.
    const PLUGIN: &'static Plugin;
}

static PLUGIN: OnceLock<&'static Plugin> = OnceLock::new();

/// A stop in progress. It ends when this token is dropped, on the app thread. The SDK then drops the tasks that still
/// run and unregisters the library's bdevs.
#[derive(Debug)]
pub struct Stopping(Option<Done>);

impl Stopping {
    /// Runs `work`, which ends the plugin's own work, as a task with this name. The stop ends after it. `[app thread]`
    pub fn after(self, name: &'static str, work: impl Future<Output = ()> + 'static) {
        let task = task::spawn(name, async move {
            work.await;
            drop(self);
        });
        match task {
            Ok(task) => task.detach(),
            // The task was dropped with the token, so the stop ends without it.
            Err(error) => tracing::error!("{name}: {error}"),
        }
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let Some(done) = self.0.take() else { return };
        if is_poisoned() || std::thread::panicking() {
            // The library is poisoned, so tasks, which are the author's code, must not run any more. The host removes the bdevs.
            transport::abandon();
            return drop(done);
        }
        if !thread::app().is_current() {
            let rest = Self(Some(done));
            // SAFETY: `rest` belongs to the app thread, and this thread does not touch it again. If there is no app
            // thread, the host has ended.
            let _ = unsafe { thread::app().send_any(move || drop(rest)) };
            return;
        }
        // End the tasks twice. A task may use the library's own bdevs, so tasks end before the bdevs. The end of a bdev may start a task,
        // so tasks end after the bdevs, too.
        task::end_all(false, move || {
            // SAFETY: tasks of the app thread end on the app thread.
            bdev::unregister_all(unsafe { App::assume() }, Ended(Some(done)));
        });
    }
}

/// Dropped when the library's bdevs are gone. Its drop ends the tasks that they left running, then tells the host.
struct Ended(Option<Done>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            task::end_all(true, move || drop(done));
        }
    }
}

/// Tells the host when it is dropped.
#[derive(Debug)]
struct Done {
    call: Option<bay_cb_fn>,
    arg: *mut c_void,
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            // SAFETY: the host's callback with its argument; this is the only call.
            unsafe { call(self.arg, 0) };
        }
    }
}

unsafe extern "C" fn init<L: Library>(raw: *const bay_host, _state: *mut *mut c_void) -> i32 {
    if raw.is_null() {
        return -errno::EINVAL;
    }
    let adopt = || {
        // SAFETY: the host passes its table to `init`.
        let adopted = unsafe { host::adopt(raw) };
        match adopted {
            Ok(_) => {
                log::install();
                let _ = PLUGIN.set(L::PLUGIN);
                0
            }
            Err(error) => {
                // SAFETY: as above.
                unsafe { refuse(raw, error.message()) };
                error.status()
            }
        }
    };
    guard(adopt).unwrap_or(-errno::EFAULT)
}

/// Logs why `init` fails, if the host has a log function.
///
/// # Safety
/// `raw` is the host's table.
unsafe fn refuse(raw: *const bay_host, why: &str) {
    // SAFETY: the caller's promise; even the oldest minor has `log`.
    if let Some(log) = unsafe { (*raw).log } {
        let (target, text) = (bay_str::new("init"), bay_str::new(why));
        // SAFETY: the texts outlive the call.
        unsafe { log(raw, api::BAY_LOG_ERROR, target, text) };
    }
}

unsafe extern "C" fn start(_state: *mut c_void, _how: u32) -> i32 {
    let Some(plugin) = PLUGIN.get() else { return -errno::EINVAL };
    // SAFETY: the host calls this function on the app thread.
    let app = unsafe { App::assume() };
    enter(-errno::EFAULT, || match (plugin.start)(app) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("start: {error}");
            error.status()
        }
    })
}

unsafe extern "C" fn fini(_state: *mut c_void, _reason: u32) {
    // After a panic the SDK neither runs nor drops the author's code.
    enter((), rpc::unregister_all);
}

unsafe extern "C" fn get_iface(_state: *mut c_void, id: bay_str, _min_minor: u32) -> *const c_void {
    // SAFETY: the text is valid for the call.
    match unsafe { host::text(id) } {
        api::id::LOG => (&raw const LOG).cast(),
        api::id::BDEV_MODULE => (&raw const BDEV_MODULE).cast(),
        api::id::QUIESCE => (&raw const QUIESCE).cast(),
        _ => std::ptr::null(),
    }
}

static LOG: bay_log_iface = bay_log_iface {
    size: bdev::size_of_table::<bay_log_iface>(),
    flags: 0,
    changed: Some(log_changed),
};

unsafe extern "C" fn log_changed(_state: *mut c_void) {
    enter((), log::level_changed);
}

static BDEV_MODULE: bay_bdev_module = bay_bdev_module {
    size: bdev::size_of_table::<bay_bdev_module>(),
    flags: 0,
    examine_config: Some(examine_config),
    examine_disk: Some(examine_disk),
    write_config: Some(write_config),
    fini_start: None,
};

unsafe extern "C" fn examine_config(_state: *mut c_void, name: bay_str) {
    // SAFETY: the text is valid for the call.
    let name = unsafe { host::text(name) };
    // SAFETY: the host calls this function on the app thread.
    let app = unsafe { App::assume() };
    enter((), || bdev::examine_config(app, name));
}

unsafe extern "C" fn examine_disk(_state: *mut c_void, name: bay_str, token: u64) {
    // SAFETY: the text is valid for the call.
    let name = unsafe { host::text(name) };
    // If the library is poisoned, `examine` is only dropped, which ends the examination.
    let examine = bdev::Examine::new(name, token);
    // SAFETY: the host calls this function on the app thread.
    let app = unsafe { App::assume() };
    enter_with(examine, |examine| bdev::examine(app, examine));
}

unsafe extern "C" fn write_config(_state: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the sink is valid for the call.
    if let Some(sink) = unsafe { Sink::new(sink) } {
        enter((), || bdev::save_config(&mut Config::new(sink)));
    }
}

static QUIESCE: bay_quiesce =
    bay_quiesce { size: bdev::size_of_table::<bay_quiesce>(), flags: 0, begin: Some(quiesce) };

unsafe extern "C" fn quiesce(_state: *mut c_void, done: Option<bay_cb_fn>, arg: *mut c_void) {
    let stopping = Stopping(Some(Done { call: done, arg }));
    // SAFETY: the host calls this function on the app thread.
    let app = unsafe { App::assume() };
    if let Some(plugin) = PLUGIN.get() {
        enter_with(stopping, |stopping| (plugin.stop)(app, stopping));
    }
}

/// Defines the library's door and notes.
///
/// ```standalone_crate
/// use drivebay_sdk::{App, Result, Stopping, plugin};
///
/// plugin! {
///     name: "nvmf-tcp",
///     kind: "transport",
///     provides: ["nvmf.transport/TCP"],
///     requires: ["bay.nvmf_target/1"],
///     methods: [],                        // RPC methods; each adds "rpc:<name>" to `provides`
///     permissions: ["pci"],               // rights that only the operator grants; optional
///     unsafe(threads_move),               // a promise, see below; optional
///     start: start,
///     stop: stop,                         // optional
/// }
///
/// fn start(_app: &App) -> Result<()> {
///     Ok(())
/// }
///
/// fn stop(_app: &App, _stopping: Stopping) {}
/// # fn main() {}
/// ```
///
/// `unsafe(threads_move)` promises what the compiler cannot check: between two calls of the host, the library keeps no
/// value that belongs to an OS thread. Such values are `thread_local!` variables, values that share memory with one (for
/// example a `ThreadRng` of the crate rand), and a `MutexGuard`. `Rc`s and other values that are not `Send` are fine. With
/// this promise the host may move lightweight threads, and all that lives on them, to other cores. While a library without
/// it is loaded, the host moves no thread.
#[macro_export]
macro_rules! plugin {
    (
        name: $name:literal,
        kind: $kind:literal,
        provides: [$($provides:expr),* $(,)?],
        requires: [$($requires:expr),* $(,)?],
        methods: [$($method:expr),* $(,)?],
        $(permissions: [$($permission:expr),* $(,)?],)?
        $(unsafe($promise:ident),)?
        start: $start:expr
        $(, stop: $stop:expr)? $(,)?
    ) => {
        #[doc(hidden)]
        pub mod bay_door {
            #![allow(unused_imports, reason = "`start` and `stop` may be paths or closures")]
            use super::*;
            use $crate::private::{self as sdk, api};

            struct ThisLibrary;
            impl sdk::Library for ThisLibrary {
                const PLUGIN: &'static sdk::Plugin = &sdk::Plugin {
                    start: $start,
                    stop: {
                        let stop: fn(&sdk::App, sdk::Stopping) = |_, stopping| ::core::mem::drop(stopping);
                        $(let _ = stop; let stop: fn(&sdk::App, sdk::Stopping) = $stop;)?
                        stop
                    },
                };
            }

            /// The plugin's door.
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, reason = "the ABI fixes the symbol's name")]
            pub static bay_plugin_v1: sdk::Door = sdk::door::<ThisLibrary>(
                ::core::concat!($name, "\0"),
                ::core::concat!(::core::env!("CARGO_PKG_VERSION"), "\0"),
                &[$(::core::stringify!($promise))?],
            );

            const fn manifest<const N: usize>() -> api::layout::Text<N> {
                sdk::manifest(&sdk::Manifest {
                    name: $name,
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    kind: $kind,
                    vendor: ::core::env!("CARGO_PKG_AUTHORS"),
                    license: ::core::env!("CARGO_PKG_LICENSE"),
                    provides: &[$($provides),*],
                    requires: &[$($requires),*],
                    methods: &[$($method),*],
                    permissions: &[$($($permission),*)?],
                })
            }
            const LEN: usize = api::note::pad4(manifest::<0>().len);
            const TEXT: api::layout::Text<LEN> = manifest::<LEN>();
            const LAYOUT_LEN: usize = api::note::pad4(api::LAYOUT_LEN);

            #[used]
            #[unsafe(link_section = ".note.bay")]
            static MANIFEST: api::note::Note<LEN> =
                api::note::Note::new(api::note::BAY_NOTE_MANIFEST, TEXT.bytes.split_at(TEXT.len).0);
            #[used]
            #[unsafe(link_section = ".note.bay")]
            static LAYOUT: api::note::Note<LAYOUT_LEN> =
                api::note::Note::new(api::note::BAY_NOTE_LAYOUT, &api::LAYOUT);
        }
    };
}

/// Defines the door of a library with one kind of bdev. It has the methods `bdev_<name>_create` and
/// `bdev_<name>_delete`, and those that `methods` lists and `start` registers.
///
/// ```standalone_crate
/// use drivebay_sdk::prelude::*;
///
/// # struct Null { geometry: Geometry }
/// # params! { pub struct Params { block_size: u32 = 512 } }
/// # impl Bdev for Null {
/// #     type Params = Params;
/// #     type Channel = ();
/// #     const OPS: OpSet = OpSet::READ_WRITE;
/// #     const PRODUCT: &'static str = "Null disk";
/// #     fn create(_app: &App, params: Params) -> Result<Self> {
/// #         Ok(Self { geometry: Geometry::new(params.block_size, 8)? })
/// #     }
/// #     fn name(&self) -> &str { "n" }
/// #     fn geometry(&self) -> Geometry { self.geometry }
/// #     fn open_channel(&self) -> Result<()> { Ok(()) }
/// #     fn submit(&self, _: &mut (), io: BdevIo) { io.complete(Status::SUCCESS) }
/// # }
/// bdev_module!("null", Null, unsafe(threads_move), methods: ["bdev_null_resize"], start: start);
///
/// /// Registers the method that only this module has.
/// fn start(_app: &App) -> Result<()> {
///     // …
///     Ok(())
/// }
/// # fn main() {}
/// ```
///
/// [`plugin!`](crate::plugin) says what `unsafe(threads_move)` promises.
#[macro_export]
macro_rules! bdev_module {
    (
        $name:literal, $Bdev:ty
        $(, unsafe($promise:ident))?
        $(, methods: [$($method:expr),*], start: $start:expr)?
        $(,)?
    ) => {
        $crate::module!(
            $name, "bdev", $crate::bdev::serve::<$Bdev>, [$($promise)?] $(, [$($method),*], $start)?
        );
    };
}

/// As [`bdev_module!`](crate::bdev_module), for a [`Filter`](crate::bdev::Filter).
#[macro_export]
macro_rules! filter_module {
    (
        $name:literal, $Filter:ty
        $(, unsafe($promise:ident))?
        $(, methods: [$($method:expr),*], start: $start:expr)?
        $(,)?
    ) => {
        $crate::module!(
            $name, "filter", $crate::bdev::serve_filter::<$Filter>, [$($promise)?]
            $(, [$($method),*], $start)?
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! module {
    (
        $name:literal, $kind:literal, $serve:expr, [$($promise:ident)?]
        $(, [$($method:expr),*], $start:expr)?
    ) => {
        $crate::plugin! {
            name: $name,
            kind: $kind,
            provides: [],
            requires: [],
            methods: [
                ::core::concat!("bdev_", $name, "_create"),
                ::core::concat!("bdev_", $name, "_delete")
                $($(, $method)*)?
            ],
            $(unsafe($promise),)?
            start: |app| {
                $serve(app, $name)?;
                $($start(app)?;)?
                ::core::result::Result::Ok(())
            },
        }
    };
}

/// The exported door.
#[doc(hidden)]
#[derive(Debug)]
#[repr(transparent)]
pub struct Door(api::bay_plugin);

// SAFETY: constant; its pointers refer to constants and functions.
unsafe impl Sync for Door {}

impl Door {
    /// The struct that the host reads.
    #[must_use]
    pub fn raw(&self) -> &api::bay_plugin {
        &self.0
    }
}

#[doc(hidden)]
#[must_use]
pub const fn door<L: Library>(
    name: &'static str,
    version: &'static str,
    promises: &[&str],
) -> Door {
    Door(api::bay_plugin {
        magic: api::BAY_MAGIC,
        size: bdev::size_of_table::<api::bay_plugin>(),
        abi_major: api::BAY_ABI_MAJOR,
        abi_minor: api::BAY_ABI_MINOR,
        needs_minor: 0,
        rsv0: 0,
        flags: api::BAY_PF_UNLOADABLE | promised(promises),
        name: name.as_ptr().cast(),
        version: version.as_ptr().cast(),
        init: Some(init::<L>),
        start: Some(start),
        fini: Some(fini),
        get_iface: Some(get_iface),
    })
}

/// The door flags of the promises in `plugin!`. Any other word fails to compile.
const fn promised(promises: &[&str]) -> u32 {
    match promises {
        [] => 0,
        [promise] if is_same(promise.as_bytes(), b"threads_move") => api::BAY_PF_THREADS_MOVE,
        _ => panic!("plugin!: the word in `unsafe(…)` is not allowed; allowed: threads_move"),
    }
}

/// `==` of byte strings, which constants cannot use.
const fn is_same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([first, rest @ ..], [other_first, other_rest @ ..]) = (one, other) {
        if *first != *other_first {
            return false;
        }
        (one, other) = (rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

/// The contents of the manifest note.
#[doc(hidden)]
#[derive(Debug)]
pub struct Manifest {
    pub name: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub vendor: &'static str,
    pub license: &'static str,
    pub provides: &'static [&'static str],
    pub requires: &'static [&'static str],
    pub methods: &'static [&'static str],
    pub permissions: &'static [&'static str],
}

#[doc(hidden)]
#[must_use]
pub const fn manifest<const N: usize>(manifest: &Manifest) -> api::layout::Text<N> {
    let mut text = api::layout::Text::new()
        .raw("{\"name\":\"")
        .raw(manifest.name)
        .raw("\",\"version\":\"")
        .raw(manifest.version)
        .raw("\",\"kind\":\"")
        .raw(manifest.kind)
        .raw("\",\"vendor\":\"")
        .raw(json(manifest.vendor))
        .raw("\",\"license\":\"")
        .raw(json(manifest.license))
        .raw("\",\"abi\":[")
        .number(api::BAY_ABI_MAJOR as usize)
        .raw(",")
        .number(api::BAY_ABI_MINOR as usize)
        .raw("],\"needs_minor\":0,\"panic\":\"")
        .raw(if cfg!(panic = "abort") { "abort" } else { "unwind" })
        .raw("\",\"lang\":\"rust\",\"modules\":[\"")
        .raw(manifest.name)
        .raw("\"],\"provides\":[");
    text = list(text, "", manifest.provides, "");
    if !manifest.provides.is_empty() && !manifest.methods.is_empty() {
        text = text.raw(",");
    }
    text = list(text, "rpc:", manifest.methods, "");
    text = list(text.raw("],\"requires\":["), "", manifest.requires, "");
    list(text.raw("],\"permissions\":["), "", manifest.permissions, "").raw("]}")
}

/// Checks that a text from Cargo.toml fits into a JSON string without escapes. Any other text fails to compile.
const fn json(text: &'static str) -> &'static str {
    let mut rest = text.as_bytes();
    while let [byte, others @ ..] = rest {
        assert!(
            *byte >= b' ' && *byte != b'"' && *byte != b'\\',
            "authors and license in Cargo.toml: quotes, backslashes and line ends are not allowed"
        );
        rest = others;
    }
    text
}

const fn list<const N: usize>(
    mut text: api::layout::Text<N>,
    prefix: &str,
    items: &[&str],
    suffix: &str,
) -> api::layout::Text<N> {
    let mut rest = items;
    while let [first, others @ ..] = rest {
        text = text.raw("\"").raw(prefix).raw(first).raw(suffix).raw("\"");
        if !others.is_empty() {
            text = text.raw(",");
        }
        rest = others;
    }
    text
}
