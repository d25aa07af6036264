//! The methods.

mod commands;
mod discovery;
mod firmware;
mod health;
mod injection;
mod multipath;
mod params;
mod stats;

use std::rc::Rc;
use std::time::Duration;

use drivebay_nvme_driver::spec::nqn;
use drivebay_nvme_driver::tcp::Digests;
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Description, Method, ParamType, Params, Role, RpcError, State};
use drivebay_sdk::runtime::net::{self, Address};
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};

use crate::app::{self, Known};
use crate::controller::{Controller, EALREADY, Removed, Settings, Trid, Wish};
use crate::dial::Target;
use crate::group::Group;
use crate::hotplug;
use crate::options::{Limits, SetOptions};
use crate::paths::Spread;
use crate::reach::Reach;
pub(crate) use discovery::StartDiscovery;
pub(crate) use params::{Attach, Control, Detach, GetControllers, MultipathMode, SetHotplug};

/// The port of NVMe/TCP when none is given.
const PORT: u16 = 4420;
/// How long connecting a queue may take when no limit is given.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest name of a controller, in bytes.
const NAME_LEN_MAX: usize = 1023;

/// Codes of JSON-RPC.
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;

/// Registers the methods. `[app thread]`
pub(crate) fn register(app: &App) -> Result<()> {
    Method::task(
        "bdev_nvme_attach_controller",
        "Connects an NVMe controller and makes a bdev of each of its namespaces.\n\n\
         Answers when the bdevs exist. The transports are `TCP` and `PCIe`.",
        attach,
    )
    .describe(|method| {
        method
            .result("Names of the bdevs.")
            .error(i64::from(-EALREADY), "already", "A controller has that name.")
            .error(-5, "io", "The controller could not be connected; the message says why.")
            .error(-22, "invalid_value", "A parameter has a value that is not allowed.")
    })
    .register(app)?;
    Method::task(
        "bdev_nvme_detach_controller",
        "Removes a controller with its bdevs.\n\nAnswers when they are gone.",
        detach,
    )
    .describe(|method| {
        method.result("true").error(-19, "no_such_device", "No controller has that name.").error(
            -6,
            "no_such_path",
            "The controller has no such path.",
        )
    })
    .register(app)?;
    Method::immediate("bdev_nvme_get_controllers", "Lists the controllers, or one.", list)
        .describe(|method| {
            method.result("The controllers.").error(
                -22,
                "invalid_value",
                "No controller has that name.",
            )
        })
        .register(app)?;
    for (name, doc, wish) in [
        (
            "bdev_nvme_reset_controller",
            "Resets a controller: closes its connections and connects again. I/O waits meanwhile.",
            Wish::Reset,
        ),
        (
            "bdev_nvme_disable_controller",
            "Closes a controller's connections. I/O fails until the controller is enabled.",
            Wish::Disable,
        ),
        ("bdev_nvme_enable_controller", "Connects a disabled controller again.", Wish::Enable),
    ] {
        Method::task(name, doc, async move |_, params| control(params, wish).await)
            .describe(|method| {
                method
                    .result("true")
                    .error(-19, "no_such_device", "No controller has that name.")
                    .error(-16, "busy", "The controller is being reset.")
                    .error(
                        i64::from(-EALREADY),
                        "already",
                        "The controller is already in the state that the call asks for, or is disabled.",
                    )
            })
            .register(app)?;
    }
    health::register(app)?;
    commands::register(app)?;
    firmware::register(app)?;
    discovery::register(app)?;
    multipath::register(app)?;
    stats::register(app)?;
    injection::register(app)?;
    Method::immediate(
        "bdev_nvme_set_options",
        "Sets the options for all controllers. Allowed until the first controller is attached.",
        set_options,
    )
    .describe(|mut method| {
        method.states = vec![State::Startup, State::Runtime];
        method.role = Role::Admin;
        method.result("true").error(-1, "not_permitted", "A controller is attached already.")
    })
    .register(app)?;
    Method::immediate(
        "bdev_nvme_set_hotplug",
        "Sets whether to attach PCIe controllers as they appear.\n\n\
         Attaches every controller that is bound to vfio-pci, now and later, with the names `HotInNvme0`, `HotInNvme1` and so on. \
         A controller that `bdev_nvme_detach_controller` has removed stays detached until a call attaches it or the device disappears.",
        |_, params: SetHotplug| hotplug::set(&app::get()?, params).map(|()| true),
    )
    .describe(|method| {
        method.result("true").error(
            -1,
            "not_permitted",
            "The plugin does not have the permission `pci`.",
        )
    })
    .register(app)
}

async fn attach(_: &App, params: Attach) -> Result<Vec<String>> {
    let app = app::get()?;
    if params.is_pci() {
        app.hotplug.take_back(&params);
    }
    let controller = attach_path(&app, params, false).await?;
    Ok(controller.group.bdev_names())
}

/// Attaches a controller, as the first or another path. `is_discovered`: no call named it, but a discovery service or the kernel, so it is
/// not saved.
pub(crate) async fn attach_path(
    app: &Rc<Known>,
    params: Attach,
    is_discovered: bool,
) -> Result<Rc<Controller>> {
    let _guard = app.locks.lock(&params.name, "attach").await;
    let (settings, reach) = prepare_any(app, params)?;
    let settings = Settings { is_discovered, ..settings };
    if let Some(group) = app.find(&settings.attach.name) {
        check_another_path(&group, &settings.attach)?;
        if settings.attach.multipath == MultipathMode::Failover
            && let Some(controller) = group.members().into_iter().next()
        {
            if settings.attach.is_pci() || controller.is_pci() {
                let why = "multipath or disable, because a controller on PCIe has only one address";
                return Err(Error::invalid("multipath", "failover", why));
            }
            controller.add_trid(Trid::new(settings.attach, reach)).await.map_err(as_io_error)?;
            return Ok(controller);
        }
    }
    let name = settings.attach.name.clone();
    let group = app.find(&name).unwrap_or_else(|| Group::new(name));
    let controller = Controller::attach(group, settings, reach).await;
    let controller = controller.map_err(as_io_error)?;
    app.follow(Rc::clone(&controller))?;
    Ok(controller)
}

/// The error of a controller that could not be connected.
fn as_io_error(error: Error) -> Error {
    match error.errno() {
        errno::EINVAL => error,
        _ => Error::new(errno::EIO, error.message()),
    }
}

/// Checks the parameters of an attach, and turns them into settings and the place of the controller.
fn prepare_any(app: &Known, mut params: Attach) -> Result<(Settings, Reach)> {
    if !params.is_pci() {
        return prepare(app, params).map(|(settings, target)| (settings, Reach::Tcp(target)));
    }
    params.check_pci()?;
    let address = params.traddr.clone();
    let settings = settings(app, params, 0)?;
    Ok((settings, Reach::Pci(address)))
}

/// Checks the parameters of an attach over TCP, and turns them into settings and a target.
fn prepare(app: &Known, mut params: Attach) -> Result<(Settings, Target)> {
    if !params.trtype.eq_ignore_ascii_case("tcp") {
        return Err(Error::invalid("trtype", &params.trtype, "TCP or PCIe"));
    }
    let options = app.options.borrow();
    let hostnqn = params.hostnqn.clone().unwrap_or_else(|| app.hostnqn.clone());
    params.hostnqn = Some(hostnqn.clone());
    params.subnqn.get_or_insert_with(|| nqn::DISCOVERY.to_owned());
    let family = params.family();
    if let Some(given) = &params.adrfam
        && !given.eq_ignore_ascii_case(family)
    {
        return Err(Error::invalid("adrfam", given, format!("{family}, as traddr is")));
    }
    params.adrfam = Some(family.to_owned());

    let port =
        match &params.trsvcid {
            None => PORT,
            Some(text) => text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                Error::invalid("trsvcid", format!("'{text}'"), "a port, 1 to 65535")
            })?,
        };
    let limit = match (params.fabrics_connect_timeout_us, options.tcp_connect_timeout_ms) {
        (Some(us), _) if us > 0 => Duration::from_micros(us),
        (_, ms) if ms > 0 => Duration::from_millis(ms.into()),
        _ => CONNECT_LIMIT,
    };
    let target = Target {
        address: Address::ip("traddr", &params.traddr, port)?,
        options: net::Options::default(),
        subnqn: params.subnqn.clone().unwrap_or_default(),
        hostid: app.host_id(&hostnqn),
        hostnqn,
        digests: Digests { header: params.hdgst, data: params.ddgst },
        limit,
    };
    let settings = settings(app, params, options.keep_alive_timeout_ms)?;
    Ok((settings, target))
}

/// Checks the parameters that all transports share, and fills absent ones with the options in use.
fn settings(app: &Known, mut params: Attach, keep_alive_ms: u32) -> Result<Settings> {
    if !(1..=NAME_LEN_MAX).contains(&params.name.len()) {
        let given = format!("of {} bytes", params.name.len());
        return Err(Error::invalid("name", given, format!("1 to {NAME_LEN_MAX} bytes")));
    }
    params.refuse_what_is_not_there_yet()?;
    let options = app.options.borrow();
    let defaults = options.limits();
    let limits = Limits {
        loss_sec: params.ctrlr_loss_timeout_sec.unwrap_or(defaults.loss_sec),
        delay_sec: params.reconnect_delay_sec.unwrap_or(defaults.delay_sec),
        fast_fail_sec: params.fast_io_fail_timeout_sec.unwrap_or(defaults.fast_fail_sec),
    };
    let limits = limits.check()?;
    // The saved configuration contains the values in use, so that a later change of the defaults does not affect it.
    params.ctrlr_loss_timeout_sec = Some(limits.loss_sec);
    params.reconnect_delay_sec = Some(limits.delay_sec);
    params.fast_io_fail_timeout_sec = Some(limits.fast_fail_sec);
    let multipath = match &params.multipath_opts {
        Some(given) => given.clone(),
        None => options.spread()?,
    };
    Ok(Settings {
        limits,
        keep_alive_ms,
        num_queues: u16::try_from(params.num_io_queues.unwrap_or(128)).unwrap_or(u16::MAX),
        retry_count: options.bdev_retry_count,
        enable_flush: options.enable_flush,
        timeouts: options.timeouts(),
        counts_paths: options.io_path_stat,
        is_discovered: false,
        spread: Spread::new(&multipath, options.disable_auto_failback),
        attach: params,
    })
}

/// Checks that a path may be added to the controllers that have the name already.
fn check_another_path(group: &Group, params: &Attach) -> Result<()> {
    let name = &params.name;
    let exists = format!("A controller named {name} already exists");
    let refused = |errno, why: &str| Err(Error::new(errno, format!("{exists}{why}")));
    match params.multipath {
        MultipathMode::Disable => return refused(EALREADY, " and multipath is disabled"),
        MultipathMode::Failover | MultipathMode::Multipath => {}
    }
    for other in group.members() {
        let attach = &other.settings.attach;
        if other.trids.all().iter().any(|trid| trid.attach.trid() == params.trid()) {
            return refused(EALREADY, " with the specified network path");
        }
        if attach.subnqn != params.subnqn {
            return refused(errno::EINVAL, ", but uses a different subnqn");
        }
        if attach.hostnqn != params.hostnqn {
            return refused(errno::EINVAL, ", but uses a different hostnqn");
        }
        if attach.multipath == MultipathMode::Disable {
            return refused(EALREADY, " and multipath is disabled");
        }
        if attach.multipath != params.multipath {
            return refused(errno::EINVAL, " with another multipath mode");
        }
    }
    Ok(())
}

async fn detach(_: &App, params: Detach) -> Result<bool> {
    let app = app::get()?;
    let _guard = app.locks.lock(&params.name, "detach").await;
    let group = app.find(&params.name).ok_or_else(|| Error::no_device_named(&params.name))?;
    let (mut wanted, mut is_found) = (Vec::new(), false);
    for controller in group.members() {
        let removed = controller.trids.remove(|trid| params.names(&trid.attach));
        is_found |= removed != Removed::None;
        match removed {
            Removed::All => wanted.push(controller),
            // The controller changes its address. If it cannot connect there, it keeps trying.
            Removed::Current => drop(controller.control(Wish::Reset).await),
            Removed::None | Removed::Others => {}
        }
    }
    if !is_found {
        return Err(Error::new(6, "No such device or address"));
    }
    for controller in &wanted {
        if controller.is_pci() {
            app.hotplug.leave_alone(&controller.settings.attach);
        }
        controller.detach();
    }
    app.ended.until(|| wanted.iter().all(|controller| controller.has_ended())).await;
    Ok(true)
}

fn list(_: &App, params: GetControllers) -> Result<Vec<Value>> {
    let app = app::get()?;
    let all = app.groups.borrow();
    if let Some(name) = &params.name
        && !all.contains_key(name)
    {
        let why = format!("Controller {name} does not exist");
        return Err(Error::new(errno::EINVAL, why));
    }
    let wanted =
        all.values().filter(|group| params.name.as_ref().is_none_or(|name| *name == group.name));
    Ok(wanted.map(|group| show(group)).collect())
}

fn show(group: &Group) -> Value {
    let controllers: Vec<Value> = group.members().iter().map(show_controller).collect();
    json!({ "name": group.name, "ctrlrs": controllers })
}

fn show_controller(controller: &Rc<Controller>) -> Value {
    let current = controller.trids.current();
    let attach = &current.attach;
    let mut shown = json!({
        "state": controller.phase.get().as_str(),
        "trid": attach.trid(),
        "cntlid": controller.cntlid.get(),
        "host": {
            "nqn": current.target.hostnqn(),
            "addr": attach.hostaddr.as_deref().unwrap_or_default(),
            "svcid": attach.hostsvcid.as_deref().unwrap_or_default(),
            "no_shn_notification": false,
        },
    });
    let alternates = controller.trids.alternates();
    if let (Some(shown), false) = (shown.as_object_mut(), alternates.is_empty()) {
        let trids: Vec<Value> = alternates.iter().map(|trid| trid.attach.trid()).collect();
        shown.insert("alternate_trids".to_owned(), trids.into());
    }
    shown
}

/// Resets, disables or enables a controller, or all of that name, one after another.
async fn control(params: Control, wish: Wish) -> Result<bool> {
    let mut wanted = app::get()?.find(&params.name).ok_or_else(Error::no_such_device)?.members();
    if let Some(cntlid) = params.cntlid.filter(|cntlid| *cntlid != 0) {
        wanted.retain(|controller| controller.cntlid.get() == cntlid);
    }
    if wanted.is_empty() {
        return Err(Error::no_such_device());
    }
    for controller in wanted {
        controller.control(wish).await?;
    }
    Ok(true)
}

/// A method that runs as a task. All of its errors have the code `code`.
fn task_with_code<P: Params + 'static, R: ParamType + 'static>(
    code: i64,
    name: &'static str,
    doc: &str,
    run: impl AsyncFn(&App, P) -> Result<R> + 'static,
) -> Method {
    let run = Rc::new(run);
    Method::new(name, doc, move |app, call, params: P| {
        let run = Rc::clone(&run);
        let answer = async move |app: &App| {
            let result = run(app, params).await;
            call.answer(result.map_err(|error| RpcError { code, ..error.into() }));
        };
        // Dropping the call answers it with an error.
        match task::spawn_app(app, name, answer) {
            Ok(task) => task.detach(),
            Err(error) => warn!("{error}"),
        }
    })
    .describe(Description::returns::<R>)
}

fn set_options(_: &App, params: SetOptions) -> Result<bool> {
    let app = app::get()?;
    params.check()?;
    if !app.groups.borrow().is_empty() {
        let why = "RPC not permitted with nvme controllers already attached";
        return Err(Error::new(errno::EPERM, why));
    }
    app.options.replace(params);
    Ok(true)
}

/// Writes the calls that restore the plugin's state. `[app thread]`
pub(crate) fn save_config(config: &mut Config<'_>) {
    let Ok(app) = app::get() else { return };
    config.call("bdev_nvme_set_options", &*app.options.borrow());
    for controller in app.groups.borrow().values().flat_map(|group| group.members()) {
        if !controller.settings.is_discovered {
            for trid in controller.trids.all() {
                config.call("bdev_nvme_attach_controller", &trid.attach);
            }
        }
    }
    for discovery in app.discoveries.borrow().values() {
        config.call("bdev_nvme_start_discovery", &discovery.params);
    }
    config.call("bdev_nvme_set_hotplug", &app.hotplug.params());
}
