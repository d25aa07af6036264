//! The methods, with the reference's names, parameters, results and codes. Like the reference, they answer nearly every mistake
//! with -32602.

use crate::controllers::{
    self, Backing, Blk, BlkConfig, Controller, ControllerConfig, Controllers, Target,
};
use crate::pace::Coalescing;
use drivebay_sdk::errno;
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Description, Method, ParamType, Params, RpcError};
use drivebay_sdk::serde_json::{Map, Value, json};

params! {
    /// Parameters of `vhost_create_blk_controller`.
    pub struct CreateBlk {
        /// Name of the controller, which is also the name of its socket.
        ctrlr: String,
        /// Name of the bdev.
        dev_name: String,
        /// Whether guests may only read.
        readonly: bool = false,
        /// Whether the device offers packed rings.
        packed_ring: bool = false,
        /// Cores that serve the controller, such as `0x3` or `[0,1]`; all when absent.
        cpumask: Option<String>,
        /// Transport. Only `vhost_user_blk` exists, which is also the default.
        transport: Option<String>,
    }

    /// Parameters of `vhost_create_scsi_controller`.
    pub struct CreateScsi {
        /// Name of the controller, which is also the name of its socket.
        ctrlr: String,
        /// Cores that serve the controller, such as `0x3` or `[0,1]`; all when absent.
        cpumask: Option<String>,
        /// Whether the controller waits for `vhost_start_scsi_controller` before guests can connect.
        delay: bool = false,
    }

    /// Parameters of `vhost_scsi_controller_add_target`.
    pub struct AddTarget {
        /// Name of the controller.
        ctrlr: String,
        /// Number of the target, 0 to 7; a negative number means the first free one.
        scsi_target_num: i32,
        /// Name of the bdev.
        bdev_name: String,
    }

    /// Parameters of `vhost_scsi_controller_remove_target`.
    pub struct RemoveTarget {
        /// Name of the controller.
        ctrlr: String,
        /// Number of the target.
        scsi_target_num: u32,
    }

    /// Parameters of `vhost_delete_controller` and `vhost_start_scsi_controller`.
    pub struct Named {
        /// Name of the controller.
        ctrlr: String,
    }

    /// Parameters of `vhost_get_controllers`.
    pub struct Get {
        /// Name of one controller; all when absent.
        name: Option<String>,
    }

    /// Parameters of `vhost_controller_set_coalescing`.
    pub struct SetCoalescing {
        /// Name of the controller.
        ctrlr: String,
        /// Base of the pause between two interrupts, in microseconds, 0 to 1,000,000; 0 = no delay.
        delay_base_us: u32,
        /// Requests per second above which interrupts are delayed; at least 100.
        iops_threshold: u32,
    }

    /// Parameters of `virtio_blk_create_transport`.
    pub struct CreateTransport {
        /// Name of the transport.
        name: String,
    }

    /// Parameters of `virtio_blk_get_transports`.
    pub struct GetTransports {
        /// Name of one transport; all when absent.
        name: Option<String>,
    }
}

/// The only transport.
const TRANSPORT: &str = "vhost_user_blk";
/// The setting of a new controller: no delay.
const UNCHANGED: Coalescing = Coalescing { delay_base_us: 0, iops_threshold: 60_000 };
/// Longest base of the pause between two interrupts, in microseconds.
const DELAY_BASE_US_MAX: u32 = 1_000_000;
/// Smallest threshold, in requests per second: one in each interval of 10 ms.
const IOPS_THRESHOLD_MIN: u32 = 100;

/// Codes of the reference.
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;

/// Registers the methods.
///
/// # Errors
/// `EEXIST` when a name is taken.
pub fn register(app: &App) -> Result<()> {
    let methods = [
        refusing(
            "vhost_create_blk_controller",
            "Creates a block device for virtual machines.",
            create_blk,
        ),
        refusing(
            "vhost_create_scsi_controller",
            "Creates a SCSI controller for virtual machines.",
            create_scsi,
        ),
        refusing(
            "vhost_start_scsi_controller",
            "Lets guests connect to a SCSI controller that was created with `delay`.",
            start_scsi,
        ),
        refusing(
            "vhost_scsi_controller_add_target",
            "Adds a target to a SCSI controller. Its guests see a new disk. The result is the target's number.",
            add_target,
        ),
        Method::new(
            "vhost_scsi_controller_remove_target",
            "Removes a target from a SCSI controller. Its guests lose the disk.",
            remove_target,
        ),
        Method::new(
            "vhost_delete_controller",
            "Deletes a controller. Its guests lose their disks.",
            delete,
        ),
        Method::new("vhost_get_controllers", "Lists the controllers.", list),
        refusing("vhost_controller_set_coalescing", "Sets how interrupts are delayed.", coalesce),
        Method::immediate(
            "virtio_blk_create_transport",
            "Creates a transport for block devices. The only one, `vhost_user_blk`, always exists.",
            create_transport,
        ),
        Method::immediate(
            "virtio_blk_get_transports",
            "Lists the transports for block devices.",
            transports,
        ),
    ];
    methods.into_iter().try_for_each(|method| method.register(app))
}

/// Makes a method that answers at once, and answers every error with -32602.
fn refusing<P: Params + 'static, R: ParamType + 'static>(
    name: &str,
    doc: &str,
    run: fn(&App, P) -> Result<R>,
) -> Method {
    Method::new(name, doc, move |app, call: Call, params: P| {
        call.answer(run(app, params).map_err(invalid));
    })
    .describe(Description::returns::<R>)
}

fn invalid(error: Error) -> RpcError {
    RpcError { code: INVALID_PARAMS, ..error.into() }
}

fn create_blk(app: &App, params: CreateBlk) -> Result<bool> {
    check_transport(params.transport.as_deref().unwrap_or(TRANSPORT))?;
    let blk = BlkConfig {
        bdev: params.dev_name,
        readonly: params.readonly,
        packed_ring: params.packed_ring,
    };
    controllers::all()?.create_blk(app, config(params.ctrlr, params.cpumask), blk)?;
    Ok(true)
}

fn create_scsi(_app: &App, params: CreateScsi) -> Result<bool> {
    controllers::all()?.create_scsi(config(params.ctrlr, params.cpumask), params.delay)?;
    Ok(true)
}

fn config(name: String, cpumask: Option<String>) -> ControllerConfig {
    let cpumask = cpumask.unwrap_or_default();
    ControllerConfig { name, cpumask, coalescing: UNCHANGED }
}

fn start_scsi(_app: &App, params: Named) -> Result<bool> {
    controllers::all()?.start_scsi(&params.ctrlr)?;
    Ok(true)
}

fn add_target(app: &App, params: AddTarget) -> Result<u8> {
    controllers::all()?.add_target(app, &params.ctrlr, params.scsi_target_num, &params.bdev_name)
}

fn remove_target(_app: &App, call: Call, params: RemoveTarget) {
    let answer = |gone: Result<()>| call.answer(gone.map(|()| true).map_err(invalid));
    match controllers::all() {
        Ok(all) => all.remove_target(&params.ctrlr, params.scsi_target_num, answer),
        Err(error) => answer(Err(error)),
    }
}

fn delete(_app: &App, call: Call, params: Named) {
    let answer = |gone: Result<()>| call.answer(gone.map(|()| true).map_err(invalid));
    match controllers::all() {
        Ok(all) => all.delete(&params.ctrlr, answer),
        Err(error) => answer(Err(error)),
    }
}

fn list(_app: &App, call: Call, params: Get) {
    let listed = controllers::all().and_then(|all| match params.name {
        Some(name) => Ok(vec![view(&all, &all.get(&name)?)]),
        None => Ok(all.list().iter().map(|controller| view(&all, controller)).collect()),
    });
    call.answer(listed.map_err(|error| RpcError { code: INTERNAL_ERROR, ..error.into() }));
}

fn coalesce(_app: &App, params: SetCoalescing) -> Result<bool> {
    let SetCoalescing { ctrlr, delay_base_us, iops_threshold } = params;
    if delay_base_us > DELAY_BASE_US_MAX {
        let allowed = format!("0 to {DELAY_BASE_US_MAX}");
        return Err(Error::invalid("delay_base_us", delay_base_us, allowed));
    }
    if iops_threshold < IOPS_THRESHOLD_MIN {
        let allowed = format!("at least {IOPS_THRESHOLD_MIN}");
        return Err(Error::invalid("iops_threshold", iops_threshold, allowed));
    }
    let coalescing = Coalescing { delay_base_us, iops_threshold };
    controllers::all()?.set_coalescing(&ctrlr, coalescing)?;
    Ok(true)
}

fn create_transport(_app: &App, params: CreateTransport) -> Result<bool> {
    let name = params.name;
    Err(match check_transport(&name) {
        Ok(()) => Error::new(errno::EEXIST, format!("transport {name}: File exists")),
        Err(_) => {
            Error::new(errno::ENOENT, format!("there is no transport {name}, only {TRANSPORT}"))
        }
    })
}

fn transports(_app: &App, params: GetTransports) -> Result<Vec<Value>> {
    if let Some(name) = params.name {
        check_transport(&name).map_err(|_| Error::no_such_device())?;
    }
    Ok(vec![json!({"name": TRANSPORT})])
}

fn check_transport(name: &str) -> Result<()> {
    let allowed = name.eq_ignore_ascii_case(TRANSPORT);
    if allowed { Ok(()) } else { Err(Error::invalid("transport", name, TRANSPORT)) }
}

fn view(all: &Controllers, controller: &Controller) -> Value {
    let config = &controller.config;
    let sessions = all.control.list_sessions(&config.name);
    let sessions = sessions.iter().enumerate().map(|(id, session)| {
        json!({
            "vid": session.key,
            "id": id,
            "name": format!("{}s{}", config.name, session.key),
            "started": session.is_started,
            "max_queues": session.num_rings,
            "inflight_task_cnt": session.in_flight,
        })
    });
    json!({
        "ctrlr": config.name,
        "cpumask": config.cpumask,
        "delay_base_us": config.coalescing.delay_base_us,
        "iops_threshold": config.coalescing.iops_threshold,
        "socket": controller.path,
        "sessions": sessions.collect::<Vec<_>>(),
        "backend_specific": match &controller.backing {
            Backing::Blk(blk) => json!({"block": view_of_blk(blk)}),
            Backing::Scsi(targets) => {
                json!({"scsi": targets.iter().map(view_of_target).collect::<Vec<_>>()})
            }
        },
    })
}

fn view_of_blk(blk: &Blk) -> Value {
    json!({
        "readonly": blk.config.readonly,
        "bdev": blk.desc.as_ref().map(|_| &blk.config.bdev),
        "transport": TRANSPORT,
    })
}

fn view_of_target((number, target): (&u8, &Target)) -> Value {
    json!({
        "scsi_dev_num": number,
        "id": number,
        "target_name": format!("Target {number}"),
        "luns": [{"id": 0, "bdev_name": target.bdev}],
    })
}

/// Writes the calls that create the block devices again.
pub fn write_blk_config(config: &mut Config<'_>) {
    let Ok(all) = controllers::all() else { return };
    for controller in all.list() {
        let Backing::Blk(blk) = &controller.backing else { continue };
        if blk.desc.is_none() {
            continue; // leave it out: its bdev is gone, so the call would fail, and the host would not make the later calls
        }
        let made = &controller.config;
        let mut params = Map::new();
        params.insert("ctrlr".into(), made.name.clone().into());
        params.insert("dev_name".into(), blk.config.bdev.clone().into());
        params.insert("readonly".into(), blk.config.readonly.into());
        params.insert("packed_ring".into(), blk.config.packed_ring.into());
        params.insert("transport".into(), TRANSPORT.into());
        if !made.cpumask.is_empty() {
            params.insert("cpumask".into(), made.cpumask.clone().into());
        }
        config.call("vhost_create_blk_controller", &params);
        write_coalescing(config, made);
    }
}

/// Writes the calls that create the SCSI controllers again. Guests can connect only after all targets were added.
pub fn write_scsi_config(config: &mut Config<'_>) {
    let Ok(all) = controllers::all() else { return };
    for controller in all.list() {
        let Backing::Scsi(targets) = &controller.backing else { continue };
        let made = &controller.config;
        let mut params = Map::new();
        params.insert("ctrlr".into(), made.name.clone().into());
        params.insert("delay".into(), true.into());
        if !made.cpumask.is_empty() {
            params.insert("cpumask".into(), made.cpumask.clone().into());
        }
        config.call("vhost_create_scsi_controller", &params);
        for (number, target) in targets.iter().filter(|(_, target)| !target.is_leaving()) {
            let params =
                json!({"ctrlr": made.name, "scsi_target_num": number, "bdev_name": target.bdev});
            config.call("vhost_scsi_controller_add_target", &params);
        }
        write_coalescing(config, made);
        if controller.is_started() {
            config.call("vhost_start_scsi_controller", &json!({"ctrlr": made.name}));
        }
    }
}

fn write_coalescing(config: &mut Config<'_>, made: &ControllerConfig) {
    let Coalescing { delay_base_us, iops_threshold } = made.coalescing;
    if made.coalescing == UNCHANGED {
        return;
    }
    let coalescing = json!({
        "ctrlr": made.name,
        "delay_base_us": delay_base_us,
        "iops_threshold": iops_threshold,
    });
    config.call("vhost_controller_set_coalescing", &coalescing);
}
