//! `save_config`: the calls that restore the configuration. The order is the reference's, except that authentication groups come before
//! the targets that name them.

use crate::app::app;
use crate::rpc::view;
use drivebay_sdk::notify::Config;
use serde_json::json;

/// Writes the target's configuration. `[app thread]`
pub(crate) fn write(config: &mut Config<'_>) {
    let Some(app) = app() else { return };
    let model = app.model.borrow();
    if model.options_are_set {
        config.call("iscsi_set_options", &view::options(&model.options));
    }
    for (tag, group) in &model.portal_groups {
        // Create portal groups with `wait`, because an initiator that logs in before its target exists may give up for good.
        let mut params = view::portal_group(*tag, group);
        if let Some(params) = params.as_object_mut() {
            params.insert("wait".to_owned(), true.into());
        }
        config.call("iscsi_create_portal_group", &params);
        let chap = group.chap;
        if chap.is_set() {
            let params = json!({
                "tag": tag,
                "disable_chap": chap.disabled,
                "require_chap": chap.required,
                "mutual_chap": chap.mutual,
                "chap_group": chap.group,
            });
            config.call("iscsi_portal_group_set_auth", &params);
        }
    }
    for (tag, group) in &model.initiator_groups {
        config.call("iscsi_create_initiator_group", &view::initiator_group(*tag, group));
    }
    for (tag, group) in &model.auth_groups {
        config.call("iscsi_create_auth_group", &view::auth_group(*tag, group, true));
    }
    for target in model.targets.values() {
        if target.luns.is_empty() || target.maps.is_empty() {
            // Leave out the missing bdev: iscsi_create_target_node would refuse it, and the host would refuse the whole configuration.
            tracing::warn!(
                node = target.name,
                "the saved configuration leaves out a target without LUNs or pg_ig_maps"
            );
            continue;
        }
        config.call("iscsi_create_target_node", &view::target(target));
        if target.has_histogram {
            config.call("iscsi_enable_histogram", &json!({"name": target.name, "enable": true}));
        }
        for (pg_tag, (host, port)) in &target.redirects {
            let params = json!({
                "name": target.name,
                "pg_tag": pg_tag,
                "redirect_host": host,
                "redirect_port": port,
            });
            config.call("iscsi_target_node_set_redirect", &params);
        }
    }
    for tag in model.portal_groups.keys().filter(|tag| app.is_open(**tag)) {
        config.call("iscsi_start_portal_group", &json!({ "tag": tag }));
    }
}
