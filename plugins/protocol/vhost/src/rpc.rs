//! The methods, with the reference's names, parameters, results and codes.

use crate::controllers::{self, Controller, ControllerConfig};
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method};
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
        /// Whether packed rings are offered.
        packed_ring: bool = false,
        /// Cores that serve the controller, as `0x3` or `[0,1]`; all when absent.
        cpumask: Option<String>,
        /// Transport: `vhost_user_blk`.
        transport: Option<String>,
    }

    /// Parameters of `vhost_delete_controller`.
    pub struct Delete {
        /// Name of the controller.
        ctrlr: String,
    }

    /// Parameters of `vhost_get_controllers`.
    pub struct Get {
        /// Name of one controller; all when absent.
        name: Option<String>,
    }

    /// Parameters of `vhost_controller_set_coalescing`.
    pub struct Coalescing {
        /// Name of the controller.
        ctrlr: String,
        /// Least time between interrupts, in microseconds; 0 = off.
        delay_base_us: u32,
        /// Requests a second from which interrupts are delayed.
        iops_threshold: u32,
    }

    /// Parameters of `virtio_blk_get_transports`.
    pub struct GetTransports {
        /// Name of one transport; all when absent.
        name: Option<String>,
    }
}

/// The one transport.
const TRANSPORT: &str = "vhost_user_blk";
/// Interrupts are delayed from so many requests a second on, unless somebody says otherwise.
const IOPS_THRESHOLD: u32 = 60_000;

/// Registers the methods.
///
/// # Errors
/// `EEXIST` when a name is taken.
pub fn register(app: &App) -> Result<()> {
    Method::immediate(
        "vhost_create_blk_controller",
        "Makes a block device for virtual machines.",
        create,
    )
    .register(app)?;
    Method::new(
        "vhost_delete_controller",
        "Deletes a controller. Its guests lose their disk.",
        delete,
    )
    .register(app)?;
    Method::immediate("vhost_get_controllers", "Lists the controllers.", list).register(app)?;
    Method::immediate(
        "vhost_controller_set_coalescing",
        "Sets how interrupts are gathered.",
        coalesce,
    )
    .register(app)?;
    Method::immediate(
        "virtio_blk_get_transports",
        "Lists the transports of block devices.",
        transports,
    )
    .register(app)
}

fn create(app: &App, params: CreateBlk) -> Result<bool> {
    check_transport(params.transport.as_deref().unwrap_or(TRANSPORT))?;
    let config = ControllerConfig {
        name: params.ctrlr,
        bdev: params.dev_name,
        readonly: params.readonly,
        packed_ring: params.packed_ring,
        cpumask: params.cpumask.unwrap_or_default(),
        delay_base_us: 0,
        iops_threshold: IOPS_THRESHOLD,
    };
    controllers::all()?.create(app, config)?;
    Ok(true)
}

fn delete(_app: &App, call: Call, params: Delete) {
    match controllers::all() {
        Ok(all) => all.delete(&params.ctrlr, |gone| call.answer(gone.map(|()| true))),
        Err(error) => call.fail(error),
    }
}

fn list(_app: &App, params: Get) -> Result<Vec<Value>> {
    let all = controllers::all()?;
    match params.name {
        Some(name) => Ok(vec![view(&all.get(&name)?)]),
        None => Ok(all.list().iter().map(view).collect()),
    }
}

fn coalesce(_app: &App, params: Coalescing) -> Result<bool> {
    controllers::all()?.change(&params.ctrlr, |config| {
        config.delay_base_us = params.delay_base_us;
        config.iops_threshold = params.iops_threshold;
    })?;
    Ok(true)
}

fn transports(_app: &App, params: GetTransports) -> Result<Vec<Value>> {
    if let Some(name) = params.name {
        check_transport(&name)?;
    }
    Ok(vec![json!({"name": TRANSPORT})])
}

fn check_transport(name: &str) -> Result<()> {
    let allowed = name.eq_ignore_ascii_case(TRANSPORT);
    if allowed { Ok(()) } else { Err(Error::invalid("transport", name, TRANSPORT)) }
}

fn view(controller: &Controller) -> Value {
    let config = &controller.config;
    json!({
        "ctrlr": config.name,
        "cpumask": config.cpumask,
        "delay_base_us": config.delay_base_us,
        "iops_threshold": config.iops_threshold,
        "backend_specific": {
            "block": {
                "readonly": config.readonly,
                "bdev": controller.desc.as_ref().map(|_| &config.bdev),
                "transport": TRANSPORT,
            },
        },
    })
}

/// The calls that make the controllers again.
pub fn write_config(config: &mut Config<'_>) {
    let Ok(all) = controllers::all() else { return };
    for controller in all.list() {
        let made = &controller.config;
        let mut params = Map::new();
        params.insert("ctrlr".into(), made.name.clone().into());
        params.insert("dev_name".into(), made.bdev.clone().into());
        params.insert("readonly".into(), made.readonly.into());
        params.insert("packed_ring".into(), made.packed_ring.into());
        params.insert("transport".into(), TRANSPORT.into());
        if !made.cpumask.is_empty() {
            params.insert("cpumask".into(), made.cpumask.clone().into());
        }
        config.call("vhost_create_blk_controller", &params);
        if (made.delay_base_us, made.iops_threshold) != (0, IOPS_THRESHOLD) {
            let coalescing = json!({
                "ctrlr": made.name,
                "delay_base_us": made.delay_base_us,
                "iops_threshold": made.iops_threshold,
            });
            config.call("vhost_controller_set_coalescing", &coalescing);
        }
    }
}
