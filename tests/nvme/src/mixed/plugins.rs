//! Loads and unloads plugins while the host serves.
//!
//! A loaded library stays mapped until the host ends, even after its plugin was unloaded. So every new load costs the
//! memory that it touches. New loads therefore happen only in the first third of the run. Later calls change nothing:
//! they name plugins that are loaded already, are in use, or do not exist.

use crate::counts::add;
use crate::memory::LOADS_UNTIL;
use crate::scene::Scene;
use serde_json::json;
use std::time::Duration;

/// A plugin that serves none of our disks.
const PLUGIN: &str = "probe";
/// The number of pauses into which the run is divided.
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
