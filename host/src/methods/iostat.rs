//! `bdev_get_iostat` and `bdev_reset_iostat`.

use super::bdev::json_of;
use super::entry::{Entry, TICK_RATE, on_app_later};
use crate::rpc::Responder;
use drivebay_core::bdev::stats::{self, IoStat, OpStat, Reset};
use drivebay_core::bdev::{self, Bdev};
use drivebay_core::reactor::clock;
use drivebay_spec_jsonrpc::{Method, Role, RpcError, params};
use serde_json::{Value, json};
use std::sync::Arc;

params! {
    /// Parameters of `bdev_get_iostat`.
    pub(crate) struct GetIostat {
        /// Names of bdevs. If absent, the answer covers all bdevs.
        #[range(0..=65536)]
        names: Option<Vec<String>>,
        /// Name of one bdev. Clients of SPDK 25.05 and earlier send this parameter instead of `names`.
        name: Option<String>,
        /// If true, the answer has the counters of each channel instead of their sum. Needs exactly one bdev name.
        per_channel: bool = false,
        /// Which counters to set to zero after they are read.
        reset_mode: ResetMode = ResetMode::None,
    }
    /// Parameters of `bdev_reset_iostat`.
    pub(crate) struct ResetIostat {
        /// Name of a bdev. If absent, the counters of all bdevs are reset.
        name: Option<String>,
        /// Which counters to set to zero.
        mode: ResetMode = ResetMode::All,
    }
    /// Which counters are set to zero.
    pub(crate) enum ResetMode {
        /// All counters.
        All = "all",
        /// The longest and shortest latencies.
        Maxmin = "maxmin",
        /// The error counters.
        Error = "error",
        /// No counters.
        None = "none",
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let no_device = |method: Method| {
        method.error(i64::from(-libc::ENODEV), "no_such_device", "No bdev has this name.")
    };
    vec![
        (
            no_device(
                Method::new::<GetIostat>(
                    "bdev_get_iostat",
                    Role::Read,
                    "Returns I/O counters of bdevs.",
                )
                .result("Object with tick_rate, ticks and bdevs, or with name and channels."),
            ),
            on_app_later(get_iostat),
        ),
        (
            no_device(
                Method::new::<ResetIostat>(
                    "bdev_reset_iostat",
                    Role::Operate,
                    "Sets counters of bdevs to zero. This affects all clients that read them.",
                )
                .result("True.")
                .returns::<bool>(),
            ),
            on_app_later(|ResetIostat { name, mode }, responder| {
                match named(name.map(|name| vec![name])) {
                    Ok(bdevs) => reset_each(bdevs, mode, Box::new(move || responder.ok(&true))),
                    Err(error) => responder.error(error),
                }
            }),
        ),
    ]
}

fn get_iostat(call: GetIostat, responder: Responder) {
    let GetIostat { names, name, per_channel, reset_mode } = call;
    let names = names.or_else(|| name.map(|name| vec![name]));
    let one = names.as_ref().is_some_and(|names| names.len() == 1);
    if per_channel && !one {
        return responder.error(RpcError::invalid_value("per_channel", true, "with one name"));
    }
    let bdevs = match named(names) {
        Ok(bdevs) => bdevs,
        Err(error) => return responder.error(error),
    };
    let reset = bdevs.clone();
    collect_each(bdevs, Vec::new(), move |all| {
        let mut result = json!({"tick_rate": TICK_RATE, "ticks": clock::now()});
        if let Some(members) = result.as_object_mut() {
            match all.first().filter(|_| per_channel) {
                Some(only) => {
                    members.insert("name".into(), only.bdev.name.clone().into());
                    members.insert("channels".into(), only.channel_rows().into());
                }
                None => {
                    let rows: Vec<Value> = all.iter().map(Collected::row).collect();
                    members.insert("bdevs".into(), rows.into());
                }
            }
        }
        reset_each(reset, reset_mode, Box::new(move || responder.ok(&result)));
    });
}

fn named(names: Option<Vec<String>>) -> Result<Vec<Arc<Bdev>>, RpcError> {
    let Some(names) = names else { return Ok(bdev::all()) };
    names
        .iter()
        .map(|name| bdev::find(name).ok_or_else(|| RpcError::no_such_device(name)))
        .collect()
}

/// The counters of one bdev, and of each thread's channel.
struct Collected {
    bdev: Arc<Bdev>,
    total: IoStat,
    channels: Vec<(u64, IoStat)>,
}

/// Collects the counters of one bdev after another. App thread.
fn collect_each(
    mut rest: Vec<Arc<Bdev>>,
    mut done: Vec<Collected>,
    end: impl FnOnce(Vec<Collected>) + Send + 'static,
) {
    let Some(bdev) = rest.pop() else {
        done.reverse();
        return end(done);
    };
    let collected = Arc::clone(&bdev);
    stats::collect(&collected, move |total, channels| {
        done.push(Collected { bdev, total, channels });
        collect_each(rest, done, end);
    });
}

fn reset_each(mut rest: Vec<Arc<Bdev>>, mode: ResetMode, end: Box<dyn FnOnce() + Send>) {
    let what = match mode {
        ResetMode::All => Reset::All,
        ResetMode::Maxmin => Reset::MaxMin,
        ResetMode::Error => Reset::Errors,
        ResetMode::None => return end(),
    };
    match rest.pop() {
        Some(bdev) => stats::reset(&bdev, what, move || reset_each(rest, mode, end)),
        None => end(),
    }
}

impl Collected {
    fn row(&self) -> Value {
        let mut row = counters(&self.total, self.bdev.record.block_size);
        if let Some(members) = row.as_object_mut() {
            members.insert("name".into(), self.bdev.name.clone().into());
            if let Some(text) = self.bdev.dump_stats() {
                let own = json_of(&self.bdev.name, Some(text));
                members.insert("driver_specific".into(), own);
            }
        }
        row
    }

    fn channel_rows(&self) -> Vec<Value> {
        let row = |(thread, stat): &(u64, IoStat)| {
            let mut row = counters(stat, self.bdev.record.block_size);
            if let Some(members) = row.as_object_mut() {
                members.insert("thread_id".into(), (*thread).into());
            }
            row
        };
        self.channels.iter().map(row).collect()
    }
}

fn counters(stat: &IoStat, block_size: u32) -> Value {
    let bytes = |op: &OpStat| op.blocks.saturating_mul(u64::from(block_size));
    let shortest = |op: &OpStat| if op.min_ns == u64::MAX { 0 } else { op.min_ns };
    let IoStat { read, write, unmap, errors } = stat;
    let mut row = json!({
        "bytes_read": bytes(read),
        "num_read_ops": read.ops,
        "bytes_written": bytes(write),
        "num_write_ops": write.ops,
        "bytes_unmapped": bytes(unmap),
        "num_unmap_ops": unmap.ops,
        "bytes_copied": 0,
        "num_copy_ops": 0,
        "read_latency_ticks": read.latency_ns,
        "max_read_latency_ticks": read.max_ns,
        "min_read_latency_ticks": shortest(read),
        "write_latency_ticks": write.latency_ns,
        "max_write_latency_ticks": write.max_ns,
        "min_write_latency_ticks": shortest(write),
        "unmap_latency_ticks": unmap.latency_ns,
        "max_unmap_latency_ticks": unmap.max_ns,
        "min_unmap_latency_ticks": shortest(unmap),
        "copy_latency_ticks": 0,
        "max_copy_latency_ticks": 0,
        "min_copy_latency_ticks": 0,
        "io_error": {},
    });
    // The host does not count errors by status, so the result has only SPDK's name for any error.
    if *errors > 0
        && let Some(kinds) = row.get_mut("io_error").and_then(Value::as_object_mut)
    {
        kinds.insert("failed".into(), (*errors).into());
    }
    row
}
