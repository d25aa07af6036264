//! The methods that show the counters of the channels.

use std::collections::BTreeMap;
use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, NoParams, Role};
use drivebay_sdk::serde_json::{Value, json};

use crate::app;
use crate::stats::{ChannelCounts, Count};
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
        "Shows how much I/O a bdev has done on each of its paths.\n\n\
         The plugin counts I/O only if `io_path_stat` of `bdev_nvme_set_options` was true when the controller was attached.",
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
        "Shows what each thread has done on its connections to controllers.",
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
    let mut threads: BTreeMap<&str, BTreeMap<bool, Vec<&ChannelCounts>>> = BTreeMap::new();
    for view in &views {
        let transports = threads.entry(&view.thread).or_default();
        transports.entry(view.is_pci).or_default().push(&view.counts);
    }
    let groups = threads.into_iter().map(|(thread, transports)| {
        let transports = transports.iter().map(|(is_pci, channels)| transport(*is_pci, channels));
        json!({ "thread": thread, "transports": transports.collect::<Vec<_>>() })
    });
    Ok(json!({ "poll_groups": groups.collect::<Vec<_>>() }))
}

/// The counters of one thread's channels of one transport, in the reference's format. Writes of doorbells are not counted.
fn transport(is_pci: bool, channels: &[&ChannelCounts]) -> Value {
    let sum = |count: fn(&ChannelCounts) -> &Count| -> u64 {
        channels.iter().map(|counts| count(counts).get()).sum()
    };
    if is_pci {
        return json!({
            "trname": "PCIe",
            "polls": sum(|counts| &counts.polls),
            "idle_polls": sum(|counts| &counts.idle_polls),
            "completions": sum(|counts| &counts.nvme_completions),
            "queued_requests": sum(|counts| &counts.queued_requests),
            "submitted_requests": sum(|counts| &counts.submitted_requests),
        });
    }
    json!({
        "trname": "TCP",
        "polls": sum(|counts| &counts.polls),
        "idle_polls": sum(|counts| &counts.idle_polls),
        "socket_completions": sum(|counts| &counts.socket_completions),
        "nvme_completions": sum(|counts| &counts.nvme_completions),
        "queued_requests": sum(|counts| &counts.queued_requests),
        "submitted_requests": sum(|counts| &counts.submitted_requests),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_has_the_counters_of_its_own_channels() {
        let counts = [ChannelCounts::default(), ChannelCounts::default()];
        counts.iter().for_each(|counts| counts.nvme_completions.add(2));
        let channels: Vec<&ChannelCounts> = counts.iter().collect();
        let (pci, tcp) = (transport(true, &channels), transport(false, &channels));
        assert_eq!((&pci["trname"], &pci["completions"]), (&json!("PCIe"), &json!(4)));
        assert_eq!((&tcp["trname"], &tcp["nvme_completions"]), (&json!("TCP"), &json!(4)));
    }
}
