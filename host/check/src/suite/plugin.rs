//! Checks for every plugin.

use crate::guard;
use crate::rig::{Rig, until};
use crate::verdict::{Stop, Verdict, failed};

pub(super) fn layout(rig: &mut Rig<'_>) -> Verdict {
    rig.host.layout()
}

pub(super) fn serves_and_ends(rig: &mut Rig<'_>) -> Verdict {
    // The plugin is already serving, because the runner has loaded it. A plugin that creates bdevs
    // by itself keeps them.
    if !guard::bdevs().is_empty() {
        return Ok(());
    }
    rig.host.unload().map_err(|why| Stop::failed("an unused plugin can be unloaded", why))?;
    let is_clean = || {
        let held = guard::held();
        held.pollers == 0 && held.regions == 0 && held.buffers == 0 && held.threads == 0
    };
    if !until(is_clean) {
        return failed("a plugin that was unloaded holds nothing", format!("{:?}", guard::held()));
    }
    rig.host.load().map_err(|why| Stop::failed("it can be loaded again", why))
}

pub(super) fn methods(rig: &mut Rig<'_>) -> Verdict {
    let has: Vec<String> = rig.host.methods().iter().map(|method| method.name.clone()).collect();
    let provides = rig.host.provides();
    let said: Vec<&str> = provides.iter().filter_map(|name| name.strip_prefix("rpc:")).collect();
    if let Some(missing) = said.iter().find(|name| !has.iter().any(|has| has == *name)) {
        return failed("every method of the manifest is registered", format!("{missing} is not"));
    }
    match has.iter().find(|name| !said.contains(&name.as_str())) {
        Some(more) => failed("the manifest lists every method", format!("it does not list {more}")),
        None => Ok(()),
    }
}
