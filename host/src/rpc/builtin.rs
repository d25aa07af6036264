//! The methods that the control plane itself answers.

use super::registry::{Owner, RegisterError, Registry, handler};
use drivebay_spec_jsonrpc::doc::openrpc;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, params};
use std::sync::Arc;

params! {
    /// Parameters of `rpc_get_methods`.
    pub(crate) struct GetMethods {
        /// If true, the list has only methods that may be called in the current state of the host.
        pub(crate) current: bool = false,
        /// If true, the list also has former names of methods.
        pub(crate) include_aliases: bool = false,
    }
    /// Result of `spdk_get_version`.
    struct Version {
        /// The host and its version.
        version: String,
        /// The SPDK release that the methods follow. Clients compare it with the release that introduced a method.
        fields: VersionFields,
    }
    struct VersionFields {
        /// Year.
        major: u32,
        /// Month.
        minor: u32,
        /// Number of the patch release.
        patch: u32,
        /// Name and version of the host.
        suffix: String,
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
            .result("Names, sorted.")
            .returns::<Vec<String>>(),
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
            "Describes the methods of the host and of the loaded plugins.",
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
        Method::new::<NoParams>("spdk_get_version", Role::Read, "Returns the version of the host.")
            .in_any_state()
            .returns::<Version>(),
        handler(|NoParams {}| Ok(version())),
    )
}

fn version() -> Version {
    let own = env!("CARGO_PKG_VERSION");
    let suffix = format!("-drivebay-{own}");
    Version {
        version: format!("Drivebay v{own} (methods of SPDK v26.09)"),
        fields: VersionFields { major: 26, minor: 9, patch: 0, suffix },
    }
}
