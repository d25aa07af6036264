//! The host's side of one instance: its `bay_host`, and the tables that the loader itself
//! implements (`bay.rpc/1`, `bay.broker/1`, `bay.notify/1`). The core implements all other tables.
//!
//! Each thunk converts pointers to values, calls safe code and converts the result to a status.
#![expect(unsafe_code, reason = "plugins call in with raw pointers")]

use super::app_only::AppOnly;
use super::broker::Revoked;
use super::calls::OpenCalls;
use super::error::{Error, Result};
use super::manager::Manager;
use super::outside::Outside;
use super::trust::policy::permission_for;
use crate::rpc::{Call, Owner, Responder};
use drivebay_core::reactor::watch;
use drivebay_plugin_api::{
    BAY_ABI_MAJOR, BAY_ABI_MINOR, BAY_LOG_DEBUG, BAY_LOG_ERROR, BAY_LOG_INFO, BAY_LOG_NOTICE,
    BAY_LOG_WARN, BAY_RPC_RUNTIME, BAY_RPC_STARTUP, Collected, LOG_TARGET_PANIC,
    LOG_TARGET_POISONED, bay_broker_api, bay_broker_revoked_fn, bay_cb_fn, bay_host,
    bay_notify_api, bay_rpc_api, bay_rpc_call_fn, bay_rpc_method, bay_str, bay_subsystem_config_fn,
    copy_open, id, size_of_table,
};
use drivebay_spec_jsonrpc::{Method, Role, RpcError, State};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The longest name or id, in bytes.
const NAME_MAX: usize = 128;
/// The longest log line, event or error message, in bytes.
const LINE_MAX: usize = 8 * 1024;
/// The longest declaration of a method, and the longest `data` of an error, in bytes.
const SCHEMA_MAX: usize = 256 * 1024;
/// The longest result of a call, and the longest configuration of a subsystem, in bytes.
const RESULT_MAX: usize = 32 * 1024 * 1024;
/// The maximum number of methods that one instance may register.
const METHODS_MAX: usize = 1024;

/// One instance's side of the host. It is never freed, because a library that stays mapped may
/// still have its address.
#[repr(C)]
pub(super) struct Grant {
    host: bay_host,
    /// The number of the instance. No two instances have the same.
    pub(super) number: u64,
    /// The name of the plugin.
    pub(super) name: String,
    /// The permissions that it got.
    pub(super) permissions: Vec<String>,
    pub(super) outside: Outside,
    pub(super) calls: Arc<OpenCalls>,
    /// Whether the instance is between `init` and its end.
    is_alive: AtomicBool,
    /// The place and the message of the first panic in the plugin. After it the SDK does not enter
    /// the plugin any more.
    pub(super) panic: OnceLock<String>,
    own: AppOnly<Own>,
}

/// The state that only the app thread touches.
struct Own {
    manager: Weak<Manager>,
    last_method: Cell<u64>,
    methods: RefCell<BTreeMap<u64, String>>,
    trouble: RefCell<Option<String>>,
}

impl Grant {
    /// Creates the `bay_host` of a new instance. App thread.
    pub(super) fn new(
        number: u64,
        name: &str,
        permissions: Vec<String>,
        outside: &Outside,
        calls: &Arc<OpenCalls>,
        manager: Weak<Manager>,
    ) -> &'static Self {
        let own = Own {
            manager,
            last_method: Cell::new(0),
            methods: RefCell::default(),
            trouble: RefCell::default(),
        };
        let grant = Box::into_raw(Box::new(Self {
            host: bay_host {
                size: u32::try_from(size_of::<bay_host>()).unwrap_or(u32::MAX),
                abi_major: BAY_ABI_MAJOR,
                abi_minor: BAY_ABI_MINOR,
                ctx: ptr::null_mut(),
                get_iface: Some(get_iface),
                log_level: outside.log_level.as_ptr(),
                log: Some(log),
            },
            number,
            name: name.to_owned(),
            permissions,
            outside: outside.clone(),
            calls: Arc::clone(calls),
            is_alive: AtomicBool::new(true),
            panic: OnceLock::new(),
            own: AppOnly::new(own, Arc::clone(&outside.core)),
        }));
        // SAFETY: it was just allocated, and nobody else has it yet.
        unsafe { (*grant).host.ctx = grant.cast() };
        // SAFETY: it is never freed, and from here on it is only shared.
        unsafe { &*grant }
    }

    /// The pointer that the plugin gets. The core uses it as the owner of objects.
    pub(super) fn host(&self) -> *const bay_host {
        ptr::from_ref(self).cast()
    }

    /// The owner of its RPC methods.
    pub(super) fn owner(&self) -> Owner {
        Owner::new(&self.name, self.number)
    }

    /// The error of the last refused call; it becomes part of the reason of a failed start.
    pub(super) fn take_trouble(&self) -> Option<String> {
        self.own.get().ok()?.trouble.take()
    }

    /// Ends the instance: it gets no more calls, and its open calls are answered with an error. App
    /// thread.
    pub(super) fn end(&self) {
        self.is_alive.store(false, Ordering::Release);
        self.outside.rpc.unregister_all(&self.owner());
        self.outside.events.remove_subsystems(self.number);
        // Release the lock before answering, because an answer may make a client send the next
        // call.
        drop(self.calls.take_all(self.number));
    }

    fn manager(&self) -> Result<Arc<Manager>> {
        let gone = || Error::new(libc::ESHUTDOWN, "the host is stopping");
        self.own.get()?.manager.upgrade().ok_or_else(gone)
    }

    /// Converts a result to 0 or a negative errno. Logs a refusal and keeps it for the reason of a
    /// failed start.
    fn status(&self, what: &str, result: Result<()>) -> i32 {
        let Err(error) = result else { return 0 };
        tracing::warn!(plugin = self.name, "{what}: {error}");
        if let Ok(own) = self.own.get() {
            own.trouble.replace(Some(error.to_string()));
        }
        -error.errno()
    }
}

/// # Safety
/// `host` is NULL, or the pointer that `init` got.
unsafe fn grant(host: *const bay_host) -> Option<&'static Grant> {
    // SAFETY: the caller guarantees this.
    let host = unsafe { host.as_ref() }?;
    // SAFETY: `Grant::new` set `ctx` to a grant, which is never freed.
    unsafe { host.ctx.cast::<Grant>().cast_const().as_ref() }
}

/// # Safety
/// `text` is valid for the call.
unsafe fn required<'a>(text: bay_str, what: &str, len_max: usize) -> Result<&'a str> {
    // SAFETY: the caller guarantees this.
    let text = unsafe { text.borrow(len_max) };
    text.ok_or_else(|| invalid(format!("{what} must be UTF-8 of at most {len_max} bytes")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(libc::EINVAL, message)
}

/// # Safety
/// `to` is NULL or may be written to.
unsafe fn store(to: *mut u64, value: u64) {
    // SAFETY: the caller guarantees this.
    if let Some(to) = unsafe { to.as_mut() } {
        *to = value;
    }
}

// --- bay_host ---

/// # Safety
/// `bay_host_get_iface_fn`. `[any thread]`
unsafe extern "C" fn get_iface(
    host: *const bay_host,
    interface: bay_str,
    min_minor: u32,
) -> *const c_void {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return ptr::null() };
    // SAFETY: the text is valid for the call.
    let Some(interface) = (unsafe { interface.borrow(NAME_MAX) }) else { return ptr::null() };
    if min_minor > u32::from(BAY_ABI_MINOR) {
        return ptr::null();
    }
    if let Some(permission) = permission_for(interface)
        && !grant.permissions.iter().any(|granted| granted == permission)
    {
        let plugin = grant.name.as_str();
        tracing::warn!(
            plugin,
            interface,
            "the plugin did not get this interface, because it lacks the permission {permission}"
        );
        return ptr::null();
    }
    match interface {
        id::RPC => ptr::from_ref(&RPC).cast(),
        id::BROKER => ptr::from_ref(&BROKER).cast(),
        id::NOTIFY => ptr::from_ref(&NOTIFY).cast(),
        other => grant.outside.core.table(other).unwrap_or(ptr::null()),
    }
}

/// # Safety
/// `bay_log_fn`. `[any thread]`
unsafe extern "C" fn log(host: *const bay_host, level: u32, target: bay_str, line: bay_str) {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return };
    // SAFETY: the text is valid for the call.
    let target = unsafe { target.borrow(NAME_MAX) };
    let cut = bay_str { ptr: line.ptr, len: line.len.min(LINE_MAX) };
    // SAFETY: the text is valid for the call.
    let line = unsafe { lossy(cut) };
    match target {
        Some(LOG_TARGET_POISONED) => return grant.panicked(&line, true),
        Some(LOG_TARGET_PANIC) => grant.panicked(&line, false),
        _ => {}
    }
    let plugin = grant.name.as_str();
    match level {
        BAY_LOG_ERROR => tracing::error!(plugin, "{line}"),
        BAY_LOG_WARN => tracing::warn!(plugin, "{line}"),
        BAY_LOG_NOTICE => tracing::info!(plugin, notice = true, "{line}"),
        BAY_LOG_INFO => tracing::info!(plugin, "{line}"),
        BAY_LOG_DEBUG => tracing::debug!(plugin, "{line}"),
        _ => tracing::trace!(plugin, "{line}"),
    }
}

/// # Safety
/// `text` is valid for `'a`.
unsafe fn lossy<'a>(text: bay_str) -> Cow<'a, str> {
    if text.ptr.is_null() || text.len == 0 {
        return Cow::Borrowed("");
    }
    // SAFETY: the caller guarantees this.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len) };
    String::from_utf8_lossy(bytes)
}

// --- bay.rpc/1 ---

static RPC: bay_rpc_api = bay_rpc_api {
    size: size_of_table::<bay_rpc_api>(),
    flags: 0,
    register: Some(rpc_register),
    unregister: Some(rpc_unregister),
    reply: Some(rpc_reply),
    error: Some(rpc_error),
};

/// # Safety
/// `bay_rpc_register_fn`. `[app thread]`
unsafe extern "C" fn rpc_register(
    host: *const bay_host,
    method: *const bay_rpc_method,
    handle: *mut u64,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    // SAFETY: it is a struct of that kind, and its texts are valid for the call.
    let result = unsafe { register(grant, method) };
    grant.status(
        "bay.rpc/1 register",
        result.map(|number| {
            // SAFETY: NULL, or a valid pointer of the plugin.
            unsafe { store(handle, number) }
        }),
    )
}

/// # Safety
/// `method` is NULL, or a struct of that kind whose texts are valid for the call.
unsafe fn register(grant: &'static Grant, method: *const bay_rpc_method) -> Result<u64> {
    let own = grant.own.get()?;
    // SAFETY: the caller guarantees this.
    let method = unsafe { copy_open(method) }.ok_or_else(|| invalid("method is NULL"))?;
    // SAFETY: the caller guarantees this.
    let name = unsafe { required(method.name, "name", NAME_MAX) }?;
    // SAFETY: the caller guarantees this.
    let schema = unsafe { required(method.schema, "schema", SCHEMA_MAX) }?;
    let function = method.call.ok_or_else(|| invalid(format!("{name}: call is NULL")))?;
    if own.methods.borrow().len() >= METHODS_MAX {
        return Err(Error::new(
            libc::ENOSPC,
            format!("a plugin may register at most {METHODS_MAX} methods"),
        ));
    }
    let declared = declared_method(name, schema, method.states)?;
    let entry = PluginMethod { grant, function, ctx: method.ctx };
    let handler = Arc::new(move |call: Call| entry.call_on_app_thread(call));
    grant
        .outside
        .rpc
        .register(&grant.owner(), declared, handler)
        .map_err(|e| Error::new(libc::EEXIST, e.to_string()))?;
    let number = own.last_method.get() + 1;
    own.last_method.set(number);
    own.methods.borrow_mut().insert(number, name.to_owned());
    Ok(number)
}

/// The declaration in the schema, or a minimal one when there is only a name.
fn declared_method(name: &str, schema: &str, states: u32) -> Result<Method> {
    let least = serde_json::json!({ "name": name, "role": Role::Operate }).to_string();
    let schema = if schema.is_empty() { least.as_str() } else { schema };
    let mut method = Method::parse(schema).map_err(|e| invalid(format!("{name}: schema: {e}")))?;
    if method.name != name {
        return Err(invalid(format!("{name}: its schema declares the method {}", method.name)));
    }
    let known = [(BAY_RPC_STARTUP, State::Startup), (BAY_RPC_RUNTIME, State::Runtime)];
    let listed = known.iter().filter(|(bit, _)| states & bit != 0);
    method.states = listed.map(|(_, state)| *state).collect();
    if method.states.is_empty() {
        return Err(invalid(format!(
            "{name}: states {states:#x} must contain at least one BAY_RPC_* bit, and no other bits"
        )));
    }
    Ok(method)
}

/// A plugin's method in the registry.
#[derive(Clone, Copy)]
struct PluginMethod {
    grant: &'static Grant,
    function: bay_rpc_call_fn,
    ctx: *mut c_void,
}

// SAFETY: `ctx` is only passed to `function`, on the app thread, as the ABI requires for both. The
// other fields of `grant` are constant or made for any thread.
unsafe impl Send for PluginMethod {}
// SAFETY: as above.
unsafe impl Sync for PluginMethod {}

impl PluginMethod {
    fn call_on_app_thread(self, call: Call) {
        let job = Box::new(move || self.call(call));
        self.grant.outside.core.send_to_app(job);
    }

    fn call(self, call: Call) {
        let Self { grant, function, ctx } = self;
        if !grant.is_alive.load(Ordering::Acquire) {
            let why = format!("plugin {} has stopped", grant.name);
            return call.responder.error(RpcError::method_not_found(&call.method, why));
        }
        if let Some(panic) = grant.panic() {
            return grant.answer_for_failed(panic, call);
        }
        let params = match call.params_text() {
            "" => "{}".to_owned(),
            text => text.to_owned(),
        };
        let method = call.method;
        match grant.calls.open(grant.number, call.responder) {
            Ok(number) => {
                let _call = watch::call(format!("plugin {}: method {method}", grant.name));
                // SAFETY: these are the plugin's own function and argument, on the app thread,
                // before its end.
                unsafe { function(ctx, number, bay_str::new(&params)) }
            }
            Err(responder) => {
                let message =
                    format!("plugin {} has too many calls in flight; try again later", grant.name);
                responder.error(rpc_error_of(&Error::new(libc::EBUSY, message)));
            }
        }
    }
}

/// # Safety
/// `bay_rpc_unregister_fn`. `[app thread]`
unsafe extern "C" fn rpc_unregister(host: *const bay_host, handle: u64) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    let result = grant.own.get().and_then(|own| {
        let name = own.methods.borrow_mut().remove(&handle);
        let name = name.ok_or_else(|| Error::new(libc::ENOENT, format!("no method {handle}")))?;
        grant.outside.rpc.unregister(&grant.owner(), &name);
        Ok(())
    });
    grant.status("bay.rpc/1 unregister", result)
}

/// # Safety
/// `bay_rpc_reply_fn`. `[any thread]`
unsafe extern "C" fn rpc_reply(host: *const bay_host, call: u64, result: bay_str) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    let result = unsafe { required(result, "result", RESULT_MAX) };
    let status = responder(grant, call).map(|responder| match result {
        Ok(result) => responder.ok_json(result.to_owned()),
        Err(error) => responder.error(RpcError::internal(error)),
    });
    grant.status("bay.rpc/1 reply", status)
}

/// # Safety
/// `bay_rpc_error_fn`. `[any thread]`
unsafe extern "C" fn rpc_error(
    host: *const bay_host,
    call: u64,
    code: i32,
    message: bay_str,
    data: bay_str,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    let cut = bay_str { ptr: message.ptr, len: message.len.min(LINE_MAX) };
    // SAFETY: the text is valid for the call.
    let message = unsafe { lossy(cut) };
    // SAFETY: the text is valid for the call.
    let data = unsafe { data.borrow(SCHEMA_MAX) }.unwrap_or("");
    let status = responder(grant, call)
        .map(|responder| responder.error(plugin_error(i64::from(code), &message, data)));
    grant.status("bay.rpc/1 error", status)
}

fn responder(grant: &Grant, call: u64) -> Result<Responder> {
    let unknown = || Error::new(libc::ENOENT, format!("no call {call}; each is answered once"));
    grant.calls.take(grant.number, call).ok_or_else(unknown)
}

/// Converts an error of the loader to an RPC error.
pub(super) fn rpc_error_of(error: &Error) -> RpcError {
    RpcError::new(i64::from(-error.errno()), "plugin", error.message())
}

/// Makes an error of a plugin. `data` is JSON text or empty.
fn plugin_error(code: i64, message: &str, data: &str) -> RpcError {
    RpcError { code, message: message.to_owned(), data: serde_json::from_str(data).ok() }
}

// --- bay.broker/1 ---

static BROKER: bay_broker_api = bay_broker_api {
    size: size_of_table::<bay_broker_api>(),
    flags: 0,
    provide: Some(broker_provide),
    withdraw: Some(broker_withdraw),
    acquire: Some(broker_acquire),
    release: Some(broker_release),
};

/// # Safety
/// `bay_broker_provide_fn`. `[app thread]`
unsafe extern "C" fn broker_provide(
    host: *const bay_host,
    interface: bay_str,
    table: *const c_void,
    handle: *mut u64,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    let interface = unsafe { required(interface, "id", NAME_MAX) };
    let result = grant.manager().and_then(|manager| {
        if table.is_null() {
            return Err(invalid("table is NULL"));
        }
        let number = manager.broker()?.provide(grant.number, interface?, table)?;
        // SAFETY: NULL, or a valid pointer of the plugin.
        unsafe { store(handle, number) };
        Ok(())
    });
    grant.status("bay.broker/1 provide", result)
}

/// # Safety
/// `bay_broker_withdraw_fn`. `[app thread]`
unsafe extern "C" fn broker_withdraw(
    host: *const bay_host,
    handle: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    let end = Box::new(move || {
        if let Some(done) = done {
            // SAFETY: these are the plugin's own callback and argument, on the app thread.
            unsafe { done(arg, 0) }
        }
    });
    let result =
        grant.manager().and_then(|manager| manager.broker()?.withdraw(grant.number, handle, end));
    grant.status("bay.broker/1 withdraw", result)
}

/// # Safety
/// `bay_broker_acquire_fn`. `[app thread]`
unsafe extern "C" fn broker_acquire(
    host: *const bay_host,
    interface: bay_str,
    revoked: Option<bay_broker_revoked_fn>,
    arg: *mut c_void,
    reference: *mut u64,
) -> *const c_void {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return ptr::null() };
    // SAFETY: the text is valid for the call.
    let interface = unsafe { required(interface, "id", NAME_MAX) };
    let on_revoked = revoked.map(|revoked| -> Revoked {
        // SAFETY: these are the plugin's own callback and argument, on the app thread.
        Rc::new(move || unsafe { revoked(arg) })
    });
    let result = grant
        .manager()
        .and_then(|manager| manager.acquire(grant.number, interface?, on_revoked))
        .map(|found| {
            let (table, handle) = found.unwrap_or((ptr::null(), 0));
            // SAFETY: NULL, or a valid pointer of the plugin.
            unsafe { store(reference, handle) };
            table
        });
    match result {
        Ok(table) => table,
        Err(error) => {
            grant.status("bay.broker/1 acquire", Err(error));
            ptr::null()
        }
    }
}

/// # Safety
/// `bay_broker_release_fn`. `[app thread]`
unsafe extern "C" fn broker_release(host: *const bay_host, reference: u64) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    let result =
        grant.manager().and_then(|manager| manager.broker()?.release(grant.number, reference));
    grant.status("bay.broker/1 release", result)
}

// --- bay.notify/1 ---

static NOTIFY: bay_notify_api = bay_notify_api {
    size: size_of_table::<bay_notify_api>(),
    flags: 0,
    notify: Some(notify),
    subsystem: Some(subsystem),
};

/// # Safety
/// `bay_notify_fn`. `[any thread]`
unsafe extern "C" fn notify(host: *const bay_host, kind: bay_str, context: bay_str) {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return };
    // SAFETY: the text is valid for the call.
    let kind = unsafe { required(kind, "kind", NAME_MAX) };
    // SAFETY: the text is valid for the call.
    let context = unsafe { required(context, "context", LINE_MAX) };
    if let (Ok(kind), Ok(context)) = (kind, context) {
        grant.outside.events.notify(kind, context);
    }
}

/// # Safety
/// `bay_subsystem_register_fn`. `[app thread]`
unsafe extern "C" fn subsystem(
    host: *const bay_host,
    name: bay_str,
    config: Option<bay_subsystem_config_fn>,
    ctx: *mut c_void,
) -> i32 {
    // SAFETY: the plugin passes its own pointer.
    let Some(grant) = (unsafe { grant(host) }) else { return -libc::EINVAL };
    // SAFETY: the text is valid for the call.
    let name = unsafe { required(name, "name", NAME_MAX) };
    let result = grant.own.get().and(name).map(|name| {
        let writer = config.map(|function| SubsystemConfig { grant, function, ctx });
        let writer = writer.map(|w| Box::new(move || w.write()) as super::outside::ConfigWriter);
        grant.outside.events.add_subsystem(grant.number, name, writer);
    });
    grant.status("bay.notify/1 subsystem", result)
}

/// Writes a plugin's part of a subsystem's configuration.
#[derive(Clone, Copy)]
struct SubsystemConfig {
    grant: &'static Grant,
    function: bay_subsystem_config_fn,
    ctx: *mut c_void,
}

// SAFETY: `ctx` is only passed to `function`, and only on the app thread, which `write` checks. The
// other fields of `grant` are constant or made for any thread.
unsafe impl Send for SubsystemConfig {}
// SAFETY: as above.
unsafe impl Sync for SubsystemConfig {}

impl SubsystemConfig {
    fn write(self) -> String {
        let Self { grant, function, ctx } = self;
        if grant.own.get().is_err() || !grant.is_alive.load(Ordering::Acquire) {
            return String::new();
        }
        let mut text = Collected::new(RESULT_MAX);
        let sink = text.sink();
        // SAFETY: these are the plugin's own function and argument, on the app thread, before its
        // end.
        unsafe { function(ctx, &raw const sink) };
        text.into_text()
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("name", &self.name).field("number", &self.number).finish()
    }
}
