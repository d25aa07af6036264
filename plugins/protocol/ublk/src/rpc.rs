//! The methods. Names, parameters, results and codes are the reference's.

use crate::disk::{Disk, QUEUES_MAX, path};
use crate::target::get;
use drivebay_ring::ublk::DEPTH_MAX;
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method, NoParams, Params, RpcError};
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use std::rc::Rc;

params! {
    /// Parameters of `ublk_create_target`.
    pub struct CreateTarget {
        /// Cores whose threads serve disks, such as `0x3` or `[0,1]`; all cores when absent.
        cpumask: Option<String>,
        /// Accepted without effect: the kernel always copies the data itself.
        disable_user_copy: bool = false,
    }

    /// Parameters of `ublk_start_disk`.
    pub struct StartDisk {
        /// Name of the bdev.
        bdev_name: String,
        /// Number of the device: 1 for `/dev/ublkb1`.
        ublk_id: u32,
        /// Entries of each queue. More than 1024 count as 1024. Each entry takes 128 KiB of memory.
        #[range(1..=65_535)]
        queue_depth: u32 = 128,
        /// Number of queues. More than 32 count as 32.
        #[range(1..=65_535)]
        num_queues: u32 = 1,
    }

    /// Parameters of `ublk_recover_disk`.
    pub struct RecoverDisk {
        /// Name of the bdev that the disk had.
        bdev_name: String,
        /// Number of the device.
        ublk_id: u32,
    }

    /// Parameters of `ublk_stop_disk`.
    pub struct StopDisk {
        /// Number of the device.
        ublk_id: u32,
    }

    /// Parameters of `ublk_get_disks`.
    pub struct GetDisks {
        /// Number of one device; all devices when absent.
        ublk_id: Option<u32>,
    }
}

/// Registers the methods.
///
/// # Errors
/// `EEXIST` when a name is taken.
pub fn register(app: &App) -> Result<()> {
    let doc =
        "Starts the threads that serve ublk disks.\n\nThe kernel's module ublk_drv must be loaded.";
    of_target("ublk_create_target", doc, async |params: CreateTarget| {
        get()?.create(params.cpumask.unwrap_or_default()).await
    })
    .register(app)?;
    let doc = "Stops all ublk disks, and the threads that serve them.";
    of_target("ublk_destroy_target", doc, async |_: NoParams| get()?.destroy().await)
        .register(app)?;
    let doc = "Makes a bdev a block device of this machine's kernel.\n\nReturns when `/dev/ublkbN` exists.";
    Method::task("ublk_start_disk", doc, start_disk)
        .describe(|method| {
            method
                .result("The number of the device.")
                .error(-1, "not_permitted", "Something other than an export writes to the bdev.")
                .error(-16, "busy", "The number is in use.")
                .error(-17, "exists", "A killed host has left a device with that number.")
                .error(-19, "no_such_device", "There is no target, or no such bdev.")
        })
        .register(app)?;
    let doc = "Serves a device again whose host was killed.\n\nThe requests that the dead host had are executed again.";
    Method::task("ublk_recover_disk", doc, recover_disk)
        .describe(|method| {
            method
                .result("The number of the device.")
                .error(-16, "busy", "The number is in use, or another process serves the device.")
                .error(
                    -19,
                    "no_such_device",
                    "There is no target, no such bdev, or no such device.",
                )
                .error(-22, "invalid_value", "The bdev has another size than the device.")
        })
        .register(app)?;
    let doc =
        "Removes a block device from the kernel. What was written to it is on the bdev afterwards.";
    Method::task("ublk_stop_disk", doc, async |_: &App, params: StopDisk| {
        get()?.stop_disk(params.ublk_id).await?;
        Ok(true)
    })
    .describe(|method| method.result("true").error(-19, "no_such_device", "There is no such disk."))
    .register(app)?;
    Method::immediate("ublk_get_disks", "Lists the ublk disks.", get_disks).register(app)
}

/// A method of the target. Its errors all have the reference's code, -32603.
fn of_target<P: Params + 'static>(
    name: &'static str,
    doc: &str,
    call: impl AsyncFn(P) -> Result<()> + 'static,
) -> Method {
    let call = Rc::new(call);
    Method::new(name, doc, move |app, request: Call, params: P| {
        let call = Rc::clone(&call);
        let run = async move |_: &App| {
            request.answer(call(params).await.map(|()| true).map_err(RpcError::internal));
        };
        if let Ok(task) = task::spawn_app(app, name, run) {
            task.detach();
        }
    })
    .describe(|method| method.result("true"))
}

async fn start_disk(app: &App, params: StartDisk) -> Result<u32> {
    let num_queues = at_most("num_queues", params.num_queues, QUEUES_MAX);
    let depth = at_most("queue_depth", params.queue_depth, DEPTH_MAX);
    get()?.start_disk(app, params.ublk_id, &params.bdev_name, (num_queues, depth)).await?;
    Ok(params.ublk_id)
}

/// The value, or the limit when it is larger.
fn at_most(field: &str, given: u32, max: u16) -> u16 {
    match u16::try_from(given) {
        Ok(value) if value <= max => value,
        _ => {
            warn!("ublk_start_disk: {field} {given} is more than {max}; {max} is used");
            max
        }
    }
}

async fn recover_disk(app: &App, params: RecoverDisk) -> Result<u32> {
    get()?.recover_disk(app, params.ublk_id, &params.bdev_name).await?;
    Ok(params.ublk_id)
}

fn get_disks(_: &App, params: GetDisks) -> Result<Vec<Value>> {
    let target = get()?;
    let disks = target.disks.borrow();
    if let Some(id) = params.ublk_id
        && !disks.contains_key(&id)
    {
        return Err(Error::no_such_device());
    }
    let listed = disks.iter().filter(|(id, _)| params.ublk_id.is_none_or(|wanted| wanted == **id));
    Ok(listed.map(|(id, disk)| view(*id, disk)).collect())
}

fn view(id: u32, disk: &Disk) -> Value {
    json!({
        "ublk_device": path(id),
        "id": id,
        "queue_depth": disk.depth,
        "num_queues": disk.num_queues,
        "bdev_name": disk.bdev,
    })
}

/// Writes the calls that create the target and the disks again.
pub fn write_config(config: &mut Config<'_>) {
    let Ok(target) = get() else { return };
    let Ok(active) = target.active() else { return };
    let params = match active.cpumask.as_str() {
        "" => json!({}),
        mask => json!({"cpumask": mask}),
    };
    config.call("ublk_create_target", &params);
    let disks = target.disks.borrow();
    // A disk that is not started, or whose recovery has just begun, is not part of the configuration.
    for (id, disk) in disks.iter().filter(|(_, disk)| !disk.is_stuck && disk.depth > 0) {
        let params = json!({
            "bdev_name": disk.bdev,
            "ublk_id": id,
            "num_queues": disk.num_queues,
            "queue_depth": disk.depth,
        });
        config.call("ublk_start_disk", &params);
    }
}
