//! The RPC methods of the loader, and the load of a plugin at the first call of its method.

use super::error::{Error, Result, rpc_error_of};
use super::manager::Manager;
use super::report;
use super::search::inspect_to_load;
use crate::rpc::{
    Call, GetMethods, Handler, Owner, RegisterError, Registry, Responder, async_handler,
};
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, decode, params};
use serde::Serialize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

params! {
    /// Parameters of `plugin_load`.
    pub(crate) struct PluginLoad {
        /// Name of a plugin on the search path, or the path of a plugin file.
        #[range(1..=4096)]
        name: String,
    }
    /// Parameters of `plugin_unload`.
    pub(crate) struct PluginUnload {
        /// Name of a loaded plugin.
        #[range(1..=64)]
        name: String,
    }
    /// Parameters of `rpc_describe`.
    pub(crate) struct Describe {
        /// Name of the method.
        #[range(1..=128)]
        method: String,
    }
    /// Parameters of `plugin_inspect`.
    pub(crate) struct PluginInspect {
        /// Path of the plugin file.
        #[range(1..=4096)]
        path: String,
    }
}

/// Registers `plugin_load`, `plugin_unload`, `plugin_list`, `plugin_inspect` and `rpc_describe`.
/// Makes the registry ask for plugins when a method without a handler is called. Runs after
/// [`register_builtin`](crate::rpc::register_builtin), because it extends the list of methods.
///
/// # Errors
/// Another owner has one of the names.
pub fn register(manager: &Arc<Manager>, registry: &Arc<Registry>) -> Result<()> {
    let add = |method: Method, handler: Handler| {
        registry
            .register(&Owner::host(), method.in_any_state(), handler)
            .map_err(|e: RegisterError| Error::new(libc::EEXIST, e.to_string()))
    };
    let method = "Loads a plugin and those that it requires. If it is already loaded from the same file, nothing happens.";
    add(
        Method::new::<PluginLoad>("plugin_load", Role::Admin, method).result("True.").returns::<bool>().error(
            i64::from(-libc::EEXIST),
            "plugin",
            "The plugin is loaded from another file. The message says what must be removed first.",
        ),
        in_background(manager, |manager, PluginLoad { name }| manager.load(&name).map(|()| true)),
    )?;
    add(
        Method::new::<PluginUnload>(
            "plugin_unload",
            Role::Admin,
            "Unloads a plugin that is not in use.",
        )
        .result("True, once the plugin has ended. Its library stays mapped.")
        .returns::<bool>()
        .error(i64::from(-libc::EBUSY), "plugin", "The plugin is in use."),
        unload(manager),
    )?;
    let method = "Lists plugins on the search path, loaded plugins, failed plugins, and files on the search path that cannot be read.";
    add(
        Method::new::<NoParams>("plugin_list", Role::Read, method).result(
            "Array of objects with the members name, version, kind, state, reason, path, provides and requires.",
        ),
        in_background(manager, |manager, NoParams {}| manager.list()),
    )?;
    let method =
        "Reads the manifest and the dependencies of a plugin file without running its code.";
    add(
        Method::new::<PluginInspect>("plugin_inspect", Role::Admin, method).result(
            "Object with the members manifest, needed, runpath, nodelete, door_size and refusals.",
        ),
        in_background(manager, |_, PluginInspect { path }| {
            inspect_to_load(Path::new(&path))
                .map(|inspection| report::inspection_json(&inspection))
                .map_err(|e| Error::new(libc::ENOEXEC, format!("{path}: {e}")))
        }),
    )?;
    let method = "Describes one method.\n\n\
         If its plugin is not loaded, the host loads the plugin, unless the caller has only the role read.";
    add(
        Method::new::<Describe>("rpc_describe", Role::Read, method)
            .result("Declaration of the method: an object with the members name, doc, params, result, errors, states and role.")
            .error(i64::from(-libc::EINVAL), "invalid_value", "There is no such method, or its plugin is not loaded."),
        describe(manager, registry),
    )?;
    list_what_can_be_loaded(manager, registry, add)?;
    load_on_first_call(manager, registry);
    Ok(())
}

/// Makes `rpc_get_methods` scan the search path first, so that it lists the methods that a call
/// would load.
fn list_what_can_be_loaded(
    manager: &Arc<Manager>,
    registry: &Arc<Registry>,
    add: impl Fn(Method, Handler) -> Result<()>,
) -> Result<()> {
    let Some(built_in) = registry.method("rpc_get_methods") else { return Ok(()) };
    let handler = {
        let (manager, registry) = (Arc::downgrade(manager), Arc::downgrade(registry));
        async_handler(move |GetMethods { current, include_aliases }, responder| {
            let (Some(manager), Some(registry)) = (manager.upgrade(), registry.upgrade()) else {
                return;
            };
            later(&manager, responder, move |manager, responder| match manager.announce() {
                Ok(()) => responder.ok(&registry.list(current, include_aliases)),
                Err(error) => responder.error(rpc_error_of(&error)),
            });
        })
    };
    add(Method::clone(&built_in), handler)
}

fn in_background<P, R>(
    manager: &Arc<Manager>,
    method: impl Fn(&Manager, P) -> Result<R> + Copy + Send + Sync + 'static,
) -> Handler
where
    P: drivebay_spec_jsonrpc::Params + Send + 'static,
    R: Serialize,
{
    let manager = Arc::downgrade(manager);
    async_handler(move |params: P, responder| {
        // The manager is gone when the host is stopping. The dropped responder answers with an
        // error.
        let Some(manager) = manager.upgrade() else { return };
        later(&manager, responder, move |manager, responder| match method(manager, params) {
            Ok(result) => responder.ok(&result),
            Err(error) => responder.error(rpc_error_of(&error)),
        });
    })
}

/// Answers on the loader's own thread, or at once with an error when too many jobs wait there.
fn later(
    manager: &Manager,
    responder: Responder,
    answer: impl FnOnce(&Manager, Responder) + Send + 'static,
) {
    let waiting = Arc::new(Mutex::new(Some(responder)));
    let taken = Arc::clone(&waiting);
    let take = |place: &Mutex<Option<Responder>>| {
        place.lock().unwrap_or_else(PoisonError::into_inner).take()
    };
    let job = move |manager: &Manager| {
        if let Some(responder) = take(&taken) {
            answer(manager, responder);
        }
    };
    if let Err(error) = manager.in_background(job)
        && let Some(responder) = take(&waiting)
    {
        responder.error(rpc_error_of(&error));
    }
}

fn unload(manager: &Arc<Manager>) -> Handler {
    let manager = Arc::downgrade(manager);
    async_handler(move |PluginUnload { name }, responder| {
        let Some(manager) = manager.upgrade() else { return };
        let for_job = Arc::clone(&manager);
        manager.send_to_app(Box::new(move || {
            let done = Box::new(move |result: Result<()>| match result {
                Ok(()) => responder.ok(&true),
                Err(error) => responder.error(rpc_error_of(&error)),
            });
            for_job.unload(&name, done);
        }));
    })
}

fn describe(manager: &Arc<Manager>, registry: &Arc<Registry>) -> Handler {
    let (manager, registry) = (Arc::downgrade(manager), Arc::downgrade(registry));
    Arc::new(move |call| {
        // They are gone when the host is stopping. The dropped responder answers with an error.
        let (Some(manager), Some(registry)) = (manager.upgrade(), registry.upgrade()) else {
            return;
        };
        let name = match decode(call.params_text()) {
            Ok(Describe { method }) => method,
            Err(error) => return call.responder.error(error),
        };
        let may_load = call.peer.may(Role::Operate);
        later(&manager, call.responder, move |manager, responder| {
            if may_load
                && registry.declaration(&name).is_none()
                && let Err(error) = manager.on_demand(&format!("rpc:{name}"))
            {
                return responder.error(rpc_error_of(&error));
            }
            match registry.declaration(&name) {
                Some(method) => responder.ok(&*method),
                None => {
                    let allowed = "names that rpc_get_methods lists";
                    responder.error(RpcError::invalid_value("method", &name, allowed));
                }
            }
        });
    })
}

fn load_on_first_call(manager: &Arc<Manager>, registry: &Arc<Registry>) {
    let manager = Arc::downgrade(manager);
    let owner = Arc::downgrade(registry);
    registry.on_unknown(Arc::new(move |call| {
        let (Some(manager), Some(registry)) = (manager.upgrade(), owner.upgrade()) else {
            return Some(call);
        };
        let Call { method, params, peer, responder } = call;
        later(&manager, responder, move |manager, responder| {
            match manager.on_demand(&format!("rpc:{method}")) {
                Ok(_) => registry.redispatch(Call { method, params, peer, responder }),
                Err(error) => responder.error(rpc_error_of(&error)),
            }
        });
        None
    }));
}
