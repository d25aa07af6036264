//! RPC methods.
#![expect(unsafe_code, reason = "the host passes a pointer to the method")]

use crate::app::App;
use crate::entry::enter_with;
use crate::error::{Result, check, errno};
use crate::host::{self, host};
use crate::runtime::task::{self, Executor};
use drivebay_plugin_api::{self as api, bay_rpc_method, bay_str};
use serde::Serialize;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

pub use drivebay_spec_jsonrpc::{
    Method as Description, NoParams, ParamType, Params, Role, RpcError, State, decode, params,
};

/// The registered methods of this library, for `fini`.
static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());

struct Registered {
    id: u64,
    method: *mut Method,
}

// SAFETY: `method` is a box; the code that removes the entry frees it, on the app thread.
unsafe impl Send for Registered {}

type Handler = Box<dyn Fn(&App, Call, &str)>;

/// An RPC method: its description and its function.
pub struct Method {
    description: Description,
    call: Handler,
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Method").field("description", &self.description).finish_non_exhaustive()
    }
}

impl Method {
    /// Creates a method with parameters `P`, which operators may call at run time. The first line of `doc` is the
    /// summary. `[any thread]`
    pub fn new<P: Params>(name: &str, doc: &str, call: impl Fn(&App, Call, P) + 'static) -> Self {
        let description = Description::new::<P>(name, Role::Operate, doc);
        let call = move |app: &App, request: Call, params: &str| match decode::<P>(params) {
            Ok(params) => call(app, request, params),
            Err(error) => request.fail(error),
        };
        Self { description, call: Box::new(call) }
    }

    /// As [`new`](Self::new), for a method that answers at once. The type `R` is also the declaration of the result:
    /// declare an object by [`params!`].
    pub fn immediate<P: Params, R: ParamType>(
        name: &str,
        doc: &str,
        call: impl Fn(&App, P) -> Result<R> + 'static,
    ) -> Self {
        Self::new(name, doc, move |app, request, params| request.answer(call(app, params)))
            .describe(Description::returns::<R>)
    }

    /// As [`new`](Self::new), for a method of several steps. Each call runs as a task of the app thread
    /// ([`runtime::task`](crate::runtime::task)) and is answered when the task ends. `EAGAIN` when too many tasks run. The
    /// type `R` is also the declaration of the result.
    ///
    /// ```
    /// # use drivebay_sdk::rpc::{Method, NoParams};
    /// # use drivebay_sdk::runtime::task;
    /// # fn start(app: &drivebay_sdk::App) -> drivebay_sdk::Result<()> {
    /// Method::task("disk_settle", "Waits a second.", async |_, _: NoParams| {
    ///     task::sleep(std::time::Duration::from_secs(1)).await;
    ///     Ok(true)
    /// })
    /// .register(app)
    /// # }
    /// ```
    pub fn task<P: Params + 'static, R: ParamType + 'static>(
        name: &str,
        doc: &str,
        call: impl AsyncFn(&App, P) -> Result<R> + 'static,
    ) -> Self {
        let (call, of_task) = (Rc::new(call), name.to_owned());
        Self::new(name, doc, move |app, request, params| {
            if let Err(error) = Executor::here().and_then(|tasks| tasks.check_room(&of_task)) {
                return request.fail(error);
            }
            let call = Rc::clone(&call);
            let run = async move |app: &App| request.answer(call(app, params).await);
            if let Ok(task) = task::spawn_app(app, of_task.clone(), run) {
                task.detach();
            }
        })
        .describe(Description::returns::<R>)
    }

    /// Changes the description: role, states, aliases, result, errors.
    #[must_use]
    pub fn describe(mut self, change: impl FnOnce(Description) -> Description) -> Self {
        self.description = change(self.description);
        self
    }

    /// Registers the method until the plugin ends. `[app thread]`
    ///
    /// # Errors
    /// `EEXIST` when the name is taken.
    pub fn register(self, _app: &App) -> Result<()> {
        let host = host();
        let schema = self.description.to_text();
        let name = self.description.name.clone();
        let states = self.description.states.iter().fold(0, |mask, state| {
            mask | match state {
                State::Startup => api::BAY_RPC_STARTUP,
                State::Runtime => api::BAY_RPC_RUNTIME,
            }
        });
        let method = Box::into_raw(Box::new(self));
        let record = bay_rpc_method {
            size: crate::bdev::size_of_table::<bay_rpc_method>(),
            states,
            name: bay_str::new(&name),
            schema: bay_str::new(&schema),
            call: Some(called),
            ctx: method.cast(),
        };
        let mut id = 0;
        // SAFETY: the texts outlive the call, and the method lives until it is unregistered.
        let status = unsafe { (host.rpc.register)(host.raw, &raw const record, &raw mut id) };
        if let Err(error) = check(status, format_args!("method {name}")) {
            // SAFETY: the host refused the method, so this function still owns it.
            drop(unsafe { Box::from_raw(method) });
            return Err(error);
        }
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        registered.push(Registered { id, method });
        Ok(())
    }
}

/// Unregisters every method of this library.
pub(crate) fn unregister_all() {
    let all = std::mem::take(&mut *REGISTERED.lock().unwrap_or_else(PoisonError::into_inner));
    for Registered { id, method } in all {
        let host = host();
        // SAFETY: this function owns the handle.
        unsafe { (host.rpc.unregister)(host.raw, id) };
        // SAFETY: the method is unregistered, so the host does not call it again.
        drop(unsafe { Box::from_raw(method) });
    }
}

unsafe extern "C" fn called(ctx: *mut c_void, req: u64, params: bay_str) {
    // SAFETY: `ctx` is the registered method.
    let method = unsafe { &*ctx.cast_const().cast::<Method>() };
    let request = Call(req);
    // SAFETY: the text is valid for the call.
    let params = unsafe { host::text(params) };
    // If the method does not answer, the drop of `request` does.
    // SAFETY: the host calls this function on the app thread.
    let app = unsafe { App::assume() };
    enter_with(request, |request| (method.call)(app, request, params));
}

/// A call that waits for its answer. Dropping it without an answer sends an internal error.
#[derive(Debug)]
#[must_use = "a call must be answered"]
pub struct Call(u64);

impl Call {
    /// Answers with a result. `[any thread]`
    pub fn reply(self, result: impl Serialize) {
        match serde_json::to_string(&result) {
            Ok(text) => {
                let host = host();
                let req = std::mem::ManuallyDrop::new(self).0;
                // SAFETY: `self` answers once; the text outlives the call.
                unsafe { (host.rpc.reply)(host.raw, req, bay_str::new(&text)) };
            }
            Err(error) => self.fail(RpcError::internal(error)),
        }
    }

    /// Answers with an error. `[any thread]`
    pub fn fail(self, error: impl Into<RpcError>) {
        let req = std::mem::ManuallyDrop::new(self).0;
        send_error(req, &error.into());
    }

    /// Answers with a result or an error. `[any thread]`
    pub fn answer(self, result: Result<impl Serialize, impl Into<RpcError>>) {
        match result {
            Ok(result) => self.reply(result),
            Err(error) => self.fail(error),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        send_error(self.0, &RpcError::internal("the method did not answer"));
    }
}

fn send_error(req: u64, error: &RpcError) {
    let host = host();
    let code = i32::try_from(error.code).unwrap_or(-errno::EIO);
    let data = error.data.as_ref().map(ToString::to_string).unwrap_or_default();
    // SAFETY: the caller answers once; the texts outlive the call.
    unsafe {
        (host.rpc.error)(host.raw, req, code, bay_str::new(&error.message), bay_str::new(&data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::testing::FakeHost;
    use serde_json::json;

    #[test]
    fn a_call_that_nobody_answers_is_an_internal_error() {
        let host = FakeHost::new();
        Method::new("t_drops", "", |_, call, _: NoParams| drop(call)).register(host.app()).unwrap();
        Method::new("t_panics", "", |_, _, _: NoParams| panic!("in a method"))
            .register(host.app())
            .unwrap();
        for method in ["t_drops", "t_panics"] {
            assert_eq!(host.call(method, &json!({})).unwrap_err().code, -32603);
        }
    }

    #[test]
    fn a_method_of_several_steps_answers_when_it_has_ended() {
        let host = FakeHost::new();
        let steps = async |_: &App, _: NoParams| {
            task::yield_now().await;
            Ok(7)
        };
        Method::task("t_steps", "", steps).register(host.app()).unwrap();
        assert_eq!(host.call("t_steps", &json!({})), Ok(json!(7)));
    }

    #[test]
    fn an_error_carries_its_errno_and_the_field() {
        let host = FakeHost::new();
        let refuse = |_: &App, _: NoParams| Err::<bool, _>(Error::invalid("depth", 9, "1 to 8"));
        Method::immediate("t_refuses", "", refuse).register(host.app()).unwrap();
        let error = host.call("t_refuses", &json!({})).unwrap_err();
        assert_eq!(error.code, -22);
        assert_eq!(error.message, "depth 9 is not allowed; allowed: 1 to 8");
        let data = json!({"name": "invalid_value", "field": "depth", "allowed": "1 to 8"});
        assert_eq!(error.data, Some(data));
    }
}
