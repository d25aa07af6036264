//! Methods without a handler: those that are accepted without effect, and the error text for all
//! others.

/// Option methods of SPDK subsystems that do not exist here. SPDK's `save_config` always writes
/// them, so they are accepted with any parameters, and have no effect. A plugin that registers such
/// a method takes precedence.
const WITHOUT_EFFECT: [&str; 12] = [
    "accel_assign_opc",
    "accel_set_options",
    "bdev_iscsi_set_options",
    "bdev_nvme_set_hotplug",
    "bdev_nvme_set_options",
    "bdev_raid_set_options",
    "framework_set_scheduler",
    "fsdev_set_opts",
    "iscsi_set_options",
    "keyring_linux_set_options",
    "sock_impl_set_options",
    "sock_set_default_impl",
];

/// Prefixes of method names, with the plugin that has such methods.
const OF_PLUGINS: [(&str, &str); 20] = [
    ("bdev_aio_", "aio"),
    ("bdev_delay_", "delay"),
    ("bdev_error_", "error"),
    ("bdev_iscsi_", "iscsi-initiator"),
    ("bdev_lvol_", "lvol"),
    ("bdev_malloc_", "malloc"),
    ("bdev_null_", "null"),
    ("bdev_nvme_", "nvme"),
    ("bdev_passthru_", "passthru"),
    ("bdev_raid_", "raid"),
    ("bdev_split_", "split"),
    ("bdev_uring_", "aio"),
    ("bdev_virtio_", "virtio"),
    ("bdev_zone_block_", "zone-block"),
    ("iscsi_", "iscsi"),
    ("nbd_", "nbd"),
    ("nvmf_", "nvmf"),
    ("scsi_", "iscsi"),
    ("ublk_", "ublk"),
    ("vhost_", "vhost"),
];

/// Prefixes of SPDK's methods that no plugin has yet.
const NOT_YET: [&str; 20] = [
    "accel_",
    "bdev_compress_",
    "bdev_crypto_",
    "bdev_daos_",
    "bdev_enable_histogram",
    "bdev_ftl_",
    "bdev_get_histogram",
    "bdev_ocf_",
    "bdev_opal_",
    "bdev_rbd_",
    "bdev_set_qd_sampling_period",
    "bdev_set_qos_limit",
    "bdev_xnvme_",
    "framework_",
    "fsdev_",
    "keyring_",
    "mdns_",
    "sock_",
    "trace_",
    "vfu_",
];

/// The maximum number of names in a "did you mean" question.
const NEAREST_MAX: usize = 3;

/// The methods that are accepted without effect.
pub(crate) fn without_effect() -> impl Iterator<Item = &'static str> {
    WITHOUT_EFFECT.into_iter()
}

/// Whether `method` is accepted without effect.
pub(crate) fn has_no_effect(method: &str) -> bool {
    WITHOUT_EFFECT.contains(&method)
}

/// Why `method` does not exist, and what to do. `known` are the methods that can be called.
pub(crate) fn why(method: &str, known: &[String]) -> String {
    if let Some(meant) = similar(method, known, 1) {
        return meant;
    }
    let starts = |prefix: &str| method.starts_with(prefix);
    match OF_PLUGINS.into_iter().find(|(prefix, _)| starts(prefix)) {
        Some((prefix, plugin)) if known.iter().any(|name| name.starts_with(prefix)) => {
            format!(
                "plugin {plugin} does not have it; `drivebay rpc rpc_get_methods` lists all methods"
            )
        }
        Some((_, plugin)) => {
            format!(
                "it belongs to plugin {plugin}, which is not on the plugin path (drivebay plugin list)"
            )
        }
        None if NOT_YET.into_iter().any(starts) => {
            "it is a method of SPDK that is not implemented yet".to_owned()
        }
        None => similar(method, known, 2).unwrap_or_else(|| {
            "no plugin on the plugin path has it (drivebay plugin list)".to_owned()
        }),
    }
}

/// The names that differ from `method` in at most `slips` characters, as a question.
fn similar(method: &str, known: &[String], slips: usize) -> Option<String> {
    let mut close: Vec<(usize, &str)> = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(method, name), name.as_str()))
        .filter(|(distance, _)| *distance <= slips)
        .collect();
    close.sort_unstable();
    let names: Vec<&str> = close.into_iter().take(NEAREST_MAX).map(|(_, name)| name).collect();
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_is_misspelt_or_of_a_plugin_or_not_there_yet() {
        let known = ["bdev_null_create", "bdev_get_bdevs"].map(str::to_owned);
        for (method, word) in [
            ("bdev_nul_create", "did you mean bdev_null_create?"),
            ("bdev_get_bdev", "did you mean bdev_get_bdevs?"),
            ("bdef_get_bdefs", "did you mean bdev_get_bdevs?"),
            ("bdev_raid_create", "plugin raid, which is not on"),
            ("bdev_null_explode", "plugin null does not have it"),
            ("bdev_malloc_create", "belongs to plugin malloc, which is not on the plugin path"),
            ("bdev_crypto_create", "not implemented yet"),
            ("acme_fly", "no plugin on the plugin path has it"),
        ] {
            let why = why(method, &known);
            assert!(why.contains(word), "{method}: {why}");
        }
    }
}
