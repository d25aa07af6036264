//! Parameters that are not supported. A value that means "off" is accepted; the error for any other value names the parameter.

use super::params::{
    AddHost, AddListener, CreateSubsystem, DupHostPolicy, NamespaceParams, SetConfig,
};
use crate::model::DiscoveryFilter;
use drivebay_sdk::{Error, Result};
use serde_json::Value;
use std::fmt::Display;

/// Name of the only target.
pub(super) const TARGET: &str = "nvmf_tgt";

fn only(field: &str, given: impl Display, allowed: &str, is_allowed: bool) -> Result<()> {
    if is_allowed { Ok(()) } else { Err(Error::invalid(field, given, allowed)) }
}

fn only_off(field: &str, given: bool) -> Result<()> {
    only(field, given, "false: not supported yet", !given)
}

fn only_absent(field: &str, given: Option<&str>) -> Result<()> {
    only(
        field,
        given.unwrap_or_default(),
        "absent: not supported yet",
        given.is_none_or(str::is_empty),
    )
}

/// Checks the name of the target in a call.
pub(super) fn target(tgt_name: Option<&str>) -> Result<()> {
    let given = tgt_name.unwrap_or(TARGET);
    only("tgt_name", given, TARGET, given == TARGET || given.is_empty())
}

pub(super) fn create_subsystem(params: &CreateSubsystem) -> Result<()> {
    only_off("passthrough", params.passthrough)?;
    only_off("enable_nssr", params.enable_nssr)
}

pub(super) fn add_listener(params: &AddListener) -> Result<()> {
    only_off("secure_channel", params.secure_channel)?;
    let sockets = params.sock_impl.as_deref().unwrap_or("posix");
    only("sock_impl", sockets, "posix", matches!(sockets, "posix" | ""))?;
    let node = params.numa_id.unwrap_or(-1);
    only("numa_id", node, "-1, which means any", node == -1)
}

pub(super) fn namespace(params: &NamespaceParams) -> Result<()> {
    only_off("namespace.no_auto_visible", params.no_auto_visible)?;
    only_off("namespace.hide_metadata", params.hide_metadata)
}

pub(super) fn add_host(params: &AddHost) -> Result<()> {
    only_absent("psk", params.psk.as_deref())?;
    only_absent("dhchap_key", params.dhchap_key.as_deref())?;
    only_absent("dhchap_ctrlr_key", params.dhchap_ctrlr_key.as_deref())
}

pub(super) fn set_config(params: &SetConfig) -> Result<()> {
    if let Some(passthru) = &params.admin_cmd_passthru {
        for (field, given) in [
            ("identify_ctrlr", passthru.identify_ctrlr),
            ("identify_uuid_list", passthru.identify_uuid_list),
            ("get_log_page", passthru.get_log_page),
            ("get_set_features", passthru.get_set_features),
            ("sanitize", passthru.sanitize),
            ("security_send_recv", passthru.security_send_recv),
            ("fw_update", passthru.fw_update),
            ("nvme_mi", passthru.nvme_mi),
            ("vendor_specific", passthru.vendor_specific),
        ] {
            only_off(&format!("admin_cmd_passthru.{field}"), given)?;
        }
    }
    discovery_filter(params)?;
    let policy = params.dup_host_policy.unwrap_or(DupHostPolicy::Allow);
    only("dup_host_policy", policy.as_str(), "allow", policy == DupHostPolicy::Allow)
}

/// The filter from both parameters.
pub(super) fn discovery_filter(params: &SetConfig) -> Result<DiscoveryFilter> {
    const ALLOWED: &str = "match_any, or transport, address, svcid";
    let mut filter = DiscoveryFilter::default();
    let mut add = |field: &str, names: &str| {
        let mut names = names.split(',').map(str::trim).filter(|n| !matches!(*n, "" | "match_any"));
        match names.find(|name| !filter.add(name)) {
            Some(wrong) => Err(Error::invalid(field, wrong, ALLOWED)),
            None => Ok(()),
        }
    };
    add("discovery_filter", params.discovery_filter.as_deref().unwrap_or_default())?;
    match params.discovery_filters.as_ref() {
        None => {}
        Some(Value::String(names)) => add("discovery_filters", names)?,
        Some(Value::Array(list)) => {
            for name in list {
                let name = name
                    .as_str()
                    .ok_or_else(|| Error::invalid("discovery_filters", name, ALLOWED))?;
                add("discovery_filters", name)?;
            }
        }
        Some(other) => return Err(Error::invalid("discovery_filters", other, ALLOWED)),
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_sdk::rpc::decode;

    #[test]
    fn the_reference_s_saved_configuration_is_taken() {
        let saved = r#"{"discovery_filters": [], "admin_cmd_passthru": {"identify_ctrlr": false,
            "vendor_specific": false}, "dhchap_digests": ["sha256", "sha384"],
            "dhchap_dhgroups": ["null"], "dup_host_policy": "allow"}"#;
        assert_eq!(set_config(&decode(saved).unwrap()), Ok(()));
        let listener = r#"{"nqn": "n", "listen_address": {"trtype": "TCP", "adrfam": "IPv4",
            "traddr": "127.0.0.1", "trsvcid": "4420"}, "secure_channel": false}"#;
        assert_eq!(add_listener(&decode(listener).unwrap()), Ok(()));
        let namespace_given = r#"{"nsid": 1, "bdev_name": "m", "anagrpid": 1,
            "no_auto_visible": false}"#;
        assert_eq!(namespace(&decode(namespace_given).unwrap()), Ok(()));
    }

    #[test]
    fn discovery_filters_are_read_in_all_their_forms() {
        let both = DiscoveryFilter { transport: true, svcid: true, address: false };
        for (given, expected) in [
            ("{}", DiscoveryFilter::default()),
            (r#"{"discovery_filter": "match_any"}"#, DiscoveryFilter::default()),
            (r#"{"discovery_filter": "transport,svcid"}"#, both),
            (r#"{"discovery_filters": "transport, svcid"}"#, both),
            (r#"{"discovery_filters": ["transport", "svcid"]}"#, both),
        ] {
            assert_eq!(discovery_filter(&decode(given).unwrap()), Ok(expected), "{given}");
        }
        assert!(discovery_filter(&decode(r#"{"discovery_filters": 3}"#).unwrap()).is_err());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let refused = |result: Result<()>, field: &str| {
            let error = result.unwrap_err();
            assert_eq!(error.errno(), 22);
            assert!(error.message().starts_with(field), "{error}");
        };
        let subsystem = r#"{"nqn": "n", "passthrough": true}"#;
        refused(create_subsystem(&decode(subsystem).unwrap()), "passthrough");
        let host = r#"{"nqn": "n", "host": "h", "psk": "key0"}"#;
        refused(add_host(&decode(host).unwrap()), "psk");
        let config = r#"{"discovery_filters": ["port"]}"#;
        refused(set_config(&decode(config).unwrap()), "discovery_filters");
        let passthru = r#"{"admin_cmd_passthru": {"sanitize": true}}"#;
        refused(set_config(&decode(passthru).unwrap()), "admin_cmd_passthru.sanitize");
        refused(target(Some("other")), "tgt_name other");
    }
}
