//! Plugins that are loaded into the host while it serves, and unloaded.
//!
//! A library that was loaded stays mapped until the host ends, also when its plugin was unloaded: every new load of it costs the
//! memory that it touches. So loads are for the first third of the time, and the rest of it has what changes nothing: what is loaded
//! already, what is used, what does not exist.

use crate::counts::add;
use crate::memory::LOADS_UNTIL;
use crate::scene::Scene;
use serde_json::json;
use std::time::Duration;

/// A plugin that serves no disk of ours.
const PLUGIN: &str = "probe";
/// Pauses between two of them, of the time that all takes.
const PARTS: u32 = 180;

pub(crate) fn run(scene: &Scene) -> Result<(), String> {
    let pause = scene.length() / PARTS;
    let host = &scene.host;
    while !scene.is_over() {
        if scene.passed() < LOADS_UNTIL {
            host.call("plugin_load", json!({"name": PLUGIN}));
            add(&scene.counts.loads, 1);
            let measured =
                host.call("probe_round_trips", json!({"near": 0, "far": 0, "round_trips": 100}));
            if measured["round_trips"] != 100 {
                return Err(format!("{PLUGIN} does not serve: {measured}"));
            }
            host.call("plugin_unload", json!({"name": PLUGIN}));
            add(&scene.counts.unloads, 1);
        }
        host.call("plugin_load", json!({"name": "malloc"}));
        let refused = host.refused("plugin_unload", json!({"name": "malloc"}));
        assert_eq!(refused.code, -16, "{refused:?}");
        host.refused("plugin_load", json!({"name": "no_such_plugin"}));
        scene.pause(pause.min(Duration::from_secs(10)));
    }
    Ok(())
}
