//! The methods that the control plane itself answers.

use super::registry::{Owner, RegisterError, Registry, handler};
use drivebay_spec_jsonrpc::doc::openrpc;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, params};
use serde_json::{Value, json};
use std::sync::Arc;

params! {
    /// Parameters of `rpc_get_methods`.
    pub(crate) struct GetMethods {
        /// Only methods that may be called in the present state.
        pub(crate) current: bool = false,
        /// Former names too.
        pub(crate) include_aliases: bool = false,
    }
}

/// Registers `rpc_get_methods`, `rpc.discover` and `spdk_get_version`.
///
/// # Errors
/// Another owner has one of the names.
pub fn register_builtin(registry: &Arc<Registry>) -> Result<(), RegisterError> {
    // A weak reference, because the registry must not keep itself alive through its own method.
    let methods = Arc::downgrade(registry);
    registry.register(
        &Owner::host(),
        Method::new::<GetMethods>("rpc_get_methods", Role::Read, "Lists the methods.")
            .in_any_state()
            .result("Array of names, sorted."),
        handler(move |GetMethods { current, include_aliases }| {
            let registry = methods.upgrade();
            Ok(registry.map(|methods| methods.list(current, include_aliases)).unwrap_or_default())
        }),
    )?;
    let declared = Arc::downgrade(registry);
    registry.register(
        &Owner::host(),
        Method::new::<NoParams>(
            "rpc.discover",
            Role::Read,
            "Describes the methods of the host and of the plugins that are loaded.",
        )
        .in_any_state()
        .result("An OpenRPC document."),
        handler(move |NoParams {}| {
            let methods = declared.upgrade().map(|methods| methods.declarations());
            Ok(openrpc(methods.iter().flatten().map(AsRef::as_ref), env!("CARGO_PKG_VERSION")))
        }),
    )?;
    registry.register(
        &Owner::host(),
        Method::new::<NoParams>("spdk_get_version", Role::Read, "Tells the version.")
            .in_any_state()
            .result("Object of `version`, a text, and `fields`: the SPDK release whose methods these are."),
        handler(|NoParams {}| Ok(version())),
    )
}

/// Clients compare `fields` with the SPDK release that introduced a method.
fn version() -> Value {
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "version": format!("Drivebay v{own} (methods of SPDK v26.09)"),
        "fields": {"major": 26, "minor": 9, "patch": 0, "suffix": format!("-drivebay-{own}")},
    })
}
