//! The methods about discovery services.

use std::rc::Rc;
use std::time::Duration;

use drivebay_nvme_driver::spec::nqn;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Method, NoParams, Role};
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};

use super::{Attach, prepare};
use crate::app;
use crate::discovery::{Discovery, Place};

params! {
    /// Parameters of `bdev_nvme_start_discovery`.
    pub struct StartDiscovery {
        /// Prefix of the controllers' names; a number follows it.
        pub name: String,
        /// Transport: `TCP`, which is the only one so far.
        pub trtype: String,
        /// Address of the service, an IPv4 or IPv6 address in digits.
        pub traddr: String,
        /// Address family, `IPv4` or `IPv6`; the family of `traddr` when absent.
        pub adrfam: Option<String>,
        /// Port; 8009 when absent.
        pub trsvcid: Option<String>,
        /// NQN of this host; one that this process generates when absent.
        #[range(1..=223)]
        pub hostnqn: Option<String>,
        /// Whether to answer only after the subsystems of the log are attached.
        pub wait_for_attach: bool = false,
        /// How long attaching them may take, in milliseconds; 0 = forever. Any other value implies `wait_for_attach`.
        pub attach_timeout_ms: u64 = 0,
        /// As in `bdev_nvme_attach_controller`, for all controllers.
        pub ctrlr_loss_timeout_sec: Option<i32>,
        /// As in `bdev_nvme_attach_controller`, for all controllers.
        pub reconnect_delay_sec: Option<u32>,
        /// As in `bdev_nvme_attach_controller`, for all controllers.
        pub fast_io_fail_timeout_sec: Option<u32>,
    }

    /// Parameters of `bdev_nvme_stop_discovery`.
    pub struct StopDiscovery {
        /// The prefix that the service was started with.
        pub name: String,
    }
}

/// The port of discovery services when none is given.
const PORT: &str = "8009";

pub(super) fn register(app: &App) -> Result<()> {
    Method::task(
        "bdev_nvme_start_discovery",
        "Follows a discovery service: attaches and detaches controllers as its log changes.",
        start,
    )
    .describe(|method| {
        method
            .result("true")
            .error(-17, "exists", "The name or the service is in use.")
            .error(-22, "invalid_value", "A parameter has a value that is not allowed.")
            .error(-110, "timed_out", "The subsystems were not attached in time.")
    })
    .register(app)?;
    Method::task(
        "bdev_nvme_stop_discovery",
        "Stops following a discovery service, and detaches its controllers.",
        stop,
    )
    .describe(|method| {
        method.result("true").error(-2, "not_found", "No service is followed with that name.")
    })
    .register(app)?;
    Method::immediate(
        "bdev_nvme_get_discovery_info",
        "Lists the discovery services that are followed.",
        |_, _: NoParams| {
            let app = app::get()?;
            let all = app.discoveries.borrow();
            Ok(all.values().map(|discovery| show(discovery)).collect::<Vec<_>>())
        },
    )
    .describe(|mut method| {
        method.role = Role::Read;
        method.result("For each service its name, its address, and the services that it refers to.")
    })
    .register(app)
}

async fn start(_: &App, mut params: StartDiscovery) -> Result<bool> {
    let app = app::get()?;
    params.trsvcid.get_or_insert_with(|| PORT.to_owned());
    let attach = Attach {
        trtype: params.trtype.clone(),
        adrfam: params.adrfam.clone(),
        trsvcid: params.trsvcid.clone(),
        hostnqn: params.hostnqn.clone(),
        subnqn: Some(nqn::DISCOVERY.to_owned()),
        ctrlr_loss_timeout_sec: params.ctrlr_loss_timeout_sec,
        reconnect_delay_sec: params.reconnect_delay_sec,
        fast_io_fail_timeout_sec: params.fast_io_fail_timeout_sec,
        ..Attach::tcp(params.name.clone(), params.traddr.clone())?
    };
    let (settings, target) = prepare(&app, attach)?;
    params.adrfam = settings.attach.adrfam;
    let is_same = |other: &Discovery| {
        let other = &other.params;
        (&other.traddr, &other.trsvcid) == (&params.traddr, &params.trsvcid)
    };
    if app.discoveries.borrow().values().any(|other| is_same(other)) {
        let why = format!("the service at {} is followed already", params.traddr);
        return Err(Error::new(errno::EEXIST, why));
    }
    if app.discoveries.borrow().contains_key(&params.name) {
        let why = format!("a service with the name {} is already followed", params.name);
        return Err(Error::new(errno::EEXIST, why));
    }
    let name = params.name.clone();
    let (waits, limit_ms) = (params.wait_for_attach, params.attach_timeout_ms);
    let discovery = Discovery::new(&app, params, target);
    app.discoveries.borrow_mut().insert(name.clone(), Rc::clone(&discovery));
    let following = Rc::clone(&discovery).follow(Rc::clone(&app));
    match task::spawn(format!("nvme discovery {name}"), following) {
        Ok(task) => task.detach(),
        Err(error) => {
            app.discoveries.borrow_mut().remove(&name);
            return Err(error);
        }
    }
    if limit_ms > 0 {
        let limit = Duration::from_millis(limit_ms);
        if let Err(elapsed) = task::timeout(limit, discovery.followed()).await {
            app.discoveries.borrow_mut().remove(&name);
            discovery.stop().await;
            return Err(elapsed.into());
        }
    } else if waits {
        discovery.followed().await;
    }
    Ok(true)
}

async fn stop(_: &App, params: StopDiscovery) -> Result<bool> {
    let discovery = app::get()?.discoveries.borrow_mut().remove(&params.name);
    let discovery = discovery.ok_or_else(|| {
        Error::new(errno::ENOENT, format!("no service with the name {} is followed", params.name))
    })?;
    discovery.stop().await;
    Ok(true)
}

fn show(discovery: &Discovery) -> Value {
    let trid = |place: &Place| {
        json!({
            "trtype": "TCP",
            "adrfam": super::params::family(&place.traddr),
            "traddr": place.traddr,
            "trsvcid": place.trsvcid,
            "subnqn": place.subnqn,
        })
    };
    let params = &discovery.params;
    let own = Place {
        subnqn: nqn::DISCOVERY.to_owned(),
        traddr: params.traddr.clone(),
        trsvcid: params.trsvcid.clone().unwrap_or_default(),
    };
    let referrals = discovery.referrals.borrow();
    let referrals: Vec<Value> =
        referrals.iter().map(|place| json!({ "trid": trid(place) })).collect();
    json!({ "name": params.name, "trid": trid(&own), "referrals": referrals })
}
