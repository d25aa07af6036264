//! The methods.

use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, NoParams};
use drivebay_sdk::serde_json::{self, Value};

use crate::app;
use crate::controller::Controller;

params! {
    /// Parameters of `bdev_virtio_attach_controller`.
    pub struct Attach {
        /// Name of the controller, and of the bdev of a block device. The bdev of target 3 of a SCSI host is `<name>t3`.
        pub name: String,
        /// Transport. Only `user` (vhost-user) is supported.
        pub trtype: Transport,
        /// Path of the back end's Unix socket.
        pub traddr: String,
        /// Kind of device.
        pub dev_type: Kind,
        /// Number of queues. Each thread that uses a bdev takes one. When absent or 0: one for each reactor and one for
        /// the app thread, eight times as many for a SCSI host, or all queues of the device if it has fewer.
        #[range(0..=1024)]
        pub vq_count: Option<u32>,
        /// Number of entries of each queue, a power of two; 512 when absent or 0. A request takes three entries.
        #[range(0..=32_768)]
        pub vq_size: Option<u32>,
        /// Seconds in which the back end must complete an I/O of each queue that has some; 0 = no limit. Otherwise the I/O of the
        /// controller fails, and the plugin connects again.
        #[range(0..=3_600)]
        pub timeout_sec: u32 = 60,
    }

    /// The transport of a device.
    pub enum Transport {
        /// A PCI device; not supported.
        Pci = "pci",
        /// A vhost-user back end, by its Unix socket.
        User = "user",
        /// A vfio-user device; not supported.
        VfioUser = "vfio-user",
    }

    /// The kind of a device.
    pub enum Kind {
        /// A block device.
        Blk = "blk",
        /// A SCSI host.
        Scsi = "scsi",
    }

    /// Parameters of `bdev_virtio_detach_controller`.
    pub struct Detach {
        /// Name of the controller.
        pub name: String,
    }

    /// Parameters of `bdev_virtio_blk_set_hotplug`.
    pub struct SetHotplug {
        /// Whether to look for PCI devices.
        pub enable: bool,
        /// How often to look, in microseconds.
        pub period_us: u64 = 0,
    }
}

/// Registers the methods. `[app thread]`
pub(crate) fn register(app: &App) -> Result<()> {
    Method::task(
        "bdev_virtio_attach_controller",
        "Connects to a vhost-user back end and creates bdevs for its disks.\n\n\
         Returns when the bdevs exist. The bdevs of a SCSI host come and go with its units.",
        attach,
    )
    .describe(|method| {
        method
            .result("Names of the bdevs.")
            .error(-5, "io", "The plugin cannot connect to the back end or use its device. The message says why.")
            .error(-17, "exists", "A controller or bdev has that name.")
            .error(-22, "invalid_value", "The value of a parameter is not allowed.")
            .error(-95, "not_supported", "The transport is not supported.")
    })
    .register(app)?;
    Method::task(
        "bdev_virtio_detach_controller",
        "Removes a controller with its bdevs.\n\nReturns when the bdevs are gone and the back end is disconnected.",
        async |_: &App, params: Detach| detach(params).await,
    )
    .describe(|method| {
        method.result("true").error(-19, "no_such_device", "No controller has that name.")
    })
    .register(app)?;
    Method::immediate(
        "bdev_virtio_scsi_get_devices",
        "Lists the SCSI controllers.",
        |_, _: NoParams| {
            let app = app::get()?;
            let controllers = app.controllers.borrow();
            let scsi = controllers.values().filter_map(|controller| controller.scsi_view());
            Ok(scsi.collect::<Vec<Value>>())
        },
    )
    .describe(|method| method.result("The controllers."))
    .register(app)?;
    Method::immediate(
        "bdev_virtio_blk_set_hotplug",
        "Sets whether to look for PCI devices. The values have no effect yet.",
        |_, params: SetHotplug| {
            app::get()?.hotplug.replace(params);
            Ok(true)
        },
    )
    .describe(|method| method.result("true"))
    .register(app)
}

async fn attach(_: &App, params: Attach) -> Result<Vec<String>> {
    let app = app::get()?;
    let _guard = app.locks.lock(&params.name, "attach").await;
    match params.trtype {
        Transport::User => {}
        Transport::Pci => return Err(not_supported("trtype", "pci", "user")),
        Transport::VfioUser => return Err(not_supported("trtype", "vfio-user", "user")),
    }
    if app.find(&params.name).is_some() {
        let why = format!("name '{}': a virtio controller has that name", params.name);
        return Err(Error::new(errno::EEXIST, why));
    }
    let name = params.name.clone();
    let controller = Controller::attach(params).await?;
    let bdevs = controller.bdevs();
    app.controllers.borrow_mut().insert(name, controller);
    Ok(bdevs)
}

async fn detach(params: Detach) -> Result<bool> {
    let app = app::get()?;
    let _guard = app.locks.lock(&params.name, "detach").await;
    let controller = app.controllers.borrow_mut().remove(&params.name);
    let controller = controller.ok_or_else(|| {
        let why = format!("name '{}': no virtio controller has that name", params.name);
        Error::new(errno::ENODEV, why)
    })?;
    controller.detach().await;
    Ok(true)
}

fn not_supported(field: &str, given: &str, allowed: &str) -> Error {
    let why = format!("{field} '{given}' is not supported yet; allowed: {allowed}");
    Error::new(errno::EOPNOTSUPP, why)
}

/// Writes the calls that create the controllers again. `[app thread]`
pub(crate) fn save_config(config: &mut Config<'_>) {
    let Ok(app) = app::get() else { return };
    for controller in app.controllers.borrow().values() {
        match serde_json::to_value(controller.params()) {
            Ok(params) => config.call("bdev_virtio_attach_controller", &params),
            Err(error) => error!("{}: not saved: {error}", controller.params().name),
        }
    }
}
