//! The methods about the paths of a bdev.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, Role};
use drivebay_sdk::serde_json::{Value, json};

use crate::app;
use crate::controller::Controller;
use crate::group::Group;
use crate::options::{Policy, Selector};
use crate::paths::{Paths, Spread};
use crate::view::{self, LegView};

params! {
    /// Parameters of `bdev_nvme_get_io_paths`.
    pub struct GetIoPaths {
        /// Name of the bdev; all when absent.
        pub name: Option<String>,
    }

    /// Parameters of `bdev_nvme_set_preferred_path`.
    pub struct SetPreferredPath {
        /// Name of the bdev.
        pub name: String,
        /// Identifier of the controller whose path comes first.
        pub cntlid: u16,
    }

    /// Parameters of `bdev_nvme_set_multipath_policy`.
    pub struct SetMultipathPolicy {
        /// Name of the bdev.
        pub name: String,
        /// Which paths are used.
        pub policy: Policy,
        /// How one of the active paths is chosen; `round_robin` when absent. Only for `active_active`.
        pub selector: Option<Selector>,
        /// How many I/Os one path gets in its turn; 1 when absent. Only for `round_robin`.
        #[range(1..=4_294_967_295)]
        pub rr_min_io: Option<u32>,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    Method::immediate(
        "bdev_nvme_get_io_paths",
        "Lists the paths of bdevs, for each thread that uses them.",
        |_, params: GetIoPaths| list(&params),
    )
    .describe(|mut method| {
        method.role = Role::Read;
        method.result("`poll_groups`: for each thread its paths.")
    })
    .register(app)?;
    let no_bdev = "There is no such bdev, or it has no path over that controller.";
    Method::immediate(
        "bdev_nvme_set_preferred_path",
        "Puts a path of a bdev first. With `active_passive`, I/O uses it while no other path has a better ANA state.",
        |_, params: SetPreferredPath| prefer(&params),
    )
    .describe(|method| method.result("true").error(-19, "no_such_device", no_bdev))
    .register(app)?;
    Method::immediate(
        "bdev_nvme_set_multipath_policy",
        "Sets how the I/O of a bdev is spread over its paths.",
        |_, params: SetMultipathPolicy| set_policy(&params),
    )
    .describe(|method| method.result("true").error(-19, "no_such_device", no_bdev))
    .register(app)
}

/// The group of a bdev, and its paths.
fn find(bdev_name: &str) -> Result<(Rc<Group>, Arc<Paths>)> {
    let group = app::get()?.with_bdev(bdev_name);
    let found = group.and_then(|group| group.paths(bdev_name).map(|paths| (group, paths)));
    found.ok_or_else(|| Error::no_device_named(bdev_name))
}

fn prefer(params: &SetPreferredPath) -> Result<bool> {
    let (group, paths) = find(&params.name)?;
    let members = group.members();
    let wanted = members
        .iter()
        .find(|controller| controller.cntlid.get() == params.cntlid && paths.has(&controller.path));
    let controller = wanted.ok_or_else(|| {
        let why = format!("{} has no path over controller {}", params.name, params.cntlid);
        Error::new(errno::ENODEV, why)
    })?;
    paths.prefer(&controller.path);
    Ok(true)
}

fn set_policy(params: &SetMultipathPolicy) -> Result<bool> {
    if params.policy == Policy::ActivePassive
        && let Some(selector) = params.selector
    {
        let given = selector.as_str();
        return Err(Error::invalid("selector", given, "absent unless policy is active_active"));
    }
    let (_, paths) = find(&params.name)?;
    let (_, listed) = paths.listed();
    paths.set_spread(Spread {
        policy: params.policy,
        selector: params.selector.unwrap_or(Selector::RoundRobin),
        min_io: params.rr_min_io.unwrap_or(1),
        ..listed.spread
    });
    Ok(true)
}

fn list(params: &GetIoPaths) -> Result<Value> {
    let app = app::get()?;
    let groups = app.groups.borrow();
    let mut threads: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for view in view::all() {
        let shown = threads.entry(view.thread.clone()).or_default();
        for group in groups.values() {
            let Some(bdev) = group.bdev_with(&view.paths) else { continue };
            if params.name.as_ref().is_some_and(|name| *name != bdev) {
                continue;
            }
            let members = group.members();
            shown.extend(view.legs().iter().filter_map(|leg| {
                let mut all = members.iter();
                let controller = all.find(|controller| Arc::ptr_eq(&controller.path, &leg.path))?;
                Some(show(&bdev, leg, controller))
            }));
        }
    }
    let groups = threads.into_iter();
    let groups = groups.map(|(thread, paths)| json!({ "thread": thread, "io_paths": paths }));
    Ok(json!({ "poll_groups": groups.collect::<Vec<_>>() }))
}

fn show(bdev: &str, leg: &LegView, controller: &Controller) -> Value {
    let attach = &controller.trids.current().attach;
    let transport = if attach.is_pci() {
        json!({ "trtype": "PCIe", "traddr": attach.traddr })
    } else {
        json!({
            "trtype": "TCP",
            "traddr": attach.traddr,
            "trsvcid": attach.trsvcid.as_deref().unwrap_or("4420"),
            "adrfam": attach.family(),
        })
    };
    json!({
        "bdev_name": bdev,
        "cntlid": controller.cntlid.get(),
        "current": leg.is_current,
        "connected": leg.is_connected,
        "accessible": leg.is_accessible,
        "transport": transport,
    })
}
