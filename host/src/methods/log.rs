//! `log_*`.

use super::{Entry, on_app};
use crate::host::Host;
use crate::log::{self, ALL, COMPONENTS, Level};
use crate::rpc::handler;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

params! {
    /// Parameters of `log_set_level` and `log_set_print_level`.
    pub(crate) struct SetLevel {
        /// The least important level that is still wanted.
        level: Level,
    }
    /// Parameters of `log_set_flag` and `log_clear_flag`.
    pub(crate) struct Flag {
        /// A component of the host, a plugin, one of SPDK's names for them, or `all`.
        #[range(1..=64)]
        flag: String,
    }
}

pub(super) fn entries(host: &Arc<Host>) -> Vec<Entry> {
    let set =
        |name, doc| Method::new::<SetLevel>(name, Role::Admin, doc).in_any_state().result("True.");
    let get = |name, doc| {
        Method::new::<NoParams>(name, Role::Read, doc).in_any_state().result("Name of the level.")
    };
    let flag = |name, doc| {
        let method = Method::new::<Flag>(name, Role::Admin, doc).in_any_state().result("True.");
        method.error(i64::from(-libc::EINVAL), "invalid_value", "There is no such flag.")
    };
    let [printing, setting, clearing, listing] = std::array::from_fn(|_| Arc::clone(host));
    vec![
        (
            set(
                "log_set_level",
                "Sets the level of the system's log, of which this host writes none.",
            ),
            handler(|SetLevel { level }| {
                log::set_level(level);
                Ok(true)
            }),
        ),
        (
            get("log_get_level", "Tells the level of the system's log."),
            handler(|NoParams {}| Ok(log::level().as_str())),
        ),
        (
            set("log_set_print_level", "Sets the level up to which lines are written to stderr."),
            on_app(move |SetLevel { level }| {
                log::set_print_level(level);
                tell_plugins(&printing)
            }),
        ),
        (
            get("log_get_print_level", "Tells the level up to which lines are written to stderr."),
            handler(|NoParams {}| Ok(log::print_level().as_str())),
        ),
        (
            flag("log_set_flag", "Has all lines of a component or plugin written."),
            on_app(move |Flag { flag }| change(&setting, &flag, true)),
        ),
        (
            flag("log_clear_flag", "Has lines of a component or plugin written by level only."),
            on_app(move |Flag { flag }| change(&clearing, &flag, false)),
        ),
        (
            Method::new::<NoParams>("log_get_flags", Role::Read, "Lists the flags.")
                .in_any_state()
                .result("Object of the flags and whether they are on."),
            on_app(move |NoParams {}| {
                let flags: BTreeMap<String, bool> = known(&listing)
                    .into_iter()
                    .map(|name| (name.clone(), log::flag(&name)))
                    .collect();
                Ok(flags)
            }),
        ),
    ]
}

/// Components of the host, plugins that are loaded or on the plugin path, and SPDK's names.
fn known(host: &Host) -> BTreeSet<String> {
    let plugins = host.manager.list_known().unwrap_or_default().into_iter();
    let spdk = log::OF_SPDK.map(|(name, _)| name.to_owned());
    let own = COMPONENTS.map(str::to_owned).into_iter().chain(spdk);
    own.chain(plugins.map(|plugin| plugin.name)).collect()
}

fn change(host: &Host, flag: &str, on: bool) -> Result<bool, RpcError> {
    let known = known(host);
    if flag != ALL && !known.contains(flag) {
        let names: Vec<String> = known.into_iter().collect();
        let allowed = format!("{ALL}, {}", names.join(", "));
        return Err(RpcError::invalid_value("flag", flag, allowed));
    }
    log::set_flag(flag, on);
    tell_plugins(host)
}

fn tell_plugins(host: &Host) -> Result<bool, RpcError> {
    let told = host.manager.log_level_changed();
    told.map(|()| true).map_err(RpcError::internal)
}
