//! `bay.rpc/1`: a plugin's RPC methods, and its answers.

use super::arguments::{
    LINE_MAX, NAME_MAX, RESULT_MAX, SCHEMA_MAX, grant, invalid, lossy, required, store,
};
use super::grant::Grant;
use crate::loader::error::{Error, Result, rpc_error_of};
use crate::rpc::{Call, Responder};
use drivebay_core::reactor::watch;
use drivebay_plugin_api::{
    BAY_RPC_RUNTIME, BAY_RPC_STARTUP, bay_host, bay_rpc_api, bay_rpc_call_fn, bay_rpc_method,
    bay_str, copy_open, size_of_table,
};
use drivebay_spec_jsonrpc::{Method, Role, RpcError, State};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The maximum number of methods that one instance may register.
const METHODS_MAX: usize = 1024;

pub(super) static TABLE: bay_rpc_api = bay_rpc_api {
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

/// Makes an error of a plugin. `data` is JSON text or empty.
fn plugin_error(code: i64, message: &str, data: &str) -> RpcError {
    RpcError { code, message: message.to_owned(), data: serde_json::from_str(data).ok() }
}
