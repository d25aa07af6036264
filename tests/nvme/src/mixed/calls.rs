//! RPC calls beside the I/O.

use crate::counts::add;
use crate::scene::Scene;
use crate::target::NQN;
use serde_json::json;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn run(scene: &Scene) -> Result<(), String> {
    let calls = [
        ("bdev_get_bdevs", json!({})),
        ("bdev_get_iostat", json!({})),
        ("bdev_reset_iostat", json!({"mode": "maxmin"})),
        ("nvmf_get_subsystems", json!({})),
        ("nvmf_subsystem_get_qpairs", json!({"nqn": NQN})),
        ("nvmf_get_stats", json!({})),
        ("nvmf_get_transports", json!({})),
        ("thread_get_stats", json!({})),
        ("framework_get_reactors", json!({})),
        ("framework_get_config", json!({"name": "bdev"})),
        ("iobuf_get_stats", json!({})),
        ("plugin_list", json!({})),
        ("rpc_get_methods", json!({})),
    ];
    for (method, params) in calls.iter().cycle() {
        if scene.is_over() {
            break;
        }
        scene.host.call(method, params.clone());
        add(&scene.counts.calls, 1);
        let refused = scene.host.refused(method, json!({"no such parameter": 1}));
        assert_eq!(refused.code, -32602, "{method}: {refused:?}");
        add(&scene.counts.calls, 1);
        scene.pause(PAUSE);
    }
    Ok(())
}
