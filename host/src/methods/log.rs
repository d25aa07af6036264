//! `log_*`.

use super::entry::{Entry, on_app};
use crate::host::Host;
use crate::log::{self, ALL, COMPONENTS, Level};
use crate::rpc::handler;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

params! {
    /// Parameters of `log_set_level` and `log_set_print_level`.
    pub(crate) struct SetLevel {
        /// The level. Lines of this level and of more important levels are logged.
        level: Level,
    }
    /// Parameters of `log_set_flag` and `log_clear_flag`.
    pub(crate) struct Flag {
        /// Name of a component of the host, name of a plugin, one of SPDK's flag names, or `all`.
        #[range(1..=64)]
        flag: String,
    }
}

pub(super) fn entries(host: &Arc<Host>) -> Vec<Entry> {
    let set = |name, doc| {
        Method::new::<SetLevel>(name, Role::Admin, doc)
            .in_any_state()
            .result("True.")
            .returns::<bool>()
    };
    let get = |name, doc| {
        Method::new::<NoParams>(name, Role::Read, doc)
            .in_any_state()
            .result("Name of the level.")
            .returns::<String>()
    };
    let flag = |name, doc| {
        let method = Method::new::<Flag>(name, Role::Admin, doc)
            .in_any_state()
            .result("True.")
            .returns::<bool>();
        method.error(i64::from(-libc::EINVAL), "invalid_value", "There is no such flag.")
    };
    let [printing, setting, clearing, listing] = std::array::from_fn(|_| Arc::clone(host));
    vec![
        (
            set(
                "log_set_level",
                "Sets the level of the system log. Drivebay does not write to the system log and only stores the value.",
            ),
            handler(|SetLevel { level }| {
                log::set_level(level);
                Ok(true)
            }),
        ),
        (
            get("log_get_level", "Returns the level that `log_set_level` has set."),
            handler(|NoParams {}| Ok(log::level().as_str())),
        ),
        (
            set("log_set_print_level", "Sets the level up to which the host writes log lines."),
            on_app(move |SetLevel { level }| {
                log::set_print_level(level);
                notify_plugins(&printing)
            }),
        ),
        (
            get("log_get_print_level", "Returns the level up to which the host writes log lines."),
            handler(|NoParams {}| Ok(log::print_level().as_str())),
        ),
        (
            flag(
                "log_set_flag",
                "Turns a flag on: the host writes all log lines of this component or plugin.",
            ),
            on_app(move |Flag { flag }| change(&setting, &flag, true)),
        ),
        (
            flag(
                "log_clear_flag",
                "Turns a flag off: the print level applies to this component or plugin again.",
            ),
            on_app(move |Flag { flag }| change(&clearing, &flag, false)),
        ),
        (
            Method::new::<NoParams>("log_get_flags", Role::Read, "Lists the log flags.")
                .in_any_state()
                .result("For each flag, whether it is on.")
                .returns::<BTreeMap<String, bool>>(),
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
    notify_plugins(host)
}

fn notify_plugins(host: &Host) -> Result<bool, RpcError> {
    let notified = host.manager.log_level_changed();
    notified.map(|()| true).map_err(RpcError::internal)
}
