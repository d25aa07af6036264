//! The methods that tell what the channels have counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, NoParams, Role};
use drivebay_sdk::serde_json::{Value, json};

use crate::app;
use crate::stats::ChannelCounts;
use crate::view;

params! {
    /// Parameters of `bdev_nvme_get_path_iostat`.
    pub struct GetPathIostat {
        /// Name of the bdev.
        pub name: String,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    Method::immediate(
        "bdev_nvme_get_path_iostat",
        "Tells the I/O of a bdev on each of its paths.\n\n\
         The I/O is counted when `io_path_stat` of `bdev_nvme_set_options` was true when the controller was attached.",
        |_, params: GetPathIostat| path_iostat(&params.name),
    )
    .describe(|mut method| {
        method.role = Role::Read;
        method
            .result("`name`, and `stats`: `trid` and `stat` of each path. Ticks are nanoseconds.")
            .error(-1, "not_permitted", "`io_path_stat` is false.")
            .error(-19, "no_such_device", "There is no such bdev.")
    })
    .register(app)?;
    Method::immediate(
        "bdev_nvme_get_transport_statistics",
        "Tells what each thread has done on its connections.",
        |_, NoParams {}| transport_statistics(),
    )
    .describe(|mut method| {
        method.role = Role::Read;
        method.result(
            "`poll_groups`: for each thread the counters of its open channels, by transport.",
        )
    })
    .register(app)
}

fn path_iostat(name: &str) -> Result<Value> {
    let app = app::get()?;
    if !app.options.borrow().io_path_stat {
        let why = "RPC not enabled if enable_io_path_stat is false: set io_path_stat with bdev_nvme_set_options";
        return Err(Error::new(errno::EPERM, why));
    }
    let group = app.with_bdev(name).ok_or_else(|| Error::no_device_named(name))?;
    let paths = group.paths(name).ok_or_else(|| Error::no_device_named(name))?;
    let (_, listed) = paths.listed();
    let members = group.members();
    let of_path = listed.paths.iter().filter_map(|path| {
        let controller = members.iter().find(|member| Arc::ptr_eq(&member.path, path))?;
        let trid = controller.trids.current().attach.trid();
        Some(json!({ "trid": trid, "stat": paths.stats.show(path) }))
    });
    Ok(json!({ "name": name, "stats": of_path.collect::<Vec<_>>() }))
}

fn transport_statistics() -> Result<Value> {
    let views = view::all();
    let mut threads: BTreeMap<&str, Vec<&ChannelCounts>> = BTreeMap::new();
    for view in &views {
        threads.entry(&view.thread).or_default().push(&view.counts);
    }
    let groups = threads.into_iter().map(|(thread, channels)| {
        let sum = |count: fn(&ChannelCounts) -> u64| channels.iter().map(|c| count(c)).sum::<u64>();
        let tcp = json!({
            "trname": "TCP",
            "polls": sum(|counts| counts.polls.get()),
            "idle_polls": sum(|counts| counts.idle_polls.get()),
            "socket_completions": sum(|counts| counts.socket_completions.get()),
            "nvme_completions": sum(|counts| counts.nvme_completions.get()),
            "queued_requests": sum(|counts| counts.queued_requests.get()),
            "submitted_requests": sum(|counts| counts.submitted_requests.get()),
        });
        json!({ "thread": thread, "transports": [tcp] })
    });
    Ok(json!({ "poll_groups": groups.collect::<Vec<_>>() }))
}
